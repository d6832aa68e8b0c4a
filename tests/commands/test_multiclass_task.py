"""`--task multiclass`, command by command."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import from_origin
from torchmetrics.functional.classification import multiclass_jaccard_index

NAMES = ("a", "b", "c")
CLASSES = ("land", "road", "water", "roof")
COLOURS = np.array([[226, 169, 41], [110, 193, 228], [10, 20, 250], [60, 16, 152]], np.uint8)


@pytest.fixture
def folder(tmp_path, random_logits, monkeypatch):
    """Three maps of four classes, one with invalid pixels, with palette labels and a palette with names."""
    (tmp_path / "logits").mkdir()
    (tmp_path / "labels").mkdir()
    for seed, name in enumerate(NAMES):
        truth = np.stack([random_logits(80, 70, seed=10 * seed + number) for number in range(4)])
        noise = np.stack([random_logits(80, 70, seed=10 * seed + number + 5) for number in range(4)])
        logits = truth + noise / 2
        if name == "c":
            logits[:, :9, :20] = np.nan
        np.save(tmp_path / "logits" / f"{name}.npy", logits)
        label = truth.argmax(axis=0).astype(np.uint8)
        label[-5:] = 255
        image = Image.fromarray(label)
        image.putpalette(COLOURS.tobytes() + bytes(3 * 252))
        image.save(tmp_path / "labels" / f"{name}.png")
    lines = [f"{number} {r} {g} {b} {CLASSES[number]}" for number, (r, g, b) in enumerate(COLOURS)]
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def prn(folder, prn):
    return prn


def base_of(folder, name):
    logits = np.load(folder / "logits" / f"{name}.npy")
    base = logits.argmax(axis=0).astype(np.uint8)
    base[np.isnan(logits).any(axis=0)] = 255
    return base


def numbers_of(path):
    with Image.open(path) as image:
        return image.mode, np.array(image), image.getpalette()


def base_ious(folder):
    """Of the four classes that occur, pooled over the maps."""
    counts = np.zeros((4, 2))
    for name in NAMES:
        base, truth = base_of(folder, name), numbers_of(folder / "labels" / f"{name}.png")[1]
        valid = (truth != 255) & (base != 255)
        for number in range(4):
            chosen, there = base == number, truth == number
            counts[number] += (chosen & there & valid).sum(), ((chosen | there) & valid).sum()
    return counts[:, 0] / counts[:, 1]


def test_weights_that_add_nothing_give_the_base_model_s_classes(folder, prn, make_onnx):
    line = ("refine", "logits", "-o", "masks", "--task", "multiclass", "-w", make_onnx(strength=0.0), "--json")
    code, out, _ = prn(*line)
    assert code == 0
    records = [json.loads(text) for text in out.splitlines()]
    assert {record["changed"] for record in records} == {0}
    for name in NAMES:
        mode, numbers, _ = numbers_of(folder / "masks" / f"{name}.png")
        assert mode == "L"
        assert np.array_equal(numbers, base_of(folder, name))


def test_refine_writes_class_numbers_with_their_colours(folder, prn, make_onnx):
    line = ("refine", "logits", "-o", "masks", "--task", "multiclass", "--palette", "classes.txt", "-w", make_onnx())
    code, out, _ = prn(*line, "--probabilities", "p", "--bias", "b", "--json")
    assert code == 0
    record = {record["input"]: record for record in map(json.loads, out.splitlines())}["logits/c.npy"]
    mode, numbers, palette = numbers_of(folder / "masks" / "c.png")
    assert mode == "P"
    assert palette[:12] == COLOURS.ravel().tolist()
    valid = base_of(folder, "c") != 255
    assert np.array_equal(numbers != 255, valid)
    assert record["classes"] == {name: int((numbers == i).sum()) for i, name in enumerate(CLASSES)}
    assert record["changed"] == int((numbers != base_of(folder, "c")).sum()) > 0
    shares = np.stack([np.load(folder / "p" / name / "c.npy") for name in CLASSES])
    assert shares.sum(axis=0)[valid] == pytest.approx(1, abs=1e-5)
    assert np.array_equal(shares.argmax(axis=0)[valid], numbers[valid])
    assert np.isfinite(np.load(folder / "b" / "roof" / "c.npy")[valid]).all()
    code, out, _ = prn(*line, "--probabilities", "p", "--bias", "b", "--json")
    assert {json.loads(text)["status"] for text in out.splitlines()} == {"kept"}


def test_geotiff_keeps_its_grid_and_its_palette(folder, prn, make_onnx):
    logits = np.load(folder / "logits" / "a.npy")
    transform = from_origin(500000, 4500000, 2, 2)
    (folder / "tiles").mkdir()
    form = {"driver": "GTiff", "height": 80, "width": 70, "count": 4, "dtype": "float32"}
    with rasterio.open(folder / "tiles" / "a.tif", "w", crs="EPSG:32640", transform=transform, **form) as file:
        file.write(logits)
    line = ("--task", "multiclass", "--palette", "labels/a.png", "-w", make_onnx())
    assert prn("refine", "tiles", "-o", "masks", *line)[0] == 0
    assert prn("refine", "logits/a.npy", "-o", "one.png", *line)[0] == 0
    with rasterio.open(folder / "masks" / "a.tif") as file:
        assert file.crs.to_epsg() == 32640
        assert file.transform == transform
        assert (file.count, file.dtypes[0], file.nodata) == (1, "uint8", 255)
        assert file.colormap(1)[2][:3] == tuple(COLOURS[2])
        assert np.array_equal(file.read(1), numbers_of(folder / "one.png")[1])


def test_score_prints_every_class(folder, prn):
    options = ("--labels", "labels", "--task", "multiclass", "--classes", ",".join(CLASSES))
    code, out, _ = prn("score", "logits", *options, "--json", "--csv", "f.csv")
    assert code == 0
    document = json.loads(out)
    label = np.concatenate([numbers_of(folder / "labels" / f"{name}.png")[1] for name in NAMES]).astype(np.int64)
    base = np.concatenate([base_of(folder, name) for name in NAMES]).astype(np.int64)
    label[base == 255], base[base == 255] = 255, 0
    given = (torch.from_numpy(base), torch.from_numpy(label))
    expected = multiclass_jaccard_index(*given, num_classes=4, ignore_index=255, average="none").numpy()
    for name, value in zip(CLASSES, expected, strict=True):
        assert document["pooled"][f"iou_{name}"]["value"] == pytest.approx(float(value), abs=1e-6)
    assert document["pooled"]["miou"]["value"] == pytest.approx(float(expected.mean()), abs=1e-6)
    rows = list(csv.DictReader(io.StringIO((folder / "f.csv").read_text())))
    assert [row["file"] for row in rows] == [f"logits/{name}.npy" for name in NAMES]
    assert "iou_roof" in rows[0]


def test_masks_and_their_base_model_are_compared(folder, prn, make_onnx):
    assert prn("refine", "logits", "-o", "masks", "--task", "multiclass", "-w", make_onnx(strength=0.0))[0] == 0
    code, out, _ = prn("score", "masks", "--labels", "labels", "--baseline", "logits", "--task", "multiclass")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "class numbers; baseline: logits" in out
    assert [line.split()[3] for line in out.splitlines() if line.strip().startswith("mIoU")] == ["+0.0000"] * 2
    assert sum("IoU 3" in line for line in out.splitlines()) == 2


def test_the_headroom_of_every_class(folder, prn):
    options = ("--labels", "labels", "--task", "multiclass", "--classes", ",".join(CLASSES), "--patch", "32")
    code, out, _ = prn("pseudolabel", "logits", *options, "-o", "p", "--json")
    assert code == 0
    document = json.loads(out)
    assert list(document["classes"]) == list(CLASSES)
    for number, name in enumerate(CLASSES):
        (folder / "one").mkdir(exist_ok=True)
        for stem in NAMES:
            label = numbers_of(folder / "labels" / f"{stem}.png")[1]
            np.save(folder / "one" / f"{stem}.npy", np.where(label == 255, 255, label == number).astype(np.uint8))
        binary = ("--labels", "one", "--label-nodata", "255", "--bidx", number + 1, "--patch", "32", "--overwrite")
        code, out, _ = prn("pseudolabel", "logits", *binary, "-o", "q", "--json")
        assert code == 0
        alone = json.loads(out)
        for key in ("images", "pixels", "at_half", "best_single", "oracle", "headroom"):
            assert document["classes"][name][key] == alone[key]
        for kind, suffix in (("labels", "png"), ("thresholds", "npy")):
            same = [(folder / place / kind / f"a.{suffix}").read_bytes() for place in (f"p/{name}", "q")]
            assert same[0] == same[1]
    code, out, err = prn("pseudolabel", "logits", *options, "-o", "p")
    assert code == 0
    assert "12 kept" in err
    assert max(map(len, out.splitlines())) <= 80
    assert [line.split()[0] for line in out.splitlines()[3:] if "0." in line] == [*CLASSES, "Mean"]


def test_a_bad_file_is_named_once_and_not_once_a_class(folder, prn):
    (folder / "labels" / "b.png").write_bytes(b"no picture")
    options = ("--labels", "labels", "--task", "multiclass", "-o", "p")
    code, out, err = prn("pseudolabel", "logits", *options, "--json")
    assert code == 1
    errors = [line for line in err.splitlines() if line.startswith("prn: error:")]
    assert len(errors) == 2
    assert "logits/b.npy: labels/b.png" in errors[0]
    assert errors[1] == "prn: error: 1 of 3 failed; the rest is done"
    document = json.loads(out)
    assert [failure["file"] for failure in document["failures"]] == ["logits/b.npy"]
    assert {found["images"] for found in document["classes"].values()} == {2}


@pytest.mark.parametrize("line", ["pseudolabel", "train", "refine"])
def test_maps_of_one_band_are_no_maps_of_classes(folder, prn, line):
    for name in NAMES:
        np.save(folder / "logits" / f"{name}.npy", np.load(folder / "logits" / f"{name}.npy")[0])
    more = ("-o", "out") if line == "refine" else ("-o", "out", "--labels", "labels")
    code, _, err = prn(line, "logits", *more, "--task", "multiclass")
    assert code == 2
    assert "1 band, expected one a class" in err


def test_held_out_maps_have_the_same_classes(folder, prn):
    (folder / "fewer").mkdir()
    for name in NAMES:
        np.save(folder / "fewer" / f"new_{name}.npy", np.load(folder / "logits" / f"{name}.npy")[:2])
        (folder / "labels" / f"new_{name}.png").write_bytes((folder / "labels" / f"{name}.png").read_bytes())
    line = ("train", "logits", "--labels", "labels", "--task", "multiclass", "--validation-logits", "fewer")
    code, _, err = prn(*line)
    assert code == 1
    assert "fewer" in err


def test_a_class_that_no_map_has_does_not_count(folder, prn):
    for name in NAMES:
        logits = np.load(folder / "logits" / f"{name}.npy")
        np.save(folder / "logits" / f"{name}.npy", np.concatenate([logits, np.full_like(logits[:1], -30)]))
    options = ("--task", "multiclass", "--labels", "labels", "--crop", "64", "--batch", "1", "--steps", "1")
    code, out, _ = prn("train", "logits", *options, "--epochs", "1", "--threads", "1", "--folds", "3", "--json")
    assert code == 0
    card = json.loads(out)
    assert card["held_out_figures"]["pooled_iou"]["before"][0] == pytest.approx(np.mean(base_ious(folder)), abs=1e-6)


def test_weights_are_trained_on_every_class_against_the_rest(folder, prn):
    options = ("--task", "multiclass", "--classes", ",".join(CLASSES), "--labels", "labels", "--crop", "64")
    line = ("train", "logits", *options, "--batch", "2", "--steps", "2", "--epochs", "1", "--threads", "1", "--json")
    code, out, _ = prn(*line, "-o", "run", "--folds", "3")
    assert code == 0
    card = json.loads(out)
    assert card["data"]["learned_from"] == list(NAMES)
    assert sorted(card["data"]["held_out"]) == list(NAMES)
    assert card["data"]["pixels"] == 3 * 80 * 70
    assert card["conditions"]["classes"] == list(CLASSES)
    assert sorted(card["conditions"]["folds"]) == [[name] for name in NAMES]
    assert list(card["choice"]["groups"]) == list(CLASSES)
    assert card["choice"]["threshold"] == 0.5
    assert card["held_out_figures"]["pooled_iou"]["before"][0] == pytest.approx(np.mean(base_ious(folder)), abs=1e-6)
    assert prn("refine", "logits", "-o", "masks", "--task", "multiclass", "-w", "run")[0] == 0
    code, out, _ = prn(*line, "-o", "other", "--folds", "1", "--validation-fraction", "0.3")
    assert code == 0
    assert len(json.loads(out)["data"]["held_out"]) == 1


def test_what_does_not_fit_is_refused(folder, prn):
    task = ("--task", "multiclass")
    (folder / "two.txt").write_text("0 1 2 3\n1 4 5 6\n")
    for arguments, message in (
        (("refine", "logits", "-o", "m"), "--task multiclass"),
        (
            ("refine", "logits", "-o", "m", *task, "--threshold", "0.4"),
            "--threshold 0.4 with --task multiclass: the",
        ),
        (("refine", "logits", "-o", "m", *task, "--values", "0,1"), "--values with --task multiclass"),
        (("refine", "logits", "-o", "m", *task, "--bidx", "2"), "--bidx with --task multiclass"),
        (("refine", "logits", "-o", "m", *task, "--classes", "a,b"), "names 2 classes, expected 4"),
        (("refine", "logits", "-o", "m", "--classes", "a,b"), "--classes is for --task multiclass; add it"),
        (("refine", "logits", "-o", "m", "--palette", "two.txt"), "--palette is for --task multiclass; add it"),
        (("refine", "logits", "-o", "m", *task, "--palette", "two.txt"), "a palette of 2 colours, expected 4"),
        (
            ("refine", "logits", "-o", "m", "--task", "saliency", "--values", "0,1"),
            "hold probabilities; leave --values out",
        ),
        (("score", "logits", "--labels", "labels", *task, "--threshold", "0.4"), "--threshold with --task multiclass"),
        (("score", "logits", "--labels", "labels", "--task", "saliency", "--buffer", "5"), "--buffer with --task sal"),
    ):
        code, _, err = prn(*arguments)
        assert code in (1, 2)
        assert message in " ".join(err.split())
    np.save(folder / "logits" / "d.npy", np.zeros((3, 9, 9), np.float32))
    np.save(folder / "logits" / "e.npy", np.full((9, 9), -1, np.float32))
    code, _, err = prn("refine", "logits", "-o", "m", *task)
    assert code == 1
    assert "3 classes, expected 4" in err
    assert "1 band, expected one a class" in err
    assert len(list((folder / "m").glob("*.png"))) == 3
    code, _, err = prn("score", "m", "--labels", "labels", *task, "--classes", "a,b")
    assert code == 1
    assert "class 3, expected 0 to 1" in err
