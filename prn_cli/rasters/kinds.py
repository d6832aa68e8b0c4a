"""What the values of a set of predictions mean: resolved from their type and joint range, or refused as ambiguous."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, UsageError
from prn_cli.files.remote import as_path
from prn_cli.maps.certain import CERTAIN, find_certain
from prn_cli.maps.tiles import Window
from prn_cli.rasters.base import Raster
from prn_cli.rasters.mask_values import MASK_NUMBERS
from prn_cli.rasters.raster import open_raster
from prn_cli.rasters.roles import AS_DECLARED, InputKind, Reading
from prn_cli.rasters.valid import no_valid_pixel, valid_pixels

ROUNDING = 2e-3
"""How far rounding (float16, resampling) may carry a probability beyond 0 or 1. It is clipped."""

_MOST_FILES = 16
_SMALL_MAP = 1 << 20  # pixels
_SAMPLE_SIDE = 256  # px
_SAMPLES_ACROSS = 4


def full_scale(kind: InputKind, dtype: np.dtype[Any]) -> float:
    """The value of probability 1."""
    if kind == "percent":
        return 100.0
    if kind == "byte":
        return float(np.iinfo(dtype).max) if dtype.kind == "u" else 255.0
    return 1.0


def resolve(
    reading: Reading,
    paths: Sequence[str | os.PathLike[str]],
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


def count_bands(paths: Sequence[str | os.PathLike[str]], reading: Reading = AS_DECLARED) -> int:
    """The number of bands of the first of these files that can be opened.

    Raises:
        InputError: none can.
        UsageError: none can with these options.
    """
    failure: InputError | UsageError | None = None
    for path in paths:
        try:
            with open_raster(path, key=reading.key, max_pixels=reading.max_pixels) as raster:
                return raster.bands
        except (InputError, UsageError) as error:
            failure = failure or error
    raise failure or InputError("no files, expected at least one", hint="name files or folders")


def count_classes(paths: Sequence[str | os.PathLike[str]], reading: Reading = AS_DECLARED) -> int:
    """The number of classes of maps with a band per class, by the first that can be opened.

    Raises:
        InputError: none can.
        UsageError: it has one band.
    """
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
        sets: of uint8, the values of each file.
    """

    dtype: np.dtype[Any]
    path: Path
    files: int = 1
    low: float = np.inf
    high: float = -np.inf
    two_values: bool = True
    sets: list[set[int]] = field(default_factory=lambda: [set()])

    def add(self, values: NDArray[Any]) -> None:
        if not values.size:
            return
        if values.dtype == np.uint8:
            self.sets[0] |= set(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist())
        high = float(values.max())
        two_values = values.dtype.kind != "f" and bool(((values == 0) | (values == high)).all())
        self._join(float(values.min()), high, two_values)

    def join(self, other: _Sample) -> None:
        self.files += other.files
        self.sets += other.sets
        self._join(other.low, other.high, other.two_values)

    def _join(self, low: float, high: float, two_values: bool) -> None:
        highs = {self.high, high} - {0.0, -np.inf}
        self.two_values = self.two_values and two_values and len(highs) <= 1
        self.low, self.high = min(self.low, low), max(self.high, high)

    def is_alike(self, other: _Sample) -> bool:
        """Whether the types of the two can be of one kind."""
        kinds = self.dtype.kind, other.dtype.kind
        return kinds == ("f", "f") or (kinds[0] == kinds[1] and self.dtype.itemsize == other.dtype.itemsize)

    def is_mask(self) -> bool:
        """Whether these are masks.

        Raises:
            InputError: they are, but some of 0 and 1 and others of 0 and 255, so that 255 could mean two things.
        """
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
        """Check that the values can be scores.

        Raises:
            InputError: some stand for missing data, and nothing says so.
        """
        for value in (self.low, self.high):
            if self.dtype.kind in "fi" and abs(value) > CERTAIN:
                raise unlikely_logit(value, self.path)

    def kind(self) -> InputKind:
        """The kind of scores.

        Raises:
            InputError: the values could mean more than one thing, or are a mask.
        """
        if self.dtype.kind == "f":
            if self.low < -ROUNDING:
                return "logits"
            if self.high == 0:
                raise self._ambiguous("logits or probabilities", "logits or --input-kind probabilities")
            if self.high <= 1 + ROUNDING:
                return "probabilities"
            scale = "percent" if self.high <= 100 * (1 + ROUNDING) else "byte"
            raise self._ambiguous(f"{scale} or logits", f"{scale} or --input-kind logits")
        if self.is_mask():
            raise self._ambiguous("a mask of two values and not a score map", "mask, to refine it all the same")
        if self.dtype.kind == "u" and self.dtype.itemsize <= 2:
            if self.high > (100 if self.dtype.itemsize == 1 else 255):
                return "byte"
            raise self._ambiguous("percent or byte", "percent or --input-kind byte")
        raise self._ambiguous("logits, percent or byte", "logits, percent or byte")

    def _ambiguous(self, meanings: str, choices: str) -> InputError:
        where = f" in the {self.files} files looked at" if self.files > 1 else ""
        return InputError(
            f"{self.dtype} from {self.low:g} to {self.high:g}{where} could be {meanings}",
            hint=f"say which: --input-kind {choices}",
            path=self.path,
        )


