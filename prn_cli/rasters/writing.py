"""Writing rasters piece by piece, to a temporary file that takes its name only when it is whole."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray
from zlib_ng import zlib_ng

from prn_cli.errors import OutputError, UsageError
from prn_cli.files.temporaries import Temporary, is_stream
from prn_cli.maps.tiles import Window
from prn_cli.rasters.geo import GeoTags
from prn_cli.rasters.raster import Raster, holds

WRITTEN_SUFFIXES = (".tif", ".tiff", ".png", ".npy")
"""Suffixes of the files that `create_raster` writes, in lower case."""

MASK_VALUES: dict[tuple[int, int], int] = {(0, 255): 127, (0, 1): 255}
"""Values of background and foreground that masks may be written with, and the nodata value of each."""


def can_tell_invalid(path: str | os.PathLike[str], values: tuple[int, int]) -> bool:
    """Whether a reader can tell the invalid pixels of a mask in this file from foreground.

    `.npy` cannot declare a nodata value, and 255, which it is for masks of 0 and 1, is foreground elsewhere.
    """
    return Path(path).suffix.lower() != ".npy" or mask_nodata(values) not in {value for _, value in MASK_VALUES}


def mask_nodata(values: tuple[int, int]) -> int:
    """The nodata value of a mask written with these values of background and foreground.

    Raises:
        UsageError: masks are not written with these values.
    """
    if values not in MASK_VALUES:
        raise UsageError(f"mask values {values[0]},{values[1]}, expected 0,255 or 0,1", hint="give other --values")
    return MASK_VALUES[values]


_LEVEL = 6  # of deflate, 1 to 9


class RasterWriter(ABC):
    """A raster being written. A context manager: the file takes its name when the `with` statement ends well.

    Attributes:
        path: the file that will be there.
        height: rows.
        width: columns.
        dtype: type of the numbers.
        any_order: whether pieces may come in any order. Else rows come from the top, and their pieces from the left.
    """

    any_order = True

    def __init__(self, path: Path, height: int, width: int, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.height = height
        self.width = width
        self.dtype = dtype
        self._below = 0  # the last piece
        self._missing = height * width
        self._place = Temporary(path)
        self._temporary = self._place.name
        self._finished = False

    @abstractmethod
    def _start(self) -> None:
        """Open the temporary file, which is there, and empty."""

    @abstractmethod
    def _take(self, piece: NDArray[Any], y: int, x: int) -> None:
        """Take a piece, `(h, w)`, that has pixels."""

    @abstractmethod
    def _finish(self) -> None:
        """Complete and close the temporary file."""

    @abstractmethod
    def _abort(self) -> None:
        """Close the temporary file, however incomplete it is."""

    def write(self, piece: NDArray[Any], y: int | None = None, x: int = 0) -> None:
        """Write a piece of the raster; all of them together are the raster.

        Args:
            piece: `(h, w)`, of the writer's type. The caller may reuse the array.
            y: its first row; the one below the last piece if None, where these are whole rows.
            x: its first column.

        Raises:
            OutputError: the disk is full or the file cannot be written.
        """
        y = self._below if y is None else y
        if piece.ndim != 2 or y + piece.shape[0] > self.height or x + piece.shape[1] > self.width:
            raise ValueError(f"a piece of shape {piece.shape} at row {y}, column {x} of {self.height}×{self.width}")
        if piece.dtype != self.dtype:
            raise ValueError(f"a piece of type {piece.dtype}, expected {self.dtype}")
        if not piece.size:
            return
        self._below = y + len(piece)
        self._missing -= piece.size
        try:
            self._take(piece, y, x)
        except OSError as error:
            raise OutputError.because(error, self.path) from error

    def finish(self) -> None:
        """Complete the file and wait until it is on the disk, so that it has but to take its name.

        Where several files belong together, all are finished before the first one takes its name.

        Raises:
            OutputError: the disk is full or the file cannot be written.
        """
        if self._finished:
            return
        if self._missing:
            raise ValueError(f"{self._missing} pixels are missing of {self.height}×{self.width}")
        try:
            self._finish()
            self._place.sync()
        except OSError as error:
            raise OutputError.because(error, self.path) from error
        self._finished = True

    def __enter__(self) -> Self:
        if self.path.is_dir():
            raise OutputError("is a folder, expected a file to write", hint="give another output", path=self.path)
        if is_stream(self.path):
            raise OutputError("is a pipe or a device, expected a file", hint="give another output", path=self.path)
        try:
            self._place.create()
            self._start()
        except BaseException as error:  # an interrupt, too, may come when the file is there already
            self._discard()
            if isinstance(error, OSError):
                raise OutputError.because(error, self.path) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        done = False
        try:
            if error is None:
                self.finish()
                self._place.replace()
                done = True
        except OSError as failure:
            raise OutputError.because(failure, self.path) from failure
        finally:
            if not done:
                self._discard()

    def _discard(self) -> None:
        try:
            with suppress(OSError):  # what is left in a buffer finds the disk as full as before
                self._abort()
        finally:
            self._place.discard()


def create_raster(
    path: str | os.PathLike[str],
    *,
    height: int,
    width: int,
    dtype: DTypeLike,
    like: Raster | None = None,
    downscale: int = 1,
    nodata: float | None = None,
    soft: bool = False,
    palette: NDArray[np.uint8] | None = None,
    cog: bool = False,
    creation_options: Mapping[str, str] | None = None,
) -> RasterWriter:
    """Create a single-band raster, in the format that the suffix of its path names.

    All formats need memory for a few rows only, but for PNG of probabilities, which is held whole until the end: a byte
    a pixel, or some with invalid ones.

    Args:
        path: a `.tif`, `.tiff`, `.png` or `.npy` file. Its folder is made if need be.
        height: rows.
        width: columns.
        dtype: type of the numbers; PNG takes uint8 and uint16.
        like: raster whose georeferencing a TIFF gets.
        downscale: side in pixels of `like` of one pixel, for maps with a value a patch.
        nodata: value of invalid pixels: tag 42113 in TIFF, the transparent grey value in PNG; npy cannot hold it.
        soft: the numbers are float32 probabilities, NaN invalid, and may be rounded as the format wants: PNG gets 8-bit
            grey, 255 for 1, with an alpha channel if there are invalid pixels. Other formats hold them as they are.
        palette: `(N, 3)` uint8, the colours of the numbers 0 to N - 1, for uint8 maps of classes. npy cannot hold it.
        cog: TIFF is cloud-optimised; needs rasterio, and its creation options are those of GDAL's COG driver.
        creation_options: for TIFF, as in GDAL: COMPRESS (DEFLATE, LZW, ZSTD, NONE), TILED (YES, NO), BLOCKXSIZE,
            BLOCKYSIZE, PREDICTOR (1, 2, 3), BIGTIFF (YES, NO, IF_NEEDED, IF_SAFER). Other formats pass them over.

    Returns:
        The writer; use it in a `with` statement.

    Raises:
        UsageError: an unknown format or creation option, or a type that the format cannot hold.
        MissingExtraError: `cog`, and rasterio is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    kind = np.dtype(dtype)
    if nodata is not None and kind.kind != "f" and not holds(kind, nodata):
        raise ValueError(f"nodata {nodata} is not a number of type {kind}")
    if suffix in (".tif", ".tiff"):
        from prn_cli.rasters.tiff_writing import TiffWriter

        writer: type[TiffWriter] = TiffWriter
        if cog:
            from prn_cli.rasters.cog import CogWriter

            writer = CogWriter
        geo: GeoTags | None = None if like is None or like.geo is None else like.geo.downscaled(downscale)
        return writer(
            path,
            height,
            width,
            kind,
            geo=geo,
            nodata=nodata,
            palette=palette,
            creation_options=creation_options or {},
        )
    if suffix == ".png":
        if soft:
            return _SoftPngWriter(path, height, width, kind)
        if kind not in (np.dtype(np.uint8), np.dtype(np.uint16)):
            raise UsageError(f"PNG cannot hold {kind}, only uint8 and uint16", hint="write .tif or .npy", path=path)
        from prn_cli.rasters.png_writing import PngWriter

        return PngWriter(path, height, width, kind, nodata, palette)
    if suffix == ".npy":
        return _NpyWriter(path, height, width, kind)
    raise UsageError(
        f"cannot write '{path.suffix}', expected one of {' '.join(WRITTEN_SUFFIXES)}",
        hint="give another name",
        path=path,
    )


