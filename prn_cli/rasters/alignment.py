"""Where the pixels of a raster lie on the grid of another: by georeference, or else by size."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.tiles import Window
from prn_cli.rasters.base import Raster
from prn_cli.rasters.guards import check_same_size

_SLACK = 0.02  # px over a whole map: georeferences are rounded
_MOST_TURN = 0.5  # px over a whole map
_ROUNDING = 1e-6  # px: a centre on the border of two pixels lies in the second
_PIXELS_AT_ONCE = 4 << 20  # of a raster that is read on another's grid


class Axis(NamedTuple):
    """One axis of a map on the axis of an image: map pixel i covers `start + i step` to `start + (i + 1) step`.

    Attributes:
        start: in image pixels.
        step: in image pixels; negative where the two run against each other.
        size: image pixels along this axis.
    """

    start: float
    step: float
    size: int

    @property
    def aligned(self) -> bool:
        """Whether pixels lie on pixels."""
        return abs(self.step) == 1 and self.start == int(self.start)

    def reach(self, length: int) -> tuple[float, float]:
        """The image pixels from which to which a map of this length lies."""
        low, high = sorted((self.start, self.start + self.step * length))
        return low, high

    def nearest(self, first: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """The image pixel in which each map pixel's centre lies, `(count,)`, and whether the image reaches that far."""
        centres = self.start + (np.arange(first, first + count) + 0.5) * self.step
        index = np.floor(centres + _ROUNDING).astype(np.intp)
        return np.clip(index, 0, self.size - 1), (index >= 0) & (index < self.size)

    def taps(self, first: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Image pixels that map pixels are interpolated from, `(count, taps)`, and their weights.

        A triangle around the centre, as wide as a pixel of the map or of the image, whichever is larger: linear
        interpolation where the image is coarser, an average over the pixel where it is finer. Weights add up to 1, or
        are 0 where the centre lies beyond the image.
        """
        if self.aligned:
            index, inside = self.nearest(first, count)
            return index[:, np.newaxis], inside[:, np.newaxis].astype(np.float32)
        centres = self.start + (np.arange(first, first + count) + 0.5) * self.step - 0.5
        reach = max(abs(self.step), 1.0)
        lowest = np.floor(centres - reach).astype(np.intp) + 1
        index = lowest[:, np.newaxis] + np.arange(math.ceil(2 * reach))
        weights = np.clip(1 - np.abs(index - centres[:, np.newaxis]) / reach, 0, None)
        weights[(index < 0) | (index >= self.size)] = 0
        weights[(centres < -0.5) | (centres > self.size - 0.5)] = 0
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
        return np.clip(index, 0, self.size - 1), weights.astype(np.float32)


class _View(Raster):
    """A raster whose pixels come from another's, which it closes."""

    def __init__(self, source: Raster) -> None:
        self.source = source
        for name in (
            *("path", "key", "max_pixels", "bands", "height", "width", "dtype", "nodata", "geo", "palette"),
            *("alpha_last", "scaled", "bits", "orientation", "by_columns", "rewrite"),
        ):
            setattr(self, name, getattr(source, name))

    def _open(self) -> None:
        """Nothing: the other is open."""

    def close(self) -> None:
        """Close the other."""
        self.source.close()


class Crossed(_View):
    """A raster whose rows are the columns of another, and the other way round. Its georeference is of no use."""

    def __init__(self, source: Raster) -> None:
        super().__init__(source)
        self.height, self.width = source.width, source.height

    def _read(self, window: Window) -> NDArray[Any]:
        return self.source.read(_crossed(window)).transpose(0, 2, 1)

    def _valid(self, window: Window) -> NDArray[np.bool_] | None:
        valid = self.source.valid(_crossed(window))
        return None if valid is None else valid.T


def _crossed(window: Window) -> Window:
    return Window(window.x, window.y, window.width, window.height)


class _Nearest(_View):
    """A raster on the grid of another: each pixel is that of the source in which its centre lies, invalid outside."""

    def __init__(self, source: Raster, rows: Axis, columns: Axis, like: Raster) -> None:
        super().__init__(source)
        self.height, self.width, self.geo = like.height, like.width, like.geo
        self._rows, self._columns = rows, columns

    def _read(self, window: Window) -> NDArray[Any]:
        result = np.empty((self.bands, window.height, window.width), self.dtype)
        at_once = max(int(_PIXELS_AT_ONCE / (window.width * abs(self._columns.step * self._rows.step))), 1)
        for first in range(0, window.height, at_once):
            part = Window(window.y + first, window.x, min(at_once, window.height - first), window.width)
            area, rows, columns, _ = self._under(part)
            result[:, first : first + part.height] = self.source.read(area)[:, rows][:, :, columns]
        return result

    def _valid(self, window: Window) -> NDArray[np.bool_]:
        area, rows, columns, inside = self._under(window)
        valid = self.source.valid(area)
        return inside if valid is None else inside & valid[rows][:, columns]

    def outside(self, window: Window | None = None) -> NDArray[np.bool_]:
        return ~self._under(self._inside(window))[3]

    def _under(self, window: Window) -> tuple[Window, NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
        """The window of the source under one of this raster, rows and columns in it, and where the source reaches."""
        rows, has_row = self._rows.nearest(window.y, window.height)
        columns, has_column = self._columns.nearest(window.x, window.width)
        top, left = int(rows.min()), int(columns.min())
        area = Window(top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left)
        return area, rows - top, columns - left, np.logical_and.outer(has_row, has_column)


def align(image: Raster, like: Raster, *, any_shape: bool = False) -> tuple[Raster, Axis, Axis]:
    """The image, perhaps crossed, with the rows and columns of a map on its own.

    Refuses an image that lies elsewhere or is turned by no right angle; without a georeference, one of another shape,
    unless that may be.
    """
    found = _on_the_ground(image, like)
    if found is not None:
        return found
    if not any_shape:
        _check_shape(image, like)
    rows = Axis(0.0, image.height / like.height, image.height)
    return image, rows, Axis(0.0, image.width / like.width, image.width)


def lay_on(raster: Raster, like: Raster) -> Raster:
    """A raster on the grid of a map, by nearest neighbour where both are georeferenced.

    The same raster if its grid is the map's, or if one has no georeference and both are of one size. Refuses one of
    another size, one that lies elsewhere, and one that does not cover the map.
    """
    same_place = raster.geo == like.geo and (raster.height, raster.width) == (like.height, like.width)
    found = None if same_place else _on_the_ground(raster, like)
    if found is None:
        check_same_size(raster, like)
        return raster
    laid, rows, columns = found
    for axis, length in ((rows, like.height), (columns, like.width)):
        low, high = axis.reach(length)
        # Sides that are not a whole number of pixels of both are rounded.
        most = max(1.0, abs(axis.step)) - _SLACK
        if low <= -most or high >= axis.size + most:
            raise raster.error(
                f"georeferenced elsewhere than {like.path}, of which it covers a part only",
                "cut it to that grid (gdalwarp), or remove the wrong georeference",
            )
    same = (Axis(0.0, 1.0, like.height), Axis(0.0, 1.0, like.width))
    return raster if laid is raster and (rows, columns) == same else _Nearest(laid, rows, columns, like)


def _check_shape(image: Raster, like: Raster) -> None:
    """Check that two rasters have one shape, up to the rounding of the sides of the coarser one."""
    image_longer = image.height * like.width
    like_longer = like.height * image.width
    if abs(image_longer - like_longer) > max(image.height, image.width, like.height, like.width):
        raise image.error(
            f"image of {image.height}×{image.width} pixels, expected {like.height}×{like.width} as in {like.path}, or "
            f"a size of the same shape",
            "cut the image to what the map covers, or georeference both",
        )


def _on_the_ground(image: Raster, like: Raster) -> tuple[Raster, Axis, Axis] | None:
    """The image and the axes by the georeferences; None if one of the two has none."""
    if image.geo is None or like.geo is None:
        return None
    of_image, of_map = image.geo.affine(), like.geo.affine()
    if of_image is None or of_map is None:
        return None
    _check_system(image, like, of_map)
    steps = np.linalg.inv(of_image[:, :2]) @ of_map[:, :2]
    if np.abs(steps.diagonal()).max() < np.abs(steps[::-1].diagonal()).max():  # rows along columns
        image, of_image = Crossed(image), of_image[:, [1, 0, 2]]
    inverse = np.linalg.inv(of_image[:, :2])
    steps = inverse @ of_map[:, :2]
    start = inverse @ (of_map[:, 2] - of_image[:, 2])
    turn = max(abs(steps[0, 1]) * like.height, abs(steps[1, 0]) * like.width)
    if turn > _MOST_TURN * max(np.abs(steps.diagonal()).max(), 1):
        raise image.error(
            "turned against its map, expected rows and columns along the map's, or across",
            f"warp it to the grid of {like.path.name} (gdalwarp)",
        )
    column, row = (
        _snapped(Axis(float(start[i]), float(steps[i, i]), own), length)
        for i, own, length in ((0, image.width, like.width), (1, image.height, like.height))
    )
    for axis, length in ((row, like.height), (column, like.width)):
        low, high = axis.reach(length)
        if low >= axis.size or high <= 0:
            raise image.error(f"lies beside its map {like.path}", "check which files belong together")
    return image, row, column


def _check_system(image: Raster, like: Raster, of_map: NDArray[np.float64]) -> None:
    assert image.geo is not None
    assert like.geo is not None
    systems = image.geo.reference_system(), like.geo.reference_system()
    if not all(systems) or systems[0] == systems[1]:
        return
    from prn_cli.rasters.grid import same_ground  # few sets need it

    corners = np.array([[0, 0, 1], [0, like.height, 1], [like.width, 0, 1], [like.width, like.height, 1]]).T
    if not same_ground(like.geo, image.geo, of_map @ corners):
        raise image.error(
            f"in another coordinate reference system ({_words(systems[0])}) than its map ({_words(systems[1])})",
            f"warp it to the grid of {like.path.name} (gdalwarp -t_srs)",
        )


def _snapped(axis: Axis, length: int) -> Axis:
    """The axis on whole pixels, if it is but for rounding."""
    whole, side = round(axis.start), math.copysign(1.0, axis.step)
    end = axis.start + axis.step * length
    if abs(axis.start - whole) < _SLACK and abs(end - whole - side * length) < _SLACK:
        return Axis(float(whole), side, axis.size)
    return axis


def _words(system: tuple[tuple[object, ...], ...]) -> str:
    return f"EPSG:{system[0][-1]}" if len(system) == 1 else "user-defined"
