from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from prn_cli.maps.components import Runs, Tile, clean_scene, join, join_beside
from prn_cli.maps.components import runs_of as runs_of_rows

ndimage = pytest.importorskip("scipy.ndimage")

masks = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.sampled_from([0, 1, 1, 0, 255]))


def runs_of(mask: np.ndarray, *, base: np.ndarray | None = None, band: int = 3) -> Runs:
    probabilities = np.where(mask == 255, np.nan, np.linspace(0, 1, mask.size).reshape(mask.shape)).astype(np.float32)
    base = np.where(mask == 255, 255, 0).astype(np.uint8) if base is None else base
    bands = [slice(top, top + band) for top in range(0, len(mask), band)]
    return join([runs_of_rows(mask[rows], base[rows], probabilities[rows]) for rows in bands])


def whole(bands) -> np.ndarray:
    return np.concatenate(list(bands))


def cleaned(runs: Runs, **limits: float) -> Runs:
    """The mask of a scene of one tile, with areas in pixels."""
    return clean_scene([Tile(0, 0, runs, runs.lengths * 1.0)], **limits)[0]


def cleaned_slowly(mask: np.ndarray, min_area: float, fill_holes: float) -> np.ndarray:
    """With scipy: holes first, then objects."""
    mask = mask.copy()
    open_pixels = np.zeros(mask.shape, bool)
    open_pixels[[0, -1]] = open_pixels[:, [0, -1]] = True
    open_pixels |= ndimage.binary_dilation(mask == 255)
    for value, limit in ((0, fill_holes), (1, min_area)):
        label, count = ndimage.label(mask == value)
        for number in range(1, count + 1):
            found = label == number
            if found.sum() < limit and not (found & open_pixels).any():
                mask[found] = 1 - value
    return mask


@given(masks, st.integers(1, 5))
def test_components_are_those_of_scipy(mask, band):
    runs = runs_of(mask, band=band)
    numbers, count = runs.objects()
    ours = whole(runs.rows(numbers))
    theirs, expected = ndimage.label(mask == 1)
    assert count == expected
    np.testing.assert_array_equal(ours > 0, theirs > 0)
    assert len(set(zip(ours.ravel(), theirs.ravel(), strict=True)) - {(0, 0)}) == expected
    np.testing.assert_array_equal(whole(runs.rows()), mask)


@given(masks, masks, st.integers(1, 9))
def test_runs_of_some_columns_each_make_those_of_the_rows(mask, other, step):
    base = np.where(mask == 255, 255, np.resize(other, mask.shape) == 1).astype(np.uint8)
    probabilities = np.where(mask == 255, np.nan, np.linspace(0, 1, mask.size).reshape(mask.shape)).astype(np.float32)
    columns = [slice(left, left + step) for left in range(0, mask.shape[1], step)]
    joined = join_beside([runs_of_rows(*(plane[:, part] for plane in (mask, base, probabilities))) for part in columns])
    expected = runs_of_rows(mask, base, probabilities)
    assert (joined.height, joined.width) == (expected.height, expected.width)
    for name in ("starts", "values", "base"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(expected, name))
    np.testing.assert_allclose(joined.probability, expected.probability)


@given(masks, st.integers(0, 12), st.integers(0, 12))
def test_cleaning_is_that_of_scipy(mask, min_area, fill_holes):
    runs = runs_of(mask)
    found = cleaned(runs, min_area=min_area, fill_holes=fill_holes)
    np.testing.assert_array_equal(whole(found.rows()), cleaned_slowly(mask, min_area, fill_holes))


@given(masks, masks)
def test_sums_and_changes(mask, other):
    base = np.resize(other, mask.shape) == 1
    base = np.where(mask == 255, 255, base).astype(np.uint8)
    runs = runs_of(mask, base=base)
    assert runs.changed() == (mask != base).sum()
    numbers, count = runs.objects()
    label = whole(runs.rows(numbers))
    means = np.bincount(numbers, runs.probability, count + 1) / np.maximum(np.bincount(numbers, runs.lengths), 1)
    values = np.linspace(0, 1, mask.size).reshape(mask.shape)
    for number in range(1, count + 1):
        assert means[number] == pytest.approx(values[label == number].mean(), abs=1e-6)


def test_a_spiral_is_one_component():
    """The worst case for a search that goes by rows: arms that only meet in the middle."""
    side = 201
    mask = np.zeros((side, side), np.uint8)
    y = x = side // 2
    mask[y, x] = 1
    step, direction = 2, 0
    while True:
        dy, dx = [(0, 1), (1, 0), (0, -1), (-1, 0)][direction % 4]
        end_y, end_x = y + dy * step, x + dx * step
        if not (0 <= end_y < side and 0 <= end_x < side):
            break
        mask[min(y, end_y) : max(y, end_y) + 1, min(x, end_x) : max(x, end_x) + 1] = 1
        y, x, direction = end_y, end_x, direction + 1
        step += 2 * (direction % 2 == 0)
    assert ndimage.label(mask)[1] == 1
    assert runs_of(mask).objects()[1] == 1


def test_what_a_hole_is():
    ring = np.zeros((9, 9), np.uint8)
    ring[2:7, 2:7] = 1
    ring[3:6, 3:6] = 0
    area = 9.0

    def filled(mask: np.ndarray, limit: float = area + 1) -> bool:
        runs = runs_of(mask)
        return bool((whole(cleaned(runs, fill_holes=limit).rows()) == 1)[4, 4])

    assert filled(ring)
    assert not filled(ring, area)  # not below it
    assert not filled(ring[3:])  # it may go on beyond the border
    unknown = ring.copy()
    unknown[3, 3] = 255
    assert not filled(unknown)  # or where nothing is known
    island = ring.copy()
    island[4, 4] = 1
    assert filled(island)
    assert runs_of(island).objects()[1] == 2


def test_a_filled_hole_joins_what_lies_beside_it():
    """Four arms that touch nothing but the hole between them."""
    mask = np.zeros((5, 5), np.uint8)
    mask[[1, 2, 2, 3], [2, 1, 3, 2]] = 1  # away from the border, where objects are spared
    runs = runs_of(mask)
    kept = cleaned(runs, min_area=5, fill_holes=2)
    assert kept.objects()[1] == 1
    assert kept.lengths[kept.values == 1].sum() == 5
    assert cleaned(runs, min_area=5).objects()[1] == 0


@given(masks, st.lists(st.integers(1, 6), max_size=3), st.lists(st.integers(1, 6), max_size=3), st.data())
def test_tiles_of_a_scene_give_what_the_whole_scene_gives(mask, rows, columns, data):
    min_area, fill_holes = data.draw(st.integers(0, 12)), data.draw(st.integers(0, 12))
    height, width = mask.shape
    ys, xs = (
        sorted({0, side, *(cut for cut in cuts if cut < side)}) for cuts, side in ((rows, height), (columns, width))
    )
    places = [(y, x, mask[y:bottom, x:right]) for y, bottom in pairwise(ys) for x, right in pairwise(xs)]
    places = data.draw(st.permutations(places))
    tiles = [Tile(y, x, runs, runs.lengths.astype(float)) for y, x, part in places for runs in [runs_of(part)]]
    found = np.full_like(mask, 9)
    for tile, runs in zip(tiles, clean_scene(tiles, min_area=min_area, fill_holes=fill_holes), strict=True):
        found[tile.y : tile.y + runs.height, tile.x : tile.x + runs.width] = whole(runs.rows())
    np.testing.assert_array_equal(found, cleaned_slowly(mask, min_area, fill_holes))
