"""PNG files of 1 to 16 bits, through Pillow."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.tiles import Window
from prn_cli.rasters.pillow import Image, PillowRaster

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3
_CHANNELS = {_GREY: 1, 2: 3, _PALETTE: 1, 4: 2, 6: 4}
_BEST_DEFLATE_RATIO = 1032


class PngRaster(PillowRaster):
    """A PNG: grey values as stored, palette indices with their palette, or colour bands. Decoded whole when first read.

    Transparent pixels (an alpha of 0) are invalid; a transparent grey value or palette index (tRNS) is the nodata
    value.
    """

    noun, format = "a PNG", "PNG"

    def _open(self) -> None:
        with self.path.open("rb") as file:
            head = file.read(29)
        if len(head) < 29 or not head.startswith(_SIGNATURE) or head[12:16] != b"IHDR":
            raise self.error("not a PNG", "check the file's format")
        self.width, self.height, self._depth, self._colour = struct.unpack(">IIBB", head[16:26])
        if self._colour not in _CHANNELS or self._depth not in (1, 2, 4, 8, 16) or not self.width or not self.height:
            raise self.error("damaged PNG header")
        self._size = self.width, self.height
        channels = _CHANNELS[self._colour]
        self._alpha = self._colour in (4, 6)
        self.bands = channels - self._alpha
        self.dtype = np.dtype(np.uint16 if self._depth == 16 else np.uint8)
        self.bits = self._depth if self._depth < 8 else 0
        self.decoded_bytes = 2 * self.height * self.width * channels * self.dtype.itemsize
        stored = self.path.stat().st_size
        if self.height * ((self.width * channels * self._depth + 7) // 8 + 1) > stored * _BEST_DEFLATE_RATIO:
            raise self.error(f"truncated or damaged: {stored} bytes cannot hold {self.height}×{self.width} pixels")
        with self._image() as image:
            self._take_transparency(image)
            self._take_orientation(image)

    def _take_transparency(self, image: Image.Image) -> None:
        transparency = image.info.get("transparency")
        if isinstance(transparency, int):
            self.nodata = float(transparency)
        elif isinstance(transparency, bytes) and transparency.count(0) == 1:  # one entry of a palette
            self.nodata = float(transparency.index(0))
        if self._colour != _PALETTE or image.palette is None:
            return
        colours = np.frombuffer(image.palette.getdata()[1], np.uint8)  # image.getpalette would decode the pixels
        self.palette = np.full((len(colours) // 3, 4), 255, np.uint8)
        self.palette[:, :3] = colours[: 3 * len(self.palette)].reshape(-1, 3)
        if isinstance(transparency, bytes):
            self.palette[: len(transparency), 3] = np.frombuffer(transparency, np.uint8)[: len(self.palette)]
        elif isinstance(transparency, int) and transparency < len(self.palette):
            self.palette[transparency, 3] = 0

    def _image(self) -> Image.Image:
        image = super()._image()
        if image.size != self._size:  # a second header may follow the first, and Pillow takes the last
            image.close()
            raise self.error("damaged PNG: two headers")
        return image

    def _decode(self) -> NDArray[Any]:
        if self._depth == 16 and self._colour != _GREY:
            import imagecodecs  # Pillow makes 8 bits of these

            pixels: NDArray[Any] = imagecodecs.png_decode(self.path.read_bytes())
            if pixels.shape != (*self._size[::-1], self.bands + self._alpha) or pixels.dtype != self.dtype:
                raise self.error("damaged PNG header")
        else:
            with self._image() as image:
                image.load()
                pixels = np.asarray(image)
        if self._colour == _GREY and self._depth in (2, 4):
            pixels = pixels // (255 // (2**self._depth - 1))  # Pillow stretches these to 8 bits
        return self._upright(pixels.astype(self.dtype, copy=False))

    def _valid(self, window: Window) -> NDArray[np.bool_] | None:
        return np.asarray(self._decoded()[-1, *window.slices] != 0) if self._alpha else None
