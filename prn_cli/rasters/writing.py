"""Writing a raster piece by piece, to a temporary file that takes its name only when it is complete."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from prn_cli.errors import OutputError
from prn_cli.files.temporaries import Temporary, is_stream, write_whole
from prn_cli.rasters.geo import GeoTags
from prn_cli.rasters.sidecars import describe

_LEVEL = 6  # of deflate, 1 to 9


@dataclass(frozen=True, slots=True)
class Target:
    """What `prn_cli.rasters.raster.create_raster` is asked for; see there."""

    path: Path
    height: int
    width: int
    dtype: np.dtype[Any]
    bands: int = 1
    nodata: float | None = None
    palette: NDArray[np.uint8] | None = None
    geo: GeoTags | None = None
    creation_options: Mapping[str, str] = field(default_factory=dict)


class RasterWriter(ABC):
    """A raster being written. A context manager: the file takes its name when the `with` statement ends without error.

    Attributes:
        path: the file that will be there.
        height: rows.
        width: columns.
        dtype: type of the numbers.
        any_order: whether pieces may come in any order. Otherwise rows come from the top, their pieces from the left.
        holds_tags: whether the format holds the tags of a georeference; None if it has none, beside it neither.
    """

    any_order = True
    holds_tags: bool | None = None

    def __init__(self, target: Target) -> None:
        self.path, self.height, self.width, self.dtype = target.path, target.height, target.width, target.dtype
        self._target = target
        self._below = 0  # the last piece
        self._missing = self.height * self.width
        self._place = Temporary(self.path)
        self._temporary = self._place.name
        self._finished = False
        self._file: Any = None

    @abstractmethod
    def _start(self) -> None:
        """Open the temporary file, which is there, and empty."""

    @abstractmethod
    def _take(self, piece: NDArray[Any], y: int, x: int) -> None:
        """Take a piece, `(h, w)`, that has pixels."""

    def _finish(self) -> None:
        """Complete and close the temporary file."""
        self._file.close()

    def _abort(self) -> None:
        """Close the temporary file, however incomplete it is."""
        if self._file is not None:
            self._file.close()

    def write(self, piece: NDArray[Any], y: int | None = None, x: int = 0) -> None:
        """Write a piece of the raster.

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
        """Complete the file and wait until it is on disk, so that only taking its name is left.

        Where several files belong together, all are finished before the first takes its name.

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
                replaced = self.path.exists()
                self._place.replace()
                done = True
                self._describe(replaced=replaced)
        except OSError as failure:
            raise OutputError.because(failure, self.path) from failure
        finally:
            if not done:
                self._discard()

    def _describe(self, *, replaced: bool) -> None:
        """Write beside the file what its format cannot hold; what is there may be of the file that was replaced."""
        if self.holds_tags is None:
            return
        geo, place = self._target.geo, self.path.with_name(f"{self.path.name}.aux.xml")
        known = b"" if geo is None else describe(geo, has_tags=self.holds_tags)
        if known:
            write_whole(place, known)
        elif replaced:
            place.unlink(missing_ok=True)

    def _discard(self) -> None:
        try:
            with suppress(OSError):  # what is left in a buffer finds the disk as full as before
                self._abort()
        finally:
            self._place.discard()


def full_palette(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A palette of 256 entries, `(256, 3)` uint8: black where no colour is given."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours)] = colours
    return palette


def packer(dtype: np.dtype[Any]) -> zlib_ng._Compress:
    """A deflate compressor for rows of this type.

    Masks are runs of equal values: deflate that looks for runs only (Z_RLE) is several times as fast, and its output at
    most a quarter larger. zlib-ng compresses to the same size as zlib, in less than half the time.
    """
    strategy = zlib_ng.Z_RLE if dtype.itemsize == 1 else zlib_ng.Z_DEFAULT_STRATEGY
    return zlib_ng.compressobj(_LEVEL, zlib_ng.DEFLATED, zlib_ng.MAX_WBITS, 9, strategy)


class NpyWriter(RasterWriter):
    """A `.npy` file being written."""

    def _start(self) -> None:
        self._file = self._temporary.open("wb")
        bands = self._target.bands
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.height, self.width) if bands == 1 else (bands, self.height // bands, self.width),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        self._start_of_pixels = self._file.tell()

    def _take(self, piece: NDArray[Any], y: int, x: int) -> None:
        piece = np.ascontiguousarray(piece)
        lines = [piece] if piece.shape[1] == self.width else piece
        for number, line in enumerate(lines):
            self._file.seek(self._start_of_pixels + ((y + number) * self.width + x) * self.dtype.itemsize)
            self._file.write(line.data)
