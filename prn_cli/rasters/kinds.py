"""What the values of a set of predictions mean: resolved from their type and joint range, or refused as ambiguous."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, UsageError
from prn_cli.maps.certain import CERTAIN, find_certain
from prn_cli.maps.tiles import Window, cut_windows
from prn_cli.rasters.base import Raster
from prn_cli.rasters.mask_values import MASK_NUMBERS
from prn_cli.rasters.pairs import spread
from prn_cli.rasters.raster import read_each
from prn_cli.rasters.roles import AS_DECLARED, InputKind, Reading
from prn_cli.rasters.valid import no_valid_pixel, valid_pixels

_Path = str | os.PathLike[str]

ROUNDING = 2e-3
"""How far rounding (float16, resampling) may carry a probability beyond 0 or 1. It is clipped."""

_MOST_FILES = 16
_SMALL_MAP = 1 << 20  # pixels
_SAMPLE_SIDE = 256  # px
_SAMPLES_ACROSS = 4
_MOST_PAIRS = 1 << 12  # pixels a window, of two bands that are compared
_SCALES = (127, 200, 250, 255, 1000, 1023, 2047, 4095, 10_000, 16_383, 32_767, 65_535)
_NEAR = 0.45  # of a scale, the least greatest value that it is suggested for
_TELLING = 200  # values, whose greatest says something
_LARGE_LOGIT = 100.0  # whole numbers beyond were multiplied
_SCALES_OF_BYTES = ((0, 201), (249, 250))  # greatest numbers of maps that were multiplied by 200 or 250
_LEAST_SHARE = 0.503  # of the greatest number of a longer type: 10,000, 4095 and 32,767 are scales of their own
_LEAST_ANTICORRELATION = -0.2
_BOTH_SIGNS = 0.02  # of the pixels, at least


def full_scale(kind: InputKind, raster: Raster) -> float:
    """The value of probability 1."""
    if kind == "percent":
        return 100.0
    if kind == "byte":
        return float(raster.greatest) if raster.dtype.kind == "u" else 255.0
    return 1.0


def resolve(
    reading: Reading,
    paths: Sequence[_Path],
    role: Literal["scores", "class scores", "prediction", "class prediction"] = "scores",
) -> Reading:
    """The reading of a set, with its kind resolved if it was `auto`.

    Scores are told by the type and joint range of at most 16 files, evenly spread over the set; of large files, a few
    windows are read. Files that cannot be read, or whose values cannot be scores, are skipped: they fail on their own
    when their turn comes.

    Args:
        reading: how the files are read.
        paths: the files of the set.
        role: of the files. A prediction may be a mask: integers that are all 0 and 1, or 0 and 255, and in uint8 the
            nodata value of masks that prn wrote. A class prediction of one band holds class numbers.

    Raises:
        InputError: the values could mean more than one thing, the files differ, or none can be read.
        UsageError: none can be read with these options.
    """
    if reading.kind != "auto":
        return reading
    if role == "class prediction" and count_bands(paths, reading) == 1:
        return replace(reading, kind="numbers")
    sample = _sample(paths, reading)
    return replace(reading, kind="mask" if role == "prediction" and sample.is_mask() else sample.kind())


def with_bands(reading: Reading, paths: Sequence[_Path]) -> Reading:
    """The reading of a set whose kind is known, with the number of bands that all of its files must have.

    Refuses two bands of logits that can be no softmax pair, as which they would be read.
    """
    try:
        known = replace(reading, bands=count_bands(paths, reading))
        sample = _sample(paths, reading) if known.is_pair and reading.kind == "logits" else None
    except (InputError, UsageError):  # they fail when their turn comes
        return reading
    if sample is not None:
        sample.check_pair()
    return known


def count_bands(paths: Sequence[_Path], reading: Reading = AS_DECLARED) -> int:
    """The number of bands of the first of these files that can be opened."""
    return next(read_each(paths, lambda raster: raster.bands, reading, none="no files, expected at least one"))


def count_classes(paths: Sequence[_Path], reading: Reading = AS_DECLARED) -> int:
    """The number of classes of maps with a band per class, at least two, by the first that can be opened."""
    bands = count_bands(paths, reading)
    if bands < 2:
        raise UsageError("--task multiclass on maps of 1 band, expected one a class", hint="leave --task out")
    return bands


@dataclass(slots=True)
class _Sample:
    """Type and range of the valid values of a few files.

    Attributes:
        dtype: type of the values.
        path: the first file.
        files: number of files.
        low: the least value.
        high: the greatest value.
        two_values: whether all values are 0 or the greatest.
        whole: whether all values are whole numbers.
        low_alone: whether all values but the least could be probabilities.
        count: number of values.
        below: number of values below `most`, and the greatest of them.
        most: the greatest value that the files can hold, if they hold unsigned integers.
        scale: see `Reading`.
        sets: of uint8, the values of each file.
        pairs: of two bands, some values, `(2, n)` a window.
        soft: a file of floats that surely are probabilities, if they are read alone.
    """

    dtype: np.dtype[Any]
    path: Path
    most: int
    scale: float | None
    files: int = 1
    low: float = np.inf
    high: float = -np.inf
    two_values: bool = True
    whole: bool = True
    low_alone: bool = True
    count: int = 0
    below: tuple[int, float] = (0, 0.0)
    sets: list[set[int]] = field(default_factory=lambda: [set()])
    pairs: list[NDArray[Any]] = field(default_factory=list)
    soft: Path | None = None

    def add(self, values: NDArray[Any]) -> None:
        if not values.size:
            return
        if values.dtype == np.uint8:
            self.sets[0] |= set(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist())
        low, high = float(values.min()), float(values.max())
        if values.dtype.kind == "u":
            below = values < self.most
            self._join_below(int(np.count_nonzero(below)), float(values.max(initial=0, where=below)))
        self.whole = self.whole and bool((values == np.rint(values)).all())
        if values.dtype.kind == "f":
            among = (values >= -ROUNDING) & (values <= 1 + ROUNDING)
            self._join_low_alone(low, alone=bool((among | (values == low)).all()))
        self.count += values.size
        possible = values.dtype.kind != "f" or (low >= 0 and high in (0, 1))
        self._join(low, high, possible and bool(((values == 0) | (values == high)).all()))

    def _join_low_alone(self, low: float, *, alone: bool) -> None:
        negative = {value for value in (self.low, low) if value < -ROUNDING}
        self.low_alone = self.low_alone and alone and len(negative) <= 1

    def join(self, other: _Sample) -> None:
        self._join_low_alone(other.low, alone=other.low_alone)
        self.count += other.count
        self.files += other.files
        self.sets += other.sets
        self.pairs += other.pairs
        self.soft = self.soft or other.soft
        self.most = max(self.most, other.most)
        self._join_below(*other.below)
        self.whole = self.whole and other.whole
        self._join(other.low, other.high, other.two_values)

    def _join(self, low: float, high: float, two_values: bool) -> None:
        highs = {self.high, high} - {0.0, -np.inf}
        self.two_values = self.two_values and two_values and len(highs) <= 1
        self.low, self.high = min(self.low, low), max(self.high, high)

    def _join_below(self, count: int, greatest: float) -> None:
        self.below = self.below[0] + count, max(self.below[1], greatest)

    def is_alike(self, other: _Sample) -> bool:
        """Whether the types of the two can be of one kind."""
        kinds = self.dtype.kind, other.dtype.kind
        return kinds == ("f", "f") or (kinds[0] == kinds[1] and self.dtype.itemsize == other.dtype.itemsize)

    def is_mask(self) -> bool:
        """Whether these are masks. Refuses those of 0 and 1 beside those of 0 and 255: 255 could mean two things."""
        if self.dtype.kind == "f":
            return self.two_values and (self.low, self.high) == (0, 1)
        found = set().union(*self.sets)
        if self.dtype != np.uint8 or not found <= MASK_NUMBERS:
            return self.dtype.kind in "bui" and self.two_values and self.low >= 0 and self.high in (0, 1, 255)
        if 1 in found and (127 in found or any(255 in numbers and 1 not in numbers for numbers in self.sets)):
            raise InputError(
                f"masks of 0 and 1 and masks of 0 and 255 in one set: the numbers are {sorted(found)}",
                hint="name those of one kind at a time; or say --nodata 255 if it means invalid",
                path=self.path,
            )
        return True

    def check(self) -> None:
        """Refuse values that stand for missing data where nothing says so."""
        for value in (self.low, self.high):
            if self.dtype.kind in "fi" and abs(value) > CERTAIN * (self.scale or 1):
                raise unlikely_logit(value, self.path)

    def kind(self) -> InputKind:
        """The kind of scores. Refuses masks, and values that could mean more than one thing."""
        floats = self.dtype.kind == "f"
        if self.scale is None and self.is_mask():
            raise self._ambiguous("a mask of two values and not a score map", "mask, to refine it all the same")
        if floats or self.scale is not None:
            low, high = self.low / (self.scale or 1), self.high / (self.scale or 1)
            if low < -ROUNDING:
                if self.soft is not None:
                    raise InputError(
                        "values from 0 to 1, where other files hold logits: probabilities, by all appearance",
                        hint="name files of one kind at a time, or say --input-kind logits",
                        path=self.soft,
                    )
                tells = self.count >= _TELLING and high > 0
                if tells and self.low_alone and floats:
                    raise self._ambiguous(
                        f"logits, or probabilities beside {self.low:g}",
                        f"logits, or --input-kind probabilities --nodata {self.low:g}",
                    )
                if tells and self.whole and max(-low, high) > _LARGE_LOGIT:
                    raise self._ambiguous(
                        "logits, or logits times a number", "logits; or --scale 100 for logits times 100"
                    )
                return "logits"
            if high == 0:
                raise self._ambiguous("logits or probabilities", "logits or --input-kind probabilities")
            if high <= 1 + ROUNDING:
                return "probabilities"
            if self.scale is not None:
                raise self._ambiguous(f"logits, and no probabilities times {self.scale:g}", "logits")
            kind = "percent" if high <= 100 * (1 + ROUNDING) else "byte"
            raise self._ambiguous(f"{kind} or logits", f"{kind} or --input-kind logits{self._or_scale(self.high)}")
        third = self._third_value()
        if third is not None:
            raise self._ambiguous(
                "a mask of three values and not a score map", f"byte, or --nodata {third} if it means undecided"
            )
        if self.dtype.kind == "u" and self.dtype.itemsize <= 2:
            high = self._high_but_for_most()
            beside = f"; --nodata {self.most}, if it means invalid" if high < self.high else ""
            if high <= (100 if self.dtype.itemsize == 1 else 255):
                raise self._ambiguous("percent or byte", f"percent or --input-kind byte{beside}")
            if not self._ends_early(high):
                return "byte"
            meanings = f"byte, which ends at {self.most}, or another scale"
            raise self._ambiguous(meanings, f"byte{self._or_scale(high)}{beside}")
        raise self._ambiguous("logits, percent or byte", f"logits, percent or byte{self._or_scale(self.high)}")

    def _third_value(self) -> int | None:
        """The value between 0 and 255, if there is only one, which often means undecided."""
        found = set().union(*self.sets) - {0, 255}
        return found.pop() if len(found) == 1 and self.high == 255 and self.low == 0 else None

    def _high_but_for_most(self) -> float:
        """The greatest value; or the one below the type's own, if that stands far apart and so may mean invalid."""
        count, second = self.below
        apart = self.high == self.most and count >= _TELLING and second > 0 and self._ends_early(second)
        return second if apart else self.high

    def _ends_early(self, high: float) -> bool:
        """Whether the greatest value is that of another scale than the type's."""
        if self.most == np.iinfo(np.uint8).max:
            return any(low <= high <= most for low, most in _SCALES_OF_BYTES)
        return high <= _LEAST_SHARE * self.most

    def _or_scale(self, high: float) -> str:
        """The end of a hint: the usual scale that the greatest value fits."""
        scale = next((scale for scale in _SCALES if _NEAR * scale <= high <= scale and self.low >= 0), None)
        return "" if scale is None else f"; or --scale {scale} for probabilities times {scale}"

    def check_pair(self) -> None:
        """Refuse two bands that cannot be the logits of a softmax pair: as one rises, the other falls."""
        first, second = np.concatenate(self.pairs or [np.zeros((2, 0))], axis=1).astype(np.float64)
        if not first.any() or np.abs(np.logaddexp(first, second)).max() < ROUNDING:  # background of 0; log-softmax
            return
        constant = min(np.ptp(first), np.ptp(second)) == 0
        correlation = 0.0 if constant else float(np.corrcoef(first, second)[0, 1])
        for one, other in ((first, second), (second, first)):
            if one.min() >= 0 and min(np.mean(other < 0), np.mean(other > 0)) > _BOTH_SIGNS:
                correlation = max(correlation, 0.0)  # a band that is never negative is no logit
        if correlation > _LEAST_ANTICORRELATION:
            raise InputError(
                f"2 bands, {np.min(first):g} to {np.max(first):g} and {np.min(second):g} to {np.max(second):g}, that "
                "do not rise and fall against each other as the logits of a softmax pair do",
                hint="save the band of the scores alone; if they are a pair, say --bidx 2, the foreground",
                path=self.path,
            )

    def _ambiguous(self, meanings: str, choices: str) -> InputError:
        where = f" in the {self.files} files looked at" if self.files > 1 else ""
        return InputError(
            f"{self.dtype} from {self.low + 0:g} to {self.high + 0:g}{where} could be {meanings}",
            hint=f"say which: --input-kind {choices}",
            path=self.path,
        )


