from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from prn_cli.commands import app
from prn_cli.files.manifest import MANIFEST_NAME, Manifest
from prn_cli.methods import load_refiner
from prn_cli.methods.weights import find_weights
from prn_cli.rasters import create_raster, open_raster
from prn_cli.refinement.rows import cut, refine_map

Prn = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path, make_onnx, random_logits, monkeypatch) -> Path:
    """`logits/` with three maps of different sizes and formats, and `model.onnx`; the working folder."""
    make_onnx()
    (tmp_path / "logits").mkdir()
    np.save(tmp_path / "logits" / "a.npy", random_logits(70, 90, seed=1).astype(np.float16))
    np.savez(tmp_path / "logits" / "b.npz", random_logits(1, 33, seed=2))
    write_tiff(tmp_path / "logits" / "c.tif", random_logits(300, 200, seed=3))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def prn(folder, prn) -> Prn:
    """Run `prn refine … -w model.onnx` in the folder; gives exit code, stdout, stderr."""
    return lambda *arguments: prn("refine", *arguments, "-w", "model.onnx", "-j", "1")


def write_tiff(path: Path, logits: np.ndarray) -> None:
    with create_raster(path, height=len(logits), width=logits.shape[1], dtype=np.float32, nodata=-9999) as writer:
        writer.write(np.where(np.isnan(logits), np.float32(-9999), logits.astype(np.float32)))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def expected_mask(logits: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    refiner = load_refiner(find_weights("model.onnx"), device="cpu", threads=1)
    return cut(refine_map(logits.astype(np.float32), refiner), threshold)


def read(path: Path | str) -> np.ndarray:
    with open_raster(path) as raster:
        return raster.read()[0]


def test_folder_in_folder_out_named_by_stem(prn, folder):
    code, out, err = prn("logits", "-o", "masks")
    assert (code, out) == (0, "")
    assert "inputs read as logits" in err
    assert "3 refined → masks" in err
    assert files(folder / "masks") == ["a.png", "b.png", "c.tif", MANIFEST_NAME]
    np.testing.assert_array_equal(read("masks/a.png"), expected_mask(np.load("logits/a.npy")) * 255)
    np.testing.assert_array_equal(read("masks/c.tif"), expected_mask(read("logits/c.tif")) * 255)
    assert read("masks/b.png").shape == (1, 33)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_wide_map_in_tiles_is_refined_by_columns_and_the_same_in_strips_at_once(prn, folder, random_logits, workers):
    logits = random_logits(400, 1500, seed=7)
    logits[100:140, 300:900] = np.nan
    for name, tiled in (("tiles", "YES"), ("strips", "NO")):
        (folder / name).mkdir()
        options = {"height": 400, "width": 1500, "dtype": np.float32, "nodata": np.nan}
        with create_raster(folder / name / "wide.tif", **options, creation_options={"TILED": tiled}) as writer:
            writer.write(logits)
        with open_raster(folder / name / "wide.tif") as raster:
            assert raster.by_columns == (tiled == "YES")
        line = (name, "-o", f"{name}_masks", "--bias", f"{name}_bias", "--tile", "240", "--json")
        code, out, _ = prn(*line, "--threads", workers)
        assert code == 0
        line = (name, "--tile", "240", "--threads", workers)
        for more in (("objects", "--min-area", "40"), ("png", "--format", "png"), ("npy", "--format", "npy")):
            code, *_ = prn(*line, "-o", f"{name}_{more[0]}", *more[1:])
            assert code == 0, more
        figures = {key: value for key, value in json.loads(out).items() if key in ("valid", "foreground", "changed")}
        assert figures["valid"] == np.isfinite(logits).sum()
        (folder / name / "figures.json").write_text(json.dumps(figures))
    for kind in ("masks", "bias", "objects", "png", "npy"):
        name = f"wide.{kind}" if kind in ("png", "npy") else "wide.tif"
        np.testing.assert_array_equal(read(f"tiles_{kind}/{name}"), read(f"strips_{kind}/{name}"))
    assert (folder / "tiles" / "figures.json").read_text() == (folder / "strips" / "figures.json").read_text()


def test_probabilities_and_bias_are_what_the_mask_was_made_of(prn, folder):
    code, _, _ = prn("logits", "-o", "masks", "--probabilities", "p", "--bias", "bias")
    assert code == 0
    assert files(folder / "p") == files(folder / "bias") == ["a.npy", "b.npy", "c.tif"]
    for name, suffix in (("a", "npy"), ("c", "tif")):
        logits = read(f"logits/{name}.{suffix}").astype(np.float32)
        probabilities = read(f"p/{name}.{suffix}")
        assert probabilities.dtype == np.float32
        mask = read(f"masks/{name}.{'png' if suffix == 'npy' else suffix}")
        np.testing.assert_array_equal(probabilities > 0.5, mask == 255)
        refined = logits + read(f"bias/{name}.{suffix}")
        np.testing.assert_allclose(1 / (1 + np.exp(-refined)), probabilities, atol=1e-5)


def test_invalid_pixels_stay_invalid_in_every_output(prn, random_logits):
    logits = random_logits(60, 50)
    logits[10:20, 5:30] = np.nan
    write_tiff(Path("hole.tif"), logits)
    assert prn("hole.tif", "-o", "m", "--probabilities", "m/p", "--bias", "m/b")[0] == 0
    invalid = np.isnan(logits)
    np.testing.assert_array_equal(read("m/hole.tif") == 127, invalid)
    np.testing.assert_array_equal(np.isnan(read("m/p/hole.tif")), invalid)
    np.testing.assert_array_equal(np.isnan(read("m/b/hole.tif")), invalid)
    with open_raster("m/hole.tif") as raster:
        assert raster.nodata == 127
    assert prn("hole.tif", "-o", "m01", "--values", "0,1", "--format", "png")[0] == 0
    np.testing.assert_array_equal(read("m01/hole.png"), expected_mask(logits))


def test_a_validity_mask_and_a_nodata_value(prn, folder):
    logits = np.load("logits/a.npy")
    logits[0, :5] = -50
    np.save("a.npy", logits)
    (folder / "valid").mkdir()
    valid = np.full(logits.shape, 255, np.uint8)
    valid[30:] = 0
    Image.fromarray(valid).save("valid/a.png")
    assert prn("a.npy", "-o", "m", "--valid-mask", "valid", "--nodata", "-50")[0] == 0
    mask = read("m/a.png")
    assert (mask[30:] == 127).all()
    assert (mask[0, :5] == 127).all()
    assert (mask[1:30] != 127).all()


def test_a_map_without_its_validity_mask_fails_alone(prn, folder):
    (folder / "valid").mkdir()
    Image.fromarray(np.full((70, 90), 255, np.uint8)).save("valid/a.png")
    code, _, err = prn("logits", "-o", "m", "--valid-mask", "valid")
    assert code == 1
    assert err.count("no validity mask with this stem in valid") == 2
    assert files(folder / "m") == ["a.png", MANIFEST_NAME]


@pytest.mark.parametrize("first", ["", "--input-kind"])
def test_a_map_with_undeclared_nodata_fails_alone_and_by_its_name(prn, folder, random_logits, first):
    (folder / "logits" / "d").mkdir()
    for name in ("aa", "zz"):
        logits = random_logits(40, 40, seed=5).astype(np.float32)
        logits[0, 0] = -9999
        np.save(folder / "logits" / f"{name}.npy", logits)
    code, _, err = prn("logits", "-o", "masks", *((first, "logits") if first else ()))
    assert (code, files(folder / "masks")) == (1, ["a.png", "b.png", "c.tif", MANIFEST_NAME])
    for name in ("aa", "zz"):
        assert f"logits/{name}.npy: a value of -9999" in err


@pytest.mark.parametrize("name", ["out.png", "out.npy", "out.tif", "new/out.PNG"])
def test_one_file_to_one_file(prn, folder, name):
    assert prn("logits/a.npy", "-o", name)[0] == 0
    np.testing.assert_array_equal(read(name), expected_mask(np.load("logits/a.npy")) * 255)
    assert list(folder.rglob(MANIFEST_NAME)) == [(folder / name).with_name(MANIFEST_NAME)]


@pytest.mark.parametrize("existing", ["mask.png", "p.npy", "bias/a.npy"])
def test_one_file_never_replaces_another_unasked(prn, folder, existing):
    path = folder / existing
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"precious")
    line = ("logits/a.npy", "-o", "mask.png", "--probabilities", "p.npy", "--bias", "bias")
    code, _, err = prn(*line)
    assert code == 2
    assert f"{existing}: is there already" in err
    assert path.read_bytes() == b"precious"
    assert sum((folder / name).exists() for name in ("mask.png", "p.npy", "bias/a.npy")) == 1
    assert prn(*line, "--overwrite")[0] == 0
    assert path.read_bytes() != b"precious"


