"""Soft maps against labels, image by image, by the measures of salient object detection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics import saliency
from prn_cli.metrics.regions import require_same_shape
from prn_cli.tasks.binary import ImageScore, Metric, Summary, summarise

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
    prediction: NDArray[np.float32], label: NDArray[np.uint8], *, baseline: NDArray[np.float32] | None = None
) -> ImageScore:
    """Measure one image.

    With a baseline, a pixel counts where both are valid.

    Args:
        prediction: `(H, W)` float32 in [0, 1], NaN invalid.
        label: `(H, W)` uint8, 0 background, 1 foreground, 255 ignore.
        baseline: another prediction of the same image.

    Raises:
        InputError: shapes that differ, values out of range, or no pixel that is valid everywhere.
    """
    maps = [prediction] if baseline is None else [prediction, baseline]
    valid = label != IGNORE
    for soft in maps:
        require_same_shape(soft, label)
        valid &= ~np.isnan(soft)
    pixels = int(np.count_nonzero(valid))
    if not pixels:
        where = "map and label" if baseline is None else "map, label and baseline"
        raise InputError(f"no pixel is valid in {where}", hint="check --nodata and --label-nodata, or leave it out")
    counted = np.where(valid, label, np.uint8(IGNORE))
    records = [saliency.measure_saliency(soft, counted) for soft in maps]
    return ImageScore(label.shape[0], label.shape[1], pixels, *records)


def summarise_saliency(scores: Iterable[ImageScore], **options: Any) -> Summary:
    """As `score.summarise`; all figures are means over images, and none is pooled over pixels.

    The maximum F- and E-measure are those of the mean curves, as published figures are.
    """
    summary = summarise(scores, metrics=METRICS, **options)
    return replace(summary, mean=summary.pooled, pooled={})
