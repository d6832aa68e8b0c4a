"""What the numbers of a score map mean: logits, probabilities, percent or bytes; found out for a set, or refused."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, UsageError
from prn_cli.files.remote import as_path
from prn_cli.maps.tiles import Window
from prn_cli.rasters.raster import Raster, holds, open_raster
from prn_cli.rasters.writing import MASK_VALUES

InputKind = Literal["logits", "probabilities", "percent", "byte"]
"""What the numbers mean: logits; probabilities 0 to 1; percent 0 to 100; byte: 0 to the most that the type holds."""

INPUT_KINDS: tuple[InputKind, ...] = get_args(InputKind)

ROUNDING = 2e-3
"""How far rounding (float16, resampling) may carry a probability beyond 0 or 1. It is clipped."""

LARGEST_LOGIT = 5000.0
"""Numbers beyond this are no logits but stand for missing data, such as -9999 and -3.4e38."""

_MOST_FILES = 16
_FOREGROUNDS = {foreground for _, foreground in MASK_VALUES}
_MASK_NUMBERS = {number for values, nodata in MASK_VALUES.items() for number in (*values, nodata)}
_SMALL_MAP = 1 << 20  # pixels
_SAMPLE_SIDE = 256  # px
_SAMPLES_ACROSS = 4


def full_scale(kind: InputKind, dtype: np.dtype[Any]) -> float:
    """The number that stands for probability 1."""
    if kind == "percent":
        return 100.0
    if kind == "byte":
        return float(np.iinfo(dtype).max) if dtype.kind == "u" else 255.0
    return 1.0


def detect_kind(
    paths: Sequence[str | os.PathLike[str]],
    *,
    nodata: float | None = None,
    key: str | None = None,
) -> InputKind:
    """Find out what the numbers of a set of score maps mean, from their type and joint range.

    At most 16 files, evenly spread, are looked at, and of big files a few windows. Files that cannot be read, or
    whose numbers cannot be scores, are passed over: they fail on their own when their turn comes.

    Args:
        paths: the files of the set.
        nodata: value of invalid pixels, see `open_scores`.
        key: name of the array in `.npz` files.

    Raises:
        InputError: the numbers could mean more than one thing, the files differ, or none can be read.
        UsageError: none can be read as the options stand.
    """
    sample = _sample(paths, nodata, key)
    return sample.kind()


def detect_mask_or_kind(
    paths: Sequence[str | os.PathLike[str]], *, nodata: float | None = None, key: str | None = None
) -> Literal["mask"] | InputKind:
    """As `detect_kind`, but integers that are all 0 and 1, or 0 and 255, are a mask and not refused.

    In uint8 they may be with the nodata value of prn's masks, 127 with 0 and 255 or 255 with 0 and 1.
    """
    sample = _sample(paths, nodata, key)
    return "mask" if sample.is_mask() else sample.kind()


def undeclared_nodata(numbers: set[int]) -> int | None:
    """The nodata value of a uint8 mask that prn wrote as `.npy`, which cannot declare it; None for other numbers.

    127 is no foreground, so it is nodata even where a mask of 0 and 255 has no foreground. 255 is nodata only beside
    a foreground of 1: masks of 0 and 1 without it are not written as `.npy` (see `can_tell_invalid`).
    """
    for values, nodata in MASK_VALUES.items():
        if nodata in numbers and numbers <= {*values, nodata} and (nodata not in _FOREGROUNDS or values[1] in numbers):
            return nodata
    return None


def _distinct_bytes(numbers: NDArray[Any]) -> set[int]:
    return set(np.flatnonzero(np.bincount(numbers.ravel(), minlength=256)).tolist())


@dataclass(slots=True)
class _Sample:
    """Type and range of the valid numbers of a few files.

    Attributes:
        dtype: type of the numbers.
        path: the first file.
        files: how many files were looked at.
        low: the least number.
        high: the greatest number.
        two_values: whether all numbers are 0 or the greatest.
        sets: of uint8, the numbers of each file.
    """

    dtype: np.dtype[Any]
    path: Path
    files: int = 1
    low: float = np.inf
    high: float = -np.inf
    two_values: bool = True
    sets: list[set[int]] = field(default_factory=lambda: [set()])

    def add(self, numbers: NDArray[Any]) -> None:
        if not numbers.size:
            return
        if numbers.dtype == np.uint8:
            self.sets[0] |= _distinct_bytes(numbers)
        high = float(numbers.max())
        two_values = numbers.dtype.kind != "f" and bool(((numbers == 0) | (numbers == high)).all())
        self._join(float(numbers.min()), high, two_values)

    def join(self, other: _Sample) -> None:
        self.files += other.files
        self.sets += other.sets
        self._join(other.low, other.high, other.two_values)

    def _join(self, low: float, high: float, two_values: bool) -> None:
        highs = {self.high, high} - {0.0, -np.inf}
        self.two_values = self.two_values and two_values and len(highs) <= 1
        self.low, self.high = min(self.low, low), max(self.high, high)

    def is_alike(self, other: _Sample) -> bool:
        """Whether the two files' types can be of one kind of input."""
        kinds = self.dtype.kind, other.dtype.kind
        return kinds == ("f", "f") or (kinds[0] == kinds[1] and self.dtype.itemsize == other.dtype.itemsize)

    def is_mask(self) -> bool:
        """Whether these are masks.

        Raises:
            InputError: they are, but of 0 and 1 and of 0 and 255, so that 255 could mean two things.
        """
        found = set().union(*self.sets)
        if self.dtype != np.uint8 or not found <= _MASK_NUMBERS:
            return self._is_two_values()
        if 1 in found and (127 in found or any(255 in numbers and 1 not in numbers for numbers in self.sets)):
            raise InputError(
                f"masks of 0 and 1 and masks of 0 and 255 in one set: the numbers are {sorted(found)}",
                hint="name those of one kind at a time; or say --nodata 255 if it means invalid",
                path=self.path,
            )
        return True

    def _is_two_values(self) -> bool:
        return self.dtype.kind in "bui" and self.two_values and self.low >= 0 and self.high in (0, 1, 255)

    def check(self) -> None:
        """Check that the numbers can be scores.

        Raises:
            InputError: some stand for missing data, and nothing says so.
        """
        for value in (self.low, self.high):
            if self.dtype.kind in "fi" and abs(value) > LARGEST_LOGIT:
                raise unlikely_logit(value, self.path)

    def kind(self) -> InputKind:
        if self.dtype.kind == "f":
            return self._kind_of_floats()
        if self.is_mask():
            raise self._ambiguous("a mask of two values and not a score map", "byte or percent, to use it all the same")
        if self.dtype.kind == "u" and self.dtype.itemsize <= 2:
            least = 100 if self.dtype.itemsize == 1 else 255
            if self.high > least:
                return "byte"
            raise self._ambiguous("percent or byte", "percent or --input-kind byte")
        raise self._ambiguous("logits, percent or byte", "logits, percent or byte")

    def _kind_of_floats(self) -> InputKind:
        if self.low < -ROUNDING:
            return "logits"
        if self.high == 0:
            raise self._ambiguous("logits or probabilities", "logits or --input-kind probabilities")
        if self.high <= 1 + ROUNDING:
            return "probabilities"
        if self.high <= 100 * (1 + ROUNDING):
            raise self._ambiguous("percent or logits", "percent or --input-kind logits")
        raise self._ambiguous("byte or logits", "byte or --input-kind logits")

    def _ambiguous(self, meanings: str, choices: str) -> InputError:
        where = f" in the {self.files} files looked at" if self.files > 1 else ""
        return InputError(
            f"{self.dtype} from {self.low:g} to {self.high:g}{where} could be {meanings}",
            hint=f"say which: --input-kind {choices}",
            path=self.path,
        )


