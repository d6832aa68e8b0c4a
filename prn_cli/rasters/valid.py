"""Which pixels of a raster are valid, and the base of all maps, images and labels that are read by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.maps.tiles import Window
from prn_cli.rasters.base import Closing, Raster, holds
from prn_cli.rasters.roles import Reading, Role


class ValidMap(Closing):
    """A raster that is read in a role, with what is invalid in it.

    Attributes:
        path: the file.
        height: rows.
        width: columns.
        raster: the open file.
        role: of the file.
    """

    def __init__(self, raster: Raster, role: Role, reading: Reading, valid: Raster | None = None) -> None:
        self.path = raster.path
        self.height = raster.height
        self.width = raster.width
        self.raster = raster
        self.role: Role = role
        self._nodata = reading.nodata_of(role)
        self._valid_mask = valid

    @property
    def by_columns(self) -> bool:
        """See `Raster`."""
        return self.raster.by_columns and (self._valid_mask is None or self._valid_mask.by_columns)

    def _valid(
        self,
        values: NDArray[Any],
        window: Window | None,
        full: float | None = None,
        *,
        all_finite: bool = False,
        infinite: bool = False,
    ) -> NDArray[np.bool_]:
        """See `valid_pixels`; the validity mask counts, too."""
        valid = valid_pixels(self.raster, values, window, self._nodata, full, all_finite=all_finite, infinite=infinite)
        if self._valid_mask is not None:
            mask = self._valid_mask.read(window)
            valid &= valid_pixels(self._valid_mask, mask, window, None, None) & (mask != 0).any(axis=0)
        return valid

    def close(self) -> None:
        """Close the files."""
        self.raster.close()
        if self._valid_mask is not None:
            self._valid_mask.close()


def valid_pixels(
    raster: Raster,
    values: NDArray[Any],
    window: Window | None,
    nodata: float | None,
    full: float | None,
    *,
    all_finite: bool = False,
    infinite: bool = False,
) -> NDArray[np.bool_]:
    """Which pixels of a raster are valid.

    Invalid are pixels that are NaN in a band, or infinite unless these are logits, have the nodata value, or are
    excluded by the alpha band or mask of the file.

    Args:
        raster: where the values come from.
        values: `(bands, h, w)` as read.
        window: the window that was read.
        nodata: see `prn_cli.rasters.roles.Reading`.
        full: the value of probability 1, if the values are probabilities. A nodata value from 0 to `full` may be a real
            value in one band, and so counts only where all bands have it.
        all_finite: no value is NaN or infinite, so that none needs to be looked for.
        infinite: infinite values are valid, as logits are; see `prn_cli.maps.certain`.

    Returns:
        `(h, w)` booleans.
    """
    if values.dtype.kind != "f" or all_finite:
        result = np.ones(values.shape[1:], np.bool_)
    else:
        finite = ~np.isnan(values) if infinite else np.isfinite(values)
        result = finite[0] if len(finite) == 1 else finite.all(axis=0)
    own = raster.valid(window)
    if own is not None:
        result &= own
    declared = None if nodata is not None and np.isnan(nodata) else raster.nodata
    for value in {declared, nodata} - {None}:
        assert value is not None
        if not np.isnan(value):
            equal = _equals_nodata(values, value)
            result &= ~(equal.all(axis=0) if full is not None and 0 <= value <= full else equal.any(axis=0))
    return result


def _equals_nodata(values: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    """Where values are the nodata value, rounded as their type rounds it."""
    if values.dtype.kind != "f":
        return (
            np.asarray(values == int(nodata))
            if np.isfinite(nodata) and holds(values.dtype, nodata)
            else np.zeros(values.shape, np.bool_)
        )
    with np.errstate(over="ignore"):
        rounded = values.dtype.type(nodata)
    return np.asarray(values == rounded)


def no_valid_pixel(path: Path) -> InputError:
    """The error of a map in which every pixel is NaN, nodata or masked."""
    return InputError(
        "no valid pixel: all are NaN, nodata or masked",
        hint="leave this file out, or check --nodata",
        path=path,
    )
