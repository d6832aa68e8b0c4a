from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from prn_cli.errors import InputError
from prn_cli.maps.tiles import Window
from prn_cli.rasters import Reading, open_map, open_raster, resolve
from prn_cli.rasters.tiff import _Page

pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning", "ignore::PendingDeprecationWarning"
)

HEIGHT, WIDTH = 150, 203
LAYOUTS = {
    "tiled": {"tiled": True, "blockxsize": 64, "blockysize": 32},
    "stripped": {"blockysize": 7},
    "one strip": {"blockysize": HEIGHT},
}


def numbers(dtype: str, bands: int = 1) -> np.ndarray:
    values = np.random.default_rng(3).normal(0, 40, (bands, HEIGHT, WIDTH))
    return (np.abs(values) if np.dtype(dtype).kind == "u" else values).astype(dtype)


def write_tiff(path: Path, array: np.ndarray, **profile: object) -> None:
    shape = {"count": len(array), "height": HEIGHT, "width": WIDTH}
    with rasterio.open(path, "w", **{"driver": "GTiff", **shape, "dtype": array.dtype, **profile}) as file:
        file.write(array)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compress", [None, "deflate", "lzw", "zstd", "packbits", "lzma"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_as_rasterio_writes(tmp_path: Path, dtype: str, compress: str | None, layout: str) -> None:
    array = numbers(dtype)
    for predictor in (1, 2, 3) if compress in ("deflate", "lzw", "zstd") else (1,):
        if predictor == 3 and np.dtype(dtype).kind != "f":
            continue
        path = tmp_path / f"{predictor}.tif"
        options = {"compress": compress, "predictor": predictor} if compress else {}
        write_tiff(path, array, **options, **LAYOUTS[layout])
        with open_raster(path) as raster:
            assert raster.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(raster.read(), array)
            np.testing.assert_array_equal(raster.read(Window(30, 60, 40, 70)), array[:, 30:70, 60:130])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_in_lerc_is_nan(tmp_path: Path, layout: str) -> None:
    array = numbers("float32")
    array[0, 20:70, 50:90] = np.nan
    write_tiff(tmp_path / "map.tif", array, compress="lerc", **LAYOUTS[layout])
    with open_raster(tmp_path / "map.tif") as raster:
        np.testing.assert_array_equal(raster.read(), array)


def test_lerc_that_cannot_be_read_right_is_refused(tmp_path: Path) -> None:
    array = numbers("float32", bands=2)
    write_tiff(tmp_path / "more.tif", array, compress="lerc_zstd")
    with pytest.raises(InputError, match="compressed once more"):
        open_raster(tmp_path / "more.tif")
    array[1, 20:70, 50:90] = np.nan
    write_tiff(tmp_path / "apart.tif", array, compress="lerc", interleave="pixel")
    with open_raster(tmp_path / "apart.tif") as raster, pytest.raises(InputError, match="LERC of 1 bands, expected 2"):
        raster.read()


def test_a_mask_in_a_file_of_its_own(tmp_path: Path) -> None:
    path, array = tmp_path / "map.tif", numbers("float32")
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[30:80, 100:] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        write_tiff(path, array)
        with rasterio.open(path, "r+") as file:
            file.write_mask(valid)
    assert path.with_name("map.tif.msk").is_file()
    with open_raster(path) as raster:
        np.testing.assert_array_equal(raster.valid(Window(20, 90, 70, 40)), valid[20:90, 90:130])
    with open_map("scores", path, Reading(kind="logits")) as scores:
        np.testing.assert_array_equal(np.isnan(scores.logits()), ~valid)
    write_tiff(tmp_path / "other.tif", array)
    tifffile.imwrite(tmp_path / "other.tif.msk", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"a mask of 4×4 pixels beside a map of 150×203"):
        open_raster(tmp_path / "other.tif")


def test_numbers_that_stand_for_others_are_refused(tmp_path: Path) -> None:
    write_tiff(tmp_path / "map.tif", numbers("int16"))
    with rasterio.open(tmp_path / "map.tif", "r+") as file:
        file.scales, file.offsets = (1.0,), (0.0,)
    open_map("scores", tmp_path / "map.tif", Reading(kind="logits")).close()
    with rasterio.open(tmp_path / "map.tif", "r+") as file:
        file.scales = (0.01,)
    with pytest.raises(InputError, match="declares a scale") as caught:
        open_map("scores", tmp_path / "map.tif", Reading(kind="logits"))
    assert "gdal_translate -unscale" in str(caught.value.hint)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("options", [{}, {"compress": "deflate", "predictor": 2}, {"BIGTIFF": "YES"}])
