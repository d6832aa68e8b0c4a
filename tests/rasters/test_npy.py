from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_cli.errors import InputError, UsageError
from prn_cli.maps.tiles import Window
from prn_cli.rasters import open_raster


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "|u1", ">u2", "<i4", "|b1", "<i8", "<u8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_window_equals_slice(tmp_path: Path, dtype: str, order: str) -> None:
    array = np.asarray((np.arange(3 * 20 * 30) % 100).reshape(3, 20, 30), dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    with open_raster(tmp_path / "a.npy") as raster:
        assert (raster.bands, raster.height, raster.width) == (3, 20, 30)
        assert raster.dtype == np.dtype(dtype).newbyteorder("=")
        assert raster.geo is None
        assert raster.nodata is None
        part = raster.read(Window(2, 3, 10, 20))
        assert part.dtype == raster.dtype
        np.testing.assert_array_equal(part, array[:, 2:12, 3:23])
        np.testing.assert_array_equal(raster.read(), array)
        part[:] = 0  # a copy: the file stays as it is
        np.testing.assert_array_equal(raster.read(), array)


@pytest.mark.parametrize(
    ("shape", "bands"),
    [
        ((5, 7), 1),
        ((1, 5, 7), 1),
        ((5, 7, 1), 1),
        ((2, 5, 7), 2),
        ((9, 5, 7), 9),
        ((1, 3, 5, 7), 3),
        ((3, 1, 5, 7), 3),
        ((1, 5, 1), 1),
        ((1, 1), 1),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_shapes(tmp_path: Path, shape: tuple[int, ...], bands: int, suffix: str) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    path = tmp_path / f"a{suffix}"
    np.save(path, array) if suffix == ".npy" else np.savez(path, array)
    with open_raster(path) as raster:
        assert raster.bands == bands
        np.testing.assert_array_equal(raster.read().ravel(), array.ravel())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_window(tmp_path: Path, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    array = np.arange(height * width, dtype=np.int32).reshape(height, width)
    np.save(tmp_path / "a.npy", array)
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(y, x, data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x)))
    with open_raster(tmp_path / "a.npy") as raster:
        np.testing.assert_array_equal(raster.read(window)[0], array[window.slices])


@pytest.mark.parametrize("window", [Window(-1, 0, 2, 2), Window(0, 0, 5, 3), Window(0, 3, 1, 2), Window(0, 0, 0, 1)])
def test_window_outside_is_a_defect_of_the_caller(tmp_path: Path, window: Window) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    with open_raster(tmp_path / "a.npy") as raster, pytest.raises(ValueError, match="not inside"):
        raster.read(window)


def test_npy_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "big.npy"
    shape = (100_000, 1_000_000)  # 100 GB, sparse on disk
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + shape[0] * shape[1])
    with open_raster(path) as raster:
        assert not raster.read(Window(99_000, 500, 3, 4)).any()


def test_npz_key(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, first=np.zeros((2, 3)), second=np.ones((4, 5)))
    with open_raster(path, key="second") as raster:
        assert (raster.height, raster.width) == (4, 5)
        np.testing.assert_array_equal(raster.read(Window(1, 1, 2, 2)), np.ones((1, 2, 2)))
    with pytest.raises(UsageError, match=r"'first', 'second'.*--key"):
        open_raster(path)
    with pytest.raises(InputError, match="no array 'third', found 'first', 'second'"):
        open_raster(path, key="third")


def test_nnunet_probabilities(tmp_path: Path) -> None:
    probabilities = np.random.default_rng(0).random((3, 1, 6, 5)).astype(np.float32)
    np.savez_compressed(tmp_path / "a.npz", probabilities=probabilities, other=np.zeros(3))
    with open_raster(tmp_path / "a.npz") as raster:
        assert raster.bands == 3
        np.testing.assert_array_equal(raster.read(), probabilities[:, 0])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"shape \(5,\), expected \(H, W\)"),
        (np.zeros((2, 3, 4, 5)), r"shape \(2, 3, 4, 5\)"),
        (np.zeros((0, 5)), "no pixels"),
        (np.zeros((4, 4), complex), "type complex128"),
        (np.zeros((4, 4), "U3"), "type <U3"),
        (np.zeros((4, 4), "M8[s]"), "type datetime64"),
        (np.zeros((4, 4), [("a", "f4")]), "type "),
        (np.array([[{}, 1]], object), "pickled"),
        (np.zeros((64, 48, 3)), r"looks like \(H, W, C\).*transpose"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_unusable_arrays(tmp_path: Path, array: np.ndarray, message: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    np.save(path, array) if suffix == ".npy" else np.savez(path, array)
    with pytest.raises(InputError, match=message) as caught:
        open_raster(path)
    assert caught.value.path == str(path)
    assert caught.value.hint


def test_damaged_npy(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.random.default_rng(0).random((30, 30)))
    whole = path.read_bytes()
    for size in (1, 5, 8, 9, 20, 100, 127, 128, 1000, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError):
            open_raster(path)
    for start in (b"\x93NUMPY\x09\x00", b"PK\x03\x04", b"garbage "):
        path.write_bytes(start + whole[8:])
        with pytest.raises(InputError, match=r"not a \.npy array, or damaged|version"):
            open_raster(path)
    path.write_bytes(whole.replace(b"(30, 30)", b"(-3, 30)"))
    with pytest.raises(InputError):
        open_raster(path)


def test_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, np.random.default_rng(0).random((50, 50)))
    whole = path.read_bytes()
    for size in (1, 30, 1000, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError):
            open_raster(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(InputError, match="damaged"), open_raster(path) as raster:
        raster.read()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("note.txt", "no array")
    with pytest.raises(InputError, match="no array in it"):
        open_raster(path)


def test_a_file_that_is_cut_while_it_is_read_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((300, 400), np.float32))
    with open_raster(tmp_path / "a.npy") as raster:
        os.truncate(tmp_path / "a.npy", 200_000)
        assert raster.read(Window(0, 0, 100, 400)).all()
        with pytest.raises(InputError, match="truncated while it was read"):
            raster.read()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_header_of_gigabytes_is_not_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    content = b"\x93NUMPY\x02\x00" + (3 << 30).to_bytes(4, "little") + b" " * 1000
    if suffix == ".npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", content)
    with pytest.raises(InputError, match="header of 3221225472 bytes"):
        open_raster(path)
