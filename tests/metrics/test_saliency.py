"""Saliency metrics against PySODMetrics.

`data/pysodmetrics.npz` holds small 8-bit maps, labels, and the figures that PySODMetrics 1.6.2 gives them. Many more
are compared where there is a Python that has the package. It is no dependency, since it needs an older NumPy:

    python3 -m venv sod && sod/bin/pip install -r tests/metrics/requirements.txt
    PRN_TEST_PYSODMETRICS=$PWD/sod/bin/python python -m pytest tests/metrics
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from prn_cli.errors import InputError
from prn_cli.metrics import saliency

STORED = Path(__file__).parent / "data" / "pysodmetrics.npz"
FIGURES = ("mae", "adaptive_f", "weighted_f", "s_measure", "adaptive_e")
SIZE = (48, 60)
KINDS = ("map", "label")


def draw_map(seed, height=SIZE[0], width=SIZE[1]):
    """An 8-bit map and its 8-bit grey label; every tenth is of one of the odd kinds."""
    random = np.random.default_rng(seed)
    smooth = random.choice([1, 3, 6])
    noise = ndimage.gaussian_filter(random.standard_normal((2, height, width)), (0, smooth, smooth)) * smooth * 3
    label = (noise[0] > random.choice([-0.5, 0, 0.8, 1.5])) * 255
    low, high = random.choice([0, 0.1, 0.3]), random.choice([0.7, 0.95, 1])
    soft = np.rint(255 * (low + (high - low) / (1 + np.exp(-(2 * noise[0] + noise[1] - 0.5)))))
    kind = seed % 10
    if kind in (0, 1):
        label[:] = 255 * kind
    elif kind == 2:
        soft[:] = random.integers(256)
    elif kind == 3:
        label[:] = 0
        label[height // 2, width // 3] = 255
    elif kind == 4:
        soft = (soft > 128) * 255
    return soft.astype(np.uint8), label.astype(np.uint8)


# The record of `measure_saliency`, as PySODMetrics has it, of each pair of a map and a label; from `.npz` to `.npy`.
PYSODMETRICS = """
import sys, warnings
import numpy as np
import py_sod_metrics as sod

