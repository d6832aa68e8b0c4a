from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prn_cli.errors import InputError
from prn_cli.maps.tiles import Window
from prn_cli.rasters import open_raster

GREY = (np.arange(20 * 30) % 251).astype(np.uint8).reshape(20, 30)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_grey_8_and_16_bit(tmp_path: Path) -> None:
    for name, array in (("8", GREY), ("16", GREY.astype(np.uint16) * 257)):
        path = tmp_path / f"{name}.png"
        Image.fromarray(array).save(path)
        with open_raster(path) as raster:
            assert raster.dtype == array.dtype
            assert raster.bands == 1
            assert raster.nodata is None
            assert raster.valid() is None
            np.testing.assert_array_equal(raster.read()[0], array)
            np.testing.assert_array_equal(raster.read(Window(2, 3, 4, 5))[0], array[2:6, 3:8])


def test_bilevel_is_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(GREY > 100).save(tmp_path / "a.png", bits=1)
    with open_raster(tmp_path / "a.png") as raster:
        assert raster.dtype == np.uint8
        np.testing.assert_array_equal(raster.read()[0], GREY > 100)


def test_palette_gives_indices_and_its_transparent_index(tmp_path: Path) -> None:
    image = Image.new("P", (30, 20))
    image.putdata((GREY % 3).ravel().tolist())
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "a.png", transparency=2)
    with open_raster(tmp_path / "a.png") as raster:
        np.testing.assert_array_equal(raster.read()[0], GREY % 3)
        assert raster.nodata == 2


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_are_not_stretched(tmp_path: Path, depth: int) -> None:
    values = np.arange(16 * 8).reshape(8, 16) % 2**depth
    bits = ((values[..., None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8).reshape(8, -1)
    lines = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 8, depth, 0, 0, 0, 0))
        + png_chunk(b"IDAT", zlib.compress(lines))
        + png_chunk(b"IEND", b"")
    )
    with open_raster(tmp_path / "a.png") as raster:
        np.testing.assert_array_equal(raster.read()[0], values)


def test_transparent_value_and_alpha(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "value.png", transparency=7)
    with open_raster(tmp_path / "value.png") as raster:
        assert raster.nodata == 7
    alpha = np.where(GREY < 50, 0, 200).astype(np.uint8)
    for mode, bands in (("LA", 1), ("RGBA", 3)):
        image = Image.merge(mode, [Image.fromarray(GREY)] * bands + [Image.fromarray(alpha)])
        image.save(tmp_path / f"{mode}.png")
        with open_raster(tmp_path / f"{mode}.png") as raster:
            assert raster.bands == bands
            np.testing.assert_array_equal(raster.read(), [GREY] * bands)
            valid = raster.valid(Window(1, 2, 10, 20))
            assert valid is not None
            np.testing.assert_array_equal(valid, GREY[1:11, 2:22] >= 50)


def test_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for size in (1, 8, 20, 28, 33, 100, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError), open_raster(path) as raster:
            raster.read()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(InputError), open_raster(path) as raster:
        raster.read()
    path.write_bytes(b"\xff\xd8\xff\xe0" + whole)
    with pytest.raises(InputError, match="not a PNG"):
        open_raster(path)


def test_a_header_that_promises_too_many_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0))
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + png_chunk(b"IEND", b"")
    )
    with pytest.raises(InputError, match="cannot hold"):
        open_raster(path)


def test_sixteen_bit_colours(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    values = np.random.default_rng(1).integers(0, 65536, (4, 5, 4), dtype=np.uint16)
    for channels, color in ((3, 2), (4, 6), (2, 4)):
        lines = b"".join(b"\0" + row.tobytes() for row in values[:, :, :channels].astype(">u2"))
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, color, 0, 0, 0))
            + png_chunk(b"IDAT", zlib.compress(lines))
            + png_chunk(b"IEND", b"")
        )
        with open_raster(path) as raster:
            bands = channels - (color in (4, 6))
            assert raster.dtype == np.uint16
            np.testing.assert_array_equal(raster.read(), values[:, :, :bands].transpose(2, 0, 1))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError), open_raster(path) as raster:
        raster.read()
