"""`--settings`: one mechanism for all commands; the command line, then the environment, then the file."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from prn_cli.commands import app
from prn_cli.commands.settings import read_settings


@pytest.fixture
def folder(tmp_path, make_onnx, random_logits, monkeypatch) -> Path:
    make_onnx()
    (tmp_path / "logits").mkdir()
    (tmp_path / "labels").mkdir()
    for seed, name in enumerate(("a", "b")):
        logits = random_logits(40, 50, seed=seed)
        np.save(tmp_path / "logits" / f"{name}.npy", logits)
        np.save(tmp_path / "labels" / f"{name}.npy", (logits > 0).astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prn(capsys, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = app.run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("prn-"))


def test_a_whole_run_from_a_file(folder, capsys):
    Path("run.toml").write_text(
        'threads = 1\n[refine]\nlogits = ["logits"]\nout = "masks"\nweights = "model.onnx"\nformat = "tif"\n'
        'co = ["COMPRESS=NONE", "TILED=NO"]\nvalues = "0,1"\njson = true\n'
    )
    code, out, err = prn(capsys, "refine", "--settings", "run.toml")
    assert (code, len(out.splitlines())) == (0, 2), err
    assert names(folder / "masks") == ["a.tif", "b.tif"]
    from tifffile import TiffFile

    with TiffFile("masks/a.tif") as file:
        assert (file.pages[0].compression, file.pages[0].is_tiled) == (1, False)
        assert set(np.unique(file.asarray())) <= {0, 1}


def test_the_command_line_wins_then_the_environment_then_the_table(folder, capsys, monkeypatch):
    Path("s.toml").write_text('out = "top"\n[refine]\nweights = "model.onnx"\n')
    assert prn(capsys, "refine", "logits", "--settings", "s.toml")[0] == 0
    assert names(folder / "top") == ["a.png", "b.png"]
    Path("s.toml").write_text('out = "top"\n[refine]\nweights = "model.onnx"\nout = "table"\n')
    assert prn(capsys, "refine", "logits", "--settings", "s.toml")[0] == 0
    assert names(folder / "table") == ["a.png", "b.png"]
    monkeypatch.setenv("PRN_REFINE_OUT", "environment")
    assert prn(capsys, "refine", "logits", "--settings", "s.toml")[0] == 0
    assert names(folder / "environment") == ["a.png", "b.png"]
    assert prn(capsys, "refine", "logits", "--settings", "s.toml", "-o", "line")[0] == 0
    assert names(folder / "line") == ["a.png", "b.png"]


def test_every_command_takes_a_file(folder, capsys):
    Path("all.toml").write_text(
        'labels = "labels"\nthreads = 1\nquiet = true\njson = true\n'
        '[pseudolabel]\nlogits = ["logits"]\npatch = 16\ngrid = "exact"\nout = "pseudo"\n'
        '[score]\nmasks = ["logits"]\nresamples = 100\n'
        '[train]\nlogits = ["no-such-folder"]\n'
    )
    code, out, _ = prn(capsys, "pseudolabel", "--settings", "all.toml")
    assert (code, json.loads(out)["patch"], json.loads(out)["grid"]) == (0, 16, "exact")
    code, out, _ = prn(capsys, "score", "--settings", "all.toml")
    assert code == 0
    assert json.loads(out)["pooled"]["iou"]["value"] == 1
    code, out, err = prn(capsys, "train", "--settings", "all.toml", "-o", "run")
    assert code == 1
    assert "no-such-folder: no such file or folder" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threds = 1", "unknown key 'threds'; did you mean 'threads'?"),
        ("[refin]", "unknown table [refin]; did you mean 'refine'?"),
        ("[refine]\npatch = 64", "unknown key 'patch' in [refine]"),
        ("[score]\nnodatta = 1", "unknown key 'nodatta' in [score]; did you mean 'nodata'?"),
        ("refine = 1", "'refine' has a value, expected a table [refine]"),
        ("settings = 'other.toml'", "unknown key 'settings'"),
        ("tile = [1, 2]", "'tile' is a list of 2, expected one value"),
        ("[train]\nrate = 2026-01-01", "'rate' is a date, expected text"),
        ("tile = ", "is not TOML"),
    ],
)
def test_slips_are_named_whichever_command_runs(folder, capsys, text, message):
    Path("s.toml").write_text(text)
    for command in ("refine", "train"):
        code, out, err = prn(capsys, command, "logits", "-o", "out", "--settings", "s.toml")
        assert (code, out) == (2, "")
        assert err.startswith("prn: error: s.toml: ")
        assert message in err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("refine", "--values", "1,2"), "--values 1,2, expected"),
        (("refine", "--co", "COMPRESS"), "--co COMPRESS, expected"),
        (("refine", "--dask", "host"), "--dask host, expected"),
        (("pseudolabel", "--values", "1,2"), "--values 1,2, expected"),
        (("pseudolabel", "--co", "COMPRESS"), "--co COMPRESS, expected"),
        (("pseudolabel", "--classes", "a,b"), "--classes is for"),
        (("train", "--groups", "("), "--groups '(' is not a regular expression"),
    ],
)
def test_what_no_file_can_mend_is_said_before_any_is_looked_for(tmp_path, capsys, monkeypatch, line, message):
    if "train" in line:
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    code, _, err = prn(capsys, line[0], "nowhere", "-o", "out", *line[1:])
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "value"), [("tile", "abc"), ("device", "gpu"), ("strength", "3")])
def test_a_wrong_value_from_the_environment_names_its_variable(folder, capsys, monkeypatch, option, value):
    variable = f"PRN_REFINE_{option.upper()}"
    monkeypatch.setenv(variable, value)
    line = ("refine", "logits", "-o", "out")
    code, _, err = prn(capsys, *line)
    assert code == 2
    assert f"--{option}" in err
    assert f"(from {variable}); see" in err
    code, _, err = prn(capsys, *line, f"--{option}", "x")
    assert code == 2
    assert variable not in err


@pytest.mark.parametrize("text", ["threads = 1.5", "threads = true", "device = 'gpu'", "threshold = 3"])
def test_values_are_held_to_what_the_command_line_takes(folder, capsys, text):
    Path("s.toml").write_text(f"[refine]\n{text}\n")
    code, _, err = prn(capsys, "refine", "logits", "-o", "out", "--settings", "s.toml")
    assert code == 2
    assert f"--{text.split()[0]}" in err
    assert "(from --settings)" in err


def test_files_that_cannot_be_read(folder, capsys):
    Path("latin.toml").write_bytes(b"out = '\xe9'")
    for name, message in (("none.toml", "no such file"), ("logits", "is a directory"), ("latin.toml", "is not UTF-8")):
        code, _, err = prn(capsys, "refine", "logits", "--settings", name)
        assert code == 2
        assert message in err.lower() or message in err


def test_underscores_are_dashes_and_a_single_value_makes_a_list(tmp_path):
    options = {
        "valid-mask": SimpleNamespace(name="valid_mask", nargs=1),
        "co": SimpleNamespace(name="co", nargs=1, multiple=True),
    }
    file = tmp_path / "s.toml"
    file.write_text('valid_mask = "v"\n[refine]\nco = "COMPRESS=LZW"\n')
    assert read_settings(file, "refine", {"refine": options}) == {"valid_mask": "v", "co": ["COMPRESS=LZW"]}
    assert read_settings(file, "score", {"refine": options, "score": {}}) == {}


def test_empty_values_are_refused_as_on_the_command_line(folder, capsys):
    Path("run.toml").write_text('[refine]\nout = ""\n')
    code, _, err = prn(capsys, "refine", "logits", "--settings", "run.toml", "--dry-run")
    assert (code, names(folder)) == (2, ["labels", "logits", "model.onnx", "run.toml"])
    assert "'out' is empty" in err
