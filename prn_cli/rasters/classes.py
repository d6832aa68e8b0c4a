"""Maps of several classes: the scores of a softmax by band, class numbers, and the colours and names of classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, UsageError, reason
from prn_cli.files.remote import as_path
from prn_cli.maps.classes import MOST_CLASSES, one_versus_rest, one_versus_rest_of
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.probabilities import sigmoid
from prn_cli.maps.tiles import Window
from prn_cli.rasters.kinds import InputKind, no_valid_pixel
from prn_cli.rasters.labels import LabelMap
from prn_cli.rasters.raster import SUFFIXES, Raster, open_raster
from prn_cli.rasters.scores import ScoreMap, check_same_size, refuse_scaled

_SUM_TOLERANCE = 0.02  # how far from 1 a softmax may add up, after rounding to float16


class ClassScoreMap(ScoreMap):
    """The scores of all classes of a softmax, one a band. A context manager.

    Attributes:
        classes: how many there are.
    """

    def __init__(self, raster: Raster, kind: InputKind, *, nodata: float | None, valid: Raster | None) -> None:
        super().__init__(raster, kind, nodata=nodata, valid=valid, band=None)
        self.classes = raster.bands

    def logits(self, window: Window | None = None) -> NDArray[np.float32]:
        """Read one-versus-rest logits, see `prn_cli.maps.classes`.

        Args:
            window: part of the map, inside it; all of it if None.

        Returns:
            `(C, h, w)` float32, NaN where invalid.

        Raises:
            InputError: numbers outside the range of `kind`, probabilities that are not a softmax, a damaged file, or no
                valid pixel in the whole map.
        """
        scores = self._scores(window)
        return one_versus_rest(scores) if self.kind == "logits" else one_versus_rest_of(scores)

    def probabilities(self, window: Window | None = None) -> NDArray[np.float32]:
        """Read the probabilities of the softmax, `(C, h, w)` float32 in [0, 1]; otherwise as `logits`."""
        scores = self._scores(window)
        return sigmoid(one_versus_rest(scores)) if self.kind == "logits" else scores

    def scores(self, window: Window | None = None) -> NDArray[np.float32]:
        """Read logits or probabilities, whichever the file holds, `(C, h, w)` float32; otherwise as `logits`."""
        return self._scores(window)

    def _logits_of(self, values: NDArray[Any]) -> NDArray[np.float32]:
        return values.astype(np.float32)

    def _probabilities_of(self, values: NDArray[Any], valid: NDArray[np.bool_], full: float) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = values.astype(np.float32) / np.float32(full)
        total = scores.sum(axis=0)
        rounding = 0.0 if values.dtype.kind == "f" and full == 1 else self.classes / 2 / full
        off = (np.abs(total - 1) > _SUM_TOLERANCE + rounding) & valid
        if off.any():
            raise InputError(
                f"{self.classes} bands that add up to {float(total[off][0]):.3g} and not 1: not those of a softmax",
                hint="refine one class at a time, with --bidx",
                path=self.path,
            )
        return np.clip(scores, 0, 1, out=scores)


def open_class_scores(
    path: str | os.PathLike[str],
    *,
    kind: InputKind,
    nodata: float | None = None,
    valid_mask: str | os.PathLike[str] | None = None,
    key: str | None = None,
) -> ClassScoreMap:
    """Open a map of the scores of all classes of a softmax.

    Args:
        path: the file, of one band a class.
        kind: what its numbers mean.
        nodata: value of invalid pixels, see `open_scores`.
        valid_mask: a raster of the same size, zero where pixels are invalid.
        key: name of the array in an `.npz` file.

    Returns:
        The open map; use it in a `with` statement.

    Raises:
        InputError: the file cannot be used, or has fewer than 2 or more than 255 bands.
    """
    with ExitStack() as stack:
        raster = stack.enter_context(open_raster(path, key=key))
        refuse_scaled(raster)
        if not 2 <= raster.bands <= MOST_CLASSES:
            raise InputError(
                f"{raster.bands} band{'s' if raster.bands > 1 else ''}, expected one a class, 2 to {MOST_CLASSES}",
                hint="save the softmax of all classes as (C, H, W)",
                path=raster.path,
            )
        valid = None
        if valid_mask is not None:
            valid = stack.enter_context(open_raster(valid_mask))
            check_same_size(valid, raster)
        stack.pop_all()
    return ClassScoreMap(raster, kind, nodata=nodata, valid=valid)


class ClassNumbers(LabelMap):
    """A label or a map of class numbers, 0 to 254; or of one class, read as 1 where its number is and 0 elsewhere.

    Attributes:
        numbers: those that occur.
    """

    def __init__(self, raster: Raster, *, nodata: float | None, valid: Raster | None, one: int | None) -> None:
        """Look the file through. Closes nothing if that fails.

        Raises:
            InputError: see `open_class_numbers`.
        """
        super().__init__(raster, nodata=nodata, valid=valid)
        found = self._look_through() - {IGNORE}
        if not found:
            raise no_valid_pixel(self.path)
        odd = [number for number in found if not 0 <= number < MOST_CLASSES or number != int(number)]
        if odd:
            raise InputError(
                f"the value {min(odd):g}, expected class numbers from 0 to {MOST_CLASSES - 1}, or {IGNORE} to ignore",
                hint="save the numbers of the classes, and say with --label-nodata which value to ignore",
                path=self.path,
            )
        self.numbers = sorted(int(number) for number in found)
        self._one = one

    def check_below(self, classes: int) -> None:
        """Check that all numbers are those of so many classes.

        Raises:
            InputError: one is not.
        """
        if self.numbers[-1] >= classes:
            raise InputError(
                f"class {self.numbers[-1]}, expected 0 to {classes - 1}, or {IGNORE} to ignore",
                hint="number the classes as the bands of the score maps, from 0",
                path=self.path,
            )

    def _meaning(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        with np.errstate(invalid="ignore"):  # of invalid pixels
            numbers = values.astype(np.uint8)
        if self._one is None:
            return numbers
        return np.where(numbers == IGNORE, np.uint8(IGNORE), (numbers == self._one).astype(np.uint8))


def open_class_numbers(
    path: str | os.PathLike[str],
    *,
    nodata: float | None = None,
    valid_mask: str | os.PathLike[str] | None = None,
    one: int | None = None,
    key: str | None = None,
) -> ClassNumbers:
    """Open a label, or a map, of class numbers: grey values or palette indices from 0; 255 is ignored.

    Args:
        path: the file: one band, or three equal ones.
        nodata: value of pixels to ignore, besides 255 and the one that the file declares; NaN stands for "not the
            declared one".
        valid_mask: a raster of the same size, zero where pixels are invalid.
        one: read this class alone, as 1, and all others as 0.
        key: name of the array in an `.npz` file.

    Returns:
        The open map; use it in a `with` statement.

    Raises:
        InputError: the file cannot be read, has other bands, other numbers, or no pixel that counts.
    """
    with ExitStack() as stack:
        raster = stack.enter_context(open_raster(path, key=key))
        valid = None
        if valid_mask is not None:
            valid = stack.enter_context(open_raster(valid_mask))
            check_same_size(valid, raster)
        numbers = ClassNumbers(raster, nodata=nodata, valid=valid, one=one)
        stack.pop_all()
    return numbers


def count_bands(paths: Sequence[Path], *, key: str | None = None) -> int:
    """The number of bands of the first of these files that can be opened.

    Raises:
        InputError: none can.
        UsageError: none can as the options stand.
    """
    failure: InputError | UsageError | None = None
    for path in paths:
        try:
            with open_raster(path, key=key) as raster:
                return raster.bands
        except (InputError, UsageError) as error:
            failure = failure or error
    raise failure or InputError("no files, expected at least one", hint="name files or folders")


def count_classes_of_maps(paths: Sequence[Path], *, key: str | None = None) -> int:
    """The number of bands of maps with a band a class, by the first that can be opened.

    Raises:
        InputError: none can.
        UsageError: it has one band.
    """
    bands = count_bands(paths, key=key)
    if bands < 2:
        raise UsageError("--task multiclass on maps of 1 band, expected one a class", hint="leave --task out")
    return bands


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours, and perhaps names, of classes.

    Attributes:
        colours: `(N, 3)` uint8, red, green and blue by class number.
        names: by class number; None where there is none.
    """

    colours: NDArray[np.uint8]
    names: dict[int, str]


