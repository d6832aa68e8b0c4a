"""PNG files of 1 to 16 bits, through Pillow."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, reason
from prn_cli.maps.tiles import Window
from prn_cli.rasters.limits import check_block
from prn_cli.rasters.pillow import Image
from prn_cli.rasters.raster import Raster

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_BEST_DEFLATE_RATIO = 1032


class PngRaster(Raster):
    """A PNG: grey values as stored, palette indices with their palette, or colour bands. Decoded whole when first read.

    Transparent pixels (an alpha of 0) are invalid; a transparent grey value or palette index (tRNS) is the nodata
    value.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pixels: NDArray[Any] | None = None
        with path.open("rb") as file:
            head = file.read(29)
        if len(head) < 29 or not head.startswith(_SIGNATURE) or head[12:16] != b"IHDR":
            raise InputError("not a PNG", hint="check the file's format", path=path)
        self.width, self.height, self._depth, color = struct.unpack(">IIBB", head[16:26])
        if color not in _CHANNELS or self._depth not in (1, 2, 4, 8, 16) or not self.width or not self.height:
            raise InputError("damaged PNG header", hint="write it again", path=path)
        channels = _CHANNELS[color]
        self._alpha = color in (4, 6)
        self._grey = color == 0
        self.bands = channels - self._alpha
        self.dtype = np.dtype(np.uint16 if self._depth == 16 else np.uint8)
        stored = self.height * ((self.width * channels * self._depth + 7) // 8 + 1)
        size = path.stat().st_size
        if stored > size * _BEST_DEFLATE_RATIO:
            raise InputError(
                f"truncated or damaged: {size} bytes cannot hold {self.height}×{self.width} pixels",
                hint="write it again",
                path=path,
            )
        with self._open() as image:
            transparency = image.info.get("transparency")
            # As the chunk PLTE has it: image.getpalette would decode the pixels.
            colours = image.palette.getdata()[1] if color == 3 and image.palette is not None else None
        self.nodata = self._transparent_value(transparency)
        if colours is not None:
            self.palette = np.full((len(colours) // 3, 4), 255, np.uint8)
            self.palette[:, :3] = np.frombuffer(colours, np.uint8)[: self.palette[:, :3].size].reshape(-1, 3)
            if isinstance(transparency, bytes):
                self.palette[: len(transparency), 3] = np.frombuffer(transparency, np.uint8)[: len(self.palette)]
            elif isinstance(transparency, int) and transparency < len(self.palette):
                self.palette[transparency, 3] = 0

    def _transparent_value(self, transparency: Any) -> float | None:
        if isinstance(transparency, int):
            return float(transparency)
        if isinstance(transparency, bytes) and transparency.count(0) == 1:  # one entry of a palette
            return float(transparency.index(0))
        return None

    def _open(self) -> Image.Image:
        try:
            image = Image.open(self.path, formats=["PNG"])
        except Exception as error:  # Pillow raises SyntaxError, ValueError, struct.error and others
            raise _broken(self.path, error) from error
        if image.size != (self.width, self.height):  # a second header may follow the first, and Pillow takes the last
            image.close()
            raise InputError("damaged PNG: two headers", hint="write it again", path=self.path)
        return image

    def _decoded(self) -> NDArray[Any]:
        if self._pixels is None:
            size = 2 * self.height * self.width * (self.bands + self._alpha) * self.dtype.itemsize
            check_block(size, stored=self.path.stat().st_size, path=self.path)
            try:
                pixels = self._decoded_16_bit_colours() if self._depth == 16 and not self._grey else self._by_pillow()
            except (MemoryError, InputError):
                raise
            except Exception as error:
                raise _broken(self.path, error) from error
            if self._grey and self._depth in (2, 4):
                pixels = pixels // (255 // (2**self._depth - 1))  # Pillow stretches these to 8 bits
            pixels = pixels.astype(self.dtype, copy=False)
            self._pixels = pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return self._pixels

    def _by_pillow(self) -> NDArray[Any]:
        with self._open() as image:
            image.load()
            return np.asarray(image)

    def _decoded_16_bit_colours(self) -> NDArray[Any]:
        import imagecodecs  # Pillow makes 8 bits of these

        pixels: NDArray[Any] = imagecodecs.png_decode(self.path.read_bytes())
        channels = self.bands + self._alpha
        if pixels.shape != (self.height, self.width, channels) or pixels.dtype != self.dtype:
            raise InputError("damaged PNG header", hint="write it again", path=self.path)
        return pixels

    def _read(self, window: Window) -> NDArray[Any]:
        return np.array(self._decoded()[: self.bands, *window.slices], order="C")

    def _valid(self, window: Window) -> NDArray[np.bool_] | None:
        if not self._alpha:
            return None
        return np.asarray(self._decoded()[-1, *window.slices] != 0)

    def close(self) -> None:
        """Let go of the pixels."""
        self._pixels = None


def _broken(path: Path, error: BaseException) -> InputError:
    return InputError(f"not a PNG, or damaged: {reason(error)}", hint="write it again", path=path)
