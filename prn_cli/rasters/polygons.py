"""Masks as polygons: the objects of each map in a file of their own, then those of all maps in one layer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, MissingExtraError, OutputError, UsageError
from prn_cli.files.arrays import load_arrays, save_arrays
from prn_cli.files.gdal import import_rasterio
from prn_cli.files.temporaries import write_whole
from prn_cli.rasters.grid import Grid

if TYPE_CHECKING:
    from prn_cli.maps.components import Runs

DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf"}
"""GDAL's names of the vector formats that are written, by suffix."""

_ARRAYS = ("points", "rings", "polygons", "area", "probability")
_SCALE = (2, -2)  # of the raster that GDAL polygonises: rasterio warns if there is no georeference
_WGS84 = "EPSG:4326"
_HALF_TURN = 180.0  # degrees
_DIGITS = 9  # RFC 7946 suggests 6 or 7, a centimetre: a good part of the pixel of a drone


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of a map as polygons.

    Attributes:
        points: `(n, 2)` map coordinates of the corners, ring after ring, each closed.
        rings: `(r + 1,)` offsets of the rings in `points`.
        polygons: `(p + 1,)` offsets of the polygons in `rings`; the outer ring of each is its first.
        area: `(p,)` area of each.
        probability: `(p,)` mean refined probability of its pixels.
        crs: the coordinate system as WKT, or None.
        unit: of the areas, see `Grid`.
    """

    points: NDArray[np.float64]
    rings: NDArray[np.int64]
    polygons: NDArray[np.int64]
    area: NDArray[np.float64]
    probability: NDArray[np.float64]
    crs: str | None
    unit: str

    def geometries(self) -> NDArray[np.object_]:
        """Each polygon as well-known binary; outer rings run counterclockwise, inner ones clockwise."""
        import shapely

        found = shapely.from_ragged_array(shapely.GeometryType.POLYGON, self.points, (self.rings, self.polygons))
        return np.asarray(shapely.to_wkb(shapely.orient_polygons(found)), object)

    def in_degrees(self) -> Objects:
        """The objects in longitude and latitude on WGS 84, with the same areas.

        An object across the 180th meridian stays in one piece: its longitudes go beyond 180.
        """
        rasterio = import_rasterio("polygons")
        x, y = rasterio.warp.transform(self.crs, _WGS84, self.points[:, 0], self.points[:, 1])
        points = np.stack([x, y], axis=1).reshape(-1, 2)
        if len(self.area):
            starts = self.rings[self.polygons]
            least, most = (extreme.reduceat(points[:, 0], starts[:-1]) for extreme in (np.minimum, np.maximum))
            around = np.repeat(most - least > _HALF_TURN, np.diff(starts))
            points[around & (points[:, 0] < 0), 0] += 2 * _HALF_TURN
        return replace(self, points=points, crs=_WGS84)


_TRIAL = Objects(
    np.array([[0, 0], [1, 0], [0, 1], [0, 0]], np.float64),
    np.array([0, 4]),
    np.array([0, 1]),
    np.ones(1),
    np.ones(1),
    _WGS84,
    "m2",
)


def check_layer(path: Path) -> None:
    """Check that a layer can be written under this name, and that the libraries for it are installed."""
    if path.suffix.lower() not in DRIVERS:
        raise UsageError(
            f"cannot write polygons as '{path.suffix}', expected {' '.join(DRIVERS)}",
            hint="give another name",
            path=path,
        )
    import_rasterio("polygons")
    for library in ("pyogrio", "shapely"):
        try:
            import_module(library)
        except ImportError as error:
            raise MissingExtraError(library, "geo", "polygons") from error
    try:
        _as_layer(path, [_TRIAL], ["trial"], _WGS84)
    except OutputError as error:
        raise UsageError(error.message, hint="give another name", path=path) from error


def check_system(path: Path, crs: str | None, source: Path, *, degrees: bool = False) -> None:
    """Check that the polygons of a map with this coordinate system can be written to a layer of this name.

    In longitude and latitude, as always in GeoJSON and with `degrees`, they need one that is somewhere on earth.
    """
    geojson = DRIVERS[path.suffix.lower()] == "GeoJSON"
    if not (geojson or degrees):
        return
    known = None if crs is None else import_rasterio("polygons").crs.CRS.from_wkt(crs)
    if known is not None and (known.is_geographic or known.is_projected):
        return
    why = "GeoJSON has longitudes and latitudes only" if geojson else "maps of several systems are put into one layer"
    raise InputError(
        f"has {'no' if crs is None else 'a local'} coordinate system, and {why}",
        hint="write .gpkg or .fgb, or give --like" if geojson else "write a layer for each system",
        path=source,
    )


def trace_objects(runs: Runs, grid: Grid, areas: NDArray[np.float64], *, simplify: float = 0) -> Objects:
    """The components of the foreground as polygons, with their holes.

    Memory grows with the number of corners, not with the map: GDAL gets the components as a compressed raster. Outlines
    may move by `simplify` px (Douglas and Peucker 1973); areas, `(n,)` of the runs, stay those of the pixels.
    """
    rasterio = import_rasterio("polygons")
    numbers, count = runs.objects()
    rings: list[NDArray[np.float64]] = []
    sizes, owners = [], []
    with ExitStack() as stack:
        objects = stack.enter_context(_packed(rasterio, runs, numbers.astype(np.int32)))
        mask = stack.enter_context(_packed(rasterio, runs, (numbers > 0).astype(np.uint8)))
        for geometry, number in rasterio.features.shapes(
            rasterio.band(objects, 1), mask=rasterio.band(mask, 1), connectivity=4
        ):
            rings += [np.array(ring, np.float64) for ring in geometry["coordinates"]]
            sizes.append(len(geometry["coordinates"]))
            owners.append(int(number))
    if len(owners) != count:
        raise RuntimeError(f"{len(owners)} polygons of {count} objects")
    corners = np.concatenate(rings) / _SCALE if rings else np.empty((0, 2))
    pixels = np.bincount(numbers, runs.lengths, count + 1)
    order = np.array(owners, np.int64)
    offsets = _offsets([len(ring) for ring in rings]), _offsets(sizes)
    corners, offsets = _simplified(corners, offsets, simplify)
    return Objects(
        grid.points(corners[:, 0], corners[:, 1]),
        *offsets,
        np.bincount(numbers, areas, count + 1)[order].astype(np.float64),
        np.bincount(numbers, runs.probability, count + 1)[order] / np.maximum(pixels[order], 1),
        grid.crs,
        grid.unit,
    )


def _simplified(
    corners: NDArray[np.float64], offsets: tuple[NDArray[np.int64], NDArray[np.int64]], tolerance: float
) -> tuple[NDArray[np.float64], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Corners and offsets of valid polygons of fewer corners; the same number of polygons, in the same order."""
    if not tolerance or not len(corners):
        return corners, offsets
    import shapely

    found = shapely.from_ragged_array(shapely.GeometryType.POLYGON, corners, offsets)
    _, corners, (rings, polygons) = shapely.to_ragged_array(shapely.simplify(found, tolerance))
    return corners, (rings.astype(np.int64), polygons.astype(np.int64))


