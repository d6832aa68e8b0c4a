from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.morphology import dilation, disk, erosion

from prn_cli.errors import InputError, UsageError
from prn_cli.metrics import boundaries
from prn_cli.metrics.boundaries import (
    INTERSECTION,
    NEAR,
    PREDICTED,
    PREDICTED_NEAR_TRUE,
    RIGHT,
    TRUE,
    TRUE_NEAR_PREDICTED,
    UNION,
    boundary_iou,
    count_boundaries,
    mean_boundary_accuracy,
    radii,
    relaxed_precision,
    relaxed_recall,
)


def blobs(shape, seed, roughness=4.0, share=0.4):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), roughness)
    return (noise > np.quantile(noise, 1 - share)).astype(np.uint8)


def with_invalid(mask, seed):
    random = np.random.default_rng(seed)
    mask = mask.copy()
    mask[random.random(mask.shape) < 0.003] = 255
    mask[5:20, 10:30] = 255
    return mask


CASES = [
    (blobs((97, 130), 1), blobs((97, 130), 2)),
    (blobs((300, 257), 3, 9), blobs((300, 257), 4, 9)),
    (with_invalid(blobs((150, 200), 5), 0), with_invalid(blobs((150, 200), 6), 1)),
    (blobs((400, 380), 7, 1.5, 0.1), blobs((400, 380), 7, 1.6, 0.1)),
    (np.ones((40, 65), np.uint8), blobs((40, 65), 8)),
    (np.zeros((20, 33), np.uint8), blobs((20, 33), 9)),
]
cases = pytest.mark.parametrize(("prediction", "label"), CASES)


def split(prediction, label):
    valid = (prediction != 255) & (label != 255)
    return valid, valid & (prediction == 1), valid & (label == 1), valid & (label == 0)


def filled(first, second):
    """Both classes, with each pixel of neither added to the nearer."""
    nearer = chessboard_to(first).astype(np.int64) - chessboard_to(second)
    return nearer < 0, nearer > 0


def chessboard_to(mask):
    far = np.full(mask.shape, sum(mask.shape))
    return ndimage.distance_transform_cdt(~mask, "chessboard") if mask.any() else far


def region(first, second, times):
    """What erosion takes from a class: the other class and the outside erode it, gaps do not."""
    kept = ndimage.binary_erosion(np.pad(~filled(first, second)[1], 1), np.ones((3, 3)), iterations=times)[1:-1, 1:-1]
    return first & ~kept


def expected_counts(prediction, label, buffer):
    """All counts by SciPy, as the module says."""
    valid, positive, true, false = split(prediction, label)
    rejected = valid & ~positive
    times = max(1, round(0.02 * np.hypot(*label.shape)))
    first, second = region(positive, rejected, times), region(true, false, times)
    (all_positive, _), (all_true, all_false) = filled(positive, rejected), filled(true, false)
    near = [
        (true & (distance_to(all_false) <= radius)) | (false & (distance_to(all_true) <= radius))
        for radius in np.linspace(1, max(1, sum(label.shape) / 300), 5)
    ]
    counted = (
        first & second,
        first | second,
        positive,
        positive & (distance_to(all_true) <= buffer),
        true,
        true & (distance_to(all_positive) <= buffer),
        *(ring & (positive == true) for ring in near),
        *near,
    )
    return [mask.sum() for mask in counted]


def with_gaps(label, kind, seed):
    random = np.random.default_rng(seed)
    gaps = {
        "stray": random.random(label.shape) < 0.03,
        "stripes": np.broadcast_to(np.arange(len(label))[:, None] % 16 < 2, label.shape),
        "holes": blobs(label.shape, seed, 5, 0.3) == 1,
        "void band": ndimage.binary_dilation(label, iterations=3) & ~ndimage.binary_erosion(label, iterations=3),
        "half": np.broadcast_to(np.arange(label.shape[1]) < label.shape[1] // 2, label.shape),
    }
    return np.where(gaps[kind], 255, label).astype(np.uint8)


GAPS = ("stray", "stripes", "holes", "void band", "half")


def distance_to(mask):
    return ndimage.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.sampled_from(GAPS),
    st.sampled_from((*GAPS, None)),
    st.integers(0, 99),
    st.floats(0, 9),
)
def test_counts_beside_gaps_equal_scipy_whole_and_in_bands(shape, gaps_of_label, gaps_of_prediction, seed, buffer):
    prediction, label = blobs(shape, seed, 5), with_gaps(blobs(shape, seed + 1, 5), gaps_of_label, seed)
    if gaps_of_prediction:
        prediction = with_gaps(prediction, gaps_of_prediction, seed + 2)
    expected = expected_counts(prediction, label, buffer)
    np.testing.assert_array_equal(count_boundaries(prediction, label, buffer=buffer), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundaries, "_BLOCK_WORDS", 1)
        patch.setattr(boundaries, "_MOST_WORDS", 1)
        counter = boundaries.BoundaryCounter(*shape, buffer=buffer)
        for top in range(0, shape[0], 7):
            counter.add(prediction[top : top + 7], label[top : top + 7])
        np.testing.assert_array_equal(counter.counts(), expected)


@pytest.mark.parametrize("kind", ["stray", "stripes", "void band"])
def test_gaps_hardly_move_the_figures(kind):
    random = np.random.default_rng(0)
    smooth, rough = (ndimage.gaussian_filter(random.standard_normal((256, 256)), sigma) for sigma in (12, 3))
    smooth, rough = smooth / smooth.std(), rough / rough.std()
    label, prediction = ((scores > 0.5).astype(np.uint8) for scores in (smooth, smooth + 0.3 * rough))
    whole, beside_gaps = count_boundaries(prediction, label), count_boundaries(prediction, with_gaps(label, kind, 0))
    assert boundary_iou(beside_gaps) == pytest.approx(boundary_iou(whole), abs=0.05)


