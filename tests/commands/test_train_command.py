"""`prn train` and `prn weights` as a user runs them."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from prn_cli.commands import app, console, epochs
from prn_cli.commands.train import _show as show
from prn_cli.errors import install_line
from prn_cli.execution.watch import Epoch, Stage
from prn_cli.training.choice import Choice
from prn_cli.workflows.training.conclusion import Trained
from prn_cli.workflows.training.conclusion import verdict as verdict_of

SMALL = ("--crop", "64", "--batch", "2", "--epochs", "2", "--steps", "2", "--threads", "1", "--folds", "1")
CROSSED = (*SMALL[:-1], "3")
SAVES = r"os\.rename .*/state[^/]*\.safetensors$"  # the state of a run takes its name


def prn(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command line, in this process: to import torch takes longer than most of what is tested here."""
    out, err = io.StringIO(), io.StringIO()
    with chdir(folder), redirect_stdout(out), redirect_stderr(err):
        code = app.run([str(argument) for argument in arguments])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six labelled maps of blobs, whose scores run too low by 1."""
    (tmp_path / "logits").mkdir()
    (tmp_path / "labels").mkdir()
    random = np.random.default_rng(0)
    y, x = np.mgrid[:80, :100]
    for index in range(6):
        field = np.sin(y / random.uniform(4, 9)) + np.sin(x / random.uniform(4, 9) + index)
        np.save(tmp_path / "logits" / f"tile{index}.npy", (3 * field - 1).astype(np.float32))
        Image.fromarray(((field > 0) * 255).astype(np.uint8)).save(tmp_path / "labels" / f"tile{index}.png")
    return tmp_path


def test_trains_in_a_folder_of_logits_and_labels(folder: Path) -> None:
    done = prn(folder, "train", *SMALL, "--json", "--tensorboard")
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert json.loads((folder / "run" / "model.json").read_text()) == card
    assert len(card["data"]["learned_from"]) == 5
    assert len(card["data"]["held_out"]) == 1
    assert set(card["held_out_figures"]) == {"pooled_iou", "mean_iou"}
    assert "epoch 2/2" in done.stderr
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert [epoch["number"] for epoch in log] == [0, 1]
    assert list((folder / "run" / "tensorboard").iterdir())
    assert not list((folder / "run").glob(".*"))

    again = prn(folder, "train", *SMALL)
    assert again.returncode == 2
    assert again.stderr.startswith("prn: error: run holds a run; --resume")

    refined = prn(folder, "refine", "logits", "-o", "masks", "--weights", "run")
    assert refined.returncode == 0, refined.stderr
    assert len(list((folder / "masks").glob("*.png"))) == 6


def test_crops_are_no_larger_than_the_maps(folder: Path) -> None:
    short = ("--batch", 2, "--epochs", 1, "--steps", 1, "--threads", 1, "--folds", 1)
    for asked, taken in (((), 112), (("--crop", 64), 64)):  # maps of 80 × 100 px
        done = prn(folder, "train", *short, *asked, "--overwrite", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["settings"]["crop"] == taken


def test_shipped_weights_are_exported_here_and_not_beside_themselves(tmp_path: Path) -> None:
    done = prn(tmp_path, "weights", "export", "image")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "image-export" / "model.onnx").is_file()


def test_a_killed_run_resumes_to_the_same_weights(folder: Path, signalled) -> None:
    options = ("train", *SMALL, "--epochs", "6")
    whole = prn(folder, *options, "-o", "whole", "--json")
    assert whole.returncode == 0, whole.stderr
    killed = signalled(signal.SIGKILL, SAVES, *options, "-o", "killed", times=3, cwd=folder)
    assert killed.returncode == -signal.SIGKILL
    resumed = prn(folder, *options, "-o", "killed", "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    first, second = json.loads(whole.stdout), json.loads(resumed.stdout)
    assert first["files"] == second["files"]  # sha256 of both files
    assert first["held_out_figures"] == second["held_out_figures"]

    other = prn(folder, *options, "-o", "killed", "--resume", "--rate", "0.5")
    assert other.returncode == 1
    assert "other settings or other data: --rate 0.001, not 0.5" in other.stderr


def test_every_map_is_held_out_once_and_all_are_learned_from(folder: Path) -> None:
    done = prn(folder, "train", *CROSSED, "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    stems = [f"tile{index}" for index in range(6)]
    assert card["data"]["learned_from"] == stems
    assert sorted(card["data"]["held_out"]) == stems
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in log[::2]] == ["fold 1 of 3", "fold 2 of 3", "fold 3 of 3", "all maps"]
    assert all((line["iou"] is None) == (line["stage"] == "all maps") for line in log)
    choice = card["choice"]
    assert float(card["strength"]) == choice["strength"]
    assert choice["gain"] >= 0
    own, figures = choice["own"], card["held_out_figures"]["pooled_iou"]
    assert own < 0.5  # the scores run too low
    assert choice["gain"] == pytest.approx(figures["difference"][0], abs=1e-6)
    assert choice["added"] == pytest.approx(figures["added"][0], abs=1e-6)
    assert figures["after"][0] >= max(figures["own"][0], figures["before"][0])


def test_scenes_are_held_out_whole(folder: Path) -> None:
    for index in range(6):
        for part, suffix in (("logits", "npy"), ("labels", "png")):
            (folder / part / f"tile{index}.{suffix}").rename(folder / part / f"town{index // 3}_{index}.{suffix}")
    free = prn(folder, "train", *SMALL, "-o", "free")
    assert "2 scenes by name: town0, town1; --groups none for maps of their own" in free.stderr
    unwanted = prn(folder, "train", *SMALL, "-o", "unwanted", "--groups", "none", "--json")
    assert json.loads(unwanted.stdout)["data"]["scenes"] == 0
    done = prn(folder, "train", *SMALL[:-2], "--groups", "^(town.)", "--json")
    assert done.returncode == 0, done.stderr
    assert "held out: each of 2 scenes in turn" in done.stderr
    assert set(json.loads(done.stdout)["choice"]["groups"]) == {"town0", "town1"}
    one = prn(folder, "train", *SMALL, "--groups", "^(town.)", "--json", "-o", "one")
    assert len({stem[:5] for stem in json.loads(one.stdout)["data"]["held_out"]}) == 1
    for pattern, message in (("town", "all maps are of one group, 'town'"), ("city", "does not match 6 of 6 stems")):
        refused = prn(folder, "train", *SMALL, "--groups", pattern, "-o", "none")
        assert refused.returncode == 2
        assert message in refused.stderr
    refused = prn(folder, "train", *SMALL, "--group-distance", "5", "-o", "none")
    assert refused.returncode == 1
    assert "has no georeference, which --group-distance needs" in refused.stderr


def test_weights_that_do_not_help_leave_masks_alone(folder: Path) -> None:
    for index in range(6):  # labels that no correction can better
        logits = np.load(folder / "logits" / f"tile{index}.npy")
        Image.fromarray(((logits > 0) * 255).astype(np.uint8)).save(folder / "labels" / f"tile{index}.png")
    done = prn(folder, "train", *CROSSED)
    assert done.returncode == 0, done.stderr
    assert "Refinement does not help on the held-out images." in done.stdout
    refined = prn(folder, "refine", "logits", "-o", "masks", "--weights", "run", "--json")
    assert "these weights leave masks as they are" in refined.stderr
    assert {json.loads(line)["changed"] for line in refined.stdout.splitlines()} == {0}
    forced = prn(folder, "refine", "logits", "-o", "forced", "--weights", "run", "--strength", "1", "--bias", "bias")
    assert "leave masks as they are" not in forced.stderr
    assert np.abs(np.load(folder / "bias" / "tile0.npy")).max() > 0


def test_maps_unlike_those_of_training_are_named(folder: Path) -> None:
    assert prn(folder, "train", *SMALL).returncode == 0
    (folder / "new").mkdir()
    for index in range(2):
        np.save(folder / "new" / f"{index}.npy", np.load(folder / "logits" / f"tile{index}.npy") + 6 * index)
    refined = prn(folder, "refine", "new", "-o", "masks", "--weights", "run", "--strength", "1", "--json")
    assert "1 of 2 maps have logits unlike those that the weights were trained on (furthest: 1.npy" in refined.stderr
    near, far = sorted(json.loads(line)["drift"] for line in refined.stdout.splitlines())
    assert near < 1 < 2 < far
    like = prn(folder, "refine", "logits", "-o", "more", "--weights", "run", "--strength", "1")
    assert "unlike" not in like.stderr


def test_a_cross_validation_killed_in_a_later_fold_resumes_to_the_same_weights(folder: Path, signalled) -> None:
    options = ("train", *CROSSED, "--epochs", "4")
    whole = prn(folder, *options, "-o", "whole", "--json")
    assert whole.returncode == 0, whole.stderr
    killed = signalled(signal.SIGKILL, SAVES, *options, "-o", "killed", times=7, cwd=folder)
    assert killed.returncode == -signal.SIGKILL
    resumed = prn(folder, *options, "-o", "killed", "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert "fold 1 of 3" not in resumed.stderr
    first, second = json.loads(whole.stdout), json.loads(resumed.stdout)
    assert first["files"] == second["files"]
    assert first["choice"] == second["choice"]
    assert len(list((folder / "killed").glob("state*"))) == 4
    logs = [[json.loads(line) for line in (folder / run / "log.jsonl").open()] for run in ("whole", "killed")]
    assert [(e["stage"], e["number"], e["loss"]) for e in logs[0]] == [
        (e["stage"], e["number"], e["loss"]) for e in logs[1]
    ]


def test_a_run_killed_between_two_folds_resumes_too(folder: Path, signalled) -> None:
    done = signalled(signal.SIGKILL, SAVES, "train", *CROSSED, times=3, cwd=folder)  # two epochs, and the counts
    assert done.returncode == -signal.SIGKILL
    resumed = prn(folder, "train", *CROSSED, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "fold 1 of 3" not in resumed.stderr
    assert "fold 2 of 3, epoch 1/2" in resumed.stderr


def test_a_run_killed_in_its_first_epoch_resumes_too(folder: Path, signalled) -> None:
    options = ("train", *SMALL, "--tensorboard")
    killed = signalled(signal.SIGKILL, "", *options, there=f"{folder}/run/tensorboard", cwd=folder)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in (folder / "run").iterdir()] == ["tensorboard"]
    resumed = prn(folder, *options, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert len((folder / "run" / "log.jsonl").read_text().splitlines()) == 2


def test_a_run_of_a_network_with_other_layers_is_not_gone_on_with(folder: Path) -> None:
    assert prn(folder, "train", *SMALL).returncode == 0
    other = "import prn_cli.methods.fast.network as fast; fast.CONTEXT = (5, 9)"
    code = f"import sys; {other}; from prn_cli.commands.app import run; sys.exit(run(sys.argv[1:]))"
    line = [sys.executable, "-c", code, "train", *SMALL, "--resume"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    assert "this run was started with other settings or other data" in done.stderr


def verdict(gain: float, groups: dict[str, float], difference: list[float | None], *, best: float = 0.1) -> str:
    strength = 1.0 if gain > 0 else 0.0
    promising = best > max(sum(groups.values()) / len(groups), 0)
    choice = Choice(strength, 0.5, gain, groups, {"0": 0.0, "1": best}, promising=promising, scenes=len(groups))
    return verdict_of(choice, difference, "scenes", 0)


def test_the_verdict_says_what_the_choice_went_by() -> None:
    two = {"a": 0.05, "b": -0.02}
    assert "harms 1 of 2: b" in verdict(0.02, two, [0.01, 0.001, 0.02])
    assert "harms 1 of 2: b; pooled over the images, it may be chance" in verdict(0.02, two, [0.01, -0.02, 0.03])
    assert "and not on their pooled images" in verdict(0.02, {"a": 0.01, "b": 0.03}, [-0.01, -0.02, 0.03])
    assert "does not help on all of the held-out scenes, so nothing is corrected; --groups none" in verdict(
        0, {"a": 0.0, "b": 0.0}, [0.0, 0.0, 0.0]
    )
    assert "may be chance, so nothing is corrected" in verdict(0, {"": 0.0}, [0.0, 0.0, 0.0])
    assert verdict(0, {"": 0.0}, [0.0, 0.0, 0.0], best=0) == "refinement does not help on the held-out images"
    assert verdict(0.01, {"": 0.01}, [0.01, 0.001, 0.02]) == "refinement helps on the held-out images"
    short = verdict_of(Choice(0.0, 0.4, 0.0, {"": 0.0}, {"0": 0.0}, own=0.4), [0.0] * 3, "", 0, Trained(40, 2000))
    assert short.startswith("too short to tell whether refinement helps: 40 of 2000 steps; --resume")
    assert short.endswith("; the base model's own threshold alone is kept")
    half = verdict_of(Choice(0.5, 0.5, 0.01, {"": 0.01}, {}), [0.01, 0.001, 0.02], "", 0, Trained(40, 2000, half=True))
    assert half == "refinement helps on the held-out images; after 40 of 2000 steps, it is applied by half at most"
    parts = verdict_of(Choice(0.5, 0.5, 0.01, {"": 0.01}, {}), [0.01, 0.001, 0.02], "", 1, Trained(40, 2000, half=True))
    assert parts.endswith("says little of other maps; after 40 of 2000 steps, it is applied by half at most")


def test_one_bad_file_does_not_stop_the_rest(folder: Path) -> None:
    (folder / "logits" / "tile0.npy").write_bytes(b"\x93NUMPY")
    Image.new("L", (7, 7)).save(folder / "labels" / "tile1.png")
    np.save(folder / "logits" / "alone.npy", np.zeros((8, 8), np.float32) - 1)
    done = prn(folder, "train", *SMALL)
    assert done.returncode == 1
    assert "tile0.npy" in done.stderr
    assert "7×7 pixels, expected 80×100" in done.stderr
    assert "1 maps have no label in labels and are left out: alone.npy" in done.stderr
    assert (folder / "run" / "model.onnx").exists()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere",), 1, "nowhere"),
        (("--labels", "nowhere"), 1, "nowhere"),
        (("--crop", "100"), 2, "--crop 100, expected a multiple of 16"),
        (("--time-budget", "soon"), 2, "--time-budget 'soon'"),
        (("--network", "paper", "--patch", "20"), 2, "multiple of 8"),
        (("--device", "cuda"), 2, "--device cuda"),
        (("--resume", "--overwrite"), 2, "exclude each other"),
        (("--epochs", "0"), 2, "--epochs"),
        (("--ground-truth-only", "--pseudo-weight", "0.5"), 2, "exclude each other"),
    ],
)
def test_a_wrong_call_gets_one_line(folder: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    if "cuda" in arguments:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device here")
    done = prn(folder, "train", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert len([line for line in done.stderr.splitlines() if "error" in line]) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("package", ["torch", "onnx"])
def test_without_the_extra_it_is_named_before_anything_is_read(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the line is written as seen from there
    code = (
        f"import sys; sys.modules[{package!r}] = None; from prn_cli.commands.app import run; sys.exit(run(['train']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    message = f"prn train needs {package}, which is not installed; {install_line('train')}"
    assert done.stderr == f"prn: error: {message}\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are a matter of POSIX")
@pytest.mark.parametrize(
    ("size", "name"),
    [(100_000, "run"), (230_000, "run"), (500_000, "run/state.safetensors")],
    ids=["while maps are read", "after the last", "while it learns"],
)
def test_a_full_disk_is_no_fault_of_the_maps(folder: Path, size: int, name: str) -> None:
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    line = [sys.executable, "-m", "prn_cli", "train", *SMALL]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=600, preexec_fn=limit)
    assert done.returncode == 1
    [error] = [line for line in done.stderr.splitlines() if "error" in line]
    cause = "cannot be written: file too large; check the folder, its permissions and the free space"
    assert error == f"prn: error: {name}: {cause}"
    assert not (folder / "run").exists()


def test_a_run_that_fails_leaves_no_folder_of_its_own(folder: Path) -> None:
    (folder / "small").mkdir()
    for path in (folder / "labels").iterdir():
        Image.fromarray(np.eye(3, dtype=np.uint8)).save(folder / "small" / path.name)
    before = set(folder.rglob("*"))
    for labels, cause in (("labels", "training diverged"), ("small", "none of the maps could be used")):
        done = prn(folder, "train", *SMALL, "--labels", labels, "--rate", "1e9", "-o", "runs/of/today")
        assert done.returncode == 1
        assert cause in done.stderr
        assert set(folder.rglob("*")) == before
    (folder / "runs" / "of").mkdir(parents=True)
    assert prn(folder, "train", *SMALL, "--rate", "1e9", "-o", "runs/of/today").returncode == 1
    assert [path.name for path in (folder / "runs").rglob("*")] == ["of"]
    (folder / "file").touch()
    done = prn(folder, "train", *SMALL, "-o", "file/run")
    assert done.stderr.count("error") == 1
    assert "file/run: cannot be written: not a directory" in done.stderr


@pytest.mark.parametrize(
    "options", [(*SMALL, "--network", "paper"), (*CROSSED, "--tensorboard")], ids=["its weights", "what it gives"]
)
def test_training_that_diverges_says_so_and_leaves_nothing(folder: Path, options: tuple[str, ...]) -> None:
    done = prn(folder, "train", *options, "--rate", "1e9")
    assert done.returncode == 1
    [error] = [line for line in done.stderr.splitlines() if "error" in line]
    assert error.startswith("prn: error: training diverged: the ")
    assert error.endswith("; give a smaller --rate")
    assert not (folder / "run").exists()


def test_divergence_costs_nothing_that_was_there_before(folder: Path) -> None:
    """A finished run of other settings, and what others keep beside it, stay where --resume was given."""
    run = folder / "run"
    (run / "tensorboard").mkdir(parents=True)
    (run / "tensorboard" / "events").write_text("somebody's own")
    done = prn(folder, "train", *SMALL, "--rate", "1e9", "--resume")
    assert done.returncode == 1
    assert "training diverged" in done.stderr
    assert (run / "tensorboard" / "events").read_text() == "somebody's own"


def test_held_out_images_can_be_given(folder: Path) -> None:
    (folder / "held.txt").write_text("tile1\ntile3\n", "utf-8-sig")
    done = prn(folder, "train", *SMALL, "--validation-stems", "held.txt", "--json", "-o", "a")
    assert json.loads(done.stdout)["data"]["held_out"] == ["tile1", "tile3"]
    (folder / "more").mkdir()
    (folder / "logits" / "tile4.npy").rename(folder / "more" / "tile4.npy")
    done = prn(folder, "train", *SMALL, "--validation-logits", "more", "--json", "-o", "b", "--pseudo-weight", "0.7")
    card = json.loads(done.stdout)
    assert card["data"]["held_out"] == ["tile4"]
    assert card["settings"]["pseudo_weight"] == 0.7
    (folder / "held.txt").write_text("tile9\n")
    done = prn(folder, "train", *SMALL, "--validation-stems", "held.txt", "-o", "c")
    assert done.returncode == 2
    assert "'tile9'" in done.stderr


def test_what_is_there_is_not_replaced_unasked(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "model.onnx").write_text("somebody's own")
    for options in ((), ("--resume",)):
        done = prn(folder, "train", *SMALL, *options)
        assert done.returncode == 2
        assert "run holds model.onnx" in done.stderr
    done = prn(folder, "train", "logitz", *SMALL, "--overwrite")
    assert done.returncode == 1  # a slip in the input must not cost what the run holds
    assert (folder / "run" / "model.onnx").read_text() == "somebody's own"
    assert prn(folder, "train", *SMALL, "--overwrite", "--epochs", "1").returncode == 0


def test_a_run_at_its_end_is_not_trained_further(folder: Path) -> None:
    options = ("train", *SMALL, "--epochs", "6", "--patience", "1", "--rate", "0")
    assert prn(folder, *options).returncode == 0
    first = (folder / "run" / "log.jsonl").read_text()
    assert len(first.splitlines()) == 1
    assert prn(folder, *options, "--resume").returncode == 0
    assert (folder / "run" / "log.jsonl").read_text() == first


def test_held_out_images_are_others(folder: Path) -> None:
    done = prn(folder, "train", *SMALL, "--validation-logits", "logits")
    assert done.returncode == 2
    assert "6 of the held-out maps are among those to learn from, such as tile0.npy" in done.stderr


def test_a_map_without_its_validity_mask_fails(folder: Path) -> None:
    (folder / "valid").mkdir()
    for index in range(5):
        Image.new("L", (100, 80), 255).save(folder / "valid" / f"tile{index}.png")
    done = prn(folder, "train", *SMALL, "--valid-mask", "valid", "--json")
    assert done.returncode == 1
    assert "tile5.npy: no validity mask with this stem in valid" in done.stderr
    card = json.loads(done.stdout)
    assert card["data"]["left_out"] == ["logits/tile5.npy"]
    assert card["conditions"]["valid_mask"] == "valid"


def test_published_checkpoints_are_imported_without_running_code(folder: Path) -> None:
    import torch

    from prn_cli.methods.paper.network import PaperNetwork

    torch.manual_seed(0)
    vectors = Path(__file__).parent.parent / "vectors" / "official_p64_state.tsv"
    names = [line.split("\t")[1] for line in vectors.read_text().splitlines()]
    state = dict(zip(names, published_order(PaperNetwork(64), names), strict=True))
    torch.save(state, folder / "published.th")
    done = prn(folder, "weights", "import", "published.th", "-o", "imported")
    assert done.returncode == 0, done.stderr
    card = json.loads((folder / "imported" / "model.json").read_text())
    assert (card["network"], card["patch"]) == ("paper", "64")
    refined = prn(folder, "refine", "logits/tile0.npy", "-o", "masks", "--weights", "imported")
    assert refined.returncode == 0, refined.stderr
    exported = prn(folder, "weights", "export", "imported/model.safetensors", "-o", "exported")
    assert exported.returncode == 0, exported.stderr
    assert (folder / "exported" / "model.onnx").exists()

    class Harmful:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return Path.touch, (folder / "harmed",)

    torch.save({"state_dict": Harmful()}, folder / "harmful.th")
    (folder / "text.th").write_text("not a checkpoint")
    torch.save({"weight": torch.zeros(2)}, folder / "other.th")
    for name, message in (
        ("harmful.th", "not a checkpoint of tensors alone"),
        ("text.th", "not a checkpoint of tensors alone"),
        ("other.th", "not a published PatchRefineNet"),
        ("absent.th", "no such file"),
    ):
        done = prn(folder, "weights", "import", name)
        assert done.returncode == 1
        assert f"{name}: {message}" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (folder / "harmed").exists()


def published_order(network, names):  # type: ignore[no-untyped-def]
    """The network's tensors in the order of their published names."""
    from prn_cli.methods.paper.published import RULES
    from prn_cli.methods.published import our_name

    ours = network.state_dict()
    return [ours[our_name(name, RULES)].clone() for name in names]


