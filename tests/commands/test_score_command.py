from __future__ import annotations

import csv
import html
import io
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from prn_cli.commands.app import run
from prn_cli.maps.probabilities import binarize
from prn_cli.metrics.score import figures
from prn_cli.tasks.binary import Binary

score_image = Binary().score_image

NAMES = [f"tile_{i}" for i in range(4)]


@pytest.fixture
def folder(tmp_path):
    """Four logit maps, labels, and masks that are better than the maps cut at 0.5."""
    for name in ("logits", "labels", "masks"):
        (tmp_path / name).mkdir()
    for seed, name in enumerate(NAMES):
        random = np.random.default_rng(seed)
        truth, noise = ndimage.gaussian_filter(random.standard_normal((2, 60, 72)), (0, 4, 4)) * 20
        label = truth > 0.5
        np.save(tmp_path / "logits" / f"{name}.npy", (truth + noise - 1).astype(np.float16))
        Image.fromarray(label.astype(np.uint8) * 255).save(tmp_path / "labels" / f"{name}.png")
        Image.fromarray((truth + noise / 3 > 0.5).astype(np.uint8) * 255).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


@pytest.fixture
def prn(folder, monkeypatch, prn):
    """Run `prn score` in the folder; gives exit code, stdout, stderr."""
    monkeypatch.chdir(folder)
    return partial(prn, "score")