def _sample(paths: Sequence[str | os.PathLike[str]], nodata: float | None, key: str | None) -> _Sample:
    if not paths:
        raise InputError("no score maps, expected at least one", hint="name files or folders")
    count = min(len(paths), _MOST_FILES)
    chosen = [as_path(paths[round(i * (len(paths) - 1) / max(count - 1, 1))]) for i in range(count)]
    sample: _Sample | None = None
    failure: InputError | UsageError | None = None
    for path in chosen:
        try:
            with open_raster(path, key=key) as raster:
                one = _sample_of(raster, nodata)
            one.check()
        except (InputError, UsageError) as error:  # usage: several arrays in an archive, an extra that is missing
            failure = failure or error
            continue
        if sample is None:
            sample = one
        elif not sample.is_alike(one):
            raise InputError(
                f"numbers of type {one.dtype}, but {sample.path.name} has {sample.dtype}: not one kind of input",
                hint="name files of one type at a time",
                path=path,
            )
        else:
            sample.join(one)
    if sample is None:
        assert failure is not None
        raise failure
    return sample


def _sample_of(raster: Raster, nodata: float | None) -> _Sample:
    sample = _Sample(raster.dtype, raster.path)
    for window in _sample_windows(raster.height, raster.width, sample):
        values = raster.read(window)
        usable = valid_pixels(raster, values, window, nodata, full=None)
        sample.add(values if usable.all() else values[:, usable])
        if raster.dtype.kind == "f" and sample.low < -ROUNDING:
            break  # logits, whatever else is in it
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
            # Nothing but zeros and invalid pixels so far: look on until there is something to go by.
            yield Window(y, x, min(h, height - y), min(w, width - x))


