from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from prn_cli.errors import InputError
from prn_cli.metrics.calibration import (
    PIXELS,
    POSITIVES,
    PROBABILITY,
    TOTAL,
    calibration_of_mask,
    count_calibration,
    expected_calibration_error,
    mean_absolute_error,
)
from prn_cli.metrics.regions import count_regions


def soft_map(kind, seed=0, shape=(80, 90)):
    random = np.random.default_rng(seed)
    probabilities = random.beta(0.4, 0.6, shape).astype(np.float32)
    label = (random.random(shape) < probabilities**1.5).astype(np.uint8)
    if kind == "byte":  # 15 divides 255: many values lie on the edges of the bins
        probabilities = np.round(probabilities * 255).astype(np.float32) / np.float32(255)
    elif kind == "saturated":
        probabilities = np.where(random.random(shape) < 0.2, np.float32(1), probabilities)
    elif kind == "float16":
        probabilities = probabilities.astype(np.float16).astype(np.float32)
    return probabilities, label


@pytest.mark.parametrize("kind", ["plain", "byte", "saturated", "float16"])
def test_ece_equals_torchmetrics(kind):
    probabilities, label = soft_map(kind)
    label[:7] = 255
    expected = binary_calibration_error(
        torch.from_numpy(probabilities).double(), torch.from_numpy(label.astype(np.int64)), n_bins=15, ignore_index=255
    )
    ours = expected_calibration_error(count_calibration(probabilities, label))
    assert ours == pytest.approx(float(expected), abs=1e-6)


def test_mae_is_the_mean_absolute_difference():
    probabilities, label = soft_map("plain")
    probabilities[3:9] = np.nan
    label[:, :5] = 255
    valid = ~np.isnan(probabilities) & (label != 255)
    counts = count_calibration(probabilities, label)
    expected = np.abs(probabilities[valid].astype(float) - label[valid]).mean()
    assert mean_absolute_error(counts) == pytest.approx(expected)
    assert counts[TOTAL] == counts[PIXELS].sum() == valid.sum()


def test_counts_equal_a_loop_over_the_bins():
    probabilities, label = soft_map("plain")
    counts = count_calibration(probabilities, label)
    for position in range(15):
        inside = (probabilities >= position / 15) & (probabilities < (position + 1) / 15)
        assert counts[PIXELS][position] == inside.sum()
        assert counts[POSITIVES][position] == label[inside].sum()
        assert counts[PROBABILITY][position] == pytest.approx(probabilities[inside].sum(dtype=float))


def test_pooled_figures_come_from_summed_counts():
    maps = [soft_map("plain", seed) for seed in range(3)]
    counts = np.stack([count_calibration(*pair) for pair in maps]).sum(0)
    whole = count_calibration(np.concatenate([m[0] for m in maps]), np.concatenate([m[1] for m in maps]))
    assert expected_calibration_error(counts) == pytest.approx(expected_calibration_error(whole))
    assert mean_absolute_error(counts) == pytest.approx(mean_absolute_error(whole))


def test_a_mask_has_an_error_and_no_calibration():
    random = np.random.default_rng(0)
    mask, label = random.integers(0, 2, (2, 30, 30)).astype(np.uint8)
    counts = calibration_of_mask(count_regions(mask, label))
    assert mean_absolute_error(counts) == pytest.approx((mask != label).mean())
    assert np.isnan(expected_calibration_error(counts))


def test_no_valid_pixel_has_no_figure():
    counts = count_calibration(np.full((3, 3), np.nan, np.float32), np.zeros((3, 3), np.uint8))
    assert np.isnan(mean_absolute_error(counts))
    assert np.isnan(expected_calibration_error(counts))


def test_what_is_no_probability_is_refused():
    with pytest.raises(InputError, match="-4 to 3"):
        count_calibration(np.array([[-4, 3]], np.float32), np.zeros((1, 2), np.uint8))
