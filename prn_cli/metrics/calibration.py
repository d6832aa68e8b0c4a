"""Calibration metrics: the error of soft maps.

- **MAE**, mean absolute error: mean |p − y| over the pixels. A mask is a soft map of 0 and 1.
- **ECE**, expected calibration error (Guo et al. 2017, section 2): over 15 equal bins of the foreground probability,
  the mean of |share of foreground − mean probability|, weighted by the bins' pixels. Bins are closed below and open
  above, and p = 1 has a bin of its own, as in torchmetrics' `BinaryCalibrationError(n_bins=15, norm="l1")`.

The counts of an image are `(50,)` float64 and add up over images: the sum of |p − y|, valid pixels, then for each of
the 16 bins its pixels, its pixels of true foreground, and the sum of its probabilities.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.tiles import block_rows
from prn_cli.metrics.regions import FloatArray, RegionCounts, ratio, require_same_shape

BINS = 15
_SLOTS = BINS + 1
ABSOLUTE_ERROR, TOTAL = range(2)
PIXELS, POSITIVES, PROBABILITY = (slice(2 + i * _SLOTS, 2 + (i + 1) * _SLOTS) for i in range(3))


def count_calibration(probabilities: NDArray[np.float32], label: NDArray[np.uint8]) -> FloatArray:
    """Sum a soft map by bins of its probability.

    Args:
        probabilities: `(H, W)` float32 in [0, 1], NaN invalid.
        label: `(H, W)` uint8, 0 background, 1 foreground, 255 ignore.

    Returns:
        `(50,)` float64, see the module.

    Raises:
        InputError: the shapes differ, or values lie outside [0, 1].
    """
    counter = CalibrationCounter()
    counter.add(probabilities, label)
    return counter.counts()


class CalibrationCounter:
    """Calibration counts of a soft map that comes in bands of rows, see `count_calibration`.

    Floats are summed by blocks of `tiles.block_rows`: bands of whole blocks give the sums of the whole map to the last
    bit.
    """

    def __init__(self) -> None:
        self._pixels, self._probability = np.zeros((2, _SLOTS)), np.zeros((2, _SLOTS))

    def add(self, probabilities: NDArray[np.float32], label: NDArray[np.uint8]) -> None:
        """Add the next rows, `(h, W)`.

        Raises:
            InputError: the shapes differ, or values lie outside [0, 1].
        """
        require_same_shape(probabilities, label)
        rows = block_rows(label.shape[1])
        for top in range(0, len(label), rows):
            slots, p = _slots(probabilities[top : top + rows], label[top : top + rows])
            self._pixels += np.bincount(slots, minlength=2 * _SLOTS).reshape(2, _SLOTS)
            self._probability += np.bincount(slots, weights=p, minlength=2 * _SLOTS).reshape(2, _SLOTS)

    def counts(self) -> FloatArray:
        """The counts of the rows so far."""
        pixels, probability = self._pixels, self._probability
        error = probability[0].sum() + pixels[1].sum() - probability[1].sum()
        return np.concatenate(((error, pixels.sum()), pixels.sum(axis=0), pixels[1], probability.sum(axis=0)))


def calibration_of_mask(regions: RegionCounts) -> FloatArray:
    """The counts of a mask: its absolute error is its wrong pixels; its bins are NaN, since it has no calibration."""
    return np.concatenate(((regions.fp + regions.fn, regions.pixels), np.full(3 * _SLOTS, np.nan)))


def mean_absolute_error(counts: FloatArray) -> FloatArray:
    """MAE, `(..., 50)` counts to `(...)`; NaN where no pixel is valid."""
    return ratio(counts[..., ABSOLUTE_ERROR], counts[..., TOTAL], where_empty=np.nan)


def expected_calibration_error(counts: FloatArray) -> FloatArray:
    """ECE, `(..., 50)` counts to `(...)`; NaN for masks, and where no pixel is valid."""
    pixels, positives, probability = (counts[..., part] for part in (PIXELS, POSITIVES, PROBABILITY))
    return ratio(np.abs(positives - probability).sum(axis=-1), pixels.sum(axis=-1), where_empty=np.nan)


def _slots(
    probabilities: NDArray[np.float32], label: NDArray[np.uint8]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The bin of each valid pixel, from 16 on for true foreground, and its probability."""
    valid = (label != IGNORE) & ~np.isnan(probabilities)
    everything = bool(valid.all())
    p = probabilities.ravel() if everything else probabilities[valid]
    y = label.ravel() if everything else label[valid]
    if p.size and not (p.min() >= 0 and p.max() <= 1):
        raise InputError(f"probabilities run from {p.min():g} to {p.max():g}; expected 0 to 1")
    slots = (p * np.float32(BINS)).astype(np.intp)
    slots += y * np.intp(_SLOTS)
    return slots, p
