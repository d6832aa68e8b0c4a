"""Two processes under `torchrun` learn what one learns with the same global batch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prn_cli.errors import PrnError
from prn_cli.training import parallel

# Trains a small network on the maps in `data.npz` and writes what came out.
SCRIPT = """
import json, sys
import numpy as np, torch
from prn_cli.training import loop, parallel
from prn_cli.training.augment import TrainingMap
from prn_cli.training.loop import Settings, fit
from prn_cli.methods.fast.options import FastOptions
from prn_cli.methods.fast.network import FastNetwork
from prn_cli.training.runtime import set_up

set_up("cpu", threads=1, seed=0)
loop.reduced_precision = lambda device: None  # in bfloat16, rounding alone moves weights as far as a slip would
data = np.load("data.npz")
maps = [TrainingMap(str(i), *pair, pair[1]) for i, pair in enumerate(zip(data["logits"], data["labels"]))]
# Without the edge term, whose gradient has jumps that turn rounding into noise.
settings = Settings(crop=64, batch=4, epochs=3, steps=4, rate=1e-3, options=FastOptions(pseudo_weight=0.0))
for _, state in fit(FastNetwork(width=8), maps[:4], maps[4:], settings):
    pass
parallel.check_same(json.dumps([e.iou for e in state.history] + [state.seconds]), "figures")
name = f"{sys.argv[1]}-{parallel.rank()}"
np.savez(name, **{key: value.numpy() for key, value in (state.average | {
    "losses": torch.tensor([e.loss for e in state.history]), "ious": torch.tensor([e.iou for e in state.history])
}).items()})
"""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A map whose scores run 1.5 too high on the left and 1.5 too low on the right, and its label."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96]
    field = np.sin(y / random.uniform(4, 9)) + np.sin(x / random.uniform(4, 9))
    logits = 3 * field + np.where(x < 48, 1.5, -1.5) + 0.3 * random.standard_normal(field.shape)
    return logits.astype(np.float32), (field > 0).astype(np.uint8)


def test_what_one_process_meets_is_raised_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(parts: list[object], own: object) -> None:
        parts[:] = [own, ([0, 0], PrnError("met elsewhere"))]

    assert parallel.spread(lambda x: 2 * x, range(5)) == [0, 2, 4, 6, 8]
    monkeypatch.setattr(parallel, "size", lambda: 2)
    monkeypatch.setattr(parallel.dist, "all_gather_object", gather)
    with pytest.raises(PrnError, match="met elsewhere"):
        parallel.spread(lambda x: 2 * x, range(4))


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    logits, labels = zip(*(blobs(seed) for seed in range(7)), strict=True)
    np.savez(tmp_path / "data.npz", logits=np.stack(logits), labels=np.stack(labels))
    (tmp_path / "script.py").write_text(SCRIPT)
    for line in ((sys.executable,), TORCHRUN):
        done = subprocess.run(
            [*line, "script.py", str(len(line))], cwd=tmp_path, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
    one, two, second = (np.load(tmp_path / name) for name in ("1-0.npz", "6-0.npz", "6-1.npz"))
    for name in one.files:
        np.testing.assert_array_equal(two[name], second[name])  # of the two processes, bit for bit
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-3)
    np.testing.assert_allclose(two["ious"], one["ious"], atol=1e-3)
    assert not np.array_equal(one["ious"][:1], one["ious"][-1:])
    for name in one.files:  # the network, and the running means and variances of its normalisation
        np.testing.assert_allclose(two[name], one[name], rtol=0.02, atol=2e-3, err_msg=name)


def prn(folder: Path, *arguments: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    line = (*(TORCHRUN if processes == 2 else (sys.executable,)), "-m", "prn_cli", *arguments)
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("logits", "labels"):
        (tmp_path / part).mkdir()
    for seed in range(6):
        logits, label = blobs(seed)
        np.save(tmp_path / "logits" / f"{seed}.npy", logits)
        Image.fromarray(label * 255).save(tmp_path / "labels" / f"{seed}.png")
    return tmp_path


@pytest.mark.slow
def test_the_command_under_torchrun(folder: Path) -> None:
    """It speaks with one voice, gives the figures of one process, and resumes after an interrupt that ends all."""
    options = (
        "train",
        "--crop",
        "64",
        "--batch",
        "4",
        "--steps",
        "4",
        "--threads",
        "1",
        "--ground-truth-only",
        "--folds",
        "1",
    )
    one = prn(folder, *options, "--epochs", "4", "-o", "one", "--json")
    two = prn(folder, *options, "--epochs", "4", "-o", "two", "--json", processes=2)
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert two.stderr.count("epoch 4/4") == 1
    first, second = json.loads(one.stdout), json.loads(two.stdout)  # one line: one process has spoken
    assert second["conditions"]["processes"] == 2
    for name, figures in first["held_out_figures"].items():
        assert second["held_out_figures"][name]["after"][0] == pytest.approx(figures["after"][0], abs=0.005)

    long = [*TORCHRUN, "-m", "prn_cli", *options, "--epochs", "100000", "-o", "stopped"]
    with subprocess.Popen(long, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        log = folder / "stopped" / "log.jsonl"
        while process.poll() is None and not log.exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=600)
    assert "--resume goes on" in stderr
    reached = len(log.read_text().splitlines())
    with subprocess.Popen([*long, "--resume"], cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "epoch" in line)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=600)
    assert f"epoch {reached + 1}/100000" in line

    odd = prn(folder, *options, "--batch", "3", "-o", "odd", processes=2)
    assert odd.returncode == 1
    assert "prn: error: --batch 3 for 2 processes, expected a multiple of 2" in odd.stderr
