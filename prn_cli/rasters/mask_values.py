"""The values that prn writes masks with."""

from __future__ import annotations

import os
from pathlib import Path

from prn_cli.errors import UsageError

MASK_VALUES: dict[tuple[int, int], int] = {(0, 255): 127, (0, 1): 255}
"""Nodata value of a mask, by its values of background and foreground."""

MASK_NUMBERS = {number for values, nodata in MASK_VALUES.items() for number in (*values, nodata)}
"""All values that a mask may hold."""

_FOREGROUNDS = {foreground for _, foreground in MASK_VALUES}


def mask_nodata(values: tuple[int, int]) -> int:
    """The nodata value of a mask with these values of background and foreground: 0 and 255, or 0 and 1."""
    if values not in MASK_VALUES:
        raise UsageError(f"mask values {values[0]},{values[1]}, expected 0,255 or 0,1", hint="give other --values")
    return MASK_VALUES[values]


def can_tell_invalid(path: str | os.PathLike[str], values: tuple[int, int]) -> bool:
    """Whether a reader of this file can tell invalid pixels of a mask from foreground.

    `.npy` cannot declare a nodata value, and 255, the one of masks of 0 and 1, is foreground elsewhere.
    """
    return Path(path).suffix.lower() != ".npy" or mask_nodata(values) not in _FOREGROUNDS


def undeclared_nodata(numbers: set[float]) -> int | None:
    """The nodata value of a uint8 mask that prn wrote as `.npy`, by the values it holds; None for other files.

    127 is never foreground, so it is nodata even in a mask without foreground. 255 is nodata only beside a foreground
    of 1: masks of 0 and 1 without foreground are not written as `.npy` (see `can_tell_invalid`).
    """
    for values, nodata in MASK_VALUES.items():
        if nodata in numbers and numbers <= {*values, nodata} and (nodata not in _FOREGROUNDS or values[1] in numbers):
            return nodata
    return None
