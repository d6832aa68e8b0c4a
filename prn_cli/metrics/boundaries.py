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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import UsageError
from prn_cli.metrics import bitmaps
from prn_cli.metrics.regions import FloatArray, ratio, require_same_shape

BUFFER = 3.0
RADII = 5

DIAGONAL_SHARE = 0.02


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
    require_same_shape(prediction, label)
    if not 0 <= buffer < math.inf:
        raise UsageError(f"a buffer of {buffer} pixels is no distance", hint="give 0 or more")
    height, width = label.shape
    valid = (prediction <= 1) & (label <= 1)
    positive = bitmaps.pack(valid & (prediction == 1))
    true = bitmaps.pack(valid & (label == 1))
    false = bitmaps.pack(valid & (label == 0))
    known = true | false

    distance = erosions(height, width)
    edge = bitmaps.frame(height, width, distance)
    predicted_region: bitmaps.Bitmap = positive & (bitmaps.dilate_square(~positive, distance) | edge)
    true_region: bitmaps.Bitmap = true & (bitmaps.dilate_square(~true, distance) | edge)

    agreed: bitmaps.Bitmap = known & ~(positive ^ true)
    rings = [
        (true & bitmaps.dilate_disk(false, radius)) | (false & bitmaps.dilate_disk(true, radius))
        for radius in radii(height, width)
    ]
    return BoundaryCounts(
        intersection=bitmaps.count(predicted_region & true_region),
        union=bitmaps.count(predicted_region | true_region),
        predicted=bitmaps.count(positive),
        predicted_near_true=bitmaps.count(positive & bitmaps.dilate_disk(true, buffer)),
        true=bitmaps.count(true),
        true_near_predicted=bitmaps.count(true & bitmaps.dilate_disk(positive, buffer)),
        right=tuple(bitmaps.count(ring & agreed) for ring in rings),
        near=tuple(bitmaps.count(ring) for ring in rings),
    )


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
