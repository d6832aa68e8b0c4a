"""Parts of an image at full resolution, where most pixels changed."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prn_cli.maps.tiles import Window
from prn_cli.report import Prediction, Viewer
from prn_cli.report.class_glimpses import class_colours, see_classes
from prn_cli.report.crops import MOST, SIDE, Crop, busiest
from prn_cli.report.glimpses import Seen, zoom
from prn_cli.report.shrinking import Cells, Shares


def counted(changed: np.ndarray, side: int) -> np.ndarray:
    shares = Shares(Cells(*changed.shape, side), 2)
    shares.add(0, changed.astype(np.uint8))
    return shares.cells()[..., 1]


def found(changed: np.ndarray, side: int = 256) -> list[Window]:
    return list(busiest(counted(changed, side), *changed.shape, lambda window: changed[window.slices]))


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 99), st.sampled_from([3, 40, 256]))
@settings(max_examples=25, deadline=None)
def test_crops_lie_inside_do_not_overlap_and_hold_changes(height, width, seed, side):
    random = np.random.default_rng(seed)
    changed = np.zeros((height, width), bool)
    for y, x in zip(random.integers(height, size=4), random.integers(width, size=4), strict=True):
        changed[y : y + 9, x : x + 9] = True
    windows = found(changed, side)
    assert len(windows) <= MOST
    assert windows == found(changed, side)
    cover = np.zeros(changed.shape, int)
    for window in windows:
        assert (window.height, window.width) == (min(SIDE, height), min(SIDE, width))
        assert 0 <= window.y <= height - window.height
        assert 0 <= window.x <= width - window.width
        assert changed[window.slices].any()
        cover[window.slices] += 1
    assert cover.max() <= 1
    assert bool(windows) == (max(height, width) > SIDE)


@given(st.integers(0, 99), st.sampled_from([(300, 500), (2000, 130), (900, 1100)]))
@settings(max_examples=8, deadline=None)
def test_few_windows_have_more_changes_than_the_first_crop(seed, shape):
    random = np.random.default_rng(seed)
    changed = random.random(shape) < 0.001
    y, x = (int(random.integers(size)) for size in shape)
    changed[y : y + 30, x : x + 30] = True
    first = found(changed)[0]
    rows, columns = min(SIDE, shape[0]), min(SIDE, shape[1])
    total = np.pad(changed.astype(int).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    assert changed[first.slices].sum() >= 0.97 * sums.max()


def test_a_small_change_in_a_huge_map_is_found_though_a_cell_is_wider_than_a_crop():
    height = width = 60_000
    counts = np.zeros((256, 256), np.int64)
    place = Window(31_010, 47_960, 12, 20)
    counts[place.y * 256 // height, place.x * 256 // width] = 240

    def changed(window: Window) -> np.ndarray:
        assert max(window.height, window.width) <= 1024
        rows = np.arange(window.y, window.bottom)[:, None] - place.y
        columns = np.arange(window.x, window.x + window.width) - place.x
        return (rows >= 0) & (rows < place.height) & (columns >= 0) & (columns < place.width)

    (window,) = busiest(counts, height, width, changed)
    assert window.y <= place.y < place.bottom <= window.bottom
    assert window.x <= place.x < place.x + place.width <= window.x + window.width


def scene(height: int = 300, width: int = 420) -> tuple[np.ndarray, ...]:
    """Image of noise, label, base mask that is wrong at a corner, mask that is right there and wrong elsewhere."""
    image = np.random.default_rng(0).integers(0, 256, (3, height, width)).astype(np.float32)
    label = np.zeros((height, width), np.uint8)
    label[40:200, 60:300] = 1
    before, after = label.copy(), label.copy()
    before[180:200, 240:300] = 0
    after[40:50, 60:90] = 0
    return image, label, before, after


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def zoomed(paired: bool, cuts: list[int]) -> list[Crop]:
    image, label, before, after = scene()

    def see(window: Window) -> Seen:
        at = window.slices
        return Seen(label[at], Prediction(after[at]), Prediction(before[at]) if paired else None, image[:, *at])

    viewer = Viewer("a", *label.shape, paired=paired)
    edges = [0, *cuts, len(label)]
    for top, bottom in pairwise(edges):
        viewer.add(top, see(Window(top, 0, bottom - top, label.shape[1])))
    return zoom(viewer.finish(), see)


def test_a_crop_shows_pixels_as_they_are_won_and_lost_among_them():
    image, label, before, after = scene()
    first, second = zoomed(paired=True, cuts=[])
    for crop, place in ((first, np.s_[180:200, 240:300]), (second, np.s_[40:50, 60:90])):
        assert set(crop.pictures) == {"image", "before", "after", "change"}
        at = crop.window.slices
        inside = np.zeros(label.shape, bool)
        inside[at] = True
        assert inside[place].all()
        assert {opened(data).shape for data in crop.pictures.values()} == {(SIDE, SIDE, 3)}  # noise is not made smaller
        for key, mask in (("before", before), ("after", after)):
            np.testing.assert_array_equal(opened(crop.pictures[key]).mean(axis=-1) > 128, mask[at] == 1)
        red, _, blue = np.moveaxis(opened(crop.pictures["change"]), -1, 0)
        np.testing.assert_array_equal(blue - red > 100, (before != label)[at])
        np.testing.assert_array_equal(red - blue > 100, (after != label)[at])
        assert abs(opened(crop.pictures["image"]).mean() - image[:, *at].mean()) < 3


def test_crops_do_not_depend_on_bands_and_show_errors_without_a_base():
    whole, bands = (zoomed(paired=True, cuts=cuts) for cuts in ([], [64, 192]))
    assert whole == bands
    (alone,) = zoomed(paired=False, cuts=[])
    assert set(alone.pictures) == {"image", "after", "change"}
    assert alone.window == whole[1].window


def test_crops_of_several_classes_have_the_colours_of_classes():
    _, label, before, after = scene()
    table = class_colours()

    def see(window: Window) -> Seen:
        return see_classes(label[window.slices], after[window.slices], before[window.slices])

    viewer = Viewer("a", *label.shape, table=table)
    viewer.add(0, see(Window(0, 0, *label.shape)))
    crops = zoom(viewer.finish(), see)
    assert len(crops) == 2
    for crop in crops:
        for key, mask in (("before", before), ("after", after)):
            np.testing.assert_array_equal(opened(crop.pictures[key]), table[mask[crop.window.slices]])
