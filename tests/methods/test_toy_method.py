"""A method of another package: registered, trained, exported, refined with, chained, resumed and run on a cluster."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prn_cli.commands import app
from prn_cli.errors import UsageError
from prn_cli.maps.noise import place_seed
from prn_cli.maps.tiles import Window
from prn_cli.methods import METHODS, OBJECTIVES, Folder, load_refiner, options_of, refiner_of
from prn_cli.methods.recipe import build
from prn_cli.methods.torch_runner import TorchRunner, load_tensors
from prn_cli.methods.weights import find_tensors, find_weights
from prn_cli.refinement.rows import How, Link, refine_map, refine_rows
from prn_cli.training.augment import TrainingMap
from prn_cli.training.checkpoint import load_state, save_state
from prn_cli.training.export import export
from prn_cli.training.loop import Settings, State, base_counts, evaluate, fit, pooled_iou, tallies
from prn_cli.workflows.train import train as train_by_workflow
from prn_cli.workflows.train import train_options


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setitem(METHODS, "toy", Folder("toy_method", "Toy"))
    monkeypatch.setitem(OBJECTIVES, "bank", Folder("toy_method", "Bank"))
    yield
    for name in [name for name in sys.modules if name.startswith("toy_method")]:
        del sys.modules[name]
    sys.modules.pop("prn_cli.commands.train", None)  # which may have options of the toy


def maps(count: int, seed: int) -> list[TrainingMap]:
    """Blobs whose scores run 1 too low."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:70, :90]
    found = []
    for number in range(count):
        field = np.sin(y / random.uniform(4, 9)) + np.sin(x / random.uniform(4, 9))
        label = (field > 0).astype(np.uint8)
        found.append(TrainingMap(f"{seed}-{number}", (3 * field - 1).astype(np.float32), label, label))
    return found


def read(path: Path) -> np.ndarray:
    return np.load(path) if path.suffix == ".npy" else np.asarray(Image.open(path))


def settings() -> Settings:
    more = {"bank": options_of("bank")(weight=0.5)}
    return Settings(network="toy", objectives=more, crop=32, batch=2, epochs=3, steps=3, rate=0.02)


def train(*, until: int = 3, state: State | None = None) -> tuple[torch.nn.Module, State]:
    network = build("toy", options_of("toy")(features=5), seed=0)
    for _, reached in fit(network, maps(3, 1), maps(2, 2), settings(), state=state):
        if reached.epoch == until:
            return network, reached
    raise AssertionError("no epoch was run")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    network, state = train()
    network.load_state_dict(state.best)
    (tmp_path / "run").mkdir()
    export(network, tmp_path / "run", card={}, metadata={"prn.strength": "0.75"})
    return tmp_path / "run"


def test_it_learns_with_an_objective_that_has_parameters_and_a_state() -> None:
    _, state = train()
    before = build("toy", options_of("toy")(features=5), seed=0).state_dict()
    assert all(not torch.equal(before[name], state.network[name]) for name in before)
    bank = {name.rpartition(".")[2]: tensor for name, tensor in state.objective.items()}
    assert int(bank["filled"]) == 32
    assert len({tuple(row) for row in bank["bank"].tolist()}) > 16
    assert state.optimizer.keys() == set(range(5))  # the network's four, and the head of the objective
    assert state.best_iou > pooled_iou(base_counts(maps(2, 2)))


def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(tmp_path: Path) -> None:
    _, unbroken = train()
    _, broken = train(until=1)
    save_state(tmp_path / "state.safetensors", broken, fingerprint={"the maps": "x"})
    found = load_state(tmp_path / "state.safetensors", fingerprint={"the maps": "x"})
    assert found is not None
    _, resumed = train(state=found[0])
    for group in ("network", "average", "best", "objective"):
        for name, tensor in getattr(unbroken, group).items():
            assert torch.equal(tensor, getattr(resumed, group)[name]), (group, name)
    assert [(e.loss, e.iou) for e in resumed.history] == [(e.loss, e.iou) for e in unbroken.history]


def test_onnxruntime_and_torch_run_one_refiner(weights: Path) -> None:
    onnx = load_refiner(find_weights(str(weights)), device="cpu", threads=1)
    tensors = load_refiner(find_tensors(str(weights)), device="cpu")
    for refiner in (onnx, tensors):
        assert (type(refiner).__name__, refiner.strength, refiner.needs.overview) == ("ToyRefiner", 0.75, 16)
    logits = maps(1, 3)[0].logits
    logits[10:20, 5:30] = np.nan
    found = refine_map(logits, onnx)
    np.testing.assert_allclose(found, refine_map(logits, tensors), atol=1e-5)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(logits))
    assert np.nanmax(np.abs(found - logits)) > 0.1
    network, state = train()
    network.load_state_dict(state.best)
    strongest = tallies(network, maps(1, 3))[:, -1]
    assert strongest.shape[0] == len(evaluate(network, maps(1, 3))) == 1


def test_tiles_agree_on_the_random_numbers_of_a_pixel(weights: Path, random_logits) -> None:
    refiner = load_refiner(find_weights(str(weights)), device="cpu", threads=1)
    logits = random_logits(150, 210)
    whole = refine_map(logits, refiner, tile=256, seed=7)
    np.testing.assert_allclose(refine_map(logits, refiner, tile=64, shift=10, seed=7), whole, atol=1e-5)
    np.testing.assert_allclose(refine_map(logits, refiner, tile=64, tta=True, seed=7), whole, atol=1e-5)
    assert not np.allclose(refine_map(logits, refiner, tile=64, seed=8), whole, atol=1e-3)


