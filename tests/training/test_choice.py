from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prn_cli.maps.blend import strengthen
from prn_cli.maps.classes import choose as choose_class
from prn_cli.maps.classes import masks_of
from prn_cli.metrics.regions import count_regions
from prn_cli.refinement.rows import cut
from prn_cli.training.choice import CUTS, STRENGTHS, Limits, choose, logit_cuts, tally, tally_classes


def counts_of(*ious: float, own: float | None = None, pixels: int = 1000) -> np.ndarray:
    """Counts whose IoU is given for strengths 0 and up, the same at every cut; or `own` at the base's own threshold."""
    table = np.zeros((len(STRENGTHS), CUTS, 4), np.int64)
    for row, value in zip(table, ious, strict=False):
        row[:] = (round(value * pixels), 0, pixels - round(value * pixels), pixels)
    if own is not None:
        table[0, 1:] = counts_of(own, pixels=pixels)[0, 0]
    return table


@given(seed=st.integers(0, 1000), threshold=st.floats(0.05, 0.95))
def test_tally_counts_what_the_masks_would_hold(seed: int, threshold: float) -> None:
    draw = np.random.default_rng(seed)
    logits = (3 * draw.standard_normal((7, 9))).astype(np.float32)
    refined = logits + draw.standard_normal((7, 9)).astype(np.float32)
    logits[draw.random((7, 9)) < 0.1] = np.nan
    refined[np.isnan(logits)] = np.nan
    label = draw.choice(np.array([0, 1, 255], np.uint8), (7, 9))
    for row, strength in zip(tally(logits, refined, label, threshold), STRENGTHS, strict=True):
        for cell, place in zip(row, logit_cuts(threshold, strength), strict=True):
            mask = cut(strengthen(logits, refined, strength), 1 / (1 + np.exp(-place)))
            assert np.array_equal(cell, count_regions(mask, label).array())


@given(seed=st.integers(0, 1000), classes=st.integers(2, 5))
def test_of_several_classes_the_greatest_score_is_counted(seed: int, classes: int) -> None:
    draw = np.random.default_rng(seed)
    logits = (3 * draw.standard_normal((classes, 7, 9))).astype(np.float32)
    refined = logits + draw.standard_normal(logits.shape).astype(np.float32)
    logits[:, draw.random((7, 9)) < 0.1] = np.nan
    refined[np.isnan(logits)] = np.nan
    label = draw.choice(np.array([*range(classes), 255], np.uint8), (7, 9))
    labels = np.stack(masks_of(label, classes))
    for number, strength in enumerate(STRENGTHS):
        masks = masks_of(choose_class(strengthen(logits, refined, strength)), classes)
        expected = [count_regions(mask, one).array() for mask, one in zip(masks, labels, strict=True)]
        for cut_number in range(CUTS):
            assert np.array_equal(tally_classes(logits, refined, labels)[:, number, cut_number], expected)


def test_a_class_may_lose_where_the_mean_over_the_classes_gains() -> None:
    better, worse = counts_of(0.5, 0.52, 0.6, 0.6, 0.7), counts_of(0.5, 0.5, 0.49, 0.49, 0.48)
    maps = np.stack([better, worse] * 6)
    choice = choose(maps, [""] * 6, classes=["a", "b"])
    assert choice.strength == 1.0
    assert choice.groups == {"a": pytest.approx(0.2), "b": pytest.approx(-0.02)}
    assert choice.gain == choice.strengths["1"] == pytest.approx(0.09)
    scenes = ["s", "t"] * 3
    assert choose(maps, scenes, classes=["a", "b"]).strength == 1.0
    maps[2::4] = counts_of(0.5, 0.52, 0.4, 0.4, 0.4)  # in a scene, both lose
    assert choose(maps, scenes, classes=["a", "b"]).strength == 0.25


def test_a_class_that_vanishes_pays_for_no_loss_of_others() -> None:
    """Found by no label and a few pixels of the base model, it would count at strength 0 alone."""
    worse = counts_of(0.5, 0.49, 0.49, 0.49, 0.48)
    vanishing = np.zeros_like(worse)
    vanishing[:4, :, 1] = 30
    vanishing[..., 3] = 1000
    choice = choose(np.stack([worse, worse, vanishing] * 6), [""] * 6, classes=["a", "b", "c"])
    assert choice.strength == 0.0
    assert choice.strengths["1"] == pytest.approx(-0.04 / 3)


def test_nothing_is_done_where_nothing_gains() -> None:
    choice = choose(np.stack([counts_of(0.5, 0.49, 0.48, 0.45, 0.5)] * 3), ["a", "a", "a"])
    assert (choice.strength, choice.threshold, choice.gain, choice.promising) == (0.0, 0.5, 0.0, False)


def test_the_strength_with_the_surest_gain_is_taken() -> None:
    choice = choose(np.stack([counts_of(0.5, 0.52, 0.55, 0.53, 0.51)] * 2), ["a", "a"])
    assert choice.strength == 0.5
    assert choice.gain == choice.added == pytest.approx(0.05)
    assert choice.strengths["0.25"] == pytest.approx(0.02)
    less = choose(np.stack([counts_of(0.5, 0.52, 0.53, 0.53, 0.55)] * 2), ["a", "a"], limits=Limits(strength=0.5))
    assert less.strength == 0.5


