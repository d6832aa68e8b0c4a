"""Refiners one after the other, streaming, give what each gives on the whole result of the one before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_cli.errors import UsageError
from prn_cli.maps.tiles import AxisPlan, Window, plan_axis, smallest_tile
from prn_cli.methods.refiner import Needs, Refiner
from prn_cli.refinement.chain import FinishedRows, reduce_map, rows_for
from prn_cli.refinement.rows import (
    How,
    Link,
    Order,
    Ramp,
    check_image,
    check_tile,
    count_windows,
    finish_ramp,
    join_sections,
    look_over,
    refine_map,
    refine_rows,
    refine_section,
    window_rows,
)


class Blur(Refiner):
    """A refiner whose windows disagree, by their places, by their noise, and by what the whole map is like."""

    name = "blur"

    def __init__(self, factor: float, needs: Needs, runs: int = 1) -> None:
        self.factor, self.needs, self.runs = np.float32(factor), needs, runs

    def overview(self, reduced):
        assert reduced.image is None or reduced.image.shape[1] == self.needs.bands
        return np.nan_to_num(reduced.logits).sum()

    def field(self, windows):
        clean = np.nan_to_num(windows.logits)
        field = self.factor * (clean - np.roll(clean, 1, axis=2)) + windows.noise()
        field += np.arange(field.shape[1], dtype=np.float32)[:, np.newaxis] / 64
        if windows.overview is not None:
            field += np.float32(windows.overview / 1000)
        if windows.image is not None:
            field += np.nan_to_num(windows.image).sum(axis=1)
        return field


def links_of(draw) -> list[Link]:
    """Two to three refiners of different windows; some take an image, some look over the map, some do nothing."""
    links = []
    for number in range(draw(st.integers(2, 3))):
        multiple, halo = draw(st.sampled_from([1, 4, 8])), draw(st.integers(0, 8))
        tile = max(draw(st.sampled_from([48, 64, 80])), smallest_tile(halo, multiple))
        needs = Needs(
            multiple=multiple,
            halo=halo,
            tile=tile,
            side=draw(st.sampled_from([0, 0, tile])),
            bands=draw(st.sampled_from([0, 0, 2])),
            overview=draw(st.sampled_from([0, 0, 16])),
            padding=draw(st.sampled_from(["nan", "mirror"])),
        )
        strength = draw(st.sampled_from([1.0, 0.5, 0.5, 0.0]))
        links.append(Link(Blur(number + 1, needs, draw(st.integers(1, 2))), strength))
    return links


def in_turn(logits, links, image, seed):
    for link in links:
        if link.strength:
            given = image if link.refiner.needs.bands else None
            logits = refine_map(logits, link.refiner, image=given, strength=link.strength, seed=seed)
    return logits


def draw_map(data):
    height, width, seed = data.draw(st.integers(1, 260)), data.draw(st.integers(1, 260)), data.draw(st.integers(0, 99))
    random = np.random.default_rng(seed)
    logits, image = random.standard_normal((height, width)), random.standard_normal((2, height, width))
    logits[random.random(logits.shape) < 0.1] = np.nan
    logits[: data.draw(st.integers(0, height)), : data.draw(st.integers(0, width))] = np.nan
    image[:, random.random(logits.shape) < 0.1] = np.nan
    return logits.astype(np.float32), image.astype(np.float32), seed


def put_together(pieces, shape):
    refined, base, seen = np.empty(shape, np.float32), np.empty(shape, np.float32), np.zeros(shape, int)
    for rows in pieces:
        here = Window(rows.y, rows.x, *rows.refined.shape).slices
        refined[here], base[here] = rows.refined, rows.logits
        seen[here] += 1
    assert (seen == 1).all()
    return refined, base


@settings(max_examples=60)
@given(st.data())
def test_a_chain_gives_what_its_links_give_in_turn(data):
    logits, image, seed = draw_map(data)
    links = links_of(data.draw)
    any_image = any(link.refiner.needs.bands for link in links)
    how = How(
        seed=seed,
        batch=data.draw(st.integers(1, 3)),
        read_ahead=data.draw(st.integers(0, 2)),
        order=data.draw(st.sampled_from(Order)),
    )
    read_image = (lambda window: image[:, *window.slices]) if any_image else None
    pieces = refine_rows(lambda window: logits[window.slices], *logits.shape, links, how, read_image=read_image)
    refined, base = put_together(pieces, logits.shape)
    np.testing.assert_array_equal(base, logits)
    np.testing.assert_array_equal(refined, in_turn(logits, links, image, seed))


@settings(max_examples=40)
@given(st.data())
def test_sections_of_a_chain_joined_are_the_map_bit_for_bit(data):
    logits, image, seed = draw_map(data)
    links, how = links_of(data.draw), How(seed=seed, order=data.draw(st.sampled_from(Order)))
    any_image = any(link.refiner.needs.bands for link in links)
    options = {"read_image": lambda window: image[:, *window.slices]} if any_image else {}

    def read(window: Window) -> np.ndarray:
        return logits[window.slices]

    count, several = len(window_rows(*logits.shape, links)), data.draw(st.integers(1, 3))
    overviews = look_over(read, *logits.shape, links, how, **options) if data.draw(st.booleans()) else None
    pieces = []
    for first in range(0, count, several):
        section = slice(first, first + several)
        pieces += refine_section(read, *logits.shape, links, how, section=section, overviews=overviews, **options)
    joined = list(join_sections(pieces, lambda ramp: finish_ramp(ramp, read(ramp.window), links)))
    assert not any(isinstance(piece, Ramp) for piece in joined)
    refined, base = put_together(joined, logits.shape)
    np.testing.assert_array_equal(base, logits)
    np.testing.assert_array_equal(refined, in_turn(logits, links, image, seed))


@pytest.mark.parametrize("order", [Order.ROWS, Order.ACROSS])
def test_little_more_than_a_row_of_windows_waits_between_links(monkeypatch, order):
    waiting, read = [], FinishedRows.read

    def watched(self, window):
        found = read(self, window)
        waiting.append(sum(planes.shape[1] for _, planes in self._rows))
        return found

    monkeypatch.setattr(FinishedRows, "read", watched)
    links = [Link(Blur(1, Needs(halo=8, tile=64))), Link(Blur(2, Needs(halo=4, tile=48)))]
    reads = []

    def rows(window):
        reads.append(window)
        return np.zeros((window.height, window.width), np.float32)

    seen = 0
    for piece in refine_rows(rows, 4000, 300, links, How(order=order)):
        seen += piece.refined.size
        assert max(window.bottom for window in reads) <= piece.y + 3 * 64
    assert seen == 4000 * 300
    assert max(waiting) <= 2 * 64


def test_windows_are_counted_whether_valid_or_not():
    logits = np.zeros((200, 300), np.float32)
    logits[:100] = np.nan
    links = [Link(Blur(1, Needs(halo=8, tile=64))), Link(Blur(2, Needs(halo=4, tile=48)), 0.5)]
    done = []
    for order in Order:
        done.clear()
        how = How(order=order, batch=2, on_windows=done.append)
        assert list(refine_rows(lambda window: logits[window.slices], 200, 300, links, how))
        assert sum(done) == count_windows(200, 300, links)
    assert count_windows(200, 300, [replace(links[0], strength=0.0)]) == 0


@given(st.integers(1, 500), st.integers(0, 40), st.data())
def test_the_rows_of_windows_for_some_rows_finish_these_and_no_fewer_would(size, halo, data):
    plan: AxisPlan = plan_axis(size, tile=160, halo=halo, multiple=1)
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start + 1, size))
    found = rows_for(plan, start, end)

    def finishes(first: int, stop: int) -> bool:
        spans = plan.spans[first:stop]
        top = 0 if first == 0 else spans[0].keep + plan.ramp
        bottom = size if spans[-1].stop == size else spans[-1].stop - plan.ramp
        return top <= start and bottom >= end

    assert finishes(found.start, found.stop)
    if found.stop - found.start > 1:
        assert not finishes(found.start + 1, found.stop)
        assert not finishes(found.start, found.stop - 1)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_a_reduced_map_is_of_means_of_valid_pixels(height, width, side):
    random = np.random.default_rng(height * width)
    logits = random.standard_normal((height, width)).astype(np.float32)
    logits[random.random(logits.shape) < 0.3] = np.nan
    found = reduce_map(lambda window: [logits[window.slices]] * 2, 2, (height, width), side)
    rows, columns = min(height, side), min(width, side)
    assert found.shape == (2, rows, columns)
    for i in range(rows):
        for j in range(columns):
            y, x = np.arange(height) * rows // height == i, np.arange(width) * columns // width == j
            cell = logits[np.ix_(y, x)]
            expected = np.nanmean(cell) if np.isfinite(cell).any() else np.nan
            np.testing.assert_allclose(found[:, i, j], expected, atol=1e-6)


def test_images_of_one_number_of_bands_serve_all_links():
    two, three, none = (Link(Blur(1, Needs(bands=bands))) for bands in (2, 3, 0))
    check_image([two, none, two], given=True)
    check_image([none], given=False)
    for links, given_image, message in (
        ([two, three], True, "of 2 and of 3 bands"),
        ([none, two], False, "2 bands beside the logits, and there is none"),
        ([none], True, "take no image"),
    ):
        with pytest.raises(UsageError, match=message):
            check_image(links, given=given_image)


def test_windows_of_one_side_have_no_other():
    refiner = Blur(1, Needs(side=64, tile=64, halo=4))
    shapes = set()
    field = refiner.field
    refiner.field = lambda windows: (shapes.add(windows.logits.shape[1:]), field(windows))[1]
    for size in ((1, 1), (20, 90), (200, 150)):
        refine_map(np.ones(size, np.float32), refiner)
    assert shapes == {(64, 64)}
    with pytest.raises(UsageError, match="have 64 px"):
        check_tile(128, refiner)
