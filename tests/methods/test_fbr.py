"""FBR against an oracle in NumPy, written from the formulas of arXiv 2406.15755; and as a part of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prn_cli.errors import UsageError
from prn_cli.methods import recipe_of
from prn_cli.methods.fbr.objective import FbrObjective, cluster, contrast, find_hard, prototype
from prn_cli.methods.fbr.options import FbrOptions
from prn_cli.methods.recipe import Batch, Outputs, build
from prn_cli.training.augment import TrainingMap
from prn_cli.training.checkpoint import load_state, save_state
from prn_cli.training.export import export
from prn_cli.training.loop import Settings, State, fit
from prn_cli.workflows.train import train, train_options


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


def loss_by_formula(q: np.ndarray, p: np.ndarray, negatives: np.ndarray, tau: float) -> float:
    near = np.exp(cosine(q, p) / tau)
    return float(-np.log(near / (near + sum(np.exp(cosine(q, n) / tau) for n in negatives))))


def hard_by_formula(p: np.ndarray, confident: float, certain: float) -> np.ndarray:
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    return (p <= np.quantile(p, 1 - confident)) & (entropy >= np.quantile(entropy, certain))


def prototype_by_formula(features: np.ndarray, p: np.ndarray, count: int) -> np.ndarray:
    top = np.argsort(-p, kind="stable")[:count]
    return (p[top, None] * features[top]).sum(0) / p[top].sum()


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 5), st.floats(0.1, 2))
def test_the_loss_is_that_of_the_formula(seed: int, queries: int, negatives: int, tau: float) -> None:
    random = np.random.default_rng(seed)
    q, p = random.normal(size=(queries, 7)), random.normal(size=7)
    n = random.normal(size=(queries, negatives, 7))
    expected = np.mean([loss_by_formula(a, p, b, tau) for a, b in zip(q, n, strict=True)])
    drawn = torch.arange(queries * negatives).reshape(queries, negatives)
    found = contrast(torch.tensor(q), torch.tensor(p), torch.tensor(n.reshape(-1, 7)), drawn, temperature=tau)
    assert float(found) == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 1000), st.integers(1, 40), st.floats(0, 0.9), st.floats(0, 0.9))
def test_hard_pixels_and_prototypes_are_those_of_the_formulas(
    seed: int, count: int, confident: float, certain: float
) -> None:
    random = np.random.default_rng(seed)
    p, features = random.uniform(0.05, 0.95, count), random.normal(size=(count, 5))
    found = find_hard(torch.tensor(p), confident=confident, certain=certain)
    np.testing.assert_array_equal(found.numpy(), hard_by_formula(p, confident, certain))
    mean = prototype(torch.tensor(features), torch.tensor(p), 4)
    np.testing.assert_allclose(mean.numpy(), prototype_by_formula(features, p, 4), atol=1e-9)


# The whole of it, on a network whose features are given.

OPTIONS = FbrOptions(contrast_width=6, bank=40, negatives=64, regions=3)


class Given(nn.Module):
    name = "fast"
    width = 4


def objective(options: FbrOptions = OPTIONS, seed: int = 0) -> FbrObjective:
    torch.manual_seed(seed)
    return FbrObjective(options, Given())


def batch(label: torch.Tensor, plane: list[int] | None = None) -> Batch[torch.Tensor]:
    label = label.to(torch.uint8)
    return Batch(
        logits=torch.zeros(label.shape),
        label=label,
        pseudo=label,
        plane=None if plane is None else torch.tensor(plane),
    )


def scene(crops: int = 2, side: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, logits and labels; the left half is foreground."""
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(crops, 4, side, side, generator=random)
    logits = torch.randn(crops, 1, side, side, generator=random)
    label = torch.zeros(crops, 1, side, side)
    label[..., : side // 2] = 1
    return features, logits, label


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def test_the_whole_objective_is_that_of_the_formulas_where_nothing_is_drawn() -> None:
    """One cluster a crop and crops alike leave one negative, whichever is drawn; a class has one feature to draw."""
    options = FbrOptions(contrast_width=6, bank=5, negatives=4, regions=1, queries=1000, prototype=0.25)
    made = objective(options)
    features, logits, label = scene(crops=1)
    label[:, :, :, 3] = 0
    label[:, :, :2, 3] = 255
    features[..., 4:] = features[0, :, 0, 4][None, :, None, None]  # one background everywhere
    features[..., 3] = features[..., 4]
    other = torch.full_like(label, 255)
    other[..., 2, 2] = 1
    both = torch.cat([features, features]), torch.cat([logits, logits - 1]), torch.cat([label, other])
    found = made(Outputs((both[1],), both[0]), batch(both[2], [1, 4]))

    rows = both[0].permute(0, 2, 3, 1).numpy()
    front, back = (
        unit(np.maximum(rows @ head.weight[:, :, 0, 0].detach().numpy().T, 0))
        for head in (made.foreground, made.background)
    )
    p = 1 / (1 + np.exp(-both[1][:, 0].numpy()))
    likeness = (front * back).sum(-1).mean()
    first, second = label[0, 0].numpy() == 1, other[0, 0].numpy() == 1
    classes = [(front[0][first], p[0][first]), (front[1][second], p[1][second])]
    means = [prototype_by_formula(f, c, 16) for f, c in classes]
    region = back[0][0, 7]
    queries = [f[hard_by_formula(c, 0.4, 0.1)] for f, c in classes]
    fb = np.mean(
        [
            np.mean([loss_by_formula(q, mean, [region] * 4, 0.5) for q in each])
            for each, mean in zip(queries, means, strict=True)
        ]
    )
    # Of the first class, the other has one feature. Of the second, the negatives are drawn from the first: bounds.
    of_first = np.mean([loss_by_formula(q, means[0], [classes[1][0][0]] * 4, 0.5) for q in queries[0]])
    drawn = [loss_by_formula(queries[1][0], means[1], [n] * 4, 0.5) for n in classes[0][0]]
    fixed = 0.1 * likeness + 0.05 * fb
    low, high = (fixed + 0.1 * (of_first + bound) / 2 for bound in (min(drawn), max(drawn)))
    assert low - 1e-5 < float(found) < high + 1e-5
    alone = objective(replace(options, if_weight=0))
    assert float(alone(Outputs((both[1],), both[0]), batch(both[2], [1, 4]))) == pytest.approx(fixed, abs=1e-5)


def test_the_gradient_reaches_the_features_and_lowers_the_loss() -> None:
    features, logits, label = scene()
    features.requires_grad_()
    only = replace(OPTIONS, separation_weight=0, fb_weight=1.0)
    made = objective(only)
    loss = made(Outputs((logits,), features), batch(label))
    (slope,) = torch.autograd.grad(loss, features)
    foreground = label.expand_as(features) == 1
    assert slope[foreground].abs().max() > 1e-4
    assert slope[~foreground].abs().max() == 0  # the bank and its clusters are constants
    step = (features - 0.5 * slope).detach()
    torch.manual_seed(1)
    before = objective(only, seed=0)(Outputs((logits,), features), batch(label))
    after = objective(only, seed=0)(Outputs((logits,), step), batch(label))
    assert after < before


def test_a_crop_of_all_classes_is_as_good_as_one_of_each() -> None:
    """Members of a class are the same, whether its crop is its own or that of all; what is drawn is the same of one."""
    features, logits, label = scene(crops=1)
    options = replace(OPTIONS, fb_weight=0.0, if_weight=1.0, separation_weight=0.0, queries=1000)
    together = torch.cat([label, 1 - label], dim=1)
    apart = objective(options)(
        Outputs((torch.cat([logits, -logits]),), torch.cat([features, features])),
        batch(torch.cat([label, 1 - label]), [0, 1]),
    )
    at_once = objective(options)(Outputs((torch.cat([logits, -logits], dim=1),), features), batch(together, [0]))
    assert float(at_once) == pytest.approx(float(apart), rel=0.05)
    assert float(at_once) > 0.1


def test_cosines_along_the_wrong_axis_would_teach_nothing() -> None:
    """Over an axis of one, as in the published code, every cosine is 1 or -1 and has no slope; over features it has."""
    q, p, n = (torch.randn(shape, requires_grad=True) for shape in ((5, 6), (6,), (9, 6)))
    wrong = F.cosine_similarity(q[:, None, :], p[None, None, :], dim=1).sum()
    assert torch.autograd.grad(wrong, q)[0].abs().max() < 1e-6
    assert torch.autograd.grad(contrast(q, p, n, torch.randint(9, (5, 3)), temperature=0.5), q)[0].abs().max() > 1e-3


@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_few_pixels_are_their_own_clusters(count: int) -> None:
    rows = torch.randn(count, 5)
    assert torch.equal(cluster(rows, 8), rows)


def test_clusters_are_the_means_of_what_lies_together() -> None:
    torch.manual_seed(0)
    groups = torch.tensor([[9.0, 0], [0, 9], [-9, 0]])
    rows = (groups[:, None] + 0.1 * torch.randn(3, 50, 2)).reshape(-1, 2)[torch.randperm(150)]
    ways = [cluster(rows[torch.randperm(150)], 3) for _ in range(8)]
    within = [float(torch.cdist(rows, centres).min(1).values.pow(2).sum()) for centres in ways]
    best = ways[int(np.argmin(within))]
    order = best[:, 0].argsort()
    torch.testing.assert_close(best[order], groups[groups[:, 0].argsort()], atol=0.1, rtol=0)
    same = cluster(torch.ones(20, 3), 8)
    assert same.shape == (8, 3)
    assert (same == 1).all()  # clusters without members stay where they were


def test_there_may_be_more_clusters_than_features_that_are_looked_at_by_default() -> None:
    assert cluster(torch.randn(2100, 2), 2000).shape == (2000, 2)


def test_the_bank_forgets_the_oldest_first() -> None:
    made = objective(FbrOptions(contrast_width=1, bank=5))
    for first, count in ((0, 3), (3, 3), (6, 0), (6, 2), (8, 7)):
        made.remember(torch.arange(first, first + count, dtype=torch.float32)[:, None])
        last = first + count
        assert sorted(made.bank[: int(made.filled), 0].tolist()) == list(range(max(last - 5, 0), last))


@pytest.mark.parametrize("case", ["one class", "no foreground", "no background", "all ignored", "NaN features"])
def test_what_a_batch_may_lack(case: str) -> None:
    features, logits, label = scene()
    plane = [3, 3]
    if case == "no foreground":
        label[:] = 0
    elif case == "no background":
        label[:] = 1
    elif case == "all ignored":
        label[:] = 255
    elif case == "NaN features":
        features[0, 1, 2, 2], features[1, :, :, 3] = np.nan, np.inf
    features.requires_grad_()
    made = objective()
    loss = made(Outputs((logits,), features), batch(label, plane))
    assert loss.isfinite()
    loss.backward()
    assert features.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())
    assert int(made.filled) == {"no background": 0, "all ignored": 0}.get(case, 6)
    if case == "no foreground":
        assert features.grad.abs().sum() > 0  # of the likeness of the heads
    everything_nan = made(Outputs((logits,), torch.full_like(features, np.nan)), batch(label, plane))
    assert float(everything_nan) == 0


