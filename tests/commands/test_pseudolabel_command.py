from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prn_cli.files.manifest import MANIFEST_NAME
from prn_cli.metrics.regions import count_regions
from prn_cli.rasters import Reading, create_raster, open_map, open_raster, read_label
from prn_cli.thresholding.pseudolabels import apply_thresholds, best_thresholds, make_pseudolabels

Prn = Callable[..., tuple[int, str, str]]


def label_of(logits: np.ndarray, seed: int) -> np.ndarray:
    """A label that these logits are about right on, by place too low and too high."""
    bias = 2 * np.sin(np.arange(logits.shape[1]) / 30)
    noise = np.random.default_rng(seed).standard_normal(logits.shape)
    return np.asarray(np.nan_to_num(logits) + bias + noise > 0, np.uint8)


@pytest.fixture
def folder(tmp_path, random_logits, monkeypatch) -> Path:
    """`logits/` and `labels/` with three maps of different sizes and formats; the working folder."""
    (tmp_path / "logits").mkdir()
    (tmp_path / "labels").mkdir()
    for seed, (name, height, width) in enumerate((("a", 70, 90), ("b", 33, 150), ("c", 200, 130))):
        logits = random_logits(height, width, seed=seed)
        label = 255 * label_of(logits, seed)
        if name == "c":
            logits[:50, :60] = np.nan
            with create_raster(
                tmp_path / "logits" / "c.tif", height=height, width=width, dtype=np.float32, nodata=np.nan
            ) as writer:
                writer.write(logits)
        else:
            np.save(tmp_path / "logits" / f"{name}.npy", logits.astype(np.float16))
        Image.fromarray(label).save(tmp_path / "labels" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def prn(folder, prn) -> Prn:
    """Run `prn pseudolabel` in the folder; gives exit code, stdout, stderr."""
    return partial(prn, "pseudolabel")


def read(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and label of one of the folder's maps."""
    path = next(Path("logits").glob(f"{name}.*"))
    with open_map("scores", path, Reading(kind="logits")) as scores:
        return scores.probabilities(), read_label(f"labels/{name}.png")


def written(path: Path) -> tuple[np.ndarray, float | None]:
    with open_raster(path) as raster:
        return raster.read()[0], raster.nodata


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


OUTPUTS = [f"labels/{name}" for name in ("a.png", "b.png", "c.tif")] + [MANIFEST_NAME]
OUTPUTS += [f"thresholds/{name}" for name in ("a.npy", "b.npy", "c.tif")]


@pytest.mark.parametrize("grid", ["paper", "exact"])
def test_in_a_folder_with_logits_and_labels(prn, folder, grid):
    code, out, err = prn("--patch", "32", "--grid", grid)
    assert code == 0, err
    assert "Oracle" in out
    assert tree(folder / "pseudolabels") == OUTPUTS
    for name in "abc":
        p, label = read(name)
        thresholds, _ = written(next(Path("pseudolabels/thresholds").glob(f"{name}.*")))
        np.testing.assert_array_equal(thresholds, best_thresholds(p, label, patch=32, grid=grid))
        mask, nodata = written(next(Path("pseudolabels/labels").glob(f"{name}.*")))
        expected = apply_thresholds(p, thresholds, patch=32)
        np.testing.assert_array_equal(mask, np.array([0, 255] + [127] * 254, np.uint8)[expected])
        assert nodata == 127
        np.testing.assert_array_equal(mask == 127, np.isnan(p))


def test_figures_equal_their_definition(prn):
    code, out, _ = prn("--patch", "32", "--json", "-q")
    assert code == 0
    result = json.loads(out)
    maps = [read(name) for name in "abc"]

    def figures(masks: list[np.ndarray]) -> dict[str, float]:
        counts = [count_regions(mask, label) for mask, (_, label) in zip(masks, maps, strict=True)]
        pooled = counts[0] + counts[1] + counts[2]
        return {
            "pooled": pytest.approx(pooled.iou(), abs=1e-6),
            "mean": pytest.approx(np.mean([c.iou() for c in counts]), abs=1e-6),
        }

    def cut(t: float) -> list[np.ndarray]:
        return [np.where(np.isnan(p), 255, p > np.float32(t)).astype(np.uint8) for p, _ in maps]

    assert result["images"] == 3
    assert result["pixels"] == sum(int((~np.isnan(p)).sum()) for p, _ in maps)
    assert result["at_half"] == {"threshold": 0.5} | figures(cut(0.5))
    best = result["best_single"]["threshold"]
    assert result["best_single"] == {"threshold": best} | figures(cut(best))
    assert result["best_single"]["pooled"] >= max(figures(cut(t / 50))["pooled"].expected for t in range(1, 50)) - 1e-6
    assert result["oracle"] == figures([make_pseudolabels(p, label, patch=32).mask for p, label in maps])
    assert result["oracle"]["pooled"] > result["best_single"]["pooled"] >= result["at_half"]["pooled"]
    gain = result["oracle"]["pooled"] - result["best_single"]["pooled"]
    assert result["headroom"]["pooled"] == pytest.approx(gain, abs=2e-6)
    assert result["failures"] == []


def test_table_shows_the_figures_of_the_document(prn):
    _, document, _ = prn("--json", "-q")
    code, table, err = prn("-q")
    assert code == 0
    assert not err
    result = json.loads(document)
    shown = [float(number) for number in re.findall(r"[+-]?\d\.\d{4}", table.partition("\n")[2])]
    expected = [
        result[row][way] for row in ("at_half", "best_single", "oracle", "headroom") for way in ("pooled", "mean")
    ]
    assert shown == pytest.approx(expected, abs=6e-5)


def test_bands_of_rows_change_nothing(prn, folder, monkeypatch):
    assert prn("-p", "16", "-o", "whole", "-q")[0] == 0
    monkeypatch.setattr("prn_cli.workflows.pseudolabel_maps._BAND_PIXELS", 1)
    _, banded, _ = prn("-p", "16", "-o", "banded", "--json", "-q")
    _, whole, _ = prn("-p", "16", "-o", "whole", "--json", "-q")
    assert json.loads(banded) | {"out": ""} == json.loads(whole) | {"out": ""}
    for name in OUTPUTS:
        if name != MANIFEST_NAME:
            np.testing.assert_array_equal(written(folder / "banded" / name)[0], written(folder / "whole" / name)[0])


def test_a_pseudo_label_that_someone_has_edited_is_not_written_over(prn, folder):
    assert prn("--patch", "32")[0] == 0
    path = next(path for path in sorted((folder / "pseudolabels").rglob("a.*")) if path.suffix == ".png")
    Image.fromarray(np.full((5, 7), 255, np.uint8)).save(path)
    edited = path.read_bytes()
    for patch in ("32", "16"):
        code, _, err = prn("--patch", patch)
        assert code == 1
        assert "was changed since prn wrote it; move it away, or --overwrite" in err
        assert path.read_bytes() == edited
    assert prn("--patch", "32", "--overwrite")[0] == 0


def test_current_outputs_are_kept(prn, folder):
    _, first, _ = prn("--json")
    target = folder / "pseudolabels" / "labels" / "a.png"
    before = target.stat().st_mtime_ns
    _, second, err = prn("--json")
    assert second == first
    assert "0 written, 3 kept" in err
    assert target.stat().st_mtime_ns == before
    _, _, err = prn("--patch", "32")
    assert "3 written" in err
    (folder / "pseudolabels" / "thresholds" / "b.npy").unlink()
    _, _, err = prn("--patch", "32")
    assert "1 written, 2 kept" in err
    _, _, err = prn("--patch", "32", "--overwrite")
    assert "3 written" in err


def test_labels_to_ignore_and_other_values(prn, folder):
    label = np.array(Image.open("labels/a.png")) // 255
    label[:20] = 7
    Image.fromarray(label).save("labels/a.png")
    code, out, _ = prn("logits/a.npy", "--label-nodata", "7", "--values", "0,1", "--json")
    assert code == 0
    assert json.loads(out)["pixels"] == 50 * 90
    mask, nodata = written(folder / "pseudolabels" / "labels" / "a.png")
    assert nodata == 255
    assert (mask[:20] == 255).all()
    assert set(np.unique(mask[20:])) == {0, 1}


def test_validity_masks(prn, folder):
    (folder / "valid").mkdir()
    valid = np.zeros((70, 90), np.uint8)
    valid[10:, :50] = 1
    Image.fromarray(valid).save("valid/a.png")
    code, out, err = prn("--valid-mask", "valid", "--json")
    assert code == 1
    assert "no validity mask" in err
    assert json.loads(out)["pixels"] == 60 * 50
    mask, _ = written(folder / "pseudolabels" / "labels" / "a.png")
    np.testing.assert_array_equal(mask == 127, valid == 0)


def test_one_bad_file_does_not_stop_the_rest(prn, folder):
    np.save("logits/bad.npy", np.zeros((5, 5), np.float32) - 1)
    Image.fromarray(np.zeros((5, 6), np.uint8)).save("labels/bad.png")
    Path("logits/broken.npy").write_bytes(b"not an array")
    Image.fromarray(np.zeros((5, 6), np.uint8)).save("labels/broken.png")
    code, out, err = prn("--json")
    assert code == 1
    assert tree(folder / "pseudolabels") == OUTPUTS
    result = json.loads(out)
    assert result["images"] == 3
    assert {Path(failure["file"]).name for failure in result["failures"]} == {"bad.npy", "broken.npy"}
    assert "5×6 pixels, expected 5×5" in err
    assert "Traceback" not in err


def test_nothing_counts(prn, folder):
    Image.fromarray(np.full((70, 90), 3, np.uint8)).save("labels/a.png")
    np.save("logits/b.npy", np.full((33, 150), np.nan, np.float32))
    label = np.zeros((200, 130), np.uint8)
    label[:50, :60] = 1
    Image.fromarray(np.where(label == 0, 9, 1).astype(np.uint8)).save("labels/c.png")
    code, out, err = prn("--json", "--input-kind", "logits", "--label-nodata", "9")
    assert code == 1
    assert json.loads(out)["images"] == 0
    assert json.loads(out)["oracle"] is None
    assert "not binary" in err
    assert "no valid pixel" in err
    assert "no pixel is valid in both the map and its label" in err
    assert tree(folder / "pseudolabels") == [MANIFEST_NAME]


def test_files_without_a_partner_are_named(prn):
    Path("labels/b.png").rename("labels/other.png")
    code, out, err = prn("--json")
    assert code == 0
    assert json.loads(out)["images"] == 2
    assert "b.npy" in err
    assert "other.png" in err


@pytest.mark.parametrize("out", [".", "sub/.."])
def test_labels_are_never_written_over(prn, folder, out):
    (folder / "sub").mkdir()
    before = {name: (folder / name).read_bytes() for name in tree(folder)}
    code, _, err = prn("-o", out)
    assert code == 2
    assert "choose another" in err
    assert {name: (folder / name).read_bytes() for name in tree(folder)} == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--patch", "8"], 2, "--patch"),
        (["--patch", "2000"], 2, "--patch"),
        (["--grid", "fine"], 2, "--grid"),
        (["--labels", "nowhere"], 1, "nowhere"),
        (["nothing"], 1, "nothing"),
        (["--co", "COMPRESS=MAGIC", "logits/c.tif"], 2, "MAGIC"),
    ],
)
def test_bad_usage_is_one_line_and_no_file(prn, folder, arguments, code, message):
    before = tree(folder)
    found, out, err = prn(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert err.splitlines()[-1].startswith("prn: error: ")
    assert err.count("prn: error: ") == 1
    assert tree(folder) == before


def test_georeferencing_as_rasterio_reads_it(prn, folder):
    rasterio = pytest.importorskip("rasterio")
    where = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 400000, 0, -0.5, 5800000)}
    p, label = read("c")
    logits = np.where(np.isnan(p), -9999, np.log(p / (1 - p))).astype(np.float32)
    shape = {"driver": "GTiff", "height": 200, "width": 130, "count": 1}
    with rasterio.open("logits/c.tif", "w", **shape, **where, dtype="float32", nodata=-9999, compress="lzw") as file:
        file.write(logits, 1)
    code, _, err = prn("logits/c.tif", "--patch", "48", "--co", "COMPRESS=ZSTD")
    assert code == 0, err
    with rasterio.open("pseudolabels/labels/c.tif") as file:
        assert (file.crs, file.transform, file.nodata) == (where["crs"], where["transform"], 127)
        assert file.compression.name == "zstd"
        np.testing.assert_array_equal(file.read(1, masked=True).mask, np.isnan(p))
    with rasterio.open("pseudolabels/thresholds/c.tif") as file:
        assert file.crs == where["crs"]
        assert file.transform.almost_equals(where["transform"] @ rasterio.Affine.scale(48))
        assert np.isnan(file.nodata)
        assert file.shape == (5, 3)
        with open_map("scores", "logits/c.tif", Reading(kind="logits")) as scores:
            expected = best_thresholds(scores.probabilities(), label, patch=48)
        np.testing.assert_array_equal(file.read(1), expected)


def test_as_a_subprocess_in_a_pipe(folder):
    line = [sys.executable, "-m", "prn_cli", "pseudolabel", "-", "--null", "-p", "16", "--json", "-o", "out"]
    done = subprocess.run(
        line,
        input=b"logits/a.npy\0logits/b.npy\0",
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 2
    assert b"2 written" in done.stderr
