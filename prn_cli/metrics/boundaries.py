"""Boundary metrics: how well a mask follows the outline of an object.

Predictions and labels are uint8 `(H, W)`: 0 background, 1 foreground, 255 invalid. A pixel that is invalid in either
counts in no figure. Where outlines are sought, it has the class of the nearest valid pixel (chessboard distance), of
prediction and label each, and no class if both are equally near. So gaps have no outlines of their own, and an outline
within a gap runs through its middle.

- **Boundary IoU** (Cheng et al. 2021, "Boundary IoU", section 4): IoU of the two boundary regions. The boundary region
  of a mask is what d erosions by a 3×3 square remove from it; d is 2 % of the image's diagonal, rounded, at least
  1 pixel. Outside the image is background, as in the published definition, so a mask that touches the edge has a
  boundary there.
- **mBA**, mean boundary accuracy (Cheng et al. 2020, "CascadePSP", section 4): pixel accuracy near the true boundary,
  averaged over five radii spaced evenly from 1 to (H + W) / 300 pixels (at least 1). A pixel is near if a pixel of the
  other true class lies within that Euclidean distance, between pixel centres. The edge of the image is no boundary,
  and radii are not rounded. An image of one class has no boundary and no mBA. The pooled mBA sums each of the five
  rings over the images, then averages.
- **Relaxed precision and recall** (Mnih and Hinton 2010, section 5, for roads): the share of predicted pixels that have
  a true one within a Euclidean buffer, and of true pixels that have a predicted one within it.

0/0 is as in `regions`: 1.0 with nothing predicted and nothing to find, else 0.0.

The counts of an image are `(16,)` float64 and add up over images: pixels in both boundary regions, in either,
predicted, predicted near true ones, true, true near predicted ones; then, for each of the five radii, pixels near the
true boundary that are right, and all near it.
"""

from __future__ import annotations

import math
from concurrent.futures import Executor
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import UsageError
from prn_cli.metrics import bitmaps
from prn_cli.metrics.regions import FloatArray, ratio, require_same_shape

BUFFER = 3.0
RADII = 5
INTERSECTION, UNION, PREDICTED, PREDICTED_NEAR_TRUE, TRUE, TRUE_NEAR_PREDICTED = range(6)
RIGHT, NEAR = slice(6, 6 + RADII), slice(6 + RADII, 6 + 2 * RADII)

DIAGONAL_SHARE = 0.02

# A block of bits, in words of 64 pixels: 1 MB, so that the many passes over it stay in a processor's cache.
_BLOCK_WORDS = 1 << 17
_MOST_WORDS = 64


def count_boundaries(prediction: NDArray[np.uint8], label: NDArray[np.uint8], *, buffer: float = BUFFER) -> FloatArray:
    """Count what the boundary metrics need.

    Args:
        prediction: `(H, W)` uint8, 0 background, 1 foreground, 255 invalid.
        label: the same, of the same shape.
        buffer: how far off a pixel may be and still count as right in relaxed precision and recall, in pixels.

    Returns:
        `(16,)` float64, see the module.

    Raises:
        InputError: the shapes differ.
        UsageError: the buffer is negative or infinite.
    """
    counter = BoundaryCounter(*label.shape, buffer=buffer)
    counter.add(prediction, label)
    return counter.counts()


