"""What a page keeps of an image: small pictures, coarse maps and counts, gathered band by band; crops, of a few."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.probabilities import logit
from prn_cli.maps.tiles import Window
from prn_cli.metrics.calibration import count_calibration
from prn_cli.metrics.regions import RegionCounts
from prn_cli.rasters.pictures import encode_picture
from prn_cli.report import colours
from prn_cli.report.crops import Crop, busiest
from prn_cli.report.shrinking import Cells, Mean, Picked, Shares
from prn_cli.thresholding.pseudolabels import ThresholdCurve, count_curve
from prn_cli.thresholding.thresholds import PAPER_GRID, Grid, search_thresholds

PICTURE_SIDE = 256
_ROOM = 2_500_000  # bytes of all pictures of whole images
_MOST_ROOM = 60_000  # of one image
_SHARES = {"image": 0.34, "scores": 0.34, "label": 0.12, "before": 0.14, "after": 0.14, "change": 0.26}
_CROP_ROOM = 12_000  # bytes of a picture of a crop, which fit without making it smaller
_CLASS_ROOM = 12_000  # of a picture of classes
MAP_SIDE = 96
PATCH = 64
LOGIT_REACH = 6.0
"""The logits of the darkest colours in pictures of scores."""

# By the code of a pixel, see `Glimpse`.
_LABEL, _BEFORE, _AFTER = (np.arange(8) >> bit & 1 for bit in range(3))
_INVALID = 8


def picture_room(images: int, *, pictured: int) -> int:
    """Bytes for the pictures of an image, so that a page of all images, some of them pictured, stays below 5 MB."""
    return min(_MOST_ROOM, _ROOM // max(1, min(images, pictured)))


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of a band.

    Attributes:
        mask: `(h, W)` uint8: 0, 1, 255 invalid.
        probabilities: `(h, W)` float32, NaN invalid; None for a mask.
    """

    mask: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None = None


class Seen(NamedTuple):
    """What there is to see of a window.

    Attributes:
        label: `(h, w)` uint8: 0 background, 1 foreground, 255 ignore.
        after: what is scored.
        before: the base, if there is one.
        image: `(bands, h, w)` float32, the input of the base model; NaN invalid.
        classes: `(h, w)` uint8, numbers by panel, where there are several classes, see `class_glimpses`.
    """

    label: NDArray[np.uint8]
    after: Prediction
    before: Prediction | None = None
    image: NDArray[np.float32] | None = None
    classes: Mapping[str, NDArray[np.uint8]] = MappingProxyType({})

    @property
    def base(self) -> Prediction:
        """The base; without one, what is scored."""
        return self.before or self.after

    def codes(self) -> NDArray[np.uint8]:
        """The codes of the pixels, see `Glimpse`."""
        label, after, before = self.label, self.after.mask, self.base.mask
        valid = (label != IGNORE) & (after != IGNORE) & (before != IGNORE)
        return np.where(valid, label + 2 * before + 4 * after, np.uint8(_INVALID)).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class SoftCounts:
    """Counts of a soft map at all thresholds; those of two maps add up.

    Attributes:
        curve: of single thresholds.
        calibration: `(50,)` float64, see `metrics.calibration`.
    """

    curve: ThresholdCurve
    calibration: NDArray[np.float64]

    @classmethod
    def of(cls, probabilities: NDArray[np.float32], truth: NDArray[np.uint8]) -> SoftCounts:
        """Count `(h, W)` probabilities, NaN invalid, against their label, 255 ignored."""
        return cls(count_curve(probabilities, truth), count_calibration(probabilities, truth))

    def __add__(self, other: SoftCounts) -> SoftCounts:
        """The counts of both."""
        return SoftCounts(self.curve + other.curve, self.calibration + other.calibration)


def total(one: SoftCounts | None, other: SoftCounts | None) -> SoftCounts | None:
    """The sum of two counts, of which there may be none."""
    return one + other if one and other else one or other


