from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC

from prn_cli.rasters import create_raster, open_raster

pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning", "ignore::PendingDeprecationWarning"
)

HEIGHT, WIDTH = 130, 205
TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 50844)
PLACES = {
    "web mercator": (3857, Affine(0.0746, 0, 3628312.85, 0, -0.0746, 39135.75)),
    "utm": (32633, Affine(10, 0, 399960, 0, -10, 5000040)),
    "utm, not square": (32733, Affine(10, 0, 399960, 0, -20, 5000040)),
    "degrees": (4326, Affine(2.7e-06, 0, -115.2338076, 0, -2.7e-06, 36.1423376998)),
    "rotated": (32633, Affine.translation(5e5, 6e6) @ Affine.rotation(30) @ Affine.scale(2, -3)),
    "south up": (32633, Affine(10, 0, 399960, 0, 10, 5000040)),
    "laea": (3035, Affine(100, 0, 4321000, 0, -100, 3210000)),
}


def write_source(
    path: Path, epsg: int | None, transform: Affine | None, point: bool = False, **profile: object
) -> None:
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=HEIGHT,
        width=WIDTH,
        dtype="float32",
        crs=None if epsg is None else CRS.from_epsg(epsg),
        transform=transform,
        **profile,
    ) as file:
        if point:
            file.update_tags(AREA_OR_POINT="Point")
        file.write(np.zeros((1, HEIGHT, WIDTH), np.float32))


def write_like(source: Path, path: Path, downscale: int = 1) -> None:
    with open_raster(source) as raster:
        height, width = math.ceil(raster.height / downscale), math.ceil(raster.width / downscale)
        with create_raster(
            path, height=height, width=width, dtype=np.uint8, like=raster, downscale=downscale, nodata=127
        ) as writer:
            writer.write(np.zeros((height, width), np.uint8))


def raw_tags(path: Path) -> dict[int, bytes]:
    with tifffile.TiffFile(path) as file:
        found = {}
        for tag in file.pages[0].tags:
            if tag.code in TAGS:
                file.filehandle.seek(tag.valueoffset)
                found[tag.code] = file.filehandle.read(tag.valuebytecount)
        return found


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_georeferencing_is_the_same_as_rasterio_reads_it(tmp_path: Path, place: str, point: bool) -> None:
    source, target = tmp_path / "source.tif", tmp_path / "target.tif"
    write_source(source, *PLACES[place], point=point)
    write_like(source, target)
    with rasterio.open(source) as a, rasterio.open(target) as b:
        assert a.crs == b.crs
        assert a.transform == b.transform
        assert a.bounds == b.bounds
        assert a.tags()["AREA_OR_POINT"] == b.tags()["AREA_OR_POINT"]
        assert b.nodata == 127
        assert b.dtypes == ("uint8",)
    assert raw_tags(source) == raw_tags(target) != {}


@pytest.mark.parametrize("factor", [2, 16, 64, 1024])
@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_downscaled_map_covers_the_same_ground(tmp_path: Path, place: str, point: bool, factor: int) -> None:
    source, target = tmp_path / "source.tif", tmp_path / "target.tif"
    write_source(source, *PLACES[place], point=point)
    write_like(source, target, factor)
    with rasterio.open(source) as a, rasterio.open(target) as b:
        assert a.crs == b.crs
        assert b.transform.almost_equals(a.transform @ Affine.scale(factor), 1e-6 * abs(a.transform.a))
        # Every corner of the source lies inside the grid of patches.
        for corner in ((0, 0), (WIDTH, 0), (0, HEIGHT), (WIDTH, HEIGHT)):
            column, row = ~b.transform @ (a.transform @ corner)
            assert -1e-6 <= column <= b.width + 1e-6
            assert -1e-6 <= row <= b.height + 1e-6


