"""NumPy files: `.npy` by window, `.npz` by name."""

from __future__ import annotations

import io
import math
import operator
import os
import threading
import warnings
import zipfile
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, PrnError, UsageError, reason
from prn_cli.maps.tiles import Window
from prn_cli.rasters.limits import check_block
from prn_cli.rasters.raster import Raster, check_dtype

# Files of Python 2 are read like all others.
warnings.filterwarnings("ignore", "Reading `.npy` or `.npz` file required additional header parsing", UserWarning)

_NNUNET_KEY = "probabilities"
_MOST_CHANNELS_LAST = 32
_LONGEST_HEADER = 10_000  # bytes, as NumPy has it


class NpyRaster(Raster):
    """An array in a `.npy` file of either memory order, read by window.

    A memory map would end the process if the file is cut while it is read; reading ends in an error.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        try:
            self._open()
        except (ValueError, OverflowError) as error:
            self._file.close()
            raise _broken(path, error) from error
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        shape, fortran, dtype, size = _read_header(self._file, self.path)
        _check_shape(shape, self.path)
        self._start = self._file.tell()
        found = os.fstat(self._file.fileno()).st_size
        if found < self._start + size:
            raise InputError(
                f"truncated: {found} bytes, and an array of shape {shape} and type {dtype} needs {self._start + size}",
                hint="write or copy it again",
                path=self.path,
            )
        self.dtype = check_dtype(dtype, self.path)
        self._stored = dtype
        self._lock = threading.Lock()
        # Where each pixel lies, as the strides of a view say it, without the array.
        steps = list(accumulate([dtype.itemsize, *(shape[:-1] if fortran else shape[:0:-1])], operator.mul))
        strides = steps if fortran else steps[::-1]
        view = _bands_first(np.lib.stride_tricks.as_strided(np.empty(0, dtype), shape, strides))
        self.bands, self.height, self.width = view.shape
        self._strides = view.strides

    def _read(self, window: Window) -> NDArray[Any]:
        starts = (0, window.y, window.x)
        counts = (self.bands, window.height, window.width)
        sizes = (self.bands, self.height, self.width)
        # From the axis whose neighbours lie furthest apart to the one whose lie side by side.
        outer, middle, inner = sorted(range(3), key=lambda axis: (sizes[axis] == 1, self._strides[axis]), reverse=True)
        result = np.empty((counts[outer], counts[middle], counts[inner]), self._stored)
        whole = counts[inner] == sizes[inner]
        first = self._start + sum(start * stride for start, stride in zip(starts, self._strides, strict=True))
        for i in range(counts[outer]):
            at = first + i * self._strides[outer]
            if whole:
                self._fill(result[i], at)
                continue
            for j in range(counts[middle]):
                self._fill(result[i, j], at + j * self._strides[middle])
        order = (outer, middle, inner)
        return np.ascontiguousarray(result.transpose([order.index(axis) for axis in range(3)]), self.dtype)

    def _fill(self, part: NDArray[Any], offset: int) -> None:
        """Read the bytes of a contiguous array."""
        left = part.reshape(-1).view(np.uint8).data
        with self._lock:
            self._file.seek(offset)
            while left:
                count = self._file.readinto(left)
                if not count:
                    raise InputError(
                        "truncated while it was read", hint="run again when it is complete", path=self.path
                    )
                left = left[count:]

    def close(self) -> None:
        """Close the file."""
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
                    shape, _, dtype, size = _read_header(file, path)
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
            check_block(self._size, stored=self.path.stat().st_size, path=self.path)
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


def _read_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, type and number of bytes of the array whose `.npy` header begins here."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):  # 3.0 is written for structured types only
            raise InputError(
                f".npy of version {version[0]}.{version[1]}, expected 1.0 or 2.0",
                hint="save a float32 array",
                path=path,
            )
        length = file.read(2 if version == (1, 0) else 4)
        size = int.from_bytes(length, "little")
        if size > _LONGEST_HEADER:
            raise InputError(
                f"damaged: a header of {size} bytes, expected at most {_LONGEST_HEADER}",
                hint="write it again",
                path=path,
            )
        shape, fortran, dtype = _parse_header(version, length + file.read(size))
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
    return shape, fortran, dtype, dtype.itemsize * math.prod(shape)


@lru_cache(maxsize=64)  # the maps of a folder have few sizes, and NumPy compiles each header as Python
def _parse_header(version: tuple[int, int], header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(io.BytesIO(header))


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
