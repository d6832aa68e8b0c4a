"""What a page keeps of an image: small pictures, coarse maps and counts, gathered band by band."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.probabilities import logit
from prn_cli.metrics.calibration import PIXELS, POSITIVES, PROBABILITY, count_calibration
from prn_cli.metrics.regions import RegionCounts
from prn_cli.rasters.pictures import encode_picture
from prn_cli.report import colours
from prn_cli.report.shrinking import Cells, Mean, Shares
from prn_cli.thresholding.pseudolabels import ThresholdCurve, count_curve
from prn_cli.thresholding.thresholds import PAPER_GRID, Grid, search_thresholds

PICTURE_SIDE = 256
_ROOM = 2_800_000  # bytes of all pictures
_MOST_ROOM = 60_000  # of one image
_SHARES = {"image": 0.34, "scores": 0.34, "label": 0.12, "before": 0.14, "after": 0.14, "change": 0.26}
MAP_SIDE = 96
PATCH = 64
LOGIT_REACH = 6.0
"""The logits of the darkest colours in pictures of scores."""

# Pixels have codes: label + 2 · before + 4 · after, or 8 if they do not count.
_LABEL, _BEFORE, _AFTER = (np.arange(8) >> bit & 1 for bit in range(3))
_INVALID = 8


def picture_room(images: int, *, pictured: int) -> int:
    """Bytes that the pictures of one image may take, so that the page stays below 5 MB.

    Args:
        images: how many there are.
        pictured: of how many the page has pictures at most.
    """
    return min(_MOST_ROOM, _ROOM // max(1, min(images, pictured)))


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of a band.

    Attributes:
        mask: `(h, W)` uint8: 0, 1, and 255 where invalid.
        probabilities: `(h, W)` float32, NaN where invalid; None if there is only a mask.
    """

    mask: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class SoftCounts:
    """Counts of a soft map at all thresholds; those of two maps add up.

    Attributes:
        curve: of single thresholds.
        bins: `(3, 16)` float64: pixels, true foreground and sum of the probabilities, by bins of the probability as
            in `metrics.calibration`.
    """

    curve: ThresholdCurve
    bins: NDArray[np.float64]

    @classmethod
    def of(cls, probabilities: NDArray[np.float32], truth: NDArray[np.uint8]) -> SoftCounts:
        """Count a band, `(h, W)` float32 in [0, 1], NaN invalid, against its label, `(h, W)` uint8, 255 ignored."""
        counts = count_calibration(probabilities, truth)
        return cls(count_curve(probabilities, truth), np.stack([counts[p] for p in (PIXELS, POSITIVES, PROBABILITY)]))

    def __add__(self, other: SoftCounts) -> SoftCounts:
        """The counts of both."""
        return SoftCounts(self.curve + other.curve, self.bins + other.bins)


def total(one: SoftCounts | None, other: SoftCounts | None) -> SoftCounts | None:
    """The sum of counts, as far as there are any."""
    return one + other if one and other else one or other


@dataclass(frozen=True, slots=True)
class PatchThresholds:
    """The best thresholds of an image's patches.

    Attributes:
        counts: `(20,)` int64, patches by their best threshold, up to 0.05, 0.10 … 1.00, where it beats the base's.
        as_good: patches for which the base's own cut is as good as any.
        coarse: `(h, w)` float32, the thresholds, that cut itself where it is as good as any; NaN where nothing counts.
        reach: rows and columns of the image over those of its patches, the partial ones at the border taken as whole.
    """

    counts: NDArray[np.int64]
    as_good: int
    coarse: NDArray[np.float32]
    reach: tuple[float, float]

    def sampled(self, height: int, width: int) -> NDArray[np.float32]:
        """The thresholds under the points of an even grid over the image, `(height, width)` float32."""
        at = [
            ((np.arange(points) + 0.5) / points * share * side).astype(np.intp)
            for points, share, side in zip((height, width), self.reach, self.coarse.shape, strict=True)
        ]
        return self.coarse[np.ix_(*at)]


