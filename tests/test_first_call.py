"""The threshold of the first call: statistics, calibration, decision, sample."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_cli.thresholding.calibration import Calibration, Evidence, describe, expect, learn, scale_of
from prn_cli.thresholding.decision import (
    CUTS,
    bearable,
    cut_of,
    decide,
    decide_by_labels,
    decide_classes,
    expected_scores,
    gather,
)
from prn_cli.thresholding.logit_statistics import (
    BINS,
    CENTRES,
    EDGES,
    LogitStatistics,
    count_logits,
    measure,
    measure_steepness,
    no_statistics,
)
from prn_cli.thresholding.sampling import sample_maps, sample_windows

PROBABILITIES = 1 / (1 + np.exp(-CENTRES))
CERTAIN = np.zeros((2, 2))


def exactly(slope: float = 1.0, shift: float = 0.0) -> Calibration:
    """A calibration that is known for sure."""
    return Calibration(np.array([np.log(slope), shift]), CERTAIN)


def blobs(seed: int, side: int = 96, scale: float = 4.0, shift: float = -2.0) -> np.ndarray:
    """A smooth map of logits."""
    noise = np.random.default_rng(seed).standard_normal((side // 8 + 2, side // 8 + 2))
    y, x = (np.linspace(0, side // 8, side) for _ in range(2))
    rows = np.stack([np.interp(y, np.arange(len(noise)), column) for column in noise.T], axis=1)
    smooth = np.stack([np.interp(x, np.arange(noise.shape[1]), row) for row in rows])
    return (scale * smooth + shift).astype(np.float32)


def drawn_labels(logits: np.ndarray, seed: int, slope: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """`(2, BINS)` counts of labels that are foreground with probability σ(slope · z + shift)."""
    p = 1 / (1 + np.exp(-(slope * logits + shift)))
    label = np.random.default_rng(seed).random(logits.shape) < p
    return np.stack([count_logits(logits[~label]), count_logits(logits[label])])


def test_every_logit_falls_into_its_bin_or_beyond_four_beside_it() -> None:
    logits = np.linspace(-20, 20, 100_003, dtype=np.float32)
    for part, off in ((logits[np.abs(logits) < 4], 0), (logits, 1)):
        bins = np.array([int(np.flatnonzero(count_logits(part[i : i + 1]))[0]) for i in range(0, len(part), 97)])
        right = np.clip(np.floor(part[::97].astype(np.float64) * 32) + BINS // 2, 0, BINS - 1)
        assert np.abs(bins - right).max() <= off


def test_invalid_pixels_do_not_count_and_infinite_ones_are_the_outermost() -> None:
    counts = count_logits(np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e-6, 99], np.float32))
    assert counts.sum() == 6
    assert (counts[-1], counts[0], counts[BINS // 2], counts[BINS // 2 - 1]) == (2, 1, 1, 2)


@given(seed=st.integers(0, 2**32 - 1), parts=st.integers(1, 7))
def test_statistics_are_the_same_in_any_order_and_any_number_of_parts(seed: int, parts: int) -> None:
    draw = np.random.default_rng(seed)
    maps = [blobs(int(draw.integers(1000)), side=int(draw.integers(16, 64))) for _ in range(8)]
    maps[0][draw.random(maps[0].shape) < 0.1] = np.nan
    whole = sum((measure(part) for part in maps), no_statistics())
    cuts = np.sort(draw.integers(0, 9, parts - 1))
    shuffled = [maps[i] for i in draw.permutation(8)]
    sums = [
        sum((measure(m) for m in shuffled[a:b]), no_statistics()) for a, b in zip([0, *cuts], [*cuts, 8], strict=True)
    ]
    again = sum(sums, no_statistics())
    for name in LogitStatistics.__slots__:
        assert np.array_equal(getattr(whole, name), getattr(again, name))


@given(rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_half_of_the_pixels_are_counted_and_all_places_in_two_by_two_alike(rows: int, columns: int) -> None:
    y, x = np.mgrid[: 4 * rows, : 2 * columns]
    counts = measure((0.5 + 2 * (y % 2) + x % 2).astype(np.float32)).counts
    assert set(counts[counts > 0].tolist()) == {rows * columns}
    assert counts.sum() == 4 * rows * columns


@given(seed=st.integers(0, 2**32 - 1))
def test_expected_scores_are_those_of_brute_force(seed: int) -> None:
    draw = np.random.default_rng(seed)
    counts, p = draw.integers(0, 5, 9), np.sort(draw.random(9))
    for score in ("iou", "dice"):
        found = expected_scores(counts, p, score)
        for cut in range(10):
            hits, predicted = (counts * p)[cut:].sum(), counts[cut:].sum()
            truth = (counts * p).sum()
            union = predicted + (counts * p)[:cut].sum()
            right = (
                1.0 if predicted + truth == 0 else hits / union if score == "iou" else 2 * hits / (predicted + truth)
            )
            assert found[cut] == pytest.approx(right)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-3, 1))
def test_the_cut_of_one_image_is_that_of_rankseg(seed: int, shift: float) -> None:
    torch = pytest.importorskip("torch")
    rankseg = pytest.importorskip("rankseg")
    logits = blobs(seed, side=64, shift=shift) + np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float32)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    solver = rankseg.RankSEG(metric="IoU", output_mode="multilabel", pruning_prob=0.0)
    mask = solver.predict(torch.from_numpy(p)[None, None])[0, 0].numpy()
    cut = EDGES[expected_scores(count_logits(logits), PROBABILITIES).argmax()]
    ours = logits > cut

    def expected(mask: np.ndarray) -> float:
        return float(p[mask].sum() / (mask.sum() + p[~mask].sum()))

    assert expected(ours) == pytest.approx(expected(mask), abs=2e-4)
    assert abs(cut - logits[mask].min()) < 0.25


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), slope=st.floats(0.5, 2), shift=st.floats(-1.5, 1.5))
def test_of_known_probabilities_the_decision_gains_what_it_expects(seed: int, slope: float, shift: float) -> None:
    logits = blobs(seed, side=256)
    counts = drawn_labels(logits, seed, slope, shift)
    decision = decide(counts.sum(axis=0), exactly(slope, shift))
    above = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    scores = above[1] / (counts[1].sum() + above[0])
    cut = cut_of(decision.threshold)
    assert scores[cut] - scores[BINS // 2] == pytest.approx(decision.gain, abs=0.02)
    assert decision.gain >= 0
    assert decision.confidence == pytest.approx(1)


def test_thresholds_fall_for_calibrated_scores_and_rise_for_those_that_predict_too_much() -> None:
    counts = count_logits(blobs(3, side=256))
    assert decide(counts, exactly()).threshold < 0.5
    assert decide(counts, exactly(shift=-3)).threshold > 0.5
    assert decide(counts, exactly(), "dice").threshold == decide(counts, exactly(), "iou").threshold


def test_the_less_is_known_the_less_is_done() -> None:
    counts = count_logits(blobs(3, side=256))
    thresholds = [decide(counts, Calibration(np.zeros(2), width * np.eye(2))).threshold for width in (0, 0.1, 0.3, 3)]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] < thresholds[-1] == 0.5
    doubtful = decide(counts, Calibration(np.zeros(2), 3 * np.eye(2)))
    assert (doubtful.gain, doubtful.confidence) == (0, 1)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), place=st.integers(-60, 60))
def test_a_threshold_is_no_edge_of_a_spike_beyond_which_it_would_lose(seed: int, place: int) -> None:
    counts = count_logits(blobs(seed, side=128))
    counts[BINS // 2 + place] += counts.sum()
    decision = decide(counts, exactly())
    scores, cut = expected_scores(counts, PROBABILITIES), cut_of(decision.threshold)
    assert scores[cut - 3 : cut + 4].min() >= scores[BINS // 2] - 1e-9 or cut == BINS // 2


def test_an_image_is_drawn_towards_its_set() -> None:
    of_set = count_logits(blobs(3, side=256, shift=-1))
    image = count_logits(blobs(4, side=64, shift=-5))
    alone, within, whole = (
        decide(image, exactly()).threshold,
        decide(image, exactly(), of_set=of_set).threshold,
        decide(of_set, exactly()).threshold,
    )
    assert min(alone, whole) <= within <= max(alone, whole)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-6, 1), place=st.integers(-60, 60))
def test_an_image_is_not_cut_where_its_set_would_lose(seed: int, shift: float, place: int) -> None:
    of_set, image = count_logits(blobs(seed, side=128)), count_logits(blobs(seed + 1, side=64, shift=shift))
    of_set[BINS // 2 + place] += of_set.sum()
    cut = cut_of(decide(image, exactly(), of_set=of_set).threshold)
    gains = expected_scores(of_set, PROBABILITIES) - expected_scores(of_set, PROBABILITIES)[BINS // 2]
    best = gains[cut_of(decide(of_set, exactly()).threshold)]
    assert gains[cut] >= min(best, 0.01) / 3 or cut == BINS // 2


@pytest.mark.parametrize("divisor", [2, 8])
def test_scores_of_an_unusual_spread_are_taken_for_usual_ones_times_a_factor(divisor: float) -> None:
    logits = 1.2 * np.tanh(blobs(5, side=256, shift=-1))
    usual, small = (measure((logits / by).astype(np.float32)) for by in (1, divisor))
    scales = [scale_of(each) for each in (usual, small)]
    assert scales[1] / scales[0] == pytest.approx(divisor, rel=0.05)
    otsu, background = (describe(usual, scales[0]) - describe(small, scales[1]))[1:]
    assert (abs(otsu) < 0.5, abs(background) < 0.5) == (True, True)
    first, second = expect(usual), expect(small)
    assert second.mean[0] - first.mean[0] == pytest.approx(np.log(divisor), abs=0.3)
    assert np.trace(second.covariance) > np.trace(first.covariance)


@pytest.mark.parametrize("factor", [0.7, 1, 2])
def test_scores_of_a_usual_spread_are_taken_as_they_are(factor: float) -> None:
    assert scale_of(measure((factor * blobs(5, side=256)).astype(np.float32))) == 1


def test_scores_that_were_cut_off_below_a_half_are_left_at_a_half() -> None:
    logits = blobs(3, side=256, shift=-1)
    assert decide(count_logits(logits), exactly()).threshold < 0.5
    assert decide(count_logits(np.maximum(logits, 0)), exactly()).threshold == 0.5


@pytest.mark.parametrize("logits", [np.full((40, 40), np.nan), np.zeros((40, 40)), np.full((2, 3), -9.0)])
def test_of_maps_that_say_nothing_nothing_is_made(logits: np.ndarray) -> None:
    statistics = measure(logits.astype(np.float32))
    assert np.isfinite(describe(statistics)).all()
    calibration = expect(statistics)
    assert np.isfinite(calibration.mean).all()
    decision = decide(statistics.counts, calibration)
    assert 0 < decision.threshold < 1
    assert np.isfinite(decision.gain)


def test_the_features_follow_a_shift_of_the_logits() -> None:
    logits = 4 * np.tanh(blobs(5, side=256, shift=0))
    first, second = (describe(measure(logits + np.float32(shift))) for shift in (-1.0, 0.0))
    assert np.allclose(second - first, 1, atol=0.35)


def test_steepness_is_that_of_a_slope() -> None:
    slope = np.tile(np.arange(-8, 8, 0.01, np.float32), (64, 1))
    cells, steepness = measure_steepness(slope)
    assert np.allclose(steepness[cells > 0] / cells[cells > 0] / 256, 0.04, atol=0.003)
    assert not measure_steepness(slope[:8])[0].any()


def test_labels_teach_the_calibration_and_few_of_them_little() -> None:
    prior = Calibration(np.zeros(2), np.diag([0.1, 0.5]))
    maps = [drawn_labels(blobs(seed, side=256), seed, slope=0.7, shift=-1) for seed in range(20)]
    distances = [np.abs(learn(prior, maps[:n]).mean - [np.log(0.7), -1]).max() for n in (0, 1, 20)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.2
    assert np.allclose(learn(prior, []).mean, prior.mean)
    spreads = [np.trace(learn(prior, maps[:n]).covariance) for n in (0, 1, 5, 20)]
    assert spreads == sorted(spreads, reverse=True)


def test_one_class_alone_teaches_no_more_than_the_prior_bears() -> None:
    prior = Calibration(np.zeros(2), np.diag([0.1, 0.5]))
    empty = np.zeros((2, BINS), np.int64)
    empty[0] = count_logits(blobs(1, side=256))
    posterior = learn(prior, [empty] * 5)
    assert np.isfinite(posterior.mean).all()
    assert posterior.mean[1] < 0


@pytest.mark.parametrize(("slope", "shift", "way"), [(1.0, 1.5, -1), (1.0, -3.0, 1)])
def test_a_few_labels_move_the_threshold_the_right_way(slope: float, shift: float, way: int) -> None:
    logits = [4 * np.tanh(blobs(seed, side=256)) - 1 for seed in range(8)]
    maps = [drawn_labels(part, seed, slope, shift) for seed, part in enumerate(logits)]
    statistics = sum((measure(part) for part in logits), no_statistics())
    decision = decide_by_labels(maps, statistics)
    assert np.sign(decision.threshold - 0.5) == way
    assert decision.gain > 0


def test_a_threshold_by_which_the_labelled_maps_lose_is_not_taken() -> None:
    logits = blobs(3, side=256, shift=-5)
    statistics = measure(logits)
    assert decide(statistics.counts, expect(statistics)).threshold < 0.5
    label = logits > 0
    exact = np.stack([count_logits(logits[~label]), count_logits(logits[label])])
    assert decide_by_labels([exact], statistics).threshold == 0.5


def test_of_two_classes_the_offsets_are_the_threshold() -> None:
    logits = np.random.default_rng(0).choice(blobs(3, side=256, shift=-4).ravel(), 20_000)
    both = np.stack([-logits, logits], axis=1)
    known, doubtful = exactly(), Calibration(np.zeros(2), 3 * np.eye(2))
    decision = decide_classes(both, [known, known])
    assert decision.offsets[1] < decision.offsets[0]
    assert decision.gains.sum() > 0
    assert decision.confidence > 0.5 or decision.gains.min() < 0
    kept = decide_classes(both, [doubtful, doubtful])
    assert not kept.offsets.any()
    assert kept.confidence == 1


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 5))
def test_evidence_updates_what_it_was_gathered_with_to_the_same(seed: int, count: int) -> None:
    logits = [blobs(seed + each) for each in range(count)]
    maps = [drawn_labels(part, seed, 0.8, -0.5) for part in logits]
    statistics = sum((measure(part) for part in logits), no_statistics())
    evidence = gather(maps, statistics)
    prior = expect(statistics)
    whole, updated = learn(prior, maps), evidence.update(prior)
    assert np.allclose(whole.mean, updated.mean, atol=1e-4)
    assert np.allclose(whole.covariance, updated.covariance, atol=1e-4)
    again = Evidence.from_record(json.loads(json.dumps(evidence.record())), CUTS)
    assert np.allclose(again.update(prior).mean, updated.mean, atol=1e-3)
    assert np.array_equal(again.allowed, evidence.allowed)
    assert again.maps == count


@pytest.mark.parametrize(
    "change", [{"precision": [[1]]}, {"information": [0, None]}, {"allowed": "ff"}, {"allowed": 3}, {"maps": None}]
)
def test_damaged_evidence_is_refused(change: dict[str, object]) -> None:
    record = gather([drawn_labels(blobs(1), 1)], measure(blobs(1))).record() | change
    with pytest.raises(ValueError, match="no evidence"):
        Evidence.from_record(record, CUTS)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 4))
def test_cuts_that_labelled_maps_bear_are_those_of_brute_force(seed: int, count: int) -> None:
    maps = [drawn_labels(blobs(seed + each, shift=-1), seed, 0.7, 0.5 * each - 1) for each in range(count)]
    allowed = bearable(maps)

    def iou(of: list[int], cut: int) -> float:
        above = np.sum([maps[i][:, cut:].sum(axis=1) for i in of], axis=0)
        union = above[0] + sum(maps[i][1].sum() for i in of)
        return above[1] / union if union else 1.0

    first = BINS // 2 - CUTS // 2
    half = BINS // 2
    for place in range(0, CUTS, 16):
        cut = first + place
        means = [np.mean([iou([i], at) for i in range(count)]) for at in (cut, half)]
        others = [[i for i in range(count) if i != one] or [one] for one in range(count)]
        assert allowed[place] == (means[0] >= means[1] and all(iou(of, cut) >= iou(of, half) for of in others))


def test_ten_labelled_maps_choose_what_they_surely_gain() -> None:
    logits = [blobs(seed, shift=-1) for seed in range(12)]
    statistics = sum((measure(part) for part in logits), no_statistics())
    maps = [drawn_labels(part, seed, shift=2) for seed, part in enumerate(logits)]
    decision = decide_by_labels(maps, statistics)
    above = np.sum(maps, axis=0)[:, ::-1].cumsum(axis=1)[:, ::-1]
    scores = above[1] / (above[1, 0] + above[0])
    assert decision.threshold < 0.5
    assert decision.gain == pytest.approx(scores[cut_of(decision.threshold)] - scores[BINS // 2])
    labels_by_chance = [np.stack([counts.sum(axis=0) // 2] * 2) for counts in maps]
    exact = [np.stack([count_logits(part[part <= 0]), count_logits(part[part > 0])]) for part in logits]
    assert decide_by_labels(exact, statistics).threshold == 0.5
    assert decide_by_labels(labels_by_chance, statistics, "dice").threshold < 0.5


def test_labels_of_one_set_choose_the_threshold_of_another() -> None:
    learned = [blobs(seed, side=256) for seed in range(5)]
    statistics = sum((measure(part) for part in learned), no_statistics())
    evidence = gather([drawn_labels(part, seed, 1, 0.5) for seed, part in enumerate(learned)], statistics)
    others = {shift: measure(blobs(9, side=256, shift=shift)) for shift in (-4, -1)}
    thresholds = [decide(each.counts, expect(each), evidence=evidence).threshold for each in others.values()]
    assert max(thresholds) < 0.5
    assert thresholds[0] != thresholds[1]


@given(names=st.lists(st.text(max_size=8), max_size=30), most=st.integers(1, 10))
def test_the_sample_of_a_set_is_the_same_in_any_order(names: list[str], most: int) -> None:
    sample = sample_maps(names, most)
    assert sample == sample_maps(sorted(names), most) == sample_maps(reversed(names), most)
    assert len(sample) == min(most, len(set(names)))
    assert set(sample_maps(names, most - 1) if most > 1 else []) <= set(sample)


def test_a_sample_is_the_same_where_accents_are_apart():
    together, apart = "Z\u00fcrich", "Zu\u0308rich"
    assert sample_windows(together, 9000, 9000) == sample_windows(apart, 9000, 9000)


@given(height=st.integers(1, 6000), width=st.integers(1, 6000))
def test_windows_of_a_map_lie_on_it_and_are_few(height: int, width: int) -> None:
    windows = sample_windows("map", height, width)
    assert 1 <= len(windows) <= 16
    assert len({(w.y, w.x) for w in windows}) == len(windows)
    assert all(w.bottom <= height and w.x + w.width <= width for w in windows)
    if height * width <= 16 * 512**2 and max(height, width) <= 2048:
        assert sum(w.height * w.width for w in windows) == height * width
