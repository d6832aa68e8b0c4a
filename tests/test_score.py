from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchmetrics.functional import classification as oracle

from prn_cli.errors import InputError
from prn_cli.maps.probabilities import binarize
from prn_cli.metrics import boundaries, calibration, regions
from prn_cli.metrics.score import METRICS, figures, summarise
from prn_cli.tasks.binary import Binary

score_image = Binary().score_image


def soft_pair(seed, shape=(70, 64), shift=0.0):
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.standard_normal((2, *shape)), (0, 4, 4)) * 14
    label = (noise[0] > 0.4).astype(np.uint8)
    probabilities = (1 / (1 + np.exp(-(2 * noise[0] + noise[1] - 0.8 + shift)))).astype(np.float32)
    return probabilities, label


def test_a_record_holds_the_counts_of_every_family():
    probabilities, label = soft_pair(0)
    mask = (probabilities > 0.5).astype(np.uint8)
    ours = figures(score_image(probabilities, label, buffer=2).counts)
    boundary = boundaries.count_boundaries(mask, label, buffer=2)
    assert ours["iou"] == regions.count_regions(mask, label).iou()
    assert ours["boundary_iou"] == boundaries.boundary_iou(boundary)
    assert ours["mba"] == boundaries.mean_boundary_accuracy(boundary)
    assert ours["relaxed_precision"] == boundaries.relaxed_precision(boundary)
    assert ours["relaxed_recall"] == boundaries.relaxed_recall(boundary)
    error = calibration.count_calibration(probabilities, label)
    assert ours["ece"] == calibration.expected_calibration_error(error)
    assert ours["mae"] == calibration.mean_absolute_error(error)
    assert list(ours) == [metric.name for metric in METRICS]


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_a_soft_map_equals_torchmetrics(threshold):
    probabilities, label = soft_pair(1)
    ours = figures(score_image(probabilities, label, threshold=threshold).counts)
    preds, target = torch.from_numpy(probabilities), torch.from_numpy(label.astype(np.int64))
    assert ours["iou"] == pytest.approx(float(oracle.binary_jaccard_index(preds, target, threshold=threshold)))
    assert ours["f1"] == pytest.approx(float(oracle.binary_f1_score(preds, target, threshold=threshold)))
    assert ours["ece"] == pytest.approx(float(oracle.binary_calibration_error(preds, target)), abs=1e-6)


def test_cut_is_strict_and_keeps_invalid_pixels():
    probabilities = np.array([[0.5, np.nextafter(np.float32(0.5), np.float32(1)), np.nan]], np.float32)
    assert binarize(probabilities, 0.5).tolist() == [[0, 1, 255]]


def test_invalid_pixels_never_count():
    probabilities, label = soft_pair(2)
    probabilities[:10], label[:, :9] = np.nan, 255
    score = score_image(probabilities, label)
    assert score.pixels == 60 * 55
    cropped = figures(score_image(probabilities[10:, 9:], label[10:, 9:]).counts)
    ours = figures(score.counts)
    for name in ("iou", "accuracy", "relaxed_precision", "mae", "ece"):
        assert ours[name] == pytest.approx(cropped[name])


def test_a_baseline_is_compared_on_the_same_pixels():
    probabilities, label = soft_pair(3)
    other, _ = soft_pair(3, shift=0.5)
    probabilities[:7], other[-6:] = np.nan, np.nan
    score = score_image(probabilities, label, baseline=other)
    assert score.pixels == (70 - 13) * 64
    assert score.counts[:4].sum() == score.baseline[:4].sum() == score.pixels
    assert figures(score.baseline)["iou"] == figures(score_image(other[7:-6], label[7:-6]).counts)["iou"]


def test_a_mask_and_a_soft_baseline_are_compared_as_masks():
    probabilities, label = soft_pair(4)
    score = score_image(binarize(probabilities, 0.5), label, baseline=probabilities)
    ours, other = figures(score.counts), figures(score.baseline)
    assert ours["mae"] == other["mae"] == pytest.approx(1 - ours["accuracy"])
    assert np.isnan(ours["ece"])
    assert other["ece"] > 0


def test_summary_means_pools_and_compares():
    pairs = [soft_pair(seed) for seed in range(6)]
    scores = [score_image(p, y, baseline=np.clip(p * 0.8, 0, 1)) for p, y in pairs]
    summary = summarise(scores, seed=3)
    counts = [regions.count_regions(binarize(p, 0.5), y) for p, y in pairs]
    assert summary.images == 6
    assert summary.pixels == 6 * 70 * 64
    assert summary.mean["iou"].masks.value == pytest.approx(np.mean([c.iou() for c in counts]))
    assert summary.pooled["iou"].masks.value == pytest.approx(sum(counts, regions.RegionCounts()).iou())
    for part in (summary.mean, summary.pooled):
        for figure in part.values():
            assert figure.difference.value == pytest.approx(figure.masks.value - figure.baseline.value)
            assert figure.difference.low <= figure.difference.value <= figure.difference.high
    assert summary == summarise(scores, seed=3)
    assert summary.mean["iou"] != summarise(scores, seed=4).mean["iou"]


def test_summary_equals_compare_on_one_metric():
    from prn_cli.metrics.intervals import compare

    scores = [score_image(*soft_pair(seed), baseline=soft_pair(seed, shift=0.4)[0]) for seed in range(5)]
    before = np.stack([score.baseline[:4] for score in scores])
    after = np.stack([score.counts[:4] for score in scores])
    summary = summarise(scores)
    for part, pool in ((summary.mean, False), (summary.pooled, True)):
        expected = compare(before, after, regions.iou, pool=pool)
        assert part["iou"].difference == pytest.approx(expected.difference)
        assert part["iou"].masks == pytest.approx(expected.after)


def test_images_without_a_boundary_are_left_out_of_mba():
    probabilities, label = soft_pair(5)
    empty = score_image(probabilities, np.zeros_like(label))
    full = score_image(probabilities, label)
    assert np.isnan(figures(empty.counts)["mba"])
    assert summarise([empty, full]).mean["mba"].masks.value == figures(full.counts)["mba"]


def test_masks_have_no_calibration_error_and_a_set_of_one_no_interval():
    probabilities, label = soft_pair(6)
    summary = summarise([score_image(binarize(probabilities, 0.5), label)])
    assert np.isnan(summary.mean["ece"].masks.value)
    assert np.isnan(summary.pooled["iou"].masks.low)
    assert summary.pooled["iou"].difference is None


def test_what_cannot_be_scored_is_refused():
    probabilities, label = soft_pair(7)
    with pytest.raises(InputError, match=r"70×64.*70×60"):
        score_image(probabilities, label[:, :60])
    with pytest.raises(InputError, match=r"baseline.*69×64"):
        score_image(probabilities, label, baseline=probabilities[1:])
    with pytest.raises(InputError, match="no pixel is valid"):
        score_image(np.full_like(probabilities, np.nan), label)
    with pytest.raises(InputError, match="no image"):
        summarise([])


def test_all_metrics_of_four_megapixels_take_no_loop_over_pixels(lines_run):
    """How long that takes is judged by `bench/metrics.py`."""
    probabilities, label = soft_pair(8, (2000, 2000))
    assert lines_run(lambda: score_image(probabilities, label)) < 10_000


def test_metrics_need_numpy_alone():
    code = (
        "import sys, prn_cli.metrics, prn_cli.metrics.boundaries, prn_cli.metrics.intervals, prn_cli.metrics.score;"
        "heavy = {'torch', 'scipy', 'skimage', 'rich', 'typer', 'onnxruntime', 'PIL', 'tifffile'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
