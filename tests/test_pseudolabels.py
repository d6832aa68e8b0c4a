from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_cli.errors import InputError
from prn_cli.metrics.regions import RegionCounts, count_regions
from prn_cli.thresholding.pseudolabels import (
    Headroom,
    apply_thresholds,
    best_thresholds,
    count_curve,
    empty_curve,
    make_pseudolabels,
)

OFFICIAL = Path(__file__).parent / "vectors" / "official_pseudolabels.npz"


def random_map(height: int, width: int, seed: int = 0, invalid: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    label = (random.random((height, width)) < 0.3).astype(np.uint8)
    p = np.clip(label * 0.3 + random.random((height, width)) * 0.8 - 0.1, 0, 1).astype(np.float32)
    p[random.random(p.shape) < invalid] = np.nan
    label[random.random(p.shape) < invalid] = 255
    return p, label


def cut(p: np.ndarray, t: float) -> np.ndarray:
    mask = (p > np.float32(t)).astype(np.uint8)
    mask[np.isnan(p)] = 255
    return mask


@pytest.mark.parametrize("patch", [32, 64, 128])
def test_masks_equal_the_published_implementation(patch):
    with np.load(OFFICIAL) as official:
        packed = official[f"pseudolabels_p{patch}"]
        for p, label, expected in zip(official["probabilities"], official["labels"], packed, strict=True):
            found = make_pseudolabels(p, label, patch=patch)
            np.testing.assert_array_equal(found.mask, np.unpackbits(expected, axis=-1))
            assert found.mask.dtype == np.uint8


@pytest.mark.parametrize("grid", ["paper", "exact"])
@pytest.mark.parametrize(("height", "width", "patch"), [(1, 1, 16), (70, 45, 16), (64, 96, 32), (33, 200, 50)])
def test_mask_counts_and_thresholds_agree(height, width, patch, grid):
    p, label = random_map(height, width, seed=height)
    label[0, 0], p[0, 0] = 1, 0.7
    found = make_pseudolabels(p, label, patch=patch, grid=grid)
    np.testing.assert_array_equal(found.thresholds, best_thresholds(p, label, patch=patch, grid=grid))
    assert found.counts == count_regions(found.mask, label)
    np.testing.assert_array_equal(found.mask == 255, np.isnan(p) | (label == 255))
    applied = apply_thresholds(p, found.thresholds, patch=patch)
    applied[label == 255] = 255
    np.testing.assert_array_equal(applied, found.mask)


def test_mask_takes_the_memory_it_is_given():
    p, label = random_map(40, 30)
    out = np.full(p.shape, 77, np.uint8)
    found = make_pseudolabels(p, label, patch=16, out=out)
    assert found.mask is out
    np.testing.assert_array_equal(out, make_pseudolabels(p, label, patch=16).mask)


def test_apply_thresholds_by_hand():
    p = np.array([[0.2, 0.5, 0.6], [0.5, np.nan, 0.1], [0.9, 0.9, 0.9]], np.float32)
    t = np.array([[0.5, 0.1], [np.nan, 0.9]], np.float32)
    np.testing.assert_array_equal(apply_thresholds(p, t, patch=2), [[0, 0, 1], [0, 255, 0], [255, 255, 0]])


def test_apply_thresholds_refuses_those_of_another_map():
    with pytest.raises(ValueError, match="expected"):
        apply_thresholds(np.zeros((33, 16), np.float32), np.zeros((2, 1), np.float32), patch=16)


def test_shapes_that_differ():
    with pytest.raises(InputError, match="shape"):
        make_pseudolabels(np.zeros((4, 5), np.float32), np.zeros((5, 4), np.uint8), patch=16)
    with pytest.raises(InputError, match="shape"):
        count_curve(np.zeros((4, 5), np.float32), np.zeros((5, 4), np.uint8))


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 50, 300, 500, 501, 999, 1000]))
@settings(max_examples=60, deadline=None)
def test_curve_equals_counting(seed, step):
    p, label = random_map(40, 30, seed)
    grid = np.arange(0, 1001, dtype=np.float32) / np.float32(1000)
    random = np.random.default_rng(seed)
    exactly = random.random(p.shape) < 0.5  # on the thresholds, and next to them
    near = random.choice(
        np.concatenate((grid, np.nextafter(grid, np.float32(2))[:-1], np.nextafter(grid, np.float32(0)))), p.shape
    )
    p[exactly] = near[exactly]
    curve = count_curve(p, label)
    expected = count_regions(cut(p, grid[step]), label)
    assert curve.counts(step) == expected
    assert curve.ious()[step - 1] == pytest.approx(expected.iou(), abs=1e-12)


def test_curves_add_up():
    p, label = random_map(300, 200)
    whole, parts = count_curve(p, label), empty_curve()
    for y in range(0, 300, 70):
        parts += count_curve(p[y : y + 70], label[y : y + 70])
    np.testing.assert_array_equal(whole.background, parts.background)
    np.testing.assert_array_equal(whole.foreground, parts.foreground)
    assert whole.foreground.sum() + whole.background.sum() == (~np.isnan(p) & (label != 255)).sum()


def test_headroom_equals_its_definition():
    maps = [
        random_map(50, 40, 1),
        random_map(30, 90, 2),
        (np.zeros((20, 20), np.float32), np.zeros((20, 20), np.uint8)),
    ]
    headroom = Headroom()
    for p, label in maps:
        headroom.add(count_curve(p, label), make_pseudolabels(p, label, patch=16).counts)
    assert headroom.images == 3

    def figures(masks: list[np.ndarray]) -> tuple[float, float]:
        counts = [count_regions(mask, label) for mask, (_, label) in zip(masks, maps, strict=True)]
        with_foreground = [c.iou() for c, (_, label) in zip(counts, maps, strict=True) if (label == 1).any()]
        return sum(counts, RegionCounts()).iou(), float(np.mean(with_foreground))

    assert headroom.pixels == sum(count_regions(cut(p, 0.5), label).pixels for p, label in maps)
    half = headroom.at(0.5)
    assert (half.pooled, half.mean) == pytest.approx(figures([cut(p, 0.5) for p, _ in maps]), abs=1e-12)
    oracle = headroom.oracle()
    expected = figures([make_pseudolabels(p, label, patch=16).mask for p, label in maps])
    assert (oracle.pooled, oracle.mean) == pytest.approx(expected, abs=1e-12)
    assert oracle.threshold is None
    grid = np.arange(1, 1001, dtype=np.float32) / np.float32(1000)
    pooled = [figures([cut(p, t) for p, _ in maps])[0] for t in grid]
    best = headroom.best_single()
    assert best.threshold == pytest.approx((int(np.argmax(pooled)) + 1) / 1000)
    assert best.pooled == pytest.approx(max(pooled), abs=1e-12)
