"""Infinite logits are certain, NaN and nodata are missing, in whatever reads, refines, counts or scores them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import prn_cli as prn
from prn_cli.maps.certain import find_certain, find_padding, hold, keep_certain, settle
from prn_cli.maps.classes import choose, one_versus_rest, recombine
from prn_cli.maps.drift import describe
from prn_cli.maps.probabilities import sigmoid
from prn_cli.rasters import Reading, open_map
from prn_cli.rasters.kinds import resolve
from prn_cli.thresholding.logit_statistics import measure

INF = np.inf
FORMATS = [".npy", ".npz", ".tif"]


def write(path: Path, values: NDArray[Any], nodata: float | None = None) -> Path:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, values)
    else:
        rasterio = pytest.importorskip("rasterio")
        bands = values if values.ndim == 3 else values[None]
        count, height, width = bands.shape
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=count, dtype=values.dtype, nodata=nodata
        ) as file:
            file.write(bands)
    return path


def some_logits() -> NDArray[np.float32]:
    logits = np.random.default_rng(0).normal(0, 3, (40, 48)).astype(np.float32)
    logits[:6] = INF
    logits[6:12] = -INF
    logits[12:15] = np.nan
    return logits


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_infinite_logits_are_read_as_certain(tmp_path: Path, suffix: str, dtype: str) -> None:
    if (suffix, dtype) == (".tif", "float16"):
        pytest.skip("not every GDAL writes it")
    path = write(tmp_path / f"a{suffix}", some_logits().astype(dtype))
    with open_map("scores", path, resolve(Reading(), [path])) as scores:
        probabilities, logits = scores.probabilities(), scores.logits()
    assert (probabilities[:6] == 1).all()
    assert (probabilities[6:12] == 0).all()
    assert np.isnan(probabilities[12:15]).all()
    assert np.isfinite(np.delete(logits, slice(12, 15), axis=0)).all()


@pytest.mark.parametrize("nodata", [-INF, INF, -3e38])
def test_a_nodata_value_is_missing_even_if_it_is_infinite(tmp_path: Path, nodata: float) -> None:
    logits = some_logits()
    logits[20:25] = nodata
    path = write(tmp_path / "a.npy", logits)
    with open_map("scores", path, Reading(kind="logits", nodata=nodata)) as scores:
        missing = np.isnan(scores.logits())
    np.testing.assert_array_equal(missing, np.isnan(logits) | (logits == np.float32(nodata)))


def test_infinite_probabilities_are_missing_as_before(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0, 1, (8, 8)).astype(np.float32)
    values[0] = INF
    path = write(tmp_path / "a.npy", values)
    reading = resolve(Reading(), [path])
    assert reading.kind == "probabilities"
    with open_map("scores", path, reading) as scores:
        np.testing.assert_array_equal(np.isnan(scores.probabilities()), np.isinf(values))


def test_logits_of_a_hard_mask_are_logits(tmp_path: Path) -> None:
    values = np.where(np.arange(64).reshape(8, 8) % 3 == 0, INF, -INF).astype(np.float32)
    path = write(tmp_path / "a.npy", values)
    assert resolve(Reading(), [path]).kind == "logits"


@pytest.mark.parametrize("masked", [-INF, -1e9, np.finfo(np.float32).min])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_masked_class_has_probability_0(tmp_path: Path, suffix: str, masked: float) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (4, 12, 12)).astype(np.float32)
    logits[2] = masked
    logits[:, 0] = np.nan
    path = write(tmp_path / f"a{suffix}", logits)
    reading = resolve(Reading(), [path], "class scores")
    assert reading.kind == "logits"
    with open_map("class scores", path, reading) as scores:
        found = scores.probabilities()
    kept = logits[[0, 1, 3], 1:].astype(np.float64)
    expected = np.exp(kept) / np.exp(kept).sum(axis=0)
    np.testing.assert_allclose(found[[0, 1, 3], 1:], expected, atol=1e-5)
    assert (found[2, 1:] == 0).all()
    assert np.isnan(found[:, 0]).all()
    with open_map("scores", path, Reading(kind="logits", band=3)) as scores:
        assert (scores.probabilities()[1:] == 0).all()


@pytest.mark.parametrize("value", [-9999.0, -1e9, -3.4e38])
@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8)])
def test_a_finite_value_in_all_bands_is_still_asked_about(tmp_path: Path, shape: Any, value: float) -> None:
    logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    logits[..., 0, :] = value
    path = write(tmp_path / "a.npy", logits)
    role = "class scores" if len(shape) == 3 else "scores"
    with open_map(role, path, Reading(kind="logits")) as scores, pytest.raises(prn.PrnError, match="--nodata"):
        scores.logits()


scores_of_classes = st.lists(
    st.sampled_from([-INF, INF, np.nan, -1e9]) | st.floats(-40, 40, width=32), min_size=2, max_size=5
)


@given(scores_of_classes)
def test_softmax_of_certain_classes_is_the_limit(values: list[float]) -> None:
    scores = np.array(values, np.float32).reshape(-1, 1, 1)
    settled = settle(scores, find_certain(scores))
    plain = np.array(values, np.float64)
    masked = plain <= -1e9
    if np.isnan(plain).any() or np.isneginf(plain).all() or np.isposinf(plain).sum() > 1:
        assert np.isnan(settled).any()
        return
    if masked.all():
        return  # refused: no class has a logit
    with np.errstate(invalid="ignore"):
        exact = np.exp(plain - plain.max()) / np.exp(plain - plain.max()).sum()
    if np.isposinf(plain).any():
        exact = np.isposinf(plain).astype(float)
    logits = one_versus_rest(settled)
    np.testing.assert_allclose(recombine(logits).ravel(), exact, atol=1e-5)
    assert (sigmoid(logits).ravel()[masked] == 0).all()
    assert plain[choose(logits)[0, 0]] == plain.max()


def test_refining_keeps_certainty_and_the_network_sees_finite_logits() -> None:
    logits = some_logits()
    for weights in ("fast", ["fast", "fast"]):
        found = prn.refine_map(logits, weights, strength=1)
        assert (found.mask[:6] == 1).all()
        assert (found.mask[6:12] == 0).all()
        assert (found.mask[12:15] == 255).all()
        assert (found.probabilities[:6] == 1).all()
        assert (found.probabilities[6:12] == 0).all()
        held = np.where(np.isinf(logits), np.copysign(np.float32(16), logits), logits)
        plain = prn.refine_map(held, weights, strength=1)
        rest = slice(15, None)
        np.testing.assert_allclose(found.probabilities[rest], plain.probabilities[rest], atol=1e-5)


def test_refining_classes_leaves_no_hole(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (3, 40, 48)).astype(np.float32)
    logits[1, :20] = -INF
    logits[0, 30:] = INF
    mask = prn.refine_map(logits, strength=1).mask
    assert 255 not in mask
    assert (mask[:20] != 1).all()
    assert (mask[30:] == 0).all()
    write(tmp_path / "a.npy", logits)
    prn.refine([tmp_path / "a.npy"], out=tmp_path / "out", task="multiclass")
    from PIL import Image

    assert 255 not in np.asarray(Image.open(tmp_path / "out" / "a.png"))


def test_statistics_take_certain_logits_for_16() -> None:
    logits = some_logits()
    settled = settle(logits[None], find_certain(logits[None]))[0]
    held = np.where(np.isinf(logits), np.copysign(np.float32(16), logits), logits)
    np.testing.assert_array_equal(hold(settled), held)
    for name in ("counts", "cells", "steepness"):
        np.testing.assert_array_equal(getattr(measure(settled), name), getattr(measure(held), name))
    np.testing.assert_allclose(describe(settled), describe(held), atol=1e-6)


def test_hold_leaves_ordinary_logits_in_place() -> None:
    logits = np.linspace(-600, 600, 16, dtype=np.float32)
    assert hold(logits) is logits


@given(st.integers(0, 99), st.integers(1, 60))
def test_padding_is_long_runs_of_exact_zeros(seed: int, width: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(7, width)).astype(np.float32)
    for row in range(6):
        start = random.integers(0, width)
        logits[row, start : start + random.integers(0, 40)] = 0
    expected = np.zeros(logits.shape, bool)
    for row, column in np.ndindex(logits.shape):
        left = right = column
        while left >= 0 and logits[row, left] == 0:
            left -= 1
        while right < width and logits[row, right] == 0:
            right += 1
        expected[row, column] = right - left - 1 >= min(16, width)
    found = find_padding(logits)
    np.testing.assert_array_equal(np.zeros(logits.shape, bool) if found is None else found, expected)


def test_ties_become_no_foreground() -> None:
    base, refined = np.array([0, 0, -0.0, 1, 2e4], np.float32), np.array([0.1, -0.1, 0.2, 0.5, 0], np.float32)
    keep_certain(base, refined)
    np.testing.assert_array_equal(refined, np.array([0, -0.1, 0, 0.5, 2e4], np.float32))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_what_a_model_padded_with_zeros_stays_background(make_onnx, random_logits, threshold: float) -> None:
    weights = make_onnx()
    logits = random_logits(90, 120)
    logits[:, 80:] = 0
    found = prn.refine_map(logits, weights=weights, threshold=threshold)
    assert (found.mask[:, 80:] == 0).all()
    assert (found.probabilities[:, 80:] == 0.5).all()
    assert found.mask[:, :80].any()
    classes = np.stack([random_logits(90, 120, seed=seed) for seed in range(3)])
    classes[:, :, 80:] = 0
    assert (prn.refine_map(classes, weights=weights).mask[:, 80:] == 0).all()


def test_padding_is_named_once_for_the_set(tmp_path: Path, make_onnx, random_logits, heard) -> None:
    (tmp_path / "logits").mkdir()
    for number in range(3):
        logits = random_logits(64, 80, seed=number)
        logits[:, 60:] = 0 if number else 1
        np.save(tmp_path / "logits" / f"{number}.npy", logits)
    prn.refine(tmp_path / "logits", out=tmp_path / "out", weights=make_onnx(), threshold=0.4, watch=heard)
    padded = heard.about("exactly 0")
    assert len(padded) == 1
    assert padded[0].startswith("25 % of the pixels of 2 of 3 maps are exactly 0")
    assert "say --nodata 0" in padded[0]
    prn.refine(tmp_path / "logits", out=tmp_path / "rest", weights=make_onnx(), nodata=0, watch=heard)
    assert len(heard.about("exactly 0")) == 1


def test_logits_after_a_relu_are_told_from_padding(tmp_path: Path, make_onnx, random_logits, heard) -> None:
    (tmp_path / "logits").mkdir()
    for number in range(2):
        np.save(tmp_path / "logits" / f"{number}.npy", np.maximum(random_logits(64, 80, seed=number) - 1, 0))
    options = {"out": tmp_path / "out", "weights": make_onnx(), "input_kind": "logits"}
    prn.refine(tmp_path / "logits", **options, watch=heard)
    assert len(heard.warnings) == 1
    assert "no logit is below 0, as after a ReLU" in heard.warnings[0]
    assert "--nodata" not in heard.warnings[0]