def read_palette(path: str | os.PathLike[str]) -> Palette:
    """Read the palette of a raster, or a text file of lines `NUMBER RED GREEN BLUE [NAME]`.

    Words may be separated by blanks or commas; lines that begin with `#` are passed over.

    Raises:
        InputError: there is no palette in it, or a line is not of this form.
    """
    path = as_path(path)
    if path.suffix.lower() in SUFFIXES:
        with open_raster(path) as raster:
            if raster.palette is None:
                raise InputError("has no palette", hint="name a palette PNG or TIFF, or a text file", path=path)
            return Palette(np.ascontiguousarray(raster.palette[:, :3]), {})
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {reason(error)}", hint="check the file", path=path) from error
    colours = np.zeros((256, 3), np.uint8)
    names: dict[int, str] = {}
    most = -1
    for line in lines:
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        values = [int(word) if word.isdecimal() else -1 for word in words[:4]]
        if len(values) < 4 or min(values) < 0 or max(values) > 255:
            raise InputError(
                f"the line {line.strip()!r}, expected NUMBER RED GREEN BLUE and perhaps a name, numbers 0 to 255",
                hint="as in: 2 128 64 128 road",
                path=path,
            )
        colours[values[0]] = values[1:]
        most = max(most, values[0])
        if words[4:]:
            names[values[0]] = " ".join(words[4:])
    if most < 0:
        raise InputError("no class in it", hint="a line a class: NUMBER RED GREEN BLUE NAME", path=path)
    return Palette(colours[: most + 1], names)


def class_names(classes: int, given: str | None, palette: Palette | None) -> list[str]:
    """The names of the classes: those given, or the palette's, or their numbers.

    Args:
        classes: how many there are.
        given: names separated by commas, by class number.
        palette: that may have names.

    Raises:
        UsageError: fewer colours than classes, other than one name a class, or names that cannot be told apart or
            cannot name folders.
    """
    if palette is not None and len(palette.colours) < classes:
        raise UsageError(f"a palette of {len(palette.colours)} colours, expected {classes}", hint="give each class one")
    if given is None:
        named = palette.names if palette is not None else {}
        names = [named.get(number, str(number)) for number in range(classes)]
    else:
        names = [name.strip() for name in given.split(",")]
        if len(names) != classes:
            raise UsageError(
                f"--classes names {len(names)} classes, expected {classes}", hint="name each, in the order of the bands"
            )
    if len(set(names)) != classes or not all(names) or any(set(name) & set("/\\.\0") for name in names):
        raise UsageError(
            f"classes named {', '.join(names)}: expected names that differ, without slashes and dots",
            hint="give other --classes",
        )
    return names
