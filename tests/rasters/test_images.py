from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rasterio.transform import Affine
from rasterio.warp import Resampling, reproject

from prn_cli.errors import InputError
from prn_cli.maps.bands import band_statistics
from prn_cli.maps.tiles import Window
from prn_cli.rasters import common_bands, find_images, open_map, open_raster
from prn_cli.rasters.activations import Activations

RANDOM = np.random.default_rng(5)
RGB = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
UTM = Affine(10, 0, 500000, 0, -10, 5000000)


pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def write_tiff(path: Path, values: np.ndarray, transform: Affine | None = None, crs: Any = 32632, **more: Any) -> Path:
    geo = {} if transform is None else {"transform": transform, "crs": crs}
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **geo, **more) as file:
        file.write(values)
    return path


def read(path: Path, **options: Any) -> np.ndarray:
    with open_map("image", path, **options) as image:
        result = image.read()
        assert result.dtype == np.float32
        assert result.shape == (image.bands, image.height, image.width)
        return result


def test_formats(tmp_path: Path) -> None:
    bands = RGB.transpose(2, 0, 1)
    Image.fromarray(RGB).save(tmp_path / "a.png")
    Image.fromarray(RGB).save(tmp_path / "a.jpg", quality=95)
    np.save(tmp_path / "a.npy", bands)
    write_tiff(tmp_path / "a.tif", bands)
    write_tiff(tmp_path / "b.tif", np.concatenate([bands, bands]).astype(np.float64) - 100)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), bands)
    np.testing.assert_array_equal(
        read(tmp_path / "a.jpg"), np.asarray(Image.open(tmp_path / "a.jpg")).transpose(2, 0, 1)
    )
    np.testing.assert_array_equal(read(tmp_path / "a.npy"), bands)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), bands)
    np.testing.assert_array_equal(read(tmp_path / "b.tif"), np.concatenate([bands, bands]) - np.float32(100))
    Image.fromarray(RGB[..., 0]).save(tmp_path / "grey.jpeg")
    assert read(tmp_path / "grey.jpeg").shape == (1, 20, 30)
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert read(tmp_path / "cmyk.jpg").shape == (3, 20, 30)


def test_palettes_become_colours(tmp_path: Path) -> None:
    colours = np.array([[255, 0, 0], [0, 200, 10], [1, 2, 3]], np.uint8)
    index = RGB[..., 0] % 3
    picture = Image.fromarray(index, "P")
    picture.putpalette(colours.ravel().tolist())
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), colours[index].transpose(2, 0, 1))
    picture.save(tmp_path / "b.png", transparency=2)
    found = read(tmp_path / "b.png")
    np.testing.assert_array_equal(np.isnan(found), np.broadcast_to(index == 2, found.shape))
    picture.save(tmp_path / "some.png", transparency=b"\x00\x80\x00")
    np.testing.assert_array_equal(np.isnan(read(tmp_path / "some.png"))[0], index != 1)
    write_tiff(tmp_path / "a.tif", index[np.newaxis], photometric="palette")
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.write_colormap(1, {number: (*colour, 255) for number, colour in enumerate(colours.tolist())})
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), colours[index].transpose(2, 0, 1))


def test_alpha_and_nodata_are_no_colours(tmp_path: Path) -> None:
    alpha = np.where(RGB[..., 0] < 99, 0, 255).astype(np.uint8)
    rgba = np.dstack([RGB, alpha])
    expected = np.where(alpha > 0, RGB.transpose(2, 0, 1).astype(np.float32), np.nan)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    write_tiff(tmp_path / "a.tif", rgba.transpose(2, 0, 1), photometric="RGB", alpha="YES")
    write_tiff(tmp_path / "four.tif", rgba.transpose(2, 0, 1), photometric="MINISBLACK", alpha="NO")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), expected)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), expected)
    assert read(tmp_path / "four.tif").shape == (4, 20, 30)
    # A nodata value that is a colour counts where all bands have it; one that is none, and NaN, count in any band.
    zeros = RGB.transpose(2, 0, 1).copy()
    zeros[:, 3, 4] = 0
    zeros[0, 5, 6] = 0
    found = read(write_tiff(tmp_path / "zeros.tif", zeros, nodata=0))
    assert np.argwhere(np.isnan(found[0])).tolist() == [[3, 4]]
    floats = zeros.astype(np.float32)
    floats[1, 7, 8], floats[2, 9, 10] = -9999, np.nan
    found = read(write_tiff(tmp_path / "floats.tif", floats, nodata=-9999))
    assert np.argwhere(np.isnan(found).all(axis=0)).tolist() == [[7, 8], [9, 10]]