def test_one_file_with_its_probabilities(prn):
    assert prn("logits/a.npy", "-o", "a.png", "--probabilities", "a-p.npy", "--bias", "biases")[0] == 0
    assert read("a-p.npy").shape == read("biases/a.npy").shape == (70, 90)


def test_the_format_and_threshold_can_be_chosen(prn, folder):
    assert prn("logits", "-o", "m", "--format", "npy", "--threshold", "0.9", "--values", "0,1")[0] == 0
    assert files(folder / "m") == ["a.npy", "b.npy", "c.npy", MANIFEST_NAME]
    np.testing.assert_array_equal(np.load("m/a.npy"), expected_mask(np.load("logits/a.npy"), 0.9))


def test_a_npy_mask_of_0_and_1_cannot_say_what_is_invalid(prn, random_logits):
    logits = random_logits(60, 50)
    logits[10:20, 5:30] = np.nan
    np.save("hole.npy", logits)
    for line in (["logits/a.npy", "-o", "m", "--format", "npy"], ["-o", "hole-mask.npy"]):
        code, _, err = prn("hole.npy", *line, "--values", "0,1")
        assert code == 1
        assert "hole.npy: has invalid pixels" in err
        assert "--values 0,255" in err
    assert files(Path("m")) == ["a.npy", MANIFEST_NAME]
    assert not Path("hole-mask.npy").exists()
    assert prn("hole.npy", "-o", "m", "--format", "npy")[0] == 0


