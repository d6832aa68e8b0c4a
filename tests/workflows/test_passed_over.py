"""Files that are passed over by their suffix are named with it; hints and causes fit what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import prn_cli as prn
from prn_cli.errors import InputError, reason
from prn_cli.rasters import open_map


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("maps", "labels", "others"):
        (tmp_path / name).mkdir()
    field = np.random.default_rng(0).normal(0, 3, (20, 24)).astype(np.float32)
    for stem in ("a", "b"):
        np.save(tmp_path / "maps" / f"{stem}.npy", field)
        np.save(tmp_path / "labels" / f"{stem}.npy", (field > 0).astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize("names", ["maps", "maps/*", "**/*.*"])
@pytest.mark.parametrize("command", ["refine", "score", "pseudolabel"])
def test_other_rasters_among_the_inputs_are_named(folder: Path, command: str, names: str, heard: Any) -> None:
    for name in ("c.jpg", "d.JPG", "e.img", "notes.txt", "a.tfw", "a.npy.aux.xml"):
        (folder / "maps" / name).write_text("not read")
    if names.startswith("**"):
        names = "maps/**/*.*"
    options = {
        "refine": {"out": "masks", "strength": 0},
        "score": {"labels": "labels"},
        "pseudolabel": {"labels": "labels"},
    }
    getattr(prn, command)(names, watch=heard, **options[command])
    assert "files passed over by their suffix: 2 .jpg, 1 .img" in heard.notes


@pytest.mark.parametrize("name", ["others", "others/*"])
def test_nothing_but_other_rasters(folder: Path, name: str) -> None:
    for suffix in ("img", "jp2", "txt"):
        (folder / "others" / f"a.{suffix}").write_text("not read")
    with pytest.raises(InputError, match=r"no raster file.*, but 1 \.img, 1 \.jp2.*; convert them, as \.npy"):
        prn.refine(name, out="masks")


def test_labels_of_another_suffix(folder: Path, heard: Any) -> None:
    label = Image.fromarray(np.load(folder / "labels" / "b.npy") * np.uint8(255))
    (folder / "labels" / "b.npy").unlink()
    label.save(folder / "labels" / "b.jpg")
    done = prn.score("maps", labels="labels", watch=heard, resamples=100)
    assert len(done.images) == 1
    assert "1 files in labels are passed over by their suffix: b.jpg" in heard.notes
    (folder / "labels" / "a.npy").unlink()
    with pytest.raises(InputError, match=r"folder holds no raster files, but 1 \.jpg; JPEG blurs numbers: save them"):
        prn.score("maps", labels="labels")


def test_partners_of_another_suffix(folder: Path) -> None:
    np.save(folder / "others" / "a.npy", np.ones((20, 24), np.uint8))
    (folder / "others" / "b.bmp").write_text("not read")
    done = prn.score("maps", labels="labels", valid_mask="others", resamples=100)
    assert len(done.images) == 1
    assert "no validity mask with this stem in others, but b.bmp, passed over by its suffix" in done.failures[0][1]


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ([0, 1, 255], "if 255 means ignore, say so with --label-nodata 255"),
        ([0, 128, 255], "if 128 means ignore, say so with --label-nodata 128"),
        ([0, 1, 2], "if 2 means ignore, say so with --label-nodata 2; of several classes, add --task multiclass"),
        ([0, 254], "write 254 as 255 if it means foreground"),
        ([1, 2], "write the class as 1 and the others as 0; of several classes"),
        ([*range(0, 256, 5)], "blurred by compression or resampling"),
        ([-1, 0, 1, 2], "say with --label-nodata which value to ignore, such as -1"),
        ([0, 0.25, 0.5], "cut soft labels at 0.5, or add --task saliency"),
        ([0, 5, 700, 9000], "write the foreground as 1 and the rest as 0"),
    ],
)
def test_hints_fit_the_values_of_labels(tmp_path: Path, values: list[float], hint: str) -> None:
    dtype = np.uint8 if {*values} <= {*range(256)} else np.float32
    np.save(tmp_path / "a.npy", np.resize(np.array(values, dtype), (12, 12)))
    with pytest.raises(InputError) as caught:
        open_map("label", tmp_path / "a.npy")
    assert hint in caught.value.hint


def test_causes_are_whole_and_on_one_line() -> None:
    long = "first line that says what happened\n\n  and the cause of it, " + "at length " * 30 + "to the end."
    assert reason(ValueError(long)) == " ".join(long.split()).rstrip(".")
    assert reason(ValueError(long), lines=1) == "first line that says what happened"
    assert reason(ValueError("word " * 1000)).endswith(" …")
    assert reason(ValueError()) == "ValueError"
    assert reason(FileNotFoundError(2, "No such file")) == "no such file"
