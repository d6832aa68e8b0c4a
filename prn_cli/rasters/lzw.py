"""LZW of TIFF, by libtiff: the decoder of imagecodecs (2026.3.6) accesses foreign memory where data are damaged."""

from __future__ import annotations

import io
import struct
from functools import cache

from prn_cli.rasters.libtiff import silence_libtiff

_silence_libtiff = cache(silence_libtiff)  # Pillow's, once
_SHORT, _LONG = 3, 4
_HEADER = 8
_BITS, _COMPRESSION, _BLACK_IS_ZERO = 8, 5, 1


def decode_lzw(packed: bytes, size: int, *, fill_order: int = 1) -> bytes:
    """Decode one strip or tile.

    Args:
        packed: its bytes in the file.
        size: number of decoded bytes; further ones are ignored.
        fill_order: 1 if the most significant bits come first, else 2 (TIFF 6.0, tag 266).

    Raises:
        OSError: the data are damaged, or give fewer bytes.
    """
    from prn_cli.rasters.pillow import Image

    _silence_libtiff()
    with Image.open(io.BytesIO(_as_tiff(packed, size, fill_order)), formats=["TIFF"]) as image:
        return image.tobytes()


def _as_tiff(packed: bytes, size: int, fill_order: int) -> bytes:
    """A TIFF of one row of bytes, whose only strip this is."""
    tags = [
        (256, _LONG, size),  # width
        (257, _SHORT, 1),  # height
        (258, _SHORT, _BITS),
        (259, _SHORT, _COMPRESSION),
        (262, _SHORT, _BLACK_IS_ZERO),
        (266, _SHORT, fill_order),
        (273, _LONG, 0),  # where the strip begins: known when all tags are
        (277, _SHORT, 1),  # samples a pixel
        (278, _SHORT, 1),  # rows a strip
        (279, _LONG, len(packed)),
    ]
    start = _HEADER + 2 + 12 * len(tags) + 4
    directory = struct.pack("<H", len(tags))
    for number, kind, value in tags:
        directory += struct.pack("<HHI", number, kind, 1)
        directory += struct.pack("<I" if kind == _LONG else "<Hxx", start if number == 273 else value)
    return struct.pack("<2sHI", b"II", 42, _HEADER) + directory + struct.pack("<I", 0) + packed
