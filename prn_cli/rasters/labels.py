"""Labels and masks: two values and what to ignore."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.tiles import Window, row_bands
from prn_cli.rasters.kinds import InputKind, detect_mask_or_kind, no_valid_pixel, undeclared_nodata, valid_pixels
from prn_cli.rasters.raster import Raster, open_raster
from prn_cli.rasters.scores import check_same_size, open_scores, read_valid_mask

_EXAMPLES = 16  # of numbers that are no label's: a map of floats by mistake has billions


class LabelMap(ABC):
    """A label or a mask: numbers that stand for something, and what to ignore. A context manager.

    What they stand for shows in the whole file alone, so a file bigger than a band of rows is read through once when
    it is opened, and once more by its reader.

    Attributes:
        path: the file.
        height: rows.
        width: columns.
        raster: the open file.
        foreground: the file's number for it; None in a file of background alone, and where it has none.
    """

    foreground: int | None = None

    def __init__(self, raster: Raster, *, nodata: float | None, valid: Raster | None) -> None:
        """Take an open raster, and an open validity mask.

        Raises:
            InputError: neither one band nor three.
        """
        self.path = raster.path
        self.height = raster.height
        self.width = raster.width
        self.raster = raster
        self._valid = valid
        self._nodata = nodata
        self._at_hand: tuple[NDArray[Any], NDArray[np.bool_]] | None = None
        if raster.bands not in (1, 3):
            raise _too_many_bands(raster)

    @abstractmethod
    def _meaning(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """What numbers of the file stand for; those of invalid pixels may become anything."""

    def _look_through(self) -> set[float]:
        """The numbers of the valid pixels: 0, 1 and 255, and at least some of the others if there are any."""
        numbers: set[float] = set()
        bands = list(row_bands(self.height, self.width))
        for band in bands:
            values, valid = self._read(band)
            counted = values[valid]
            left = counted.size
            for number in (0, 1, 255):
                count = int(np.count_nonzero(counted == number)) if left else 0
                left -= count
                if count:
                    numbers.add(number)
            if left and counted.dtype == np.uint8:
                numbers.update(np.flatnonzero(np.bincount(counted)).tolist())
            elif left:
                numbers.update(np.unique(counted)[:_EXAMPLES].tolist())
            if len(bands) == 1:
                self._at_hand = values, valid
        return numbers

    def read(self, window: Window | None = None) -> NDArray[np.uint8]:
        """Read a window, or all of it.

        Returns:
            `(h, w)` uint8, 255 where the label is to be ignored, or the mask is invalid.

        Raises:
            InputError: the file is damaged.
        """
        if self._at_hand is not None:
            part = (slice(None), slice(None)) if window is None else window.slices
            values, valid = self._at_hand[0][part], self._at_hand[1][part]
        else:
            values, valid = self._read(window)
        result = self._meaning(values)
        result[~valid] = IGNORE
        return result

    def _read(self, window: Window | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        values = self.raster.read(window)
        if self.raster.bands == 3 and not (values[0] == values[1:]).all():
            raise _too_many_bands(self.raster)
        valid = valid_pixels(self.raster, values[:1], window, self._nodata, None)
        if self._valid is not None:
            valid &= read_valid_mask(self._valid, window)
        return values[0], valid

    def close(self) -> None:
        """Let go of the files."""
        self._at_hand = None
        self.raster.close()
        if self._valid is not None:
            self._valid.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BinaryMap(LabelMap):
    """A label or a mask of two values: read as 0 background, 1 foreground.

    Attributes:
        foreground: the file's number for it, 1 or 255; None in a file of background alone.
    """

    def __init__(
        self, raster: Raster, *, nodata: float | None, valid: Raster | None, subject: str, option: str, masks: bool
    ) -> None:
        """Look the file through. Closes nothing if that fails.

        Raises:
            InputError: see `open_label`.
        """
        super().__init__(raster, nodata=nodata, valid=valid)
        self._undeclared: int | None = None
        if raster.nodata == 0 and nodata is None:
            # Tools that draw labels like to declare 0 as nodata. Ignoring it would leave a label without background.
            raise InputError(
                "declares 0 as nodata, but 0 is also the background",
                hint=f"say {option} nan to count 0 as background, or {option} 0 to ignore it",
                path=raster.path,
            )
        numbers = self._look_through()
        if masks and raster.dtype == np.uint8:
            self._undeclared = undeclared_nodata({int(number) for number in numbers})
            numbers -= {self._undeclared}
        self._foreground = _foreground(numbers, raster.path, subject, option)
        self.foreground = self._foreground if self._foreground in numbers else None

    def _meaning(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        result: NDArray[np.uint8] = np.asarray(values == self._foreground).view(np.uint8)
        if self._undeclared is not None:
            result[values == self._undeclared] = IGNORE
        return result


def open_label(path: str | os.PathLike[str], *, nodata: float | None = None, key: str | None = None) -> BinaryMap:
    """Open a binary label.

    Foreground is 1 in a file of 0 and 1, and 255 in a file of 0 and 255; a file of one value follows the same rule:
    all 0 is background, all 1 and all 255 are foreground. Ignored are nodata (the file's value or the given one),
    NaN and infinity, and what the file's alpha band or mask excludes.

    Args:
        path: the file: one band, or three equal ones (a grey picture saved as RGB).
        nodata: value of pixels to ignore, besides the one that the file declares; NaN stands for "not that one".
        key: name of the array in an `.npz` file.

    Returns:
        The open label; use it in a `with` statement.

    Raises:
        InputError: the file cannot be read, has other values, more bands, or no pixel that counts, or declares 0 as
            nodata and `nodata` does not say whether that is so.
    """
    with ExitStack() as stack:
        raster = stack.enter_context(open_raster(path, key=key))
        label = BinaryMap(raster, nodata=nodata, valid=None, subject="labels are", option="--label-nodata", masks=False)
        stack.pop_all()
    return label


def two_kinds_of_labels(foregrounds: Mapping[Path, int | None]) -> InputError | None:
    """What is wrong with a set whose labels have 1 for foreground in some files and 255 in others; None if nothing is.

    In a set of 0 and 1, 255 mostly means ignore: in a file without a 1, nothing else tells.

    Args:
        foregrounds: of each label, its `BinaryMap.foreground`.
    """
    ones, others = (sorted(path for path, number in foregrounds.items() if number == kind) for kind in (1, 255))
    if not ones or not others:
        return None
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return InputError(
        f"255 counts as foreground here{more}, and 1 in other labels, such as {ones[0].name}",
        hint="if 255 means ignore, say so with --label-nodata 255; else write them alike",
        path=others[0],
    )


def open_mask(
    path: str | os.PathLike[str],
    *,
    nodata: float | None = None,
    valid_mask: str | os.PathLike[str] | None = None,
    key: str | None = None,
) -> BinaryMap:
    """Open a mask: as `open_label`, and the undeclared nodata value of prn's own `.npy` masks is known.

    Args:
        path: the file.
        nodata: value of invalid pixels, besides the one that the file declares.
        valid_mask: a raster of the same size, zero where pixels are invalid.
        key: name of the array in an `.npz` file.

    Raises:
        InputError: as for `open_label`.
    """
    with ExitStack() as stack:
        raster = stack.enter_context(open_raster(path, key=key))
        valid = None
        if valid_mask is not None:
            valid = stack.enter_context(open_raster(valid_mask))
            check_same_size(valid, raster)
        mask = BinaryMap(raster, nodata=nodata, valid=valid, subject="mask is", option="--nodata", masks=True)
        stack.pop_all()
    return mask


def read_label(
    path: str | os.PathLike[str], *, nodata: float | None = None, key: str | None = None
) -> NDArray[np.uint8]:
    """Read a binary label whole, see `open_label`.

    Returns:
        `(H, W)` uint8: 0 background, 1 foreground, 255 ignore.
    """
    with open_label(path, nodata=nodata, key=key) as label:
        return label.read()


def read_mask_or_scores(
    path: str | os.PathLike[str],
    *,
    kind: InputKind | Literal["mask", "auto"] = "auto",
    nodata: float | None = None,
    valid_mask: str | os.PathLike[str] | None = None,
    band: int | None = None,
    key: str | None = None,
) -> tuple[Literal["mask"] | InputKind, NDArray[np.float32]]:
    """Read a mask, or a map of probabilities or logits, whole.

    Args:
        path: the file.
        kind: `mask` for two values (see `read_label`), or what the numbers of a score map mean; `auto` looks at this
            file alone (for a set, see `detect_mask_or_kind`).
        nodata: value of invalid pixels, besides the one that the file declares.
        valid_mask: a raster of the same size, zero where pixels are invalid.
        band: number of the class's band in a score map, counted from 1.
        key: name of the array in an `.npz` file.

    Returns:
        The kind, and `(H, W)` float32 probabilities (0 and 1 for a mask), NaN where invalid.

    Raises:
        InputError: the file cannot be used.
    """
    if kind == "auto":
        kind = detect_mask_or_kind([path], nodata=nodata, key=key)
    if kind != "mask":
        with open_scores(path, kind=kind, nodata=nodata, valid_mask=valid_mask, band=band, key=key) as scores:
            return kind, scores.probabilities()
    with open_mask(path, nodata=nodata, valid_mask=valid_mask, key=key) as opened:
        mask = opened.read()
    result = mask.astype(np.float32)
    result[mask == IGNORE] = np.nan
    return kind, result


def _too_many_bands(raster: Raster) -> InputError:
    return InputError(f"{raster.bands} bands, expected one band", hint="save a single-band label", path=raster.path)


def _foreground(numbers: set[float], path: Path, subject: str, option: str) -> int:
    """The value of foreground among the numbers of the valid pixels.

    Raises:
        InputError: there are none, or others than 0 and one of 1 and 255.
    """
    if not numbers:
        raise no_valid_pixel(path)
    foreground = 255 if 255 in numbers else 1
    if not numbers <= {0, foreground}:
        found = sorted(numbers)
        listed = ", ".join(f"{value:g}" for value in found[:6]) + (", …" if len(found) > 6 else "")
        hint = "convert them to 0 and 1"
        if numbers <= {0, 1, 255}:
            hint = f"if 255 means ignore, say so with {option} 255"
        else:
            hint += f", and say with {option} which value to ignore; of several classes, add --task multiclass"
        raise InputError(f"{subject} not binary: values {listed}, expected 0 and 1, or 0 and 255", hint=hint, path=path)
    return foreground