class BoundaryCounter:
    """Boundary counts of an image that comes in bands of rows, from the top.

    A pixel's counts depend on its surroundings, so some rows wait, as bits, for the rows below them. Memory grows with
    the image's width and with the reach of the metrics. The bands do not change the counts.

    Args:
        height: rows of the image.
        width: columns of the image.
        buffer: see `count_boundaries`.
        pool: counts the blocks of a wide image in parallel.

    Raises:
        UsageError: the buffer is negative or infinite.
    """

    def __init__(self, height: int, width: int, *, buffer: float = BUFFER, pool: Executor | None = None) -> None:
        if not 0 <= buffer < math.inf:
            raise UsageError(f"a buffer of {buffer} pixels is not a distance", hint="give 0 or more")
        self._height, self._width = height, width
        self._buffer = buffer
        self._erosions = erosions(height, width)
        self._radii = radii(height, width)
        self._reach = math.floor(max(self._erosions, *self._radii, buffer))
        self._around = 2 * self._reach  # a gap within reach of a pixel is filled from as far again
        self._columns = bitmaps.pack(np.ones((1, width), np.bool_))
        words = -(-width // 64)
        self._map = map if pool is None or words <= _MOST_WORDS else pool.map
        self._bits = np.empty((3, 0, words), np.uint64)  # predicted, true and false; rows `_top` to `_bottom`
        self._top = self._done = self._bottom = 0
        # Tall enough to outweigh the rows that a block shares with its neighbours, narrow enough for the caches.
        self._block = max(2 * self._reach, _BLOCK_WORDS // min(words, _MOST_WORDS), 1)
        self._sums = np.zeros(6 + 2 * RADII)

    def add(self, prediction: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
        """Add the next rows.

        Args:
            prediction: `(h, W)` uint8, 0 background, 1 foreground, 255 invalid.
            label: the same, of the same shape.

        Raises:
            InputError: the shapes differ.
        """
        require_same_shape(prediction, label)
        valid = (prediction <= 1) & (label <= 1)
        band = [bitmaps.pack(valid & part) for part in (prediction == 1, label == 1, label == 0)]
        self._bits = np.concatenate((self._bits, band), axis=1)
        self._bottom += len(label)
        ready = self._bottom if self._bottom == self._height else self._bottom - self._around
        if ready - self._done >= self._block or self._bottom == self._height:
            self._count_rows(ready)

    def counts(self) -> FloatArray:
        """The counts of the whole image, once all its rows were added."""
        if self._bottom != self._height:
            raise ValueError(f"{self._bottom} rows of {self._height}")
        return self._sums

    def _count_rows(self, ready: int) -> None:
        words = self._bits.shape[2]
        across = -(-words // _MOST_WORDS)
        blocks = [slice(*pair) for pair in pairwise(words * part // across for part in range(across + 1))]
        while self._done < ready:
            stop = ready if ready - self._done < 2 * self._block else self._done + self._block
            self._sums += sum(self._map(partial(self._count_block, slice(self._done, stop)), blocks))
            self._done = stop
        top = max(self._done - self._around, 0)
        self._bits = self._bits[:, top - self._top :].copy()
        self._top = top

    def _count_block(self, rows: slice, words: slice) -> NDArray[np.int64]:
        """The counts of a block of rows and words. The rows and words around it are in `_bits`."""

        side = -(-self._around // 64)
        y, x = max(rows.start - self._around, 0), max(words.start - side, 0)
        around = self._bits[:, y - self._top : rows.stop + self._around - self._top, x : words.stop + side]
        predicted_bits, true_bits, false_bits = around
        known = true_bits | false_bits
        own = slice(rows.start - y, rows.stop - y), slice(words.start - x, words.stop - x)
        positive, true, false = around[:, *own]
        if not known[own].any():
            return np.zeros(len(self._sums), np.int64)
        gaps = self._columns[:, x : words.stop + side] & ~known
        predicted_bits, rejected_bits = bitmaps.fill(predicted_bits, known & ~predicted_bits, gaps, self._reach)
        true_bits, false_bits = bitmaps.fill(true_bits, false_bits, gaps, self._reach)

        def grown(bits: bitmaps.Bitmap, reach: float, *, square: bool = False) -> bitmaps.Bitmap:
            """The block, dilated by a square or a disk together with what lies around it."""
            top, left = max(own[0].start - math.floor(reach), 0), max(own[1].start - -(-math.floor(reach) // 64), 0)
            part = bits[top : own[0].stop + math.floor(reach), left : own[1].stop + -(-math.floor(reach) // 64)]
            part = bitmaps.dilate_square(part, math.floor(reach)) if square else bitmaps.dilate_disk(part, reach)
            return part[own[0].start - top : own[0].stop - top, own[1].start - left : own[1].stop - left]

        edge = bitmaps.frame(self._height, self._width, self._erosions, rows)[:, words]
        predicted_region = positive & (grown(rejected_bits, self._erosions, square=True) | edge)
        true_region = true & (grown(false_bits, self._erosions, square=True) | edge)
        right = (true | false) & ~(positive ^ true)
        rings = [(true & grown(false_bits, radius)) | (false & grown(true_bits, radius)) for radius in self._radii]
        counted = (
            predicted_region & true_region,
            predicted_region | true_region,
            positive,
            positive & grown(true_bits, self._buffer),
            true,
            true & grown(predicted_bits, self._buffer),
            *(ring & right for ring in rings),
            *rings,
        )
        return np.array([bitmaps.count(bits) for bits in counted])


def erosions(height: int, width: int) -> int:
    """How many times boundary IoU erodes a mask of this size: 2 % of the diagonal, at least once."""
    return max(1, round(DIAGONAL_SHARE * math.hypot(height, width)))


def radii(height: int, width: int) -> tuple[float, ...]:
    """The five radii of mBA for an image of this size, in pixels."""
    largest = max(1.0, (height + width) / 300)
    return tuple(1 + (largest - 1) * step / (RADII - 1) for step in range(RADII))


def boundary_iou(counts: FloatArray) -> FloatArray:
    """Boundary IoU, `(..., 16)` counts to `(...)`."""
    return ratio(counts[..., INTERSECTION], counts[..., UNION], where_empty=1.0)


def relaxed_precision(counts: FloatArray) -> FloatArray:
    """Precision within the buffer, `(..., 16)` counts to `(...)`."""
    return ratio(counts[..., PREDICTED_NEAR_TRUE], counts[..., PREDICTED], where_empty=_right_if_empty(counts))


def relaxed_recall(counts: FloatArray) -> FloatArray:
    """Recall within the buffer, `(..., 16)` counts to `(...)`."""
    return ratio(counts[..., TRUE_NEAR_PREDICTED], counts[..., TRUE], where_empty=_right_if_empty(counts))


def mean_boundary_accuracy(counts: FloatArray) -> FloatArray:
    """mBA, `(..., 16)` counts to `(...)`; NaN without a true boundary."""
    accuracies = ratio(counts[..., RIGHT], counts[..., NEAR], where_empty=0.0)
    # Where invalid pixels keep the classes apart, the smallest rings may be empty. The others still count.
    rings = np.count_nonzero(counts[..., NEAR], axis=-1).astype(np.float64)
    return ratio(accuracies.sum(axis=-1), rings, where_empty=np.nan)


def _right_if_empty(counts: FloatArray) -> FloatArray:
    return np.where(counts[..., PREDICTED] + counts[..., TRUE] == 0, 1.0, 0.0)