def test_bands(tmp_path: Path, interleave: str, layout: str, options: dict[str, object]) -> None:
    array = numbers("int16", 5)
    write_tiff(tmp_path / "a.tif", array, interleave=interleave, **options, **LAYOUTS[layout])
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.bands == 5
        np.testing.assert_array_equal(raster.read(), array)
        np.testing.assert_array_equal(raster.read(Window(149, 0, 1, 203)), array[:, 149:])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "uint16"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile": (32, 48)},
        {"tile": (32, 48), "compression": "zlib", "predictor": True},
        {"rowsperstrip": 9},
        {"compression": "lzw", "predictor": True},
        {"bigtiff": True},
    ],
)
def test_as_tifffile_writes(tmp_path: Path, dtype: str, byteorder: str, options: dict[str, object]) -> None:
    array = numbers(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array[0], byteorder=byteorder, **options)
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(raster.read(), array)
        np.testing.assert_array_equal(raster.read(Window(31, 47, 2, 3)), array[:, 31:33, 47:50])


def test_classes_in_pages(tmp_path: Path) -> None:
    array = numbers("float32", 2)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    with open_raster(tmp_path / "a.tif") as raster:
        np.testing.assert_array_equal(raster.read(Window(5, 6, 7, 8)), array[:, 5:12, 6:14])


def test_a_lost_page_is_not_a_file_of_fewer_bands(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbers("float32", 2), photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as file:
        second = file.pages[1].offset
    whole = path.read_bytes()
    for damaged in (whole[:second], whole[: second + 20], whole[:second] + b"\xff\xff" + whole[second + 2 :]):
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            open_raster(path)


def test_a_lost_tag_is_not_a_file_without_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbers("float32")[0], extratags=[(42113, 2, 0, "-9999.25", True)])
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags[42113]
    whole = bytearray(path.read_bytes())
    whole[tag.offset + 8 : tag.offset + 12] = b"\xff\xff\xff\x7f"
    path.write_bytes(whole)
    with pytest.raises(InputError, match="tag 42113 cannot be read"):
        open_raster(path)


@pytest.mark.parametrize(
    "options",
    [
        {"driver": "COG", "compress": "deflate", "predictor": "YES"},
        {"ENDIANNESS": "BIG", "compress": "lzw", "predictor": 2},
        {"nbits": 1},
        {"nbits": 1, "compress": "ccittfax4"},
        {"nbits": 4, "compress": "deflate", "tiled": True},
        {"compress": "lerc"},
    ],
)
def test_layouts_seen_in_the_wild(tmp_path: Path, options: dict[str, object]) -> None:
    array = numbers("uint8") % 2
    write_tiff(tmp_path / "a.tif", array, **options)
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.dtype == np.uint8
        np.testing.assert_array_equal(raster.read(), array)
        np.testing.assert_array_equal(raster.read(Window(70, 50, 33, 44)), array[:, 70:103, 50:94])


def test_overviews_are_passed_over_and_the_mask_is_used(tmp_path: Path) -> None:
    array = numbers("float32")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_tiff(tmp_path / "a.tif", array, tiled=True, blockxsize=64, blockysize=64)
        mask = (numbers("uint8")[0] > 20).astype(np.uint8) * 255
        with rasterio.open(tmp_path / "a.tif", "r+") as file:
            file.write_mask(mask)
            file.build_overviews([2, 4])
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.bands == 1
        np.testing.assert_array_equal(raster.read(), array)
        np.testing.assert_array_equal(raster.valid(), mask != 0)
    with open_map("scores", tmp_path / "a.tif", Reading(kind="logits")) as scores:
        np.testing.assert_array_equal(np.isnan(scores.logits()), mask == 0)


def test_grey_and_alpha(tmp_path: Path) -> None:
    array = numbers("uint8", 2)
    tifffile.imwrite(
        tmp_path / "a.tif", array.transpose(1, 2, 0), photometric="minisblack", planarconfig="contig", extrasamples=[2]
    )
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.bands == 1
        np.testing.assert_array_equal(raster.read(), array[:1])
        np.testing.assert_array_equal(raster.valid(), array[1] != 0)