def full_palette(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A palette of all 256 numbers, `(256, 3)` uint8: black where no colour is given."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours)] = colours
    return palette


def packer(dtype: np.dtype[Any]) -> zlib_ng._Compress:
    """Deflate for rows of these numbers.

    Masks are runs of equal numbers: deflate that looks for nothing else (Z_RLE) is several times as fast, and takes a
    quarter more space at most. zlib-ng packs them to the same size as zlib, in less than half the time.
    """
    strategy = zlib_ng.Z_RLE if dtype.itemsize == 1 else zlib_ng.Z_DEFAULT_STRATEGY
    return zlib_ng.compressobj(_LEVEL, zlib_ng.DEFLATED, zlib_ng.MAX_WBITS, 9, strategy)


class _NpyWriter(RasterWriter):
    def _start(self) -> None:
        self._file = self._temporary.open("wb")
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.height, self.width),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        self._start_of_pixels = self._file.tell()

    def _take(self, piece: NDArray[Any], y: int, x: int) -> None:
        piece = np.ascontiguousarray(piece)
        lines = [piece] if piece.shape[1] == self.width else piece
        for number, line in enumerate(lines):
            self._file.seek(self._start_of_pixels + ((y + number) * self.width + x) * self.dtype.itemsize)
            self._file.write(line.data)

    def _finish(self) -> None:
        self._file.close()

    def _abort(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


class _SoftPngWriter(RasterWriter):
    """Probabilities as grey values, held until the end: only then is known whether there are invalid ones."""

    def _start(self) -> None:
        self._grey = np.empty((self.height, self.width), np.uint8)
        self._alpha: NDArray[np.uint8] | None = None

    def _take(self, piece: NDArray[Any], y: int, x: int) -> None:
        area = Window(y, x, *piece.shape).slices
        invalid = np.isnan(piece)
        self._grey[area] = np.rint(np.where(invalid, 0, piece) * 255)
        if invalid.any():
            if self._alpha is None:
                self._alpha = np.full((self.height, self.width), 255, np.uint8)
            self._alpha[area][invalid] = 0

    def _abort(self) -> None:
        self._grey, self._alpha = np.empty((0, 0), np.uint8), None

    def _finish(self) -> None:
        from PIL import Image

        pixels = self._grey if self._alpha is None else np.stack((self._grey, self._alpha), axis=-1)
        Image.fromarray(pixels).save(self._temporary, format="PNG")