@dataclass(frozen=True, slots=True)
class PatchThresholds:
    """The best thresholds of an image's patches.

    Attributes:
        counts: `(20,)` int64, patches by their best threshold, up to 0.05, 0.10 … 1.00, if it beats the base's cut.
        as_good: patches for which the base's cut is as good as any.
        coarse: `(h, w)` float32, the thresholds, or the base's cut if it is as good; NaN if no pixel counts.
        reach: height and width of the image as shares of those of its patches, which may extend beyond it.
    """

    counts: NDArray[np.int64]
    as_good: int
    coarse: NDArray[np.float32]
    reach: tuple[float, float]

    def sampled(self, height: int, width: int) -> NDArray[np.float32]:
        """The thresholds at the points of an even grid over the image, `(height, width)` float32."""
        return sampled(self.coarse, (height, width), self.reach)


def sampled(
    values: NDArray[np.float32], shape: tuple[int, int], reach: tuple[float, float] = (1, 1)
) -> NDArray[np.float32]:
    """The values at the points of an even grid over the top left part of an array, `reach` of its sides."""
    at = [
        ((np.arange(points) + 0.5) / points * share * side).astype(np.intp)
        for points, share, side in zip(shape, reach, values.shape, strict=True)
    ]
    return values[np.ix_(*at)]


@dataclass(frozen=True, slots=True)
class Glimpse:
    """An image.

    Attributes:
        name: its name.
        height: rows.
        width: columns.
        codes: `(9,)` int64, pixels by code: label + 2 · before + 4 · after, or 8 if they do not count.
        pictures: as WebP, by panel: `image` or `scores`, `label`, `before`, `after`, `change`.
        thresholds: of the base's patches; None if the base is a mask.
        bias: `(h, w)` float32, added to the logits; None if unknown.
        changes: what `zoom` has to know of all changed pixels, compressed: in each cell, how many there are.
        ends: numbers of the image shown as black and as white.
        table: `(256, 3)` uint8, colours of the classes, if there are several.
        closer: takes a second look at the image; given by whoever can open it again.
    """

    name: str
    height: int
    width: int
    codes: NDArray[np.int64]
    pictures: dict[str, bytes]
    thresholds: PatchThresholds | None
    bias: NDArray[np.float32] | None
    changes: bytes
    ends: tuple[float, float]
    table: NDArray[np.uint8] | None
    closer: Callable[[Glimpse], Sequence[Crop]] = lambda _: ()

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
        """Spurious foreground that was removed."""
        return int(self.codes[2])

    @property
    def missed(self) -> int:
        """Foreground that was found before and is missed now."""
        return int(self.codes[3])

    @property
    def spurious(self) -> int:
        """Spurious foreground that was not there before."""
        return int(self.codes[4])


