"""Writing PNG by rows, which are compressed as they come, so that memory holds no more than a band of them.

Pillow and imagecodecs encode whole images only.
"""

from __future__ import annotations

import struct
import zlib
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.tiles import WholeRows, Window
from prn_cli.rasters.writing import RasterWriter, Target, full_palette, packer

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3
_CHUNK_BYTES = 1 << 16
_ROWS_BYTES = 1 << 18  # packed at once: what is made on the way stays in a processor's cache


class PngWriter(RasterWriter):
    """A PNG of 8 or 16 bits being written, grey or with a palette; its nodata value becomes transparent (tRNS)."""

    any_order, holds_tags = False, False

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._whole: WholeRows[NDArray[Any]] = WholeRows(self.width, partial(np.concatenate, axis=1))

    def _start(self) -> None:
        self._packer = packer(self.dtype)
        self._packed: list[bytes] = []
        self._packed_bytes = 0
        self._rows = 0
        self._file = self._temporary.open("wb")
        self._file.write(_SIGNATURE)
        depth = 8 * self.dtype.itemsize
        colour = _GREY if self._target.palette is None else _PALETTE
        self._write_chunk(b"IHDR", struct.pack(">IIBBBBB", self.width, self.height, depth, colour, 0, 0, 0))
        if self._target.palette is not None:
            self._write_chunk(b"PLTE", full_palette(self._target.palette).tobytes())
        if self._target.nodata is not None:
            number = int(self._target.nodata)
            opaque_until = b"\xff" * number + b"\0"
            self._write_chunk(b"tRNS", struct.pack(">H", number) if self._target.palette is None else opaque_until)

    def _take(self, piece: NDArray[Any], y: int, x: int) -> None:
        rows = self._whole.add(piece if piece.shape[1] == self.width else piece.copy(), y, x, piece.shape[1])
        if rows is None:
            return
        if y != self._rows:
            raise ValueError(f"row {y}, expected row {self._rows}")
        self._rows += len(rows)
        step = max(_ROWS_BYTES // (self.width * self.dtype.itemsize), 1)
        lines = np.zeros((min(step, len(rows)), 1 + self.width * self.dtype.itemsize), np.uint8)  # 0: no filter
        stored = self.dtype.newbyteorder(">")
        for y in range(0, len(rows), step):
            part = np.ascontiguousarray(rows[y : y + step], stored)
            lines[: len(part), 1:] = part.view(np.uint8)
            self._keep(self._packer.compress(lines[: len(part)].data))

    def _keep(self, packed: bytes) -> None:
        self._packed.append(packed)
        self._packed_bytes += len(packed)
        if self._packed_bytes >= _CHUNK_BYTES:
            self._write_packed()

    def _write_packed(self) -> None:
        self._write_chunk(b"IDAT", b"".join(self._packed))
        self._packed.clear()
        self._packed_bytes = 0

    def _write_chunk(self, name: bytes, data: bytes) -> None:
        checksum = zlib.crc32(data, zlib.crc32(name))
        self._file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum))

    def _finish(self) -> None:
        self._packed.append(self._packer.flush())
        self._write_packed()
        self._write_chunk(b"IEND", b"")
        super()._finish()


class SoftPngWriter(RasterWriter):
    """A PNG of probabilities as grey values. Held whole until the end, when it is known whether some are invalid."""

    holds_tags = False

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

    def _finish(self) -> None:
        pixels = self._grey if self._alpha is None else np.stack((self._grey, self._alpha), axis=-1)
        from PIL import Image

        Image.fromarray(pixels).save(self._temporary, format="PNG")
