"""A raster: numbers in bands on a grid of pixels, opened by the format of its file name and read by window."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, PrnError, reason
from prn_cli.files.remote import as_path, gdal_name, state_of
from prn_cli.maps.tiles import Window, row_bands
from prn_cli.rasters.geo import GeoTags
from prn_cli.rasters.limits import check_memory, check_pixels

_END_OF_PNG = b"IEND\xaeB`\x82"

SUFFIXES = (".npy", ".npz", ".tif", ".tiff", ".png")
"""Suffixes of the files that `open_raster` reads, in lower case."""

IMAGE_SUFFIXES = (*SUFFIXES, ".jpg", ".jpeg")
"""Suffixes of images, in lower case. Scores and labels do not survive the losses of JPEG."""


class Raster(ABC):
    """An open raster file. A context manager.

    Attributes:
        path: the file.
        bands: number of bands.
        height: rows.
        width: columns.
        dtype: type of the stored numbers, in native byte order: bool, unsigned, signed or float.
        nodata: value that the file declares as invalid; None if it declares none.
        geo: georeferencing of a GeoTIFF; None elsewhere.
        palette: `(N, 4)` uint8, the red, green, blue and alpha of each number, where numbers stand for colours.
        alpha_last: whether the file says that the last of several bands is an alpha band and no colour.
        scaled: whether the file says that its numbers stand for others, by a scale and an offset.
        by_columns: whether some of the columns are read at less cost than all of them, window by window.
    """

    path: Path
    bands: int
    height: int
    width: int
    dtype: np.dtype[Any]
    nodata: float | None = None
    geo: GeoTags | None = None
    palette: NDArray[np.uint8] | None = None
    alpha_last: bool = False
    scaled: bool = False
    by_columns: bool = True

    @abstractmethod
    def _read(self, window: Window) -> NDArray[Any]:
        """Read a window that lies on the raster, as `(bands, h, w)`."""

    def _valid(self, window: Window) -> NDArray[np.bool_] | None:  # noqa: ARG002
        """Where the file's own alpha band or mask page says that pixels are valid; None if it has neither."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    def read(self, window: Window | None = None) -> NDArray[Any]:
        """Read all bands.

        TIFF and npy are read by window: only the segments or pages that the window touches are read and decoded.
        npz and PNG are decoded whole, once.

        Args:
            window: part of the raster, inside it; all of it if None.

        Returns:
            `(bands, h, w)` in the stored type, in native byte order; a copy that the caller may change.

        Raises:
            InputError: the file is damaged, or is bigger than memory and was to be read whole.
        """
        return self._read(self._inside(window))

    def valid(self, window: Window | None = None) -> NDArray[np.bool_] | None:
        """Where the file's own alpha band or mask says that pixels are valid.

        Args:
            window: part of the raster, inside it; all of it if None.

        Returns:
            `(h, w)` booleans, or None if the file has no alpha band and no mask.
        """
        return self._valid(self._inside(window))

    def _inside(self, window: Window | None) -> Window:
        if window is None:
            window = Window(0, 0, self.height, self.width)
        if (
            min(window.y, window.x) < 0
            or min(window.height, window.width) < 1
            or window.y + window.height > self.height
            or window.x + window.width > self.width
        ):
            raise ValueError(f"{window} is not inside a raster of {self.height}×{self.width}")
        check_memory(self.bands * window.height * window.width * self.dtype.itemsize, self.path)
        return window

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_raster(path: str | os.PathLike[str], *, key: str | None = None) -> Raster:
    """Open a raster file by the format that its suffix names.

    Args:
        path: a `.npy`, `.npz`, `.tif`, `.tiff` or `.png` file, or the address of a remote `.tif` or `.tiff`.
        key: name of the array in an `.npz` file; other formats ignore it.

    Returns:
        The open raster; use it in a `with` statement.

    Raises:
        InputError: the file is missing, empty, damaged, of an unknown format or of an unsupported shape or type, or
            claims more than its bytes can honestly hold (see `prn_cli.rasters.limits`).
        MissingExtraError: a remote file, and rasterio is not installed.
    """
    path = as_path(path)
    suffix = path.suffix.lower()
    check_file(path)
    if gdal_name(path) is not None:
        if not suffix:
            raise InputError(
                "a remote name without a suffix, expected .tif or .tiff",
                hint="name each file: folders are for this machine",
                path=path,
            )
        if suffix not in (".tif", ".tiff"):
            raise InputError(
                f"a remote file that ends in '{path.suffix}', expected .tif or .tiff",
                hint="download it first",
                path=path,
            )
        from prn_cli.rasters.remote import RemoteRaster

        remote = RemoteRaster(path)
        size = state_of(path).size
        try:
            if size:
                check_pixels(remote.height, remote.width, remote.bands, stored=size, path=path)
        except InputError:
            remote.close()
            raise
        return remote
    if suffix not in SUFFIXES:
        raise InputError(
            f"unknown format '{path.suffix}', expected one of {' '.join(SUFFIXES)}",
            hint="convert the file, or rename it if its suffix is wrong",
            path=path,
        )
    try:
        raster = _open(path, suffix, key)
        try:
            stored = path.stat().st_size
            check_pixels(raster.height, raster.width, raster.bands, stored=stored, path=path)
        except BaseException:
            raster.close()
            raise
    except OSError as error:
        raise InputError(f"cannot be read: {reason(error)}", hint="check the file", path=path) from error
    return raster


def _open(path: Path, suffix: str, key: str | None) -> Raster:
    # The format modules pull in their libraries, so each is imported when a file needs it.
    if suffix in (".tif", ".tiff"):
        from prn_cli.rasters.tiff import TiffRaster

        return TiffRaster(path)
    if suffix == ".png":
        from prn_cli.rasters.png import PngRaster

        return PngRaster(path)
    if suffix == ".npz":
        from prn_cli.rasters.npy import NpzRaster

        return NpzRaster(path, key)
    from prn_cli.rasters.npy import NpyRaster

    return NpyRaster(path)


def check_file(path: Path) -> None:
    """Check that a path names a regular file with something in it. What is remote shows when it is opened.

    Raises:
        InputError: it does not.
    """
    if gdal_name(path) is not None:
        return
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError("no such file", hint="check the path", path=path) from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {reason(error)}", hint="check the path", path=path) from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError("is a folder, expected a file", hint="name a file in it", path=path)
    if not stat.S_ISREG(status.st_mode):
        raise InputError("is not a regular file", hint="save the data to a file first", path=path)
    if status.st_size == 0:
        raise InputError("empty file (0 bytes)", hint="write it again", path=path)


def is_whole(path: Path) -> bool:
    """Whether a file is a raster that can be read to its end."""
    try:
        if path.suffix.lower() == ".png" and not path.read_bytes().endswith(_END_OF_PNG):  # Pillow does without
            return False
        with open_raster(path) as raster:
            for band in row_bands(raster.height, raster.width):
                raster.read(band)
    except (PrnError, OSError):
        return False
    return True


def check_dtype(dtype: np.dtype[Any], path: Path) -> np.dtype[Any]:
    """The native form of a type that a raster may hold.

    Raises:
        InputError: the type is neither bool nor integer nor float of at most 64 bits.
    """
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise InputError(
            f"numbers of type {dtype}, expected integers or floats of at most 64 bits",
            hint="save the map as float32",
            path=path,
        )
    return dtype.newbyteorder("=")


def holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a type of integers or booleans has a value."""
    least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return least <= value <= most and value == int(value)
