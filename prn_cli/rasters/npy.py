"""NumPy files: `.npy` by window, `.npz` by name."""

from __future__ import annotations

import mmap
import threading
import warnings
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, PrnError, UsageError
from prn_cli.rasters.raster import Raster, check_dtype, check_memory, reason
from prn_cli.tiles import Window

# Files of Python 2 are read like all others.
warnings.filterwarnings("ignore", "Reading `.npy` or `.npz` file required additional header parsing", UserWarning)

_NNUNET_KEY = "probabilities"
_MOST_CHANNELS_LAST = 32


class NpyRaster(Raster):
    """An array in a `.npy` file of either memory order, read by window."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as stack:
            self._file = stack.enter_context(path.open("rb", buffering=0))
            shape, self._stored, fortran, size = _read_header(self._file, path)
            _check_shape(shape, path)
            self._start = self._file.tell()
            found = path.stat().st_size
            if found < self._start + size:
                raise InputError(
                    f"truncated: {found} bytes, and an array of shape {shape} and type {self._stored} needs "
                    f"{self._start + size}",
                    hint="write or copy it again",
                    path=path,
                )
            self.dtype = check_dtype(self._stored, path)
            try:
                self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
                order: Literal["C", "F"] = "F" if fortran else "C"
                array = np.ndarray(shape, self._stored, self._map, self._start, order=order)
            except (ValueError, OverflowError) as error:
                raise _broken(path, error) from error
            stack.pop_all()
        self._array = _bands_first(array)
        self._lock = threading.Lock()
        self.bands, self.height, self.width = self._array.shape

    def _read(self, window: Window) -> NDArray[Any]:
        if self._array.strides[2] == self._stored.itemsize:
            return self._read_rows(window).astype(self.dtype, copy=False)
        values = np.array(self._array[:, *window.slices], dtype=self.dtype, order="C")
        if hasattr(mmap, "MADV_DONTNEED"):
            # What was looked at counts as this process's memory until the map is let go of: here, not at the end.
            self._map.madvise(mmap.MADV_DONTNEED)
        return values

    def _read_rows(self, window: Window) -> NDArray[Any]:
        """Read rows that lie in the file as they do in the result: faster than the memory map, and takes no more."""
        result = np.empty((self.bands, window.height, window.width), self._stored)
        of_band, of_row, _ = self._array.strides
        whole = window.width == self.width and of_row == self.width * self._stored.itemsize
        with self._lock:
            for band in range(self.bands):
                at = self._start + band * of_band + window.y * of_row + window.x * self._stored.itemsize
                parts = [result[band]] if whole else result[band]
                for number, part in enumerate(parts):
                    self._fill(part.view(np.uint8).reshape(-1), at + number * of_row)
        return result

    def _fill(self, target: NDArray[np.uint8], at: int) -> None:
        self._file.seek(at)
        done = 0
        while done < target.size:
            count = self._file.readinto(target[done:].data)
            if not count:
                raise InputError("truncated while it was read", hint="write or copy it again", path=self.path)
            done += count

    def close(self) -> None:
        """Let go of the file."""
        self._array = np.empty((0, 0, 0), self.dtype)
        self._file.close()


class NpzRaster(Raster):
    """An array in an `.npz` archive, decompressed whole when it is first read.

    Without a key the archive's only array is taken, or `probabilities` as nnU-Net writes it.
    """

    def __init__(self, path: Path, key: str | None = None) -> None:
        self.path = path
        self._loaded: NDArray[Any] | None = None
        try:
            with zipfile.ZipFile(path) as archive:
                self._member = _choose(archive, key, path)
                with archive.open(self._member) as file:
                    shape, dtype, _, size = _read_header(file, path)
                    header = file.tell()
                found = archive.getinfo(self._member).file_size
        except (PrnError, OSError):
            raise
        except Exception as error:  # zipfile raises its own, NotImplementedError, RuntimeError and others
            raise _broken(path, error) from error
        _check_shape(shape, path)
        self.dtype = check_dtype(dtype, path)
        if found != header + size:
            raise InputError(
                f"damaged: '{self._member}' has {found} bytes, and its shape {shape} and type {dtype} "
                f"need {header + size}",
                hint="write it again",
                path=path,
            )
        self._size = size
        self.bands, self.height, self.width = _bands_first(np.broadcast_to(np.uint8(0), shape)).shape

    def _read(self, window: Window) -> NDArray[Any]:
        if self._loaded is None:
            check_memory(self._size, self.path)
            try:
                with zipfile.ZipFile(self.path) as archive, archive.open(self._member) as file:
                    array = np.lib.format.read_array(file, allow_pickle=False)
                    file.read(1)  # the archive's checksum is compared at the end of the member
            except (MemoryError, OSError):
                raise
            except Exception as error:  # zlib, lzma and zipfile raise errors of their own
                raise _broken(self.path, error) from error
            self._loaded = _bands_first(array)
        return np.array(self._loaded[:, *window.slices], dtype=self.dtype, order="C")

    def close(self) -> None:
        """Let go of the array."""
        self._loaded = None


def _read_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Shape, type, whether in Fortran order, and number of bytes of the array whose `.npy` header begins here."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:  # written for structured types only
            raise InputError(
                f".npy of version {version[0]}.{version[1]}, expected 1.0 or 2.0",
                hint="save a float32 array",
                path=path,
            )
    except InputError:
        raise
    except Exception as error:
        raise _broken(path, error) from error
    if dtype.hasobject:
        raise InputError(
            "holds pickled Python objects, expected an array of numbers",
            hint="save it as a float32 array: numpy.save(path, array.astype('float32'))",
            path=path,
        )
    check_dtype(dtype, path)
    size = dtype.itemsize
    for length in shape:
        size *= length
    return shape, dtype, fortran, size


def _choose(archive: zipfile.ZipFile, key: str | None, path: Path) -> str:
    members = [name for name in archive.namelist() if name.endswith(".npy")]
    keys = [name.removesuffix(".npy") for name in members]
    if key is not None:
        if key not in keys:
            raise InputError(f"no array '{key}', found {_listed(keys)}", hint="give another --key", path=path)
        return members[keys.index(key)]
    if _NNUNET_KEY in keys:
        return members[keys.index(_NNUNET_KEY)]
    if len(keys) != 1:
        if not keys:
            raise InputError("no array in it", hint="save one with numpy.savez_compressed", path=path)
        raise UsageError(f"{len(keys)} arrays: {_listed(keys)}", hint="name one with --key", path=path)
    return members[0]


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:8]) + (", …" if len(names) > 8 else "") if names else "none"


def _check_shape(shape: tuple[int, ...], path: Path) -> None:
    if any(length < 1 for length in shape):
        raise InputError(f"no pixels: shape {shape}", hint="write it again with data", path=path)
    batch_or_depth = len(shape) == 4 and 1 in shape[:2]
    if len(shape) not in (2, 3) and not batch_or_depth:
        raise InputError(
            f"shape {shape}, expected (H, W), (1, H, W), (H, W, 1) or (C, H, W)",
            hint="save one map a file",
            path=path,
        )
    if len(shape) == 3 and shape[0] > shape[2] > 1 and shape[2] <= _MOST_CHANNELS_LAST < shape[1]:
        raise InputError(
            f"shape {shape} looks like (H, W, C), expected (C, H, W)",
            hint="move the channels first: array.transpose(2, 0, 1)",
            path=path,
        )


def _bands_first(array: NDArray[Any]) -> NDArray[Any]:
    """A view of shape `(bands, H, W)` of an array whose shape `_check_shape` has passed."""
    if array.ndim == 2:
        return array[np.newaxis]
    if array.ndim == 4:  # (1, C, H, W) of a batch of one, or nnU-Net's (C, 1, H, W)
        return array[0] if array.shape[0] == 1 else array[:, 0]
    if array.shape[2] == 1 and array.shape[0] != 1:
        return array.transpose(2, 0, 1)
    return array


def _broken(path: Path, error: BaseException) -> InputError:
    kind = "an .npz archive" if path.suffix.lower() == ".npz" else "a .npy array"
    return InputError(f"not {kind}, or damaged: {reason(error)}", hint="write it again", path=path)