@pytest.mark.parametrize("nodata", [-9999.0, float("nan"), 0.0, -3.4028234663852886e38])
def test_nodata_tag(tmp_path: Path, nodata: float) -> None:
    array = numbers("float32")
    array[0, 5, 6] = nodata
    write_tiff(tmp_path / "a.tif", array, nodata=nodata)
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.nodata == pytest.approx(nodata, nan_ok=True)
    with open_map("scores", tmp_path / "a.tif", Reading(kind="logits")) as scores:
        np.testing.assert_array_equal(np.argwhere(np.isnan(scores.logits())), [[5, 6]])


def test_nodata_that_is_no_number(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", numbers("float32")[0], extratags=[(42113, 2, 0, "none", True)])
    with pytest.raises(InputError, match="declares 'none' as nodata"):
        open_raster(tmp_path / "a.tif")


def test_sparse_tiles_are_nodata_or_refused(tmp_path: Path) -> None:
    for name, nodata in (("with", -1.0), ("without", None)):
        with rasterio.open(
            tmp_path / f"{name}.tif",
            "w",
            driver="GTiff",
            count=1,
            height=128,
            width=128,
            dtype="float32",
            tiled=True,
            blockxsize=64,
            blockysize=64,
            sparse_ok=True,
            nodata=nodata,
            transform=from_origin(0, 0, 1, 1),
        ) as file:
            file.write(np.ones((1, 64, 64), np.float32), window=rasterio.windows.Window(0, 0, 64, 64))
    with open_raster(tmp_path / "with.tif") as raster:
        values = raster.read()[0]
        assert (values[:64, :64] == 1).all()
        assert (values[64:] == -1).all()
        assert (values[:, 64:] == -1).all()
    with open_raster(tmp_path / "without.tif") as raster:
        assert (raster.read(Window(0, 0, 64, 64)) == 1).all()
        with pytest.raises(InputError, match="never written"):
            raster.read()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_window(tmp_path: Path, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    assume(width != 2)  # three bands of it look like channels last
    bands = data.draw(st.integers(1, 3))
    array = np.arange(bands * height * width, dtype=np.float32).reshape(bands, height, width)
    options: dict[str, object] = {"compression": data.draw(st.sampled_from([None, "zlib", "lzw", "zstd"]))}
    if data.draw(st.booleans()):
        options["tile"] = (data.draw(st.sampled_from([16, 32])), data.draw(st.sampled_from([16, 48])))
    else:
        options["rowsperstrip"] = data.draw(st.integers(1, 80))
    planar = data.draw(st.sampled_from(["contig", "separate"])) if bands > 1 else None
    stored = array.transpose(1, 2, 0) if planar == "contig" else array if planar else array[0]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=planar, **options)
    with open_raster(tmp_path / "a.tif") as raster:
        assert (raster.bands, raster.height, raster.width) == (bands, height, width)
        for _ in range(3):
            y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
            window = Window(y, x, data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x)))
            np.testing.assert_array_equal(raster.read(window), array[:, *window.slices])


def test_only_the_tiles_of_a_window_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiff(tmp_path / "a.tif", numbers("float32"), compress="deflate", **LAYOUTS["tiled"])
    with open_raster(tmp_path / "a.tif") as raster:
        page = raster._pages[0]  # type: ignore[attr-defined]
        decoded = []
        decode = page._decode
        monkeypatch.setattr(page, "_decode", lambda data, index: decoded.append(index) or decode(data, index))
        raster.read(Window(33, 65, 10, 10))
        assert decoded == [5]
        raster.read(Window(30, 65, 10, 10))
        assert decoded == [5, 1]  # the other one was kept


def test_rows_of_one_big_strip_are_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "big.tif"
    shape = (50_000, 60_000)
    tifffile.imwrite(path, shape=shape, dtype=np.float32, bigtiff=True)  # 12 GB, sparse on disk
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size)
    with open_raster(path) as raster:
        assert not raster.read(Window(40_000, 3, 20, 30)).any()


