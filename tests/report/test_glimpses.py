from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from prn_cli.maps.probabilities import binarize
from prn_cli.metrics.regions import count_regions
from prn_cli.rasters.pictures import encode_picture
from prn_cli.report import Prediction, Totals, Viewer
from prn_cli.report.curves import precision_and_recall
from prn_cli.report.glimpses import Seen
from prn_cli.thresholding.thresholds import PAPER_GRID

PATCH = 16


def example(seed, height=70, width=90):
    """A label with ignored pixels, probabilities with invalid ones, and a better mask."""
    random = np.random.default_rng(seed)
    truth, noise = ndimage.gaussian_filter(random.standard_normal((2, height, width)), (0, 4, 4)) * 20
    label = (truth > 0.5).astype(np.uint8)
    label[:5, :7] = 255
    probabilities = (1 / (1 + np.exp(-(truth + noise - 1)))).astype(np.float32)
    probabilities[-6:, -9:] = np.nan
    better = (truth + noise / 4 > 0.5).astype(np.uint8)
    better[20:22, :30] = 255
    return label, probabilities, better


def look(label, probabilities, better, cuts, **options):
    viewer = Viewer("a", *label.shape, patch=PATCH, **options)
    edges = [0, *cuts, len(label)]
    for a, b in pairwise(edges):
        p = probabilities[a:b]
        viewer.add(a, Seen(label[a:b], Prediction(better[a:b]), Prediction(binarize(p, 0.5), p)))
    return viewer


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_the_masks(seed):
    label, probabilities, better = example(seed)
    glimpse = look(label, probabilities, better, []).finish()
    base = binarize(probabilities, 0.5)
    truth = np.where((base == 255) | (better == 255), np.uint8(255), label)
    assert glimpse.regions_before() == count_regions(base, truth)
    assert glimpse.regions_after() == count_regions(better, truth)
    valid = truth != 255
    assert glimpse.found == np.count_nonzero(valid & (truth == 1) & (base == 0) & (better == 1))
    assert glimpse.cleared == np.count_nonzero(valid & (truth == 0) & (base == 1) & (better == 0))
    assert glimpse.missed == np.count_nonzero(valid & (truth == 1) & (base == 1) & (better == 0))
    assert glimpse.spurious == np.count_nonzero(valid & (truth == 0) & (base == 0) & (better == 1))
    assert glimpse.codes.sum() == label.size


def test_bands_change_nothing():
    label, probabilities, better = example(0)
    one, many = (look(label, probabilities, better, cuts) for cuts in ([], [16, 48]))
    first, second = one.finish(), many.finish()
    assert first.pictures == second.pictures
    np.testing.assert_array_equal(first.codes, second.codes)
    np.testing.assert_array_equal(first.thresholds.counts, second.thresholds.counts)
    np.testing.assert_array_equal(first.thresholds.coarse, second.thresholds.coarse)
    np.testing.assert_array_equal(one.before.curve.foreground, many.before.curve.foreground)
    np.testing.assert_allclose(one.before.calibration, many.before.calibration)


