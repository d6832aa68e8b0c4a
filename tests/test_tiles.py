from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prn_cli.maps.tiles import AxisPlan, overlap_of, plan_axis, ramp_of, round_up, smallest_tile


@st.composite
def plans(draw: st.DrawFn) -> tuple[AxisPlan, dict[str, int]]:
    multiple = draw(st.sampled_from([1, 2, 3, 8, 16, 64]))
    halo = draw(st.integers(0, 150))
    tile = smallest_tile(halo, multiple) + draw(st.integers(0, 600))
    size = draw(st.one_of(st.integers(1, 40), st.integers(1, 5000)))
    shift = draw(st.one_of(st.just(0), st.integers(0, 700)))
    settings = {"tile": tile, "halo": halo, "multiple": multiple, "shift": shift}
    return plan_axis(size, **settings), settings


@given(plans())
def test_every_pixel_is_used_once_or_passes_from_one_window_to_the_next(plan_and_settings):
    plan, _ = plan_and_settings
    uses = np.zeros(plan.size, int)
    for span in plan.spans:
        uses[span.keep : span.stop] += 1
    assert plan.spans[0].keep == 0
    assert plan.spans[-1].stop == plan.size
    expected = np.ones(plan.size, int)
    for before, after in zip(plan.spans, plan.spans[1:], strict=False):
        assert before.keep < after.keep
        assert before.stop - after.keep == plan.ramp
        expected[after.keep : before.stop] = 2
    np.testing.assert_array_equal(uses, expected)


@given(plans())
def test_windows_are_snapped_no_longer_than_a_tile_and_give_each_used_pixel_its_halo(plan_and_settings):
    plan, settings = plan_and_settings
    multiple, halo = settings["multiple"], settings["halo"]
    for span in plan.spans:
        assert span.start % multiple == 0
        assert span.length % multiple == 0
        assert 0 < span.length <= round_up(settings["tile"], multiple)
        assert span.start >= 0
        assert span.end <= round_up(plan.size, multiple)
        assert span.start == 0 or span.keep - span.start >= halo
        assert span.end >= plan.size or span.end - span.stop >= halo
    for before, after in zip(plan.spans, plan.spans[1:], strict=False):
        assert before.start < after.start


@given(st.integers(1, 900), st.integers(0, 60), st.sampled_from([1, 8, 64]), st.integers(0, 200), st.integers(0, 300))
def test_fixed_windows_are_of_one_length(size, halo, multiple, more, shift):
    tile = round_up(smallest_tile(halo, multiple) + more, multiple)
    plan = plan_axis(size, tile=tile, halo=halo, multiple=multiple, shift=shift, fixed=True)
    assert {span.length for span in plan.spans} == {tile}
    assert all(span.start % multiple == 0 and 0 <= span.start < size for span in plan.spans)
    assert (plan.spans[0].keep, plan.spans[-1].stop) == (0, size)
    for before, after in zip(plan.spans, plan.spans[1:], strict=False):
        assert before.stop - after.keep == plan.ramp
        assert min(after.keep - after.start, before.end - before.stop) >= halo


@given(plans(), st.integers(1, 6))
def test_stretches_are_the_windows_in_order_and_finish_each_pixel_once(plan_and_settings, most):
    plan, _ = plan_and_settings
    stretches = plan.stretches(most)
    assert tuple(span for stretch in stretches for span in stretch.spans) == plan.spans
    sizes = [len(stretch.spans) for stretch in stretches]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert [stretch.keep for stretch in stretches] == [0, *(stretch.stop for stretch in stretches[:-1])]
    assert stretches[-1].stop == plan.size
    for stretch in stretches:
        assert 0 <= stretch.start <= stretch.keep < stretch.stop <= stretch.end <= plan.size


@given(st.integers(1, 1024), st.sampled_from([1, 8, 64]))
def test_a_map_that_fits_one_window_is_one_window_without_halo(size, multiple):
    plan = plan_axis(size, tile=1024, halo=128, multiple=multiple)
    assert len(plan.spans) == 1
    assert plan.spans[0].length == round_up(size, multiple)


def test_windows_of_a_long_axis_are_equal_but_for_the_last():
    plan = plan_axis(10_000, tile=1024, halo=64, multiple=16)
    lengths = [span.length for span in plan.spans]
    assert len(set(lengths[:-1])) == 1
    assert lengths[-1] <= lengths[0]


def test_a_shift_moves_every_inner_border():
    settings = {"tile": 512, "halo": 32, "multiple": 16}
    keeps = {span.keep for span in plan_axis(3000, **settings).spans[1:]}
    shifted = {span.keep for span in plan_axis(3000, **settings, shift=64).spans[1:]}
    assert not keeps & shifted


def test_a_tile_without_room_for_its_halos_is_refused():
    with pytest.raises(ValueError, match="below"):
        plan_axis(1000, tile=128, halo=64, multiple=8)


def test_overlap_holds_two_halos_and_a_ramp():
    assert overlap_of(32, 8) == 2 * 32 + ramp_of(32, 8)
    assert ramp_of(0, 1) == 16
    assert ramp_of(0, 64) == 64
