"""What the page keeps of a set of images besides a glimpse of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prn_cli.report.glimpses import Glimpse, Softness

POSITIONS = 16
SAMPLES = 8 * POSITIONS


class ByPosition:
    """The mean over images of a map, by position within the image: what a model does wrong in the same place."""

    def __init__(self) -> None:
        self._total = np.zeros((2, POSITIONS, POSITIONS))
        self.images = 0

    def add(self, samples: NDArray[np.float32]) -> None:
        """Take in an image: `(128, 128)` even samples of its map, NaN where nothing is known."""
        fine = samples.reshape(POSITIONS, SAMPLES // POSITIONS, POSITIONS, SAMPLES // POSITIONS)
        known = ~np.isnan(fine)
        count = known.sum(axis=(1, 3))
        mean = np.where(known, fine, 0).sum(axis=(1, 3)) / np.maximum(count, 1)
        self._total += np.stack((mean, count > 0))
        self.images += 1

    def result(self) -> NDArray[np.float64]:
        """`(16, 16)`, NaN where no image had anything."""
        total, count = self._total
        with np.errstate(invalid="ignore", divide="ignore"):
            return total / count


class Totals:
    """Glimpses, and the sums of what need not be kept image by image.

    Attributes:
        glimpses: of the images so far.
        before: what the base says beyond its cut, all images together; None if it is no soft map.
        after: the same of what is scored.
        patches: `(20,)` patches by their best threshold, as in `PatchThresholds`.
        as_good: patches for which the base's own cut is as good as any.
        thresholds: by position.
        bias: by position.
    """

    def __init__(self) -> None:
        self.glimpses: list[Glimpse] = []
        self.before: Softness | None = None
        self.after: Softness | None = None
        self.patches: NDArray[np.int64] | None = None
        self.as_good = 0
        self.thresholds = ByPosition()
        self.bias = ByPosition()

    def add(self, glimpse: Glimpse, before: Softness | None, after: Softness | None) -> None:
        """Take in an image, and what its maps say beyond their cuts where they are soft."""
        self.glimpses.append(glimpse)
        if before is not None:
            self.before = before if self.before is None else self.before + before
        if after is not None:
            self.after = after if self.after is None else self.after + after
        found = glimpse.thresholds
        if found is not None:
            self.patches = found.counts if self.patches is None else self.patches + found.counts
            self.as_good += found.as_good
            self.thresholds.add(found.sampled(SAMPLES, SAMPLES))
        if glimpse.bias is not None:
            at = [((np.arange(SAMPLES) + 0.5) * side / SAMPLES).astype(np.intp) for side in glimpse.bias.shape]
            self.bias.add(glimpse.bias[np.ix_(*at)])