@pytest.mark.parametrize("grid", ["paper", "exact"])
@pytest.mark.parametrize("seed", range(3))
def test_thresholds_count_only_where_they_beat_the_cut(seed, grid):
    label, probabilities, better = example(seed)
    found = look(label, probabilities, better, [], grid=grid).finish().thresholds
    counts, as_good = np.zeros(20, int), 0
    valid = (label != 255) & ~np.isnan(probabilities) & (better != 255)
    for y in range(0, label.shape[0], PATCH):
        for x in range(0, label.shape[1], PATCH):
            part = slice(y, y + PATCH), slice(x, x + PATCH)
            p, t = probabilities[part][valid[part]], label[part][valid[part]]
            if not p.size:
                assert np.isnan(found.coarse[y // PATCH, x // PATCH])
                continue

            def smoothed(at, p=p, t=t):
                m = p > at
                return (np.count_nonzero(m & (t == 1)) + 1) / (np.count_nonzero(m | (t == 1)) + 1)

            candidates = PAPER_GRID if grid == "paper" else [np.nextafter(p.min(), np.float32(-1)), *np.unique(p)]
            scores = [smoothed(at) for at in candidates]
            if max(scores) > smoothed(np.float32(0.5)):
                chosen = float(found.coarse[y // PATCH, x // PATCH])
                assert smoothed(np.float32(chosen)) == max(scores)
                counts[min(int(np.searchsorted(PAPER_GRID, np.float32(chosen))), 19)] += 1
            else:
                assert found.coarse[y // PATCH, x // PATCH] == 0.5
                as_good += 1
    np.testing.assert_array_equal(found.counts, counts)
    assert found.as_good == as_good


def test_thresholds_are_sampled_where_their_patches_lie():
    label, probabilities, better = example(1, 70, 90)
    found = look(label, probabilities, better, []).finish().thresholds
    expected = found.coarse[np.ix_(np.arange(70) // PATCH, np.arange(90) // PATCH)]
    np.testing.assert_array_equal(found.sampled(70, 90), expected)


def test_won_is_blue_lost_is_orange_and_what_does_not_count_is_striped():
    label = np.zeros((60, 60), np.uint8)
    label[:, 30:] = 1
    before, after = label.copy(), label.copy()
    before[:20, :30], after[20:40, 30:] = 1, 0  # spurious before: won; missed after: lost
    label[40:, :30] = 255
    viewer = Viewer("a", 60, 60)
    viewer.add(0, Seen(label, Prediction(after), Prediction(before)))
    pixels = decoded(viewer.finish().pictures["change"])
    red, _, blue = pixels[5, 5]
    assert blue > 200 > 120 > red  # won
    red, green, blue = pixels[30, 45]
    assert red > 200 > 180 > green > blue  # lost
    assert len(np.unique(pixels[45:55, 5:25].reshape(-1, 3), axis=0)) == 2  # stripes
    light, dark = pixels[50, 45], pixels[30, 10]
    assert light.min() > 200 > 60 > dark.max()


def test_a_sliver_of_change_is_seen_in_a_large_image():
    label = np.zeros((2000, 1500), np.uint8)
    before = label.copy()
    before[:, 700:702] = 1  # two pixels wide, less than half a pixel of the picture
    viewer = Viewer("a", *label.shape)
    viewer.add(0, Seen(label, Prediction(label), Prediction(before)))
    pixels = decoded(viewer.finish().pictures["change"])
    assert pixels.shape == (256, 192, 3)
    red, _, blue = pixels[100, 700 * 192 // 1500]
    assert blue - red > 60


@pytest.mark.parametrize("scale", [1, 255, 4000])
def test_images_of_any_range_are_shown(scale):
    label, probabilities, better = example(0)
    image = np.stack([probabilities] * 4) * scale
    viewer = Viewer("a", *label.shape, paired=False)
    viewer.add(0, Seen(label, Prediction(better), image=image))
    glimpse = viewer.finish()
    pixels = decoded(glimpse.pictures["image"])
    assert pixels.shape == (*label.shape, 3)
    assert pixels.max() > 200
    assert pixels.min() < 60
    assert set(glimpse.pictures) == {"image", "label", "after", "change"}


def test_precision_and_recall_are_those_of_torchmetrics():
    torch = pytest.importorskip("torch")
    from torchmetrics.functional.classification import binary_precision_recall_curve

    label, probabilities, better = example(2)
    better[better == 255] = 0
    viewer = look(label, probabilities, better, [32])
    valid = (label != 255) & ~np.isnan(probabilities)
    p, y = probabilities[valid], label[valid]
    steps = np.arange(1, 1001)
    ours = precision_and_recall(viewer.before.curve)
    just_above = np.nextafter((steps / 1000).astype(np.float32), np.float32(2))  # theirs is >=, ours is >
    precision, recall, _ = binary_precision_recall_curve(
        torch.tensor(p), torch.tensor(y).int(), thresholds=torch.tensor(just_above)
    )
    np.testing.assert_allclose(ours[:, 0], recall[:-1].numpy(), atol=1e-6)
    some = ~np.isnan(ours[:, 1])
    np.testing.assert_allclose(ours[some, 1], precision[:-1].numpy()[some], atol=1e-6)


def test_the_bias_by_position_is_the_mean_of_the_images():
    totals = Totals()
    label = np.zeros((64, 128), np.uint8)
    for value in (1.0, 3.0):
        viewer = Viewer(str(value), *label.shape)
        bias = np.full(label.shape, np.float32(value))
        bias[:32] = -value
        bias[:, 120:] = np.nan
        viewer.add(0, Seen(label, Prediction(label), Prediction(label)), bias=bias)
        totals.add(viewer.finish(), viewer.before, viewer.after)
    found = totals.bias.result()
    assert found.shape == (16, 16)
    np.testing.assert_allclose(found[:8, :15], -2)
    np.testing.assert_allclose(found[8:, :15], 2)
    assert np.isnan(found[:, 15]).all()


@pytest.mark.parametrize("drawing", [True, False])
def test_pictures_fit_whatever_they_show(drawing):
    noise = np.random.default_rng(0).integers(0, 256, (256, 200, 3)).astype(np.uint8)
    for most in (20_000, 4000, 800):
        data = encode_picture(noise, most=most, drawing=drawing)
        assert len(data) <= most
        height, width, _ = decoded(data).shape
        assert abs(height / width - 256 / 200) < 0.1
    flat = np.repeat(np.repeat(noise[:4, :4], 50, axis=0), 50, axis=1)
    np.testing.assert_array_equal(decoded(encode_picture(flat, most=4000)), flat)
