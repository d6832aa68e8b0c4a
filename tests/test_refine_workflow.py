"""Refining from Python: the same as the shell does, with results as values; and several refiners in a row."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from prn_cli.commands import app
from prn_cli.errors import UsageError
from prn_cli.execution.watch import Watch
from prn_cli.files.manifest import MANIFEST_NAME
from prn_cli.methods import load_refiner
from prn_cli.methods.weights import find_weights
from prn_cli.options import parameters
from prn_cli.rasters import create_raster, open_raster
from prn_cli.refinement import rows
from prn_cli.workflows import refine_map
from prn_cli.workflows.refine import RefineOptions, refine


class Listener(Watch):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.failures: list[str] = []
        self.records: list[dict[str, object]] = []
        self.steps: list[float] = []
        self.total: float | None = None

    def note(self, message: str) -> None:
        self.notes.append(message)

    def failure(self, message: str) -> None:
        self.failures.append(message)

    def record(self, record) -> None:
        self.records.append(record)

    @contextmanager
    def progress(self, label, total):
        self.total, thread = total, threading.get_ident()

        def advance(steps=1, text=None):
            assert threading.get_ident() == thread
            self.steps.append(steps)

        yield advance


@pytest.fixture
def folder(tmp_path, make_onnx, random_logits, monkeypatch) -> Path:
    """`logits/` with two maps, `model.onnx` and `other.onnx`; the working folder."""
    make_onnx()
    make_onnx(name="other.onnx", strength=0.7, threshold="0.4")
    (tmp_path / "logits").mkdir()
    for number in range(2):
        np.save(tmp_path / "logits" / f"{number}.npy", random_logits(70 + number, 90, seed=number))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(path: Path | str) -> np.ndarray:
    with open_raster(path) as raster:
        return raster.read()[0]


def entries(folder: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (Path(folder) / MANIFEST_NAME).read_text().splitlines()]
    return [line for line in lines if "settings" in line]


def test_python_and_the_shell_do_the_same(folder, capsys):
    watch = Listener()
    result = refine(RefineOptions("logits", out="python", weights="model.onnx", bias="python/bias"), watch)
    assert capsys.readouterr() == ("", "")
    line = ["refine", "logits", "-o", "shell", "-w", "model.onnx", "--bias", "shell/bias", "--json"]
    assert app.run(line) == 0
    records = [json.loads(text.replace("shell", "python")) for text in capsys.readouterr().out.splitlines()]
    for ours, theirs in zip(sorted(watch.records, key=str), sorted(records, key=str), strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    for name in ("0.png", "1.png", "bias/0.npy", "bias/1.npy"):
        assert (folder / "python" / name).read_bytes() == (folder / "shell" / name).read_bytes()
    first = result.maps[0]
    assert (first.input, first.status) == (Path("logits/0.npy"), "refined")
    assert first.outputs == {"mask": Path("python/0.png"), "bias": Path("python/bias/0.npy")}
    assert (first.figures["height"], result.failures, result.verdict) == (70, [], "")
    assert result.summary in watch.notes
    again = refine(RefineOptions("logits", out="python", weights="model.onnx", bias="python/bias"))
    assert [found.status for found in again.maps] == ["kept", "kept"]


def test_what_fails_is_a_value(folder):
    Path("logits/bad.npy").write_bytes(b"")
    watch = Listener()
    result = refine(RefineOptions("logits", out="masks", weights="model.onnx"), watch)
    assert [found.input.name for found in result.maps] == ["0.npy", "1.npy"]
    assert [name for name, _ in result.failures] == ["logits/bad.npy"]
    assert result.verdict == "1 of 3 failed; the rest is done"
    assert len(watch.failures) == 1


def test_a_dry_run_is_a_value(folder):
    refine(RefineOptions("logits/0.npy", out="masks", weights="model.onnx"))
    result = refine(RefineOptions("logits", out="masks", weights="model.onnx", dry_run=True))
    assert [(each.item.path.name, each.action) for each in result.plan] == [("0.npy", "keep"), ("1.npy", "refine")]
    assert result.plan[1].why == "no mask yet"
    assert result.summary == "dry run, nothing written: 1 to refine, 1 to keep, 0 to fail"
    assert not Path("masks/1.png").exists()


def test_names_and_defaults_are_those_of_the_command_line():
    from prn_cli.commands.on_demand import OnDemand

    group = OnDemand(name="prn")
    group.load("refine")
    known = {option.name: option.default for option in group.commands["refine"].params}
    for parameter in parameters(RefineOptions):
        assert parameter.name in known
        if parameter.type is bool:
            assert known[parameter.name] is parameter.default


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_one_mosaic_moves_the_progress(folder, random_logits, monkeypatch, suffix):
    """By its windows; the TIFF is so small a file that it counts as one, of which parts are done."""
    monkeypatch.setattr(refine_map, "_LARGE_MAP", 1 << 18)
    with create_raster(f"mosaic{suffix}", height=1100, width=500, dtype=np.float32) as writer:
        writer.write(random_logits(1100, 500))
    watch = Listener()
    line = {"weights": "model.onnx", "input_kind": "logits", "threads": 1}
    refine(RefineOptions(f"mosaic{suffix}", out="mask.tif", **line), watch)
    assert watch.total is not None
    assert (watch.total > 20) == (suffix == ".npy")
    assert len(watch.steps) > 10
    assert sum(watch.steps) == pytest.approx(watch.total)
    small = Listener()
    refine(RefineOptions("logits", out="masks", weights="model.onnx"), small)
    assert small.total == pytest.approx(sum(small.steps)) == 2


# Several refiners in a row.


def in_turn(logits: np.ndarray, *strengths: float) -> np.ndarray:
    """Refined by both models, one after the other."""
    for name, strength in zip(("model.onnx", "other.onnx"), strengths, strict=True):
        refiner = load_refiner(find_weights(name), device="cpu", threads=1)
        logits = rows.refine_map(logits, refiner, strength=strength)
    return logits


@pytest.mark.parametrize(("strength", "strengths"), [(None, (1, 1)), (0.5, (0.5, 0.5)), ((0.3, 1), (0.3, 1))])
def test_weights_are_applied_in_their_order(folder, strength, strengths):
    names = ("model.onnx", "other.onnx")
    result = refine(RefineOptions("logits", out="masks", weights=names, strength=strength, probabilities="p"))
    assert result.verdict == ""
    for number in range(2):
        logits = np.load(f"logits/{number}.npy")
        refined = in_turn(logits, *strengths)
        np.testing.assert_allclose(np.load(f"p/{number}.npy"), 1 / (1 + np.exp(-refined)), atol=1e-5)
        np.testing.assert_array_equal(
            read(f"masks/{number}.png"), rows.cut(refined, 0.4) * 255
        )  # as the last weights say
    settings = entries("masks")[0]["settings"]
    assert settings["weights"] == [find_weights(name).sha256 for name in names]
    assert settings["strength"] == list(strengths)
    assert settings["tile"] == [160, 160]


def test_a_chain_on_the_command_line_is_kept_as_a_chain(folder, capsys):
    def statuses(*weights: str) -> list[str]:
        line = [word for name in weights for word in ("--weights", name)]
        assert app.run(["refine", "logits", "-o", "masks", "--json", *line]) == 0
        return [json.loads(text)["status"] for text in capsys.readouterr().out.splitlines()]

    assert statuses("model.onnx", "other.onnx") == ["refined", "refined"]
    assert statuses("model.onnx", "other.onnx") == ["kept", "kept"]
    assert statuses("other.onnx", "model.onnx") == ["refined", "refined"]
    assert statuses("other.onnx") == ["refined", "refined"]


def test_a_chain_in_a_settings_file(folder):
    Path("prn.toml").write_text('[refine]\nweights = ["model.onnx", "other.onnx"]\nstrength = [0.5, 1.0]\n')
    assert app.run(["refine", "logits", "-o", "masks", "--settings", "prn.toml"]) == 0
    assert entries("masks")[0]["settings"]["strength"] == [0.5, 1.0]


def test_as_many_strengths_as_weights(folder):
    with pytest.raises(UsageError, match="--strength given 3 times for 2 --weights; give one for all, or one each"):
        refine(RefineOptions("logits", out="masks", weights=("model.onnx", "other.onnx"), strength=(0.1, 0.2, 0.3)))
    assert not Path("masks").exists()


def test_a_large_map_goes_through_a_chain_by_windows(folder, random_logits):
    logits = random_logits(700, 500, seed=4)
    np.save("large.npy", logits)
    names = ("model.onnx", "other.onnx")
    for out, tile in (("whole", 1024), ("tiled", 128)):
        refine(
            RefineOptions("large.npy", out=out, weights=names, tile=tile, probabilities=f"{out}/p", input_kind="logits")
        )
    np.testing.assert_allclose(np.load("tiled/p/large.npy"), np.load("whole/p/large.npy"), atol=2e-3)
