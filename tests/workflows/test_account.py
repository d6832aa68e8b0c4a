"""Pixels that do not count are accounted for, once for a set, in every command; and classes that never count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import prn_cli as prn
from prn_cli.rasters import Reading, count_reasons, open_map
from prn_cli.workflows.account import Account

SIZE = (64, 72)
NAMES = ("a", "b", "c")
LOST = {"nan": 3 * 72, "nodata": 2 * 72, "mask": 72, "ignored": 4 * 58}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("logits", "labels", "valid"):
        (tmp_path / name).mkdir()
    for number, name in enumerate(NAMES):
        logits = np.random.default_rng(number).normal(0, 3, SIZE).astype(np.float32)
        label = (logits > 0).astype(np.uint8)
        logits[:3], logits[3:5], logits[40] = np.nan, -77, np.inf
        label[:, :4] = 255
        valid = np.ones(SIZE, np.uint8)
        valid[:6] = 0
        valid[:5] = 1
        np.save(tmp_path / "logits" / f"{name}.npy", logits)
        Image.fromarray(label).save(tmp_path / "labels" / f"{name}.png")
        Image.fromarray(valid).save(tmp_path / "valid" / f"{name}.png")
    return tmp_path


READ = {"nodata": -77, "valid_mask": "valid", "input_kind": "logits"}
LABELLED = READ | {"labels": "labels", "label_nodata": 255}


def total(lost: dict[str, int]) -> dict[str, int]:
    return {name: len(NAMES) * count for name, count in lost.items()}


def test_refine_says_what_does_not_count_and_why(folder: Path, heard: Any) -> None:
    alone = {name: count for name, count in LOST.items() if name != "ignored"}
    for status in ("refined", "kept"):
        heard.notes.clear()
        done = prn.refine("logits", out="masks", watch=heard, **READ)
        assert [(found.status, found.figures["not_counted"]) for found in done.maps] == [(status, alone)] * 3
        said = "9.38 % of the pixels do not count: NaN 4.69 %, nodata values 3.12 %, masks 1.56 %"
        assert heard.about("do not count") == [said]
    lines = (folder / "masks" / "prn-manifest.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines if "figures" in line]
    assert [entry["figures"]["not_counted"] for entry in entries] == [alone] * 3


@pytest.mark.parametrize("everywhere", [False, True])
def test_what_does_not_count_in_a_map_of_several_blocks(tmp_path: Path, everywhere: bool) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (1100, 1300)).astype(np.float32)
    logits[:530, :40], logits[600:, 1290:], logits[1099, 700] = np.nan, -77, np.nan
    if everywhere:
        logits[::9, ::7] = -77
    (tmp_path / "logits").mkdir()
    np.save(tmp_path / "logits" / "a.npy", logits)
    done = prn.refine(tmp_path / "logits", out=tmp_path / "masks", nodata=-77, input_kind="logits")
    lost = {"nan": int(np.isnan(logits).sum()), "nodata": int((logits == -77).sum())}
    assert done.maps[0].figures["not_counted"] == lost


@pytest.mark.parametrize("command", ["score", "pseudolabel", "train"])
def test_labelled_pixels(folder: Path, command: str, heard: Any) -> None:
    # The label comes first for a pixel that neither counts in the map nor in the label.
    columns = SIZE[1] - 4
    lost = {"nan": 3 * columns, "nodata": 2 * columns, "mask": columns, "ignored": 4 * SIZE[0]}
    said = "14.4 % of the pixels do not count"
    if command == "score":
        scored = prn.score("logits", watch=heard, resamples=100, report="report.html", **LABELLED)
        found = scored.document()
        assert found["pixels"] == 3 * (SIZE[0] * SIZE[1] - sum(lost.values()))
        assert said in (folder / "report.html").read_text()
    elif command == "pseudolabel":
        found = prn.pseudolabel("logits", watch=heard, report="report.html", **LABELLED).document()
        assert said in (folder / "report.html").read_text()
        assert '"not_counted": {"nan": 204' in (folder / "pseudolabels" / "prn-manifest.jsonl").read_text()
    else:
        pytest.importorskip("torch")
        found = prn.train("logits", watch=heard, shots=3, **LABELLED).document()["data"]
    assert found["not_counted"] == total(lost)
    assert len(heard.about("do not count")) == 1
    assert heard.about(said)
    assert not heard.warnings


def test_more_than_half_is_a_warning(folder: Path, heard: Any) -> None:
    for name in NAMES:
        np.save(folder / "labels" / f"{name}.npy", np.full(SIZE, 255, np.uint8))
        label = np.load(folder / "labels" / f"{name}.npy")
        label[:30] = np.arange(SIZE[1]) % 2
        np.save(folder / "labels" / f"{name}.npy", label)
        (folder / "labels" / f"{name}.png").unlink()
    prn.score("logits", watch=heard, resamples=100, **LABELLED)
    assert heard.warnings == [
        "62.5 % of the pixels do not count: ignored labels 53.1 %, NaN 4.69 %, nodata values 3.12 %, masks 1.56 %"
    ]


@pytest.mark.parametrize(
    ("command", "nodata", "absent"),
    [
        ("score", 0, "background"),
        ("score", 1, "foreground"),
        ("pseudolabel", 0, "background"),
        ("pseudolabel", 1, "foreground"),
        ("train", 0, "background"),
    ],
)
def test_a_class_that_never_counts(folder: Path, command: str, nodata: int, absent: str, heard: Any) -> None:
    for name in NAMES:
        label = np.asarray(Image.open(folder / "labels" / f"{name}.png")) % 2
        (folder / "labels" / f"{name}.png").unlink()
        tifffile.imwrite(folder / "labels" / f"{name}.tif", label, extratags=[(42113, 2, 0, str(nodata), True)])
    options = READ | {"labels": "labels", "label_nodata": nodata}
    if command == "train":
        pytest.importorskip("torch")
        options |= {"shots": 3}
    more = {"resamples": 100} if command == "score" else {}
    getattr(prn, command)("logits", watch=heard, **options, **more)
    assert f"no pixel of {absent} counts in any label; labels ignore the value {nodata}" in heard.warnings


def test_classes_that_never_count(folder: Path, heard: Any) -> None:
    scores = np.random.default_rng(0).normal(0, 2, (3, *SIZE)).astype(np.float32)
    scores[:, 0] = -np.inf
    np.save(folder / "classes.npy", scores)
    np.save(folder / "label.npy", scores.argmax(axis=0).astype(np.uint8) // 2)
    options = {"task": "multiclass", "classes": "water,land,ice", "labels": "label.npy"}
    done = prn.score("classes.npy", watch=heard, resamples=100, **options)
    assert done.document()["not_counted"] == {"infinite": SIZE[1]}
    assert heard.warnings == ["no pixel of ice counts in any label"]


def test_figures_say_on_how_many_images_they_rest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from prn_cli.commands.score import _show

    for name in NAMES[:2]:  # nothing but background has no boundary
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(folder / "labels" / f"{name}.png")
    done = prn.score("logits", resamples=100, report="report.html", **LABELLED)
    document = done.document()
    assert document["pooled"]["mba"]["images"] == document["mean"]["mba"]["images"] == 1
    assert "images" not in document["pooled"]["iou"]
    assert done.summary is not None
    _show(done, done.summary)
    assert "Figures that exist for fewer than 3 images: mBA for 1." in capsys.readouterr().out
    assert "mBA (1 of 3 images)" in (folder / "report.html").read_text()


@given(st.integers(0, 2**32 - 1))
def test_reasons_are_those_of_the_pixels_that_are_left_out(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = rng.choice([0.25, np.nan, -9.0, np.inf], (20, 24), p=[0.4, 0.2, 0.2, 0.2]).astype(np.float32)
    array[0, 0] = 0.25
    mask = rng.integers(0, 2, array.shape, np.uint8)
    mask[0, 0] = 1
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / "m.npy", mask)
    with open_map(
        "scores", tmp_path / "a.npy", Reading(kind="probabilities", nodata=-9), valid_mask=tmp_path / "m.npy"
    ) as scores:
        found = count_reasons(scores.reasons())
        assert found.total() == np.isnan(scores.scores()).sum()
    valid = mask == 1
    expected = {
        "nan": np.isnan(array),
        "infinite": np.isinf(array),
        "nodata": array == -9,
        "mask": np.ones(array.shape, bool),
    }
    assert found == {
        name: int((where & (valid | (name == "mask")) & ~(valid & (name == "mask"))).sum())
        for name, where in expected.items()
    }


def test_no_word_where_all_pixels_count(heard: Any) -> None:
    Account.of([(100, {}), (50, {})]).tell(heard)
    assert (heard.notes, heard.warnings) == ([], [])


def test_pixels_that_a_label_does_not_reach(folder: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    logits = np.random.default_rng(0).normal(0, 3, SIZE).astype(np.float32)
    for name, array, shift in (("map", logits, 0.0), ("label", (logits > 0).astype(np.uint8), 0.6)):
        (folder / name).mkdir()
        where = {"crs": 32632, "transform": rasterio.Affine(1, 0, 500_000 + shift, 0, -1, 5_000_000)}
        size = {"height": SIZE[0], "width": SIZE[1], "count": 1, "dtype": array.dtype}
        with rasterio.open(folder / name / "a.tif", "w", driver="GTiff", **size, **where) as file:
            file.write(array, 1)
    done = prn.score("map", labels="label", resamples=100)
    assert done.document()["not_counted"] == {"outside": SIZE[0]}
