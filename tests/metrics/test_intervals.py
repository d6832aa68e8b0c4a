from __future__ import annotations

import numpy as np
import pytest

from prn_cli.metrics import intervals, regions


def brute_force(before, after, pool, resamples, seed):
    """The same draws, one image and one resample at a time."""
    generator = np.random.default_rng(seed)
    images = len(before)
    drawn = generator.integers(images, size=(resamples, images))

    def figure(counts, picks):
        if pool:
            return float(regions.iou(sum(counts[i] for i in picks)))
        return float(np.mean([regions.iou(counts[i]) for i in picks]))

    differences = [figure(after, picks) - figure(before, picks) for picks in drawn]
    return np.quantile(differences, (0.025, 0.975))


def random_counts(images, seed=0):
    return np.random.default_rng(seed).integers(0, 400, (images, 4)).astype(float)


@pytest.mark.parametrize("pool", [True, False])
def test_compare_equals_brute_force(pool):
    before, after = random_counts(9, 1), random_counts(9, 2)
    result = intervals.compare(before, after, regions.iou, pool=pool, resamples=300, seed=5)
    assert result.difference[1:] == pytest.approx(brute_force(before, after, pool, 300, 5))
    expected = regions.iou(after.sum(0)) if pool else regions.iou(after).mean()
    assert result.after.value == pytest.approx(expected)
    assert result.difference.value == pytest.approx(result.after.value - result.before.value)


def test_interval_of_a_mean_agrees_with_theory():
    values = np.random.default_rng(0).normal(0.7, 0.1, (400, 1))
    _, low, high = intervals.bootstrap(lambda weights: intervals.mean(values, weights), 400)
    error = values.std(ddof=1) / np.sqrt(400)
    assert (high - low)[0] / 2 == pytest.approx(1.96 * error, rel=0.08)


def test_pairing_narrows_the_difference():
    before = random_counts(40)
    after = before + np.array([4, 0, 0, 0])
    result = intervals.compare(before, after, regions.iou, pool=False)
    assert result.difference.low > 0
    assert result.difference.high - result.difference.low < (result.after.high - result.after.low) / 5


def test_the_seed_decides():
    before, after = random_counts(12, 1), random_counts(12, 2)
    first, again, other = (intervals.compare(before, after, regions.iou, pool=True, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_one_image_has_no_interval():
    result = intervals.compare(random_counts(1), random_counts(1, 3), regions.iou, pool=True)
    assert np.isnan(result.difference.low)
    assert not np.isnan(result.difference.value)


def test_absent_figures_are_left_out():
    values = np.array([[0.5, np.nan, np.nan], [0.7, np.nan, 0.25], [0.9, np.nan, np.nan]])
    figures, low, high = intervals.bootstrap(lambda weights: intervals.mean(values, weights), 3)
    assert figures[0] == pytest.approx(0.7)
    assert np.isnan(figures[1])
    assert np.isnan(low[1])
    assert figures[2] == low[2] == high[2] == 0.25


def test_chunks_of_resamples_do_not_change_the_result(monkeypatch):
    before, after = random_counts(11, 1), random_counts(11, 2)
    whole = intervals.compare(before, after, regions.iou, pool=True, resamples=500)
    monkeypatch.setattr(intervals, "_WEIGHTS_AT_A_TIME", 64)
    assert intervals.compare(before, after, regions.iou, pool=True, resamples=500) == whole


def test_resamples_and_images_take_no_loop(lines_run):
    """How long they take is judged by `bench/metrics.py`."""

    def lines(images, resamples):
        before, after = random_counts(images, 1), random_counts(images, 2)
        return lines_run(lambda: intervals.compare(before, after, regions.iou, pool=True, resamples=resamples))

    assert lines(150, 1000) == lines(10, 1000) == lines(150, 100)