@cases
def test_boundary_iou_equals_repeated_erosion(prediction, label):
    if (label == 255).any():
        pytest.skip("erosion knows no gaps")
    times = max(1, round(0.02 * np.hypot(*label.shape)))

    def eroded_away(mask):
        eroded = np.pad(mask, 1).astype(np.uint8)
        for _ in range(times):
            eroded = erosion(eroded, np.ones((3, 3), np.uint8))
        return mask & (eroded[1:-1, 1:-1] == 0)

    first, second = eroded_away(prediction == 1), eroded_away(label == 1)
    counts = count_boundaries(prediction, label)
    assert (counts[INTERSECTION], counts[UNION]) == ((first & second).sum(), (first | second).sum())
    assert boundary_iou(counts) == pytest.approx((first & second).sum() / (first | second).sum())


@cases
def test_mba_equals_the_distance_transform(prediction, label):
    _, positive, true, false = split(prediction, label)
    all_true, all_false = filled(true, false)
    accuracies = []
    for radius in np.linspace(1, max(1, sum(label.shape) / 300), 5):
        near = (true & (distance_to(all_false) <= radius)) | (false & (distance_to(all_true) <= radius))
        accuracies.append((positive == true)[near].mean())
    assert mean_boundary_accuracy(count_boundaries(prediction, label)) == pytest.approx(np.mean(accuracies))


def test_mba_rings_are_morphological_gradients_where_the_radius_is_whole():
    prediction, label = blobs((620, 580), 1, 6), blobs((620, 580), 2, 6)
    assert radii(620, 580) == (1, 1.75, 2.5, 3.25, 4)
    counts = count_boundaries(prediction, label)
    for ring, radius in ((0, 1), (4, 4)):
        gradient = dilation(label, disk(radius)) != erosion(label, disk(radius))
        assert counts[NEAR][ring] == gradient.sum()
        assert counts[RIGHT][ring] == (prediction == label)[gradient].sum()


@cases
@pytest.mark.parametrize("buffer", [0, 1, 3, 4.5])
def test_relaxed_counts_equal_the_distance_transform(prediction, label, buffer):
    valid, positive, true, false = split(prediction, label)
    (all_positive, _), (all_true, _) = filled(positive, valid & ~positive), filled(true, false)
    counts = count_boundaries(prediction, label, buffer=buffer)
    assert counts[PREDICTED] == positive.sum()
    assert counts[TRUE] == true.sum()
    assert counts[PREDICTED_NEAR_TRUE] == (positive & (distance_to(all_true) <= buffer)).sum()
    assert counts[TRUE_NEAR_PREDICTED] == (true & (distance_to(all_positive) <= buffer)).sum()


def test_a_road_two_pixels_off_is_right_within_three():
    label, prediction = np.zeros((2, 50, 50), np.uint8)
    label[:, 20], prediction[:, 22] = 1, 1
    assert relaxed_precision(count_boundaries(prediction, label)) == 1
    assert relaxed_recall(count_boundaries(prediction, label)) == 1
    assert relaxed_precision(count_boundaries(prediction, label, buffer=1)) == 0
    assert relaxed_recall(count_boundaries(prediction, label, buffer=1)) == 0


def test_the_true_mask_is_perfect():
    label = blobs((90, 90), 0)
    counts = count_boundaries(label, label)
    assert boundary_iou(counts) == mean_boundary_accuracy(counts) == 1
    assert relaxed_precision(counts) == relaxed_recall(counts) == 1


def test_nothing_predicted_and_nothing_to_find_is_right_and_has_no_boundary():
    empty = np.zeros((30, 30), np.uint8)
    counts = count_boundaries(empty, empty)
    assert boundary_iou(counts) == relaxed_precision(counts) == relaxed_recall(counts) == 1
    assert np.isnan(mean_boundary_accuracy(counts))


def test_zero_over_zero_is_zero_where_something_was_missed():
    counts = count_boundaries(np.zeros((30, 30), np.uint8), blobs((30, 30), 1))
    assert relaxed_precision(counts) == relaxed_recall(counts) == 0


def test_what_invalid_pixels_hold_changes_nothing():
    prediction, label = CASES[2]
    counts = count_boundaries(prediction, label)
    for value in (0, 1):
        np.testing.assert_array_equal(
            count_boundaries(np.where(label == 255, value, prediction).astype(np.uint8), label), counts
        )


def test_pooled_figures_come_from_summed_counts():
    counts = np.stack([count_boundaries(*case) for case in CASES])
    assert boundary_iou(counts).shape == (len(CASES),)
    assert boundary_iou(counts.sum(0)) == pytest.approx(counts[:, 0].sum() / counts[:, 1].sum())
    right, near = counts[:, 6:11].sum(0), counts[:, 11:].sum(0)
    assert mean_boundary_accuracy(counts.sum(0)) == pytest.approx((right / near).mean())


def test_bad_calls_are_refused():
    with pytest.raises(InputError, match=r"2×2.*2×3"):
        count_boundaries(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(UsageError, match="-1"):
        count_boundaries(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), buffer=-1)


def test_four_megapixels_take_no_loop_over_pixels(lines_run):
    """How long that takes is judged by `bench/metrics.py`."""
    prediction, label = blobs((2000, 2000), 1, 10), blobs((2000, 2000), 2, 10)
    assert lines_run(lambda: count_boundaries(prediction, label)) < 8000