def test_the_network_is_kept_only_for_what_it_adds_to_the_threshold() -> None:
    alone = choose(np.stack([counts_of(0.5, 0.51, 0.52, 0.53, 0.54, own=0.6)] * 4), ["a"] * 4, own=0.4)
    assert (alone.strength, alone.threshold, alone.added) == (0.0, 0.4, 0.0)
    assert alone.gain == pytest.approx(0.1)
    both = choose(np.stack([counts_of(0.5, 0.61, 0.62, 0.63, 0.7, own=0.6)] * 4), ["a"] * 4, own=0.4)
    assert both.strength == 1.0
    assert (both.gain, both.added) == (pytest.approx(0.2), pytest.approx(0.1))
    fixed = choose(
        np.stack([counts_of(*[0.5] * 5, own=0.6)] * 4), ["a"] * 4, own=0.4, limits=Limits(any_threshold=False)
    )
    assert (fixed.threshold, fixed.gain) == (0.5, 0.0)
    worse = choose(np.stack([counts_of(*[0.5] * 5, own=0.4)] * 4), ["a"] * 4, own=0.4)
    assert (worse.threshold, worse.own) == (0.5, 0.4)


def test_of_few_maps_a_gain_that_may_be_chance_is_none() -> None:
    maps = np.stack([counts_of(0.5, 0.51, 0.57, 0.5, 0.5), counts_of(0.5, 0.51, 0.47, 0.5, 0.5)])
    assert choose(maps, ["a"] * 2).strength == 0.25  # of two maps, a gain of 0.07 and a loss of 0.03 may be chance
    assert choose(np.concatenate([maps] * 20), ["a"] * 40).strength == 0.5
    slight = counts_of(0.5, 0.503, 0.5, 0.5, 0.5)
    assert [choose(np.stack([slight] * maps), ["a"] * maps).strength for maps in (1, 2, 9, 10)] == [
        0.0,
        0.25,
        0.25,
        0.25,
    ]


def test_a_scene_that_loses_means_less_strength() -> None:
    better, worse = counts_of(0.5, 0.52, 0.6, 0.6, 0.6), counts_of(0.5, 0.51, 0.49, 0.45, 0.45)
    choice = choose(np.stack([better, better, worse] * 4), ["a", "b", "c"] * 4)
    assert choice.strength == 0.25
    assert choose(np.stack([better] * 9 + [counts_of(0.5, 0.4, 0.4, 0.4, 0.4)]), ["a"] * 9 + ["b"]).strength == 0.0
    assert choose(np.stack([better, worse] * 6), ["a", "b"] * 6).strength == 0.25


def test_what_promises_more_is_told_by_the_scenes_as_it_is_chosen_by_them() -> None:
    large = counts_of(0.5, 0.72, 0.72, 0.72, 0.72, own=0.6, pixels=100_000)
    choice = choose(np.stack([large, counts_of(0.5, 0.4, 0.4, 0.4, 0.4)]), ["a", "b"], own=0.4)
    assert (choice.strength, choice.threshold, choice.promising) == (0.0, 0.4, True)  # (0.22 - 0.1) / 2 > (0.1 + 0) / 2
    assert choice.gain > choice.strengths["1"]


def test_a_mean_iou_that_falls_means_less_strength() -> None:
    large, small = counts_of(0.5, 0.52, 0.6, 0.6, 0.6, pixels=100_000), counts_of(0.5, 0.5, 0.3, 0.2, 0.2, pixels=100)
    assert choose(np.stack([large, small] * 6), ["a"] * 12).strength == 0.25


def test_parts_of_few_maps_are_no_more_maps() -> None:
    mixed = np.stack([counts_of(0.5, gain, 0.5, 0.5, 0.5) for gain in (0.64, 0.45, 0.5)] * 4)
    assert choose(mixed, ["a"] * 12).strength == 0.25
    assert choose(mixed, ["a"] * 12, limits=Limits(images=3)).strength == 0.0


def test_one_map_must_gain_more_than_a_sceptic_expects_to_lose() -> None:
    choice = choose(counts_of(0.5, 0.5, 0.5, 0.5, 0.6)[None], ["a"])
    assert (choice.strength, choice.threshold) == (1.0, 0.5)
    assert choose(counts_of(0.5, 0.5, 0.5, 0.5, 0.503)[None], ["a"]).strength == 0.0


def test_the_ends_of_the_scale_are_the_base_and_the_whole_correction() -> None:
    logits = np.array([[1.0, np.nan]], np.float32)
    refined = np.array([[3.0, np.nan]], np.float32)
    assert strengthen(logits, refined, 1.0) is refined
    assert np.array_equal(strengthen(logits, refined, 0.0), logits, equal_nan=True)
    assert strengthen(logits, refined, 0.25)[0, 0] == 1.5