def test_what_training_expects_is_said(prn, folder):
    assert "points of IoU" not in prn("logits", "-o", "m")[2]
    pooled, mean = {"difference": [0.0283, 0, 0.05], "added": [-0.0097, -0.02, 0.01]}, {"added": [0.012, 0.01, 0.02]}
    card = {"held_out_figures": {"pooled_iou": pooled, "mean_iou": mean}}
    (folder / "model.json").write_text(json.dumps(card))
    assert "prn: +2.83 points of IoU on the held-out maps of training" in prn("logits", "-o", "m", "--overwrite")[2]
    assert "points of IoU" not in prn("logits", "-o", "m", "--overwrite", "--strength", "0.5")[2]
    (folder / "model.json").write_text(json.dumps(card | {"choice": {"strength": 1.0, "own": 0.4}}))
    shares = "training: +3.80 by the threshold alone; by the network -0.97 pooled, +1.20 in the mean over images\n"
    assert shares in prn("logits", "-o", "m", "--overwrite")[2]


@pytest.mark.parametrize(
    ("card", "options", "own"),
    [
        ({"choice": {"own": 0.4}}, (), 0.4),  # what training has found, not where the masks are cut
        ({"choice": {"own": 0.4}}, ("-t", "0.3"), 0.3),
        ({"choice": None}, (), 0.5),
        ({}, ("-t", "0.45"), 0.45),
    ],
)
def test_where_the_base_alone_would_be_cut_is_recorded(prn, folder, card, options, own):
    (folder / "model.json").write_text(json.dumps(card))
    code, out, err = prn("logits", "-o", "m", "--json", "--probabilities", "p", *options)
    assert (code, {json.loads(line)["own_threshold"] for line in out.splitlines()}) == (0, {own})
    assert (f"--own-threshold {own:g}" in err) == (own != 0.5)
    entries = [json.loads(line) for line in (folder / "m" / MANIFEST_NAME).read_text().splitlines()]
    assert {entry["figures"]["own_threshold"] for entry in entries if "figures" in entry} == {own}


def test_probabilities_of_another_cut_say_how_to_score_them(prn):
    code, _, err = prn("logits", "-o", "m", "--probabilities", "p", "--threshold", "0.35")
    assert (code, "prn score --threshold 0.35" in err) == (0, True)
    assert "prn score" not in prn("logits", "-o", "m", "--probabilities", "p", "--overwrite")[2]