def test_it_is_chained_behind_fast(weights: Path, random_logits) -> None:
    fast = load_refiner(find_weights("fast"), device="cpu", threads=1)
    toy = load_refiner(find_weights(str(weights)), device="cpu", threads=1)
    logits = random_logits(700, 300)
    logits[200:260, 40:90] = np.nan
    links = [Link(fast, 1.0, tile=352), Link(toy, tile=64)]
    rows = list(refine_rows(lambda window: logits[window.slices], 700, 300, links, How(seed=3)))
    np.testing.assert_array_equal(np.concatenate([band.logits for band in rows]), logits)
    one = refine_map(logits, fast, tile=352, strength=1.0)
    both = refine_map(one, toy, tile=64, seed=3)
    np.testing.assert_array_equal(np.concatenate([band.refined for band in rows]), both)


def test_the_command_refines_with_it_here_and_on_dask(
    weights: Path, random_logits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(weights.parent)
    Path("logits").mkdir()
    for number, size in enumerate([(300, 200), (90, 70)]):
        np.save(f"logits/{number}.npy", random_logits(*size, seed=number))
    line = ["refine", "logits", "-w", "run", "-q", "--bias"]
    assert app.run([*line, "bias-here", "-o", "here"]) == 0, capsys.readouterr().err
    refiner = load_refiner(find_weights("run"), device="cpu", threads=1)
    logits = np.load("logits/1.npy")
    expected = refine_map(logits, refiner, seed=place_seed(0, "1")) - logits
    np.testing.assert_allclose(np.load("bias-here/1.npy"), expected, atol=1e-5)
    pytest.importorskip("distributed")
    assert app.run([*line, "bias-there", "-o", "there", "--dask", "local:2", "--dask-split", "0.01"]) == 0
    outputs = [*Path("here").glob("*.png"), *Path("bias-here").glob("*.npy")]
    assert len(outputs) == 4
    for here in outputs:
        there = Path(str(here).replace("here", "there", 1))
        np.testing.assert_array_equal(read(here), read(there))


def test_the_commands_train_it_and_chain_it_behind_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "prn_cli.commands.train", raising=False)  # its options are those of what is known
    for name in ("logits", "labels"):
        Path(name).mkdir()
    for m in maps(4, 1):
        np.save(f"logits/{m.name}.npy", m.logits)
        Image.fromarray(m.label * np.uint8(255)).save(f"labels/{m.name}.png")
    line = ["train", "--network", "toy", "--features", "5", "--contrast", "bank", "--weight", "0.5", "--folds", "2"]
    sizes = ["--crop", "64", "--batch", "2", "--epochs", "2", "--steps", "2", "--threads", "1", "-q"]
    assert app.run([*line, *sizes]) == 0, capsys.readouterr().err
    assert set(load_tensors(Path("run/model.safetensors"))[0]) == set(build("toy").state_dict())
    chain = ["refine", "logits", "-w", "fast", "-w", "run", "--strength", "1", "--strength", "0.5"]
    assert app.run([*chain, "-o", "masks", "--bias", "bias", "-q"]) == 0, capsys.readouterr().err
    fast, toy = (load_refiner(find_weights(name), device="cpu", threads=1) for name in ("fast", "run"))
    for m in maps(4, 1):
        seed = place_seed(0, m.name)
        refined = refine_map(refine_map(m.logits, fast, strength=1.0), toy, strength=0.5, seed=seed)
        np.testing.assert_allclose(np.load(f"bias/{m.name}.npy"), refined - m.logits, atol=1e-5)


def test_a_network_in_training_cannot_be_pickled(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(refiner_of(TorchRunner(build("toy"))))


def test_windows_are_where_they_say(weights: Path, random_logits) -> None:
    """The place of a window, by which it draws, is that of its first pixel."""
    refiner = load_refiner(find_weights(str(weights)), device="cpu", threads=1)
    seen = {}

    def field(windows):
        for place, logits in zip(windows.places, windows.logits, strict=True):
            seen[place] = logits.copy()
        return np.zeros_like(windows.logits)

    refiner.field = field
    logits = random_logits(150, 210)
    refine_map(logits, refiner, tile=64)
    assert len(seen) > 4
    for (y, x), found in seen.items():
        here = logits[Window(y, x, *found.shape).slices]
        np.testing.assert_array_equal(found[: here.shape[0], : here.shape[1]], here)


def test_it_is_trained_by_the_workflow_with_the_options_that_it_brings(tmp_path: Path) -> None:
    for name in ("logits", "labels"):
        (tmp_path / name).mkdir()
    for number, one in enumerate(maps(4, 5)):
        np.save(tmp_path / "logits" / f"{number}.npy", one.logits)
        Image.fromarray(one.label * 255).save(tmp_path / "labels" / f"{number}.png")
    kind = train_options()
    places = {"labels": tmp_path / "labels", "out": tmp_path / "run"}
    short = {"crop": 64, "batch": 2, "epochs": 1, "steps": 2, "threads": 1}
    options = kind(
        tmp_path / "logits", **places, **short, network="toy", features=5, contrast="bank", weight=0.25, iou_weight=0
    )
    card = train_by_workflow(options).card
    assert card is not None
    settings = card["settings"]
    assert (settings["network"], settings["features"], settings["iou_weight"]) == ("toy", 5, 0)
    assert settings["objectives"] == {"bank": {"weight": 0.25}}
    assert load_refiner(find_weights(str(tmp_path / "run")), device="cpu", threads=1).name == "toy"
    for strange, message in (
        ({"features": 5}, "--features is for --network toy"),
        ({"weight": 0.25}, "--weight is for --contrast bank"),
        ({"network": "toy", "width": 16}, "--width is for --network fast"),
        ({"network": "toy", "contrast": "tank"}, "--contrast tank, expected fbr or bank"),
    ):
        with pytest.raises(UsageError, match=message):
            kind(tmp_path / "logits", **strange)
