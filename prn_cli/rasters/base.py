"""A raster: bands of values on a grid of pixels, read by window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, PrnError, reason
from prn_cli.maps.tiles import Window
from prn_cli.rasters.geo import GeoTags
from prn_cli.rasters.limits import check_block, check_memory, check_pixels

TIFF_SUFFIXES = (".tif", ".tiff")


class Closing(ABC):
    """A context manager that closes what it holds."""

    @abstractmethod
    def close(self) -> None:
        """Close the files and free their pixels."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Raster(Closing):
    """An open raster file. A format implements `_open`, which may leave a `_file` open, `_read`, and perhaps `_valid`.

    Args:
        path: the file.
        key: name of the array in an archive; other formats ignore it.
        max_pixels: see `prn_cli.rasters.roles.Reading`.

    Attributes:
        path: the file.
        bands: number of bands.
        height: rows.
        width: columns.
        dtype: type of the stored values, in native byte order: bool, unsigned, signed or float.
        nodata: value that the file declares as invalid; None if it declares none.
        geo: georeferencing of a GeoTIFF, or of files beside the raster; None if there is none.
        palette: `(N, 4)` uint8, red, green, blue and alpha of each palette index; None if there is no palette.
        alpha_last: whether the file declares the last of several bands as alpha.
        scaled: whether the file declares a scale or offset of its values.
        bits: of an integer, where the file declares fewer than its type has; else 0.
        mask: of a file beside the raster, open; None if there is none.
        orientation: EXIF orientation of the stored rows; 1 is upright.
        by_columns: whether reading some of the columns costs less than reading all, window by window.

    Raises:
        InputError: the file is damaged, holds no map, or claims more pixels than its limit.
    """

    noun: ClassVar[str]
    """What messages call the format."""
    rewrite: ClassVar[str] = "write it again"
    """What they advise for a damaged file."""

    bands: int
    height: int
    width: int
    dtype: np.dtype[Any]
    nodata: float | None = None
    geo: GeoTags | None = None
    palette: NDArray[np.uint8] | None = None
    alpha_last: bool = False
    scaled: bool = False
    bits: int = 0
    mask: Raster | None = None
    orientation: int = 1
    by_columns: bool = True
    _file: Any = None

    def __init__(self, path: Path, *, key: str | None = None, max_pixels: int | None = None) -> None:
        self.path = path
        self.key = key
        self.max_pixels = max_pixels
        try:
            with self._one_error(MemoryError):  # damaged headers make parsers raise that, too
                self._open()
            stored = self._stored_bytes()
            if stored is not None:
                check_pixels(self.height, self.width, self.bands, stored=stored, path=path, max_pixels=max_pixels)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _open(self) -> None:
        """Open the file and set the attributes."""

    @abstractmethod
    def _read(self, window: Window) -> NDArray[Any]:
        """Read a window inside the raster, as `(bands, h, w)`."""

    def _valid(self, window: Window) -> NDArray[np.bool_] | None:  # noqa: ARG002
        """Valid pixels by the alpha band or mask of the file; None if it has neither."""
        return None

    def _stored_bytes(self) -> int | None:
        """Bytes of the file; None if they are unknown."""
        return self.path.stat().st_size

    def read(self, window: Window | None = None) -> NDArray[Any]:
        """Read all bands.

        TIFF and npy are read by window: only the tiles, strips or rows that the window touches are read and decoded.
        npz, PNG and JPEG are decoded whole, once.

        Args:
            window: part of the raster, inside it; all of it if None.

        Returns:
            `(bands, h, w)` in the stored type, in native byte order; a copy that the caller may change.

        Raises:
            InputError: the file is damaged, or does not fit into memory and was to be read whole.
        """
        return self._read(self._inside(window))

    def native(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """A type of numbers in native byte order; refuses all but bool, integers and floats of at most 64 bits."""
        if dtype.kind not in "buif" or dtype.itemsize > 8:
            message = f"numbers of type {dtype}, expected integers or floats of at most 64 bits"
            raise self.error(message, "save the map as float32")
        return dtype.newbyteorder("=")

    @property
    def greatest(self) -> int:
        """The greatest number that an integer can be here."""
        bits = self.bits or 8 * self.dtype.itemsize
        return (1 << (bits - 1 if self.dtype.kind == "i" else bits)) - 1

    def valid(self, window: Window | None = None) -> NDArray[np.bool_] | None:
        """Valid pixels by the alpha band or mask, in the file or beside it, `(h, w)`; None without. See `read`."""
        window = self._inside(window)
        own = self._valid(window)
        if self.mask is None:
            return own
        beside: NDArray[np.bool_] = (self.mask.read(window) != 0).all(axis=0)
        return beside if own is None else own & beside

    def outside(self, window: Window | None = None) -> NDArray[np.bool_] | None:  # noqa: ARG002
        """Pixels that the file does not reach, `(h, w)`, where it is read on the grid of another; else None."""
        return None

    def close(self) -> None:
        """Close the files and free their pixels."""
        if self._file is not None:
            self._file.close()
        if self.mask is not None:
            self.mask.close()

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

    def check_block(self, size: int, *, stored: int) -> None:
        """See `prn_cli.rasters.limits.check_block`."""
        check_block(size, stored=stored, path=self.path, max_pixels=self.max_pixels)

    @contextmanager
    def _one_error(self, *more: type[Exception]) -> Iterator[None]:
        """Turn what libraries raise on a damaged file, errors of many types, into one `InputError`."""
        try:
            yield
        except Exception as error:
            known = isinstance(error, PrnError | MemoryError) and not isinstance(error, more)
            if known or (isinstance(error, OSError) and error.errno is not None):  # Pillow raises some without
                raise
            raise self.error(f"not {self.noun}, or damaged: {reason(error)}") from error

    def error(self, message: str, hint: str = "") -> InputError:
        """An error of this file, which is damaged, unless the hint says otherwise."""
        return InputError(message, hint=hint or self.rewrite, path=self.path)


class DecodedRaster(Raster):
    """A raster of a format that is decoded whole, when it is first read."""

    decoded_bytes: int
    """Memory that decoding takes."""
    _pixels: NDArray[Any] | None = None

    @abstractmethod
    def _decode(self) -> NDArray[Any]:
        """All pixels, `(bands, H, W)`; further bands are ignored by `_read`."""

    def _decoded(self) -> NDArray[Any]:
        if self._pixels is None:
            self.check_block(self.decoded_bytes, stored=self.path.stat().st_size)
            with self._one_error():
                self._pixels = self._decode()
        return self._pixels

    def _read(self, window: Window) -> NDArray[Any]:
        return np.array(self._decoded()[: self.bands, *window.slices], self.dtype, order="C")

    def close(self) -> None:
        """Free the pixels."""
        super().close()
        self._pixels = None


def holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether an integer or boolean type can hold a value."""
    least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return least <= value <= most and value == int(value)
