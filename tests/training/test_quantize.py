from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest

from prn_cli.commands import app
from prn_cli.errors import WeightsError, install_line
from prn_cli.methods import load_refiner
from prn_cli.methods.weights import find_weights
from prn_cli.refinement.rows import cut, refine_map


@pytest.fixture
def maps(tmp_path, random_logits):
    folder = tmp_path / "logits"
    folder.mkdir()
    for seed in range(3):
        np.save(folder / f"{seed}.npy", random_logits(150 + seed, 170, seed=seed))
    return folder


def load(path):
    return load_refiner(find_weights(str(path)), device="cpu", threads=1)


def test_eight_bits_are_close_to_float32_and_keep_what_the_refiner_must_know(make_onnx, maps, tmp_path, random_logits):
    original = make_onnx(threshold="0.4")
    small = tmp_path / "small [bold]" / ("long" * 20)  # neither markup nor a line to break
    line = ["weights", "quantize", original, maps, "-o", small]
    done = subprocess.run([sys.executable, "-m", "prn_cli", *map(str, line)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "prn: inputs read as logits\n")
    assert done.stdout == f"{small / 'model.onnx'}  int8, calibrated on 3 maps\n"
    before, after = load(original), load(small)
    for name in ("name", "needs", "threshold", "strength"):
        assert getattr(before, name) == getattr(after, name)
    types = {node.op_type for node in onnx.load(small / "model.onnx").graph.node}
    assert "QuantizeLinear" in types
    logits = random_logits(320, 410, seed=9)
    logits[:40, :50] = np.nan
    exact, coarse = refine_map(logits, before), refine_map(logits, after)
    np.testing.assert_array_equal(np.isnan(coarse), np.isnan(logits))
    assert (cut(exact, 0.5) != cut(coarse, 0.5)).mean() < 0.02
    assert 0 < np.nanmean(np.abs(exact - coarse)) < 0.05 * np.nanmean(np.abs(exact - logits))


def test_the_card_seals_the_file(make_onnx, maps, tmp_path):
    assert app.run(["weights", "quantize", str(make_onnx()), str(maps), "-o", str(tmp_path / "small")]) == 0
    path = tmp_path / "small" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="sha256"):
        load(tmp_path / "small")


def test_what_cannot_be_quantised_is_said(make_onnx, maps, tmp_path, capsys):
    fast, paper = make_onnx(name="fast.onnx"), make_onnx("paper", name="paper.onnx")

    def message(*arguments):
        assert app.run(["weights", "quantize", *map(str, arguments)]) != 0
        return capsys.readouterr().err

    assert "weights of paper" in message(paper, maps, "-o", tmp_path / "a")
    np.save(tmp_path / "tiny.npy", np.ones((4, 400), np.float32) * -2)
    assert "no map has 8×8 valid pixels" in message(fast, tmp_path / "tiny.npy", "-o", tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "model.onnx").touch()
    assert "holds model.onnx already" in message(fast, maps, "-o", tmp_path / "c")


def test_a_missing_extra_is_named_before_a_map_is_looked_for(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "prn_cli.training.quantize", raising=False)
    assert app.run(["weights", "quantize", "fast", "nowhere", "-o", "out"]) == 2
    assert install_line("train") in capsys.readouterr().err


def test_eight_bits_are_not_quantised_again(make_onnx, maps, tmp_path, capsys):
    once, twice = str(tmp_path / "once"), str(tmp_path / "twice")
    assert app.run(["weights", "quantize", str(make_onnx()), str(maps), "-o", once]) == 0
    assert app.run(["weights", "quantize", once, str(maps), "-o", twice]) == 2
    assert "of 8-bit integers already" in capsys.readouterr().err
