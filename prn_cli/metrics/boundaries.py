"""Boundary metrics: how well a mask follows the outline of what it shows.

Predictions and labels are uint8 `(H, W)`: 0 background, 1 foreground, 255 invalid. A pixel that is invalid in
either counts in no figure, and is treated as though it lay outside the image.

- **Boundary IoU** (Cheng et al. 2021, "Boundary IoU", section 4): IoU of the two boundary regions. The boundary
  region of a mask is what d erosions by a 3×3 square take from it, d = 2 % of the image's diagonal, rounded, at
  least 1 pixel. Outside the image is background, as in the published definition, so a mask that touches the edge
  has a boundary there.
- **mBA**, mean boundary accuracy (Cheng et al. 2020, "CascadePSP", section 4): pixel accuracy near the true
  boundary, averaged over five radii spaced evenly from 1 to (H + W) / 300 pixels (at least 1). Near means within
  that Euclidean distance, between pixel centres, of a pixel of the other true class. The edge of the image is no
  boundary, and radii are not rounded. An image of one class has no boundary and no mBA. A pooled mBA adds up each
  of the five rings over the images, then averages.
- **Relaxed precision and recall** (Mnih and Hinton 2010, section 5; the road convention): the share of the
  predicted pixels that have a true one within a Euclidean buffer, and of the true ones that have a predicted one
  within it.

0/0 is as in `regions`: 1.0 with nothing predicted and nothing to find, else 0.0.
"""

from __future__ import annotations

import math
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import UsageError
from prn_cli.metrics import bitmaps
from prn_cli.metrics.regions import FloatArray, ratio, require_same_shape

BUFFER = 3.0
RADII = 5

DIAGONAL_SHARE = 0.02

# A block of bits, in words of 64 pixels: 1 MB, so that the many passes over it stay in a processor's cache.
_BLOCK_WORDS = 1 << 17
_MOST_WORDS = 64


@dataclass(frozen=True, slots=True)
class BoundaryCounts:
    """Pixels near boundaries; the sum of two arrays gives the counts of both images together.

    Args:
        intersection: pixels in both boundary regions.
        union: pixels in either.
        predicted: predicted foreground.
        predicted_near_true: predicted foreground with true foreground within the buffer.
        true: true foreground.
        true_near_predicted: true foreground with predicted foreground within the buffer.
        right: pixels within each of the five radii of the true boundary that are right.
        near: pixels within each of the five radii of the true boundary.
    """

    intersection: int
    union: int
    predicted: int
    predicted_near_true: int
    true: int
    true_near_predicted: int
    right: tuple[int, ...]
    near: tuple[int, ...]

    def array(self) -> FloatArray:
        """The counts as `(16,)` float64, in the order of the fields."""
        plain = (self.intersection, self.union, self.predicted, self.predicted_near_true)
        return np.array((*plain, self.true, self.true_near_predicted, *self.right, *self.near), dtype=np.float64)

    def boundary_iou(self) -> float:
        """IoU of the boundary regions, 0 to 1."""
        return float(boundary_iou(self.array()))

    def mean_boundary_accuracy(self) -> float:
        """mBA, 0 to 1; NaN without a true boundary."""
        return float(mean_boundary_accuracy(self.array()))

    def relaxed_precision(self) -> float:
        """Share of the predicted pixels within the buffer of a true one, 0 to 1."""
        return float(relaxed_precision(self.array()))

    def relaxed_recall(self) -> float:
        """Share of the true pixels within the buffer of a predicted one, 0 to 1."""
        return float(relaxed_recall(self.array()))


def count_boundaries(
    prediction: NDArray[np.uint8], label: NDArray[np.uint8], *, buffer: float = BUFFER
) -> BoundaryCounts:
    """Count what the boundary metrics need.

    Args:
        prediction: `(H, W)` uint8, 0 background, 1 foreground, 255 invalid.
        label: the same, of the same shape.
        buffer: how far a pixel may be off to count as right in relaxed precision and recall, in pixels.

    Raises:
        InputError: shapes that differ.
        UsageError: a negative or infinite buffer.
    """
    counter = BoundaryCounter(*label.shape, buffer=buffer)
    counter.add(prediction, label)
    return counter.counts()


