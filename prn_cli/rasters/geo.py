"""Georeferencing of GeoTIFF files, carried from input to output, bit for bit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

PIXEL_SCALE = 33550
TIEPOINTS = 33922
TRANSFORMATION = 34264
GEO_KEYS = 34735
GEO_DOUBLES = 34736
GEO_TEXT = 34737
GDAL_METADATA = 42112
RPC_COEFFICIENTS = 50844

ASCII, SHORT, DOUBLE = 2, 3, 12
"""TIFF data types."""

TAG_TYPES = {
    PIXEL_SCALE: DOUBLE,
    TIEPOINTS: DOUBLE,
    TRANSFORMATION: DOUBLE,
    GEO_KEYS: SHORT,
    GEO_DOUBLES: DOUBLE,
    GEO_TEXT: ASCII,
    GDAL_METADATA: ASCII,
    RPC_COEFFICIENTS: DOUBLE,
}
"""The tags of the georeferencing, each with its TIFF data type."""

NUMPY_TYPES: dict[int, np.dtype[Any]] = {ASCII: np.dtype("u1"), SHORT: np.dtype("<u2"), DOUBLE: np.dtype("<f8")}
"""The TIFF data types as NumPy reads them, in little-endian order."""

_LONGEST_METADATA = 1 << 20  # bytes
_UNSCALED = {"scale": 1.0, "offset": 0.0}  # by role of an item of the metadata
_RASTER_TYPE_KEY, _PIXEL_IS_POINT = 1025, 2
# The code of the whole system stands at the end of its WKT.
_EPSG = re.compile(r'^EPSG:(\d+)$|(?:AUTHORITY\[\s*"EPSG"\s*,\s*"|ID\[\s*"EPSG"\s*,\s*)(\d+)"?\s*\]\s*\]\s*$')
_MODEL_TYPE_KEY, _GEOGRAPHIC_KEY, _PROJECTED_KEY, _USER_DEFINED = 1024, 2048, 3072, 32767


@dataclass(frozen=True, slots=True)
class GeoTags:
    """The tags of a GeoTIFF that say where its pixels lie on earth.

    Attributes:
        tags: by tag code, the value's bytes in little-endian order; its data type is in `TAG_TYPES`.
        system: the coordinate reference system as GDAL keeps it beside a file, where tags cannot hold it: WKT, or a
            code such as EPSG:4326. It overrides the tags; empty if they say all.
        axes: the order of its axes, as GDAL keeps it.
    """

    tags: Mapping[int, bytes]
    system: str = ""
    axes: str = ""

    @property
    def is_placed(self) -> bool:
        """Whether they say where the map lies."""
        return TRANSFORMATION in self.tags or TIEPOINTS in self.tags

    @property
    def pixel_is_point(self) -> bool:
        """Whether raster coordinates name the centres of pixels (GTRasterTypeGeoKey) and not their corners."""
        return any(key == _RASTER_TYPE_KEY and value == _PIXEL_IS_POINT for key, _, _, value in self._keys())

    def affine(self) -> NDArray[np.float64] | None:
        """`(2, 3)`, from column and row (the first pixel covers 0 to 1) to x and y on the ground.

        None if there is neither a matrix nor a pixel size with one tiepoint (control points, polynomials).
        """
        matrix, scale, tiepoints = (self._values(code) for code in (TRANSFORMATION, PIXEL_SCALE, TIEPOINTS))
        if matrix is not None and matrix.size == 16:
            found = matrix.reshape(4, 4)[:2, [0, 1, 3]]
        elif scale is not None and scale.size >= 2 and tiepoints is not None and tiepoints.size >= 6:
            column, row, _, x, y, _ = tiepoints[:6]
            found = np.array([[scale[0], 0, x - column * scale[0]], [0, -scale[1], y + row * scale[1]]])
        else:
            return None
        if self.pixel_is_point:
            found[:, 2] -= found[:, :2].sum(axis=1) / 2
        return found if np.isfinite(found).all() and abs(np.linalg.det(found[:, :2])) > 0 else None

    def reference_system(self) -> tuple[tuple[object, ...], ...]:
        """What identifies the coordinate reference system, for comparison; empty if there is none.

        The code of a projected or else of a geographic system, if there is one, since programs differ in what they
        write beside it; otherwise all keys but the citations.
        """
        if self.system:
            code = _EPSG.search(self.system)
            key = _GEOGRAPHIC_KEY if self.system.startswith("GEOG") else _PROJECTED_KEY
            return ((key, int(code[1] or code[2])),) if code else (("system", "".join(self.system.split())),)
        keys = self._keys()
        plain = {key: value for key, place, _, value in keys if not place}
        for key in (_PROJECTED_KEY, _GEOGRAPHIC_KEY):
            if key in plain and plain[key] not in (0, _USER_DEFINED):
                return ((key, plain[key]),)
        doubles = self._values(GEO_DOUBLES)
        found: list[tuple[object, ...]] = []
        for key, place, count, value in keys:
            if place == GEO_DOUBLES and doubles is not None:
                found.append((key, *doubles[value : value + count].tolist()))
            elif not place and key not in (_MODEL_TYPE_KEY, _RASTER_TYPE_KEY):
                found.append((key, value))
        return tuple(sorted(found, key=repr))

    def downscaled(self, factor: int) -> GeoTags:
        """The georeferencing of a map with one pixel per `factor` × `factor` pixels, from the top left.

        Raster coordinates r become (r + h) / factor - h, where h is 0 for pixel corners and 1/2 for pixel centres
        (PixelIsPoint; always for rational polynomials).
        """
        if factor == 1:
            return self
        half = 0.5 if self.pixel_is_point else 0.0
        changed = dict(self.tags)
        if (scale := self._values(PIXEL_SCALE)) is not None:
            scale[:2] *= factor
            changed[PIXEL_SCALE] = scale.astype("<f8").tobytes()
        if (tiepoints := self._values(TIEPOINTS)) is not None:
            for axis in (0, 1):
                tiepoints[axis::6] = (tiepoints[axis::6] + half) / factor - half
            changed[TIEPOINTS] = tiepoints.astype("<f8").tobytes()
        if (matrix := self._values(TRANSFORMATION)) is not None and matrix.size == 16:
            matrix = matrix.reshape(4, 4)
            matrix[:3, 3] += (matrix[:3, 0] + matrix[:3, 1]) * half * (factor - 1)
            matrix[:3, :2] *= factor
            changed[TRANSFORMATION] = matrix.astype("<f8").tobytes()
        if (rpc := self._values(RPC_COEFFICIENTS)) is not None and rpc.size >= 9:
            rpc[2:4] = (rpc[2:4] + 0.5) / factor - 0.5  # LINE_OFF, SAMP_OFF
            rpc[7:9] /= factor  # LINE_SCALE, SAMP_SCALE
            changed[RPC_COEFFICIENTS] = rpc.astype("<f8").tobytes()
        return replace(self, tags=changed)

    def placed(self, corner: NDArray[np.float64]) -> GeoTags:
        """The same with another transform, `(2, 3)` from the corners of pixels, see `affine`."""
        matrix = np.zeros((4, 4))
        matrix[:2, [0, 1, 3]] = corner
        if self.pixel_is_point:
            matrix[:2, 3] += corner[:, :2].sum(axis=1) / 2
        matrix[3, 3] = 1
        others = {code: value for code, value in self.tags.items() if code not in (PIXEL_SCALE, TIEPOINTS)}
        return replace(self, tags={**others, TRANSFORMATION: matrix.astype("<f8").tobytes()})

    def control_points(self) -> NDArray[np.float64] | None:
        """`(n, 6)`: column, row, depth, x, y, z of each; None if there are none, or they are part of a transform."""
        points = self._values(TIEPOINTS)
        if points is None or points.size < 12 or {PIXEL_SCALE, TRANSFORMATION} & set(self.tags):
            return None
        return points[: points.size - points.size % 6].reshape(-1, 6)

    def _keys(self) -> list[list[int]]:
        """The GeoKeys: number, tag that holds the value (0: the entry itself), count, and value or offset."""
        keys = self._values(GEO_KEYS)
        return [] if keys is None else keys[4 : keys.size - keys.size % 4].reshape(-1, 4).astype(int).tolist()

    def _values(self, code: int) -> NDArray[np.float64] | None:
        if code not in self.tags:
            return None
        return np.frombuffer(self.tags[code], NUMPY_TYPES[TAG_TYPES[code]]).astype(np.float64)


def declares_scale(xml: bytes) -> bool:
    """Whether GDAL metadata (tag 42112) declare a scale other than 1 or an offset other than 0 of a band."""
    root = parse_xml(xml) if b"role=" in xml else None
    for item in () if root is None else root.findall("Item"):
        with suppress(KeyError, ValueError):
            if float(item.text or "") != _UNSCALED[item.get("role", "")]:
                return True
    return False


def parse_xml(xml: bytes) -> Element | None:
    """The root of the XML that GDAL writes in tag 42112 or beside a file; None if it is damaged."""
    from xml.etree import ElementTree  # few files need it

    text = xml.rstrip(b"\0").strip()
    if len(text) > _LONGEST_METADATA or b"<!DOCTYPE" in text or b"\0" in text:  # entities that grow without end
        return None
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, LookupError, ValueError, RecursionError):
        return None


def dataset_metadata(xml: bytes) -> bytes | None:
    """The part of GDAL metadata (tag 42112) that is true of a map computed from the file: no statistics, no bands.

    Returns:
        The bytes of the tag, unchanged if all of it is; None if nothing is, or the metadata are not XML.
    """
    from xml.etree import ElementTree  # few files need it

    root = parse_xml(xml)
    if root is None:
        return None
    items = root.findall("Item")
    dropped = [item for item in items if "sample" in item.attrib or item.get("name", "").startswith("STATISTICS_")]
    if len(dropped) == len(items):
        return None
    for item in dropped:
        root.remove(item)
    return ElementTree.tostring(root) + b"\0" if dropped else xml