def valid_pixels(
    raster: Raster,
    values: NDArray[Any],
    window: Window | None,
    nodata: float | None,
    full: float | None,
    *,
    all_finite: bool = False,
) -> NDArray[np.bool_]:
    """Where a raster's pixels are valid.

    Invalid are pixels with NaN or infinity in a band, with the nodata value, and those that the file's own alpha
    band or mask excludes. `nodata` counts besides the value that the file declares; NaN, which is invalid anyway,
    stands for "not the declared value".

    Args:
        raster: where the values come from.
        values: `(bands, h, w)` as read.
        window: the window that was read.
        nodata: value given by the user.
        full: the number that stands for probability 1, where the numbers are probabilities. A nodata value within
            0 and `full` may be a real value of one band, and so counts only where all bands have it.
        all_finite: no value is NaN or infinite, so that none needs to be looked for.

    Returns:
        `(h, w)` booleans.
    """
    if values.dtype.kind != "f" or all_finite:
        result = np.ones(values.shape[1:], np.bool_)
    else:
        finite = np.isfinite(values)
        result = finite[0] if len(finite) == 1 else finite.all(axis=0)
    own = raster.valid(window)
    if own is not None:
        result &= own
    declared = None if nodata is not None and np.isnan(nodata) else raster.nodata
    for value in {declared, nodata} - {None}:
        assert value is not None
        if not np.isfinite(value):
            continue
        equal = equals_nodata(values, value)
        result &= ~(equal.all(axis=0) if full is not None and 0 <= value <= full else equal.any(axis=0))
    return result


def equals_nodata(values: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    """Where values are the nodata value, rounded as their type rounds it."""
    if values.dtype.kind != "f":
        return np.asarray(values == int(nodata)) if holds(values.dtype, nodata) else np.zeros(values.shape, np.bool_)
    with np.errstate(over="ignore"):
        rounded = values.dtype.type(nodata)
    return np.asarray(values == rounded)


def unlikely_logit(value: float, path: Path) -> InputError:
    """The error of a number that is no logit."""
    return InputError(
        f"a value of {value:g}, expected logits within ±{LARGEST_LOGIT:g}, or probabilities",
        hint=f"say --nodata {value:g} if it means invalid",
        path=path,
    )


def no_valid_pixel(path: Path) -> InputError:
    """The error of a map in which every pixel is NaN, infinite, nodata or masked."""
    return InputError(
        "no valid pixel: all are NaN, infinite, nodata or masked",
        hint="leave this file out, or check --nodata",
        path=path,
    )
