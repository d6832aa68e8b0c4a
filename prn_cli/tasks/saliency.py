"""Soft maps against labels that may be grey, by the measures of salient object detection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics import saliency
from prn_cli.metrics.regions import FloatArray
from prn_cli.metrics.score import ImageScore, Metric, Summary
from prn_cli.tasks import Task

if TYPE_CHECKING:
    from prn_cli.refinement.rows import Rows

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


class SoftMapCounter:
    """A `PredictionCounter` that keeps the image until all its rows have come: most measures need all of it."""

    soft = True

    def __init__(self) -> None:
        self._maps: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.uint8]] = []

    def add(self, prediction: NDArray[Any], label: NDArray[np.uint8]) -> None:
        self._maps.append(np.where(label == IGNORE, np.float32(np.nan), prediction.astype(np.float32, copy=False)))
        self._labels.append(label)

    def counts(self, *, soft: bool) -> FloatArray:
        return saliency.measure_saliency(np.concatenate(self._maps), np.concatenate(self._labels))


class Saliency(Task):
    """Soft maps, which are not cut."""

    name = "saliency"
    aggregates = ("mean",)
    label_role = "grey label"
    unused: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("--threshold", "--for", "--per-image"), "soft maps are not cut"),
        **dict.fromkeys(("--baseline-threshold", "--own-threshold"), "soft maps are not cut"),
        "--buffer": "soft maps are measured whole",
        "score --report": "it shows masks of one class",
        "refine --values": "masks hold probabilities",
        **dict.fromkeys(("--polygons", "--min-area", "--fill-holes"), "objects are of masks of one class"),
    }

    def prediction_counter(self, height: int, width: int, **options: Any) -> SoftMapCounter:
        return SoftMapCounter()

    def metrics(self, scores: Sequence[ImageScore]) -> Sequence[Metric]:
        return METRICS

    def summarise(self, scores: Sequence[ImageScore], *, resamples: int, seed: int) -> Summary:
        """All figures are means over images, and none is pooled over pixels.

        The maximum F- and E-measure are those of the mean curves, as published figures are.
        """
        summary = super().summarise(scores, resamples=resamples, seed=seed)
        return replace(summary, mean=summary.pooled, pooled={})

    def content(self, values: tuple[int, int], palette: NDArray[np.uint8] | None = None) -> dict[str, Any]:
        return {"dtype": "float32", "nodata": float("nan"), "soft": True}

    def written(self, mask: NDArray[np.uint8], rows: Rows | None, values: tuple[int, int]) -> NDArray[Any]:
        assert rows is not None  # objects are of masks
        return rows.probabilities
