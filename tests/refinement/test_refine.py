from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_cli.errors import PrnError, UsageError
from prn_cli.maps.tiles import Window, plan_axis, smallest_tile
from prn_cli.methods import load_refiner
from prn_cli.methods.refiner import Needs, Refiner, Windows
from prn_cli.methods.weights import find_weights, shipped
from prn_cli.refinement.rows import (
    How,
    Link,
    Order,
    check_tile,
    cut,
    finish_ramp,
    join_sections,
    refine_map,
    refine_rows,
    refine_section,
    window_rows,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Pointwise(Refiner):
    """A refiner without a network: half of each logit, with a memory of the windows that it saw."""

    name = "pointwise"
    needs = Needs(multiple=4, halo=8, tile=64)

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def field(self, windows):
        logits = windows.logits
        self.shapes.append(logits.shape)
        assert logits.dtype == np.float32
        assert not np.isnan(logits).all(axis=(1, 2)).any()
        return np.nan_to_num(logits) / 2

    def refined(self, logits, field, strength):
        return logits + strength * field


class Positional(Pointwise):
    """One whose windows disagree: the field grows with the place in the window, so that ramps are real mixtures."""

    def field(self, windows):
        shape = windows.logits.shape
        y, x = np.mgrid[: shape[1], : shape[2]]
        return np.broadcast_to((y * 0.37 + x * 0.11).astype(np.float32), shape).copy()


@pytest.fixture
def fast(make_onnx):
    return load_refiner(find_weights(str(make_onnx())), device="cpu", threads=1)


@pytest.fixture
def paper(make_onnx):
    return load_refiner(find_weights(str(make_onnx("paper"))), device="cpu", threads=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(48, 120), st.integers(0, 60), st.integers(1, 5), st.data())
def test_any_size_is_covered_each_row_read_once_and_nan_stays(height, width, tile, shift, batch, data):
    seed = data.draw(st.integers(0, 99))
    draw = np.random.default_rng(seed)
    logits = draw.standard_normal((height, width)).astype(np.float32)
    logits[draw.random((height, width)) < 0.2] = np.nan
    if data.draw(st.booleans()):
        logits[: height // 2] = np.nan  # whole windows of nothing
    refiner = Pointwise()
    refiner.runs = data.draw(st.integers(1, 3))
    reads: list[Window] = []

    def read(window: Window) -> np.ndarray:
        reads.append(window)
        return logits[window.slices]

    how = How(shift=shift, batch=batch, read_ahead=data.draw(st.integers(0, 2)))
    bands = list(refine_rows(read, height, width, [Link(refiner, tile=tile)], how))
    assert [band.y for band in bands] == list(np.cumsum([0, *(len(band.refined) for band in bands)])[:-1])
    assert sum(window.height for window in reads) == height
    assert all(window.x == 0 and window.width == width for window in reads)
    np.testing.assert_array_equal(np.concatenate([band.logits for band in bands]), logits)
    np.testing.assert_allclose(np.concatenate([band.refined for band in bands]), 1.5 * logits, rtol=1e-6)
    assert all(shape[0] <= batch for shape in refiner.shapes)
    assert all(side % 4 == 0 for shape in refiner.shapes for side in shape[1:])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 90), st.integers(48, 80), st.integers(1, 4), st.integers(0, 99))
def test_sections_joined_are_the_map_bit_for_bit(height, width, tile, share, seed):
    draw = np.random.default_rng(seed)
    logits = draw.standard_normal((height, width)).astype(np.float32)
    logits[draw.random((height, width)) < 0.2] = np.nan
    refiner = Positional()

    def read(window: Window) -> np.ndarray:
        return logits[window.slices]

    links = [Link(refiner, tile=tile)]
    count = len(window_rows(height, width, links))
    for order in (Order.ROWS, Order.ACROSS, Order.DOWN):
        how = How(order=order)
        pieces = [
            piece
            for first in range(0, count, share)
            for piece in refine_section(read, height, width, links, how, section=slice(first, first + share))
        ]
        joined = list(join_sections(pieces, lambda ramp: finish_ramp(ramp, read(ramp.window), links)))
        if order is Order.ROWS:
            assert [rows.y for rows in joined] == list(np.cumsum([0, *(len(rows.refined) for rows in joined)]))[:-1]
        np.testing.assert_array_equal(put_together(joined, logits.shape), refine_map(logits, refiner, tile=tile))


