"""Images beside score maps: the input of a base model, on the grid of its score map, read by window."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, UsageError
from prn_cli.maps.tiles import Window, row_bands
from prn_cli.rasters.alignment import Axis, align
from prn_cli.rasters.formats import IMAGE_SUFFIXES, open_raster
from prn_cli.rasters.raster import Raster
from prn_cli.rasters.roles import Reading, Role
from prn_cli.rasters.valid import ValidMap

_PIXELS_AT_ONCE = 4 << 20  # of an image, while it is resampled
_LEAST_SHARE = 0.5 - 1e-6


class MapImage(ValidMap):
    """An image on the grid of a map. Palettes are resolved to three colours; an alpha band is validity, not colour.

    Args:
        like: the map whose grid the image is read on. Where both are georeferenced in the same coordinate system, the
            georeference says where the image lies; pixels need not coincide, nor be of one size. Otherwise both are
            taken to cover the same ground, and the image is resampled to the size of the map.
        shape: rows and columns to resample to, in place of a map; neither: the image's own.
        bands: number of bands that is expected; a grey image of one band stands for as many equal ones. None: its own.

    Attributes:
        bands: colours or spectral bands, without alpha.
        height: rows of the map.
        width: columns of the map.
    """

    def __init__(
        self,
        raster: Raster,
        role: Role,
        reading: Reading,
        valid: Raster | None = None,
        *,
        like: Raster | None = None,
        shape: tuple[int, int] | None = None,
        bands: int | None = None,
    ) -> None:
        super().__init__(raster, role, reading, valid)
        found = _bands(raster)
        if bands is not None and found not in (1, bands):
            raise self.raster.error(f"image of {found} bands, expected {bands}", "give images of one kind")
        self.bands = bands or found
        self._seen_valid = False
        if like is None:
            self.height, self.width = shape or (raster.height, raster.width)
            self._rows = Axis(0.0, raster.height / self.height, raster.height)
            self._columns = Axis(0.0, raster.width / self.width, raster.width)
        else:
            self.height, self.width = like.height, like.width
            self._rows, self._columns = align(raster, like)

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
        left, right = self._columns.reach(window.x, window.width)
        at_once = max(int(_PIXELS_AT_ONCE / (right - left) / max(self._rows.step, 1)), 1)
        for first in range(0, window.height, at_once):
            rows = Window(window.y + first, window.x, min(at_once, window.height - first), window.width)
            self._read_rows(rows, result[:, first : first + rows.height])
        self._seen_valid = self._seen_valid or not bool(np.isnan(result[0]).all())
        return result

    def _read_rows(self, window: Window, result: NDArray[np.float32]) -> None:
        """Fill a window of the map, `(bands, h, w)`, as far as the image reaches.

        Linear interpolation where the image is coarser than the map, an average over the map pixel where it is finer.
        """
        rows, columns = self._rows, self._columns
        (top, bottom), (left, right) = rows.reach(window.y, window.height), columns.reach(window.x, window.width)
        y, x = max(top, 0), max(left, 0)
        inside = Window(y, x, min(bottom, rows.size) - y, min(right, columns.size) - x)
        if min(inside.height, inside.width) < 1:
            return
        values, valid = self._colours(inside)
        place = Window(y - top, x - left, inside.height, inside.width).slices
        if rows.aligned and columns.aligned:
            result[:, *place] = values if valid.all() else np.where(valid, values, np.nan)
            return
        weights = np.zeros((bottom - top, right - left), np.float32)  # nothing is made of what is invalid or beyond
        weights[place] = valid
        padded = np.zeros((len(values), *weights.shape), np.float32)
        padded[:, *place] = values if valid.all() else np.where(valid, values, 0)
        (y0, y1), (x0, x1) = rows.span(window.y, window.height), columns.span(window.x, window.width)
        down, across = (y0 - top, y1 - top), (x0 - left, x1 - left)
        on_rows, on_columns = np.zeros((len(weights), 1), np.float32), np.zeros((1, weights.shape[1]), np.float32)
        on_rows[place[0]] = on_columns[:, place[1]] = 1
        on_rows = _resized(on_rows, (window.height, 1), down, (0, 1))
        on_columns = _resized(on_columns, (1, window.width), (0, 1), across)
        for covered in (on_rows, on_columns):
            covered[covered < _LEAST_SHARE] = np.nan  # the centre lies beyond the image
        covered = on_rows * on_columns
        share = covered
        if not valid.all():  # a pixel that is mostly invalid is invalid
            share = _resized(weights, covered.shape, down, across)
            share = np.where(share >= _LEAST_SHARE * covered, share, np.nan)
        for number, band in enumerate(padded):
            np.divide(_resized(band, share.shape, down, across), share, out=result[number])
        result[len(padded) :] = result[0]  # a grey image fills all bands

    def check_valid(self) -> None:
        """Check that the image has a valid pixel. What was not read yet is, until one is found.

        Raises:
            InputError: it has none.
        """
        bands = row_bands(self.height, self.width)
        while not self._seen_valid:
            window = next(bands, None)
            if window is None:
                raise self.raster.error("no valid pixel", "give another image, or leave it out")
            self.read(window)

    def _colours(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """`(bands, h, w)` numbers of the image's own pixels, and `(h, w)` where they are valid."""
        values = self.raster.read(window)
        # Of an image with several bands, a nodata value such as 0 is a colour unless all bands have it.
        full = np.inf
        palette = self.raster.palette
        if palette is not None and self.raster.bands == 1:
            valid = self._valid(values, window, full)
            rgba = palette[np.minimum(values[0], len(palette) - 1)]
            return rgba[..., :3].transpose(2, 0, 1).astype(np.float32), valid & (rgba[..., 3] != 0)
        if self.raster.alpha_last:
            valid = self._valid(values[:-1], window, full) & (values[-1] != 0)
            values = values[:-1]
        else:
            valid = self._valid(values, window, full)
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = values.astype(np.float32)
        return numbers, valid & np.isfinite(numbers).all(axis=0)


def common_bands(paths: Iterable[str | os.PathLike[str]], *, max_pixels: int | None = None) -> int:
    """The number of bands of the images of a set: the most common one but 1, since grey ones may be among others.

    Files that cannot be read are skipped: they fail on their own when their turn comes.

    Raises:
        InputError: none can be read.
        UsageError: none can as the options stand.
    """
    counts: Counter[int] = Counter()
    failure: InputError | UsageError | None = None
    for path in paths:
        try:
            with open_raster(path, max_pixels=max_pixels, suffixes=IMAGE_SUFFIXES) as raster:
                counts[_bands(raster)] += 1
        except (InputError, UsageError) as error:
            failure = failure or error
    if not counts:
        raise failure or InputError("no images", hint="name files or folders")
    coloured = Counter({bands: count for bands, count in counts.items() if bands > 1})
    return (coloured or counts).most_common(1)[0][0]


def _bands(raster: Raster) -> int:
    return 3 if raster.palette is not None and raster.bands == 1 else raster.bands - raster.alpha_last


def _resized(
    values: NDArray[np.float32], shape: tuple[int, ...], down: tuple[float, float], across: tuple[float, float]
) -> NDArray[np.float32]:
    """A part of `(h, w)`, given by its first and last row and column, in another shape."""
    from prn_cli.rasters.pillow import Image

    box = across[0], down[0], across[1], down[1]
    return np.array(Image.fromarray(values).resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box))
