"""The loop: it learns a bias that is there, keeps the best epoch, and goes on after a break as if there were none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from prn_cli.errors import InputError
from prn_cli.methods import options_of
from prn_cli.methods.fast.network import FastNetwork
from prn_cli.methods.recipe import build
from prn_cli.metrics.intervals import Estimate
from prn_cli.training import loop
from prn_cli.training.augment import TrainingMap
from prn_cli.training.checkpoint import load_state, save_state
from prn_cli.training.loop import Settings, State, base_counts, evaluate, fit, learning_rate, pooled_iou

RUN = {"--rate": "0.1", "the maps": "a"}


def biased_maps(count: int, seed: int, side: int = 96) -> list[TrainingMap]:
    """Blobs whose scores run 1.5 too high in the left half and 1.5 too low in the right one."""
    random = np.random.default_rng(seed)
    maps = []
    for index in range(count):
        y, x = np.mgrid[:side, :side]
        field = sum(
            np.sin(y / random.uniform(5, 15) + random.uniform(0, 6)) * np.sin(x / random.uniform(5, 15))
            for _ in range(3)
        )
        label = (field > 0.3).astype(np.uint8)
        tilt = np.where(x < side / 2, 1.5, -1.5)
        logits = (3 * (field - 0.3) + tilt + 0.3 * random.standard_normal(label.shape)).astype(np.float32)
        maps.append(TrainingMap(f"{seed}-{index}", logits, label, label))
    return maps


def small(**changes: object) -> Settings:
    return Settings(**{"crop": 64, "batch": 4, "epochs": 4, "steps": 3, **changes})  # type: ignore[arg-type]


def run(settings: Settings, *, until: int | None = None, state: State | None = None) -> tuple[FastNetwork, State]:
    torch.manual_seed(settings.seed)
    network = FastNetwork(width=8)
    reached = None
    for _, reached in fit(network, biased_maps(4, 1), biased_maps(2, 2), settings, state=state):
        if until is not None and reached.epoch >= until:
            break
    assert reached is not None
    return network, reached


def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    settings = small()
    _, unbroken = run(settings)
    _, broken = run(settings, until=2)
    save_state(tmp_path / "state.safetensors", broken, fingerprint=RUN, spent=7.0)
    state, spent = load_state(tmp_path / "state.safetensors", fingerprint=RUN)  # type: ignore[misc]
    assert spent == 7.0
    _, resumed = run(settings, state=state)
    assert resumed.epoch == unbroken.epoch == 4
    for group in ("network", "average", "best"):
        for name, tensor in getattr(unbroken, group).items():
            assert torch.equal(tensor, getattr(resumed, group)[name]), (group, name)
    assert [e.iou for e in resumed.history] == [e.iou for e in unbroken.history]
    assert [e.loss for e in resumed.history] == [e.loss for e in unbroken.history]


def test_the_seed_reproduces_and_another_differs() -> None:
    first, again, other = (run(small(epochs=1, seed=seed))[1] for seed in (3, 3, 4))
    name = "encoder.0.body.0.0.weight"
    assert torch.equal(first.network[name], again.network[name])
    assert not torch.equal(first.network[name], other.network[name])


def test_the_generator_of_all_threads_is_seeded_by_who_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network, held = FastNetwork(width=8), []
    monkeypatch.setattr(torch, "manual_seed", lambda _: held.append(loop.SEEDED.locked()))
    list(fit(network, biased_maps(4, 1), biased_maps(2, 2), small(epochs=2, rate=0.0)))
    assert held == [True] * 3  # for the objective, and for each epoch


def test_a_state_of_another_run_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    _, state = run(small(epochs=1))
    path = tmp_path / "state.safetensors"
    state.counts = np.arange(120).reshape(2, 5, 3, 4)
    save_state(path, state, fingerprint=RUN)
    with pytest.raises(InputError, match=r"other settings or other data: --rate 0\.1, not 0\.2"):
        load_state(path, fingerprint=RUN | {"--rate": "0.2"})
    with pytest.raises(InputError, match="other data: the maps"):
        load_state(path, fingerprint=RUN | {"the maps": "b"})
    found, _ = load_state(path, fingerprint=RUN)  # type: ignore[misc]
    np.testing.assert_array_equal(found.counts, state.counts)
    assert found.history == state.history
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="not a state"):
        load_state(path, fingerprint=RUN)


def test_training_ends_without_gain_and_in_time() -> None:
    _, state = run(small(epochs=50, rate=0.0, patience=2))
    assert state.epoch == 2
    assert state.best_epoch == -1  # the identity was never beaten, so it is what is kept
    network = FastNetwork(width=8)
    network.load_state_dict(state.best)
    maps = biased_maps(2, 2)
    np.testing.assert_array_equal(evaluate(network, maps), base_counts(maps))


def test_time_ends_training_and_more_time_goes_on() -> None:
    settings = small(epochs=10_000, time_budget=1.0, patience=10_000, report=2)
    _, state = run(settings)
    assert state.late
    assert state.steps < state.total == 30_000
    assert len(state.history) == state.epoch >= state.steps / 2
    assert state.history[-1].done == 1
    reached = state.steps
    state.counts = np.zeros((2, 5, 3, 4), np.int64)
    assert not list(fit(FastNetwork(width=8), biased_maps(4, 1), biased_maps(2, 2), settings, state=state))
    _, state = run(small(epochs=10_000, time_budget=state.seconds + 0.5, report=2), state=state)
    assert state.steps > reached
    assert state.counts is None  # of weights that are no more


def test_a_look_says_what_was_gained_with_its_interval() -> None:
    _, state = run(small(epochs=1))
    value, low, high = state.history[0].gain or ()
    before = pooled_iou(base_counts(biased_maps(2, 2)))
    assert value == pytest.approx((state.history[0].iou or 0) - before, abs=1e-6)
    assert low <= value <= high


def test_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(p, 1e-3) for p in np.linspace(0, 1.2, 100)]
    assert max(rates) == pytest.approx(1e-3, rel=0.01)
    assert rates[0] < 1e-4
    assert rates[-1] == pytest.approx(1e-5)


@pytest.mark.parametrize(("name", "trained", "kept"), [("fast", False, -1), ("paper", False, 0), ("paper", True, -1)])
def test_an_epoch_must_beat_what_was_there_but_not_weights_drawn_at_random(name, trained, kept, monkeypatch):
    found = iter((0.5, 0.4) if kept < 0 else (0.4,))  # the start is better, where it is looked at
    monkeypatch.setattr(loop, "pooled_iou", lambda *_: next(found))
    monkeypatch.setattr(loop, "compare", lambda *_, **__: SimpleNamespace(difference=Estimate(0.0, 0.0, 0.0)))
    settings = Settings(crop=64, batch=2, epochs=1, steps=1)
    options = {"width": 4} if name == "fast" else {"patch": 64}
    network = build(name, options_of(name)(**options), seed=0)
    ((_, state),) = fit(network, biased_maps(1, 1), biased_maps(1, 2), settings, trained=trained)
    assert state.best_epoch == kept


@pytest.mark.slow
def test_it_learns_a_bias_that_is_there() -> None:
    torch.manual_seed(0)
    network = FastNetwork(width=16)
    settings = Settings(crop=96, batch=8, epochs=12, steps=15, rate=3e-3)
    held = biased_maps(6, 2)
    state = None
    for _, state in fit(network, biased_maps(24, 1), held, settings):  # noqa: B007
        pass
    assert state is not None
    before = pooled_iou(base_counts(held))
    assert state.best_iou > before + 0.05
