"""Images beside score maps: the input of a base model, on the grid of its score map, read by window."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, UsageError
from prn_cli.maps.tiles import Window, row_bands
from prn_cli.rasters.formats import IMAGE_SUFFIXES, open_raster
from prn_cli.rasters.raster import Raster
from prn_cli.rasters.roles import Reading, Role
from prn_cli.rasters.valid import ValidMap

_PIXELS_AT_ONCE = 4 << 20  # of an image, while it is resampled
_SLACK = 0.02  # px over a whole map: georeferences are rounded
_MOST_TURN = 0.5  # px over a whole map


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of a map on the axis of an image: pixel i is centred at `start + (i + 1/2) step`, in image pixels."""

    start: float
    step: float
    size: int

    @property
    def shift(self) -> int | None:
        """The image's pixel under the map's first one, if pixels lie on pixels."""
        return int(self.start) if self.step == 1 and self.start == int(self.start) else None

    def taps(self, first: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Which pixels of the image, `(count, taps)`, and how much of each, a row of map pixels is made of.

        A triangle around the centre, as wide as a pixel of the map or of the image, whichever is larger: linear
        interpolation where the image is coarser, an average over the pixel where it is finer. Weights add up to 1,
        or are 0 where the centre lies beyond the image.
        """
        if self.shift is not None:
            index = self.shift + np.arange(first, first + count)[:, np.newaxis]
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
            raise InputError(
                f"image of {found} bands, expected {bands}", hint="give images of one kind", path=self.path
            )
        self.bands = bands or found
        self._seen_valid = False
        if like is None:
            self.height, self.width = shape or (raster.height, raster.width)
            self._rows, self._columns = (
                _Axis(0.0, own / wanted, own)
                for own, wanted in ((raster.height, self.height), (raster.width, self.width))
            )
        else:
            self.height, self.width = like.height, like.width
            self._rows, self._columns = _on_the_ground(raster, like) or _by_size(raster, like)

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
        across, weights_across = self._columns.taps(window.x, window.width)
        used = weights_across.sum(axis=1) > 0
        if not used.any():
            return result
        left, right = int(across[used].min()), int(across[used].max()) + 1
        rows_at_once = max(int(_PIXELS_AT_ONCE / (right - left) / max(self._rows.step, 1)), 1)
        for first in range(0, window.height, rows_at_once):
            count = min(rows_at_once, window.height - first)
            down, weights_down = self._rows.taps(window.y + first, count)
            reached = weights_down.sum(axis=1) > 0
            if not reached.any():
                continue
            top, bottom = int(down[reached].min()), int(down[reached].max()) + 1
            values, valid = self._colours(Window(top, left, bottom - top, right - left))
            whole = bool(valid.all())
            if not whole:
                values[:, ~valid] = 0
            part = values
            if self._rows.shift is None or len(reached) != bottom - top:
                part = _weighted(part, down - top, weights_down, axis=1)
            if self._columns.shift is None or len(used) != right - left:
                part = _weighted(part, across - left, weights_across, axis=2)
            share = np.multiply.outer(reached, used).astype(np.float32)
            if not whole:
                seen = _weighted(valid.astype(np.float32)[np.newaxis], down - top, weights_down, axis=1)
                seen = _weighted(seen, across - left, weights_across, axis=2)[0]
                # A pixel that is mostly nodata is nodata; the others are made of what is valid in them.
                share = np.where(seen >= 0.5, seen, 0)
            self._seen_valid = self._seen_valid or bool(share.any())
            with np.errstate(divide="ignore", invalid="ignore"):
                # A grey image of one band fills all.
                result[:, first : first + count] = np.where(share > 0, part / share if not whole else part, np.nan)
        return result

    def check_valid(self) -> None:
        """Check that the image has a valid pixel. What was not read yet is, until one is found.

        Raises:
            InputError: it has none.
        """
        bands = row_bands(self.height, self.width)
        while not self._seen_valid:
            window = next(bands, None)
            if window is None:
                raise InputError("no valid pixel", hint="give another image, or leave it out", path=self.path)
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


def _by_size(image: Raster, like: Raster) -> tuple[_Axis, _Axis]:
    """Both cover the same ground: the same shape, up to the rounding of the coarser one's sides."""
    image_longer = image.height * like.width
    like_longer = like.height * image.width
    if abs(image_longer - like_longer) > max(image.height, image.width, like.height, like.width):
        raise InputError(
            f"image of {image.height}×{image.width} pixels, expected {like.height}×{like.width} as in {like.path}, or "
            f"a size of the same shape",
            hint="cut the image to what the map covers, or georeference both",
            path=image.path,
        )
    return _Axis(0.0, image.height / like.height, image.height), _Axis(0.0, image.width / like.width, image.width)


def _on_the_ground(image: Raster, like: Raster) -> tuple[_Axis, _Axis] | None:
    """By the georeferences; None if one of the two has none."""
    of_image = image.geo.affine() if image.geo is not None else None
    of_map = like.geo.affine() if like.geo is not None else None
    if of_image is None or of_map is None or image.geo is None or like.geo is None:
        return None
    systems = image.geo.reference_system(), like.geo.reference_system()
    if all(systems) and systems[0] != systems[1]:
        raise InputError(
            f"in another coordinate reference system ({_words(systems[0])}) than its map ({_words(systems[1])})",
            hint=f"warp it to the grid of {like.path.name} (gdalwarp -t_srs)",
            path=image.path,
        )
    inverse = np.linalg.inv(of_image[:, :2])
    steps = inverse @ of_map[:, :2]
    start = inverse @ (of_map[:, 2] - of_image[:, 2])
    size = np.array([like.width, like.height])
    turn = max(abs(steps[0, 1]) * like.height, abs(steps[1, 0]) * like.width)
    if turn > _MOST_TURN * max(steps.diagonal().max(), 1) or steps.diagonal().min() <= 0:
        raise InputError(
            "turned or mirrored against its map, expected rows and columns along the map's",
            hint=f"warp it to the grid of {like.path.name} (gdalwarp)",
            path=image.path,
        )
    column, row = (
        _snapped(_Axis(float(start[i]), float(steps[i, i]), own), int(size[i]))
        for i, own in enumerate((image.width, image.height))
    )
    for axis, length in ((row, like.height), (column, like.width)):
        if axis.start >= axis.size or axis.start + axis.step * length <= 0:
            raise InputError(
                f"lies beside its map {like.path}", hint="check which files belong together", path=image.path
            )
    return row, column


def _snapped(axis: _Axis, length: int) -> _Axis:
    """An axis that is on whole pixels but for rounding, on whole pixels."""
    whole = round(axis.start)
    if abs(axis.start - whole) < _SLACK and abs(axis.start + axis.step * length - whole - length) < _SLACK:
        return _Axis(float(whole), 1.0, axis.size)
    return axis


def _words(system: tuple[tuple[object, ...], ...]) -> str:
    return f"EPSG:{system[0][-1]}" if len(system) == 1 else "user-defined"


def _weighted(
    values: NDArray[np.float32], index: NDArray[np.intp], weights: NDArray[np.float32], *, axis: int
) -> NDArray[np.float32]:
    """Weighted sums of rows (axis 1) or columns (axis 2) of `(C, h, w)`."""
    shape: list[Any] = [1, 1, 1]
    shape[axis] = len(index)
    total: NDArray[np.float32] | None = None
    for tap in range(index.shape[1]):
        weight = weights[:, tap]
        if not weight.any():
            continue
        part = np.take(values, index[:, tap], axis=axis)
        part *= weight.reshape(shape)
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    return total
