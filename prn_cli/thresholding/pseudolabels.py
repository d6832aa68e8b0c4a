"""Pseudo-labels, and how much better than one threshold for all they are: the headroom of a set of maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics.regions import RegionCounts
from prn_cli.thresholding.thresholds import Grid, best_thresholds, check_shapes, scratch, search_thresholds

__all__ = [
    "Cut",
    "Grid",
    "Headroom",
    "PseudoLabels",
    "ThresholdCurve",
    "apply_thresholds",
    "best_thresholds",
    "count_curve",
    "empty_curve",
    "make_pseudolabels",
]

CURVE_STEPS = 1000
"""The single thresholds that a `ThresholdCurve` knows are k / 1000, k = 1 … 1000."""

_BLOCK = 1 << 17  # pixels at once


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """What the best threshold of every patch makes of a map.

    Attributes:
        mask: `(H, W)` uint8: 0, 1, and 255 where the map or the label is invalid.
        thresholds: `(ceil(H / patch), ceil(W / patch))` float32, NaN where a patch has no valid pixel.
        counts: the mask against the label.
    """

    mask: NDArray[np.uint8]
    thresholds: NDArray[np.float32]
    counts: RegionCounts


def make_pseudolabels(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.uint8],
    *,
    patch: int,
    grid: Grid = "paper",
    out: NDArray[np.uint8] | None = None,
) -> PseudoLabels:
    """Find every patch's best threshold (PatchRefineNet's optimal binarisation) and cut the map there.

    Args:
        probabilities: `(H, W)` float32 in [0, 1], NaN invalid.
        labels: `(H, W)` uint8: 0 background, 1 foreground, 255 ignore.
        patch: side of a patch, px; patches at the right and bottom border may be partial.
        grid: the thresholds that a patch may take, see `best_thresholds`.
        out: `(H, W)` uint8, contiguous, that becomes the mask: memory that is used again is faster than fresh memory.

    Raises:
        InputError: the shapes differ or are not two-dimensional.
    """
    found = search_thresholds(probabilities, labels, patch=patch, grid=grid)
    tp, fp, positives, valid = (int(c.sum()) for c in (found.tp, found.fp, found.positives, found.valid))
    mask = _cut(probabilities, found.thresholds, patch, out)
    if valid < mask.size:
        _mark_invalid(mask, probabilities, labels)
    return PseudoLabels(mask, found.thresholds, RegionCounts(tp, fp, positives - tp, valid - positives - fp))


def apply_thresholds(
    probabilities: NDArray[np.float32], thresholds: NDArray[np.float32], *, patch: int
) -> NDArray[np.uint8]:
    """Cut every patch at its threshold.

    Args:
        probabilities: `(H, W)` float32, NaN invalid.
        thresholds: `(ceil(H / patch), ceil(W / patch))` float32; NaN where nothing is known.
        patch: side of a patch, px.

    Returns:
        `(H, W)` uint8: 1 where p > t, strictly, 0 elsewhere; 255 where p or t is NaN.

    Raises:
        ValueError: the thresholds are not those of a map of this shape.
    """
    mask = _cut(probabilities, thresholds, patch, None)
    _mark_invalid(mask, probabilities, None)
    if np.isnan(thresholds).any():
        unknown = np.repeat(np.isnan(thresholds), patch, axis=1)[:, : mask.shape[1]]
        for number, columns in enumerate(unknown):
            mask[number * patch : (number + 1) * patch, columns] = IGNORE
    return mask


def _cut(
    probabilities: NDArray[np.float32], thresholds: NDArray[np.float32], patch: int, out: NDArray[np.uint8] | None
) -> NDArray[np.uint8]:
    """1 where p > t, 0 elsewhere."""
    height, width = probabilities.shape
    expected = (-(-height // patch), -(-width // patch))
    if thresholds.shape != expected:
        raise ValueError(f"thresholds of shape {thresholds.shape}, expected {expected}")
    mask = np.empty((height, width), np.uint8) if out is None else out
    cuts = np.repeat(thresholds, patch, axis=1)[:, None, :width]
    whole = height - height % patch
    for rows, lines in ((slice(0, whole), cuts[: whole // patch]), (slice(whole, height), cuts[whole // patch :])):
        shape = (len(lines), -1, width)
        if len(lines):
            np.greater(probabilities[rows].reshape(shape), lines, out=mask[rows].reshape(shape).view(np.bool_))
    return mask


def _mark_invalid(
    mask: NDArray[np.uint8], probabilities: NDArray[np.float32], labels: NDArray[np.uint8] | None
) -> None:
    """Set the mask to 255 where the map is NaN or the label is 255."""
    rows = max(_BLOCK // mask.shape[1], 1)
    for y in range(0, len(mask), rows):
        p, part = probabilities[y : y + rows], mask[y : y + rows]
        invalid = np.not_equal(p, p, out=scratch("invalid", p.shape, np.bool_))
        if labels is not None:
            invalid |= np.equal(labels[y : y + rows], IGNORE, out=scratch("ignored", p.shape, np.bool_))
        # As bytes: 255 where invalid, and 0 leaves the mask as it is.
        part |= np.negative(invalid.view(np.int8), out=invalid.view(np.int8)).view(np.uint8)


@dataclass(frozen=True, slots=True)
class ThresholdCurve:
    """Pixels by the number of thresholds k / 1000 that lie below them: all there is to know about single thresholds.

    Two of them add up to that of both images.

    Attributes:
        background: `(1001,)` int64.
        foreground: `(1001,)` int64.
    """

    background: NDArray[np.int64]
    foreground: NDArray[np.int64]

    def __add__(self, other: ThresholdCurve) -> ThresholdCurve:
        """The curve of both together."""
        return ThresholdCurve(self.background + other.background, self.foreground + other.foreground)

    def counts(self, step: int) -> RegionCounts:
        """The mask p > step / 1000 against the label; `step` is 1 to 1000."""
        tp, fp = int(self.foreground[step:].sum()), int(self.background[step:].sum())
        return RegionCounts(tp, fp, int(self.foreground.sum()) - tp, int(self.background.sum()) - fp)

    def ious(self) -> NDArray[np.float64]:
        """`(1000,)` IoU at 0.001, 0.002 … 1.000; 1.0 with nothing predicted and nothing to find."""
        tp = self.foreground[::-1].cumsum()[::-1][1:]
        fp = self.background[::-1].cumsum()[::-1][1:]
        union = int(self.foreground.sum()) + fp
        return np.where(union == 0, 1.0, tp / np.maximum(union, 1))


def empty_curve() -> ThresholdCurve:
    """The curve of no pixel at all, to add to."""
    return ThresholdCurve(np.zeros(CURVE_STEPS + 1, np.int64), np.zeros(CURVE_STEPS + 1, np.int64))


def count_curve(probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> ThresholdCurve:
    """Count what every single threshold k / 1000 would give.

    Args:
        probabilities: `(H, W)` float32 in [0, 1], NaN invalid.
        labels: `(H, W)` uint8: 0 background, 1 foreground, 255 ignore.

    Raises:
        InputError: the shapes differ or are not two-dimensional.
    """
    check_shapes(probabilities, labels)
    bins = CURVE_STEPS + 1
    total = np.zeros(2 * bins + 1, np.int64)
    rows = max(_BLOCK // probabilities.shape[1], 1)
    for y in range(0, len(probabilities), rows):
        p, label = probabilities[y : y + rows], labels[y : y + rows]
        # How many thresholds lie below p, exactly: the nearest one, or one less if that is not below p.
        nearest, threshold = (
            scratch("curve nearest", p.shape, np.float32),
            scratch("curve threshold", p.shape, np.float32),
        )
        np.rint(np.multiply(p, np.float32(CURVE_STEPS), out=nearest), out=nearest)
        np.divide(nearest, np.float32(CURVE_STEPS), out=threshold)
        valid, flag = scratch("curve valid", p.shape, np.bool_), scratch("curve flag", p.shape, np.bool_)
        np.subtract(nearest, np.less_equal(p, threshold, out=flag), out=nearest)
        place = scratch("curve place", p.shape, np.int64)
        # A p of 0 has -1, which is set to 0; NaN becomes any integer, and then what does not count.
        np.maximum(nearest, 0, out=nearest)
        with np.errstate(invalid="ignore"):
            np.copyto(place, nearest, casting="unsafe")
        place += np.multiply(label, np.uint16(bins), out=scratch("curve offset", p.shape, np.uint16))
        np.equal(p, p, out=valid)
        valid &= np.not_equal(label, IGNORE, out=flag)
        np.copyto(place, 2 * bins, where=np.logical_not(valid, out=valid))
        total += np.bincount(place.ravel(), minlength=total.size)
    return ThresholdCurve(total[:bins], total[bins : 2 * bins])


@dataclass(frozen=True, slots=True)
class Cut:
    """IoU of a set of maps, cut one way.

    Attributes:
        pooled: IoU over all pixels.
        mean: mean over the images with foreground of their IoU. On others, IoU is 1 if nothing is predicted and else 0,
            so that a few pixels would decide.
        threshold: the one threshold, or None where every patch has its own.
    """

    pooled: float
    mean: float
    threshold: float | None = None


class Headroom:
    """What a set of maps could gain, gathered image by image.

    Attributes:
        images: how many.
        with_foreground: how many have foreground in their label.
        pixels: how many of theirs count.
    """

    def __init__(self) -> None:
        self.images = self.with_foreground = 0
        self._curve = empty_curve()
        self._ious = np.zeros(CURVE_STEPS)
        self._oracle = RegionCounts()
        self._oracle_iou = 0.0

    @property
    def pixels(self) -> int:
        """Pixels that count, of all images."""
        return self._oracle.pixels

    def add(self, curve: ThresholdCurve, oracle: RegionCounts) -> None:
        """Take one image in: the curve of the whole image, and its pseudo-labels against its label."""
        self.images += 1
        self._curve += curve
        self._oracle += oracle
        if curve.foreground.any():
            self.with_foreground += 1
            self._ious += curve.ious()
            self._oracle_iou += oracle.iou()

    def at(self, threshold: float) -> Cut:
        """All maps cut at this threshold, which is rounded to 1/1000."""
        step = round(threshold * CURVE_STEPS)
        return self._cut(float(self._curve.ious()[step - 1]), float(self._ious[step - 1]), step / CURVE_STEPS)

    def best_single(self) -> Cut:
        """All maps cut at the threshold (k / 1000) of the highest pooled IoU; the lowest of several."""
        return self.at((int(self._curve.ious().argmax()) + 1) / CURVE_STEPS)

    def oracle(self) -> Cut:
        """Every patch cut at its own best threshold."""
        return self._cut(self._oracle.iou(), self._oracle_iou)

    def _cut(self, pooled: float, total: float, threshold: float | None = None) -> Cut:
        return Cut(pooled, total / self.with_foreground if self.with_foreground else pooled, threshold)

    def gain(self) -> Cut:
        """How far the oracle lies above the best single threshold."""
        single, oracle = self.best_single(), self.oracle()
        return Cut(oracle.pooled - single.pooled, oracle.mean - single.mean)