def test_other_classes_count_from_two_classes_on() -> None:
    features, logits, label = scene()

    def loss(plane: list[int] | None, weight: float) -> float:
        options = replace(OPTIONS, if_weight=weight)
        return float(objective(options)(Outputs((logits,), features), batch(label, plane)))

    assert loss(None, 0) == loss(None, 5) == loss([2, 2], 5)
    assert loss([1, 2], 0) < loss([1, 2], 5)


def test_a_class_may_have_no_hard_pixel() -> None:
    """Of two, the less confident one may have the least entropy, too."""
    features, logits, label = scene()
    label[:] = 0
    label[0, :, 0, :2] = label[1, :, 0, :2] = 1
    logits[..., 0, 0], logits[..., 0, 1] = -6, 0
    assert objective()(Outputs((logits,), features), batch(label, [0, 1])).isfinite()


def test_features_may_be_coarser_than_labels() -> None:
    features, logits, label = scene()
    large = [F.interpolate(each, scale_factor=4, mode="nearest") for each in (logits, label)]
    fine = objective()(Outputs((logits,), features), batch(label))
    coarse = objective()(Outputs((large[0],), features), batch(large[1]))
    torch.testing.assert_close(fine, coarse)


def test_a_seed_gives_one_loss() -> None:
    features, logits, label = scene()
    losses = [float(objective(seed=s)(Outputs((logits,), features), batch(label, [0, 1]))) for s in (4, 4, 5)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("name", ["fast", "image"])
def test_it_moves_the_networks_that_have_features(name: str) -> None:
    recipe = recipe_of(name)
    network = build(name, bands=3 if name == "image" else 0, seed=0).train()
    features, _, label = scene(side=64)
    given = batch(label)
    if name == "image":
        network.set_range([0] * 3, [1] * 3)
        given = replace(given, image=features[:, :3])
    torch.manual_seed(0)
    found = recipe.outputs(network, given)
    assert found.features.shape[1] == recipe.feature_channels(network)
    made = FbrObjective(FbrOptions(contrast_width=8, negatives=16), network)
    made(found, given).backward()
    assert sum(float(p.grad.abs().sum()) for p in network.parameters() if p.grad is not None) > 1e-6


# In training.


def maps(count: int, seed: int) -> list[TrainingMap]:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:80, :96]
    found = []
    for number in range(count):
        field = np.sin(y / random.uniform(4, 9)) + np.sin(x / random.uniform(4, 9))
        label = (field > 0).astype(np.uint8)
        logits = (3 * field - 1).astype(np.float32)
        found.append(TrainingMap(f"{seed}-{number}", logits, label, label, plane=number % 2))
    return found


