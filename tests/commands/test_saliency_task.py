"""`--task saliency`, command by command."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import rasterio
from PIL import Image

from prn_cli.maps.probabilities import sigmoid
from prn_cli.metrics.saliency import max_f, measure_saliency, s_measure
from prn_cli.rasters import Reading, open_map

NAMES = ("a", "b", "c")


@pytest.fixture
def folder(tmp_path, random_logits, monkeypatch):
    """Three logit maps, one with invalid pixels, and grey labels."""
    (tmp_path / "logits").mkdir()
    (tmp_path / "labels").mkdir()
    for seed, name in enumerate(NAMES):
        truth = random_logits(70, 90, seed=seed)
        logits = truth + random_logits(70, 90, seed=seed + 10) / 2
        if name == "c":
            logits[:9, :20] = np.nan
        np.save(tmp_path / "logits" / f"{name}.npy", logits)
        grey = np.clip(truth * 100 + 128, 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / "labels" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def prn(folder, prn):
    return prn


def arrays(folder, name):
    logits = np.load(folder / "logits" / f"{name}.npy")
    label = (np.asarray(Image.open(folder / "labels" / f"{name}.png")) > 128).astype(np.uint8)
    label[np.isnan(logits)] = 255
    return sigmoid(logits), label


def test_refine_writes_grey_maps(folder, prn, make_onnx):
    code, _, _ = prn("refine", "logits", "-o", "maps", "--probabilities", "p", "--task", "saliency", "-w", make_onnx())
    assert code == 0
    for name in NAMES:
        probabilities = np.load(folder / "p" / f"{name}.npy")
        with Image.open(folder / "maps" / f"{name}.png") as image:
            assert image.mode == ("LA" if name == "c" else "L")
            pixels = np.asarray(image)
        invalid = np.isnan(probabilities)
        grey = pixels[..., 0] if pixels.ndim == 3 else pixels
        assert np.array_equal(grey, np.rint(np.where(invalid, 0, probabilities) * 255).astype(np.uint8))
        with open_map("scores", folder / "maps" / f"{name}.png", Reading(kind="byte")) as scores:
            assert np.array_equal(np.isnan(scores.probabilities()), invalid)


@pytest.mark.parametrize("suffix", ["npy", "tif"])
def test_other_formats_hold_the_probabilities_as_they_are(folder, prn, make_onnx, suffix):
    line = ("refine", "logits", "-o", "maps", "--format", suffix, "--probabilities", "p", "--task", "saliency")
    assert prn(*line, "-w", make_onnx())[0] == 0
    for name in NAMES:
        path = folder / "maps" / f"{name}.{suffix}"
        if suffix == "npy":
            found, expected = np.load(path), np.load(folder / "p" / f"{name}.npy")
        else:
            with rasterio.open(path) as opened, rasterio.open(folder / "p" / f"{name}.tif") as other:
                found, expected = opened.read(1), other.read(1)
                assert np.isnan(opened.nodata)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


def test_masks_are_redone_as_soft_maps_and_kept_as_such(folder, prn, make_onnx):
    line = ("refine", "logits", "-o", "maps", "-w", make_onnx(), "--json")
    assert prn(*line)[0] == 0
    statuses = []
    for _ in range(2):
        code, out, _ = prn(*line, "--task", "saliency")
        assert code == 0
        statuses.append({json.loads(text)["status"] for text in out.splitlines()})
    assert statuses == [{"refined"}, {"kept"}]


def test_score_prints_the_measures_of_the_field(folder, prn):
    code, out, _ = prn("score", "logits", "--labels", "labels", "--task", "saliency", "--json")
    assert code == 0
    document = json.loads(out)
    records = sum(measure_saliency(*arrays(folder, name)) for name in NAMES)
    assert document["task"] == "saliency"
    assert document["pooled"] == {}
    assert document["mean"]["max_f"]["value"] == pytest.approx(float(max_f(records)), abs=1e-6)
    assert document["mean"]["s_measure"]["value"] == pytest.approx(float(s_measure(records)), abs=1e-6)
    assert list(document["mean"]) == [
        *("s_measure", "max_e", "mean_e", "adaptive_e", "max_f", "mean_f", "adaptive_f", "weighted_f", "mae")
    ]


def test_score_compares_with_a_baseline_in_eighty_columns(folder, prn, make_onnx):
    assert prn("refine", "logits", "-o", "maps", "--task", "saliency", "-w", make_onnx())[0] == 0
    line = ("score", "maps", "--labels", "labels", "--baseline", "logits", "--task", "saliency", "--csv", "f.csv")
    code, out, _ = prn(*line)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "Mean over images" in out
    assert "Weighted F-measure" in out
    assert "Pooled" not in out
    rows = list(csv.DictReader(io.StringIO((folder / "f.csv").read_text())))
    assert [row["file"] for row in rows] == [f"maps/{name}.png" for name in NAMES]
    own = measure_saliency(*arrays(folder, "a"))
    assert float(rows[0]["baseline_max_f"]) == pytest.approx(float(max_f(own)), abs=1e-6)
    assert "tp" not in rows[0]


def test_grey_labels_are_for_saliency(folder, prn):
    code, _, err = prn("pseudolabel", "logits", "--labels", "labels", "-o", "p")
    assert code == 1
    assert "not binary" in err
    assert prn("pseudolabel", "logits", "--labels", "labels", "-o", "p", "--task", "saliency")[0] == 0
    assert sorted(path.name for path in (folder / "p" / "labels").iterdir()) == [f"{name}.png" for name in NAMES]


def test_a_refiner_of_soft_maps_is_trained_on_grey_labels(folder, prn):
    pytest.importorskip("torch")
    line = ("train", "logits", "--labels", "labels", "-o", "trained", "--epochs", "1", "--steps", "1", "--crop", "64")
    for name in NAMES:  # as if another threshold would pay
        np.save(folder / "logits" / f"{name}.npy", np.load(folder / "logits" / f"{name}.npy") - 1)
    assert prn(*line, "--batch", "1", "--task", "saliency")[0] == 0
    card = json.loads((folder / "trained" / "model.json").read_text())
    assert card["conditions"]["task"] == "saliency"
    assert card["choice"]["threshold"] == 0.5  # soft maps are not cut


def test_soft_maps_are_not_cut(folder, prn):
    code, _, err = prn("refine", "logits", "-o", "maps", "--task", "saliency", "--threshold", "0.4")
    assert code == 2
    assert "soft maps are not cut" in err