def test_tta_and_smaller_tiles(prn):
    assert prn("logits/c.tif", "-o", "whole.tif", "--tile", "512")[0] == 0
    assert prn("logits/c.tif", "-o", "tiled.tif", "--tile", "96")[0] == 0
    assert (read("whole.tif") != read("tiled.tif")).mean() < 1e-3
    assert prn("logits/c.tif", "-o", "tta.tif", "--tta")[0] == 0
    assert 0 < (read("whole.tif") != read("tta.tif")).mean() < 0.2


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (513, 2)])
def test_maps_of_odd_sizes(prn, random_logits, shape):
    np.save("odd.npy", random_logits(*shape))
    assert prn("odd.npy", "-o", "odd.png", "--input-kind", "logits")[0] == 0
    assert read("odd.png").shape == shape


def test_paths_from_stdin(prn, folder, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("logits/a.npy\nlogits/c.tif\n"))
    assert prn("-", "-o", "m")[0] == 0
    assert files(folder / "m") == ["a.png", "c.tif", MANIFEST_NAME]


# What is done stays done


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != MANIFEST_NAME}


def test_what_is_whole_and_unchanged_is_kept(prn, folder):
    prn("logits", "-o", "masks")
    before = stamps(folder / "masks")
    code, out, err = prn("logits", "-o", "masks", "--json")
    assert code == 0
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["kept"] * 3
    assert "0 refined, 3 kept" in err
    assert stamps(folder / "masks") == before


def test_only_what_is_missing_cut_or_changed_is_done_again(prn, folder, random_logits):
    prn("logits", "-o", "masks")
    masks = folder / "masks"
    whole = (masks / "a.png").read_bytes()
    (masks / "a.png").write_bytes(whole[:-10])
    np.savez("logits/b.npz", random_logits(1, 34, seed=5))
    code, out, _ = prn("logits", "-o", "masks", "--json")
    assert code == 0
    status = {Path(record["input"]).stem: record["status"] for record in map(json.loads, out.splitlines())}
    assert status == {"a": "refined", "b": "refined", "c": "kept"}
    assert (masks / "a.png").read_bytes() == whole
    assert read("masks/b.png").shape == (1, 34)


@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_a_mask_that_someone_has_edited_is_not_written_over(prn, folder, suffix):
    line = ("logits", "-o", "masks", "--format", suffix, "--json")
    assert prn(*line)[0] == 0
    mask = folder / "masks" / f"a.{suffix}"
    with create_raster(mask, height=5, width=7, dtype=np.uint8) as writer:
        writer.write(np.full((5, 7), 255, np.uint8))
    edited = mask.read_bytes()
    for more in ((), ("--threshold", "0.7"), ("--dry-run",)):
        code, out, err = prn(*line, *more)
        assert code == 1
        said = out if more == ("--dry-run",) else err
        assert "was changed since prn wrote it" in said
        assert f"masks/a.{suffix}" in said
        assert mask.read_bytes() == edited
    assert prn(*line, "--overwrite")[0] == 0
    assert mask.read_bytes() != edited


@pytest.mark.parametrize("out", ["mask.png", "new/mask.tif", "logits/../mask.npy", "{}/new/mask.png"])
def test_one_file_is_kept_as_those_of_a_folder_are(prn, folder, random_logits, out):
    out = out.format(folder)
    line = ["logits/a.npy", "-o", out, "--probabilities", "p/a.npy", "--bias", "new", "--json"]

    def times() -> dict[str, int]:
        return {name: Path(record[name]).stat().st_mtime_ns for name in ("mask", "probabilities", "bias")}

    record = json.loads(prn(*line)[1])
    assert (record["status"], record["mask"], record["probabilities"]) == ("refined", out, "p/a.npy")
    before = times()
    code, text, err = prn(*line)
    assert (code, json.loads(text)) == (0, record | {"status": "kept", "seconds": 0.0})
    assert f"0 refined, 1 kept → {out}" in err
    assert times() == before

    for change in (["--threshold", "0.6"], ["--overwrite"], ["--threshold", "0.6", "--overwrite"]):
        assert json.loads(prn(*line, *change)[1])["status"] == "refined"
        assert times() != before
        before = times()
    np.save("logits/a.npy", random_logits(50, 60, seed=8))
    assert json.loads(prn(*line)[1])["status"] == "refined"
    assert read(out).shape == read("p/a.npy").shape == (50, 60)
    Path(out).unlink()
    assert [json.loads(prn(*line)[1])["status"] for _ in range(2)] == ["refined", "kept"]


