"""Labels and masks: values that stand for background, foreground or a class, and pixels to ignore."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.maps.classes import MOST_CLASSES
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.tiles import Window, row_bands
from prn_cli.rasters.base import Raster
from prn_cli.rasters.guards import too_many_bands
from prn_cli.rasters.mask_values import undeclared_nodata
from prn_cli.rasters.roles import LABELS, Reading, Role, nodata_option
from prn_cli.rasters.valid import IGNORED, NODATA, OUTSIDE, Reasons, ValidMap, no_valid_pixel, nodata_values

_MOST_CLASSES_OF_LABELS = 32  # that are believed to be classes where binary labels are expected
_EXAMPLES = 16  # of values that are no label's: a map of floats by mistake has billions


class LabelMap(ValidMap):
    """A label or a mask, of one band or three equal ones (a grey image saved as RGB).

    What its values stand for shows in the whole file only, so a file larger than a band of rows is read through once
    when it is opened, and again by its reader.

    Attributes:
        foreground: its value in the file; None in a file of background alone, and of labels that have none.
    """

    foreground: int | None = None

    def __init__(self, raster: Raster, role: Role, reading: Reading, valid: Raster | None = None) -> None:
        super().__init__(raster, role, reading, valid)
        self._at_hand: tuple[NDArray[Any], NDArray[np.bool_]] | None = None
        numbers = self._distinct_values()
        self._greys = self._palette_of(numbers)
        if self._greys is not None:
            numbers = {float(self._greys[int(number)]) for number in numbers}
        self._ignored = self._to_ignore(numbers)
        numbers -= self._ignored
        if not numbers:
            raise no_valid_pixel(self.raster)
        self._understand(numbers)

    def _palette_of(self, numbers: set[float]) -> NDArray[np.uint8] | None:  # noqa: ARG002
        """The grey by palette index that the indices stand for; None if they stand for themselves."""
        return None

    def _to_ignore(self, numbers: set[float]) -> set[float]:  # noqa: ARG002
        """Of the values of valid pixels, those that mean ignore without being declared."""
        return set()

    @abstractmethod
    def _understand(self, numbers: set[float]) -> None:
        """Take note of the values that count, or refuse them as no label's."""

    @abstractmethod
    def _meaning(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """What values of the file stand for; those of invalid pixels may become anything."""

    def read(self, window: Window | None = None) -> NDArray[np.uint8]:
        """Read a window, or all of it.

        Returns:
            `(h, w)` uint8, 255 where the label is to be ignored, or the mask is invalid.

        Raises:
            InputError: the file is damaged.
        """
        if self._at_hand is None:
            values, valid = self._values(window)
        else:
            part = (slice(None), slice(None)) if window is None else window.slices
            values, valid = self._at_hand[0][part], self._at_hand[1][part]
        if self._greys is not None:
            values = self._greys[np.minimum(values, len(self._greys) - 1)]
        result = self._meaning(values)
        for number in self._ignored:
            result[values == number] = IGNORE
        result[~valid] = IGNORE
        return result

    @property
    def ignored_values(self) -> set[float]:
        """The values that do not count, but for NaN."""
        return nodata_values(self.raster, self._nodata) | self._ignored

    def reasons(self, window: Window | None = None) -> Reasons:
        """See `ValidMap.reasons`."""
        ignored = self.read(window) == IGNORE
        if self.role in LABELS:
            found = np.where(ignored, np.uint8(IGNORED), np.uint8(0))
            beyond = self.raster.outside(window)
            if beyond is not None:
                found[beyond] = OUTSIDE
            return found
        found = super().reasons(window)
        found[ignored & (found == 0)] = NODATA
        return found

    def probabilities(self, window: Window | None = None) -> NDArray[np.float32]:
        """As `read`, but float32, NaN where ignored or invalid."""
        numbers = self.read(window)
        result = numbers.astype(np.float32)
        result[numbers == IGNORE] = np.nan
        return result

    def _values(self, window: Window | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        values = self.raster.read(window)
        if self.raster.bands == 3 and not (values[0] == values[1:]).all():
            raise too_many_bands(self.raster)
        return values[0], self._valid(values[:1], window)

    def _distinct_values(self) -> set[float]:
        """Distinct values of the valid pixels: 0, 1 and 255, and at least some of the others if there are any."""
        numbers: set[float] = set()
        bands = list(row_bands(self.height, self.width))
        for band in bands:
            values, valid = self._values(band)
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

    def close(self) -> None:
        """Close the files and free the pixels."""
        self._at_hand = None
        super().close()


class BinaryMap(LabelMap):
    """A label or a mask of two values: read as 0 background, 1 foreground.

    Foreground is 1 in a file of 0 and 1, and 255 in a file of 0 and 255. A file of one value follows the same rule: all
    0 is background, all 1 and all 255 are foreground. Where a palette says black and white, its colours count.
    """

    def _palette_of(self, numbers: set[float]) -> NDArray[np.uint8] | None:
        return greys_of(self.raster, numbers, among={0, 255})

    def _to_ignore(self, numbers: set[float]) -> set[float]:
        known = self.role == "mask" and self.raster.dtype == np.uint8
        return {undeclared_nodata(numbers)} - {None} if known else set()  # type: ignore[return-value]

    def _understand(self, numbers: set[float]) -> None:
        self._foreground = 255 if 255 in numbers else 1
        self.foreground = self._foreground if self._foreground in numbers else None
        if numbers <= {0, self._foreground}:
            return
        found = sorted(numbers)
        listed = ", ".join(f"{value:g}" for value in found[:6]) + (", …" if len(found) > 6 else "")
        subject = "mask is" if self.role == "mask" else "labels are"
        raise self.raster.error(
            f"{subject} not binary: values {listed}, expected 0 and 1, or 0 and 255",
            advice(numbers, nodata_option(self.role)),
        )

    def _meaning(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        return np.asarray(values == self._foreground).view(np.uint8)


def advice(numbers: set[float], option: str) -> str:
    """What to do about labels of these values, which are not binary."""
    for number in sorted(numbers, reverse=True) if len(numbers) == 3 or numbers <= {1, 255} else ():
        if numbers - {number} <= {0, 1} or numbers - {number} <= {0, 255}:
            several = "; of several classes, add --task multiclass" if number == 2 else ""
            return f"if {number:g} means ignore, say so with {option} {number:g}{several}"
    if any(number != int(number) for number in numbers):
        return "cut soft labels at 0.5, or add --task saliency"
    if len(numbers) > _MOST_CLASSES_OF_LABELS and numbers & {0, 255}:
        return "they look blurred by compression or resampling: save them without loss, resampled to the nearest value"
    if len(numbers) == 2 and 0 in numbers:
        return f"write {max(numbers):g} as 255 if it means foreground"
    if max(numbers) >= MOST_CLASSES:
        return "write the foreground as 1 and the rest as 0"
    if min(numbers) < 0:
        return f"convert them to 0 and 1, and say with {option} which value to ignore, such as {min(numbers):g}"
    return "write the class as 1 and the others as 0; of several classes, add --task multiclass"


def greys_of(raster: Raster, numbers: set[float], among: Set[int]) -> NDArray[np.uint8] | None:
    """The grey of each palette index, if those that occur are all of some greys; else None."""
    palette = raster.palette
    if palette is None or raster.bands != 1 or max(numbers, default=0) >= len(palette):
        return None
    used = palette[[int(number) for number in numbers], :3]
    if not (used == used[:, :1]).all() or not {*used[:, 0].tolist()} <= among:
        return None
    return np.ascontiguousarray(palette[:, 0])


class GreyLabel(LabelMap):
    """A label that may be grey: read as 1 above the middle of its scale, else 0.

    The scale ends at 1 in floats and in files without a value above 1, else at the maximum of the integer type, or at
    255 in files without a value above. 128 of 255 is still background, as is usual for saliency. Where a palette is
    grey, its colours count.
    """

    def _palette_of(self, numbers: set[float]) -> NDArray[np.uint8] | None:
        return greys_of(self.raster, numbers, among=set(range(256)))

    def _understand(self, numbers: set[float]) -> None:
        least, most = min(numbers), max(numbers)
        integers = self.raster.dtype.kind in "ui" and most > 1
        eight_bits = self._greys is not None or most <= np.iinfo(np.uint8).max < self.raster.greatest
        full = (255.0 if eight_bits else float(self.raster.greatest)) if integers else 1.0
        if least < 0 or most > full:
            raise self.raster.error(
                f"a label from {least:g} to {most:g}, expected 0 to {full:g}",
                "save it as 8-bit grey, and say with --label-nodata which value to ignore",
            )
        self._middle = float(np.ceil(full / 2)) if integers else full / 2

    def _meaning(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        return np.asarray(values > self._middle).view(np.uint8)


class ClassNumbers(LabelMap):
    """A label or a map of class numbers, 0 to 254; 255 is ignored. Palette indices count, not their colours.

    Args:
        one: read this class as 1, and all others as 0.

    Attributes:
        numbers: those that occur, in order.
    """

    def __init__(
        self, raster: Raster, role: Role, reading: Reading, valid: Raster | None = None, *, one: int | None = None
    ) -> None:
        super().__init__(raster, role, reading, valid)
        self._one = one

    def _to_ignore(self, numbers: set[float]) -> set[float]:
        return numbers & {IGNORE}

    def _understand(self, numbers: set[float]) -> None:
        odd = [number for number in numbers if not 0 <= number < MOST_CLASSES or number != int(number)]
        if odd:
            raise self.raster.error(
                f"the value {min(odd):g}, expected class numbers from 0 to {MOST_CLASSES - 1}, or {IGNORE} to ignore",
                "save the numbers of the classes, and say with --label-nodata which value to ignore",
            )
        self.numbers = sorted(int(number) for number in numbers)

    def check_below(self, classes: int) -> None:
        """Refuse numbers that are not below the number of classes."""
        if self.numbers[-1] >= classes:
            raise self.raster.error(
                f"class {self.numbers[-1]}, expected 0 to {classes - 1}, or {IGNORE} to ignore",
                "number the classes as the bands of the score maps, from 0",
            )

    def _meaning(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        if self._one is not None:
            return np.asarray(values == self._one).view(np.uint8)
        with np.errstate(invalid="ignore"):  # of invalid pixels
            return values.astype(np.uint8)


def two_kinds_of_labels(foregrounds: Mapping[Path, int | None]) -> InputError | None:
    """The error of a set whose foreground is 1 in some labels and 255 in others; None if it is the same in all.

    In a set of 0 and 1, 255 mostly means ignore, and in a file without a 1 nothing else tells.
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
