"""Images beside score maps: the input of a base model, on the grid of its score map, read by window."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.tiles import Window, row_bands
from prn_cli.rasters.alignment import Axis, align
from prn_cli.rasters.base import Raster
from prn_cli.rasters.raster import IMAGE_SUFFIXES, read_each
from prn_cli.rasters.roles import Reading, Role
from prn_cli.rasters.valid import ValidMap

_PIXELS_AT_ONCE = 4 << 20  # of an image, while it is resampled
_LEAST_SHARE = 0.5  # of a pixel


class MapImage(ValidMap):
    """An image on the grid of a map. Palettes are resolved to three colours; an alpha band is validity, not colour.

    Args:
        like: the map whose grid the image is read on. Where both are georeferenced in the same coordinate system, the
            georeference says where the image lies; pixels need not coincide, nor be of one size. Otherwise both are
            taken to cover the same ground, and the image is resampled to the size of the map, whose shape it has.
        any_shape: it may have another shape there.
        shape: rows and columns to resample to, in place of a map; neither: the image's own.
        bands: number of bands that is expected; a grey image of one band stands for as many equal ones. None: its own.

    Attributes:
        bands: colours or spectral bands, without alpha.
        height: rows of the map.
        width: columns of the map.
    """

    _full = np.inf  # of several bands, a nodata value such as 0 is a colour unless all bands have it

    def __init__(
        self,
        raster: Raster,
        role: Role,
        reading: Reading,
        valid: Raster | None = None,
        *,
        like: Raster | None = None,
        any_shape: bool = False,
        shape: tuple[int, int] | None = None,
        bands: int | None = None,
    ) -> None:
        super().__init__(raster, role, reading, valid)
        found, self._chosen = _bands(raster), [band - 1 for band in reading.rgb or ()]
        if self._chosen and max(self._chosen) >= found > 1:
            raise self.raster.error(f"image of {found} bands, and --rgb names {max(self._chosen) + 1}", "name others")
        if self._chosen and found > 1:
            found = len(self._chosen)
        if bands is not None and found not in (1, bands):
            hint = f"name {bands} of them by --rgb, or give images of one kind"
            raise self.raster.error(f"image of {found} bands, expected {bands}", hint)
        self.bands = bands or found
        self._seen_valid = False
        if like is None:
            self.height, self.width = shape or (raster.height, raster.width)
            self._rows = Axis(0.0, raster.height / self.height, raster.height)
            self._columns = Axis(0.0, raster.width / self.width, raster.width)
        else:
            self.height, self.width = like.height, like.width
            self.raster, self._rows, self._columns = align(raster, like, any_shape=any_shape)

    def read(self, window: Window | None = None) -> NDArray[np.float32]:
        """Read the image under a window of the map.

        Args:
            window: part of the map, inside it; all of it if None.

        Returns:
            `(bands, h, w)` float32, the numbers of the file; NaN in all bands where the file's nodata, alpha or mask
            says so, and where the image does not reach.

        Raises:
            InputError: the file is damaged.
        """
        window = window or Window(0, 0, self.height, self.width)
        result = np.full((self.bands, window.height, window.width), np.nan, np.float32)
        source_width = window.width * abs(self._columns.step) + 1
        at_once = max(int(_PIXELS_AT_ONCE / source_width / max(abs(self._rows.step), 1)), 1)
        for first in range(0, window.height, at_once):
            rows = Window(window.y + first, window.x, min(at_once, window.height - first), window.width)
            self._read_rows(rows, result[:, first : first + rows.height])
        self._seen_valid = self._seen_valid or not bool(np.isnan(result[0]).all())
        return result

    def _read_rows(self, window: Window, result: NDArray[np.float32]) -> None:
        """Fill a window of the map, `(bands, h, w)`, as far as the image reaches."""
        (down, on_rows), (across, on_columns) = (
            axis.taps(*span)
            for axis, span in ((self._rows, (window.y, window.height)), (self._columns, (window.x, window.width)))
        )
        reached, used = on_rows.any(axis=1), on_columns.any(axis=1)
        if not (reached.any() and used.any()):
            return
        top, bottom, left, right = (
            down[reached].min(),
            down[reached].max() + 1,
            across[used].min(),
            across[used].max() + 1,
        )
        values, valid = self._colours(Window(int(top), int(left), int(bottom - top), int(right - left)))
        if self._chosen and len(values) > 1:
            values = values[self._chosen]
        whole = bool(valid.all())
        if self._rows.aligned and self._columns.aligned:
            y, x = reached.argmax(), used.argmax()
            values = values if whole else np.where(valid, values, np.nan)
            values = values[:, :: int(self._rows.step), :: int(self._columns.step)]
            result[:, y : y + bottom - top, x : x + right - left] = values
            return

        def resampled(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            return _weighted(_weighted(pixels, down - top, on_rows, axis=1), across - left, on_columns, axis=2)

        if whole:
            result[:] = np.where(np.logical_and.outer(reached, used), resampled(values), np.nan)
            return
        values[:, ~valid] = 0
        share = resampled(valid.astype(np.float32)[np.newaxis])[0]
        share[share < _LEAST_SHARE] = np.nan  # a pixel that is mostly invalid is invalid
        result[:] = resampled(values) / share  # the others are made of what is valid in them

    def check_valid(self) -> None:
        """Check that the image has a valid pixel. What was not read yet is, until one is found."""
        bands = row_bands(self.height, self.width)
        while not self._seen_valid:
            window = next(bands, None)
            if window is None:
                raise self.raster.error("no valid pixel", "give another image, or leave it out")
            self.read(window)

    def _colours(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """`(bands, h, w)` numbers of the image's own pixels, and `(h, w)` where they are valid."""
        values = self.raster.read(window)
        palette = self.raster.palette
        if palette is not None and self.raster.bands == 1:
            valid = self._valid(values, window)
            rgba = palette[np.minimum(values[0], len(palette) - 1)]
            return rgba[..., :3].transpose(2, 0, 1).astype(np.float32), valid & (rgba[..., 3] != 0)
        if self.raster.alpha_last:
            valid = self._valid(values[:-1], window) & (values[-1] != 0)
            values = values[:-1]
        else:
            valid = self._valid(values, window)
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = values.astype(np.float32)
        return numbers, valid & np.isfinite(numbers).all(axis=0)


def common_bands(paths: Iterable[str | os.PathLike[str]]) -> int:
    """The number of bands of the images of a set: the most common one but 1, since grey ones may be among others."""
    counts = Counter(read_each(paths, _bands, none="no images", suffixes=IMAGE_SUFFIXES))
    coloured = Counter({bands: count for bands, count in counts.items() if bands > 1})
    return (coloured or counts).most_common(1)[0][0]


def _bands(raster: Raster) -> int:
    return 3 if raster.palette is not None and raster.bands == 1 else raster.bands - raster.alpha_last


def _weighted(
    values: NDArray[np.float32], index: NDArray[np.intp], weights: NDArray[np.float32], *, axis: int
) -> NDArray[np.float32]:
    """Weighted sums of rows (axis 1) or columns (axis 2) of `(C, h, w)`."""
    shape = [1, 1, 1]
    shape[axis] = len(index)
    total: NDArray[np.float32] | None = None
    for taps, weight in zip(index.T, weights.T, strict=True):
        if weight.any():
            part = np.take(values, taps, axis=axis)
            part *= weight.reshape(shape)
            total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    return total