def put_together(pieces, shape) -> np.ndarray:
    """The refined logits; each pixel comes once."""
    refined, seen = np.empty(shape, np.float32), np.zeros(shape, int)
    for rows in pieces:
        assert rows.logits.shape == rows.refined.shape
        here = Window(rows.y, rows.x, *rows.refined.shape).slices
        refined[here] = rows.refined
        seen[here] += 1
    assert (seen == 1).all()
    return refined


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 200), st.integers(1, 500), st.integers(48, 80), st.integers(0, 40), st.integers(1, 3), st.data())
def test_by_stretches_a_map_is_the_same_bit_for_bit_and_nothing_is_read_twice(height, width, tile, shift, batch, data):
    seed, images = data.draw(st.integers(0, 99)), data.draw(st.integers(0, 1))
    draw = np.random.default_rng(seed)
    logits = draw.standard_normal((height, width)).astype(np.float32)
    logits[draw.random((height, width)) < 0.2] = np.nan
    logits[:, : data.draw(st.integers(0, width))] = np.nan  # whole windows of nothing
    refiner = Positional()
    refiner.runs, refiner.needs = data.draw(st.integers(1, 3)), replace(refiner.needs, bands=images)
    reads: list[Window] = []

    def read(window: Window) -> np.ndarray:
        reads.append(window)
        return logits[window.slices]

    links, how = [Link(refiner, tile=tile)], How(shift=shift, batch=batch)
    options = {"read_image": lambda window: logits[np.newaxis, *window.slices]} if images else {}
    expected = put_together(refine_rows(read, height, width, links, how, **options), logits.shape)
    reads.clear()
    ahead = data.draw(st.integers(0, 2))
    order = data.draw(st.sampled_from([Order.ACROSS, Order.DOWN]))
    how = replace(how, order=order, read_ahead=ahead)
    pieces = list(refine_rows(read, height, width, links, how, **options))
    np.testing.assert_array_equal(put_together(pieces, logits.shape), expected)
    for piece in pieces:
        np.testing.assert_array_equal(piece.logits, logits[Window(piece.y, piece.x, *piece.refined.shape).slices])
    stretches = {(window.x, window.width): 0 for window in reads}
    for window in reads:
        assert window.y == stretches[window.x, window.width]
        stretches[window.x, window.width] += window.height
    assert set(stretches.values()) == {height}
    # Rows of stretches that lie side by side are cut alike, so that they can be put together as they come.
    tops = {x: [(piece.y, len(piece.refined)) for piece in pieces if piece.x == x] for x in {p.x for p in pieces}}
    assert all(cuts == tops[0] for cuts in tops.values())


def test_memory_is_flat_in_the_height():
    held = []

    class Counting(Pointwise):
        def refined(self, logits, field, strength):
            held.append(logits.base.shape[0] if logits.base is not None else len(logits))
            return super().refined(logits, field, strength)

    row = np.ones((1, 50), np.float32)
    read = lambda window: np.repeat(row, window.height, axis=0)  # noqa: E731
    assert sum(len(band.refined) for band in refine_rows(read, 5000, 50, [Link(Counting())])) == 5000
    assert max(held) <= 64


def test_windows_of_equal_shape_share_a_run_up_to_the_batch():
    refiner = Pointwise()
    read = lambda window: np.ones((window.height, window.width), np.float32)  # noqa: E731
    list(refine_rows(read, 60, 500, [Link(refiner)], How(batch=4)))
    assert max(shape[0] for shape in refiner.shapes) == 4


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (37, 411), (160, 160), (333, 402)])
def test_with_enough_halo_tiles_give_what_the_whole_map_gives(fast, random_logits, height, width):
    logits = random_logits(height, width)
    logits[5:9, :40] = np.nan
    whole = refine_map(logits, fast, tile=1024)
    bias = (whole - logits)[~np.isnan(logits)]
    assert height * width < 100 or np.abs(bias).mean() > 0.1  # the network does something
    for tile, shift in ((160, 0), (160, 40), (96, 0), (96, 24)):
        np.testing.assert_allclose(refine_map(logits, fast, tile=tile, shift=shift), whole, atol=2e-5)