def test_one_file_among_those_of_a_folder_is_one_of_them(prn, folder):
    prn("logits", "-o", "masks")
    _, out, _ = prn("logits/a.npy", "-o", "masks/a.png", "--json")
    assert json.loads(out)["status"] == "kept"
    (folder / "masks" / "label.png").write_bytes(b"precious")
    code, _, err = prn("logits/a.npy", "-o", "masks/label.png")
    assert (code, "masks/label.png: is there already, and no prn-manifest.jsonl says" in err) == (2, True)
    assert (folder / "masks" / "label.png").read_bytes() == b"precious"


@pytest.mark.parametrize("change", [["--threshold", "0.6"], ["--values", "0,1"], ["--tta"], ["--overwrite"]])
def test_other_settings_or_overwrite_do_all_again(prn, change):
    prn("logits", "-o", "masks")
    _, out, _ = prn("logits", "-o", "masks", "--json", *change)
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["refined"] * 3


def test_json_lines_carry_paths_and_counts(prn):
    _, out, _ = prn("logits/a.npy", "-o", "masks", "--bias", "bias", "--json")
    record = json.loads(out)
    base = cut(np.load("logits/a.npy").astype(np.float32), 0.5)
    mask = expected_mask(np.load("logits/a.npy"))
    assert record.pop("seconds") > 0
    assert record.pop("own_threshold") == 0.5
    assert record == {
        "input": "logits/a.npy",
        "status": "refined",
        "mask": "masks/a.png",
        "bias": "bias/a.npy",
        "height": 70,
        "width": 90,
        "valid": 6300,
        "foreground": int(mask.sum()),
        "changed": int((mask != base).sum()),
        "drift": None,
        "not_counted": {},
    }


# Nothing is lost


def test_one_bad_file_does_not_stop_the_rest(prn, folder):
    np.save("logits/nan.npy", np.full((40, 40), np.nan, np.float32))
    (folder / "logits" / "empty.npy").write_bytes(b"")
    (folder / "logits" / "cut.tif").write_bytes((folder / "logits" / "c.tif").read_bytes()[:5000])
    np.save("logits/cube.npy", np.zeros((5, 40, 40), np.float32) - 1)
    code, out, err = prn("logits", "-o", "masks", "--json")
    assert code == 1
    assert {Path(json.loads(line)["input"]).stem for line in out.splitlines()} == {"a", "b", "c"}
    errors = [line for line in err.splitlines() if "error" in line]
    assert len(errors) == 5
    for name in ("nan.npy", "empty.npy", "cut.tif", "cube.npy"):
        assert sum(f"logits/{name}" in line for line in errors) == 1
    assert "4 of 7 failed; the rest is done" in errors[-1]
    assert "Traceback" not in err
    assert files(folder / "masks") == ["a.png", "b.png", "c.tif", MANIFEST_NAME]


@pytest.mark.parametrize("line", [("refine", "-w", "model.onnx"), ("score",), ("pseudolabel",)])
def test_an_archive_of_two_arrays_fails_alone(folder, capsys, line, random_logits):
    (folder / "labels").mkdir()
    (folder / "alone").mkdir()
    for name, shape in {"a": (70, 90), "b": (1, 33), "c": (300, 200), "two": (40, 50)}.items():
        np.save(folder / "labels" / f"{name}.npy", (random_logits(*shape) > 0).astype(np.uint8))
    np.savez(folder / "logits" / "two.npz", x=random_logits(40, 50), y=random_logits(40, 50))
    np.savez(folder / "alone" / "two.npz", x=random_logits(40, 50), y=random_logits(40, 50))
    options = ("-o", "out") if line[0] == "refine" else ("--labels", "labels") + ("-o", "out") * (line[0] != "score")
    code = app.run([line[0], "logits", *options, *line[1:]])
    err = capsys.readouterr().err
    assert code == 1
    assert "logits/two.npz: 2 arrays: 'x', 'y'; name one with --key" in err
    assert err.count("two.npz") == 1
    assert "1 of 4 failed; the rest is done" in err
    assert app.run([line[0], "alone", *options, *line[1:]]) == 2
    assert "alone/two.npz: 2 arrays" in capsys.readouterr().err