@dataclass(frozen=True, slots=True)
class Glimpse:
    """One image.

    Attributes:
        name: what it is called.
        height: rows.
        width: columns.
        codes: `(9,)` int64, pixels by label + 2 · before + 4 · after; in the last place those that do not count.
        pictures: by panel (`image` or `scores`, `label`, `before`, `after`, `change`), WebP.
        thresholds: of the base's patches; None if the base is no soft map.
        bias: `(h, w)` float32, what was added to the logits; None if not known.
    """

    name: str
    height: int
    width: int
    codes: NDArray[np.int64]
    pictures: dict[str, bytes]
    thresholds: PatchThresholds | None
    bias: NDArray[np.float32] | None

    def regions_before(self) -> RegionCounts:
        """The base's mask against the label."""
        return self._regions(_BEFORE)

    def regions_after(self) -> RegionCounts:
        """The refined mask against the label."""
        return self._regions(_AFTER)

    def _regions(self, mask: NDArray[np.int64]) -> RegionCounts:
        tn, fn, fp, tp = (int(self.codes[:8][_LABEL + 2 * mask == code].sum()) for code in range(4))
        return RegionCounts(tp, fp, fn, tn)

    @property
    def gain(self) -> float:
        """The change of the image's IoU."""
        return self.regions_after().iou() - self.regions_before().iou()

    @property
    def found(self) -> int:
        """Foreground that was missed before."""
        return int(self.codes[5])

    @property
    def cleared(self) -> int:
        """Spurious foreground that is gone."""
        return int(self.codes[2])

    @property
    def missed(self) -> int:
        """Foreground that was there before and is missed now."""
        return int(self.codes[3])

    @property
    def spurious(self) -> int:
        """Spurious foreground that was not there before."""
        return int(self.codes[4])


