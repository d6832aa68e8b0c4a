"""Which pixels of a raster are valid, and the base of all maps, images and labels that are read by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.maps.tiles import Window
from prn_cli.rasters.base import Closing, Raster, holds
from prn_cli.rasters.roles import Reading, Role

REASONS = ("nan", "infinite", "nodata", "mask", "ignored", "outside")
"""Why a pixel does not count: NaN, an infinite value that is no logit, the nodata value, an alpha band or mask, a label
to ignore, or beyond the file."""

NAN, INFINITE, NODATA, MASK, IGNORED, OUTSIDE = range(1, len(REASONS) + 1)
Reasons = NDArray[np.uint8]
"""`(h, w)`: 0 where a pixel counts, else 1 more than the position of its reason in `REASONS`."""


class ValidMap(Closing):
    """A raster that is read in a role, with what is invalid in it.

    Attributes:
        path: the file.
        height: rows.
        width: columns.
        raster: the open file.
        role: of the file.
    """

    _full: float | None = None
    """See `valid_pixels`."""

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

    def _valid(self, values: NDArray[Any], window: Window | None, **known: bool) -> NDArray[np.bool_]:
        """See `valid_pixels`; the validity mask counts, too."""
        valid = valid_pixels(self.raster, values, window, self._nodata, self._full, **known)
        if self._valid_mask is not None:
            valid &= _valid_by(self._valid_mask, window)
        return valid

    def reasons(self, window: Window | None = None) -> Reasons:
        """Why pixels do not count."""
        values = self.raster.read(window)
        found = np.zeros(values.shape[1:], np.uint8)
        if values.dtype.kind == "f":
            found[np.isinf(values).any(axis=0)] = INFINITE if self._full is not None else 0
            found[np.isnan(values).any(axis=0)] = NAN
        for number, excluded in _excluded(self.raster, values, window, self._nodata, self._full):
            found[excluded] = number
        if self._valid_mask is not None:
            found[~_valid_by(self._valid_mask, window)] = MASK
        return found

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
    for _, excluded in _excluded(raster, values, window, nodata, full):
        result &= ~excluded
    return result


def _excluded(
    raster: Raster, values: NDArray[Any], window: Window | None, nodata: float | None, full: float | None
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """The pixels that a file or the user excludes, by reason."""
    for value in nodata_values(raster, nodata):
        equal = _equals_nodata(values, value)
        in_all = full is not None and 0 <= value <= full
        yield NODATA, np.asarray(equal.all(axis=0) if in_all else equal.any(axis=0))
    own = raster.valid(window)
    if own is not None:
        yield MASK, ~own
    beyond = raster.outside(window)
    if beyond is not None:
        yield OUTSIDE, beyond


def nodata_values(raster: Raster, nodata: float | None) -> set[float]:
    """The values that a file or the user calls nodata, but for NaN, which overrides what the file declares."""
    declared = None if nodata is not None and np.isnan(nodata) else raster.nodata
    return {value for value in (declared, nodata) if value is not None and not np.isnan(value)}


def _valid_by(mask: Raster, window: Window | None) -> NDArray[np.bool_]:
    """Valid pixels by a validity mask."""
    values = mask.read(window)
    return np.asarray(valid_pixels(mask, values, window, None, None) & (values != 0).any(axis=0))


def count_reasons(*reasons: Reasons) -> Counter[str]:
    """How many pixels do not count, by reason; the first counts where a pixel has several."""
    first = reasons[0].copy()
    for more in reasons[1:]:
        np.copyto(first, more, where=first == 0)
    counts = np.bincount(first.ravel(), minlength=len(REASONS) + 1)[1:]
    return Counter({name: int(count) for name, count in zip(REASONS, counts, strict=True) if count})


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


def no_valid_pixel(raster: Raster) -> InputError:
    """The error of a map in which every pixel is NaN, nodata or masked."""
    return raster.error("no valid pixel: all are NaN, nodata or masked", "leave this file out, or check --nodata")