def spawn(folder, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "prn_cli", "score", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def arrays(folder, name):
    logits = np.load(folder / "logits" / f"{name}.npy").astype(np.float32)
    probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
    masks, label = (np.asarray(Image.open(folder / kind / f"{name}.png")) // 255 for kind in ("masks", "labels"))
    return probabilities, masks, label


@pytest.mark.parametrize("victim", ["masks/tile_0.png", "labels/tile_1.png", "logits/tile_2.npy", "notes.txt"])
def test_rows_are_never_written_over_what_is_not_prn_s(folder, prn, victim):
    (folder / "notes.txt").write_text("mine")
    before = (folder / victim).read_bytes()
    code, _, err = prn("masks", "--labels", "labels", "--baseline", "logits", "--csv", victim)
    assert code == (1 if victim == "notes.txt" else 2)
    assert "choose another --csv" in err
    assert (folder / victim).read_bytes() == before


def test_rows_are_written_again_but_not_without_any(folder, prn):
    for _ in range(2):
        assert prn("masks", "--labels", "labels", "--csv", "rows.csv")[0] == 0
    rows = (folder / "rows.csv").read_text()
    for name in NAMES:
        (folder / "masks" / f"{name}.png").write_bytes(b"")
    assert prn("masks", "--labels", "labels", "--csv", "rows.csv")[0] == 1
    assert (folder / "rows.csv").read_text() == rows


def test_table_fits_eighty_columns_and_says_what_was_read(folder):
    line = ("masks", "--labels", "labels", "--baseline", "logits")
    assert max(map(len, spawn(folder, *line, "--own-threshold", "0.375").stdout.splitlines())) <= 80
    done = spawn(folder, *line)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "4 images, 0.01728 Mpx counted; masks; baseline: logits cut at 0.5"
    assert sum(line.strip().startswith("IoU") for line in lines) == 2
    assert any("IoU" in line and "better" in line for line in lines)


def test_json_is_one_line_with_the_library_s_figures(folder):
    done = spawn(folder, "logits", "--labels", "labels", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    document = json.loads(done.stdout)
    scores = [score_image(p, y) for p, _, y in (arrays(folder, name) for name in NAMES)]
    assert document["images"] == 4
    assert document["input_kind"] == "logits"
    assert document["failures"] == []
    for metric in ("iou", "mba", "ece", "mae"):
        expected = np.mean([figures(score.counts)[metric] for score in scores])
        assert document["mean"][metric]["value"] == pytest.approx(expected, abs=1e-5)
    pooled = figures(sum(score.counts for score in scores))
    assert document["pooled"]["boundary_iou"]["value"] == pytest.approx(pooled["boundary_iou"], abs=1e-5)
    assert document["mean"]["iou"]["low"] < document["mean"]["iou"]["value"] < document["mean"]["iou"]["high"]
    assert "difference" not in document["mean"]["iou"]


def test_json_with_a_baseline_has_the_paired_difference(folder, prn):
    code, out, _ = prn("masks", "--labels", "labels", "--baseline", "logits", "--json", "--baseline-threshold", 0.4)
    document = json.loads(out)
    assert code == 0
    assert (document["input_kind"], document["threshold"]) == ("mask", None)
    assert (document["baseline_input_kind"], document["baseline_threshold"]) == ("logits", 0.4)
    before, after = [], []
    for p, m, y in (arrays(folder, name) for name in NAMES):
        before.append(figures(score_image(binarize(p, 0.4), y).counts)["iou"])
        after.append(figures(score_image(m, y).counts)["iou"])
    iou = document["mean"]["iou"]
    assert iou["baseline"]["value"] == pytest.approx(np.mean(before), abs=2e-3)
    assert iou["value"] == pytest.approx(np.mean(after), abs=1e-6)
    assert iou["difference"]["value"] == pytest.approx(iou["value"] - iou["baseline"]["value"], abs=2e-6)
    assert iou["difference"]["low"] > 0
    assert document["mean"]["ece"]["value"] is None
    assert document["mean"]["ece"]["difference"]["value"] is None


def test_masks_are_compared_with_the_baseline_at_its_own_threshold(folder, prn):
    """As `prn refine` records it; the figures are those of the base cut there."""
    refine = ["refine", "logits", "-o", "refined", "--strength", "0", "--threshold", "0.35", "-q"]
    assert run([*refine, "--probabilities", "soft"]) == 0
    document = json.loads(prn("refined", "--labels", "labels", "--baseline", "logits", "--json")[1])
    assert document["own_threshold"] == [0.35, 0.35]
    alone = json.loads(prn("logits", "--threshold", 0.35, "--labels", "labels", "--json")[1])
    for way in ("mean", "pooled"):
        iou = document[way]["iou"]
        assert iou["own"] == alone[way]["iou"] == {name: iou[name] for name in ("value", "low", "high")}
        assert set(iou["added"].values()) == {0}
        assert iou["difference"]["value"] != 0
    assert document["changed_images"]["own"] == {"better": 0, "worse": 0}
    assert sum(document["changed_images"]["baseline"].values()) > 0
    shown = prn("refined", "--labels", "labels", "--baseline", "logits", "--report", "page.html")[1]
    assert "The masks are the baseline's at 0.35: no network has changed them." in shown
    assert "Compared with the baseline at 0.35" not in shown
    page = html.unescape((folder / "page.html").read_text())
    assert "They are the base's at 0.35: no network has changed them." in page
    assert "Compared with the base cut" not in page
    line = ("soft", "--labels", "labels", "--baseline", "logits", "--threshold", 0.35)
    soft = json.loads(prn(*line, "--own-threshold", 0.35, "--json")[1])
    assert soft["pooled"]["iou"]["own"] == document["pooled"]["iou"]["own"]
    assert "own" not in json.loads(prn(*line, "--json")[1])["pooled"]["iou"]


def test_the_own_threshold_tells_what_a_network_adds(folder, prn):
    line = ("masks", "--labels", "labels", "--baseline", "logits")
    found = json.loads(prn(*line, "--own-threshold", 0.3, "--json")[1])["mean"]["iou"]
    other = json.loads(prn(*line, "--baseline-threshold", 0.3, "--json")[1])["mean"]["iou"]
    assert (found["own"], found["added"]) == (other["baseline"], other["difference"])
    assert found["baseline"] == json.loads(prn(*line, "--json")[1])["mean"]["iou"]["baseline"]
    shown = prn(*line, "--own-threshold", 0.3)[1]
    assert "baseline: logits cut at 0.5, and at 0.3" in shown
    assert " At 0.5 At 0.3 " in shown
    assert "Compared with the baseline at 0.3: " in shown
    assert "no network" not in shown
    rows = list(csv.DictReader(io.StringIO(prn(*line, "--own-threshold", 0.3, "--csv", "-")[1])))
    assert np.mean([float(row["own_iou"]) for row in rows]) == pytest.approx(found["own"]["value"], abs=1e-5)


def test_each_mask_has_an_own_threshold(folder, prn):
    for name, threshold in zip(NAMES, (0.3, 0.35, 0.4, 0.45), strict=True):
        assert run(["refine", f"logits/{name}.npy", "-o", "refined/", "-t", str(threshold), "-q"]) == 0
    line = ("refined", "--labels", "labels", "--baseline", "logits")
    document = json.loads(prn(*line, "--json")[1])
    assert document["own_threshold"] == [0.3, 0.45]
    assert document["mean"]["iou"]["added"]["value"] == 0  # each base is cut where its mask is
    shown = prn(*line)[1]
    assert "and at 0.3 to 0.45" in shown
    assert " At 0.5 Own cut " in shown


def test_no_own_threshold_of_masks_that_were_changed_or_of_a_base_that_is_no_score(folder, prn):
    assert run(["refine", "logits", "-o", "refined", "-t", "0.35", "-q"]) == 0
    line = ("refined", "--labels", "labels", "--json", "--baseline")
    assert "own_threshold" in json.loads(prn(*line, "logits")[1])
    assert "own_threshold" not in json.loads(prn(*line, "masks")[1])
    assert "own_threshold" not in json.loads(prn(*line, "logits", "--baseline-threshold", 0.35)[1])
    mask = folder / "refined" / "tile_0.png"
    Image.open(mask).save(mask, compress_level=0)
    assert "own_threshold" not in json.loads(prn(*line, "logits")[1])


def test_the_seed_and_the_number_of_threads(prn):
    def document(*options):
        return json.loads(prn("masks", "--labels", "labels", "--json", *options)[1])

    first = document("--seed", 1, "--threads", 1)
    assert first == document("--seed", 1, "--threads", 2)
    other = document("--seed", 2)
    assert (first["seed"], other["seed"]) == (1, 2)
    assert first["mean"]["iou"]["value"] == other["mean"]["iou"]["value"]


def test_threshold_and_buffer_reach_the_figures(prn):
    low = json.loads(prn("logits", "--labels", "labels", "--json", "--threshold", 0.1, "--buffer", 0)[1])["pooled"]
    high = json.loads(prn("logits", "--labels", "labels", "--json", "--threshold", 0.9)[1])["pooled"]
    assert low["recall"]["value"] > high["recall"]["value"]
    assert low["relaxed_recall"]["value"] == low["recall"]["value"]
    assert high["relaxed_recall"]["value"] > high["recall"]["value"]


def test_csv_has_a_row_an_image(folder, prn):
    code, out, _ = prn("masks", "--labels", "labels", "--baseline", "logits", "--csv", "tables/each.csv")
    assert code == 0
    assert "IoU" in out
    rows = list(csv.DictReader((folder / "tables" / "each.csv").open(encoding="utf-8", newline="")))
    assert [row["file"] for row in rows] == [f"masks/{name}.png" for name in NAMES]
    _, mask, label = arrays(folder, NAMES[2])
    ours = figures(score_image(mask, label).counts)
    assert float(rows[2]["iou"]) == pytest.approx(ours["iou"], abs=1e-6)
    assert sum(int(rows[2][name]) for name in ("tp", "fp", "fn", "tn")) == int(rows[2]["pixels"]) == 60 * 72
    assert rows[2]["ece"] == ""
    assert float(rows[2]["baseline_ece"]) > 0
    assert [path.name for path in (folder / "tables").iterdir()] == ["each.csv"]


def test_csv_on_stdout_replaces_the_table(prn):
    code, out, _ = prn("masks", "--labels", "labels", "--csv", "-")
    rows = list(csv.reader(io.StringIO(out)))
    assert code == 0
    assert len(rows) == 5
    assert {len(row) for row in rows} == {len(rows[0])}


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
def test_csv_has_the_bytes_of_every_name(folder, prn):
    names = [b"\xff", "é".encode(), "\u200c".encode(), b"\x1b[31m"]
    for number, name in enumerate(names):
        for kind in ("masks", "labels"):
            (folder / kind / f"tile_{number}.png").rename(folder / kind / os.fsdecode(name + b".png"))
    assert prn("masks", "--labels", "labels", "--csv", "rows.csv")[0] == 0
    rows = csv.DictReader(io.StringIO((folder / "rows.csv").read_bytes().decode("utf-8", "surrogateescape")))
    kept = {os.fsencode(row["label"]).removeprefix(b"labels/").removesuffix(b".png") for row in rows}
    assert kept == {*names[:3], b"?[31m"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize(("option", "start"), [("--csv", b"file,label,"), ("--report", b"<!DOCTYPE html>")])
def test_a_pipe_takes_the_file_and_stays_a_pipe(folder, prn, option, start):
    os.mkfifo(folder / "pipe")
    reader = subprocess.Popen(["cat", folder / "pipe"], stdout=subprocess.PIPE)
    assert prn("masks", "--labels", "labels", option, "pipe")[0] == 0
    assert reader.communicate(timeout=600)[0].lower().startswith(start.lower())
    assert (folder / "pipe").is_fifo()


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="descriptors have no names here")
def test_rows_on_stdout_follow_the_table_there(folder):
    line = [sys.executable, "-m", "prn_cli", "score", "masks", "--labels", "labels"]
    plain = subprocess.run(line, cwd=folder, capture_output=True, check=True).stdout
    with (folder / "out.txt").open("wb") as out:
        subprocess.run([*line, "--csv", "/dev/stdout"], cwd=folder, stdout=out, check=True)
    found = (folder / "out.txt").read_bytes()
    assert found.count(b"file,label,") == 1
    for row in plain.splitlines():
        assert row in found


def test_csv_that_cannot_be_written_is_said_in_one_line(folder, prn):
    (folder / "taken").mkdir()
    code, _, err = prn("masks", "--labels", "labels", "--csv", "taken")
    assert code == 1
    assert err.count("\n") == 1
    assert "taken: is a folder" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux alone")
def test_figures_are_shown_though_their_rows_cannot_be_written(folder, prn):
    code, out, err = prn("masks", "--labels", "labels", "--csv", "/dev/full", "--report", "page.html")
    assert (code, (folder / "page.html").exists()) == (1, True)
    assert "IoU" in out
    assert "/dev/full: " in err


def test_one_bad_file_never_stops_the_rest(folder, prn):
    Image.fromarray(np.zeros((60, 71), np.uint8)).save(folder / "masks" / "tile_0.png")
    (folder / "masks" / "tile_1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "labels" / "tile_2.png").write_bytes(b"")
    code, out, err = prn("masks", "--labels", "labels", "--json")
    document = json.loads(out)
    assert code == 1
    assert document["images"] == 1
    assert [failure["file"] for failure in document["failures"]] == [f"masks/tile_{i}.png" for i in range(3)]
    assert "60×71" in document["failures"][0]["error"]
    assert "60×72" in document["failures"][0]["error"]
    assert "labels/tile_2.png" in document["failures"][2]["error"]
    assert all(f"masks/tile_{i}.png" in err for i in range(3))
    assert "Traceback" not in err


def test_masks_without_a_label_are_left_out_and_named(folder, prn):
    (folder / "labels" / "tile_0.png").unlink()
    (folder / "masks" / "tile_1.png").unlink()
    code, out, err = prn("masks", "--labels", "labels", "--json")
    document = json.loads(out)
    assert (code, document["images"], document["failures"]) == (0, 2, [])
    assert "1 masks have no label in labels and are left out: tile_0.png" in err
    assert "1 files in labels have no mask: tile_1.png" in err


def test_fail_fast_stops_at_the_first(folder, prn):
    (folder / "masks" / "tile_0.png").write_bytes(b"")
    code, out, err = prn("masks", "--labels", "labels", "--fail-fast", "--threads", 1)
    assert code == 1
    assert out == ""
    assert "masks/tile_0.png: " in err
    assert "1 of 4 failed; stopped at the first failure, 3 not tried" in err


def test_a_single_failure_leaves_no_rest(folder, prn):
    (folder / "masks" / "tile_0.png").write_bytes(b"")
    code, _, err = prn("masks/tile_0.png", "--labels", "labels", "--input-kind", "byte", "--fail-fast")
    assert code == 1
    assert err.splitlines()[-1].endswith("1 of 1 failed")


def test_validity_masks_leave_pixels_out(folder, prn):
    (folder / "valid").mkdir()
    valid = np.full((60, 72), 255, np.uint8)
    valid[:20] = 0
    for name in NAMES:
        Image.fromarray(valid).save(folder / "valid" / f"{name}.png")
    line = ("--labels", "labels", "--baseline", "logits", "--json", "--valid-mask", "valid")
    code, out, err = prn("masks", *line)
    assert (code, err) == (0, "prn: 33.3 % of the pixels do not count: masks\n")
    document = json.loads(out)
    assert document["pixels"] == 4 * 40 * 72
    assert document["not_counted"] == {"mask": 4 * 20 * 72}
    # The baseline alone, on the same pixels.
    alone = json.loads(prn("logits", "--labels", "labels", "--valid-mask", "valid", "--json")[1])
    assert document["pooled"]["iou"]["baseline"]["value"] == alone["pooled"]["iou"]["value"]
    for name in NAMES:
        label = np.array(Image.open(folder / "labels" / f"{name}.png"))
        label[:20] = 7
        Image.fromarray(label).save(folder / "labels" / f"{name}.png")
    ignored = json.loads(prn("masks", *line[:-2], "--label-nodata", 7)[1])
    assert ignored["pooled"] == document["pooled"]


def test_a_mask_without_its_validity_mask_fails_alone(folder, prn):
    (folder / "valid").mkdir()
    for name in NAMES[1:]:
        Image.fromarray(np.full((60, 72), 255, np.uint8)).save(folder / "valid" / f"{name}.png")
    code, out, err = prn("masks", "--labels", "labels", "--json", "--valid-mask", "valid")
    assert code == 1
    assert json.loads(out)["images"] == 3
    assert "masks/tile_0.png: no validity mask with this stem in valid" in err


def test_npy_masks_without_foreground_keep_their_invalid_pixels(folder, prn):
    (folder / "npy").mkdir()
    for name in NAMES:
        mask = np.array(Image.open(folder / "masks" / f"{name}.png"))
        mask[:10] = 127
        if name == NAMES[0]:
            mask[10:] = 0
        np.save(folder / "npy" / f"{name}.npy", mask)
    for inputs in ("npy", f"npy/{NAMES[0]}.npy"):
        document = json.loads(prn(inputs, "--labels", "labels", "--json")[1])
        assert document["input_kind"] == "mask"
        assert document["pixels"] == document["images"] * 50 * 72


def test_a_negative_seed_is_a_usage_error(prn):
    code, _, err = prn("masks", "--labels", "labels", "--seed", -1)
    assert code == 2
    assert "--seed" in err


def test_every_image_needs_its_baseline(folder, prn):
    (folder / "logits" / "tile_3.npy").unlink()
    code, out, err = prn("masks", "--labels", "labels", "--baseline", "logits", "--json")
    assert code == 1
    assert json.loads(out)["images"] == 3
    assert "masks/tile_3.png: no baseline" in err


def test_labels_without_a_mask_are_named_and_no_failure(folder, prn):
    (folder / "masks" / "tile_3.png").unlink()
    code, _, err = prn("masks", "--labels", "labels")
    assert code == 0
    assert "tile_3.png" in err
    assert prn("masks", "--labels", "labels", "--quiet")[2] == ""


def test_no_pairs_is_one_clear_line(folder, prn):
    (folder / "elsewhere").mkdir()
    code, out, err = prn("masks", "--labels", "elsewhere")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "elsewhere" in err


def test_a_map_without_a_valid_pixel_is_named(folder, prn):
    np.save(folder / "logits" / "tile_0.npy", np.full((60, 72), np.nan, np.float16))
    code, out, err = prn("logits", "--labels", "labels", "--json")
    assert code == 1
    assert json.loads(out)["images"] == 3
    assert "logits/tile_0.npy: no valid pixel" in err


def test_ignored_label_pixels_never_count(folder, prn):
    label = np.array(Image.open(folder / "labels" / "tile_0.png"))
    label[:20] = 7
    Image.fromarray(label).save(folder / "labels" / "tile_0.png")
    code, out, _ = prn("masks", "--labels", "labels", "--label-nodata", 7, "--json")
    assert code == 0
    assert json.loads(out)["pixels"] == (4 * 60 - 20) * 72


def test_two_outputs_on_stdout_are_refused(prn):
    code, out, err = prn("masks", "--labels", "labels", "--json", "--csv", "-")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_paths_from_a_pipe(folder):
    done = spawn(folder, "-", "--labels", "labels", "--json", input="masks/tile_1.png\nmasks/tile_2.png\n")
    assert done.returncode == 0
    assert json.loads(done.stdout)["images"] == 2


@pytest.mark.parametrize("output", [[], ["--json"], ["--csv", "-"]])
def test_a_reader_that_leaves_early_is_no_error(folder, output):
    command = [sys.executable, "-m", "prn_cli", "score", "masks", "--labels", "labels", *output]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        err = process.stderr.read()
        process.wait(600)
    assert (process.returncode, err) == (141, "")


def test_help_names_every_option_of_its_own(prn):
    code, out, _ = prn("--help-all")
    assert code == 0
    for option in ("--baseline", "--buffer", "--csv", "--json", "--threshold", "--label-nodata", "--seed", "--bidx"):
        assert option in out
