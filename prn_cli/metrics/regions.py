"""Region metrics: which pixels of a mask are right.

Predictions and labels are uint8 `(H, W)`: 0 background, 1 foreground, 255 invalid. A pixel counts where both are
valid.

0/0 is 1.0 where nothing was predicted and there was nothing to find, since the mask is right, and 0.0 elsewhere, as in
torchmetrics and scikit-learn (`zero_division=0`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.maps.pixels import IGNORE

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RegionCounts:
    """Pixels by prediction and label. Counts of several images add up.

    Args:
        tp: foreground in both.
        fp: foreground in the prediction only.
        fn: foreground in the label only.
        tn: background in both.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: RegionCounts) -> RegionCounts:
        """The counts of both images."""
        return RegionCounts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def pixels(self) -> int:
        """Pixels valid in both."""
        return self.tp + self.fp + self.fn + self.tn

    def array(self) -> FloatArray:
        """The counts as `(4,)` float64: tp, fp, fn, tn (exact up to 2**53 pixels)."""
        return np.array((self.tp, self.fp, self.fn, self.tn), dtype=np.float64)

    def iou(self) -> float:
        """Intersection over union of the foreground, 0 to 1; 1.0 with nothing predicted and nothing to find."""
        return float(iou(self.array()))

    def f1(self) -> float:
        """F1 (Dice) of the foreground, 0 to 1; 1.0 with nothing predicted and nothing to find."""
        return float(f1(self.array()))

    def precision(self) -> float:
        """Share of the predicted foreground that is right, 0 to 1; see the module for 0/0."""
        return float(precision(self.array()))

    def recall(self) -> float:
        """Share of the true foreground that was found, 0 to 1; see the module for 0/0."""
        return float(recall(self.array()))

    def accuracy(self) -> float:
        """Share of the valid pixels that are right, 0 to 1; NaN without any."""
        return float(accuracy(self.array()))


def count_regions(prediction: NDArray[np.uint8], label: NDArray[np.uint8]) -> RegionCounts:
    """Count true and false positives and negatives.

    Args:
        prediction: `(H, W)` uint8, 0 background, 1 foreground, 255 invalid.
        label: the same, of the same shape.

    Raises:
        InputError: the shapes differ, or there are values other than 0, 1 and 255.
    """
    require_same_shape(prediction, label)
    positive, negative = _classes(prediction, "prediction")
    true, false = _classes(label, "label")
    return RegionCounts(
        tp=int(np.count_nonzero(positive & true)),
        fp=int(np.count_nonzero(positive & false)),
        fn=int(np.count_nonzero(negative & true)),
        tn=int(np.count_nonzero(negative & false)),
    )


def require_same_shape(prediction: NDArray[np.generic], label: NDArray[np.generic]) -> None:
    """Check that two arrays have the same shape.

    Raises:
        InputError: they do not.
    """
    if prediction.shape != label.shape:
        raise InputError(
            f"shape {_size(prediction)} differs from its label's {_size(label)}",
            hint="both must have the same height and width",
        )


def iou(counts: FloatArray) -> FloatArray:
    """Intersection over union, `(..., 4)` counts to `(...)`."""
    tp, fp, fn, _ = np.moveaxis(counts, -1, 0)
    return ratio(tp, tp + fp + fn, where_empty=1.0)


def f1(counts: FloatArray) -> FloatArray:
    """F1 score (Dice coefficient), `(..., 4)` counts to `(...)`."""
    tp, fp, fn, _ = np.moveaxis(counts, -1, 0)
    return ratio(2 * tp, 2 * tp + fp + fn, where_empty=1.0)


def precision(counts: FloatArray) -> FloatArray:
    """Precision, `(..., 4)` counts to `(...)`."""
    tp, fp, fn, _ = np.moveaxis(counts, -1, 0)
    return ratio(tp, tp + fp, where_empty=np.where(tp + fp + fn == 0, 1.0, 0.0))


def recall(counts: FloatArray) -> FloatArray:
    """Recall, `(..., 4)` counts to `(...)`."""
    tp, fp, fn, _ = np.moveaxis(counts, -1, 0)
    return ratio(tp, tp + fn, where_empty=np.where(tp + fp + fn == 0, 1.0, 0.0))


def accuracy(counts: FloatArray) -> FloatArray:
    """Pixel accuracy, `(..., 4)` counts to `(...)`; NaN where no pixel is valid."""
    tp, _, _, tn = np.moveaxis(counts, -1, 0)
    return ratio(tp + tn, counts.sum(axis=-1), where_empty=np.nan)


def ratio(numerator: FloatArray, denominator: FloatArray, *, where_empty: FloatArray | float) -> FloatArray:
    """Divide, with a given value where the denominator is 0. NaN counts give NaN."""
    empty = denominator == 0
    return np.where(empty, where_empty, numerator / np.where(empty, 1.0, denominator))


def _classes(mask: NDArray[np.uint8], role: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    positive, negative = mask == 1, mask == 0
    counted = np.count_nonzero(positive) + np.count_nonzero(negative)
    if counted != mask.size and counted + np.count_nonzero(mask == IGNORE) != mask.size:
        odd = mask[(mask > 1) & (mask != IGNORE)].flat[0]
        raise InputError(f"the {role} holds the value {odd}; expected 0, 1 and {IGNORE} (invalid)")
    return positive, negative


def _size(array: NDArray[np.generic]) -> str:
    return "×".join(str(side) for side in array.shape)
