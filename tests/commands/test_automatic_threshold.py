"""`prn refine` without labels: the threshold of a set, the same however the set is worked through."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

import prn_cli as prn_api
from prn_cli.commands import app


def blobs(seed: int, side: int = 256) -> np.ndarray:
    """Calibrated logits of soft blobs, lowered as those of a model that was trained too short."""
    field = gaussian_filter(np.random.default_rng(seed).standard_normal((side, side)), 9)
    return (40 * field - 2.5).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "logits").mkdir()
    for seed in range(6):
        np.save(tmp_path / "logits" / f"map{seed}.npy", blobs(seed))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def prn(folder, prn):
    return prn


def mask(path) -> np.ndarray:
    return np.asarray(Image.open(path)) == 255


def threshold_in(folder, kind=float):
    lines = [json.loads(line) for line in (folder / "prn-manifest.jsonl").read_text().splitlines()]
    (found,) = {kind(line["settings"]["threshold"]) for line in lines if "settings" in line}
    return found


def test_the_threshold_is_said_and_recorded_and_masks_are_cut_there(folder, prn):
    code, _, err = prn("refine", "logits", "-o", "masks")
    assert code == 0
    threshold = threshold_in(folder / "masks")
    assert f"cut at {threshold:g}" in err
    logit = np.log(threshold / (1 - threshold))
    for path in sorted((folder / "logits").iterdir()):
        assert (mask(folder / "masks" / f"{path.stem}.png") == (np.load(path) > np.float32(logit))).all()


def test_parts_a_second_run_and_another_order_have_the_same_threshold(folder, prn):
    prn("refine", "logits", "-o", "masks")
    for part in range(2):
        assert prn("refine", "logits", "-o", "parts", "--num-parts", "2", "--part-id", part)[0] == 0
    files = sorted((folder / "logits").iterdir(), reverse=True)
    assert prn("refine", *files, "-o", "turned")[0] == 0
    assert {threshold_in(folder / name) for name in ("masks", "parts", "turned")} == {threshold_in(folder / "masks")}
    assert "6 kept" in prn("refine", "logits", "-o", "masks")[2]


def test_on_a_cluster_the_threshold_and_the_masks_are_the_same(folder, prn):
    pytest.importorskip("distributed")
    for out, more in (("here", ()), ("there", ("--dask", "local:2"))):
        assert prn("refine", "logits", "-o", out, *more)[0] == 0
    assert threshold_in(folder / "here") == threshold_in(folder / "there") != 0.5
    for path in sorted((folder / "here").glob("*.png")):
        assert path.read_bytes() == (folder / "there" / path.name).read_bytes()


def test_a_damaged_map_fails_alone(folder, prn):
    (folder / "logits" / "broken.npy").write_bytes(b"no array")
    code, _, err = prn("refine", "logits", "-o", "masks")
    assert code == 1
    assert "1 of 7 failed; the rest is done" in err


def test_a_fixed_threshold_is_kept(folder, prn):
    code, _, err = prn("refine", "logits", "-o", "masks", "-t", "0.43")
    assert (code, "chosen without labels" in err) == (0, False)
    assert threshold_in(folder / "masks") == 0.43


@pytest.mark.parametrize("value", ["1.5", "-1", "many"])
def test_what_is_no_threshold_is_refused(prn, value):
    code, _, err = prn("refine", "logits", "-o", "masks", f"--threshold={value}")
    assert code == 2
    assert "--threshold" in err
    assert "expected auto, or " in err


def test_a_threshold_of_each_map_goes_with_automatic_ones_alone(folder, prn):
    code, _, err = prn("refine", "logits", "-o", "masks", "-t", "0.5", "--per-image")
    assert (code, "--per-image with --threshold 0.5" in err) == (2, True)
    assert "--per-image with --threshold 0.5" in prn("refine", "none", "-o", "masks", "-t", "0.5", "--per-image")[2]
    assert prn("refine", "logits", "-o", "masks", "--per-image")[0] == 0
    assert len(list((folder / "masks").glob("*.png"))) == 6


def test_weights_that_learned_from_labels_keep_their_threshold(folder, prn, make_onnx):
    weights = make_onnx(threshold="0.3")
    assert prn("refine", "logits", "-o", "masks", "-w", weights)[0] == 0
    assert threshold_in(folder / "masks") == 0.3
    code, _, err = prn("refine", "logits", "-o", "again", "-w", weights, "-t", "auto")
    assert (code, "cut at" in err) == (0, True)


def test_with_a_correction_the_threshold_is_that_of_the_refined_logits(folder, prn, make_onnx):
    weights = ("-w", make_onnx(), "--strength", "1")
    assert prn("refine", "logits", "-o", "masks", *weights, "-t", "auto")[0] == 0
    prn("refine", "logits", "-o", "halves", *weights, "-t", "0.5", "--probabilities", "refined")
    assert prn("refine", "refined", "-o", "again")[0] == 0
    assert prn("refine", "logits", "-o", "plain")[0] == 0
    found, again, plain = (threshold_in(folder / name) for name in ("masks", "again", "plain"))
    assert found == pytest.approx(again, abs=0.01)
    assert abs(found - plain) > 0.02
    assert prn("refine", "logits", "-o", "single", *weights, "-t", "auto", "--per-image")[0] == 0


def test_dice_may_be_aimed_at(folder, prn):
    assert prn("refine", "logits", "-o", "masks", "--for", "dice")[0] == 0


def test_python_takes_numbers_and_words(folder):
    fixed = prn_api.refine("logits", out="fixed", threshold=0.43)
    chosen = prn_api.refine("logits", out="chosen", threshold="auto")
    assert len(fixed.maps) == len(chosen.maps) == 6
    assert threshold_in(folder / "fixed") == 0.43


@pytest.fixture
def classes(folder):
    """Maps of three classes, of which the model gives the third too little."""
    (folder / "classes").mkdir()
    for seed in range(4):
        scores = np.stack([blobs(3 * seed + number) for number in range(3)]) + 2.5
        np.save(folder / "classes" / f"map{seed}.npy", scores - np.array([0, 0, 3], np.float32)[:, None, None])
    return folder / "classes"


def test_classes_get_offsets_and_the_greatest_of_what_remains_counts(classes, folder, prn):
    line = ("refine", "classes", "--task", "multiclass", "--classes", "a,b,c")
    code, _, err = prn(*line, "-o", "masks")
    assert (code, "logits shifted by" in err, "points of mean IoU expected" in err) == (0, True, True)
    offsets = np.array(threshold_in(folder / "masks", tuple))
    assert offsets[2] < offsets[:2].min()
    for path in classes.iterdir():
        scores = np.load(path).astype(np.float64)
        rest = np.array([np.log(np.exp(np.delete(scores, number, 0)).sum(axis=0)) for number in range(3)])
        left = np.sort(scores - rest - offsets[:, None, None], axis=0)
        clear = left[2] - left[1] > 1e-4
        numbers = (scores - rest - offsets[:, None, None]).argmax(axis=0)
        found = np.asarray(Image.open(folder / "masks" / f"{path.stem}.png"))
        assert np.array_equal(found[clear], numbers[clear])
    for part in range(2):
        assert prn(*line, "-o", "parts", "--num-parts", "2", "--part-id", part)[0] == 0
    assert np.array_equal(threshold_in(folder / "parts", tuple), offsets)
    assert "4 kept" in prn(*line, "-o", "masks")[2]


def test_classes_are_left_as_they_are_when_asked(classes, folder, prn):
    code, _, err = prn("refine", "classes", "-o", "masks", "--task", "multiclass", "-t", "0.5")
    assert (code, "shifted" in err) == (0, False)
    for path in classes.iterdir():
        found = np.asarray(Image.open(folder / "masks" / f"{path.stem}.png"))
        assert np.array_equal(found, np.load(path).argmax(axis=0))


def test_offsets_are_chosen_on_refined_classes_too(classes, folder, prn, make_onnx):
    line = ("refine", "classes", "--task", "multiclass", "--classes", "a,b,c", "-w", make_onnx(), "--strength", "1")
    code, _, err = prn(*line, "-o", "masks", "-t", "auto")
    assert (code, "the greatest score counts" in err or "logits shifted by" in err) == (0, True)
    assert len(list((folder / "masks").glob("*.png"))) == 4


@pytest.mark.parametrize("more", [(), ("--per-image",)])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_no_default_erases_lines(tmp_path, width, more, capsys):
    """Structures of 1 to 3 px, sure and well apart, come out whole."""
    logits = np.full((3, 200, 200), -4, np.float32)
    logits[0, :, 50 : 50 + width] = 4
    logits[1, 80 : 80 + width] = 4
    for at in range(200):
        logits[2, at, max(at - width // 2, 0) : at - width // 2 + width] = 4
    logits += np.random.default_rng(0).normal(0, 0.5, logits.shape).astype(np.float32)
    (tmp_path / "logits").mkdir()
    for number, values in enumerate(logits):
        np.save(tmp_path / "logits" / f"{number}.npy", values)
    assert app.run(["refine", str(tmp_path / "logits"), "-o", str(tmp_path / "masks"), *more]) == 0
    for number, values in enumerate(logits):
        found = mask(tmp_path / "masks" / f"{number}.png")
        assert found[values > 0].mean() > 0.99
