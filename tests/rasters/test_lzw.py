from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_cli.rasters.lzw import decode_lzw


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70_000), st.integers(1, 256), st.booleans(), st.integers(0, 99))
def test_what_was_packed_comes_back(size, values, reversed_bits, seed):
    data = np.random.default_rng(seed).integers(0, values, size, np.uint8).tobytes()
    packed = imagecodecs.lzw_encode(data)
    if reversed_bits:
        packed = imagecodecs.bitorder_decode(packed)
    assert decode_lzw(packed, size, fill_order=2 if reversed_bits else 1) == data
    part = (size + 1) // 2
    assert decode_lzw(packed, part, fill_order=2 if reversed_bits else 1) == data[:part]


def test_damaged_data_end_in_bytes_or_an_error_and_say_nothing(capfd):
    random = np.random.default_rng(0)
    packed = np.frombuffer(imagecodecs.lzw_encode(random.integers(0, 9, 5000, np.uint8).tobytes()), np.uint8)
    errors = 0
    for _ in range(300):
        damaged = packed[: random.integers(1, len(packed))].copy()
        damaged[random.integers(0, len(damaged), 5)] = random.integers(0, 256, 5)
        try:
            assert len(decode_lzw(damaged.tobytes(), 5000)) == 5000
        except OSError:
            errors += 1
    assert errors > 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("packed", [b"", b"\x80", b"\xff" * 9])
def test_too_little_is_an_error(packed):
    with pytest.raises(OSError, match="decoder"):
        decode_lzw(packed, 100)


def test_a_strip_larger_than_pillow_would_take_is_read():
    size = 2 * 89_478_485 + 1
    assert len(decode_lzw(imagecodecs.lzw_encode(bytes(size)), size)) == size