def test_with_enough_halo_paper_too_but_for_the_dilation_at_window_borders(paper, random_logits):
    logits = random_logits(256, 320)
    whole = refine_map(logits, paper, tile=1024)
    np.testing.assert_allclose(refine_map(logits, paper, tile=160), whole, atol=2e-5)


@pytest.mark.parametrize("halo", ["24", "8"])
def test_no_seam_is_measurable(make_onnx, random_logits, halo):
    """Across the borders of tiles the bias changes as much as beside them, even where the halo is too small.

    Both are measured against the gradients of the map refined in one piece, as the map itself is steeper here and
    flatter there.
    """
    refiner = load_refiner(find_weights(str(make_onnx(halo=halo))), device="cpu", threads=1)
    height, width, tile = 700, 720, 160
    logits = random_logits(height, width)
    bias = refine_map(logits, refiner, tile=tile) - logits
    whole = refine_map(logits, refiner, tile=1024) - logits
    for axis, size in enumerate((height, width)):
        plan = plan_axis(size, tile=tile, halo=refiner.needs.halo, multiple=refiner.needs.multiple)
        tiled, smooth = (np.abs(np.diff(field, axis=axis)).mean(axis=1 - axis) for field in (bias, whole))
        borders = np.zeros(size - 1, bool)
        for span in plan.spans[1:]:
            borders[span.keep - 1 : span.keep + plan.ramp] = True
        assert 50 < borders.sum() < size - 200
        ratio = tiled / smooth
        np.testing.assert_allclose(ratio[~borders], 1, atol=1e-3 if halo == "24" else 0.05)
        np.testing.assert_allclose(ratio[borders], 1, atol=1e-3 if halo == "24" else 0.1)
        assert ratio[borders].mean() == pytest.approx(ratio[~borders].mean(), abs=0.02)


def test_shifted_and_halved_tiles_give_the_same_mask(fast, random_logits):
    logits = random_logits(600, 640)
    mask = cut(refine_map(logits, fast, tile=256), 0.5)
    for tile, shift in ((256, 64), (256, 128), (128, 0)):
        other = cut(refine_map(logits, fast, tile=tile, shift=shift), 0.5)
        assert (mask != other).mean() < 1e-3


@pytest.mark.skipif("fast" not in {weights.name for weights in shipped()}, reason="a checkout without weights")
def test_the_shipped_weights_leave_no_seam_either(random_logits):
    refiner = load_refiner(find_weights("fast"), device="cpu", threads=1)
    logits = random_logits(700, 900)
    whole = refine_map(logits, refiner, tile=1024, strength=1)
    tile = max(512, smallest_tile(refiner.needs.halo, refiner.needs.multiple))
    tiled = refine_map(logits, refiner, tile=tile, strength=1)
    for other in (tiled, refine_map(logits, refiner, tile=tile, shift=64, strength=1)):
        assert (cut(other, 0.5) != cut(whole, 0.5)).mean() < 1e-3
    plan = plan_axis(900, tile=tile, halo=refiner.needs.halo, multiple=refiner.needs.multiple)
    borders = np.zeros(899, bool)
    for span in plan.spans[1:]:
        borders[span.keep - 1 : span.keep + plan.ramp] = True
    assert borders.any()
    steps, steps_whole = (np.abs(np.diff(field - logits, axis=1)).mean(axis=0) for field in (tiled, whole))
    ratio = steps / steps_whole
    assert ratio[borders].mean() == pytest.approx(ratio[~borders].mean(), abs=0.02)


