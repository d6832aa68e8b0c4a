"""What a page keeps of a set of images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prn_cli.metrics.regions import RegionCounts
from prn_cli.report.glimpses import Glimpse, SoftCounts, sampled, total

POSITIONS = 16
SAMPLES = 8 * POSITIONS


class ByPosition:
    """The mean of a map over images, by position: shows what a model does wrong in the same place of every image."""

    def __init__(self) -> None:
        self._total = np.zeros((2, POSITIONS, POSITIONS))
        self.images = 0

    def add(self, samples: NDArray[np.float32]) -> None:
        """Add an image: `(128, 128)` even samples of its map, NaN where nothing is known."""
        fine = samples.reshape(POSITIONS, SAMPLES // POSITIONS, POSITIONS, SAMPLES // POSITIONS)
        known = ~np.isnan(fine)
        count = known.sum(axis=(1, 3))
        mean = np.where(known, fine, 0).sum(axis=(1, 3)) / np.maximum(count, 1)
        self._total += np.stack((mean, count > 0))
        self.images += 1

    def result(self) -> NDArray[np.float64]:
        """`(16, 16)`, NaN where nothing is known."""
        total, count = self._total
        with np.errstate(invalid="ignore", divide="ignore"):
            return total / count


class Totals:
    """Glimpses of images, and sums over them.

    Attributes:
        glimpses: of the images so far.
        before: counts of the base's soft maps; None without any.
        after: the same of what is scored.
        patches: `(20,)` patches by their best threshold, as in `PatchThresholds`.
        as_good: patches for which the base's cut is as good as any.
        thresholds: by position.
        bias: by position.
    """

    def __init__(self) -> None:
        self.glimpses: list[Glimpse] = []
        self.before: SoftCounts | None = None
        self.after: SoftCounts | None = None
        self.patches: NDArray[np.int64] | None = None
        self.as_good = 0
        self.thresholds = ByPosition()
        self.bias = ByPosition()

    def add(self, glimpse: Glimpse, before: SoftCounts | None, after: SoftCounts | None) -> None:
        """Add an image, and the counts of its soft maps."""
        self.glimpses.append(glimpse)
        self.before, self.after = total(self.before, before), total(self.after, after)
        found = glimpse.thresholds
        if found is not None:
            self.patches = found.counts if self.patches is None else self.patches + found.counts
            self.as_good += found.as_good
            self.thresholds.add(found.sampled(SAMPLES, SAMPLES))
        if glimpse.bias is not None:
            self.bias.add(sampled(glimpse.bias, (SAMPLES, SAMPLES)))

    def regions_before(self) -> RegionCounts:
        """The base's masks against the labels."""
        return sum((glimpse.regions_before() for glimpse in self.glimpses), start=RegionCounts())

    def regions_after(self) -> RegionCounts:
        """The other masks against the labels."""
        return sum((glimpse.regions_after() for glimpse in self.glimpses), start=RegionCounts())
