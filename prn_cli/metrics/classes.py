"""Metrics of maps of several classes.

- **IoU** of a class against all others; NaN where it neither occurs nor is predicted.
- **mIoU**: the mean IoU of the classes that occur or are predicted (Long et al. 2015, section 5).
- **accuracy**: the share of pixels that are right.

Predictions and labels are uint8 `(H, W)`: class numbers 0 to 254, 255 invalid. A pixel counts where both are valid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics.regions import FloatArray, iou, ratio, require_same_shape

SUMS = 3 * IGNORE
"""Length of an image's counts: true positives, false positives and false negatives of 255 classes."""


def count_classes(prediction: NDArray[np.uint8], label: NDArray[np.uint8]) -> FloatArray:
    """Count the pixels that are right and wrong, by class.

    Args:
        prediction: `(H, W)` uint8, class numbers, 255 invalid.
        label: the same, of the same shape.

    Returns:
        `(765,)` float64: true positives by class, then false positives, then false negatives.

    Raises:
        InputError: the shapes differ.
    """
    require_same_shape(prediction, label)
    valid = (prediction != IGNORE) & (label != IGNORE)
    predicted, true = prediction[valid], label[valid]
    right, chosen, there = (
        np.bincount(numbers, minlength=IGNORE) for numbers in (true[predicted == true], predicted, true)
    )
    return np.concatenate((right, chosen - right, there - right)).astype(np.float64)


def class_iou(counts: FloatArray, number: int) -> FloatArray:
    """IoU of a class, `(..., 765)` counts to `(...)`; NaN where it neither occurs nor is predicted."""
    right, false, missed = (counts[..., number + part * IGNORE] for part in range(3))
    return ratio(right, right + false + missed, where_empty=np.nan)


def mean_iou(counts: FloatArray) -> FloatArray:
    """mIoU, `(..., 765)` counts to `(...)`; NaN where no pixel is valid."""
    return mean_of_present(*(counts[..., part * IGNORE : (part + 1) * IGNORE] for part in range(3)))


def mean_of_present(right: FloatArray, false: FloatArray, missed: FloatArray) -> FloatArray:
    """Mean IoU of the classes that occur or are predicted, `(..., C)` counts of each to `(...)`; NaN of none."""
    union = right + false + missed
    ious = ratio(right, union, where_empty=0.0)
    return ratio(ious.sum(axis=-1), np.count_nonzero(union, axis=-1).astype(np.float64), where_empty=np.nan)


def mean_region_iou(counts: FloatArray) -> FloatArray:
    """mIoU of region counts, `(..., 4 C)`, a class after the other, to `(...)`; of one class, its IoU.

    NaN where several classes have no valid pixel.
    """
    if counts.shape[-1] == 4:
        return iou(counts)
    right, false, missed, _ = (counts[..., part::4] for part in range(4))
    return mean_of_present(right, false, missed)


def accuracy(counts: FloatArray) -> FloatArray:
    """Pixel accuracy, `(..., 765)` counts to `(...)`; NaN where no pixel is valid."""
    right, _, missed = (counts[..., part * IGNORE : (part + 1) * IGNORE].sum(axis=-1) for part in range(3))
    return ratio(right, right + missed, where_empty=np.nan)