def test_two_runs_do_not_share_a_folder(folder: Path) -> None:
    (folder / "run").mkdir()
    descriptor = os.open(folder / "run", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    done = prn(folder, "train", *SMALL)
    assert (done.returncode, list((folder / "run").iterdir())) == (2, [])
    assert "run: another prn train is at work in it" in done.stderr
    os.close(descriptor)
    done = prn(folder, "train", *SMALL)
    assert done.returncode == 0, done.stderr


def test_names_that_are_no_text_are_learned_from(folder: Path) -> None:
    for part, suffix in (("logits", "npy"), ("labels", "png")):
        (folder / part / f"tile0.{suffix}").rename(folder / part / os.fsdecode(b"\xff\xfe." + suffix.encode()))
    done = prn(folder, "train", *SMALL, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["data"]["learned_from"]) == 5


def test_more_time_goes_on_with_all_networks_and_the_scheme_of_the_same_scenes(folder: Path) -> None:
    options = ("train", *CROSSED[:-6], "--epochs", "400", "--steps", "5", "--threads", "2", "--json")
    done = prn(folder, *options, "--time-budget", "4")
    assert done.returncode == 0, done.stderr
    short = json.loads(done.stdout)
    assert short["steps"] < short["full_steps"] == 2000
    assert "of its time" in done.stderr
    assert " left" in done.stderr
    again = prn(folder, *options, "--time-budget", "4", "--resume")
    assert json.loads(again.stdout)["steps"] <= short["steps"] + 1 + again.stderr.count("all maps, step")
    more = prn(folder, *options, "--time-budget", "14", "--resume")
    assert more.returncode == 0, more.stderr
    assert json.loads(more.stdout)["steps"] > short["steps"]
    other = prn(folder, *options, "--resume", "--groups", "^tile(.)")
    assert "this run was started with other settings or other data: --folds" in other.stderr


def test_the_first_figure_is_there_before_training(folder: Path) -> None:
    done = prn(folder, "train", *SMALL)
    lines = done.stderr.splitlines()
    figure = next(number for number, line in enumerate(lines) if line.startswith("prn: base model: IoU "))
    assert " cut at 0.5, " in lines[figure]
    assert "its own threshold by these labels" in lines[figure]
    assert figure < next(number for number, line in enumerate(lines) if "epoch 1/2" in line)
    assert "the base's own threshold: 0." in done.stdout
    assert max(map(len, done.stdout.splitlines()[:6])) <= 80
    assert "better than before" in done.stdout


def test_a_value_of_invalid_pixels_may_be_nan(folder: Path) -> None:
    done = prn(folder, "train", *SMALL, "--nodata", "nan", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["conditions"]["nodata"] == "nan"


@pytest.mark.parametrize(
    ("images", "said"), [(2, "may gain less: few were held out (--folds)"), (12, "can expect as much")]
)
def test_few_held_out_images_promise_nothing(capsys, images: int, said: str) -> None:
    figures = {part: [0.7, 0.6, 0.8] for part in ("before", "own", "after", "difference", "added")}
    card = {
        "data": {"held_out": images * ["a"], "parts_of": 0, "scenes": 0, "scenes_held_out": 0},
        "choice": {"own": 0.4, "strength": 0.5, "threshold": 0.4, "gain": 0.1, "groups": {"": 0.1}},
        "conditions": {},
        "held_out_figures": {"pooled_iou": figures, "mean_iou": figures},
        "held_out_images": {"all": images, "better": images, "worse": 0},
        "verdict": "refinement helps on the held-out images",
        "files": {"onnx": {"file": "model.onnx"}},
        "best_epoch": 1,
        "epochs": 1,
    }
    show(card, Path("run"))
    shown = capsys.readouterr().out
    assert f"New images of the same scenes {said}; of other scenes" in shown
    shares = "+0.00 by the threshold alone; by the network +70.00 pooled, +70.00 in the mean over images."
    assert f"Strength 0.5, threshold 0.4: {shares}" in " ".join(shown.split())
    assert f"{images} held-out images; the base's own threshold: 0.4\n" in shown
    assert " At 0.5  At 0.4  Refined " in shown
    show(card | {"conditions": {"folds": [["a"], ["b"]]}}, Path("run"))  # each fold has cut where the others say
    shown = capsys.readouterr().out
    assert "own threshold: 0.4, in each fold by the labels of the others\n" in shown
    assert " At 0.5  At its own  Refined " in shown


def test_the_progress_says_what_its_figures_are_of(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """They are not those of the verdict, which has the strength and the threshold that are chosen at the end."""
    monkeypatch.setattr(console.Terminal, "quiet", False)  # a command before it may have been
    stage, epoch = Stage("fold 1 of 2", 4, 0.5, True), Epoch(0, 0.25, 0.6034, True, 9.0, gain=(0.1034, 0.05, 0.15))
    line = "fold 1 of 2, epoch 1/4  loss 0.2500  IoU at strength 1: 0.5000 → 0.6034 (+10.34 [+5.00, +15.00])"
    with epochs.shown(["fold 1 of 2"], console.Terminal()) as show_epoch:
        show_epoch(stage, epoch, 61)
    assert capsys.readouterr().err == f"prn: {line}  best  1 min 01 s left\n"
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(console, "stderr", lambda: screen)
    with epochs.shown(["fold 1 of 2"], console.Terminal()) as show_epoch:
        show_epoch(stage, epoch, 61)
    assert "IoU of held-out maps at strength 1;" in " ".join(screen.file.getvalue().split())
