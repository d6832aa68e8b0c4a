"""Georeferencing of GeoTIFF files, carried from input to output, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PIXEL_SCALE = 33550
TIEPOINTS = 33922
TRANSFORMATION = 34264
GEO_KEYS = 34735
GEO_DOUBLES = 34736
GEO_TEXT = 34737
GDAL_METADATA = 42112
RPC_COEFFICIENTS = 50844

_GEO_TAGS = (PIXEL_SCALE, TIEPOINTS, TRANSFORMATION, GEO_KEYS, GEO_DOUBLES, GEO_TEXT, GDAL_METADATA, RPC_COEFFICIENTS)
_RASTER_TYPE_KEY, _PIXEL_IS_POINT = 1025, 2
_TYPES = {PIXEL_SCALE: "<f8", TIEPOINTS: "<f8", TRANSFORMATION: "<f8", GEO_KEYS: "<u2", RPC_COEFFICIENTS: "<f8"}


@dataclass(frozen=True, slots=True)
class GeoTags:
    """The tags of a GeoTIFF that say where its pixels lie on earth.

    Attributes:
        tags: by tag code: TIFF data type, count, and the value's bytes in little-endian order.
    """

    tags: Mapping[int, tuple[int, int, bytes]]

    @property
    def pixel_is_point(self) -> bool:
        """Whether raster coordinates name the centres of pixels (GTRasterTypeGeoKey) and not their corners."""
        keys = self._values(GEO_KEYS)
        if keys is None:
            return False
        entries = keys[4 : keys.size - keys.size % 4].reshape(-1, 4)
        return bool(((entries[:, 0] == _RASTER_TYPE_KEY) & (entries[:, 3] == _PIXEL_IS_POINT)).any())

    def downscaled(self, factor: int) -> GeoTags:
        """The georeferencing of a map with one pixel for every `factor` × `factor` pixels, from the top left.

        Raster coordinates r become (r + h) / factor - h, where h is 0 for pixel corners and 1/2 for pixel centres
        (PixelIsPoint; rational polynomials always).
        """
        if factor == 1:
            return self
        half = 0.5 if self.pixel_is_point else 0.0
        changed = dict(self.tags)
        if (scale := self._values(PIXEL_SCALE)) is not None:
            scale[:2] *= factor
            changed[PIXEL_SCALE] = _packed(self.tags[PIXEL_SCALE], scale)
        if (tiepoints := self._values(TIEPOINTS)) is not None:
            for axis in (0, 1):
                tiepoints[axis::6] = (tiepoints[axis::6] + half) / factor - half
            changed[TIEPOINTS] = _packed(self.tags[TIEPOINTS], tiepoints)
        if (matrix := self._values(TRANSFORMATION)) is not None and matrix.size == 16:
            matrix = matrix.reshape(4, 4)
            matrix[:3, 3] += (matrix[:3, 0] + matrix[:3, 1]) * half * (factor - 1)
            matrix[:3, :2] *= factor
            changed[TRANSFORMATION] = _packed(self.tags[TRANSFORMATION], matrix)
        if (rpc := self._values(RPC_COEFFICIENTS)) is not None and rpc.size >= 9:
            rpc[2:4] = (rpc[2:4] + 0.5) / factor - 0.5  # LINE_OFF, SAMP_OFF
            rpc[7:9] /= factor  # LINE_SCALE, SAMP_SCALE
            changed[RPC_COEFFICIENTS] = _packed(self.tags[RPC_COEFFICIENTS], rpc)
        return GeoTags(changed)

    def _values(self, code: int) -> NDArray[np.float64] | None:
        if code not in self.tags:
            return None
        data = self.tags[code][2]
        kind = np.dtype(_TYPES[code])
        return np.frombuffer(data[: len(data) - len(data) % kind.itemsize], kind).astype(np.float64)


def is_geo_tag(code: int) -> bool:
    """Whether a TIFF tag belongs to the georeferencing."""
    return code in _GEO_TAGS


def _packed(tag: tuple[int, int, bytes], values: NDArray[np.float64]) -> tuple[int, int, bytes]:
    return tag[0], tag[1], values.astype("<f8").tobytes()