def fitted(until: int = 2, state: State | None = None, *, plain: bool = False) -> tuple[nn.Module, State]:
    network = build("fast", seed=0)
    more = {} if plain else {"fbr": FbrOptions(contrast_width=8, bank=30, negatives=16)}
    settings = Settings(objectives=more, crop=64, batch=2, epochs=2, steps=2, choose_epoch=False)
    for _, reached in fit(network, maps(2, 1), [], settings, state=state):
        if reached.epoch == until:
            return network, reached
    raise AssertionError("no epoch was run")


def test_a_resumed_run_is_the_unbroken_run(tmp_path: Path) -> None:
    _, unbroken = fitted()
    _, broken = fitted(until=1)
    save_state(tmp_path / "state.safetensors", broken, fingerprint={"the maps": "x"})
    found = load_state(tmp_path / "state.safetensors", fingerprint={"the maps": "x"})
    assert found is not None
    _, resumed = fitted(state=found[0])
    for group in ("network", "average", "objective"):
        for name, tensor in getattr(unbroken, group).items():
            assert torch.equal(tensor, getattr(resumed, group)[name]), (group, name)
    bank = {name.rpartition(".")[2]: tensor for name, tensor in unbroken.objective.items()}
    assert int(bank["filled"]) == 30


def test_exported_weights_hold_none_of_it(tmp_path: Path) -> None:
    sizes, graphs = [], []
    for plain in (True, False):
        network, state = fitted(plain=plain)
        network.load_state_dict(state.network)
        out = tmp_path / str(plain)
        out.mkdir()
        export(network, out, card={}, metadata={})
        sizes.append([(out / name).stat().st_size for name in ("model.onnx", "model.safetensors")])
        graphs.append({name: tensor.shape for name, tensor in network.state_dict().items()})
    assert sizes[0] == sizes[1]
    assert graphs[0] == graphs[1]
    assert any(
        not torch.equal(a, b)
        for a, b in zip(fitted(plain=True)[1].network.values(), state.network.values(), strict=True)
    )


def test_it_is_for_networks_with_features(tmp_path: Path) -> None:
    for name in ("logits", "labels"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "logits" / "a.npy", maps(1, 0)[0].logits)
    np.save(tmp_path / "labels" / "a.npy", maps(1, 0)[0].label)
    options = train_options()(
        tmp_path / "logits", labels=tmp_path / "labels", out=tmp_path / "run", network="paper", contrast="fbr"
    )
    with pytest.raises(UsageError, match="--contrast fbr: --network paper has no features"):
        train(options)
