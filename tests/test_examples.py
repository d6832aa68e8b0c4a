"""The examples: what they ship, and that every pipeline runs as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prn_cli.rasters import Reading, open_map, read_label

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SETS = ["buildings", "nuclei", "buildings_geotiff"]
LINE = re.compile(r"pooled IoU (0\.\d{4}) before, (0\.\d{4}) after")


def run(script: str, folder: Path) -> str:
    """Run a pipeline from a directory of its own; its output goes to `folder / "out"`. Gives what it prints."""
    elsewhere = folder / "a directory"
    elsewhere.mkdir()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(EXAMPLES / script), str(folder / "out")],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(elsewhere.iterdir())
    return done.stdout


def pooled(text: str) -> list[tuple[float, float]]:
    """IoU before and after, from each line that tells them."""
    return [(float(before), float(after)) for before, after in LINE.findall(text)]


def test_the_examples_are_small():
    assert sum(path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file()) < 10_000_000


@pytest.mark.parametrize("name", SETS)
def test_every_map_has_a_label(name):
    maps = sorted((EXAMPLES / name / "logits").iterdir())
    labels = {path.stem: path for path in (EXAMPLES / name / "labels").iterdir()}
    assert {path.stem for path in maps} == set(labels)
    for path in maps:
        with open_map("scores", path, Reading(kind="logits")) as scores:
            logits = scores.logits()
        label = read_label(labels[path.stem])
        assert logits.shape == label.shape
        assert np.isfinite(logits).mean() > 0.9
        assert (label == 1).any()


def test_the_geotiff_is_one():
    rasterio = pytest.importorskip("rasterio")
    for kind in ("logits", "labels"):
        with rasterio.open(EXAMPLES / "buildings_geotiff" / kind / "oam.tif") as raster:
            assert raster.crs.to_epsg() == 3857
            assert raster.res[0] == pytest.approx(0.597, abs=1e-3)


def test_headroom(tmp_path):
    text = run("headroom.sh", tmp_path)
    assert text.count("== ") == len(SETS) + 2
    for kind in ("labels", "thresholds"):
        assert len(list((tmp_path / "out" / "buildings" / kind).glob("*.tif"))) == 18


def test_refine_and_score(tmp_path):
    text = run("refine_and_score.sh", tmp_path)
    results = pooled(text)
    assert len(results) == len(SETS) + 1
    assert results[0][0] == pytest.approx(0.6224, abs=1e-4)
    masks = tmp_path / "out" / "buildings" / "masks"
    assert len(list(masks.glob("*.tif"))) == 18
    # A set of its own has a threshold of its own.
    assert len(list((tmp_path / "out" / "scene4" / "masks").glob("*.tif"))) == 9
    assert all(after > before - 0.002 for before, after in results)


def test_refined_geotiff_lies_where_its_logits_lie(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    logits = EXAMPLES / "buildings_geotiff" / "logits" / "oam.tif"
    command = [sys.executable, "-m", "prn_cli", "refine", str(logits), "-o", str(tmp_path), "-q"]
    subprocess.run(command, check=True)
    with rasterio.open(logits) as before, rasterio.open(tmp_path / "oam.tif") as after:
        assert (after.crs, after.transform, after.shape) == (before.crs, before.transform, before.shape)
        assert after.dtypes == ("uint8",)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_weak(tmp_path):
    """From tags and activation maps to scored masks."""
    text = run("weak.sh", tmp_path)
    out = tmp_path / "out"
    assert "mIoU" in text
    for name, count in (("tagged/labels", 20), ("tagged/confidence", 20), ("new/scores", 10), ("masks", 10)):
        assert len([path for path in (out / name).iterdir() if path.suffix in (".png", ".npy")]) == count
    card = json.loads((out / "run" / "model.json").read_text())
    assert card["settings"]["objectives"]["fbr"]["fb_weight"] == 0.05


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_train_and_refine(tmp_path):
    text = run("train_and_refine.sh", tmp_path)
    [(before, after)] = pooled(text)
    assert after > before
    assert len(list((tmp_path / "out" / "masks").glob("*.tif"))) == 9
    assert (tmp_path / "out" / "run" / "model.onnx").is_file()
