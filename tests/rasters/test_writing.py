from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prn_cli.errors import OutputError, UsageError
from prn_cli.rasters import RasterWriter, create_raster, mask_nodata, open_raster, read_label, tiff_writing

pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning", "ignore::PendingDeprecationWarning"
)

HEIGHT, WIDTH = 300, 411


def numbers(dtype: str = "uint8", height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return (np.random.default_rng(1).random((height, width)) * 200).astype(dtype)


def write(path: Path, array: np.ndarray, rows: int = 77, **options: object) -> None:
    with create_raster(path, height=array.shape[0], width=array.shape[1], dtype=array.dtype, **options) as writer:
        for y in range(0, len(array), rows):
            writer.write(array[y : y + rows])


def test_an_interrupt_is_no_failure_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tifffile.TiffWriter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.tif", numbers(height=8, width=8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "int32"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"COMPRESS": "ZSTD"},
        {"compress": "lzw", "predictor": "auto"},
        {"COMPRESS": "NONE"},
        {"TILED": "NO"},
        {"TILED": "NO", "COMPRESS": "NONE", "BLOCKYSIZE": "10"},
        {"BLOCKXSIZE": "512", "BLOCKYSIZE": "16", "BIGTIFF": "YES"},
    ],
)
def test_tiff_as_rasterio_reads_it(tmp_path: Path, dtype: str, options: dict[str, str]) -> None:
    array = numbers(dtype)
    if "predictor" in options:
        options = {**options, "predictor": "3" if np.dtype(dtype).kind == "f" else "2"}
    write(tmp_path / "a.tif", array, nodata=127, creation_options=options)
    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.read(1), array)
        assert file.nodata == 127
        assert file.dtypes == (dtype,)
        assert file.count == 1
        assert file.profile["tiled"] == (options.get("TILED") != "NO")
        compress = options.get("COMPRESS", options.get("compress", "deflate")).lower()
        assert file.profile.get("compress", "none") == compress
        if options.get("TILED") != "NO":
            shape = int(options.get("BLOCKYSIZE", "256")), int(options.get("BLOCKXSIZE", "256"))
            assert file.block_shapes == [shape]
        elif "BLOCKYSIZE" in options:
            assert file.block_shapes == [(10, WIDTH)]
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff == (options.get("BIGTIFF") == "YES")
    with open_raster(tmp_path / "a.tif") as raster:
        np.testing.assert_array_equal(raster.read()[0], array)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_size_in_any_bands(tmp_path: Path, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiff_writing, "_SMALL_BYTES", data.draw(st.sampled_from([0, 1 << 22])))
        check_any_size_in_any_bands(tmp_path, data)


def check_any_size_in_any_bands(tmp_path: Path, data: st.DataObject) -> None:
    array = numbers("float32", data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90)))
    options = data.draw(st.sampled_from([{}, {"TILED": "NO"}, {"BLOCKXSIZE": "16", "BLOCKYSIZE": "32"}]))
    suffix = data.draw(st.sampled_from([".tif", ".npy"]))
    path = tmp_path / f"a{suffix}"
    write(path, array, data.draw(st.integers(1, 100)), creation_options=options)
    with open_raster(path) as raster:
        np.testing.assert_array_equal(raster.read()[0], array)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_pieces_from_the_left_or_in_any_order(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["float32", "uint8"]))
    array = numbers(kind, data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90)))
    sizes = {"BLOCKXSIZE": "16", "BLOCKYSIZE": "32"}
    options = data.draw(st.sampled_from([{}, {"TILED": "NO"}, sizes, {**sizes, "COMPRESS": "NONE"}]))
    path = tmp_path / f"a{data.draw(st.sampled_from(['.tif', '.npy', *(['.png'] if kind == 'uint8' else [])]))}"
    height, width = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50))
    places = [(y, x) for y in range(0, array.shape[0], height) for x in range(0, array.shape[1], width)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiff_writing, "_SMALL_BYTES", data.draw(st.sampled_from([0, 1 << 22])))
        shape = {"height": array.shape[0], "width": array.shape[1]}
        with create_raster(path, **shape, dtype=kind, creation_options=options) as writer:
            assert writer.any_order == (path.suffix == ".npy" or (path.suffix == ".tif" and "TILED" not in options))
            for y, x in data.draw(st.permutations(places)) if writer.any_order else places:
                piece = array[y : y + height, x : x + width].copy()
                writer.write(piece, y, x)
                piece[:] = 0  # it was the caller's
    with open_raster(path) as raster:
        np.testing.assert_array_equal(raster.read()[0], array)
    if path.suffix != ".npy":
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(file.read(1), array)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy"])
def test_what_is_missing_or_beyond_the_map_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(ValueError, match="10 pixels are missing of 4×10"), open_writer(path) as writer:
        writer.write(np.zeros((3, 10), np.uint8))
    if suffix == ".png":
        with pytest.raises(ValueError, match="row 2, expected row 0"), open_writer(path) as writer:
            writer.write(np.zeros((2, 10), np.uint8), 2)
    for piece, y, x in (((2, 10), 3, 0), ((2, 9), 0, 2)):
        with pytest.raises(ValueError, match="a piece of shape"), open_writer(path) as writer:
            writer.write(np.zeros(piece, np.uint8), y, x)
    assert not list(tmp_path.iterdir())