def _sample(paths: Sequence[str | os.PathLike[str]], reading: Reading) -> _Sample:
    if not paths:
        raise InputError("no score maps, expected at least one", hint="name files or folders")
    count = min(len(paths), _MOST_FILES)
    sample: _Sample | None = None
    failure: InputError | UsageError | None = None
    for number in range(count):
        path = as_path(paths[round(number * (len(paths) - 1) / max(count - 1, 1))])
        try:
            with open_raster(path, key=reading.key, max_pixels=reading.max_pixels) as raster:
                one = _sample_of(raster, reading.nodata)
            one.check()
        except (InputError, UsageError) as error:  # usage: several arrays in an archive, an extra that is missing
            failure = failure or error
            continue
        if sample is None:
            sample = one
        elif sample.is_alike(one):
            sample.join(one)
        else:
            raise InputError(
                f"numbers of type {one.dtype}, but {sample.path.name} has {sample.dtype}: not one kind of input",
                hint="name files of one type at a time",
                path=path,
            )
    if sample is None:
        assert failure is not None
        raise failure
    return sample


def _sample_of(raster: Raster, nodata: float | None) -> _Sample:
    sample = _Sample(raster.dtype, raster.path)
    certain_alone = False
    for window in _sample_windows(raster.height, raster.width, sample):
        values = raster.read(window)
        usable = valid_pixels(raster, values, window, nodata, full=None, infinite=True)
        uncertain = ~find_certain(values)
        certain_alone |= bool(usable.any())
        sample.add(values if usable.all() and uncertain.all() else values[usable & uncertain])
        if raster.dtype.kind == "f" and sample.low < -ROUNDING:
            break  # logits, whatever else is in it
    if sample.high < sample.low and certain_alone:
        sample.low, sample.high = -CERTAIN, CERTAIN  # infinite throughout: logits of a hard mask
    if sample.high < sample.low:
        raise no_valid_pixel(raster.path)
    return sample


def _sample_windows(height: int, width: int, sample: _Sample) -> Iterator[Window]:
    if height * width <= _SMALL_MAP:
        for y in range(0, height, _SAMPLE_SIDE):
            yield Window(y, 0, min(_SAMPLE_SIDE, height - y), width)
        return
    h, w = min(height, _SAMPLE_SIDE), min(width, _SAMPLE_SIDE)
    last = _SAMPLES_ACROSS - 1
    for down in range(_SAMPLES_ACROSS):
        for across in range(_SAMPLES_ACROSS):
            yield Window((height - h) * down // last, (width - w) * across // last, h, w)
    for y in range(0, height, h):
        for x in range(0, width, w):
            if sample.low < sample.high or sample.high not in (0, -np.inf):
                return
            # Nothing but zeros and invalid pixels so far: look on until there is evidence.
            yield Window(y, x, min(h, height - y), min(w, width - x))


def unlikely_logit(value: float, path: Path) -> InputError:
    """The error of a value that is no logit."""
    return InputError(
        f"a value of {value:g}, expected logits within ±{CERTAIN:g}, or probabilities",
        hint=f"say --nodata {value:g} if it means invalid",
        path=path,
    )
