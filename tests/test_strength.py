from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prn_cli.maps.blend import strengthen
from prn_cli.metrics.regions import count_regions
from prn_cli.refinement.rows import cut
from prn_cli.thresholding.strength import STRENGTHS, THRESHOLDS, choose, tally

HALF = THRESHOLDS.index(0.5)


def counts_of(*ious: float, pixels: int = 1000) -> np.ndarray:
    """Counts whose IoU at a threshold is given for strengths 0 and up; the same at every threshold."""
    table = np.zeros((len(STRENGTHS), len(THRESHOLDS), 4), np.int64)
    for row, value in zip(table, ious, strict=False):
        row[:] = (round(value * pixels), 0, pixels - round(value * pixels), pixels)
    return table


@given(seed=st.integers(0, 1000))
def test_tally_counts_what_the_masks_would_hold(seed: int) -> None:
    draw = np.random.default_rng(seed)
    logits = (3 * draw.standard_normal((7, 9))).astype(np.float32)
    refined = logits + draw.standard_normal((7, 9)).astype(np.float32)
    logits[draw.random((7, 9)) < 0.1] = np.nan
    refined[np.isnan(logits)] = np.nan
    label = draw.choice(np.array([0, 1, 255], np.uint8), (7, 9))
    counts = tally(logits, refined, label)
    for row, strength in zip(counts, STRENGTHS, strict=True):
        for cell, threshold in zip(row, THRESHOLDS, strict=True):
            mask = cut(strengthen(logits, refined, strength), threshold)
            assert np.array_equal(cell, count_regions(mask, label).array())


def test_nothing_is_done_where_nothing_gains() -> None:
    choice = choose(np.stack([counts_of(0.5, 0.49, 0.48, 0.45, 0.5)] * 3), ["a", "a", "a"])
    assert (choice.strength, choice.threshold, choice.gain) == (0.0, 0.5, 0.0)


def test_the_strength_with_the_largest_gain_is_taken() -> None:
    choice = choose(np.stack([counts_of(0.5, 0.52, 0.55, 0.53, 0.51)] * 2), ["a", "a"])
    assert choice.strength == 0.5
    assert choice.gain == pytest.approx(0.05)
    assert choice.strengths["0.25"] == pytest.approx(0.02)


def test_of_few_maps_a_gain_that_may_be_chance_is_none() -> None:
    better, worse = counts_of(0.5, 0.52, 0.56, 0.6, 0.7), counts_of(0.5, 0.51, 0.47, 0.4, 0.4)
    maps = np.stack([better, better, worse])
    choice = choose(np.concatenate([maps] * 2), ["a"] * 6)
    assert (choice.strength, choice.strengths["1"]) == (0.25, pytest.approx(0.1))
    assert choose(np.concatenate([maps] * 4), ["a"] * 12).strength == 1.0
    assert choose(np.stack([worse] * 9), ["a"] * 9).strength == 0.25
    worse[1] = worse[0]
    assert choose(np.stack([worse] * 9), ["a"] * 9).strength == 0.0


def test_a_scene_of_many_tiles_does_not_outvote_the_others() -> None:
    good, bad = counts_of(0.5, 0.5, 0.5, 0.5, 0.52), counts_of(0.5, 0.4, 0.4, 0.4, 0.4)
    maps = np.stack([good] * 9 + [bad] * 1)
    assert choose(maps, ["one"] * 10).strength == 1.0
    choice = choose(maps, ["a"] * 9 + ["b"])
    assert choice.strength == 0.0
    assert choice.groups == {"a": 0.0, "b": 0.0}


def test_the_threshold_moves_only_if_it_surely_gains() -> None:
    better, worse = counts_of(0.5, 0.5, 0.5, 0.5, 0.6), counts_of(0.5, 0.5, 0.5, 0.5, 0.6)
    low = THRESHOLDS.index(0.3)
    better[-1, low] = counts_of(0.7)[0, 0]
    worse[-1, low] = counts_of(0.58)[0, 0]
    assert choose(np.stack([better] * 12), list("abcd") * 3).threshold == 0.3
    assert choose(np.stack([better] * 12), ["a"] * 12).threshold == 0.3
    assert choose(np.stack([better] * 6 + [worse] * 6), list("aabbccddeeff")).threshold == 0.5


def test_few_maps_say_nothing_of_the_threshold() -> None:
    better = counts_of(0.5, 0.5, 0.5, 0.5, 0.6)
    better[-1, THRESHOLDS.index(0.3)] = counts_of(0.7)[0, 0]
    assert choose(np.stack([better] * 9), ["a"] * 9).threshold == 0.5


def test_parts_or_classes_of_few_maps_are_no_more_maps() -> None:
    better = counts_of(0.5, 0.5, 0.5, 0.5, 0.6)
    better[-1, THRESHOLDS.index(0.3)] = counts_of(0.7)[0, 0]
    assert choose(np.stack([better] * 12), ["a"] * 12, images=3).threshold == 0.5
    gains = (0.7, 0.3, 0.53)
    mixed = np.stack([counts_of(0.5, gain, 0.5, 0.5, 0.5) for gain in gains] * 4)
    assert choose(mixed, ["a"] * 12).strength == 0.25
    assert choose(mixed, ["a"] * 12, images=3).strength == 0.0


def test_of_two_scenes_both_must_gain_and_the_threshold_stays() -> None:
    better, worse = counts_of(0.5, 0.52, 0.5, 0.5, 0.6), counts_of(0.5, 0.51, 0.5, 0.5, 0.45)
    better[:, THRESHOLDS.index(0.3)] = counts_of(0.7)[0, 0]
    worse[:, THRESHOLDS.index(0.3)] = counts_of(0.7)[0, 0]
    choice = choose(np.stack([better, worse] * 6), ["a", "b"] * 6)
    assert (choice.strength, choice.threshold) == (0.25, 0.5)
    assert choose(np.stack([better, better, worse] * 4), ["a", "b", "c"] * 4).strength == 1.0


def test_one_map_says_nothing_of_the_threshold() -> None:
    only = counts_of(0.5, 0.5, 0.5, 0.5, 0.6)
    only[-1, 3] = counts_of(0.9)[0, 0]
    choice = choose(only[None], ["a"])
    assert (choice.strength, choice.threshold) == (1.0, 0.5)


def test_the_ends_of_the_scale_are_the_base_and_the_whole_correction() -> None:
    logits = np.array([[1.0, np.nan]], np.float32)
    refined = np.array([[3.0, np.nan]], np.float32)
    assert strengthen(logits, refined, 1.0) is refined
    assert np.array_equal(strengthen(logits, refined, 0.0), logits, equal_nan=True)
    assert strengthen(logits, refined, 0.25)[0, 0] == 1.5
    assert THRESHOLDS[HALF] == 0.5