class Viewer:
    """Looks at one image, band by band, and keeps a glimpse of it.

    Args:
        name: what the image is called.
        height: rows.
        width: columns.
        cut: where the base is cut, for its thresholds.
        patch: side of a patch, px. Every band but the last must have a multiple of it in rows.
        grid: the thresholds that a patch may take.
        paired: whether there is a base besides what is scored.
        room: bytes that the pictures may take.

    Attributes:
        before: what the base says beyond its cut so far; None if it is no soft map, or there is none.
        after: the same of what is scored.
    """

    def __init__(
        self,
        name: str,
        height: int,
        width: int,
        *,
        cut: float = 0.5,
        patch: int = PATCH,
        grid: Grid = "paper",
        paired: bool = True,
        room: int = _MOST_ROOM,
    ) -> None:
        self._name, self._height, self._width = name, height, width
        self._cut, self._patch, self._grid, self._paired = cut, patch, grid, paired
        cells = Cells(height, width, PICTURE_SIDE)
        self._codes = Shares(cells, _INVALID + 1)
        self._scores = Mean(cells)
        self._bias = Mean(Cells(height, width, MAP_SIDE))
        self._patch_cells = Cells(-(-height // patch), -(-width // patch), MAP_SIDE)
        self._patches: Mean | None = None
        self._histogram = np.zeros(len(PAPER_GRID), np.int64)
        self._as_good = 0
        self.before: SoftCounts | None = None
        self.after: SoftCounts | None = None
        self._has_bias = False
        self._cells = cells
        self._room = {key: int(share * room) for key, share in _SHARES.items()}
        self._colours: list[Mean] = []

    def add(
        self,
        first: int,
        label: NDArray[np.uint8],
        after: Prediction,
        before: Prediction | None = None,
        bias: NDArray[np.float32] | None = None,
        image: NDArray[np.float32] | None = None,
    ) -> None:
        """Take in a band of whole rows.

        Args:
            first: which row of the image the band begins with.
            label: `(h, W)` uint8: 0 background, 1 foreground, 255 ignore.
            after: what is scored.
            before: the base, if there is one.
            bias: `(h, W)` float32, what was added to the base's logits; NaN where invalid.
            image: `(bands, h, W)` float32, what the base model saw; NaN where invalid.
        """
        base = after if before is None else before
        valid = (label != IGNORE) & (after.mask != IGNORE) & (base.mask != IGNORE)
        codes = np.where(valid, label + 2 * base.mask + 4 * after.mask, np.uint8(_INVALID)).astype(np.uint8)
        self._codes.add(first, codes)
        truth = np.where(valid, label, np.uint8(IGNORE))
        if base.probabilities is not None:
            self._scores.add(first, base.probabilities)
            self._search(first, base.probabilities, base.mask, truth)
            if before is not None:
                self.before = total(self.before, SoftCounts.of(base.probabilities, truth))
        if after.probabilities is not None:
            self.after = total(self.after, SoftCounts.of(after.probabilities, truth))
        if bias is not None:
            self._has_bias = True
            self._bias.add(first, bias)
        if image is not None:
            bands = image[:3] if len(image) >= 3 else image[:1]
            self._colours = self._colours or [Mean(self._cells) for _ in bands]
            for mean, band in zip(self._colours, bands, strict=True):
                mean.add(first, band)

    def _search(
        self, first: int, probabilities: NDArray[np.float32], mask: NDArray[np.uint8], truth: NDArray[np.uint8]
    ) -> None:
        found = search_thresholds(probabilities, truth, patch=self._patch, grid=self._grid)
        valid = truth != IGNORE
        tp = _sums((mask == 1) & (truth == 1), self._patch)
        fp = _sums(valid & (mask == 1) & (truth == 0), self._patch)
        own = (tp + 1) / (found.positives + fp + 1)
        best = (found.tp + 1) / (found.positives + found.fp + 1)
        known = found.valid > 0
        better = known & (best > own)
        self._as_good += int(np.count_nonzero(known & ~better))
        # The bin that ends with the threshold, on the exact grid the one that holds it.
        bins = np.searchsorted(PAPER_GRID[:-1], found.thresholds[better])
        self._histogram += np.bincount(bins, minlength=len(PAPER_GRID))
        thresholds = np.where(better, found.thresholds, np.float32(self._cut))
        thresholds[~known] = np.nan
        self._patches = self._patches or Mean(self._patch_cells)
        self._patches.add(first // self._patch, thresholds)

    def finish(self) -> Glimpse:
        """The glimpse, once all bands have come."""
        shares = self._codes.result()
        pictures = {"label": _mask_pixels(shares, _LABEL), "after": _mask_pixels(shares, _AFTER)}
        if self._colours:
            pictures["image"] = _image_pixels([mean.result() for mean in self._colours])
        elif self._patches is not None:
            logits = logit(self._scores.result())
            pictures["scores"] = colours.diverging(logits, centre=0, reach=LOGIT_REACH)
        if self._paired:
            pictures["before"] = _mask_pixels(shares, _BEFORE)
        pictures["change"] = _change_pixels(shares) if self._paired else _error_pixels(shares)
        thresholds = None
        if self._patches is not None:
            cells = self._patch_cells
            reach = self._height / (cells.height * self._patch), self._width / (cells.width * self._patch)
            thresholds = PatchThresholds(self._histogram, self._as_good, self._patches.result(), reach)
        return Glimpse(
            self._name,
            self._height,
            self._width,
            self._codes.counts(),
            {
                key: encode_picture(pixels, most=self._room[key], drawing=key not in ("image", "scores"))
                for key, pixels in pictures.items()
            },
            thresholds,
            self._bias.result() if self._has_bias else None,
        )


def _sums(flags: NDArray[np.bool_], patch: int) -> NDArray[np.int64]:
    """How many flags every patch has."""
    narrow = np.add.reduceat(flags, np.arange(0, flags.shape[1], patch), axis=1, dtype=np.int64)
    return np.asarray(np.add.reduceat(narrow, np.arange(0, len(flags), patch), axis=0))


def _image_pixels(bands: list[NDArray[np.float32]]) -> colours.Pixels:
    """Bytes as they are; other numbers from their 2nd to their 98th percentile."""
    pixels = np.stack(bands if len(bands) == 3 else 3 * bands, axis=-1)
    known = pixels[~np.isnan(pixels)]
    if known.size and not (known.min() >= 0 and 1 < known.max() <= 255):
        low, high = np.percentile(known, (2, 98))
        pixels = (pixels - low) / max(high - low, 1e-12) * 255
    return np.nan_to_num(np.clip(pixels, 0, 255)).round().astype(np.uint8)


def _mask_pixels(shares: NDArray[np.float32], mask: NDArray[np.int64]) -> colours.Pixels:
    return colours.blend(shares, np.where(mask, colours.FOREGROUND, colours.BACKGROUND))


def _change_pixels(shares: NDArray[np.float32]) -> colours.Pixels:
    """Won and lost: wrong before and right now, right before and wrong now."""
    right = _AFTER == _LABEL
    same = np.where(right, np.where(_LABEL, colours.FOREGROUND, colours.BACKGROUND), colours.WRONG)
    colour = np.where(_BEFORE == _AFTER, same, np.where(right, colours.WON, colours.LOST))
    return colours.blend(shares, colour, np.where(_BEFORE == _AFTER, 1, 3))


def _error_pixels(shares: NDArray[np.float32]) -> colours.Pixels:
    """Without a base: missed in blue, spurious in orange."""
    right = _AFTER == _LABEL
    colour = np.where(_AFTER, colours.FOREGROUND, colours.BACKGROUND)
    colour = np.where(right, colour, np.where(_LABEL, colours.WON, colours.LOST))
    return colours.blend(shares, colour, np.where(right, 1, 2))