@pytest.mark.parametrize("compress", [None, "deflate", "lzw", "zstd"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncated(tmp_path: Path, compress: str | None, layout: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, numbers("float32"), **({"compress": compress} if compress else {}), **LAYOUTS[layout])
    whole = path.read_bytes()
    for size in (1, 4, 8, 30, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError) as caught, open_raster(path) as raster:
            raster.read()
        assert caught.value.hint
        assert caught.value.path == str(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compress", ["deflate", "lzw", "zstd"])
def test_damaged_tiles_never_come_back_as_numbers_of_another_shape(tmp_path: Path, compress: str) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, numbers("float32"), compress=compress, **LAYOUTS["tiled"])
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[3], file.pages[0].databytecounts[3]
        tag = file.pages[0].tags[325]
        position = tag.valueoffset + 3 * tag.valuebytecount // tag.count
        code = "<H" if tag.dtype == 3 else "<I"
    short = bytearray(whole)
    short[position : position + struct.calcsize(code)] = struct.pack(code, count // 2)
    wiped = bytearray(whole)
    wiped[offset : offset + count] = bytes(count)
    for damaged in (short, wiped):
        path.write_bytes(damaged)
        with open_raster(path) as raster:
            raster.read(Window(0, 0, 10, 10))
            with pytest.raises(InputError, match="tile 3"):
                raster.read()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_bytes_end_in_numbers_or_one_error(tmp_path: Path, data: st.DataObject) -> None:
    source = tmp_path / "whole.tif"
    if not source.exists():
        tifffile.imwrite(
            source, np.arange(32 * 32, dtype=np.float32).reshape(32, 32), compression="zlib", tile=(16, 16)
        )
    damaged = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(damaged), 500) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.tif"
    path.write_bytes(damaged)
    try:
        with open_raster(path) as raster:
            raster.read(Window(0, 0, min(raster.height, 64), min(raster.width, 64)))
    except InputError:
        pass


def test_not_a_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for content in (b"II*\0", b"\x89PNG\r\n\x1a\n" + bytes(100), b"hello, world" * 20, b"MM\0*\0\0\0\x08\0\0"):
        path.write_bytes(content)
        with pytest.raises(InputError):
            open_raster(path)


def test_unsupported(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbers("uint8")[0], photometric="miniswhite")
    with pytest.raises(InputError, match="WhiteIsZero"):
        open_raster(path)
    tifffile.imwrite(path, numbers("float32")[0].astype(complex))
    with pytest.raises(InputError, match="complex128"):
        open_raster(path)


def test_a_tiff_bigger_than_memory_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=2_000_000,
        width=2_000_000,
        dtype="float32",
        tiled=True,
        blockxsize=4096,
        blockysize=4096,
        sparse_ok=True,
        BIGTIFF="YES",
        nodata=-1,
        transform=from_origin(0, 0, 1, 1),
    ) as file:
        file.write(np.ones((1, 8, 8), np.float32), window=rasterio.windows.Window(1_000_000, 1_000_000, 8, 8))
    with open_raster(path, max_pixels=2_000_000**2) as raster:
        assert (raster.read(Window(1_000_000, 1_000_000, 8, 8)) == 1).all()
        with pytest.raises(InputError, match="GiB of memory"):
            raster.read()


def test_detection_of_a_big_tiff_looks_at_a_few_windows(tmp_path: Path) -> None:
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        driver="GTiff",
        count=1,
        height=20_000,
        width=20_000,
        dtype="float32",
        tiled=True,
        sparse_ok=True,
        nodata=-1,
        transform=from_origin(0, 0, 1, 1),
    ) as file:
        file.write(np.full((1, 8, 8), 0.5, np.float32), window=rasterio.windows.Window(10_000, 10_000, 8, 8))
    assert resolve(Reading(), [tmp_path / "a.tif"]).kind == "probabilities"


@pytest.mark.parametrize("layout", [{"tile": (32, 48)}, {"rowsperstrip": 7}])
def test_strips_and_tiles_are_decoded_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: dict[str, object]
) -> None:
    monkeypatch.setattr("prn_cli.rasters.tiff._WORTH_THREADS", 0)
    monkeypatch.setattr("prn_cli.rasters.tiff._CACHE_BYTES", 50_000)
    monkeypatch.setattr("prn_cli.rasters.tiff.core_count", lambda: 3)
    array = np.random.default_rng(0).random((300, 200), np.float32)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, compression="deflate", **layout)  # type: ignore[arg-type]
    with open_raster(path) as raster:
        np.testing.assert_array_equal(raster.read()[0], array)
        for window in (Window(3, 5, 250, 190), Window(100, 0, 200, 200), Window(299, 199, 1, 1)):
            np.testing.assert_array_equal(raster.read(window)[0], array[window.slices])
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].dataoffsets[5]  # type: ignore[union-attr]
    data[at : at + 20] = b"\xff" * 20
    path.write_bytes(data)
    with open_raster(path) as raster, pytest.raises(InputError, match="strip or tile 5 cannot be decoded"):
        raster.read()