def open_writer(path: Path) -> RasterWriter:
    return create_raster(path, height=4, width=10, dtype="uint8")


def test_nan_nodata(tmp_path: Path) -> None:
    array = numbers("float32")
    array[3, 4] = np.nan
    write(tmp_path / "a.tif", array, nodata=float("nan"))
    with rasterio.open(tmp_path / "a.tif") as file:
        assert np.isnan(file.nodata)
        np.testing.assert_array_equal(file.read(1), array)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].tags[42113].value == "nan"


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("values", [(0, 255), (0, 1)])
def test_masks_come_back_as_labels(tmp_path: Path, values: tuple[int, int], suffix: str) -> None:
    labels = np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), (40, 50))
    nodata = mask_nodata(values)
    mask = np.select([labels == 0, labels == 1], values, nodata).astype(np.uint8)
    path = tmp_path / f"a{suffix}"
    write(path, mask, nodata=nodata)
    np.testing.assert_array_equal(read_label(path), labels)


def test_png_and_npy(tmp_path: Path) -> None:
    write(tmp_path / "a.png", numbers(), nodata=127)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), numbers())
        assert image.info["transparency"] == 127
    write(tmp_path / "b.png", numbers("uint16"))
    with Image.open(tmp_path / "b.png") as image:
        assert image.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(image), numbers("uint16"))
    write(tmp_path / "c.npy", numbers("float32"))
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), numbers("float32"))


@pytest.mark.parametrize(("suffix", "small"), [(".tif", 1 << 22), (".tif", 0), (".png", 0), (".npy", 0)])
def test_nothing_is_left_of_a_failure(tmp_path: Path, monkeypatch, suffix: str, small: int) -> None:
    monkeypatch.setattr(tiff_writing, "_SMALL_BYTES", small)  # what is larger is written by a thread of its own
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with create_raster(path, height=HEIGHT, width=WIDTH, dtype=np.uint8) as writer:
            writer.write(numbers()[:290])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with (
        pytest.raises(ValueError, match="119190 pixels are missing of 300×411"),
        create_raster(path, height=HEIGHT, width=WIDTH, dtype=np.uint8) as writer,
    ):
        writer.write(numbers()[:10])
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("write ")]


