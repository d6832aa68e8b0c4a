"""Labels of other tasks than telling foreground from background: grey ones."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.rasters.kinds import no_valid_pixel
from prn_cli.rasters.labels import LabelMap
from prn_cli.rasters.raster import Raster, open_raster


class GreyLabel(LabelMap):
    """A label that may be grey: read as 1 above the middle of its scale, else 0."""

    def __init__(self, raster: Raster, *, nodata: float | None) -> None:
        """Look the file through. Closes nothing if that fails.

        Raises:
            InputError: see `open_grey_label`.
        """
        super().__init__(raster, nodata=nodata, valid=None)
        numbers = self._look_through()
        if not numbers:
            raise no_valid_pixel(self.path)
        least, most = min(numbers), max(numbers)
        integers = raster.dtype.kind in "ui" and most > 1
        full = float(np.iinfo(raster.dtype).max) if integers else 1.0
        if least < 0 or most > full:
            raise InputError(
                f"a label from {least:g} to {most:g}, expected 0 to {full:g}",
                hint="save it as 8-bit grey, and say with --label-nodata which value to ignore",
                path=self.path,
            )
        self._middle = float(np.ceil(full / 2)) if integers else full / 2

    def _meaning(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        return np.asarray(values > self._middle).view(np.uint8)


def open_grey_label(path: str | os.PathLike[str], *, nodata: float | None = None, key: str | None = None) -> GreyLabel:
    """Open a label that may be grey: a pixel is foreground above the middle of the scale.

    The scale ends at 1 in floats and in files without a number above 1, else where the type of integers does; as is
    usual for saliency, 128 of 255 is still background. Ignored are nodata (the file's value or the given one), NaN and
    infinity, and what the file's alpha band or mask excludes.

    Args:
        path: the file: one band, or three equal ones (a grey picture saved as RGB).
        nodata: value of pixels to ignore, besides the one that the file declares; NaN stands for "not that one".
        key: name of the array in an `.npz` file.

    Returns:
        The open label; use it in a `with` statement.

    Raises:
        InputError: the file cannot be read, has other bands, numbers off the scale, or no pixel that counts.
    """
    with ExitStack() as stack:
        label = GreyLabel(stack.enter_context(open_raster(path, key=key)), nodata=nodata)
        stack.pop_all()
    return label


def read_grey_label(
    path: str | os.PathLike[str], *, nodata: float | None = None, key: str | None = None
) -> NDArray[np.uint8]:
    """Read a label that may be grey whole, see `open_grey_label`.

    Returns:
        `(H, W)` uint8: 0 background, 1 foreground, 255 ignore.
    """
    with open_grey_label(path, nodata=nodata, key=key) as label:
        return label.read()
