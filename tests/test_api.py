"""What `import prn_cli as prn` offers: the same as the shell, and the same for arrays."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

import prn_cli as prn
from prn_cli.commands import app

NAMES = ("a", "b")


def logits_of(seed: int, shape: tuple[int, ...] = (96, 80)) -> np.ndarray:
    rows, columns = np.mgrid[: shape[-2], : shape[-1]]
    noise = np.random.default_rng(seed).normal(0, 1, shape)
    return (6 * np.sin(rows / (9 + seed)) * np.cos(columns / 7) + noise).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("logits", "labels"):
        (tmp_path / name).mkdir()
    for seed, name in enumerate(NAMES):
        logits = logits_of(seed)
        np.save(tmp_path / "logits" / f"{name}.npy", logits)
        Image.fromarray((logits > 0.4).astype(np.uint8) * 255).save(tmp_path / "labels" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(capsys, *arguments):
    code = app.run([*map(str, arguments)])
    return code, json.loads(capsys.readouterr().out)


def test_importing_it_is_light():
    code = (
        "import sys, prn_cli; print(*(m for m in sys.modules if m.startswith('prn_cli.') or m in ('numpy', 'typer')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    code = "import sys, prn_cli; prn_cli.score; print(*{'numpy', 'torch', 'typer', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_everything_offered_is_there():
    assert set(prn.__all__) <= set(dir(prn))
    for name in prn.__all__:
        assert getattr(prn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        prn.scores  # noqa: B018


def test_options_show_where_python_shows_them():
    names = list(inspect.signature(prn.score).parameters)
    assert names[:3] == ["masks", "labels", "baseline"]
    assert names[-1] == "watch"
    assert "baseline_threshold: Probability above which" in prn.score.__doc__
    with pytest.raises(TypeError, match="treshold"):
        prn.score("masks", labels="labels", treshold=0.3)


def test_scores_are_those_of_the_shell(folder, capsys):
    result = prn.score("logits", labels="labels", threshold=0.3, resamples=100)
    assert capsys.readouterr() == ("", "")
    code, document = shell(capsys, "score", "logits", "--labels", "labels", "-t", "0.3", "--resamples", "100", "--json")
    assert code == 0
    assert json.loads(json.dumps(result.document())) == document
    assert [row["file"].stem for row in result.rows()] == list(NAMES)
    assert [row["iou"] for row in result.rows()] == pytest.approx(
        [prn.score_map(1 / (1 + np.exp(-logits_of(s))), logits_of(s) > 0.4, threshold=0.3)["iou"] for s in range(2)]
    )


def test_pseudo_labels_are_those_of_the_shell(folder, capsys):
    result = prn.pseudolabel(out="python", patch=32)
    assert capsys.readouterr() == ("", "")
    code, document = shell(capsys, "pseudolabel", "-o", "shell", "-p", "32", "--json")
    assert code == 0
    assert json.loads(json.dumps(result.document())) == document | {"out": "python"}
    for seed, name in enumerate(NAMES):
        files = [(folder / place / "labels" / f"{name}.png").read_bytes() for place in ("python", "shell")]
        assert files[0] == files[1]
        logits = logits_of(seed)
        found = prn.pseudolabel_map(logits, (logits > 0.4).astype(np.uint8), patch=32)
        assert (np.asarray(Image.open(folder / "python" / "labels" / f"{name}.png")) // 255 == found.mask).all()
    assert {each.status for each in prn.pseudolabel(out="python", patch=32).maps} == {"kept"}
    assert [each.action for each in prn.pseudolabel(out="other", dry_run=True).plan] == ["search", "search"]
    assert not (folder / "other").exists()


def test_maps_are_refined_as_by_the_shell(folder, capsys):
    result = prn.refine("logits", out="python", weights="fast", strength=1, device="cpu")
    assert capsys.readouterr() == ("", "")
    assert app.run(["refine", "logits", "-o", "shell", "--strength", "1", "--device", "cpu", "-q"]) == 0
    for name, found in zip(NAMES, result.maps, strict=True):
        assert found.status == "refined"
        assert found.outputs["mask"].read_bytes() == (folder / "shell" / f"{name}.png").read_bytes()
    assert prn.refine("logits", out="python", strength=1, device="cpu").maps[0].status == "kept"


def test_training_is_that_of_the_shell(folder, capsys):
    pytest.importorskip("torch")
    heard = []

    class Ear(prn.Watch):
        def stages(self, names):
            heard.append(names)
            return nullcontext(lambda stage, epoch, left: heard.append((stage.epochs, epoch.number, left >= 0)))

    short = {"crop": 64, "batch": 2, "epochs": 2, "steps": 2, "threads": 1, "folds": 1, "width": 4}
    result = prn.train("logits", out="python", **short, watch=Ear())
    assert capsys.readouterr() == ("", "")
    assert heard == [[""], (2, 0, True), (2, 1, True)]
    line = [word for name, value in short.items() for word in (f"--{name}", value)]
    code, card = shell(capsys, "train", "-o", "shell", *line, "--json")
    assert code == 0
    assert json.loads(json.dumps(result.document())) | {"seconds": card["seconds"]} == card
    assert (folder / "python" / "model.onnx").read_bytes() == (folder / "shell" / "model.onnx").read_bytes()
    with pytest.raises(prn.PrnError, match="--width is for --network fast"):
        prn.train("logits", network="paper", width=4)


def test_a_failure_is_in_the_result(folder):
    (folder / "logits" / "b.npy").write_bytes(b"no array")
    heard = []

    class Ear(prn.Watch):
        def failure(self, message: str) -> None:
            heard.append(message)

    for result in (
        prn.score("logits", labels="labels", watch=Ear()),
        prn.pseudolabel("logits", out="out", watch=Ear()),
        prn.refine("logits", out="masks", device="cpu", watch=Ear()),
    ):
        assert [name for name, _ in result.failures] == ["logits/b.npy"]
        assert result.verdict == "1 of 2 failed; the rest is done"
    assert len(heard) == 3
    with pytest.raises(prn.PrnError, match="no such folder"):
        prn.score("logits", labels="nowhere")
    with pytest.raises(prn.PrnError, match="--threshold 2, expected 0 to 1"):
        prn.score("logits", labels="labels", threshold=2)


def test_progress_moves_within_a_map(folder, monkeypatch):
    monkeypatch.setattr("prn_cli.workflows.score_images._PIXELS_AT_ONCE", 1)
    monkeypatch.setattr("prn_cli.maps.tiles._BLOCK_PIXELS", 1)
    monkeypatch.setattr("prn_cli.workflows.pseudolabel_maps._BAND_PIXELS", 1)
    steps = []

    class Bar(prn.Watch):
        def progress(self, label, total):
            steps.clear()
            return nullcontext(lambda step=1, text=None: steps.append(step))

    prn.score("logits/a.npy", labels="labels", watch=Bar())
    assert len(steps) in (96, 97)
    assert sum(steps) == pytest.approx(1)
    prn.pseudolabel("logits/a.npy", out="out", patch=16, watch=Bar())
    assert len(steps) in (6, 7)
    assert sum(steps) == pytest.approx(1)


def test_arrays_are_refined_as_files_are(folder, capsys):
    line = [
        "refine",
        "logits",
        "-o",
        "masks",
        "--probabilities",
        "p",
        "--bias",
        "b",
        "-q",
        "-t",
        "0.5",
        "--strength",
        "1",
    ]
    code = app.run(line)
    assert code == 0
    for seed, name in enumerate(NAMES):
        found = prn.refine_map(logits_of(seed), strength=1, device="cpu")
        assert (np.asarray(Image.open(folder / "masks" / f"{name}.png")) // 255 == found.mask).all()
        np.testing.assert_allclose(np.load(folder / "p" / f"{name}.npy"), found.probabilities, atol=1e-5)
        np.testing.assert_allclose(np.load(folder / "b" / f"{name}.npy"), found.bias, atol=1e-4)
    softmax = logits_of(3, (3, 64, 64))
    np.save(folder / "classes.npy", softmax)
    assert app.run(["refine", "classes.npy", "-o", "classes.png", "--task", "multiclass", "-q"]) == 0
    assert (np.asarray(Image.open(folder / "classes.png")) == prn.refine_map(softmax).mask).all()


def test_several_weights_refine_one_after_the_other():
    logits = logits_of(0)
    once = prn.refine_map(logits, "fast", strength=1)
    twice = prn.refine_map(logits, ["fast", "fast"], strength=1)
    again = prn.refine_map(logits + once.bias, "fast", strength=1)
    np.testing.assert_allclose(twice.bias, once.bias + again.bias, atol=1e-5)
    probabilities = prn.refine_map(1 / (1 + np.exp(-logits)), input_kind="probabilities", strength=1)
    assert (probabilities.mask != once.mask).mean() < 0.001


def test_a_hard_mask_is_refined_as_probabilities_of_a_twentieth_from_0_and_1():
    mask = np.where(logits_of(0) > 0, 255.0, 0.0)
    mask[:3, :5] = np.nan
    found = prn.refine_map(mask, "fast", input_kind="mask", strength=1)
    scores = np.where(np.isnan(mask), np.nan, np.where(mask > 0, 0.95, 0.05))
    same = prn.refine_map(scores, "fast", input_kind="probabilities", strength=1)
    np.testing.assert_allclose(found.probabilities, same.probabilities, atol=1e-6)
    assert (found.mask[:3, :5] == 255).all()
