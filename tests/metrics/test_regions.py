from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torchmetrics.functional import classification as oracle

from prn_cli.errors import InputError
from prn_cli.metrics.regions import RegionCounts, count_regions, f1, iou, precision, recall

masks = npst.arrays(
    np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 1, 255])
)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_counts_equal_a_loop_over_the_pixels(data):
    prediction = data.draw(masks)
    label = data.draw(npst.arrays(np.uint8, prediction.shape, elements=st.sampled_from([0, 1, 255])))
    expected = {"tp": 0, "fp": 0, "fn": 0, "tn": 0}
    for p, y in zip(prediction.flat, label.flat, strict=True):
        if p != 255 and y != 255:
            expected[{(1, 1): "tp", (1, 0): "fp", (0, 1): "fn", (0, 0): "tn"}[int(p), int(y)]] += 1
    assert count_regions(prediction, label) == RegionCounts(**expected)


@pytest.mark.parametrize("density", [0.02, 0.5, 0.97])
def test_ratios_equal_torchmetrics(density):
    random = np.random.default_rng(3)
    prediction = (random.random((61, 47)) < density).astype(np.uint8)
    label = (random.random((61, 47)) < 0.4).astype(np.uint8)
    label[:5] = 255
    counts = count_regions(prediction, label)
    preds, target = torch.from_numpy(prediction), torch.from_numpy(label.astype(np.int64))
    for ours, theirs in [
        (counts.iou(), oracle.binary_jaccard_index),
        (counts.f1(), oracle.binary_f1_score),
        (counts.precision(), oracle.binary_precision),
        (counts.recall(), oracle.binary_recall),
        (counts.accuracy(), oracle.binary_accuracy),
    ]:
        assert ours == pytest.approx(float(theirs(preds, target, ignore_index=255)), abs=1e-6)


def test_pooled_counts_are_the_sum_of_the_images():
    random = np.random.default_rng(0)
    predictions, labels = random.integers(0, 2, (2, 4, 16, 16)).astype(np.uint8)
    total = sum((count_regions(p, y) for p, y in zip(predictions, labels, strict=True)), RegionCounts())
    assert total == count_regions(predictions.reshape(64, 16), labels.reshape(64, 16))
    assert total.pixels == 4 * 256


def test_nothing_predicted_and_nothing_to_find_is_right():
    empty = count_regions(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8))
    assert (empty.iou(), empty.f1(), empty.precision(), empty.recall(), empty.accuracy()) == (1, 1, 1, 1, 1)


def test_zero_over_zero_is_zero_where_something_was_missed_or_invented():
    missed = count_regions(np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8))
    assert (missed.iou(), missed.f1(), missed.precision(), missed.recall()) == (0, 0, 0, 0)
    invented = count_regions(np.ones((4, 4), np.uint8), np.zeros((4, 4), np.uint8))
    assert (invented.iou(), invented.f1(), invented.precision(), invented.recall()) == (0, 0, 0, 0)


def test_no_valid_pixel_has_no_accuracy():
    assert np.isnan(count_regions(np.full((2, 2), 255, np.uint8), np.ones((2, 2), np.uint8)).accuracy())


def test_ratios_work_on_stacks_of_counts():
    counts = np.random.default_rng(1).integers(0, 50, (5, 3, 4)).astype(float)
    for function in (iou, f1, precision, recall):
        stacked = function(counts)
        assert stacked.shape == (5, 3)
        assert stacked[2, 1] == function(counts[2, 1])


def test_shapes_that_differ_are_refused_with_both():
    with pytest.raises(InputError, match=r"3×4.*3×5"):
        count_regions(np.zeros((3, 4), np.uint8), np.zeros((3, 5), np.uint8))


def test_values_that_are_no_class_are_refused():
    with pytest.raises(InputError, match="label holds the value 7"):
        count_regions(np.zeros((3, 4), np.uint8), np.full((3, 4), 7, np.uint8))
