"""Labels of a set must agree in what stands for foreground, whichever command reads them."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image


@pytest.mark.parametrize("command", ["score", "pseudolabel", "train"])
def test_labels_in_which_255_may_mean_two_things_are_a_failure(tmp_path, command):
    for part in ("logits", "masks", "labels"):
        (tmp_path / part).mkdir()
    for name in ("a", "b", "c"):
        field = np.random.default_rng(ord(name)).standard_normal((64, 64)).astype(np.float32)
        np.save(tmp_path / "logits" / f"{name}.npy", field)
        Image.fromarray((field > 0).astype(np.uint8) * 255).save(tmp_path / "masks" / f"{name}.png")
        Image.fromarray((field > 0.1).astype(np.uint8)).save(tmp_path / "labels" / f"{name}.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "labels" / "b.png")
    line = {
        "score": ("score", "masks", "--labels", "labels"),
        "pseudolabel": ("pseudolabel", "logits", "--labels", "labels"),
        "train": ("train", "--crop", "64", "--batch", "2", "--epochs", "1", "--steps", "1", "--folds", "1"),
    }[command]
    run = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True)
    done = run([sys.executable, "-m", "prn_cli", *line])
    assert done.returncode == 1
    assert "labels/b.png: 255 counts as foreground here, and 1 in other labels, such as a.png" in done.stderr
    meant = run([sys.executable, "-m", "prn_cli", *line, "--label-nodata", "255"])
    assert "counts as foreground" not in meant.stderr
    assert "b.npy: no pixel" in meant.stderr or "no valid pixel" in meant.stderr