@pytest.mark.parametrize(("suffix", "width"), [(".tif", 2000), (".tif", 200), (".png", 2000), (".npy", 2000)])
@pytest.mark.skipif(sys.platform == "win32", reason="limits of file size are a matter of POSIX")
def test_a_full_disk_is_an_output_error(tmp_path: Path, suffix: str, width: int) -> None:
    program = f"""
import resource, numpy as np
from prn_cli.errors import OutputError
from prn_cli.rasters import create_raster
import tifffile, PIL.PngImagePlugin
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
rows = np.random.default_rng(0).integers(0, 255, (500, {width}), dtype=np.uint8)
try:
    with create_raster(r"{tmp_path / "a"}{suffix}", height=5000, width={width}, dtype=np.uint8) as writer:
        for _ in range(10):
            writer.write(rows)
except OutputError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "cannot be written: file too large" in result.stdout
    assert result.stderr == ""
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.tif", tmp_path / "file" / "a.npy"):
        with pytest.raises(OutputError, match="cannot be written"):
            create_raster(path, height=1, width=1, dtype=np.uint8).__enter__()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.npy")
        with pytest.raises(OutputError, match="is a pipe or a device"):
            create_raster(tmp_path / "pipe.npy", height=1, width=1, dtype=np.uint8).__enter__()
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        create_raster(tmp_path / "folder.tif", height=1, width=1, dtype=np.uint8).__enter__()


def test_folders_are_made(tmp_path: Path) -> None:
    write(tmp_path / "new" / "folder" / "a.tif", numbers())
    assert (tmp_path / "new" / "folder" / "a.tif").exists()


@pytest.mark.skipif(not hasattr(os, "umask"), reason="file modes are a matter of POSIX")
def test_file_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for suffix in (".tif", ".png", ".npy"):
            write(tmp_path / f"a{suffix}", numbers())
    finally:
        os.umask(before)
    for suffix in (".tif", ".png", ".npy"):
        assert (tmp_path / f"a{suffix}").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"COMPRES": "LZW"}, "unknown creation option COMPRES"),
        ({"COMPRESS": "JPEG"}, "COMPRESS=JPEG, expected one of NONE, LZW, DEFLATE"),
        ({"TILED": "MAYBE"}, "TILED=MAYBE"),
        ({"BLOCKXSIZE": "100"}, "BLOCKXSIZE=100, expected a multiple of 16"),
        ({"BLOCKYSIZE": "-16"}, "BLOCKYSIZE=-16"),
        ({"TILED": "NO", "BLOCKXSIZE": "256"}, "strips are as wide"),
        ({"PREDICTOR": "4"}, "PREDICTOR=4"),
        ({"PREDICTOR": "3"}, "does not suit uint8"),
        ({"BIGTIFF": "PERHAPS"}, "BIGTIFF=PERHAPS"),
    ],
)
def test_wrong_creation_options(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_raster(tmp_path / "a.tif", height=9, width=9, dtype=np.uint8, creation_options=options)


def test_wrong_formats_and_types(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="PNG cannot hold float32"):
        create_raster(tmp_path / "a.png", height=9, width=9, dtype=np.float32)
    with pytest.raises(UsageError, match=r"cannot write '\.jpg'"):
        create_raster(tmp_path / "a.jpg", height=9, width=9, dtype=np.uint8)
    with pytest.raises(ValueError, match="nodata"):
        create_raster(tmp_path / "a.tif", height=9, width=9, dtype=np.uint8, nodata=-1)
    with pytest.raises(UsageError, match="mask values 1,2"):
        mask_nodata((1, 2))


def test_big_files_are_bigtiff() -> None:
    from prn_cli.rasters.tiff_writing import tiff_layout

    kind = np.dtype(np.float32)
    assert tiff_layout(40_000, 40_000, kind, {}).big
    assert not tiff_layout(10_000, 10_000, kind, {}).big
    assert tiff_layout(40_000, 40_000, np.dtype(np.uint8), {}).big
    assert tiff_layout(15_000, 15_000, kind, {"BIGTIFF": "IF_SAFER"}).big
    assert not tiff_layout(40_000, 40_000, kind, {"BIGTIFF": "NO"}).big


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.sampled_from(["uint8", "uint16"]), st.data())
def test_png_of_any_size_in_any_bands(tmp_path: Path, height: int, width: int, rows: int, dtype: str, data) -> None:
    array = np.repeat(numbers(dtype, height, width)[:, :1], width, axis=1) * data.draw(st.integers(1, 9))
    array = array.astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prn_cli.rasters.png_writing._CHUNK_BYTES", data.draw(st.integers(1, 50)))
        patch.setattr("prn_cli.rasters.png_writing._ROWS_BYTES", data.draw(st.integers(1, 500)))
        write(tmp_path / "a.png", array, rows=rows, nodata=data.draw(st.none() | st.just(7)))
    with Image.open(tmp_path / "a.png") as image:
        image.verify()
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), array)
    with rasterio.open(tmp_path / "a.png") as file:
        np.testing.assert_array_equal(file.read(1), array)


def test_png_of_a_mask_is_no_bigger_than_pillow_s(tmp_path: Path) -> None:
    y, x = np.mgrid[:600, :700]
    mask = (np.sin(x / 30 + np.sin(y / 17)) + np.cos(y / 23) > 0.4).astype(np.uint8) * 255
    write(tmp_path / "a.png", mask)
    Image.fromarray(mask).save(tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size < 1.1 * (tmp_path / "b.png").stat().st_size
