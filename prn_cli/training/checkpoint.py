"""The state of a run on disk, as safetensors: no pickle, so nothing in it can run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from prn_cli.errors import InputError
from prn_cli.execution.watch import Epoch
from prn_cli.files.temporaries import write_whole
from prn_cli.methods.torch_runner import read_safetensors
from prn_cli.training.loop import State

_GROUPS = ("network", "average", "best", "objective")


def save_state(path: Path, state: State, *, fingerprint: str, stage: str = "") -> None:
    """Write the state atomically.

    Args:
        path: of the file; replaced only when the new one is whole.
        state: to write.
        fingerprint: of the settings and data, which `load_state` compares.
        stage: of the run, such as a fold.

    Raises:
        OutputError: the disk is full, or the folder cannot be written to.
    """
    tensors: dict[str, Tensor] = {}
    for group in _GROUPS:
        tensors.update({f"{group}/{name}": tensor.contiguous() for name, tensor in getattr(state, group).items()})
    for index, values in state.optimizer.items():
        tensors.update({f"optimizer/{index}/{key}": value.contiguous() for key, value in values.items()})
    record = {
        "fingerprint": fingerprint,
        "stage": stage,
        "epoch": state.epoch,
        "best_epoch": state.best_epoch,
        "best_iou": state.best_iou,
        "seconds": state.seconds,
        "history": [asdict(epoch) for epoch in state.history],
    }
    write_whole(path, save(tensors, metadata={"prn": json.dumps(record)}))


def load_state(path: Path, *, fingerprint: str, stage: str = "") -> State | None:
    """Read what `save_state` wrote; nothing if there is no such file, or if another stage of the run wrote it.

    Raises:
        InputError: if the file is damaged, or belongs to a run with other settings or data.
    """
    if not path.exists():
        return None
    try:
        tensors, metadata = read_safetensors(path)
        record = json.loads(metadata["prn"])
        written_for, written_in = record.pop("fingerprint"), record.pop("stage", None)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"not a state of a training run ({error})", hint="start anew with --overwrite", path=path
        ) from error
    if written_for != fingerprint:
        raise InputError(
            "this run was started with other settings or other data",
            hint="give the same ones to go on, or start anew with --overwrite",
            path=path,
        )
    if written_in != stage:
        return None
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in _GROUPS}
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, rest = name.split("/", 1)
        if group == "optimizer":
            index, key = rest.split("/", 1)
            optimizer.setdefault(int(index), {})[key] = tensor
        else:
            groups[group][rest] = tensor
    history = [Epoch(**epoch) for epoch in record.pop("history")]
    return State(**groups, optimizer=optimizer, history=history, **record)  # type: ignore[arg-type]