class BoundaryCounter:
    """Counts what the boundary metrics need of an image that comes in bands of rows, from the top.

    What a pixel counts as depends on its surroundings, so a few rows wait, as bits, for those below them: memory grows
    with the image's width and the reach of the metrics, which may grow with its diagonal. However the image is cut into
    bands, the counts are the same.

    Args:
        height: rows of the image.
        width: columns of the image.
        buffer: see `count_boundaries`.
        pool: counts the parts of a large image side by side.

    Raises:
        UsageError: a negative or infinite buffer.
    """

    def __init__(self, height: int, width: int, *, buffer: float = BUFFER, pool: Executor | None = None) -> None:
        if not 0 <= buffer < math.inf:
            raise UsageError(f"a buffer of {buffer} pixels is no distance", hint="give 0 or more")
        self._height, self._width = height, width
        self._buffer = buffer
        self._pool = pool
        self._erosions = erosions(height, width)
        self._radii = radii(height, width)
        self._reach = math.floor(max(self._erosions, *self._radii, buffer))
        words = -(-width // 64)
        self._bits = np.empty((3, 0, words), np.uint64)  # predicted, true and false, rows from `_top` on, and room
        self._top = self._done = self._bottom = 0
        # Tall enough to outweigh the rows that a block shares with its neighbours, narrow enough for the caches.
        self._block = max(2 * self._reach, _BLOCK_WORDS // min(words, _MOST_WORDS), 1)
        self._sums = np.zeros(6 + 2 * RADII, np.int64)

    def add(self, prediction: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
        """Take the next rows.

        Args:
            prediction: `(h, W)` uint8, 0 background, 1 foreground, 255 invalid.
            label: the same, of the same shape.

        Raises:
            InputError: shapes that differ.
        """
        require_same_shape(prediction, label)
        valid = (prediction <= 1) & (label <= 1)
        parts = (valid & (prediction == 1), valid & (label == 1), valid & (label == 0))
        self._make_room(len(label))
        here = slice(self._bottom - self._top, self._bottom - self._top + len(label))
        for bits, part in zip(self._bits, parts, strict=True):
            bits[here] = bitmaps.pack(part)
        self._bottom += len(label)
        ready = self._bottom if self._bottom == self._height else self._bottom - self._reach
        if ready - self._done >= self._block or self._bottom == self._height:
            self._count_rows(ready)

    def counts(self) -> BoundaryCounts:
        """The counts of the whole image, when all its rows have come."""
        if self._bottom != self._height:
            raise ValueError(f"{self._bottom} rows of {self._height}")
        sums = self._sums.tolist()
        a, b, c, d, e, f = sums[:6]
        return BoundaryCounts(a, b, c, d, e, f, right=tuple(sums[6 : 6 + RADII]), near=tuple(sums[6 + RADII :]))

    def _make_room(self, rows: int) -> None:
        """Room for so many rows more; at first, for all that ever wait if the others come in bands as high."""
        _, room, words = self._bits.shape
        held = self._bottom - self._top
        if held + rows > room:
            least = min(self._height - self._top, 2 * self._reach + self._block + rows)
            larger = np.empty((3, max(held + rows, least), words), np.uint64)
            larger[:, :held] = self._bits[:, :held]
            self._bits = larger

    def _count_rows(self, ready: int) -> None:
        words = self._bits.shape[2]
        across = -(-words // _MOST_WORDS)
        edges = [words * part // across for part in range(across + 1)]
        blocks = [slice(*pair) for pair in pairwise(edges)]
        side_by_side = self._pool.map if self._pool is not None and across > 1 else map
        while self._done < ready:
            stop = ready if ready - self._done < 2 * self._block else self._done + self._block
            self._sums += sum(side_by_side(partial(self._count_block, slice(self._done, stop)), blocks))
            self._done = stop
        keep = max(self._done - self._reach, 0)
        for bits in self._bits:
            bits[: self._bottom - keep] = bits[keep - self._top : self._bottom - self._top]
        self._top = keep

    def _count_block(self, rows: slice, words: slice) -> NDArray[np.int64]:
        """The counts of some rows and words of the image, whose surroundings are at hand."""

        def take(bits: NDArray[np.uint64], reach: int = 0) -> tuple[bitmaps.Bitmap, tuple[slice, slice]]:
            """The block and what is around it, and where the block lies in it."""
            y, x = max(rows.start - reach, 0), max(words.start - -(-reach // 64), 0)
            bottom = min(rows.stop + reach, self._bottom)
            around = bits[y - self._top : bottom - self._top, x : words.stop + -(-reach // 64)]
            height, width = rows.stop - rows.start, words.stop - words.start
            return around, (
                slice(rows.start - y, rows.start - y + height),
                slice(words.start - x, words.start - x + width),
            )

        def square(bits: NDArray[np.uint64]) -> bitmaps.Bitmap:
            around, block = take(bits, self._erosions)
            return bitmaps.dilate_square(~around, self._erosions)[block]

        def disk(bits: NDArray[np.uint64], radius: float) -> bitmaps.Bitmap:
            around, block = take(bits, math.floor(radius))
            return bitmaps.dilate_disk(around, radius)[block]

        predicted_bits, true_bits, false_bits = self._bits
        positive, true, false = (take(bits)[0] for bits in self._bits)
        edge = bitmaps.frame(self._height, self._width, self._erosions, rows)[:, words]
        predicted_region: bitmaps.Bitmap = positive & (square(predicted_bits) | edge)
        true_region: bitmaps.Bitmap = true & (square(true_bits) | edge)
        agreed: bitmaps.Bitmap = (true | false) & ~(positive ^ true)
        rings = [(true & disk(false_bits, radius)) | (false & disk(true_bits, radius)) for radius in self._radii]
        counted = (
            predicted_region & true_region,
            predicted_region | true_region,
            positive,
            positive & disk(true_bits, self._buffer),
            true,
            true & disk(predicted_bits, self._buffer),
            *(ring & agreed for ring in rings),
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
    return ratio(counts[..., 0], counts[..., 1], where_empty=1.0)


def relaxed_precision(counts: FloatArray) -> FloatArray:
    """Precision within the buffer, `(..., 16)` counts to `(...)`."""
    return ratio(counts[..., 3], counts[..., 2], where_empty=_right_if_empty(counts))


def relaxed_recall(counts: FloatArray) -> FloatArray:
    """Recall within the buffer, `(..., 16)` counts to `(...)`."""
    return ratio(counts[..., 5], counts[..., 4], where_empty=_right_if_empty(counts))


def mean_boundary_accuracy(counts: FloatArray) -> FloatArray:
    """mBA, `(..., 16)` counts to `(...)`; NaN without a true boundary."""
    accuracies = ratio(counts[..., 6 : 6 + RADII], counts[..., 6 + RADII :], where_empty=0.0)
    # Invalid pixels may keep the classes further apart than the smallest radius: its ring is empty, the others count.
    rings = np.count_nonzero(counts[..., 6 + RADII :], axis=-1).astype(np.float64)
    return ratio(accuracies.sum(axis=-1), rings, where_empty=np.nan)


def _right_if_empty(counts: FloatArray) -> FloatArray:
    return np.where(counts[..., 2] + counts[..., 4] == 0, 1.0, 0.0)
