"""Georeferencing of GeoTIFF files, carried from input to output, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
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
_LONGEST_WORLD_FILE = 1000  # characters
_RASTER_TYPE_KEY, _PIXEL_IS_POINT = 1025, 2
_MODEL_TYPE_KEY, _GEOGRAPHIC_KEY, _PROJECTED_KEY, _USER_DEFINED = 1024, 2048, 3072, 32767


@dataclass(frozen=True, slots=True)
class GeoTags:
    """The tags of a GeoTIFF that say where its pixels lie on earth.

    Attributes:
        tags: by tag code, the value's bytes in little-endian order; its data type is in `TAG_TYPES`.
    """

    tags: Mapping[int, bytes]

    @property
    def is_placed(self) -> bool:
        """Whether they say where the map lies."""
        return TRANSFORMATION in self.tags or TIEPOINTS in self.tags

    @property
    def pixel_is_point(self) -> bool:
        """Whether raster coordinates name the centres of pixels (GTRasterTypeGeoKey) and not their corners."""
        keys = self._values(GEO_KEYS)
        if keys is None:
            return False
        entries = keys[4 : keys.size - keys.size % 4].reshape(-1, 4)
        return bool(((entries[:, 0] == _RASTER_TYPE_KEY) & (entries[:, 3] == _PIXEL_IS_POINT)).any())

    def affine(self) -> NDArray[np.float64] | None:
        """`(2, 3)`: column and row of pixel corners (the first pixel covers 0 to 1) to x and y on the ground.

        None where a matrix, or a pixel size with one tiepoint, does not say it (control points, polynomials).
        """
        matrix, scale, tiepoints = (self._values(code) for code in (TRANSFORMATION, PIXEL_SCALE, TIEPOINTS))
        if matrix is not None and matrix.size == 16:
            found = matrix.reshape(4, 4)[:2, [0, 1, 3]]
        elif scale is not None and scale.size >= 2 and tiepoints is not None and tiepoints.size == 6:
            column, row, _, x, y, _ = tiepoints
            found = np.array([[scale[0], 0, x - column * scale[0]], [0, -scale[1], y + row * scale[1]]])
        else:
            return None
        if self.pixel_is_point:
            found[:, 2] -= found[:, :2].sum(axis=1) / 2
        return found if np.isfinite(found).all() and abs(np.linalg.det(found[:, :2])) > 0 else None

    def reference_system(self) -> tuple[tuple[object, ...], ...]:
        """What the keys say of the coordinate reference system, to compare; empty if nothing.

        The code of a projected or else of a geographic system where there is one, since programs differ in what
        they write beside it; all keys but the citations otherwise.
        """
        keys = self._values(GEO_KEYS)
        if keys is None:
            return ()
        entries = keys[4 : keys.size - keys.size % 4].reshape(-1, 4).astype(int)
        plain = {key: value for key, place, _, value in entries.tolist() if not place}
        for key in (_PROJECTED_KEY, _GEOGRAPHIC_KEY):
            if key in plain and plain[key] not in (0, _USER_DEFINED):
                return ((key, plain[key]),)
        doubles = self._values(GEO_DOUBLES)
        found: list[tuple[object, ...]] = []
        for key, place, count, value in entries.tolist():
            if place == GEO_DOUBLES and doubles is not None:
                found.append((key, *doubles[value : value + count].tolist()))
            elif not place and key not in (_MODEL_TYPE_KEY, _RASTER_TYPE_KEY):
                found.append((key, value))
        return tuple(sorted(found, key=repr))

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
        return GeoTags(changed)

    def _values(self, code: int) -> NDArray[np.float64] | None:
        if code not in self.tags:
            return None
        return np.frombuffer(self.tags[code], NUMPY_TYPES[TAG_TYPES[code]]).astype(np.float64)


def from_world_file(tags: GeoTags, image: Path) -> GeoTags:
    """Add the transform of a world file beside an image (`.tfw`, `.tifw`, `.wld`), if the tags have none of their own.

    A world file is six lines, the transform of pixel centres: a, d, b, e, c, f of x = a col + b row + c and
    y = d col + e row + f.
    """
    if {PIXEL_SCALE, TIEPOINTS, TRANSFORMATION} & set(tags.tags):
        return tags
    suffix = image.suffix
    for ending in (f"{suffix[:2]}{suffix[-1]}w", f"{suffix}w", ".wld"):
        place = image.with_suffix(ending)
        if not place.is_file():
            continue
        try:
            with place.open(encoding="ascii") as file:
                a, d, b, e, c, f = map(float, file.read(_LONGEST_WORLD_FILE).split())
        except (OSError, ValueError):
            continue
        if not np.isfinite([a, d, b, e, c, f]).all():
            continue
        if not tags.pixel_is_point:
            c, f = c - (a + b) / 2, f - (d + e) / 2
        matrix = np.array([[a, b, 0, c], [d, e, 0, f], [0, 0, 0, 0], [0, 0, 0, 1]])
        return GeoTags({**tags.tags, TRANSFORMATION: matrix.astype("<f8").tobytes()})
    return tags


def declares_scale(xml: bytes) -> bool:
    """Whether a file's GDAL metadata (tag 42112) give the numbers of a band another scale or offset than 1 and 0."""
    root = _metadata(xml) if b"role=" in xml else None
    for item in () if root is None else root.findall("Item"):
        with suppress(KeyError, ValueError):
            if float(item.text or "") != _UNSCALED[item.get("role", "")]:
                return True
    return False


def _metadata(xml: bytes) -> Element | None:
    """The root of the XML in tag 42112; None if it is none."""
    from xml.etree import ElementTree  # few files need it

    text = xml.rstrip(b"\0").strip()
    if len(text) > _LONGEST_METADATA or b"<!DOCTYPE" in text or b"\0" in text:  # entities that grow without end
        return None
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, LookupError, ValueError, RecursionError):
        return None


def dataset_metadata(xml: bytes) -> bytes | None:
    """What of a file's GDAL metadata (tag 42112) holds for a map computed from it, too: not statistics, not bands.

    Returns:
        The tag's bytes, unchanged if all of it holds; None if nothing does, or it is not XML.
    """
    from xml.etree import ElementTree  # few files need it

    root = _metadata(xml)
    if root is None:
        return None
    items = root.findall("Item")
    kept = [
        item for item in items if "sample" not in item.attrib and not item.get("name", "").startswith("STATISTICS_")
    ]
    if not kept:
        return None
    if len(kept) == len(items):
        return xml
    for item in items:
        if item not in kept:
            root.remove(item)
    return ElementTree.tostring(root) + b"\0"