class Viewer:
    """Looks at an image band by band and keeps a glimpse of it.

    Args:
        name: of the image.
        height: rows.
        width: columns.
        cut: where the base is cut.
        patch: side of a patch, px. The rows of every band but the last must be a multiple of it.
        grid: the thresholds that a patch may take.
        paired: whether there is a base besides what is scored.
        table: `(256, 3)` uint8, colours of the classes, if there are several.
        room: bytes for the pictures.

    Attributes:
        before: counts of the base's soft map so far; None without one.
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
        table: NDArray[np.uint8] | None = None,
        room: int = _MOST_ROOM,
    ) -> None:
        self._name, self._height, self._width = name, height, width
        self._cut, self._patch, self._grid, self._paired = cut, patch, grid, paired
        self._cells = Cells(height, width, PICTURE_SIDE)
        self._codes = Shares(self._cells, _INVALID + 1)
        self._scores = Mean(self._cells)
        self._bias: Mean | None = None
        self._patch_cells = Cells(-(-height // patch), -(-width // patch), MAP_SIDE)
        self._patches: Mean | None = None
        self._histogram = np.zeros(len(PAPER_GRID), np.int64)
        self._as_good = 0
        self.before: SoftCounts | None = None
        self.after: SoftCounts | None = None
        self._room = {key: int(share * room) for key, share in _SHARES.items()}
        self._colours: list[Mean] = []
        self._table = table
        self._classes: dict[str, Picked] = {}

    def add(self, first: int, seen: Seen, *, bias: NDArray[np.float32] | None = None) -> None:
        """Add a band of whole rows.

        Args:
            first: its first row.
            seen: what there is to see of it.
            bias: `(h, W)` float32, added to the base's logits; NaN invalid.
        """
        codes, base, after = seen.codes(), seen.base, seen.after
        self._codes.add(first, codes)
        truth = np.where(codes != _INVALID, seen.label, np.uint8(IGNORE))
        if base.probabilities is not None:
            self._scores.add(first, base.probabilities)
            self._search(first, base.probabilities, base.mask, truth)
            if seen.before is not None:
                self.before = total(self.before, SoftCounts.of(base.probabilities, truth))
        if after.probabilities is not None:
            self.after = total(self.after, SoftCounts.of(after.probabilities, truth))
        if bias is not None:
            self._bias = self._bias or Mean(Cells(self._height, self._width, MAP_SIDE))
            self._bias.add(first, bias)
        bands = _shown(seen.image)
        self._colours = self._colours or [Mean(self._cells) for _ in bands]
        for mean, band in zip(self._colours, bands, strict=True):
            mean.add(first, band)
        for key, numbers in seen.classes.items():
            self._classes.setdefault(key, Picked(self._cells)).add(first, numbers)

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
        # The bin that ends with the threshold, or on the exact grid contains it.
        bins = np.searchsorted(PAPER_GRID[:-1], found.thresholds[better])
        self._histogram += np.bincount(bins, minlength=len(PAPER_GRID))
        thresholds = np.where(better, found.thresholds, np.float32(self._cut))
        thresholds[~known] = np.nan
        self._patches = self._patches or Mean(self._patch_cells)
        self._patches.add(first // self._patch, thresholds)

    def finish(self) -> Glimpse:
        """The glimpse, once all bands were added."""
        bands = [mean.result() for mean in self._colours]
        ends = _range(bands) if bands else (0.0, 255.0)
        scores = None if self._patches is None else self._scores.result()
        pictures = _draw(self._codes.result(), bands, scores, ends=ends, paired=self._paired)
        if self._table is not None:
            pictures |= {key: self._table[picked.result()] for key, picked in self._classes.items()}
        room = self._room | dict.fromkeys(self._classes, _CLASS_ROOM)
        thresholds = None
        if self._patches is not None:
            cells = self._patch_cells
            reach = self._height / (cells.height * self._patch), self._width / (cells.width * self._patch)
            thresholds = PatchThresholds(self._histogram, self._as_good, self._patches.result(), reach)
        changes = self._codes.cells()[..., np.flatnonzero(_marked(paired=self._paired))].sum(axis=-1)
        return Glimpse(
            self._name,
            self._height,
            self._width,
            self._codes.counts(),
            {key: _encoded(key, pixels, room[key]) for key, pixels in pictures.items()},
            thresholds,
            None if self._bias is None else self._bias.result(),
            zlib.compress(changes.astype(np.uint32), 1),
            ends,
            self._table,
        )


def zoom(glimpse: Glimpse, look: Callable[[Window], Seen]) -> list[Crop]:
    """The parts of an image in which most pixels changed, the busiest first.

    Args:
        glimpse: of the image.
        look: gives what there is to see of a window of at most 1024 px a side.
    """
    paired = "before" in glimpse.pictures
    marked = np.flatnonzero(_marked(paired=paired))
    cells = Cells(glimpse.height, glimpse.width, PICTURE_SIDE)
    counts = np.frombuffer(zlib.decompress(glimpse.changes), np.uint32).reshape(cells.shape)
    crops = []
    for window in busiest(counts, glimpse.height, glimpse.width, lambda w: np.isin(look(w).codes(), marked)):
        seen = look(window)
        shares = np.eye(_INVALID + 1, dtype=np.float32)[seen.codes()]
        pictures = _draw(shares, _shown(seen.image), seen.base.probabilities, ends=glimpse.ends, paired=paired)
        if glimpse.table is not None:
            pictures |= {key: glimpse.table[numbers] for key, numbers in seen.classes.items()}
        del pictures["label"]  # the colours of changes show it
        crops.append(Crop(window, {key: _encoded(key, pixels, _CROP_ROOM) for key, pixels in pictures.items()}))
    return crops


def _draw(
    shares: NDArray[np.float32],
    bands: Sequence[NDArray[np.float32]],
    scores: NDArray[np.float32] | None,
    *,
    ends: tuple[float, float],
    paired: bool,
) -> dict[str, colours.Pixels]:
    """The pictures of an image, or of a part of it, by panel."""
    pictures = {"label": _mask_pixels(shares, _LABEL), "after": _mask_pixels(shares, _AFTER)}
    if bands:
        pictures["image"] = _image_pixels(bands, *ends)
    elif scores is not None:
        pictures["scores"] = colours.diverging(logit(scores), centre=0, reach=LOGIT_REACH)
    if paired:
        pictures["before"] = _mask_pixels(shares, _BEFORE)
    pictures["change"] = _change_pixels(shares, paired=paired)
    return pictures


def _shown(image: NDArray[np.float32] | None) -> Sequence[NDArray[np.float32]]:
    """The bands of an image that are shown: three or one; none without an image."""
    return [] if image is None else list(image[: 3 if len(image) >= 3 else 1])


def _encoded(key: str, pixels: colours.Pixels, most: int) -> bytes:
    return encode_picture(pixels, most=most, drawing=key not in ("image", "scores"))


def _sums(flags: NDArray[np.bool_], patch: int) -> NDArray[np.int64]:
    """The count of true flags in each patch."""
    narrow = np.add.reduceat(flags, np.arange(0, flags.shape[1], patch), axis=1, dtype=np.int64)
    return np.asarray(np.add.reduceat(narrow, np.arange(0, len(flags), patch), axis=0))


def _range(bands: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    """The numbers shown as black and white: those of bytes, or of others the 2nd and the 98th percentile."""
    pixels = np.stack(bands)
    known = pixels[~np.isnan(pixels)]
    if not known.size or (known.min() >= 0 and 1 < known.max() <= 255):
        return 0.0, 255.0
    low, high = np.percentile(known, (2, 98))
    return float(low), float(max(high, low + 1e-12))


def _image_pixels(bands: Sequence[NDArray[np.float32]], low: float, high: float) -> colours.Pixels:
    pixels = np.stack(bands if len(bands) == 3 else 3 * list(bands), axis=-1)
    pixels = (pixels - low) / (high - low) * 255
    return np.nan_to_num(np.clip(pixels, 0, 255)).round().astype(np.uint8)


def _mask_pixels(shares: NDArray[np.float32], mask: NDArray[np.int64]) -> colours.Pixels:
    return colours.blend(shares, np.where(mask, colours.FOREGROUND, colours.BACKGROUND))


def _marked(*, paired: bool) -> NDArray[np.bool_]:
    """`(8,)` whether pixels of a code changed; without a base, whether they are wrong."""
    return np.asarray((_BEFORE != _AFTER) if paired else (_AFTER != _LABEL))


def _change_pixels(shares: NDArray[np.float32], *, paired: bool) -> colours.Pixels:
    """What is won and lost; without a base, what is missed (in the colour of won) and spurious."""
    right, marked = _AFTER == _LABEL, _marked(paired=paired)
    plain = np.where(_LABEL, colours.FOREGROUND, colours.BACKGROUND)
    if paired:
        plain, weight = np.where(right, plain, colours.WRONG), 3
        mark = np.where(right, colours.WON, colours.LOST)
    else:
        weight = 2
        mark = np.where(_LABEL, colours.WON, colours.LOST)
    return colours.blend(shares, np.where(marked, mark, plain), np.where(marked, weight, 1))