@pytest.mark.parametrize("shape", [(20, 30), (10, 15), (40, 60), (7, 10), (33, 50)])
def test_resampling_by_size_is_that_of_pillow(tmp_path: Path, shape: tuple[int, int]) -> None:
    bands = RGB.transpose(2, 0, 1)
    write_tiff(tmp_path / "a.tif", bands)
    np.save(tmp_path / "map.npy", np.zeros(shape, np.float32))
    with open_raster(tmp_path / "map.npy") as like:
        found = read(tmp_path / "a.tif", like=like)
    for band, values in zip(found, bands, strict=True):
        resized = Image.fromarray(values.astype(np.float32)).resize(shape[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_allclose(band, np.asarray(resized), atol=1e-3)
    np.testing.assert_array_equal(read(tmp_path / "a.tif", shape=shape), found)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for shape in ((30, 20), (20, 24), (41, 55)):
        np.save(tmp_path / "map.npy", np.zeros(shape, np.float32))
        with open_raster(tmp_path / "map.npy") as like, pytest.raises(InputError, match="image of 20×30 pixels"):
            open_map("image", tmp_path / "a.png", like=like)


@pytest.mark.parametrize(
    ("transform", "size"),
    [
        (UTM, (16, 24)),
        (UTM @ Affine.translation(3, 4), (12, 16)),  # whole pixels
        (UTM @ Affine.translation(-5, -3), (40, 50)),  # beyond the image on all sides
        (UTM @ Affine.translation(2.25, 3.6), (12, 16)),
        (UTM @ Affine.translation(1.5, 2.5) @ Affine.scale(0.5), (24, 30)),  # the map is finer
        (UTM @ Affine.rotation(0), (20, 30)),
    ],
)
def test_georeferences_decide_where_an_image_lies(tmp_path: Path, transform: Affine, size: tuple[int, int]) -> None:
    bands = RGB.transpose(2, 0, 1).astype(np.float32)
    image = write_tiff(tmp_path / "a.tif", bands, UTM)
    scores = write_tiff(tmp_path / "map.tif", np.zeros((1, *size), np.float32), transform)
    with open_raster(scores) as like:
        found = read(image, like=like)
    expected = np.full((3, *size), np.nan, np.float32)
    reproject(
        bands,
        expected,
        src_transform=UTM,
        src_crs="EPSG:32632",
        dst_transform=transform,
        dst_crs="EPSG:32632",
        resampling=Resampling.bilinear,
        src_nodata=np.nan,
        dst_nodata=np.nan,
    )
    # At the very border GDAL and this differ in what counts as inside.
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=0.01)


def test_turned_alike_or_mirrored_is_fine_and_turned_otherwise_is_refused(tmp_path: Path) -> None:
    bands = RGB.transpose(2, 0, 1)
    turned = UTM @ Affine.rotation(30)
    image = write_tiff(tmp_path / "a.tif", bands, turned)
    scores = write_tiff(tmp_path / "map.tif", np.zeros((1, 8, 9), np.float32), turned @ Affine.translation(4, 5))
    with open_raster(scores) as like:
        np.testing.assert_array_equal(read(image, like=like), bands[:, 5:13, 4:13])
    for wrong in (UTM, UTM @ Affine.rotation(40)):
        write_tiff(scores, np.zeros((1, 8, 9), np.float32), wrong)
        with open_raster(scores) as like, pytest.raises(InputError, match=r"turned against its map|beside"):
            open_map("image", image, like=like)
    mirrored = turned @ Affine.translation(4, 13) @ Affine.scale(1, -1)
    write_tiff(scores, np.zeros((1, 8, 9), np.float32), mirrored)
    with open_raster(scores) as like:
        np.testing.assert_array_equal(read(image, like=like), bands[:, 12:4:-1, 4:13])


def test_other_ground_and_other_systems_are_refused(tmp_path: Path) -> None:
    image = write_tiff(tmp_path / "a.tif", RGB.transpose(2, 0, 1), UTM)
    scores = write_tiff(tmp_path / "map.tif", np.zeros((1, 8, 9), np.float32), UTM, crs=32633)
    with open_raster(scores) as like, pytest.raises(InputError, match=r"EPSG:32632.*EPSG:32633"):
        open_map("image", image, like=like)
    write_tiff(scores, np.zeros((1, 8, 9), np.float32), UTM @ Affine.translation(300, 0))
    with open_raster(scores) as like, pytest.raises(InputError, match="lies beside its map"):
        open_map("image", image, like=like)


def test_pixel_is_point_and_corner_are_the_same_ground(tmp_path: Path) -> None:
    values = RGB.transpose(2, 0, 1)
    write_tiff(tmp_path / "area.tif", values, UTM)
    with rasterio.Env(GTIFF_POINT_GEO_IGNORE=False):
        write_tiff(tmp_path / "point.tif", values, UTM)
        with rasterio.open(tmp_path / "point.tif", "r+") as file:
            file.update_tags(AREA_OR_POINT="Point")
    with open_raster(tmp_path / "area.tif") as like:
        np.testing.assert_array_equal(read(tmp_path / "point.tif", like=like), values)
    with open_raster(tmp_path / "point.tif") as point, rasterio.open(tmp_path / "point.tif") as file:
        assert point.geo is not None
        affine = point.geo.affine()
        assert affine is not None
        np.testing.assert_allclose(affine.ravel(), tuple(file.transform)[:6])


@given(data=st.data())
def test_any_window_is_a_part_of_the_whole(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("window")
    values = np.random.default_rng(data.draw(st.integers(0, 9))).random((2, 23, 31)).astype(np.float32)
    values[:, 5:9, 7:20] = np.nan
    image = write_tiff(folder / "a.tif", values, UTM)
    start = data.draw(st.floats(-4, 9)), data.draw(st.floats(-4, 9))
    transform = UTM @ Affine.translation(*start) @ Affine.scale(data.draw(st.floats(0.3, 4)))
    scores = write_tiff(folder / "map.tif", np.zeros((1, 17, 19), np.float32), transform)
    y, x = data.draw(st.integers(0, 16)), data.draw(st.integers(0, 18))
    window = Window(y, x, data.draw(st.integers(1, 17 - y)), data.draw(st.integers(1, 19 - x)))
    with open_raster(scores) as like, open_map("image", image, like=like) as opened:
        whole, part = opened.read(), opened.read(window)
    np.testing.assert_allclose(part, whole[:, *window.slices], atol=1e-6)
    inside = np.isfinite(whole)
    assert (whole[inside] >= 0).all()
    assert (whole[inside] <= 1 + 1e-5).all()


def test_a_shrunken_pixel_is_made_of_what_is_valid_in_it(tmp_path: Path) -> None:
    values = np.full((1, 32, 32), 7, np.float32)
    values[:, :, :13] = -9999
    image = write_tiff(tmp_path / "a.tif", values, nodata=-9999)
    found = read(image, shape=(8, 8))[0]
    assert np.isnan(found[:, :3]).all()
    np.testing.assert_allclose(found[:, 4:], 7, rtol=1e-6)


def test_statistics_are_hardly_moved_by_stray_numbers() -> None:
    normal = RANDOM.normal((100, -3), (20, 0.5), (150, 140, 2)).transpose(2, 0, 1).astype(np.float32)
    stray = normal.copy()
    stray[0, 0, :50] = 65535
    stray[:, 7] = np.nan
    for images in ([normal], [stray], [normal[:, :99], normal[:, 99:]]):
        centre, spread = band_statistics(images)
        np.testing.assert_allclose(centre, (100, -3), rtol=0.01)
        np.testing.assert_allclose(spread, (20, 0.5), rtol=0.05)
    assert band_statistics([np.full((1, 3, 3), 5, np.float32)]) == ((5.0,), (1.0,))
    assert band_statistics([np.full((2, 3, 3), np.nan, np.float32)]) == ((0.0, 0.0), (1.0, 1.0))
    assert band_statistics([np.eye(40, dtype=np.float32)[np.newaxis] > 0.5])[1][0] > 0


def test_grey_images_among_coloured_ones(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for name in "bcd":
        Image.fromarray(RGB[..., 1]).save(tmp_path / f"{name}.png")
    (tmp_path / "e.png").write_bytes(b"?")
    assert common_bands(sorted(tmp_path.iterdir())) == 3
    assert common_bands([tmp_path / "b.png"]) == 1
    with pytest.raises(InputError, match="not a PNG"):
        common_bands([tmp_path / "e.png"])
    np.testing.assert_array_equal(read(tmp_path / "b.png", bands=3), [RGB[..., 1]] * 3)
    with pytest.raises(InputError, match="image of 3 bands, expected 4"):
        open_map("image", tmp_path / "a.png", bands=4)


def test_damaged_and_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path)
    whole = path.read_bytes()
    for size in (1, 20, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"a\.jpg: not a JPEG, or damaged"):
            read(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        open_map("image", path)
    with pytest.raises(InputError, match="no such file"):
        open_map("image", tmp_path / "no.jpg")
    (tmp_path / "a.webp").write_bytes(b"x")
    with pytest.raises(InputError, match="unknown format"):
        open_map("image", tmp_path / "a.webp")


@pytest.mark.parametrize("valid", [False, True])
@pytest.mark.parametrize("read_before", [False, True])
def test_an_image_has_a_valid_pixel_somewhere(tmp_path: Path, valid: bool, read_before: bool) -> None:
    values = np.full((2, 3000, 2000), np.nan, np.float32)
    if valid:
        values[:, 2900, 1900] = 7
    np.save(tmp_path / "a.npy", values)
    with open_map("image", tmp_path / "a.npy") as image:
        if read_before:
            image.read(Window(2000, 0, 1000, 2000))
        if valid:
            image.check_valid()
        else:
            with pytest.raises(InputError, match=r"a\.npy: no valid pixel; give another image, or leave it out"):
                image.check_valid()


def test_images_pair_by_stem_and_may_be_jpeg(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.JPEG", "c.tif", "e.txt"):
        (tmp_path / name).touch()
    inputs = [Path(f"{stem}.npy") for stem in "abcd"]
    images = find_images(inputs, tmp_path)
    assert images.of(inputs[0]) == tmp_path / "a.jpg"
    assert images.role(inputs[1]) == {"image": tmp_path / "b.JPEG"}
    with pytest.raises(InputError, match="no image with this stem"):
        images.of(inputs[3])
    assert find_images(inputs, None).of(inputs[0]) is None


def test_a_pixel_counts_if_its_centre_is_on_the_image(tmp_path: Path) -> None:
    image = write_tiff(tmp_path / "a.tif", np.full((1, 20, 30), 7, np.float32), UTM)
    scores = write_tiff(tmp_path / "map.tif", np.zeros((1, 24, 34), np.float32), UTM @ Affine.translation(-1.6, -1.7))
    with open_raster(scores) as like:
        found = read(image, like=like)[0]
    expected = np.full((24, 34), np.nan, np.float32)
    expected[2:22, 2:32] = 7  # corners too: two thirds of them lie beyond
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def activations(path: Path, grid: Path) -> np.ndarray:
    with open_map("image", grid) as image, Activations([[path]], 2, grid=image) as found:
        assert (found.height, found.width) == (image.height, image.width)
        return found.read(Window(0, 0, found.height, found.width))


@pytest.mark.parametrize("grid", ["i.tif", "i.png"])
@pytest.mark.parametrize("suffix", ["npy", "tif"])
def test_activations_are_stretched_to_the_image(tmp_path: Path, grid: str, suffix: str) -> None:
    """Whatever the shape and the format, where no georeference says otherwise."""
    maps = RANDOM.random((2, 8, 8), np.float32)
    np.save(tmp_path / "a.npy", maps)
    write_tiff(tmp_path / "a.tif", maps)
    write_tiff(tmp_path / "i.tif", RGB.transpose(2, 0, 1), UTM)
    Image.fromarray(RGB).save(tmp_path / "i.png")
    found = activations(tmp_path / f"a.{suffix}", tmp_path / grid)
    np.testing.assert_array_equal(found, read(tmp_path / "a.npy", shape=(20, 30)))


@pytest.mark.parametrize("grid", ["i.tif", "i.png"])
def test_activations_lie_where_their_georeference_says(tmp_path: Path, grid: str) -> None:
    maps = RANDOM.random((2, 30, 40), np.float32)
    write_tiff(tmp_path / "a.tif", maps, UTM @ Affine.translation(-3, -2))
    write_tiff(tmp_path / "i.tif", RGB.transpose(2, 0, 1), UTM)
    Image.fromarray(RGB).save(tmp_path / "i.png")
    (tmp_path / "i.pgw").write_text("10\n0\n0\n-10\n500005\n4999995\n")
    found = activations(tmp_path / "a.tif", tmp_path / grid)
    np.testing.assert_array_equal(found, maps[:, 2:22, 3:33])