@pytest.mark.parametrize(("compression", "planes", "rows"), [(None, 1, 70), ("deflate", 1, 70), ("deflate", 3, 70)])
def test_bands_that_end_within_tiles_decode_each_tile_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None, planes: int, rows: int
) -> None:
    monkeypatch.setattr("prn_cli.rasters.tiff._CACHE_BYTES", 1)
    array = np.random.default_rng(0).random((planes, 300, 200), np.float32)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, array, compression=compression, tile=(64, 64), planarconfig="separate" if planes > 1 else None
    )
    decoded: list[int] = []
    decode = _Page._decoded
    monkeypatch.setattr(_Page, "_decoded", lambda page, index: decoded.append(index) or decode(page, index))
    with open_raster(path) as raster:
        bands = [raster.read(Window(y, 0, min(rows, 300 - y), 200)) for y in range(0, 300, rows)]
        np.testing.assert_array_equal(np.concatenate(bands, axis=1), array)
    assert sorted(decoded) == ([] if compression is None else list(range(planes * 5 * 4)))


def test_a_tile_of_absurd_size_is_refused_even_if_it_was_never_written(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((64, 64), np.float32), tile=(64, 64), extratags=[(42113, 2, 0, "-1", True)])
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags  # type: ignore[union-attr]
        places = {name: tags[name].valueoffset for name in ("TileWidth", "TileByteCounts")}
    data = bytearray(path.read_bytes())
    data[places["TileWidth"] : places["TileWidth"] + 4] = struct.pack("<I", 1 << 28)
    data[places["TileByteCounts"] : places["TileByteCounts"] + 4] = bytes(4)
    path.write_bytes(data)
    with pytest.raises(InputError, match="GiB"), open_raster(path) as raster:
        raster.read(Window(0, 0, 64, 64))


def clipped_tiles(path: Path, array: np.ndarray, side: int) -> None:
    """Write a tiled TIFF as some tools do: tiles at the right edge without what lies beyond it."""
    height, width = array.shape
    tiles = [array[y : y + side, x : x + side] for y in range(0, height, side) for x in range(0, width, side)]
    head = 8
    entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (277, 3, 1)]
    entries += [(322, 4, side), (323, 4, side)]
    after = head + 2 + 12 * (len(entries) + 2) + 4
    at, offsets = after + 8 * len(tiles), []
    for tile in tiles:
        offsets.append(at)
        at += tile.size
    data = b"II*\0" + struct.pack("<I", head) + struct.pack("<H", len(entries) + 2)
    for code, kind, value in entries:
        data += struct.pack("<HHII", code, kind, 1, value)
    data += struct.pack("<HHII", 324, 4, len(tiles), after) + struct.pack(
        "<HHII", 325, 4, len(tiles), after + 4 * len(tiles)
    )
    data += struct.pack("<I", 0) + struct.pack(f"<{len(tiles)}I", *offsets)
    data += struct.pack(f"<{len(tiles)}I", *(tile.size for tile in tiles))
    path.write_bytes(data + b"".join(tile.tobytes() for tile in tiles))


def test_tiles_that_are_stored_without_what_lies_beyond_the_edge(tmp_path: Path) -> None:
    array = numbers("uint8")[0, :128, :100]
    clipped_tiles(tmp_path / "a.tif", array, 64)
    with open_raster(tmp_path / "a.tif") as raster:
        np.testing.assert_array_equal(raster.read()[0], array)
        for window in (Window(0, 0, 30, 100), Window(0, 64, 30, 36), Window(70, 3, 5, 90)):
            np.testing.assert_array_equal(raster.read(window)[0], array[window.slices])


@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {"rowsperstrip": 64}])
def test_subsampled_colours_are_refused(tmp_path: Path, layout: dict[str, object]) -> None:
    path = tmp_path / "a.tif"
    tags = [(530, 3, 2, (2, 2), True)]
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", extratags=tags, **layout)  # type: ignore[arg-type]
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags["PhotometricInterpretation"].valueoffset  # type: ignore[union-attr]
    data = bytearray(path.read_bytes())
    data[at : at + 2] = struct.pack("<H", 6)  # YCbCr
    path.write_bytes(data)
    with pytest.raises(InputError, match="subsampl"), open_raster(path) as raster:
        raster.read(Window(0, 0, 20, 64))