def test_fail_fast_stops_at_the_first(prn, folder):
    (folder / "logits" / "0.npy").write_bytes(b"")
    for number in range(40):
        shutil.copy(folder / "logits" / "a.npy", folder / "logits" / f"a{number:02}.npy")
    code, _, err = prn("logits", "-o", "masks", "--fail-fast")
    assert code == 1
    assert "logits/0.npy: empty file" in err
    # Maps that were begun beside it may be finished.
    stopped = re.search(r"1 of 44 failed; stopped at the first failure, (\d+) not tried", err)
    assert stopped is not None, err
    assert int(stopped[1]) > 20
    assert len(files(folder / "masks")) < 24


def test_an_output_never_replaces_an_input(prn, folder):
    before = (folder / "logits" / "c.tif").read_bytes()
    for arguments in (["logits", "-o", "logits"], ["logits/c.tif", "-o", "logits/../logits/c.tif"]):
        code, _, err = prn(*arguments, "--overwrite")
        assert code == 2
        assert "would be written over the input" in err
    assert (folder / "logits" / "c.tif").read_bytes() == before


def test_two_inputs_of_one_stem_are_refused_and_named(prn, folder):
    (folder / "more").mkdir()
    np.save("more/a.npy", np.load("logits/a.npy"))
    code, _, err = prn("logits", "more", "-o", "masks")
    assert code == 2
    assert "would be written for both logits/a.npy and more/a.npy" in err
    assert not (folder / "masks").exists()


def test_files_that_prn_did_not_write_are_kept_unless_told_otherwise(prn, folder):
    labels = folder / "labels"
    labels.mkdir()
    (labels / "a.png").write_bytes(b"a label")
    code, _, err = prn("logits", "-o", "labels")
    assert code == 2
    assert "labels/a.png: is there already" in err
    assert files(labels) == ["a.png"]
    # A run that touches none of them, or in which every file fails, changes nothing about that.
    assert prn("logits/c.tif", "-o", "labels")[0] == 0
    (folder / "bad.npy").write_bytes(b"")
    assert prn("bad.npy", "-o", "labels", "--input-kind", "logits")[0] == 1
    (labels / "bad.png").write_bytes(b"a label")
    for line in (["logits"], ["logits", "--format", "png"], ["bad.npy"]):
        code, _, err = prn(*line, "-o", "labels")
        assert code == 2
        assert "is there already" in err
    assert (labels / "a.png").read_bytes() == (labels / "bad.png").read_bytes() == b"a label"
    assert prn("logits", "-o", "labels", "--overwrite")[0] == 0


def test_a_run_that_is_killed_before_it_can_record_goes_on(prn, folder, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "record", stop)
        assert prn("logits/a.npy", "-o", "masks")[0] == 130
    assert (folder / "masks" / "a.png").exists()
    code, out, _ = prn("logits/a.npy", "-o", "masks", "--json")
    assert code == 0
    assert json.loads(out)["status"] == "refined"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out.png"], "names one file for the masks of 3 inputs"),
        (["-o", "out.jpg"], "cannot write '.jpg' masks"),
        (["-o", "model.onnx"], "is a file, expected a folder"),
        (["-o", "m", "--probabilities", "p.npy"], "--probabilities names a file, for masks in a folder"),
        (["-o", "m", "--tile", "64"], "--tile 80 or more"),
        (["-o", "m", "--values", "1,2"], "expected 0,255 or 0,1"),
        (["-o", "m", "--co", "COMPRESS"], "expected KEY=VALUE"),
        (["-o", "m", "--co", "COMPRES=ZSTD", "--format", "tif"], "COMPRES"),
        (["-o", "m", "--threshold", "1.5"], "threshold"),
        (["-o", "m", "--valid-mask", "nowhere"], "nowhere: no such folder"),
        ([], "--out"),
    ],
)
def test_usage_errors_are_one_line_and_cost_nothing(prn, folder, arguments, message):
    code, out, err = prn("logits", *arguments)
    assert code in (1, 2)
    assert out == ""
    assert message in err
    assert len([line for line in err.splitlines() if "error" in line]) == 1
    assert not (folder / "m").exists()


