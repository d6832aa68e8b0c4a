"""Outputs lie where their inputs lie: masks, polygons, and what GDAL's own tools make of them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from prn_cli.files.manifest import MANIFEST_NAME

pytest.importorskip("rasterio")
pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")

import rasterio  # noqa: E402
import rasterio.control  # noqa: E402
import rasterio.features  # noqa: E402
import rasterio.warp  # noqa: E402
from rasterio.transform import Affine  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "buildings_geotiff" / "logits" / "oam.tif"

GRIDS = {
    "web mercator": ("EPSG:3857", Affine(0.6, 0, 3_628_312.86, 0, -0.6, 39_135.76)),
    "utm, 5 cm": ("EPSG:32633", Affine(0.05, 0, 400_000.025, 0, -0.05, 5_000_000.075)),
    "utm, rotated": ("EPSG:32719", Affine.translation(500_000, 7_000_000) * Affine.rotation(30) * Affine.scale(2, -2)),
    "feet": ("EPSG:2263", Affine(1.5, 0, 980_000, 0, -1.5, 200_000)),
    "degrees": ("EPSG:4326", Affine(1e-5, 0, 13.4, 0, -1e-5, 52.5)),
    "degrees, rotated": ("EPSG:4326", Affine.translation(-70, -33) * Affine.rotation(-20) * Affine.scale(2e-5, -1e-5)),
    "south up": ("EPSG:32633", Affine(1, 0, 400_000, 0, 1, 5_000_000)),
}


@pytest.fixture
def folder(tmp_path, make_onnx, monkeypatch) -> Path:
    make_onnx()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def prn(folder, prn):
    return lambda *arguments: prn("refine", *arguments, "-w", "model.onnx", "-j", "1")


@pytest.fixture
def write(folder, random_logits):
    """Write logits with islands, holes and invalid pixels as GDAL writes them."""

    def make(name: str, crs: str | None, transform: Affine | None, **profile) -> np.ndarray:
        logits = random_logits(70, 90, seed=len(name)) * 2
        logits[30:40, 35:50] = np.nan
        logits[:9, :9] = np.nan
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        grid = {} if transform is None else {"transform": transform}
        kind = {"driver": "GTiff", "height": 70, "width": 90, "count": 1, "dtype": "float32", "nodata": -9999}
        with rasterio.open(name, "w", crs=crs, **kind, **grid, **profile) as target:
            target.write(np.where(np.isnan(logits), -9999, logits).astype(np.float32), 1)
        return logits

    return make


def layer(path: str) -> tuple[dict, list, dict[str, np.ndarray]]:
    meta, _, geometries, fields = pyogrio.raw.read(path)
    return meta, list(shapely.from_wkb(geometries)), dict(zip(meta["fields"], fields, strict=True))


def burnt(geometries, like) -> np.ndarray:
    """Polygons back to pixels, by GDAL."""
    if not len(geometries):
        return np.zeros(like.shape, bool)
    return rasterio.features.rasterize(geometries, like.shape, transform=like.transform).astype(bool)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb"])
def test_masks_and_polygons_overlay_their_inputs(prn, write, grid, suffix):
    crs, transform = GRIDS[grid]
    logits = write("logits/map.tif", crs, transform)
    code, _, err = prn("logits", "-o", "masks", "--probabilities", "p", "--polygons", f"layer.{suffix}")
    assert code == 0, err
    with (
        rasterio.open("logits/map.tif") as source,
        rasterio.open("masks/map.tif") as mask,
        rasterio.open("p/map.tif") as p,
    ):
        for made in (mask, p):
            assert (made.crs, made.transform, made.bounds) == (source.crs, source.transform, source.bounds)
        pixels, probabilities = mask.read(1), p.read(1)
        np.testing.assert_array_equal(mask.dataset_mask() == 0, np.isnan(logits))
        meta, geometries, fields = layer(f"layer.{suffix}")
        assert len(geometries) > 3
        if suffix == "geojson":
            assert meta["crs"] == "EPSG:4326"
            moved = rasterio.warp.transform_geom("EPSG:4326", crs, [g.__geo_interface__ for g in geometries])
            geometries = [shapely.geometry.shape(g) for g in moved]
        else:
            assert rasterio.crs.CRS.from_user_input(meta["crs"]) == source.crs
        np.testing.assert_array_equal(burnt(geometries, mask), pixels == 255)
        assert all(geometry.is_valid for geometry in geometries)
        assert any(geometry.interiors for geometry in geometries)
        assert set(fields["source"]) == {"logits/map.tif"}
        assert set(fields["area_unit"]) == {"m2"}
        for geometry, mean in zip(geometries, fields["probability"], strict=True):
            assert probabilities[burnt([geometry], mask)].mean() == pytest.approx(mean, abs=1e-5)
        total = (pixels == 255).sum() * abs(transform.determinant)
        assert sum(geometry.area for geometry in geometries) == pytest.approx(total, rel=1e-4)
        if source.crs.is_projected:
            square_metres = total * source.crs.linear_units_factor[1] ** 2
            assert fields["area"].sum() == pytest.approx(square_metres, rel=1e-9)


def test_simplified_polygons_stay_near_the_mask_and_valid(prn, write):
    write("logits/map.tif", *GRIDS["utm, rotated"])
    assert prn("logits", "-o", "masks", "--polygons", "stairs.gpkg")[0] == 0
    code, _, err = prn("logits", "-o", "masks", "--polygons", "plain.gpkg", "--simplify", "1")
    assert code == 0, err
    assert "replaces what an earlier run" not in err  # the masks are the same
    _, stairs, before = layer("stairs.gpkg")
    _, plain, after = layer("plain.gpkg")
    assert len(stairs) == len(plain)
    assert sum(map(shapely.get_num_coordinates, plain)) < 0.7 * sum(map(shapely.get_num_coordinates, stairs))
    assert all(geometry.is_valid and not geometry.is_empty for geometry in plain)
    pixel = 2.0
    assert max(a.hausdorff_distance(b) for a, b in zip(stairs, plain, strict=True)) <= 1.01 * pixel
    np.testing.assert_array_equal(before["area"], after["area"])
    assert "--simplify is for polygons" in prn("logits", "-o", "masks", "--simplify", "1")[2]
    for options in ((), ("--polygons", "plain.gpkg", "--simplify", "1")):
        assert "0 refined, 1 kept" in prn("logits", "-o", "masks", *options)[2]
    assert len(layer("plain.gpkg")[1]) == len(plain)


def test_tiles_with_simplified_polygons_are_no_scene(prn, write, folder):
    """Nothing is dropped or filled, so that a mask depends on no other tile."""
    crs, transform = GRIDS["utm, 5 cm"]
    width = write("tiles/west.tif", crs, transform).shape[1]
    write("tiles/east.tif", crs, transform @ Affine.translation(width, 0))
    assert prn("tiles", "-o", "masks", "--polygons", "layer.gpkg", "--simplify", "1")[0] == 0
    assert not (folder / "masks" / ".drafts").exists()
    assert "0 refined, 2 kept" in prn("tiles", "-o", "masks")[2]


def test_a_mosaic_by_vrt_is_refined_as_its_parts_are(prn, write, folder):
    """Two tiles side by side in one VRT: what lies in a folder is not taken, since it names other files."""
    crs, transform = GRIDS["utm, 5 cm"]
    logits = write("tiles/west.tif", crs, transform)
    height, width = logits.shape
    write("tiles/east.tif", crs, transform @ Affine.translation(width, 0))
    parts = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">{name}.tif</SourceFilename><SourceBand>1</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>'
        f'<DstRect xOff="{number * width}" yOff="0" xSize="{width}" ySize="{height}"/></SimpleSource>'
        for number, name in enumerate(("west", "east"))
    )
    (folder / "tiles" / "both.vrt").write_text(
        f'<VRTDataset rasterXSize="{2 * width}" rasterYSize="{height}"><SRS>{crs}</SRS>'
        f"<GeoTransform>{', '.join(map(str, transform.to_gdal()))}</GeoTransform>"
        f'<VRTRasterBand dataType="Float32" band="1"><NoDataValue>-9999</NoDataValue>{parts}'
        "</VRTRasterBand></VRTDataset>"
    )
    code, _, err = prn("tiles/both.vrt", "-o", "masks", "--strength", "0")
    assert code == 0, err
    with rasterio.open("masks/both.tif") as mask:
        assert (mask.crs, mask.transform, mask.shape) == (crs, transform, (height, 2 * width))
        halves = mask.read(1)
    assert prn("tiles", "-o", "each", "--strength", "0")[0] == 0
    assert sorted(path.name for path in (folder / "each").glob("*.tif")) == ["east.tif", "west.tif"]
    for number, name in enumerate(("west", "east")):
        with rasterio.open(f"each/{name}.tif") as mask:
            np.testing.assert_array_equal(mask.read(1), halves[:, number * width : (number + 1) * width])
    assert prn("tiles/*.vrt", "-o", "by_glob")[0] == 0
    (folder / "tiles" / "west.tif").unlink()
    code, _, err = prn("tiles/both.vrt", "-o", "gone")
    assert code == 1
    assert "tiles/both.vrt: cannot be read" in err
    assert "check the files that it names" in err


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:32636", "EPSG:4326"])
@pytest.mark.parametrize("turn", [0, 25])
def test_a_real_chip_overlays_its_input(prn, folder, crs, turn):
    """The chip of the examples, as it is and as GDAL warps it: where it is turned, its corners are nodata."""
    with rasterio.open(EXAMPLE) as chip:
        place = {"src_transform": chip.transform, "src_crs": chip.crs}
        grid, width, height = rasterio.warp.calculate_default_transform(
            chip.crs, crs, chip.width, chip.height, *chip.bounds
        )
        grid = grid * Affine.translation(width / 2, height / 2) * Affine.rotation(turn)
        grid = grid * Affine.translation(-width / 2, -height / 2)
        if crs == "EPSG:3857" and not turn:
            grid, width, height = chip.transform, chip.width, chip.height
        logits = np.full((height, width), -9999, np.float32)
        rasterio.warp.reproject(chip.read(1), logits, dst_transform=grid, dst_crs=crs, dst_nodata=-9999, **place)
    kind = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "float32", "nodata": -9999}
    with rasterio.open("chip.tif", "w", crs=crs, transform=grid, **kind) as target:
        target.write(logits, 1)
    line = ["chip.tif", "-o", "mask.tif", "--polygons", "mask.gpkg", "--strength", "0.5"]
    assert prn(*line)[0] == 0
    with rasterio.open("chip.tif") as source, rasterio.open("mask.tif") as mask:
        assert (mask.crs, mask.transform, mask.shape) == (source.crs, source.transform, source.shape)
        invalid = logits == -9999
        assert invalid.any() == bool(turn)
        assert np.array_equal(mask.read(1) == mask.nodata, invalid)
        _, geometries, _ = layer("mask.gpkg")
        assert len(geometries) > 3
        assert np.array_equal(burnt(geometries, mask) > 0, mask.read(1) == 255)
    code, out, _ = prn(*line, "--json")
    assert (code, json.loads(out)["status"]) == (0, "kept")
    assert {geometry.wkt for geometry in layer("mask.gpkg")[1]} == {geometry.wkt for geometry in geometries}


def test_areas_on_the_ellipsoid_are_geodesic(prn, write):
    pyproj = pytest.importorskip("pyproj")
    for name, latitude in (("a.tif", 52.5), ("ab.tif", -3.0), ("abc.tif", 78.0)):
        write(name, "EPSG:4326", Affine(1e-4, 0, 13.4, 0, -1e-4, latitude))
        assert prn(name, "-o", "m.tif", "--polygons", "layer.gpkg", "--overwrite")[0] == 0
        _, geometries, fields = layer("layer.gpkg")
        for geometry, area in zip(geometries, fields["area"], strict=True):
            assert abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(geometry)[0]) == pytest.approx(area, rel=1e-5)


def test_geojson_is_that_of_rfc_7946(prn, folder):
    code, _, err = prn(str(EXAMPLE), "-o", "mask.tif", "--polygons", "layer.geojson")
    assert code == 0, err
    document = json.loads(Path("layer.geojson").read_text())
    assert document["type"] == "FeatureCollection"
    assert "crs" not in document
    written = [".polygons", "layer.geojson", "mask.tif", MANIFEST_NAME]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*written, "model.onnx"])
    with rasterio.open(EXAMPLE) as source:
        west, south, east, north = rasterio.warp.transform_bounds(source.crs, "EPSG:4326", *source.bounds)
    for feature in document["features"]:
        outer, *inner = feature["geometry"]["coordinates"]
        assert shapely.LinearRing(outer).is_ccw
        assert not any(shapely.LinearRing(ring).is_ccw for ring in inner)
        for x, y in outer:
            assert west - 1e-8 <= x <= east + 1e-8
            assert south - 1e-8 <= y <= north + 1e-8


def test_many_maps_make_one_layer_and_reruns_keep_it(prn, write, folder):
    crs, transform = GRIDS["utm, rotated"]
    for number in range(3):
        write(f"logits/{'x' * (number + 1)}.tif", crs, transform * Affine.translation(90 * number, 0))
    line = ["logits", "-o", "masks", "--polygons", "all.gpkg", "--json"]
    code, out, err = prn(*line)
    assert code == 0, err
    assert set(json.loads(out.splitlines()[0])) >= {"input", "mask"}
    assert "polygons" not in json.loads(out.splitlines()[0])
    _, first, fields = layer("all.gpkg")
    assert sorted(set(fields["source"])) == ["logits/x.tif", "logits/xx.tif", "logits/xxx.tif"]
    (folder / "masks" / ".polygons" / "x.tif.npz").unlink()
    code, out, _ = prn(*line)
    assert sorted(json.loads(record)["status"] for record in out.splitlines()) == ["kept", "kept", "refined"]
    _, second, _ = layer("all.gpkg")
    assert {g.wkt for g in first} == {g.wkt for g in second}
    # An array's tasks leave the layer to the run that follows them.
    for part in range(2):
        code, _, err = prn(*line[:-2], "parts.fgb", "--num-parts", "2", "--part-id", str(part))
        assert "run once without --num-parts" in err
    assert not Path("parts.fgb").exists()
    assert prn(*line[:-2], "parts.fgb")[0] == 0
    assert len(layer("parts.fgb")[1]) == len(first)


def test_a_layer_of_maps_with_and_without_a_reference_is_refused(prn, write, random_logits):
    write("logits/a.tif", *GRIDS["utm, 5 cm"])
    np.save("logits/b.npy", random_logits(50, 60))
    code, _, err = prn("logits", "-o", "masks", "--polygons", "layer.gpkg")
    assert code == 1
    assert "logits/b.npy: has no coordinate system, and other maps of this layer have one" in err
    assert not Path("layer.gpkg").exists()
    assert Path("masks/a.tif").is_file()


def test_maps_of_two_zones_meet_in_degrees(prn, write):
    write("logits/a.tif", "EPSG:32632", Affine(1, 0, 700_000, 0, -1, 5_300_000))
    write("logits/bb.tif", "EPSG:32633", Affine(1, 0, 300_000, 0, -1, 5_300_000))
    assert prn("logits", "-o", "masks", "--polygons", "all.gpkg")[0] == 0
    meta, geometries, fields = layer("all.gpkg")
    assert meta["crs"] == "EPSG:4326"
    for name, crs in (("logits/a.tif", "EPSG:32632"), ("logits/bb.tif", "EPSG:32633")):
        mine = [g.__geo_interface__ for g, source in zip(geometries, fields["source"], strict=True) if source == name]
        back = [shapely.geometry.shape(g) for g in rasterio.warp.transform_geom("EPSG:4326", crs, mine)]
        with rasterio.open(f"masks/{Path(name).name}") as mask:
            np.testing.assert_array_equal(burnt(back, mask), mask.read(1) == 255)
    assert set(fields["area_unit"]) == {"m2"}


def test_maps_without_a_reference_are_in_pixels(prn, folder, random_logits):
    np.save("a.npy", random_logits(50, 60))
    assert prn("a.npy", "-o", "masks", "--polygons", "layer.gpkg", "--format", "tif")[0] == 0
    meta, geometries, fields = layer("layer.gpkg")
    assert meta["crs"] in (None, "") or "Undefined" in str(meta["crs"])
    assert set(fields["area_unit"]) == {"px"}
    with rasterio.open("masks/a.tif") as mask:
        np.testing.assert_array_equal(burnt(geometries, mask), mask.read(1) == 255)
        assert fields["area"].sum() == (mask.read(1) == 255).sum()
    code, _, err = prn("a.npy", "-o", "json", "--polygons", "layer.geojson")
    assert code == 1
    assert "a.npy: has no coordinate system, and GeoJSON has longitudes and latitudes only" in err
    assert not Path("layer.geojson").exists()


def test_a_mask_without_objects_makes_an_empty_layer(prn, write):
    write("a.tif", *GRIDS["utm, 5 cm"])
    for name in ("layer.gpkg", "layer.fgb", "layer.geojson"):
        assert prn("a.tif", "-o", "m", "--polygons", name, "--threshold", "1")[0] == 0
        assert pyogrio.read_info(name, force_feature_count=True)["features"] == 0


@pytest.mark.parametrize("grid", ["utm, rotated", "feet", "degrees"])
def test_areas_are_square_metres_where_there_is_a_reference(prn, write, grid):
    """Against scipy, on the mask without cleaning."""
    from scipy import ndimage

    crs, transform = GRIDS[grid]
    write("a.tif", crs, transform)
    assert prn("a.tif", "-o", "plain", "--polygons", "plain.gpkg")[0] == 0
    _, _, fields = layer("plain.gpkg")
    with rasterio.open("plain/a.tif") as source:
        plain = source.read(1)
    area = fields["area"].sum() / (plain == 255).sum()
    limit = float(np.median(fields["area"]))
    cleaning = ["--min-area", str(limit), "--fill-holes", str(9.5 * area)]
    assert prn("a.tif", "-o", "clean", "--polygons", "clean.gpkg", *cleaning)[0] == 0
    with rasterio.open("clean/a.tif") as source:
        mask = source.read(1)
        _, geometries, fields = layer("clean.gpkg")
        np.testing.assert_array_equal(burnt(geometries, source), mask == 255)
        shapes = [burnt([geometry], source) for geometry in geometries]
    np.testing.assert_array_equal(mask == 127, plain == 127)
    open_pixels = ndimage.binary_dilation(mask == 127)
    open_pixels[[0, -1]] = open_pixels[:, [0, -1]] = True
    spared = [bool((shape & open_pixels).any()) for shape in shapes]
    assert 0 < sum(spared) < len(spared)
    assert fields["area"][~np.array(spared)].min() >= limit
    _, count = ndimage.label(mask == 255)
    assert count == len(geometries) > 0
    holes, count = ndimage.label(mask == 0)
    for number in set(range(1, count + 1)) - set(np.unique(holes[open_pixels])):
        # Holes that are left were too big, or are where a small object was.
        hole = holes == number
        assert hole.sum() >= 10 or (plain[hole] == 255).any()


def test_what_cannot_be_is_said_before_the_work(prn, write, folder):
    write("a.tif", *GRIDS["degrees"])
    for arguments, message in (
        (["--polygons", "layer.shp"], "cannot write polygons as '.shp', expected .gpkg .geojson .fgb"),
        (["--polygons", "gpkg_x.gpkg"], "gpkg_x.gpkg: cannot be written: The layer name may not begin with 'gpkg'"),
        (["--polygons", "sqlite_x.gpkg"], "object name reserved for internal use: sqlite_x; give another name"),
        (["--min-area", "-1"], "--min-area"),
        (["--min-area", "3", "--task", "saliency"], "one class; leave --min-area out"),
    ):
        code, _, err = prn("a.tif", "-o", "m", *arguments)
        assert code == 2
        assert message in err
    Path("mine.gpkg").write_bytes(b"not prn's")
    code, _, err = prn("a.tif", "-o", "m", "--polygons", "mine.gpkg")
    assert code == 2
    assert "mine.gpkg: is there already" in err
    assert not (folder / "m").exists()
    assert prn("a.tif", "-o", "m", "--polygons", "mine.gpkg", "--overwrite")[0] == 0


def test_a_layer_without_a_place_is_said_before_the_work(prn, write, folder):
    write("a.tif", *GRIDS["degrees"])
    (folder / "file").touch()
    (folder / "folder.gpkg").mkdir()
    for name, cause in (("file/layer.gpkg", "not a directory"), ("folder.gpkg", "is a directory")):
        code, _, err = prn("a.tif", "-o", "m", "--polygons", name, "--overwrite")
        assert code == 1
        assert f"{name}: cannot be written: {cause}; check the folder, its permissions and the free space" in err
        assert err.count("prn: error") == 1
        assert not (folder / "m").exists()
    assert prn("a.tif", "-o", "m", "--polygons", "new/layer.gpkg")[0] == 0
    assert [path.name for path in (folder / "new").iterdir()] == ["layer.gpkg"]


def test_control_points_are_no_grid(prn, write):
    write("a.tif", None, None)
    gcps = [rasterio.control.GroundControlPoint(row, col, 13 + col, 52 - row) for row in (0, 70) for col in (0, 90)]
    with rasterio.open("a.tif", "r+") as target:
        target.gcps = (gcps, "EPSG:4326")
    code, _, err = prn("a.tif", "-o", "m", "--polygons", "layer.gpkg")
    assert code == 1
    assert "a.tif: georeferenced by control points or rational polynomials, expected a grid; warp it first" in err
    assert prn("a.tif", "-o", "m")[0] == 0


# --- cloud-optimised GeoTIFF


@pytest.mark.parametrize("grid", ["web mercator", "utm, rotated", "degrees"])
def test_a_cog_is_valid_and_is_the_mask(prn, folder, random_logits, grid):
    cogeo = pytest.importorskip("rio_cogeo.cogeo")
    crs, transform = GRIDS[grid]
    logits = random_logits(700, 1300)
    logits[:40, 100:900] = np.nan
    kind = {"driver": "GTiff", "height": 700, "width": 1300, "count": 1, "dtype": "float32", "nodata": np.nan}
    with rasterio.open("a.tif", "w", crs=crs, transform=transform, **kind) as target:
        target.write(logits, 1)
    assert prn("a.tif", "-o", "plain", "--probabilities", "plain/p")[0] == 0
    code, _, err = prn("a.tif", "-o", "cog", "--probabilities", "cog/p", "--format", "cog")
    assert code == 0, err
    for name in ("a.tif", "p/a.tif"):
        valid, errors, warnings = cogeo.cog_validate(Path("cog") / name, strict=True)
        assert (valid, errors, warnings) == (True, [], [])
        with rasterio.open(Path("plain") / name) as plain, rasterio.open(Path("cog") / name) as made:
            assert (made.crs, made.transform, made.bounds) == (plain.crs, plain.transform, plain.bounds)
            assert (made.nodata == plain.nodata) or (np.isnan(made.nodata) and np.isnan(plain.nodata))
            np.testing.assert_array_equal(made.read(1), plain.read(1))
            assert made.overviews(1)
    with rasterio.open("cog/a.tif", overview_level=0) as overview:
        assert set(np.unique(overview.read(1))) <= {0, 127, 255}
    assert not list((folder / "cog").rglob(".*"))
    # A plain mask is not taken for one that is optimised, and prn reads its own.
    assert "other settings: cog" in prn("a.tif", "-o", "plain", "--format", "cog", "--dry-run")[1]
    assert prn("cog/p", "-o", "again")[0] == 0
    with rasterio.open("again/a.tif") as again, rasterio.open("plain/a.tif") as plain:
        assert again.transform == plain.transform


def test_options_of_a_cog(prn, write):
    write("a.tif", *GRIDS["utm, 5 cm"])
    code, _, err = prn("a.tif", "-o", "m", "--format", "cog", "--co", "COMPRESS=LZW", "--co", "BLOCKSIZE=128")
    assert code == 0, err
    with rasterio.open("m/a.tif") as made:
        assert (made.compression.name, made.tags(ns="IMAGE_STRUCTURE")["LAYOUT"]) == ("lzw", "COG")
    for option, message in (
        ("BLOCKXSIZE=256", "unknown creation option BLOCKXSIZE of cloud-optimised GeoTIFF, expected one of"),
        ("BLOCKSIZE=100", "BLOCKSIZE=100, expected a multiple of 16, 128 to 4096"),
        ("COMPRESS=JPEG", "COMPRESS=JPEG, expected one of DEFLATE"),
    ):
        code, _, err = prn("a.tif", "-o", "bad", "--format", "cog", "--co", option)
        assert code == 2
        assert message in err
    assert prn("a.tif", "-o", "one.tif", "--format", "cog")[0] == 0
    assert prn("a.tif", "-o", "one.png", "--format", "cog")[0] == 2


# --- references


OUTPUTS = {
    "bigtiff": ["--co", "BIGTIFF=YES"],
    "cog": ["--format", "cog"],
    "classes": ["--values", "0,1"],
    "zstd": ["--co", "COMPRESS=ZSTD"],
    "strips": ["--co", "TILED=NO"],
}


@pytest.fixture
def maps(folder, random_logits) -> Path:
    """A folder of maps of several tiles, one for each of some grids, with invalid pixels."""
    (folder / "maps").mkdir()
    logits = random_logits(300, 520)
    logits[:9, :9] = -9999
    kind = {"driver": "GTiff", "height": 300, "width": 520, "count": 1, "dtype": "float32", "nodata": -9999}
    for name in ("web mercator", "utm, 5 cm", "utm, rotated", "degrees"):
        crs, transform = GRIDS[name]
        with rasterio.open(f"maps/{name}.tif", "w", crs=crs, transform=transform, **kind) as target:
            target.write(logits, 1)
    return folder / "maps"


def test_a_bigtiff_is_tiled_compressed_and_georeferenced(prn, maps):
    code, _, err = prn("maps", "-o", "masks", "--probabilities", "p", "--co", "BIGTIFF=YES")
    assert code == 0, err
    for source_path in maps.iterdir():
        for folder, nodata in (("masks", 127), ("p", np.nan)):
            made_path = Path(folder, source_path.name)
            assert made_path.read_bytes()[:4] == b"II\x2b\0"  # 43, where a TIFF has 42
            with rasterio.open(source_path) as source, rasterio.open(made_path) as made:
                assert (made.crs, made.transform, made.shape) == (source.crs, source.transform, source.shape)
                assert made.profile["tiled"]
                assert made.block_shapes == [(256, 256)]
                assert made.compression is rasterio.enums.Compression.deflate
                np.testing.assert_equal(made.nodata, nodata)
                np.testing.assert_array_equal(made.dataset_mask(), source.dataset_mask())


@pytest.mark.skipif(which("gdalinfo") is None, reason="needs gdalinfo")
@pytest.mark.parametrize("output", OUTPUTS)
def test_gdalinfo_reads_what_is_written_without_a_warning(prn, maps, output):
    code, _, err = prn("maps", "-o", "masks", "--probabilities", "p", *OUTPUTS[output])
    assert code == 0, err

    def info(path: Path) -> dict:
        done = subprocess.run(["gdalinfo", "-json", "-checksum", path], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    for source in maps.iterdir():
        expected = info(source)
        for folder, kind, nodata in (("masks", "Byte", 127), ("p", "Float32", np.nan)):
            found = info(Path(folder, source.name))
            for name in ("size", "coordinateSystem", "geoTransform", "cornerCoordinates"):
                assert found[name] == expected[name]
            [band] = found["bands"]
            assert (band["type"], band["checksum"] > 0) == (kind, True)
            invalid = 255 if (output, kind) == ("classes", "Byte") else nodata
            np.testing.assert_equal(float(band["noDataValue"]), invalid)
            assert band["block"][0] == {"strips": 520, "cog": 512}.get(output, 256)
            assert found["metadata"]["IMAGE_STRUCTURE"]["COMPRESSION"] == {"zstd": "ZSTD"}.get(output, "DEFLATE")


@pytest.mark.parametrize("grid", ["utm, rotated", "degrees"])
def test_a_reference_lays_a_map_on_the_earth(prn, write, random_logits, grid):
    crs, transform = GRIDS[grid]
    write("images/a.tif", crs, transform)
    np.save("a.npy", random_logits(70, 90))
    code, _, err = prn("a.npy", "-o", "m", "--like", "images/a.tif", "--bias", "m/b", "--polygons", "layer.geojson")
    assert code == 0, err
    with rasterio.open("images/a.tif") as reference:
        for name in ("m/a.tif", "m/b/a.tif"):
            with rasterio.open(name) as made:
                assert (made.crs, made.transform) == (reference.crs, reference.transform)
    assert layer("layer.geojson")[2]["area_unit"][0] == "m2"
    # Another reference is another input.
    write("other.tif", crs, transform * Affine.translation(90, 0))
    plan = prn("a.npy", "-o", "m", "--like", "other.tif", "--bias", "m/b", "--dry-run")[1]
    assert plan.startswith("refine")


def test_references_pair_by_stem(prn, write, random_logits):
    crs, transform = GRIDS["utm, 5 cm"]
    Path("logits").mkdir()
    for number, name in enumerate("abc"):
        np.save(f"logits/{name}.npy", random_logits(70, 90, seed=number))
        if name != "c":
            write(f"images/{name}.tif", crs, transform * Affine.translation(90 * number, 0))
    code, _, err = prn("logits", "-o", "m", "--like", "images")
    assert code == 1
    assert "logits/c.npy: no reference with this stem in images" in err
    for name in "ab":
        with rasterio.open(f"m/{name}.tif") as made, rasterio.open(f"images/{name}.tif") as reference:
            assert made.transform == reference.transform


def test_a_map_that_lies_somewhere_stays_there(prn, write):
    crs, transform = GRIDS["utm, rotated"]
    write("a.tif", crs, transform)
    write("images/a.tif", crs, transform @ Affine.translation(0, 70) @ Affine.scale(1, -1))
    assert prn("a.tif", "-o", "m", "--like", "images")[0] == 0
    with rasterio.open("m/a.tif") as made, rasterio.open("a.tif") as own:
        assert (made.crs, made.transform) == (own.crs, own.transform)
    write("images/a.tif", *GRIDS["degrees"])
    code, _, err = prn("a.tif", "-o", "m", "--like", "images", "--overwrite")
    assert code == 1
    assert "images/a.tif: in another coordinate reference system (EPSG:4326) than its map (EPSG:32719)" in err


def test_what_is_for_tiff_alone_is_refused_where_none_is_written(prn, write, random_logits):
    np.save("a.npy", random_logits(70, 90))
    write("image.tif", *GRIDS["degrees"])
    for options in (("--like", "image.tif"), ("--co", "COMPRESS=ZSTD")):
        code, _, err = prn("a.npy", "-o", "m.png", *options)
        assert (code, Path("m.png").exists()) == (2, False)
        assert f"{options[0]} is for TIFF, and none is written" in err


def test_references_that_cannot_be(prn, write, random_logits):
    np.save("a.npy", random_logits(70, 90))
    np.save("small.npy", random_logits(60, 90))
    write("image.tif", *GRIDS["degrees"])
    write("nowhere.tif", None, None)
    code, _, err = prn("small.npy", "-o", "m", "--like", "image.tif")
    assert code == 1
    assert "image.tif: 70×90 pixels, expected 60×90 as in small.npy" in err
    code, _, err = prn("a.npy", "-o", "m", "--like", "nowhere.tif")
    assert code == 1
    assert "nowhere.tif: has no georeference; give another --like" in err
    assert prn("a.npy", "-o", "m", "--like", "none.tif")[0] == 1


def test_maps_that_are_kept_are_no_way_round_a_coordinate_system(prn, folder, random_logits):
    np.save("a.npy", random_logits(40, 50))
    assert prn("a.npy", "-o", "masks", "--polygons", "layer.gpkg")[0] == 0
    code, _, err = prn("a.npy", "-o", "masks", "--polygons", "layer.geojson")
    assert code == 1
    assert "a.npy: has no coordinate system, and GeoJSON has longitudes and latitudes only" in err
    assert not Path("layer.geojson").exists()


def test_a_layer_whose_name_is_no_text_is_written(prn, folder, random_logits):
    np.save("a.npy", random_logits(40, 50))
    name = os.fsdecode(b"l\xff.gpkg")
    code, _, err = prn("a.npy", "-o", "masks", "--polygons", name)
    assert code == 0, err
    assert len(pyogrio.raw.read(Path(name).read_bytes())[2]) > 0


def test_objects_across_the_180th_meridian_stay_in_one_piece(prn, write, folder):
    x, y = (float(v[0]) for v in rasterio.warp.transform("EPSG:4326", "EPSG:32660", [180.0], [10.0]))
    write("am/a.tif", "EPSG:32660", Affine(20, 0, x - 900, 0, -20, y + 700))
    write("am/b.tif", "EPSG:32633", Affine(1, 0, 400_000, 0, -1, 5_000_000))
    code, _, err = prn("am", "-o", "m", "--polygons", "layer.gpkg")
    assert code == 0, err
    _, _, geometries, _ = pyogrio.raw.read("layer.gpkg")
    bounds = shapely.bounds(shapely.from_wkb(geometries))
    assert (bounds[:, 2] - bounds[:, 0]).max() < 0.1
    assert bounds[:, 2].max() > 180


def test_what_gdal_cannot_write_is_the_layer_s_failure(prn, write, folder, monkeypatch):
    write("a.tif", *GRIDS["degrees"])

    real = pyogrio.raw.write

    def full(*arguments, **options):
        if Path("m/a.tif").exists():
            raise pyogrio.errors.FeatureError("no room")
        real(*arguments, **options)

    monkeypatch.setattr(pyogrio.raw, "write", full)
    code, _, err = prn("a.tif", "-o", "m", "--polygons", "layer.gpkg")
    assert (code, Path("m/a.tif").exists()) == (1, True)
    assert "layer.gpkg: cannot be written: no room" in err


ENGINEERING = 'LOCAL_CS["site",UNIT["foot",0.3048],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
ROTATED_POLE = (
    "+proj=ob_tran +o_proj=longlat +lon_0=-162 +o_lat_p=39.25 +o_lon_p=180 +a=6371229 +b=6371229 "
    "+to_meter=0.0174532925199433"
)


@pytest.mark.parametrize("suffix", ["gpkg", "fgb"])
def test_a_local_system_has_areas_but_no_degrees(prn, write, suffix):
    write("a.tif", ENGINEERING, Affine(2, 0, 900, 0, -2, 650))
    code, _, err = prn("a.tif", "-o", "m", "--polygons", f"l.{suffix}", "--min-area", "3")
    assert code == 0, err
    meta, geometries, fields = layer(f"l.{suffix}")
    assert meta["crs"].startswith('LOCAL_CS["site"')
    assert set(fields["area_unit"]) == {"m2"}
    square_metres = 0.3048**2 * np.array([geometry.area for geometry in geometries])
    np.testing.assert_allclose(fields["area"], square_metres)
    code, _, err = prn("a.tif", "-o", "m", "--polygons", "l.geojson")
    assert code == 1
    assert "has a local coordinate system, and GeoJSON has longitudes and latitudes only; write .gpkg or" in err
    write("b.tif", *GRIDS["utm, 5 cm"])
    code, _, err = prn("a.tif", "b.tif", "-o", "m", "--polygons", f"both.{suffix}")
    assert code == 1
    assert "has a local coordinate system, and maps of several systems are put into one layer" in err


def test_areas_and_degrees_of_a_rotated_pole(prn, write):
    write("a.tif", ROTATED_POLE, Affine(0.05, 0, -10, 0, -0.05, 10))
    assert prn("a.tif", "-o", "m", "--polygons", "l.geojson", "--min-area", "3")[0] == 0
    with rasterio.open("a.tif") as source, rasterio.open("m/a.tif") as mask:
        assert (mask.crs, mask.transform) == (source.crs, source.transform)
    _, geometries, fields = layer("l.geojson")
    longitudes, latitudes = np.concatenate([np.array(each.exterior.coords) for each in geometries]).T
    assert longitudes.min() > -5
    assert latitudes.max() < 70
    assert fields["area"].sum() < (6371229 * np.radians(0.05)) ** 2 * 70 * 90  # as at the equator
    assert fields["area"].sum() > 0.2 * (6371229 * np.radians(0.05)) ** 2 * 70 * 90
