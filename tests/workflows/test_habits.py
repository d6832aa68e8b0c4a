"""What people try first: the folder above, subfolders, names that say what a file is, the same folder once more."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prn_cli as prn
from prn_cli.commands.app import run
from prn_cli.execution import cores, threads

ROWS, COLUMNS = np.mgrid[:64, :80]


def write_set(folder: Path, names=("north", "south"), *, logits="logits/{}.npy", labels="labels/{}.png") -> None:
    for number, name in enumerate(names):
        scores = (5 * np.sin(ROWS / 9 + number) * np.cos(COLUMNS / 7)).astype(np.float32)
        for path in (folder / logits.format(name), folder / labels.format(name)):
            path.parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / logits.format(name), scores)
        Image.fromarray((scores > 0.5).astype(np.uint8) * 255).save(folder / labels.format(name))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_folder_above_will_do(here):
    write_set(here / "set")
    refined = prn.refine("set", out="masks")
    assert sorted(path.name for path in (here / "masks").glob("*.png")) == ["north.png", "south.png"]
    assert len(refined.maps) == 2
    for place in ("set", "set/logits"):
        assert prn.pseudolabel(place, figures_only=True).headrooms[""].images == 2


def test_headroom_alone_writes_nothing(here, capsys):
    write_set(here)
    before = sorted(here.rglob("*"))
    assert run(["pseudolabel", "--figures-only"]) == 0
    shown = capsys.readouterr()
    assert "Oracle" in shown.out
    assert "2 searched, nothing written" in shown.err
    assert sorted(here.rglob("*")) == before
    assert run(["pseudolabel", "--figures-only", "--json", "-q"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert run(["pseudolabel", "--json", "-q"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert (alone.pop("out"), written.pop("out")) == (None, "pseudolabels")
    assert alone == written


def test_subfolders_on_request(here):
    write_set(here, ["north"], logits="maps/a/{}.npy", labels="truth/a/{}.png")
    write_set(here, ["south"], logits="maps/b/{}.npy", labels="truth/b/{}.png")
    with pytest.raises(prn.PrnError, match="--recursive"):
        prn.refine("maps", out="masks")
    assert len(prn.refine("maps", out="masks", recursive=True).maps) == 2
    assert len(prn.score("masks", labels="truth", baseline="maps").images) == 2
    write_set(here, ["north"], logits="maps/b/{}.npy", labels="other/{}.png")
    with pytest.raises(prn.PrnError, match="would be written for both"):
        prn.refine("maps", out="others", recursive=True)


@pytest.mark.parametrize(
    ("logits", "label"), [("{}_logits", "{}"), ("{}-prob", "{}_mask"), ("{}", "{}_gt"), ("{}_LOGITS", "{}_labels")]
)
def test_names_that_say_what_a_file_is_pair(here, logits, label):
    write_set(here, logits=f"maps/{logits}.npy", labels=f"truth/{label}.png")
    prn.refine("maps", out="masks")
    scored = prn.score("masks", labels="truth", baseline="maps")
    assert [image.label.name for image in scored.images] == [f"{label}.png".format(n) for n in ("north", "south")]


def test_an_exact_name_comes_first_and_two_that_fit_pair_with_none(here, heard):
    write_set(here, ["a"])
    np.save(here / "logits" / "a_logits.npy", np.load("logits/a.npy"))
    assert len(prn.pseudolabel("logits", labels="labels", figures_only=True, watch=heard).maps) == 1
    assert any("a_logits.npy" in note for note in heard.notes)
    (here / "labels" / "a.png").rename(here / "labels" / "a_mask.png")
    with pytest.raises(prn.PrnError, match="nothing in it pairs"):
        prn.pseudolabel("logits", labels="labels", figures_only=True)


def test_another_threshold_into_the_same_folder_is_said(here, heard):
    write_set(here)
    prn.refine("logits", out="masks", threshold=0.5, watch=heard)
    prn.refine("logits", out="masks", threshold=0.5, watch=heard)
    assert not any("replaces" in note for note in heard.notes)
    prn.refine("logits", out="masks", threshold=0.4, watch=heard)
    assert any("they choose the threshold where none is given" in note for note in heard.notes)
    notes = [note for note in heard.notes if "replaces" in note]
    assert notes == ["replaces what an earlier run left in masks: it had other settings: threshold"]


@pytest.mark.parametrize("line", [("refine", "logits"), ("pseudolabel",), ("train",)])
def test_stdout_is_no_place_for_files(here, capsys, line):
    write_set(here)
    assert run([*line, "-o", "-"]) == 2
    assert "--out -: files are written, not stdout" in capsys.readouterr().err
    assert not (here / "-").exists()


def test_a_mistake_of_the_whole_set_is_one_line(here, heard):
    write_set(here, [f"tile_{number}" for number in range(30)])
    for path in (here / "labels").iterdir():
        Image.fromarray(np.zeros((5, 6), np.uint8)).save(path)
    found = prn.pseudolabel(figures_only=True, watch=heard)
    assert len(found.failures) == 30
    assert len(heard.failures) == 1
    assert found.verdict == "all 30 failed in this way; -v names each"
    assert len(heard.details) >= 29


def test_failures_of_some_are_named_one_by_one(here, heard):
    names = [f"tile_{number}" for number in range(8)]
    write_set(here, names)
    for name in names[:4]:
        Image.fromarray(np.zeros((5, 6), np.uint8)).save(here / "labels" / f"{name}.png")
    found = prn.pseudolabel(figures_only=True, watch=heard)
    assert len(heard.failures) == 4
    assert found.verdict == "4 of 8 failed; the rest is done"


def test_two_mistakes_of_a_set_are_two_lines(heard):
    batch = threads.Batch(heard)
    for number in range(6):
        batch.fail(f"{number}.npy", f"label is {number}×5" if number % 2 else "cannot be read")
    batch.end()
    assert heard.failures[:2] == ["0.npy: cannot be read", "1.npy: label is 1×5"]
    assert batch.verdict == "6 of 6 failed"


def test_of_two_mistakes_of_many_maps_each_line_names_some(heard):
    batch = threads.Batch(heard)
    for number in range(12):
        batch.fail(f"{number}.npy", "cannot be read" if number % 3 else f"label is {number}×5")
    batch.end()
    assert heard.failures == [
        "0.npy: label is 0×5",
        "1.npy: cannot be read",
        "3 more failed as 0.npy did: 3.npy, 6.npy, 9.npy; -v names each",
        "7 more failed as 1.npy did: 2.npy, 4.npy, 5.npy, …; -v names each",
    ]
    assert {"9.npy: label is 9×5", "11.npy: cannot be read"} < set(heard.details)
    assert len(heard.details) == 10


def test_a_busy_machine_is_left_its_cores(monkeypatch):
    monkeypatch.setattr(cores, "core_count", lambda: 8)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    found = []
    for load, running in ((0.2, 6), (3.0, 6), (30.0, 30), (30.0, 1), (30.0, 0)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0, 0))
        monkeypatch.setattr(cores, "_running", lambda running=running: running)
        found.append(cores.free_cores())
    assert found == [8, 5, 4, 7, 8]  # what has ended is busy no more
