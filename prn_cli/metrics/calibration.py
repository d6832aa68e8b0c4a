"""Calibration metrics: what soft maps say beyond their cut.

- **MAE**, mean absolute error: mean |p − y| over the pixels. A mask is a soft map of 0 and 1.
- **ECE**, expected calibration error (Guo et al. 2017, section 2): over 15 equal bins of the foreground
  probability, the mean of |share of foreground − mean probability|, weighted by the bins' pixels. Bins are closed
  below and open above, and p = 1 has a bin of its own: the figure of torchmetrics'
  `BinaryCalibrationError(n_bins=15, norm="l1")`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.tiles import block_rows
from prn_cli.metrics.regions import FloatArray, RegionCounts, ratio, require_same_shape

BINS = 15
_SLOTS = BINS + 1


@dataclass(frozen=True, slots=True)
class CalibrationCounts:
    """Sums over a soft map; the sum of two arrays gives those of both images together.

    Args:
        absolute_error: sum of |p − y|.
        total: valid pixels.
        pixels: `(16,)` float64, pixels of every bin; NaN for a mask, which has no calibration.
        positives: `(16,)` float64, true foreground of every bin.
        probability: `(16,)` float64, sum of the probabilities of every bin.
    """

    absolute_error: float
    total: int
    pixels: FloatArray
    positives: FloatArray
    probability: FloatArray

    def array(self) -> FloatArray:
        """The sums as `(50,)` float64, in the order of the fields."""
        return np.concatenate(((self.absolute_error, self.total), self.pixels, self.positives, self.probability))

    def mean_absolute_error(self) -> float:
        """MAE, 0 to 1; NaN without a valid pixel."""
        return float(mean_absolute_error(self.array()))

    def expected_calibration_error(self) -> float:
        """ECE, 0 to 1; NaN for a mask."""
        return float(expected_calibration_error(self.array()))


def count_calibration(probabilities: NDArray[np.float32], label: NDArray[np.uint8]) -> CalibrationCounts:
    """Sum up a soft map by bins of its probability.

    Args:
        probabilities: `(H, W)` float32 in [0, 1], NaN invalid.
        label: `(H, W)` uint8, 0 background, 1 foreground, 255 ignore.

    Raises:
        InputError: shapes that differ, or values outside [0, 1].
    """
    counter = CalibrationCounter()
    counter.add(probabilities, label)
    return counter.counts()


class CalibrationCounter:
    """Sums up a soft map that comes in bands of rows, see `count_calibration`.

    Floats are added block by block of `tiles.block_rows`: bands of whole blocks give the sums of the whole map to the
    last bit.
    """

    def __init__(self) -> None:
        self._pixels, self._probability = np.zeros((2, _SLOTS)), np.zeros((2, _SLOTS))

    def add(self, probabilities: NDArray[np.float32], label: NDArray[np.uint8]) -> None:
        """Take the next rows, `(h, W)`.

        Raises:
            InputError: shapes that differ, or values outside [0, 1].
        """
        require_same_shape(probabilities, label)
        rows = block_rows(label.shape[1])
        for top in range(0, len(label), rows):
            slots, p = _slots(probabilities[top : top + rows], label[top : top + rows])
            self._pixels += np.bincount(slots, minlength=2 * _SLOTS).reshape(2, _SLOTS)
            self._probability += np.bincount(slots, weights=p, minlength=2 * _SLOTS).reshape(2, _SLOTS)

    def counts(self) -> CalibrationCounts:
        """The sums of the rows so far."""
        pixels, probability = self._pixels, self._probability
        return CalibrationCounts(
            absolute_error=float(probability[0].sum() + pixels[1].sum() - probability[1].sum()),
            total=int(pixels.sum()),
            pixels=pixels.sum(axis=0),
            positives=pixels[1].copy(),
            probability=probability.sum(axis=0),
        )


def calibration_of_mask(regions: RegionCounts) -> CalibrationCounts:
    """The sums of a mask: its absolute error is its wrong pixels; it has no calibration."""
    absent = np.full(_SLOTS, np.nan)
    return CalibrationCounts(float(regions.fp + regions.fn), regions.pixels, absent, absent, absent)


def mean_absolute_error(counts: FloatArray) -> FloatArray:
    """MAE, `(..., 50)` sums to `(...)`; NaN where no pixel is valid."""
    return ratio(counts[..., 0], counts[..., 1], where_empty=np.nan)


def expected_calibration_error(counts: FloatArray) -> FloatArray:
    """ECE, `(..., 50)` sums to `(...)`; NaN for masks, and where no pixel is valid."""
    pixels, positives, probability = (counts[..., 2 + i * _SLOTS : 2 + (i + 1) * _SLOTS] for i in range(3))
    return ratio(np.abs(positives - probability).sum(axis=-1), pixels.sum(axis=-1), where_empty=np.nan)


def _slots(
    probabilities: NDArray[np.float32], label: NDArray[np.uint8]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Bin of every valid pixel, true foreground in the second half, and its probability."""
    valid = (label != IGNORE) & ~np.isnan(probabilities)
    everything = bool(valid.all())
    p = probabilities.ravel() if everything else probabilities[valid]
    y = label.ravel() if everything else label[valid]
    if p.size and not (p.min() >= 0 and p.max() <= 1):
        raise InputError(f"probabilities run from {p.min():g} to {p.max():g}; expected 0 to 1")
    slots = (p * np.float32(BINS)).astype(np.intp)
    slots += y * np.intp(_SLOTS)
    return slots, p
