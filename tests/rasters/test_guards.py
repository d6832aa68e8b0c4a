"""Every guard, for every role and format that it holds for."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image, ImageOps
from rasterio.transform import Affine

from prn_cli.errors import InputError
from prn_cli.rasters import Reading, find_inputs, open_map, open_raster, read_palette

ROLES = ["scores", "class scores", "label", "grey label", "class label", "mask", "class numbers", "image"]
BINARY = ["label", "grey label", "mask"]
UTM = Affine(10, 0, 500000, 0, -10, 5000000)
LOGITS = Reading(kind="logits")


def usable(role: str) -> np.ndarray:
    """An array that the role takes."""
    if role == "class scores":
        return np.random.default_rng(0).normal(0, 2, (3, 12, 14)).astype(np.float32)
    if role in ("scores", "image"):
        return np.random.default_rng(0).normal(0, 2, (12, 14)).astype(np.float32)
    return (np.arange(12 * 14).reshape(12, 14) % 3 == 0).astype(np.uint8)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_takes_what_it_is_for(tmp_path: Path, role: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", usable(role), photometric="minisblack")
    open_map(role, tmp_path / "a.tif", LOGITS).close()


@pytest.mark.parametrize("role", ROLES)
def test_orientation_of_tiff(tmp_path: Path, role: str) -> None:
    tag = (274, 3, 1, 4, True)
    tifffile.imwrite(tmp_path / "a.tif", usable(role), photometric="minisblack", extratags=[tag])
    with pytest.raises(InputError, match=r"a\.tif: orientation 4, expected rows from the top"):
        open_map(role, tmp_path / "a.tif", LOGITS)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_orientation_of_pictures_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a.{suffix}"
    colours = np.random.default_rng(1).integers(0, 256, (8, 12, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(colours).save(path, exif=exif)
    with open_map("image", path) as image, Image.open(path) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture)).transpose(2, 0, 1)
        assert (image.bands, image.height, image.width) == upright.shape
        np.testing.assert_array_equal(image.read(), upright)


@pytest.mark.parametrize("suffix", ["npy", "npz", "tif"])
@pytest.mark.parametrize("role", ROLES)
def test_channels_last(tmp_path: Path, role: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    array = np.zeros((64, 48, 3), np.float32)
    if suffix == "npy":
        np.save(path, array)
    elif suffix == "npz":
        np.savez(path, array)
    else:
        tifffile.imwrite(path, array, photometric="minisblack", planarconfig="separate")
    with pytest.raises(InputError, match=r"shape \(64, 48, 3\) looks like \(H, W, C\)"):
        open_map(role, path, LOGITS)


@pytest.mark.parametrize("role", [role for role in ROLES if role != "image"])
def test_scale_of_values(tmp_path: Path, role: str) -> None:
    array = np.atleast_3d(usable(role).T).T
    size = {"count": len(array), "height": 12, "width": 14, "dtype": array.dtype}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **size, transform=UTM) as file:
        file.write(array)
        file.scales = [0.5] * len(array)
    with pytest.raises(InputError, match="declares a scale or an offset"):
        open_map(role, tmp_path / "a.tif", LOGITS)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("role", BINARY)
def test_background_as_nodata(tmp_path: Path, role: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "png":
        Image.fromarray(usable(role)).save(path, transparency=0)
    else:
        tifffile.imwrite(path, usable(role), extratags=[(42113, 2, 0, "0", True)])
    option = "--nodata" if role == "mask" else "--label-nodata"
    with pytest.raises(InputError, match=f"declares 0 as nodata.*say {option} nan"):
        open_map(role, path)
    with open_map(role, path, Reading(nodata=float("nan"), label_nodata=float("nan"))) as opened:
        np.testing.assert_array_equal(opened.read(), usable(role))


@pytest.mark.parametrize("role", [role for role in ROLES if role != "image"])
def test_a_validity_mask_lies_where_its_map_does(tmp_path: Path, role: str) -> None:
    def write(name: str, array: np.ndarray, transform: Affine, crs: int = 32632) -> Path:
        size = {"count": len(array), "height": 12, "width": 14, "dtype": array.dtype}
        with rasterio.open(tmp_path / name, "w", driver="GTiff", **size, transform=transform, crs=crs) as file:
            file.write(array)
        return tmp_path / name

    scores = write("map.tif", np.atleast_3d(usable(role).T).T, UTM)
    ones = np.ones((1, 12, 14), np.uint8)
    open_map(role, scores, LOGITS, valid_mask=write("same.tif", ones, UTM)).close()
    for transform, crs in ((UTM @ Affine.translation(5, 0), 32632), (UTM, 32633), (UTM @ Affine.rotation(9), 32632)):
        mask = write("mask.tif", ones, transform, crs)
        with pytest.raises(InputError, match=r"mask\.tif: (georeferenced elsewhere|in another coord|turned against)"):
            open_map(role, scores, LOGITS, valid_mask=mask)


def test_byte_order_marks(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\ufeff0 1 2 3 land\n", "utf-8")
    assert read_palette(tmp_path / "classes.txt").names == {0: "land"}
    assert list(find_inputs(["-"], stdin=io.StringIO("\ufeffa.npy\r\n"))) == [Path("a.npy")]
    utf_16 = "a.npy\r\n".encode("utf-16").decode("utf-8", "surrogateescape")
    with pytest.raises(InputError, match="UTF-16"):
        find_inputs(["-"], stdin=io.StringIO(utf_16))
    tifffile.imwrite(tmp_path / "a.tif", usable("scores"))
    (tmp_path / "a.tfw").write_text("\ufeff2\n0\n0\n-2\n11\n99\n", "utf-8")
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.geo is not None
        np.testing.assert_array_equal(raster.geo.affine(), [[2, 0, 10], [0, -2, 100]])
