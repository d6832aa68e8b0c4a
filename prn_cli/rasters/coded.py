"""Sizes in the headers of encoded images: tiles of a TIFF may hold JPEG, WebP or LERC.

Decoders allocate memory by these headers, whatever the TIFF around them says, so they are checked first.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def jpeg_pixels(data: bytes) -> int:
    """Pixels in the largest frame header of a JPEG before its first scan; 0 if there is none."""
    most, at = 0, 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            break
        if marker in _STANDALONE:
            at += 2
            continue
        if marker in _FRAMES and at + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 5)
            most = max(most, (height or 65535) * width)  # a height of 0 is defined later
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return most


def webp_pixels(data: bytes) -> int:
    """Pixels in the header of a WebP; 0 if it is none."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return 0
    if data[12:16] == b"VP8X":
        return (int.from_bytes(data[24:27], "little") + 1) * (int.from_bytes(data[27:30], "little") + 1)
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    width, height = struct.unpack_from("<HH", data, 26)
    return int((width & 0x3FFF) * (height & 0x3FFF))


def lerc_pixels(data: bytes) -> int:
    """Pixels in the header of a LERC 2, times its bands; 0 if it is none."""
    height, width, depth, _ = _lerc_header(data)
    return height * width * depth


def lerc_bands(data: bytes) -> int:
    """Bands of a LERC 2; of the first, if several follow one another."""
    return _lerc_header(data)[2]


def lerc_has_invalid(data: bytes) -> bool:
    """Whether some pixels of a LERC 2 are invalid; of the first, if several follow one another."""
    height, width, _, valid = _lerc_header(data)
    return valid < height * width


def _lerc_header(data: bytes) -> tuple[int, int, int, int]:
    """Height, width, bands and valid pixels; zeros if it is no LERC 2."""
    if data[:6] != b"Lerc2 " or len(data) < 34:
        return 0, 0, 0, 0
    (version,) = struct.unpack_from("<i", data, 6)
    at = 14 if version >= 3 else 10  # a checksum comes between since version 3
    numbers = [max(int(number), 0) for number in struct.unpack_from("<iiii", data, at)]
    if version < 4:
        numbers[2:] = 1, numbers[2]
    height, width, depth, valid = numbers
    return height, width, depth, valid


CLAIMED: Mapping[int, Callable[[bytes], int]] = {7: jpeg_pixels, 34887: lerc_pixels, 50001: webp_pixels}
"""By TIFF compression (tag 259): the pixels that JPEG, LERC and WebP claim."""