def _sample(paths: Sequence[_Path], reading: Reading) -> _Sample:
    read = partial(_sample_of, reading=reading)
    found = read_each(spread(paths, _MOST_FILES), read, reading, none="no score maps, expected at least one")
    sample = next(found)
    for one in found:
        if not sample.is_alike(one):
            raise InputError(
                f"numbers of type {one.dtype}, but {sample.path.name} has {sample.dtype}: not one kind of input",
                hint="name files of one type at a time",
                path=one.path,
            )
        sample.join(one)
    return sample


def _sample_of(raster: Raster, reading: Reading) -> _Sample:
    sample = _Sample(raster.dtype, raster.path, raster.greatest, reading.scale)
    certain_alone, paired = False, raster.bands == 2 and reading.band is None
    for window in _sample_windows(raster.height, raster.width, sample):
        values = raster.read(window)
        usable = valid_pixels(raster, values, window, reading.nodata, full=None, infinite=True)
        uncertain = ~find_certain(values if reading.scale is None else values / reading.scale)
        certain_alone |= bool(usable.any())
        sample.add(values if usable.all() and uncertain.all() else values[usable & uncertain])
        if paired:
            both = values[:, usable & uncertain.all(axis=0)]
            sample.pairs.append(both[:, :: both.shape[1] // _MOST_PAIRS + 1])
        elif raster.dtype.kind == "f" and sample.low < -ROUNDING and not sample.low_alone:
            break  # logits, whatever else is in it
    if sample.high < sample.low and certain_alone:
        sample.low, sample.high = -CERTAIN, CERTAIN  # infinite throughout: logits of a hard mask
    if sample.high < sample.low:
        raise no_valid_pixel(raster)
    if raster.dtype.kind == "f" and sample.count >= _TELLING and 0 <= sample.low < 0.5 < sample.high <= 1:
        sample.soft = raster.path
    sample.check()
    return sample


def _sample_windows(height: int, width: int, sample: _Sample) -> Iterator[Window]:
    if height * width <= _SMALL_MAP:
        yield from cut_windows(height, width, _SAMPLE_SIDE, width)
        return
    h, w = min(height, _SAMPLE_SIDE), min(width, _SAMPLE_SIDE)
    last = _SAMPLES_ACROSS - 1
    for down in range(_SAMPLES_ACROSS):
        for across in range(_SAMPLES_ACROSS):
            yield Window((height - h) * down // last, (width - w) * across // last, h, w)
    for window in cut_windows(height, width, h, w):
        if sample.low < sample.high or sample.high not in (0, -np.inf):
            return
        # Nothing but zeros and invalid pixels so far: look on until there is evidence.
        yield window


def unlikely_logit(value: float, path: Path) -> InputError:
    """The error of a value that is no logit."""
    return InputError(
        f"a value of {value:g}, expected logits within ±{CERTAIN:g}, or probabilities",
        hint=f"say --nodata {value:g} if it means invalid",
        path=path,
    )