@pytest.mark.parametrize("factor", [1, 8])
def test_ground_control_points(tmp_path: Path, factor: int) -> None:
    source, target = tmp_path / "source.tif", tmp_path / "target.tif"
    points = [
        GroundControlPoint(row=r, col=c, x=10 + c / 100, y=50 - r / 100, z=0)
        for r, c in ((0, 0), (0, 200), (120, 0), (120, 200), (64, 96))
    ]
    write_source(source, 4326, None, gcps=points)
    write_like(source, target, factor)
    with rasterio.open(source) as a, rasterio.open(target) as b:
        assert len(a.gcps[0]) == len(b.gcps[0]) == 5
        assert a.gcps[1] == b.gcps[1]
        for one, other in zip(a.gcps[0], b.gcps[0], strict=True):
            assert (other.row, other.col) == pytest.approx((one.row / factor, one.col / factor))
            assert (other.x, other.y) == (one.x, one.y)


@pytest.mark.parametrize("factor", [1, 4])
def test_rational_polynomials(tmp_path: Path, factor: int) -> None:
    source, target = tmp_path / "source.tif", tmp_path / "target.tif"
    ramp = [float(i) / 7 for i in range(20)]
    rpc = RPC(
        err_bias=1.5, err_rand=0.5, line_off=60.0, samp_off=100.0, lat_off=36.1, long_off=-115.2, height_off=600.0,
        line_scale=61.0, samp_scale=101.0, lat_scale=0.1, long_scale=0.2, height_scale=500.0,
        line_num_coeff=ramp, line_den_coeff=ramp, samp_num_coeff=ramp, samp_den_coeff=ramp,
    )  # fmt: skip
    write_source(source, None, None, rpcs=rpc)
    write_like(source, target, factor)
    with rasterio.open(source) as a, rasterio.open(target) as b:
        assert b.rpcs is not None
        assert b.rpcs.lat_off == a.rpcs.lat_off
        assert b.rpcs.samp_num_coeff == a.rpcs.samp_num_coeff
        # Line (0-based, of pixel centres) of the same place, in patches.
        assert b.rpcs.line_off == pytest.approx((60.0 + 0.5) / factor - 0.5)
        assert b.rpcs.samp_scale == pytest.approx(101.0 / factor)


def test_big_endian_source(tmp_path: Path) -> None:
    source, target = tmp_path / "source.tif", tmp_path / "target.tif"
    write_source(source, *PLACES["utm"], ENDIANNESS="BIG")
    write_like(source, target)
    with rasterio.open(source) as a, rasterio.open(target) as b:
        assert (a.crs, a.transform) == (b.crs, b.transform)


def test_metadata_of_the_map_is_kept_and_that_of_its_numbers_is_not(tmp_path: Path) -> None:
    source, target = tmp_path / "source.tif", tmp_path / "target.tif"
    write_source(source, *PLACES["utm"])
    with rasterio.open(source, "r+") as file:
        file.update_tags(ACQUIRED="2024-05-01 <é>", STATISTICS_MEAN="3")
        file.update_tags(1, STATISTICS_MAXIMUM="9", CLASS="road")
        file.scales = (0.1,)
    write_like(source, target)
    with rasterio.open(target) as file:
        tags = file.tags()
        assert tags["ACQUIRED"] == "2024-05-01 <é>"
        assert "STATISTICS_MEAN" not in tags
        assert not file.tags(1)
        assert file.scales == (1.0,)


@pytest.mark.parametrize("factor", [1, 32])
@pytest.mark.parametrize("name", ["source.tfw", "source.tifw", "source.wld"])
def test_world_file(tmp_path: Path, name: str, factor: int) -> None:
    source, target = tmp_path / "source.tif", tmp_path / "target.tif"
    write_source(source, None, None)
    (tmp_path / name).write_text("2.5\n0.5\n-0.25\n-3\n500001.25\n6000000.5\n")
    write_like(source, target, factor)
    with rasterio.open(source) as a, rasterio.open(target) as b:
        assert not a.transform.is_identity
        assert b.transform.almost_equals(a.transform @ Affine.scale(factor), 1e-9)
    # A transform of the file's own goes first.
    write_source(source, *PLACES["utm"])
    write_like(source, target)
    with rasterio.open(source) as a, rasterio.open(target) as b:
        assert a.transform == b.transform == PLACES["utm"][1]


def test_no_georeferencing(tmp_path: Path) -> None:
    source, target = tmp_path / "source.tif", tmp_path / "target.tif"
    write_source(source, None, None)
    with open_raster(source) as raster:
        assert raster.geo is None
    write_like(source, target)
    assert raw_tags(target) == {}
