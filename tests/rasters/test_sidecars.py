"""What lies beside a raster is read as GDAL reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.control
from rasterio.transform import Affine

import prn_cli as prn
from prn_cli.errors import InputError
from prn_cli.rasters import create_raster, open_raster
from prn_cli.rasters.raster import IMAGE_SUFFIXES
from prn_cli.rasters.sidecars import find_sidecars

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

UTM = Affine(0.5, 0, 500000, 0, -0.5, 5000000)
WORLD = "2\n0.25\n-0.5\n-3\n500000.25\n4999999.75\n"
ROTATED_POLE = (
    "+proj=ob_tran +o_proj=longlat +lon_0=-162 +o_lat_p=39.25 +o_lon_p=180 +a=6371229 +b=6371229 "
    "+to_meter=0.0174532925199433"
)
DRIVERS = {"tif": "GTiff", "tiff": "GTiff", "png": "PNG", "jpg": "JPEG", "jpeg": "JPEG"}
SIZE = {"height": 12, "width": 10}


def write(path: Path, *, bands: int = 1, dtype: str = "uint8", **more: Any) -> Path:
    driver = DRIVERS[path.suffix[1:].lower()]
    with rasterio.open(path, "w", driver=driver, count=bands, dtype=dtype, **SIZE, **more) as file:
        file.write(np.random.default_rng(0).integers(0, 9, (bands, 12, 10)).astype(dtype))
    return path


def check_against_rasterio(path: Path) -> None:
    with open_raster(path, suffixes=IMAGE_SUFFIXES) as raster, rasterio.open(path) as file:
        affine = None if raster.geo is None else raster.geo.affine()
        if file.transform.is_identity:
            assert affine is None
        else:
            np.testing.assert_allclose(affine.ravel(), tuple(file.transform)[:6])
        assert raster.nodata == file.nodata
        assert raster.scaled == (set(file.scales) != {1.0} or any(file.offsets))
        mask = raster.valid()
        if rasterio.enums.MaskFlags.per_dataset in file.mask_flag_enums[0]:
            np.testing.assert_array_equal(mask, file.dataset_mask() != 0)
        else:
            assert mask is None


ENDINGS = ["tfw", "TFW", "Tfw", "tifw", "TIFW", "tiffw", "wld", "WLD", "tif.wld", "pgw", "pngw", "jgw", "jpgw", "jpegw"]


@pytest.mark.parametrize("suffix", DRIVERS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_world_files_in_every_spelling(tmp_path: Path, suffix: str, ending: str) -> None:
    path = write(tmp_path / f"a.{suffix}")
    (tmp_path / f"a.{ending}").write_text(WORLD)
    check_against_rasterio(path)


@pytest.mark.parametrize("name", ["A.TFW", "A.tfw", "a.wld"])
def test_names_that_differ_in_case_alone(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.tif").rename(tmp_path / "A.TIF")
    (tmp_path / name).write_text(WORLD)
    check_against_rasterio(path)


def test_in_a_large_folder_names_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tif")
    (tmp_path / "a.TFW").write_text(WORLD)
    monkeypatch.setattr("prn_cli.rasters.sidecars._MOST_LISTED", 1)
    check_against_rasterio(path)


@pytest.mark.parametrize(
    "text",
    [
        WORLD.replace(".", ","),
        WORLD.replace("\n", "\r\n"),
        WORLD.replace("\n", "\r"),
        "\n\n" + WORLD.replace("\n", " m\n\n") + "7\n8\n",
        WORLD.replace("2\n", "+2e0\n", 1),
    ],
)
def test_how_world_files_are_written(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.tif")
    with (tmp_path / "a.tfw").open("w", newline="") as file:
        file.write(text)
    check_against_rasterio(path)


@pytest.mark.parametrize("text", ["", "1\n0\n0\n-1\n5\n", "x\n0\n0\n-1\n5\n5\n", "0\n0\n0\n-1\n5\n5\n", "<html>"])
def test_a_world_file_that_is_not_understood_is_named(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.tif")
    (tmp_path / "a.tfw").write_text(text)
    with pytest.raises(InputError, match=r"a\.tfw: expected six lines.*; correct it, or move it away"):
        open_raster(path)
    write(path, transform=UTM, crs=32633)  # then it is not needed
    check_against_rasterio(path)


PAM = {
    "nothing": "",
    "statistics": '<PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">3</MDI></Metadata></PAMRasterBand>',
    "place": '<SRS dataAxisToSRSAxisMapping="1,2">EPSG:32633</SRS><GeoTransform>100,2,0,200,0,-2</GeoTransform>',
    "nodata": '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand>',
    "exact nodata": '<PAMRasterBand band="1"><NoDataValue le_hex_equiv="0000000000001040">3</NoDataValue></PAMRasterBand>',  # noqa: E501
    "scale": '<PAMRasterBand band="1"><Scale>0.5</Scale></PAMRasterBand>',
    "offset": '<PAMRasterBand band="1"><Offset>-4</Offset><Scale>1</Scale></PAMRasterBand>',
}


@pytest.mark.parametrize("content", PAM)
@pytest.mark.parametrize("suffix", ["tif", "png", "jpg"])
@pytest.mark.parametrize("more", [{}, {"transform": UTM, "crs": 32651, "nodata": 5}], ids=["bare", "placed"])
@pytest.mark.parametrize("world", [False, True])
def test_what_gdal_keeps_beside_a_file(tmp_path: Path, suffix: str, content: str, more: Any, world: bool) -> None:
    path = write(tmp_path / f"a.{suffix}", **(more if suffix == "tif" else {}))
    if world:
        (tmp_path / "a.wld").write_text(WORLD)
    (tmp_path / f"a.{suffix}.aux.xml").write_text(f"<PAMDataset>{PAM[content]}</PAMDataset>")
    check_against_rasterio(path)


@pytest.mark.parametrize("factor", [1, 4])
@pytest.mark.parametrize("suffix", ["tif", "png"])
@pytest.mark.parametrize("crs", ["EPSG:32651+4326", ROTATED_POLE, "EPSG:32651", "EPSG:4326"])
def test_a_system_that_tags_cannot_hold_is_carried(tmp_path: Path, crs: str, suffix: str, factor: int) -> None:
    source = write(tmp_path / "a.tif", crs=crs, transform=UTM, PROFILE="BASELINE")
    target = tmp_path / f"b.{suffix}"
    with open_raster(source) as raster:
        shape = {"height": 12 // factor, "width": 10 // factor}
        with create_raster(target, **shape, dtype="uint8", like=raster, downscale=factor) as writer:
            writer.write(np.zeros(tuple(shape.values()), np.uint8))
    with rasterio.open(source) as a, rasterio.open(target) as b:
        assert a.crs == b.crs
        assert b.transform.almost_equals(a.transform @ Affine.scale(factor))
    with open_raster(target) as again, open_raster(source) as raster:
        assert again.geo.reference_system() == raster.geo.reference_system()


def test_control_points_beside_a_file_are_carried(tmp_path: Path) -> None:
    points = [
        rasterio.control.GroundControlPoint(r, c, 10 + c / 100, 50 - r / 99) for r, c in ((0, 0), (0, 9), (11, 3))
    ]
    source = write(tmp_path / "a.tif", gcps=points, crs=4326, PROFILE="BASELINE")
    assert find_sidecars(source)
    with open_raster(source) as raster, create_raster(tmp_path / "b.tif", **SIZE, dtype="uint8", like=raster) as writer:
        writer.write(np.zeros((12, 10), np.uint8))
    with rasterio.open(source) as a, rasterio.open(tmp_path / "b.tif") as b:
        assert a.gcps[1] == b.gcps[1]
        assert [(p.row, p.col, p.x, p.y) for p in a.gcps[0]] == [(p.row, p.col, p.x, p.y) for p in b.gcps[0]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tif.aux.xml", "<PAMDataset><oops", "not XML, or damaged"),
        ("a.tif.aux.xml", "<PAMDataset><GeoTransform>1,2,3</GeoTransform></PAMDataset>", "damaged georeference"),
        ("a.tif.aux.xml", "<PAMDataset><GeoTransform>1,0,0,3,0,0</GeoTransform></PAMDataset>", "without an extent"),
        ("a.tab", "!table\n!version 300\n", "a georeference in a format that prn does not read"),
        ("a.aux", "EHFA_HEADER_TAG\0\0", "a georeference in a format that prn does not read"),
        (
            "a.tif.aux.xml",
            '<PAMDataset><PAMRasterBand band="1"><NoDataValue>x</NoDataValue></PAMRasterBand></PAMDataset>',
            "nodata",
        ),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = write(tmp_path / "a.tif")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=rf"{name.replace('.', '[.]')}: .*{message}"):
        open_raster(path)


@pytest.mark.parametrize("flags", ["2", "0", "8", None])
@pytest.mark.parametrize(("suffix", "bands"), [("tif", 1), ("tif", 2), ("png", 1)])
def test_masks_beside_a_file(tmp_path: Path, suffix: str, bands: int, flags: str | None) -> None:
    path = write(tmp_path / f"a.{suffix}", bands=bands)
    mask = np.full((bands, 12, 10), 255, np.uint8)
    mask[0, :4] = mask[-1, :, :3] = 0
    with rasterio.open(tmp_path / "m.tif", "w", driver="GTiff", count=bands, dtype="uint8", **SIZE) as file:
        file.write(mask)
        if flags:
            file.update_tags(**{f"INTERNAL_MASK_FLAGS_{band}": flags for band in range(1, bands + 1)})
    (tmp_path / "m.tif").rename(tmp_path / f"a.{suffix}.msk")
    with open_raster(path) as raster, rasterio.open(path) as file:
        found = raster.valid()
        # GDAL passes over a mask that does not say of what it is.
        expected = (file.read_masks() != 0).all(axis=0) if flags else (mask != 0).all(axis=0)
        np.testing.assert_array_equal(found, expected)


def test_a_mask_file_that_was_replaced_leaves_nothing_beside(tmp_path: Path) -> None:
    with create_raster(tmp_path / "b.tif", **SIZE, dtype="uint8") as writer:
        writer.write(np.zeros((12, 10), np.uint8))
    (tmp_path / "b.tif.aux.xml").write_text(f"<PAMDataset>{PAM['place']}</PAMDataset>")
    with create_raster(tmp_path / "b.tif", **SIZE, dtype="uint8") as writer:
        writer.write(np.zeros((12, 10), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["b.tif"]


def test_sidecars_are_inputs(tmp_path: Path, make_onnx: Any) -> None:
    """What is added, changed or removed beside a map makes its mask stale."""
    logits = tmp_path / "logits"
    logits.mkdir()
    source = write(logits / "a.tif", dtype="float32")

    def status() -> str:
        options = {"out": tmp_path / "out", "weights": make_onnx(), "input_kind": "logits", "threshold": 0.5}
        return prn.refine(logits, **options).maps[0].status

    assert [status(), status()] == ["refined", "kept"]
    (logits / "a.tfw").write_text(WORLD)
    assert [status(), status()] == ["refined", "kept"]
    (logits / "a.tfw").unlink()
    assert status() == "refined"
    (logits / "a.tif.aux.xml").write_text(f"<PAMDataset>{PAM['place']}</PAMDataset>")
    assert status() == "refined"
    with rasterio.open(source) as a, rasterio.open(tmp_path / "out" / "a.tif") as b:
        assert (a.crs, a.transform) == (b.crs, b.transform)
