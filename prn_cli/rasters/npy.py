"""NumPy files: `.npy` by window, `.npz` by name."""

from __future__ import annotations

import io
import math
import os
import threading
import warnings
import zipfile
from functools import lru_cache
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import UsageError
from prn_cli.maps.tiles import Window
from prn_cli.rasters.base import DecodedRaster, Raster

# Files of Python 2 are read like all others.
warnings.filterwarnings("ignore", "Reading `.npy` or `.npz` file required additional header parsing", UserWarning)

_NNUNET_KEY = "probabilities"
_LONGEST_HEADER = 10_000  # bytes, as in NumPy


class _Header(NamedTuple):
    """What a `.npy` header says of its array."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return self.dtype.itemsize * math.prod(self.shape)


class NpyRaster(Raster):
    """An array in a `.npy` file of either memory order, read by window.

    It is not memory-mapped: a file that is cut while it is read would end the process, and not in an error.
    """

    noun = "a .npy array"

    def _open(self) -> None:
        self._file = self.path.open("rb", buffering=0)
        self._lock = threading.Lock()
        header = _read_header(self._file, self)
        start, stored = self._file.tell(), os.fstat(self._file.fileno()).st_size
        if stored < start + header.size:
            raise self.error(
                f"truncated: {stored} bytes, and an array of shape {header.shape} and type {header.dtype} needs "
                f"{start + header.size}",
                "write or copy it again",
            )
        self.dtype = self.native(header.dtype)
        self._stored, self._start = header.dtype, start
        # Where each pixel lies: the strides of a view without data.
        order = "F" if header.fortran else "C"
        view = np.lib.stride_tricks.as_strided(np.empty(0, header.dtype), header.shape, _strides(header, order))
        view = _bands_first(view)
        self.bands, self.height, self.width = view.shape
        self._strides = view.strides

    def _read(self, window: Window) -> NDArray[Any]:
        starts = (0, window.y, window.x)
        counts = (self.bands, window.height, window.width)
        sizes = (self.bands, self.height, self.width)
        # From the axis whose neighbours lie furthest apart to the one whose neighbours are adjacent.
        order = sorted(range(3), key=lambda axis: (sizes[axis] == 1, self._strides[axis]), reverse=True)
        outer, middle, inner = order
        result = np.empty([counts[axis] for axis in order], self._stored)
        first = self._start + sum(start * stride for start, stride in zip(starts, self._strides, strict=True))
        for i, plane in enumerate(result):
            at = first + i * self._strides[outer]
            if counts[inner] == sizes[inner]:
                self._fill(plane, at)
                continue
            for j, line in enumerate(plane):
                self._fill(line, at + j * self._strides[middle])
        return np.ascontiguousarray(result.transpose([order.index(axis) for axis in range(3)]), self.dtype)

    def _fill(self, part: NDArray[Any], offset: int) -> None:
        """Read the bytes of a contiguous array."""
        left = part.reshape(-1).view(np.uint8).data
        with self._lock:
            self._file.seek(offset)
            while left:
                count = self._file.readinto(left)
                if not count:
                    raise self.error("truncated while it was read", "run again when it is complete")
                left = left[count:]


class NpzRaster(DecodedRaster):
    """An array in an `.npz` archive, decompressed whole when it is first read.

    Without a key, it is the archive's only array, or `probabilities` as nnU-Net writes it.
    """

    noun = "an .npz archive"

    def _open(self) -> None:
        with zipfile.ZipFile(self.path) as archive:
            self._member = _choose(archive, self)
            with archive.open(self._member) as file:
                header = _read_header(file, self)
                start = file.tell()
            stored = archive.getinfo(self._member).file_size
        if stored != start + header.size:
            raise self.error(
                f"damaged: '{self._member}' has {stored} bytes, and its shape {header.shape} and type {header.dtype} "
                f"need {start + header.size}"
            )
        self.dtype = self.native(header.dtype)
        self.decoded_bytes = header.size
        self.bands, self.height, self.width = _bands_first(np.broadcast_to(np.uint8(0), header.shape)).shape

    def _decode(self) -> NDArray[Any]:
        with zipfile.ZipFile(self.path) as archive, archive.open(self._member) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            file.read(1)  # the archive's checksum is compared at the end of the member
        return _bands_first(array)


def _read_header(file: IO[bytes], raster: Raster) -> _Header:
    """The header of the `.npy` array that begins here, checked; the file is left at its first pixel."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):  # 3.0 is written for structured types only
        raise raster.error(f".npy of version {version[0]}.{version[1]}, expected 1.0 or 2.0", "save a float32 array")
    length = file.read(2 if version == (1, 0) else 4)
    size = int.from_bytes(length, "little")
    if size > _LONGEST_HEADER:
        raise raster.error(f"damaged: a header of {size} bytes, expected at most {_LONGEST_HEADER}")
    header = _Header(*_parse_header(version, length + file.read(size)))
    if header.dtype.hasobject:
        raise raster.error(
            "holds pickled Python objects, expected an array of numbers",
            "save it as a float32 array: numpy.save(path, array.astype('float32'))",
        )
    raster.native(header.dtype)
    if any(length < 1 for length in header.shape):
        raise raster.error(f"no pixels: shape {header.shape}", "write it again with data")
    batch_or_depth = len(header.shape) == 4 and 1 in header.shape[:2]
    if len(header.shape) not in (2, 3) and not batch_or_depth:
        raise raster.error(
            f"shape {header.shape}, expected (H, W), (1, H, W), (H, W, 1) or (C, H, W)", "save one map a file"
        )
    return header


@lru_cache(maxsize=64)  # the maps of a folder have few sizes, and NumPy compiles each header as Python
def _parse_header(version: tuple[int, int], header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(io.BytesIO(header))


def _strides(header: _Header, order: str) -> list[int]:
    steps = [header.dtype.itemsize]
    for length in header.shape[:-1] if order == "F" else header.shape[:0:-1]:
        steps.append(steps[-1] * length)
    return steps if order == "F" else steps[::-1]


def _choose(archive: zipfile.ZipFile, raster: Raster) -> str:
    key = raster.key
    members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
    listed = ", ".join(f"'{name}'" for name in list(members)[:8]) + (", …" if len(members) > 8 else "") or "none"
    if key is not None and key not in members:
        raise raster.error(f"no array '{key}', found {listed}", "give another --key")
    if key is None and not members:
        raise raster.error("no array in it", "save one with numpy.savez_compressed")
    if key is None:
        key = _NNUNET_KEY if _NNUNET_KEY in members or len(members) > 1 else next(iter(members))
    if key not in members:
        hint = "name one with --key; of labels, save one a file"
        raise UsageError(f"{len(members)} arrays: {listed}", hint=hint, path=raster.path)
    return members[key]


def _bands_first(array: NDArray[Any]) -> NDArray[Any]:
    """A view of shape `(bands, H, W)` of an array whose shape `_read_header` has passed."""
    if array.ndim == 2:
        return array[np.newaxis]
    if array.ndim == 4:  # (1, C, H, W) of a batch of one, or nnU-Net's (C, 1, H, W)
        return array[0] if array.shape[0] == 1 else array[:, 0]
    if array.shape[2] == 1 and array.shape[0] != 1:
        return array.transpose(2, 0, 1)
    return array
