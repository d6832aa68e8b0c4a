"""`prn train --from --shots`: a few maps adapt weights that are there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from prn_cli.commands.app import run
from prn_cli.maps.drift import Reference
from prn_cli.methods.fast.network import FastNetwork
from prn_cli.methods.paper.network import PaperNetwork
from prn_cli.methods.recipe import describe
from prn_cli.methods.torch_runner import load_tensors
from prn_cli.methods.weights import find_tensors
from prn_cli.training.adapt import load_start
from prn_cli.training.augment import TrainingMap
from prn_cli.workflows.training.holdout import _pieces

SHORT = ("--crop", "64", "--batch", "2", "--epochs", "1", "--steps", "2", "--threads", "1")
ADAPT = ("train", "--from", "start", *SHORT)


Prn = Callable[..., tuple[int, str, str]]


@pytest.fixture
def prn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prn:
    """Runs a command line in the test's folder, in this process: to load torch each time would take longer."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def card_of(done: tuple[int, str, str]) -> dict[str, Any]:
    code, out, error = done
    assert code == 0, error
    return dict(json.loads(out))


def draw_set(folder: Path, count: int, shape: tuple[int, int]) -> None:
    """Labelled maps of blobs, whose scores run too low by 1."""
    for name in ("logits", "labels"):
        (folder / name).mkdir()
    random = np.random.default_rng(0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for index in range(count):
        field = np.sin(y / random.uniform(4, 9)) + np.sin(x / random.uniform(4, 9) + index)
        np.save(folder / "logits" / f"tile{index}.npy", (3 * field - 1).astype(np.float32))
        Image.fromarray(((field > 0) * 255).astype(np.uint8)).save(folder / "labels" / f"tile{index}.png")


def write_weights(folder: Path, network: torch.nn.Module, **more: str) -> None:
    """Weights with heads that are not zero, as after training."""
    torch.manual_seed(0)
    if isinstance(network, FastNetwork):
        for head in (network.global_head, network.local_head):
            torch.nn.init.normal_(head.weight, std=0.05)
    folder.mkdir()
    save_file(
        network.state_dict(), folder / "model.safetensors", metadata={"prn": json.dumps(describe(network) | more)}
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw_set(tmp_path, 6, (80, 100))
    write_weights(tmp_path / "start", FastNetwork(8, keep_level=True))
    return tmp_path


def test_goes_on_from_the_weights_and_says_so(folder: Path, prn: Prn) -> None:
    card = card_of(prn(*ADAPT, "--rate", "0", "--folds", "1", "--json"))
    before, _ = load_tensors(folder / "start" / "model.safetensors")
    after, description = load_tensors(folder / "run" / "model.safetensors")
    parameters = dict(FastNetwork(8, keep_level=True).named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in parameters)
    assert (description["prn.width"], description["prn.keep_level"]) == ("8", "1")
    assert card["settings"]["keep_level"] is True
    found = find_tensors(str(folder / "start"))
    assert card["from"] == {"name": "start", "sha256": found.sha256}

    write_weights(folder / "other", FastNetwork(8))
    code, _, error = prn("train", "--from", "other", *SHORT, "--rate", "0", "--folds", "1", "--resume")
    assert code == 1
    assert "other settings or other data" in error
    quick = ("--crop", "64", "--batch", "1", "--threads", "1", "--folds", "1", "--time-budget", "0.1")
    gentle = prn(*ADAPT[:3], *quick, "-o", "gentle", "--json")
    settings = card_of(gentle)["settings"]
    assert (settings["epochs"], settings["steps"]) == (4, 25)


@pytest.mark.parametrize(("maps", "kept"), [(6, True), (10, False)])
def test_few_maps_do_not_move_the_level(tmp_path: Path, prn: Prn, maps: int, kept: bool) -> None:
    draw_set(tmp_path, maps, (80, 100))
    write_weights(tmp_path / "start", FastNetwork(8))
    card = card_of(prn(*ADAPT, "--folds", "1", "--json"))
    assert (card["settings"]["keep_level"], card["keep_level"]) == (kept, str(int(kept)))


@pytest.mark.parametrize(("maps", "epochs", "rate"), [(9, 4, 2e-4), (10, 7, 1e-3)])
def test_the_schedule_is_that_of_the_number_of_maps(
    tmp_path: Path, prn: Prn, maps: int, epochs: int, rate: float
) -> None:
    draw_set(tmp_path, maps, (64, 64))
    write_weights(tmp_path / "start", FastNetwork(4))
    line = ("train", "--from", "start", "--crop", 64, "--batch", 1, "--steps", 1, "--folds", 1, "--json")
    settings = card_of(prn(*line))["settings"]
    assert (settings["epochs"], settings["rate"], settings["steps"]) == (epochs, rate, 1)
    settings = card_of(prn(*line, "--rate", 0.01, "--epochs", 2, "--overwrite"))["settings"]
    assert (settings["epochs"], settings["rate"]) == (2, 0.01)


def test_what_the_weights_had_learned_from_is_not_unknown_to_them(folder: Path, prn: Prn) -> None:
    known = Reference(low=(-9.0,) * 6, high=(9.0,) * 6, spread=(2.0,) * 6)
    write_weights(folder / "wide", FastNetwork(8), **{"prn.reference": known.to_json()})
    card_of(prn("train", "--from", "wide", *SHORT, "--folds", "1", "-o", "run", "--json"))
    _, description = load_tensors(folder / "run" / "model.safetensors")
    assert Reference.from_json(description["prn.reference"]) == known


def test_learns_from_so_many_maps_and_no_more(folder: Path, prn: Prn) -> None:
    drawn = {}
    for count in (4, 5):
        options = ("--shots", count, "--seed", "3", "--folds", "2")
        data = card_of(prn(*ADAPT, *options, "-o", f"run{count}", "--json"))["data"]
        drawn[count] = set(data["learned_from"])
        assert (len(drawn[count]), data["unused"]) == (count, 6 - count)
        assert set(data["held_out"]) == drawn[count]
    assert drawn[4] < drawn[5]
    code, _, error = prn(*ADAPT, "--shots", 7, "-o", "more")
    assert code == 2
    assert "--shots 7, but there are 6 labelled maps" in error


@pytest.mark.parametrize("count", [1, 2])
def test_parts_of_a_map_are_held_out_where_there_is_no_other(tmp_path: Path, prn: Prn, count: int) -> None:
    draw_set(tmp_path, count, (256, 257))
    write_weights(tmp_path / "start", FastNetwork(8))
    card = card_of(prn(*ADAPT, "--json"))
    places = ("north-west", "north-east", "south-west", "south-east")
    assert sorted(card["data"]["held_out"]) == sorted(f"tile{i} {place}" for i in range(count) for place in places)
    assert card["data"]["learned_from"] == [f"tile{index}" for index in range(count)]
    assert "parts of" in card["verdict"]
    log = [json.loads(line)["stage"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(log) == len(set(log)) == 5
    assert prn("refine", "logits", "-o", "masks", "--weights", "run")[0] == 0


def test_parts_of_maps_of_several_classes_are_held_out_together(tmp_path: Path, prn: Prn) -> None:
    for name in ("logits", "labels"):
        (tmp_path / name).mkdir()
    scores = np.random.default_rng(0).normal(size=(3, 256, 256)).astype(np.float32)
    np.save(tmp_path / "logits" / "one.npy", scores)
    Image.fromarray(scores.argmax(0).astype(np.uint8)).save(tmp_path / "labels" / "one.png")
    write_weights(tmp_path / "start", FastNetwork(8))
    card = card_of(prn(*ADAPT, "--folds", "2", "--task", "multiclass", "--input-kind", "logits", "--json"))
    assert (len(card["data"]["held_out"]), card["data"]["parts_of"]) == (4, 1)
    assert len(card["choice"]["groups"]) == 3


def test_parts_of_several_classes_follow_each_other_as_their_maps_do() -> None:
    maps = [
        TrainingMap(name, np.full((256, 256), index, np.float32), *np.zeros((2, 256, 256), np.uint8))
        for name in ("a", "b")
        for index in range(3)
    ]
    parts = [part for part, _ in _pieces(maps)]
    assert [part.logits[0, 0] for part in parts] == [0, 1, 2] * 8
    assert all(len({part.name for part in parts[first : first + 3]}) == 1 for first in range(0, 24, 3))


def test_a_map_too_small_to_be_cut_is_refused(folder: Path, prn: Prn) -> None:
    code, _, error = prn(*ADAPT, "--shots", 1)
    assert code == 1
    assert "1 labelled map, expected at least 2" in error
    assert "256 px" in error


def label_lower(folder: Path) -> None:
    """Labels that are foreground above a logit of -2.5, more or less."""
    random = np.random.default_rng(0)
    for index in range(6):
        logits = np.load(folder / "logits" / f"tile{index}.npy")
        label = logits + random.logistic(size=logits.shape) > -2.5
        Image.fromarray((label * 255).astype(np.uint8)).save(folder / "labels" / f"tile{index}.png")


@pytest.mark.parametrize("shots", [3, 5])
def test_of_a_few_maps_without_weights_the_threshold_alone_is_learned(folder: Path, prn: Prn, shots: int) -> None:
    label_lower(folder)
    card = card_of(prn("train", "--shots", shots, "--threads", 1, "--json"))
    assert (card["strength"], card["epochs"], len(card["data"]["learned_from"])) == ("0", 0, shots)
    assert 0 < float(card["threshold"]) < 0.5
    assert "the threshold alone is learned" in card["verdict"]
    assert card["held_out_figures"]["pooled_iou"]["difference"][0] > 0

    code, _, error = prn("refine", "logits", "-o", "masks", "--weights", "run", "--format", "png")
    assert code == 0, error
    assert f"by {shots} maps with labels for 6 maps" in error
    lines = map(json.loads, (folder / "masks" / "prn-manifest.jsonl").read_text().splitlines())
    threshold = {line["settings"]["threshold"] for line in lines if "settings" in line}.pop()
    assert 0 < threshold < 0.5
    logits = np.load(folder / "logits" / "tile0.npy")
    least = np.log(threshold) - np.log1p(-threshold)
    mask = np.asarray(Image.open(next((folder / "masks").glob("tile0.*"))))
    assert np.array_equal(mask > 0, logits > np.float32(least))


def test_what_a_few_maps_have_said_goes_with_the_network(folder: Path, prn: Prn) -> None:
    """With the file alone, and with what is exported anew."""
    label_lower(folder)
    assert prn("train", "--shots", 3, "--threads", 1, "--quiet")[0] == 0
    assert prn("weights", "export", "run/model.safetensors", "-o", "again")[0] == 0
    alone = Path(shutil.copy(folder / "run" / "model.onnx", folder / "alone.onnx"))
    said = [prn("refine", "logits", "-o", f"of-{Path(name).stem}", "-w", name)[2] for name in ("run", "again", alone)]
    chosen = [re.findall("cut at .*, chosen by 3 maps with labels for 6 maps.*", error) for error in said]
    assert len(chosen[0]) == 1
    assert chosen[1:] == 2 * chosen[:1]
    model = onnx.load(alone)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, entries | {"prn.evidence": '{"maps": 3}'})
    onnx.save(model, alone)
    code, _, error = prn("refine", "logits", "-o", "masks", "--weights", alone)
    assert (code, "alone.onnx: holds no evidence of labelled maps" in error) == (1, True)


def test_weights_that_cannot_help_are_switched_off(folder: Path, prn: Prn) -> None:
    for index in range(6):  # labels that no correction can better
        logits = np.load(folder / "logits" / f"tile{index}.npy")
        Image.fromarray(((logits > 0) * 255).astype(np.uint8)).save(folder / "labels" / f"tile{index}.png")
    card = card_of(prn(*ADAPT, "--shots", 4, "--json"))
    assert (card["strength"], card["threshold"]) == ("0", "0.5")
    assert card["verdict"] == "refinement does not help on the held-out images"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--from", "quick"), 1, "no weights named 'quick'"),
        (("--from", "logits"), 1, "holds no model.safetensors"),
        (("--from", "logits/tile0.npy"), 1, "not a safetensors file"),
        (("--from", "start", "--network", "paper"), 2, "--from is for --network fast"),
        (("--from", "start", "--width", "16"), 2, "these weights have width 8, and --width is 16"),
        (("--from", "paper"), 2, "--from is for --network fast or segrefiner or image, not paper"),
        (("--from", "start", "--network", "image"), 2, "these are weights of 'fast', expected 'image'"),
        (("--from", "image"), 2, "these weights see images of 3 bands, expected --images"),
        (("--from", "start", "--images", "labels"), 2, "these weights see no images, and --images gives images of 1"),
        (("--from", "broken"), 1, "broken/model.safetensors: damaged"),
        (("--from", "guided"), 2, "these weights see images of 3 bands, expected --images"),
        (("--from", "start", "--shots", "2", "--validation-stems", "held.txt"), 2, "exclude each other"),
    ],
)
def test_what_does_not_fit_is_refused(
    folder: Path, prn: Prn, arguments: tuple[str, ...], code: int, message: str
) -> None:
    made = {
        "paper": PaperNetwork,
        "guided": lambda: FastNetwork(image_channels=3),
        "broken": FastNetwork,
    }
    if arguments[1] in made:
        more = {"prn.reference": "{broken"} if arguments[1] == "broken" else {}
        write_weights(folder / arguments[1], made[arguments[1]](), **more)
    found, _, error = prn("train", *arguments)
    assert found == code, error
    assert message in error
    assert "Traceback" not in error
    assert not (folder / "run" / "model.onnx").exists()


def test_broken_weights_to_go_on_from_are_named(folder: Path, prn: Prn) -> None:
    network = FastNetwork(8)
    network.global_head.bias.data[0] = float("nan")
    save_file(network.state_dict(), folder / "broken.safetensors", metadata={"prn": json.dumps(describe(network))})
    code, _, error = prn("train", "--from", "broken.safetensors", *SHORT)
    assert code == 1
    assert "broken.safetensors: has weights that are not finite" in error


def test_an_edge_path_is_taken_over(folder: Path, prn: Prn) -> None:
    start = FastNetwork(8, image_channels=1)
    start.edge_path.set_statistics([3.0], [7.0])
    write_weights(folder / "guided", start)
    card = card_of(prn("train", "--from", "guided", "--images", "labels", *SHORT, "--rate", "0", "--json"))
    assert card["image_channels"] == "1"
    taken, _ = load_tensors(folder / "run" / "model.safetensors")
    for name, tensor in start.edge_path.state_dict().items():
        assert torch.equal(taken[f"edge_path.{name}"], tensor), name


def test_a_start_is_what_was_saved(folder: Path, prn: Prn) -> None:
    (folder / "start" / "model.onnx").touch()
    found = find_tensors(str(folder / "start" / "model.onnx"))
    assert found.path == folder / "start" / "model.safetensors"
    start = load_start(found)
    assert (start.options().width, start.options().keep_level, start.bands) == (8, True, 0)
    planes = torch.randn(1, 1, 64, 64)
    network = start.network().eval()
    again = FastNetwork(8, keep_level=True).eval()
    again.load_state_dict(load_tensors(found.path)[0])
    assert torch.equal(network(planes), again(planes))