def save_objects(path: Path, objects: Objects) -> None:
    """Write the objects of one map to an `.npz` file, a part of a layer (see `write_layer`)."""
    about = json.dumps({"crs": objects.crs, "unit": objects.unit}).encode()
    arrays = {name: getattr(objects, name) for name in _ARRAYS}
    save_arrays(path, {"about": np.frombuffer(about, np.uint8), **arrays})


def load_objects(path: Path) -> Objects:
    """Read what `save_objects` wrote."""

    def objects(arrays: Mapping[str, Any]) -> Objects:
        return Objects(**{name: arrays[name] for name in _ARRAYS}, **json.loads(arrays["about"].tobytes()))

    return load_arrays(path, objects)


def write_layer(path: Path, parts: Mapping[str, Path]) -> int:
    """Write the objects of many maps, by the names of the maps, as one layer; returns how many there are.

    It is in their common coordinate system; if they have several, and in GeoJSON (RFC 7946), in longitude and latitude
    on WGS 84. Attributes: `source` the map, `area`, `area_unit`, and `probability`, the mean refined probability.
    Refuses maps with a coordinate system beside maps without one.
    """
    everything = [load_objects(part) for part in parts.values()]
    systems = {source: objects.crs for source, objects in zip(parts, everything, strict=True)}
    for source, crs in systems.items():
        check_system(path, crs, Path(source), degrees=None not in systems.values() and len(set(systems.values())) > 1)
        if crs is None and len(set(systems.values())) > 1:
            raise InputError(
                "has no coordinate system, and other maps of this layer have one",
                hint="give --like, or write two layers",
                path=source,
            )
    sources = [source for source, objects in zip(parts, everything, strict=True) for _ in objects.area]
    if len(set(systems.values())) > 1:
        everything = [objects.in_degrees() for objects in everything]
    crs = everything[0].crs if everything else None
    write_whole(path, _as_layer(path, everything, sources, crs))
    return len(sources)


def _as_layer(path: Path, everything: Sequence[Objects], sources: Sequence[str], crs: str | None) -> bytes:
    """The content of the file of a layer, which is named by the stem of its path."""
    import pyogrio.raw
    from pyogrio.errors import DataLayerError, DataSourceError

    driver = DRIVERS[path.suffix.lower()]
    options = {"RFC7946": "YES", "COORDINATE_PRECISION": str(_DIGITS)} if driver == "GeoJSON" else {}
    fields: dict[str, NDArray[Any]] = {
        "source": _strings(sources),
        "area": np.concatenate([np.empty(0), *(objects.area for objects in everything)]),
        "area_unit": _strings([objects.unit for objects in everything for _ in objects.area]),
        "probability": np.concatenate([np.empty(0), *(objects.probability for objects in everything)]),
    }
    geometries = np.concatenate([np.empty(0, object), *(objects.geometries() for objects in everything)])
    content = BytesIO()
    (name,) = _strings([path.stem])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'crs' was not provided")
        try:
            pyogrio.raw.write(
                content,
                geometries,
                list(fields.values()),
                list(fields),
                driver=driver,
                layer=name,
                geometry_type="Polygon",
                crs=crs,
                layer_options=options,
            )
        except (DataSourceError, DataLayerError) as error:
            raise OutputError(f"cannot be written: {error}", hint="try another format", path=path) from error
    return content.getvalue()


@contextmanager
def _packed(rasterio: Any, runs: Runs, values: NDArray[Any]) -> Iterator[Any]:
    """A compressed raster in memory, with a value for each run."""
    transform = rasterio.Affine.scale(*_SCALE)
    size = {"height": runs.height, "width": runs.width, "count": 1, "dtype": values.dtype, "transform": transform}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **size, compress="deflate", zlevel=1, BIGTIFF="IF_SAFER") as raster:
            top = 0
            for band in runs.rows(values):
                raster.write(band, 1, window=((top, top + len(band)), (0, runs.width)))
                top += len(band)
        with memory.open() as raster:
            yield raster


def _offsets(sizes: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.array(sizes, np.int64))]).astype(np.int64)


def _strings(values: Sequence[str]) -> NDArray[np.object_]:
    found = np.empty(len(values), object)
    found[:] = [value.encode("utf-8", "replace").decode() for value in values]
    return found