def test_wrong_weights_are_one_line(prn, folder):
    (folder / "model.json").write_text(json.dumps({"files": {"onnx": {"sha256": "0" * 64}}}))
    code, _, err = prn("logits", "-o", "m")
    assert code == 1
    assert "model.onnx: sha256 is" in err
    assert not (folder / "m").exists()


def test_a_folder_that_cannot_be_made_is_one_line(prn, folder):
    (folder / "file").write_text("")
    code, _, err = prn("logits", "-o", "file/masks")
    assert code == 1
    assert "cannot be written" in err


# As a process


ONE = ("-w", "model.onnx", "-j", "1")


@pytest.mark.parametrize("maps", [1, 3])
@pytest.mark.parametrize("moment", ["network", r"open .*\.prn-tmp"], ids=["amid the work", "at its start"])
def test_an_interrupt_ends_with_130_and_leaves_nothing_half_done(folder, random_logits, signalled, maps, moment):
    (folder / "big").mkdir()
    tile = random_logits(700, 700)
    for number in range(maps):
        np.save(folder / "big" / f"{number}.npy", np.tile(tile, (10, 3)))
    line = ["refine", "big", "-o", "masks", "--tta", "--format", "tif", "--bias", "masks/bias", *ONE]
    done = signalled(signal.SIGINT, moment, *line, there="masks/.*.prn-tmp.*", cwd=folder)
    assert done.returncode == 130
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    # Nor does it go on until a map is done: each takes much longer than all that has to be cleaned up.
    left = [path.name for path in (folder / "masks").rglob("*") if path.is_file()]
    assert set(left) <= {MANIFEST_NAME}


def test_a_closed_pipe_ends_quietly(folder, held):
    for number in range(30):
        os.link(folder / "logits" / "a.npy", folder / "logits" / f"copy{number}.npy")
    moment = r"open .*/\.copy9\..*\.prn-tmp"  # it is the last but one
    with held(moment, "refine", "logits", "-o", "masks", "--json", *ONE, cwd=folder) as run:
        assert json.loads(run.process.stdout.readline())["status"] == "refined"
        run.wait()
        run.process.stdout.close()
        run.go_on()
        err = run.process.stderr.read()
        assert run.process.wait() == 128 + signal.SIGPIPE
    assert "rror" not in err
    assert "Traceback" not in err


def test_a_run_imports_neither_torch_nor_onnx(folder):
    code = (
        "import sys; from prn_cli.commands import app; "
        "status = app.run(['refine', 'logits/a.npy', '-o', 'a.png', '-w', 'model.onnx', '-q']); "
        "print(status, *(m for m in ('torch', 'onnx', 'scipy', 'rasterio', 'rich.table') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
    assert done.stderr == ""


def test_outputs_of_a_map_take_their_names_together(prn, folder, random_logits, monkeypatch):
    """One that cannot be completed leaves none of them behind, in the way of the next run."""
    from prn_cli.rasters.png_writing import PngWriter

    np.save("map.npy", random_logits(40, 50))
    line = ["map.npy", "-o", "mask.png", "--probabilities", "p.npy", "--bias", "b.npy"]

    def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        context.setattr(PngWriter, "_finish", full)
        code, _, err = prn(*line)
    assert code == 1
    assert "mask.png: cannot be written: no space left on device" in err
    assert not any(Path(name).exists() for name in ("mask.png", "p.npy", "b.npy"))
    assert prn(*line)[0] == 0


@given(data=st.data(), classes=st.sampled_from([0, 3]))
def test_figures_by_brute_force(data, classes):
    from prn_cli.workflows.figures import Figures

    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    values = data.draw(st.sampled_from([[0, 1, 2][: classes or 2], [0, 1, 255]]))
    mask, base = (data.draw(arrays(np.uint8, shape, elements=st.sampled_from(values))) for _ in range(2))
    names = "abc"[:classes]
    found = Figures.of(mask, base, names)
    assert found.pixels == [int((mask == number).sum()) for number in range(classes or 2)]
    assert found.valid == int((mask != 255).sum())
    assert found.changed == sum(a != b for a, b in zip(mask.flat, base.flat, strict=True))
    if 255 not in mask:
        assert Figures.of(mask, base, names, all_valid=True) == found