@pytest.mark.skipif("fast-int8" not in {weights.name for weights in shipped()}, reason="a checkout without weights")
def test_the_shipped_eight_bits_change_next_to_nothing():
    exact, coarse = (load_refiner(find_weights(name), device="cpu", threads=1) for name in ("fast", "fast-int8"))
    for path in sorted((EXAMPLES / "nuclei" / "logits").iterdir()):
        logits = np.load(path).astype(np.float32)
        masks = [cut(refine_map(logits, refiner, strength=0.5), 0.5) for refiner in (exact, coarse)]
        assert (masks[0] != masks[1]).mean() < 1e-3
        assert (masks[0] != cut(logits, 0.5)).any()


def test_tta_is_the_mean_over_flips_and_turns(fast, random_logits):
    logits = random_logits(40, 64)
    views = []
    for transpose in (False, True):
        for flip in ((), (0,), (1,), (0, 1)):
            view = np.flip(logits.T if transpose else logits, flip)
            bias = np.flip(fast.field(Windows(np.ascontiguousarray(view)[np.newaxis]))[0], flip)
            views.append(bias.T if transpose else bias)
    expected = logits + np.mean(views, axis=0)
    np.testing.assert_allclose(refine_map(logits, fast, tta=True), expected, atol=1e-5)
    turned = refine_map(np.ascontiguousarray(np.rot90(logits)), fast, tta=True)
    np.testing.assert_allclose(turned, np.rot90(refine_map(logits, fast, tta=True)), atol=1e-5)


@pytest.mark.parametrize("size", [(60, 90), (64, 64), (150, 200)])
@pytest.mark.parametrize("kind", ["f8", "f2", ">f4", "i2", "reversed", "transposed"])
def test_arrays_of_any_kind_are_refined_as_float32(fast, random_logits, size, kind):
    logits = random_logits(*size)
    if kind == "reversed":
        given, logits = logits[::-1], logits[::-1].copy()
    elif kind == "transposed":
        given, logits = logits.T, logits.T.copy()
    else:
        given = logits.astype(kind)
        logits = given.astype(np.float32)
    before = given.copy()
    np.testing.assert_array_equal(refine_map(given, fast, tile=512), refine_map(logits, fast, tile=512))
    np.testing.assert_array_equal(given, before)


def test_a_tile_without_room_for_the_halos_is_refused_with_the_smallest(fast):
    with pytest.raises(UsageError, match="--tile 80"):
        check_tile(64, fast)
    check_tile(80, fast)


def test_a_field_that_is_not_finite_is_an_error_with_its_place():
    class Broken(Pointwise):
        def field(self, windows):
            field = super().field(windows)
            field[0, 3, 5] = np.inf
            return field

    with pytest.raises(PrnError, match="inf at row 3, column 5"):
        refine_map(np.ones((20, 20), np.float32), Broken())


def test_cut():
    refined = np.array([[-1, 0, 1e-3, np.nan, 40]], np.float32)
    np.testing.assert_array_equal(cut(refined, 0.5), [[0, 0, 1, 255, 1]])
    np.testing.assert_array_equal(cut(refined, 0.0), [[1, 1, 1, 255, 1]])
    np.testing.assert_array_equal(cut(refined, 1.0), [[0, 0, 0, 255, 0]])
    np.testing.assert_array_equal(cut(refined, 0.9999999), [[0, 0, 0, 255, 1]])
    valid = refined[:, [0, 1, 2, 4]]
    np.testing.assert_array_equal(cut(valid, 0.9, all_valid=True), cut(valid, 0.9))


def test_rows_know_that_they_are_all_valid():
    logits = np.ones((120, 30), np.float32)
    logits[100, 3] = np.nan

    def rows_of(logits, **options):
        return refine_rows(lambda window: logits[window.slices], *logits.shape, [Link(Pointwise(), **options)])

    assert [rows.all_valid for rows in rows_of(logits[:20])] == [True]
    assert [rows.all_valid for rows in rows_of(logits, tile=128)] == [False]
    bands = list(rows_of(logits, tile=48))
    assert [rows.all_valid for rows in bands] == [not np.isnan(rows.logits).any() for rows in bands]
    assert {rows.all_valid for rows in bands} == {True, False}
