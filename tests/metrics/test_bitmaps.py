from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from prn_cli.metrics import bitmaps


def unpack(bits, width):
    as_bytes = np.ascontiguousarray(bits.astype("<u8")).view(np.uint8)
    return np.unpackbits(as_bytes, axis=1, bitorder="little")[:, :width].astype(bool)


@st.composite
def sparse_masks(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 200))
    density = draw(st.sampled_from([0.0, 0.002, 0.05, 0.5]))
    return np.random.default_rng(draw(st.integers(0, 2**32))).random((height, width)) < density


@given(sparse_masks())
@settings(max_examples=60, deadline=None)
def test_packing_keeps_every_pixel(mask):
    bits = bitmaps.pack(mask)
    assert bits.dtype == np.uint64
    assert np.array_equal(unpack(bits, mask.shape[1]), mask)
    assert bitmaps.count(bits) == mask.sum()


@given(sparse_masks(), st.integers(0, 90))
@settings(max_examples=120, deadline=None)
def test_square_equals_scipy(mask, distance):
    grown = unpack(bitmaps.dilate_square(bitmaps.pack(mask), distance), mask.shape[1])
    expected = ndimage.maximum_filter(mask, 2 * distance + 1, mode="constant", cval=0)
    assert np.array_equal(grown, expected)


@given(sparse_masks(), st.sampled_from([0, 0.5, 1, 1.42, 2, 3, 4.75, 13.4, 70]))
@settings(max_examples=120, deadline=None)
def test_disk_equals_the_euclidean_distance(mask, radius):
    grown = unpack(bitmaps.dilate_disk(bitmaps.pack(mask), radius), mask.shape[1])
    distance = ndimage.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)
    assert np.array_equal(grown, distance <= radius)


@pytest.mark.parametrize("thickness", [1, 3, 5, 6, 50])
def test_frame_is_what_lies_close_to_the_outside(thickness):
    inside = np.pad(np.ones((10, 71), bool), 1)
    distance = ndimage.distance_transform_cdt(inside, "chessboard")[1:-1, 1:-1]
    assert np.array_equal(unpack(bitmaps.frame(10, 71, thickness), 71), distance <= thickness)
