"""Soft maps against labels that may be grey, by the measures of salient object detection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics import saliency
from prn_cli.metrics.regions import require_same_shape
from prn_cli.metrics.score import ImageScore, Metric, Summary, summarise
from prn_cli.rasters.labels import LabelMap
from prn_cli.rasters.reading import Reading, open_map
from prn_cli.tasks import Task

if TYPE_CHECKING:
    from pathlib import Path

_ALL = slice(0, saliency.SUMS)

METRICS = (
    Metric("s_measure", "S-measure", _ALL, saliency.s_measure),
    Metric("max_e", "E-measure, max", _ALL, saliency.max_e),
    Metric("mean_e", "E-measure, mean", _ALL, saliency.mean_e),
    Metric("adaptive_e", "E-measure, adaptive", _ALL, saliency.adaptive_e),
    Metric("max_f", "F-measure, max", _ALL, saliency.max_f),
    Metric("mean_f", "F-measure, mean", _ALL, saliency.mean_f),
    Metric("adaptive_f", "F-measure, adaptive", _ALL, saliency.adaptive_f),
    Metric("weighted_f", "Weighted F-measure", _ALL, saliency.weighted_f),
    Metric("mae", "MAE", _ALL, saliency.mean_absolute_error, lower_is_better=True),
)


def score_soft_map(
    prediction: NDArray[Any], label: NDArray[np.uint8], *, baseline: NDArray[Any] | None = None
) -> ImageScore:
    """Measure one image.

    With a baseline, a pixel counts where both are valid.

    Args:
        prediction: `(H, W)` float32 in [0, 1], NaN invalid; or a uint8 mask, 255 invalid.
        label: `(H, W)` uint8, 0 background, 1 foreground, 255 ignore.
        baseline: another prediction of the same image.

    Raises:
        InputError: shapes that differ, values out of range, or no pixel that is valid everywhere.
    """
    counter = SoftMapCounter()
    counter.add(prediction, label, baseline)
    return counter.score()


class SoftMapCounter:
    """Keeps an image until all its rows have come: most measures need all of it."""

    def __init__(self) -> None:
        self._labels: list[NDArray[np.uint8]] = []
        self._maps: list[list[NDArray[np.float32]]] = []

    def add(self, prediction: NDArray[Any], label: NDArray[np.uint8], baseline: NDArray[Any] | None = None) -> None:
        """Take the next rows, as in `score_soft_map`.

        Raises:
            InputError: shapes that differ.
        """
        maps = [_soft(rows) for rows in (prediction, baseline) if rows is not None]
        for rows in maps:
            require_same_shape(rows, label)
        self._maps.append(maps)
        self._labels.append(label)

    def score(self) -> ImageScore:
        """The record of the image.

        Raises:
            InputError: values out of range, or no pixel that is valid everywhere.
        """
        label = np.concatenate(self._labels)
        maps = [np.concatenate(rows) for rows in zip(*self._maps, strict=True)]
        valid = label != IGNORE
        for soft in maps:
            valid &= ~np.isnan(soft)
        pixels = int(np.count_nonzero(valid))
        if not pixels:
            where = "map and label" if len(maps) == 1 else "map, label and baseline"
            raise InputError(f"no pixel is valid in {where}", hint="check --nodata and --label-nodata, or leave it out")
        counted = np.where(valid, label, np.uint8(IGNORE))
        height, width = label.shape
        return ImageScore(height, width, pixels, *(saliency.measure_saliency(soft, counted) for soft in maps))


def _soft(rows: NDArray[Any]) -> NDArray[np.float32]:
    if rows.dtype != np.uint8:
        return rows
    return np.where(rows == IGNORE, np.float32(np.nan), rows.astype(np.float32))


class Saliency(Task):
    """Soft maps, which are not cut."""

    name = "saliency"
    aggregates = ("mean",)
    unused: ClassVar[dict[str, str]] = {
        "--threshold": "soft maps are not cut",
        "--baseline-threshold": "soft maps are not cut",
        "--buffer": "soft maps are measured whole",
        "score --report": "it shows masks of one class",
        "refine --values": "masks hold probabilities",
        **dict.fromkeys(("--polygons", "--min-area", "--fill-holes"), "objects are of masks of one class"),
    }

    def open_label(self, path: Path, reading: Reading, *, plane: int | None = None) -> LabelMap:
        return open_map("grey label", path, reading)

    def counter(self, height: int, width: int, **_options: Any) -> SoftMapCounter:
        return SoftMapCounter()

    def metrics(self, scores: Sequence[ImageScore]) -> Sequence[Metric]:
        return METRICS

    def summarise(self, scores: Sequence[ImageScore], *, resamples: int, seed: int) -> Summary:
        """All figures are means over images, and none is pooled over pixels.

        The maximum F- and E-measure are those of the mean curves, as published figures are.
        """
        summary = summarise(scores, metrics=METRICS, resamples=resamples, seed=seed)
        return replace(summary, mean=summary.pooled, pooled={})

    def content(self, values: tuple[int, int], palette: NDArray[np.uint8] | None = None) -> dict[str, Any]:
        return {"dtype": "float32", "nodata": float("nan"), "soft": True}

    def written(self, mask: NDArray[np.uint8], rows: Any, values: tuple[int, int]) -> NDArray[Any]:
        probabilities: NDArray[np.float32] = rows.probabilities
        return probabilities
