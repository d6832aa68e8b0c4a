"""What the finished folds of a cross-validation found, on disk, so that a killed run need not repeat them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.execution.watch import Epoch
from prn_cli.files.temporaries import write_whole
from prn_cli.thresholding.strength import STRENGTHS, THRESHOLDS


@dataclass(frozen=True)
class FinishedFold:
    """A fold that was trained to its end.

    Attributes:
        name: of the fold.
        maps: names of its held-out maps.
        counts: `(maps, S, T, 4)` int64, see `prn_cli.thresholding.strength.tally`.
        history: its epochs.
    """

    name: str
    maps: tuple[str, ...]
    counts: NDArray[np.int64]
    history: tuple[Epoch, ...]


def save_folds(path: Path, folds: list[FinishedFold], *, fingerprint: str) -> None:
    """Write all finished folds, atomically.

    Args:
        path: of the file.
        folds: in their order.
        fingerprint: of the settings and data, which `load_folds` compares.

    Raises:
        OutputError: it cannot be written.
    """
    record = {
        "fingerprint": fingerprint,
        "folds": [
            {
                "name": fold.name,
                "maps": fold.maps,
                "counts": fold.counts.tolist(),
                "history": [asdict(epoch) for epoch in fold.history],
            }
            for fold in folds
        ],
    }
    write_whole(path, json.dumps(record).encode())


def load_folds(path: Path, *, fingerprint: str) -> list[FinishedFold]:
    """Read what `save_folds` wrote; nothing if there is no such file.

    Raises:
        InputError: the file is damaged, or belongs to a run with other settings or data.
    """
    if not path.exists():
        return []
    try:
        record = json.loads(path.read_text())
        written_for = record["fingerprint"]
        folds = [
            FinishedFold(
                name=fold["name"],
                maps=tuple(fold["maps"]),
                counts=np.array(fold["counts"], np.int64).reshape(-1, len(STRENGTHS), len(THRESHOLDS), 4),
                history=tuple(Epoch(**epoch) for epoch in fold["history"]),
            )
            for fold in record["folds"]
        ]
        if any(not fold.history or len(fold.counts) != len(fold.maps) for fold in folds):
            raise ValueError("a fold without figures")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"not the folds of a training run ({error})", hint="start anew with --overwrite", path=path
        ) from error
    if written_for != fingerprint:
        raise InputError(
            "this run was started with other settings or other data",
            hint="give the same ones to go on, or start anew with --overwrite",
            path=path,
        )
    return folds
