"""The affine grid of a georeferenced map, and the areas of its pixels; needs the extra `geo`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, reason
from prn_cli.files.gdal import import_rasterio
from prn_cli.rasters.geo import PIXEL_SCALE, RPC_COEFFICIENTS, TAG_TYPES, TIEPOINTS, TRANSFORMATION, GeoTags

if TYPE_CHECKING:
    from prn_cli.maps.components import Runs

Floats = NDArray[np.float64]

_NEAR = 1e-6  # of the extent of a map
_ANGLES = ("degree", "radian", "grad", "arc-minute", "arc-second", "gon")


@dataclass(frozen=True, slots=True)
class Grid:
    """The affine grid of a map.

    Attributes:
        transform: a, b, c, d, e, f of x = a col + b row + c and y = d col + e row + f, from pixel corners.
        crs: the coordinate system as WKT; None if it is unknown.
        unit: of areas. "m2": square metres, in the plane of a projected or engineering system, on the ellipsoid of a
            geographic one; "px": pixels, without a georeference; "map units": with a transform but no system.
        pixel_area: area of a pixel in that unit; in square radians for a geographic system.
        ellipsoid: semi-major axis in m and squared eccentricity, of a geographic system only.
        radians: one unit of a geographic system in radians.
    """

    transform: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    crs: str | None = None
    unit: str = "px"
    pixel_area: float = 1.0
    ellipsoid: tuple[float, float] | None = None
    radians: float = 1.0

    def points(self, columns: NDArray[Any], rows: NDArray[Any]) -> Floats:
        """Map coordinates of raster coordinates, `(n, 2)`."""
        a, b, c, d, e, f = self.transform
        return np.stack([a * columns + b * rows + c, d * columns + e * rows + f], axis=-1).astype(np.float64)

    def areas_of(self, runs: Runs) -> Floats:
        """`(n,)` area of each run of a mask on this grid, in `unit`.

        On the ellipsoid, a² (1 - e²) cos φ / (1 - e² sin² φ)² for a square radian at latitude φ (Snyder 1987, Map
        Projections: A Working Manual, section 3).
        """
        if self.ellipsoid is None:
            return np.asarray(runs.lengths * self.pixel_area, np.float64)
        axis, squared = self.ellipsoid
        centres = self.points(runs.starts % runs.width + runs.lengths / 2, runs.starts // runs.width + 0.5)
        latitude = np.clip(centres[:, 1] * self.radians, -np.pi / 2, np.pi / 2)
        scale = axis**2 * (1 - squared) * np.cos(latitude) / (1 - squared * np.sin(latitude) ** 2) ** 2
        return np.asarray(runs.lengths * self.pixel_area * scale, np.float64)


def grid_of(geo: GeoTags | None) -> Grid:
    """The grid that GDAL reads from the georeferencing of a map; pixels if there is none.

    Refuses control points and rational polynomials, which are no grid, and coordinate systems that are not understood.
    """
    if geo is None or not {PIXEL_SCALE, TIEPOINTS, TRANSFORMATION, RPC_COEFFICIENTS} & set(geo.tags):
        return Grid()
    transform, crs, is_grid = _read_by_gdal(geo)
    if not is_grid:
        raise InputError(
            "georeferenced by control points or rational polynomials, expected a grid", hint="warp it first (gdalwarp)"
        )
    return _grid(transform, crs)


def same_ground(geo: GeoTags, other: GeoTags, places: Floats) -> bool:
    """Whether two systems give places, `(2, n)` coordinates in the first, the same coordinates up to rounding."""
    try:
        rasterio = import_rasterio("comparing coordinate systems")
        found = rasterio.warp.transform(_read_by_gdal(geo)[1], _read_by_gdal(other)[1], *places)
    except Exception:  # no rasterio, systems that GDAL does not know, and those between which it knows no way
        return False
    extent = np.ptp(places, axis=1).max()
    return bool(np.abs(np.array(found) - places).max() <= _NEAR * extent)


def _read_by_gdal(geo: GeoTags) -> tuple[tuple[float, ...], Any, bool]:
    """Transform, coordinate system, and whether there is a transform, as GDAL reads them from a file of one pixel."""
    rasterio = import_rasterio("maps with a georeference")
    import tifffile

    file = BytesIO()
    tags = [(code, TAG_TYPES[code], 0, value, True) for code, value in geo.tags.items()]
    with tifffile.TiffWriter(file, byteorder="<") as writer:
        writer.write(np.zeros((1, 1), np.uint8), photometric="minisblack", metadata=None, extratags=tags)
    with rasterio.MemoryFile(file.getvalue()) as memory, memory.open() as dataset:
        transform, crs = dataset.transform, dataset.crs
        is_grid = not (transform.is_identity and (dataset.gcps[0] or dataset.rpcs is not None))
    if geo.system:
        try:
            crs = rasterio.crs.CRS.from_user_input(geo.system)
        except rasterio.errors.CRSError as error:
            raise InputError(
                f"a coordinate system that GDAL does not understand: {reason(error)}", hint="correct it (gdal_edit)"
            ) from error
    return tuple(transform)[:6], crs, is_grid


def _grid(transform: tuple[float, ...], crs: Any) -> Grid:
    a, b, _, d, e, _ = transform
    area = abs(a * e - b * d)
    if crs is None:
        return Grid(transform, None, "px" if transform == Grid().transform else "map units", area)
    wkt = crs.to_wkt()
    name, size = crs.units_factor
    if not crs.is_geographic:
        # An engineering system may be in degrees, of which nobody knows how long they are.
        lengths = name.lower() not in _ANGLES
        return Grid(transform, wkt, *("m2", area * size**2) if lengths else ("map units", area))
    found = re.search(r'(?:SPHEROID|ELLIPSOID)\["[^"]*",([\d.eE+-]+),([\d.eE+-]+)', wkt)
    axis, inverse = (float(found[1]), float(found[2])) if found else (6378137.0, 298.257223563)
    flattening = 1 / inverse if inverse else 0.0  # 0 stands for a sphere
    ellipsoid = (axis, flattening * (2 - flattening))
    return Grid(transform, wkt, "m2", area * size**2, ellipsoid, size)
