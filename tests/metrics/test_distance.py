from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from prn_cli.metrics.distance import nearest_foreground

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.booleans()).filter(np.any)


def expect_scipy(mask):
    ours = nearest_foreground(mask)
    distance, (rows, columns) = ndimage.distance_transform_edt(~mask, return_indices=True)
    assert np.array_equal(ours.squared, np.rint(distance**2))
    assert np.array_equal(ours.rows, rows)
    assert np.array_equal(ours.columns, columns)


@settings(max_examples=200, deadline=None)
@given(masks)
def test_nearest_foreground_equals_scipy(mask):
    expect_scipy(mask)


@pytest.mark.parametrize("share", [0.0005, 0.02, 0.4, 0.98])
def test_nearest_foreground_equals_scipy_on_larger_masks(share):
    random = np.random.default_rng(1)
    mask = random.random((150, 210)) < share
    mask[random.integers(150), random.integers(210)] = True
    expect_scipy(mask)


def test_of_several_nearest_pixels_the_leftmost_and_topmost_is_taken():
    mask = np.zeros((5, 5), np.bool_)
    mask[[0, 4, 2, 2], [2, 2, 0, 4]] = True
    found = nearest_foreground(mask)
    assert (found.squared[2, 2], found.rows[2, 2], found.columns[2, 2]) == (4, 2, 0)
    mask[2, [0, 4]] = False
    found = nearest_foreground(mask)
    assert (found.rows[2, 2], found.columns[2, 2]) == (0, 2)


def test_without_foreground_nothing_is_nearest():
    with pytest.raises(ValueError, match="no foreground"):
        nearest_foreground(np.zeros((4, 4), np.bool_))
