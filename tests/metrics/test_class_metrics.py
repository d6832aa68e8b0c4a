from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from prn_cli.errors import InputError
from prn_cli.metrics.classes import accuracy, class_iou, count_classes, mean_iou


def draw_pair(seed, classes=5, missing=()):
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, (40, 50)).astype(np.uint8)
    prediction = np.where(random.random(label.shape) < 0.6, label, random.integers(0, classes, label.shape))
    for number in missing:
        label[label == number], prediction[prediction == number] = 0, 1
    label[random.random(label.shape) < 0.1] = 255
    return prediction.astype(np.uint8), label


def expect_torchmetrics(prediction, label, counts):
    truth = torch.from_numpy(label.astype(np.int64))
    given = torch.from_numpy(prediction.astype(np.int64))
    options = {"num_classes": 5, "ignore_index": 255}
    ious = multiclass_jaccard_index(given, truth, average="none", **options).numpy()
    for number in range(5):
        occurs = ((label == number) | ((prediction == number) & (label != 255))).any()
        found = float(class_iou(counts, number))
        assert found == pytest.approx(float(ious[number])) if occurs else np.isnan(found)
    assert float(mean_iou(counts)) == pytest.approx(float(multiclass_jaccard_index(given, truth, **options)))
    micro = multiclass_accuracy(given, truth, average="micro", **options)
    assert float(accuracy(counts)) == pytest.approx(float(micro))


@pytest.mark.parametrize("missing", [(), (3,), (2, 4)])
def test_figures_equal_torchmetrics(missing):
    prediction, label = draw_pair(0, missing=missing)
    expect_torchmetrics(prediction, label, count_classes(prediction, label))


def test_counts_add_up():
    pairs = [draw_pair(seed) for seed in range(3)]
    counts = sum(count_classes(*pair) for pair in pairs)
    expect_torchmetrics(*(np.concatenate(arrays) for arrays in zip(*pairs, strict=True)), counts)


def test_invalid_pixels_never_count():
    prediction, label = draw_pair(4)
    prediction[:9] = 255
    assert np.array_equal(count_classes(prediction, label), count_classes(prediction[9:], label[9:]))
    nothing = count_classes(np.full_like(prediction, 255), label)
    assert not nothing.any()
    assert np.isnan(mean_iou(nothing))
    assert np.isnan(accuracy(nothing))


def test_shapes_must_agree():
    with pytest.raises(InputError, match=r"2×2 differs.*3×3"):
        count_classes(np.zeros((2, 2), np.uint8), np.zeros((3, 3), np.uint8))
