from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_cli.maps.blend import ColumnBlender, RowBlender, rising_weights
from prn_cli.maps.tiles import AxisPlan, plan_axis, smallest_tile

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]


def blend(field: Field, rows: AxisPlan, columns: AxisPlan, most: int = 99) -> np.ndarray:
    """Windows of a field of (y, x), blended; pixels that are not used are NaN, so that none may leak."""
    stretches = columns.stretches(most)
    below = [RowBlender(rows) for _ in stretches]
    bands = []
    for row in rows.spans:
        strips, open_ = [], None
        for stretch, blender in zip(stretches, below, strict=True):
            beside = ColumnBlender(row.stop - row.keep, stretch, columns.ramp, open_)
            for column in stretch.spans:
                y, x = np.mgrid[row.start : row.end, column.start : column.end]
                window = field(y, x).astype(np.float32)
                outside = (x < column.keep) | (x >= column.stop)
                window[outside] = np.nan
                beside.add(column, window[row.keep - row.start : row.stop - row.start])
            open_ = beside.open
            strips.append(blender.add(row, beside.finished))
        bands.append(np.concatenate(strips, axis=1))
    return np.concatenate(bands)


@st.composite
def axis_pairs(draw: st.DrawFn) -> tuple[AxisPlan, AxisPlan]:
    multiple = draw(st.sampled_from([1, 4, 16]))
    halo = draw(st.integers(0, 40))
    needs = {"tile": smallest_tile(halo, multiple) + draw(st.integers(8, 60)), "halo": halo, "multiple": multiple}
    height, width = (draw(st.integers(1, 3 * needs["tile"] // 2)) for _ in "yx")
    return plan_axis(height, **needs), plan_axis(width, **needs, shift=draw(st.integers(0, 40)))


@given(st.integers(1, 200))
def test_the_two_weights_of_a_ramp_add_up_to_one(ramp):
    weights = rising_weights(ramp)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights + weights[::-1], 1, atol=2e-7)
    assert np.all((weights > 0) & (weights < 1))
    assert np.all(np.diff(weights) > 0)


@given(axis_pairs(), st.floats(-1e4, 1e4, width=32))
def test_a_constant_comes_out_bit_for_bit(pair, value):
    rows, columns = pair
    blended = blend(lambda y, x: np.full(y.shape, value), rows, columns)
    np.testing.assert_array_equal(blended, np.full((rows.size, columns.size), value, np.float32))


@given(axis_pairs(), st.integers(1, 3))
def test_a_linear_field_comes_out_bit_for_bit(pair, most):
    rows, columns = pair
    blended = blend(lambda y, x: 3.0 * y - 0.25 * x + 7, rows, columns, most)
    y, x = np.mgrid[: rows.size, : columns.size]
    np.testing.assert_array_equal(blended, (3.0 * y - 0.25 * x + 7).astype(np.float32))


@settings(max_examples=25)
@given(axis_pairs())
def test_the_weights_of_all_windows_add_up_to_one(pair):
    """Each window alone is 1, the others 0: what comes out is that window's weight."""
    rows, columns = pair
    total = np.zeros((rows.size, columns.size), np.float64)
    for row in rows.spans:
        for column in columns.spans:

            def alone(y, x, row=row, column=column):
                here = y[0, 0] == row.start and x[0, 0] == column.start
                return np.full(y.shape, float(here))

            weight = blend(alone, rows, columns)
            assert weight.min() >= 0
            assert weight.max() <= 1
            total += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_two_windows_that_disagree_pass_into_each_other_without_a_step():
    plan = plan_axis(600, tile=400, halo=64, multiple=8)
    assert len(plan.spans) == 2
    second = plan.spans[1]
    one = plan_axis(1, tile=8, halo=0, multiple=1)
    row = blend(lambda y, x: np.full(y.shape, float(x[0, 0] == second.start)), one, plan)[0]
    steps = np.diff(row)
    assert row[second.keep - 1] == 0
    assert row[second.keep + plan.ramp] == 1
    assert np.all(steps >= 0)
    assert steps.max() < 1.6 / plan.ramp
