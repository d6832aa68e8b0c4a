"""Where the pixels of a raster lie on the grid of another: by georeference, or else by size."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prn_cli.rasters.base import Raster

_SLACK = 0.02  # px over a whole map: georeferences are rounded
_MOST_TURN = 0.5  # px over a whole map


class Axis(NamedTuple):
    """One axis of a map on the axis of an image: map pixel i covers `start + i step` to `start + (i + 1) step`.

    Attributes:
        start: in image pixels.
        step: in image pixels.
        size: image pixels along this axis.
    """

    start: float
    step: float
    size: int

    @property
    def aligned(self) -> bool:
        """Whether pixels lie on pixels."""
        return self.step == 1 and self.start == int(self.start)

    def taps(self, first: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Image pixels that map pixels are interpolated from, `(count, taps)`, and their weights.

        A triangle around the centre, as wide as a pixel of the map or of the image, whichever is larger: linear
        interpolation where the image is coarser, an average over the pixel where it is finer. Weights add up to 1, or
        are 0 where the centre lies beyond the image.
        """
        if self.aligned:
            index = int(self.start) + np.arange(first, first + count)[:, np.newaxis]
            inside = (index >= 0) & (index < self.size)
            return np.clip(index, 0, self.size - 1), inside.astype(np.float32)
        centres = self.start + (np.arange(first, first + count) + 0.5) * self.step - 0.5
        reach = max(self.step, 1.0)
        lowest = np.floor(centres - reach).astype(np.intp) + 1
        index = lowest[:, np.newaxis] + np.arange(math.ceil(2 * reach))
        weights = np.clip(1 - np.abs(index - centres[:, np.newaxis]) / reach, 0, None)
        weights[(index < 0) | (index >= self.size)] = 0
        weights[(centres < -0.5) | (centres > self.size - 0.5)] = 0
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
        return np.clip(index, 0, self.size - 1), weights.astype(np.float32)


def align(image: Raster, like: Raster) -> tuple[Axis, Axis]:
    """Rows and columns of a map on those of an image.

    Raises:
        InputError: the image has another shape, lies elsewhere, or is rotated or mirrored.
    """
    return _on_the_ground(image, like) or _by_size(image, like)


def _by_size(image: Raster, like: Raster) -> tuple[Axis, Axis]:
    """The axes of two rasters of the same ground: one shape, up to the rounding of the sides of the coarser one."""
    image_longer = image.height * like.width
    like_longer = like.height * image.width
    if abs(image_longer - like_longer) > max(image.height, image.width, like.height, like.width):
        raise image.error(
            f"image of {image.height}×{image.width} pixels, expected {like.height}×{like.width} as in {like.path}, or "
            f"a size of the same shape",
            "cut the image to what the map covers, or georeference both",
        )
    return Axis(0.0, image.height / like.height, image.height), Axis(0.0, image.width / like.width, image.width)


def _on_the_ground(image: Raster, like: Raster) -> tuple[Axis, Axis] | None:
    """The axes by the georeferences; None if one of the two has none."""
    of_image = image.geo.affine() if image.geo is not None else None
    of_map = like.geo.affine() if like.geo is not None else None
    if of_image is None or of_map is None or image.geo is None or like.geo is None:
        return None
    systems = image.geo.reference_system(), like.geo.reference_system()
    if all(systems) and systems[0] != systems[1]:
        raise image.error(
            f"in another coordinate reference system ({_words(systems[0])}) than its map ({_words(systems[1])})",
            f"warp it to the grid of {like.path.name} (gdalwarp -t_srs)",
        )
    inverse = np.linalg.inv(of_image[:, :2])
    steps = inverse @ of_map[:, :2]
    start = inverse @ (of_map[:, 2] - of_image[:, 2])
    size = np.array([like.width, like.height])
    turn = max(abs(steps[0, 1]) * like.height, abs(steps[1, 0]) * like.width)
    if turn > _MOST_TURN * max(steps.diagonal().max(), 1) or steps.diagonal().min() <= 0:
        raise image.error(
            "turned or mirrored against its map, expected rows and columns along the map's",
            f"warp it to the grid of {like.path.name} (gdalwarp)",
        )
    column, row = (
        _snapped(Axis(float(start[i]), float(steps[i, i]), own), int(size[i]))
        for i, own in enumerate((image.width, image.height))
    )
    for axis, length in ((row, like.height), (column, like.width)):
        if axis.start >= axis.size or axis.start + axis.step * length <= 0:
            raise image.error(f"lies beside its map {like.path}", "check which files belong together")
    return row, column


def _snapped(axis: Axis, length: int) -> Axis:
    """The axis on whole pixels, if it is but for rounding."""
    whole = round(axis.start)
    if abs(axis.start - whole) < _SLACK and abs(axis.start + axis.step * length - whole - length) < _SLACK:
        return Axis(float(whole), 1.0, axis.size)
    return axis


def _words(system: tuple[tuple[object, ...], ...]) -> str:
    return f"EPSG:{system[0][-1]}" if len(system) == 1 else "user-defined"