warnings.simplefilter("ignore")
records = []
with np.load(sys.argv[1]) as pairs:
    for number in range(len(pairs.files) // 2):
        metrics = [sod.MAE(), sod.Fmeasure(), sod.WeightedFmeasure(), sod.Smeasure(), sod.Emeasure()]
        for metric in metrics:
            metric.step(pairs[f"map{number}"], pairs[f"label{number}"])
        mae, f, weighted, s, e = (metric.get_results() for metric in metrics)
        single = (1, mae["mae"], f["fm"]["adp"], weighted["wfm"], s["sm"], e["em"]["adp"])
        records.append(np.concatenate((single, f["fm"]["curve"], e["em"]["curve"])).astype(np.float64))
np.save(sys.argv[2], records)
"""


def measure_with_pysodmetrics(pairs, folder):
    python = os.environ.get("PRN_TEST_PYSODMETRICS") or (find_spec("py_sod_metrics") and sys.executable)
    if not python:
        pytest.skip("no PySODMetrics here; name a Python that has it in PRN_TEST_PYSODMETRICS")
    named = {
        f"{kind}{number}": array for number, pair in enumerate(pairs) for kind, array in zip(KINDS, pair, strict=True)
    }
    np.savez(folder / "pairs.npz", **named)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    line = [python, "-c", PYSODMETRICS, folder / "pairs.npz", folder / "records.npy"]
    subprocess.run(line, env=environment, check=True)
    return np.load(folder / "records.npy")


def record_of(soft, label):
    probabilities = soft.astype(np.float32) / np.float32(255)
    return saliency.measure_saliency(probabilities, (label > 128).astype(np.uint8))


def test_figures_equal_those_that_pysodmetrics_gave():
    with np.load(STORED) as stored:
        records = np.stack([record_of(*pair) for pair in zip(stored["maps"], stored["labels"], strict=True)])
        expected = stored["records"]
    assert len(records) == 20
    np.testing.assert_allclose(records, expected, rtol=0, atol=1e-12)
    total, wanted = records.sum(axis=0), expected.sum(axis=0)
    assert saliency.max_f(total) == pytest.approx((wanted[6:262] / 20).max())
    assert saliency.mean_f(total) == pytest.approx((wanted[6:262] / 20).mean())
    assert saliency.max_e(total) == pytest.approx((wanted[262:] / 20).max())
    assert saliency.mean_e(total) == pytest.approx((wanted[262:] / 20).mean())
    for position, name in enumerate(("mean_absolute_error", *FIGURES[1:]), start=1):
        assert getattr(saliency, name)(total) == pytest.approx(wanted[position] / 20)


def test_figures_equal_pysodmetrics_live(tmp_path):
    seeds = range(100, 220)
    pairs = [draw_map(seed, *np.random.default_rng(seed).integers(8, 80, 2)) for seed in seeds]
    for seed, pair, expected in zip(seeds, pairs, measure_with_pysodmetrics(pairs, tmp_path), strict=True):
        ours = record_of(*pair)
        known = ~np.isnan(expected)  # the S-measure of an object in the last row or column is NaN there
        assert known.sum() >= len(expected) - 1
        np.testing.assert_allclose(ours[known], expected[known], rtol=0, atol=1e-12, err_msg=f"seed {seed}")
        assert np.isfinite(ours).all()


@pytest.mark.parametrize("seed", [5, 6, 17, 28])
def test_invalid_pixels_are_as_though_outside_the_image(seed):
    soft, label = draw_map(seed)
    probabilities, truth = soft.astype(np.float32) / np.float32(255), (label > 128).astype(np.uint8)
    inner = (slice(7, None), slice(0, -11))
    expected = saliency.measure_saliency(probabilities[inner], truth[inner])
    probabilities[:7], truth[:, -11:] = np.nan, 255
    ours = saliency.measure_saliency(probabilities, truth)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


def test_what_is_under_invalid_pixels_does_not_matter():
    random = np.random.default_rng(3)
    soft, label = draw_map(8)
    probabilities, truth = soft.astype(np.float32) / np.float32(255), (label > 128).astype(np.uint8)
    truth[random.random(truth.shape) < 0.2] = 255
    first = saliency.measure_saliency(probabilities, truth)
    probabilities[truth == 255] = random.random(np.count_nonzero(truth == 255))
    assert np.array_equal(first, saliency.measure_saliency(probabilities, truth))


def test_curves_equal_a_loop_over_the_thresholds():
    soft, label = draw_map(7)
    record = record_of(soft, label)
    p = (soft - soft.min()) / float(soft.max() - soft.min())
    y = label > 128
    for position, level in enumerate(range(255, -1, -1)):
        mask = np.floor(p * 255) >= level
        hits = (mask & y).sum()
        f = 1.3 * hits / (0.3 * y.sum() + mask.sum()) if mask.sum() else 0
        a, b = mask - mask.mean(), y - y.mean()
        e = (((2 * a * b / (a * a + b * b + 1e-300) + 1) ** 2) / 4).sum() / (y.size - 1)
        assert record[6 + position] == pytest.approx(f, abs=1e-12)
        assert record[262 + position] == pytest.approx(e, abs=1e-9)


def test_a_perfect_map_has_perfect_figures():
    _, label = draw_map(9)
    record = saliency.measure_saliency((label > 128).astype(np.float32), (label > 128).astype(np.uint8))
    assert record[1] == 0
    assert record[[2, 3, 4]] == pytest.approx(1)
    assert saliency.max_f(record) == pytest.approx(1)
    assert saliency.max_e(record) == pytest.approx(1, abs=1e-3)  # the published sum is over pixels - 1


def test_one_pixel_and_an_object_in_the_corner_have_figures():
    assert np.isfinite(saliency.measure_saliency(np.array([[0.4]], np.float32), np.ones((1, 1), np.uint8))).all()
    label = np.zeros((6, 6), np.uint8)
    label[5, 5] = 1
    random = np.random.default_rng(0)
    assert np.isfinite(saliency.measure_saliency(random.random((6, 6), np.float32), label)).all()


def test_what_cannot_be_measured_is_refused():
    label = np.zeros((2, 2), np.uint8)
    with pytest.raises(InputError, match="-1 to 2"):
        saliency.measure_saliency(np.array([[-1, 0], [1, 2]], np.float32), label)
    with pytest.raises(InputError, match="no pixel is valid"):
        saliency.measure_saliency(np.full((2, 2), np.nan, np.float32), label)
    with pytest.raises(InputError, match=r"3×2 differs.*2×2"):
        saliency.measure_saliency(np.zeros((3, 2), np.float32), label)
