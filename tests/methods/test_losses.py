"""The joint loss against the formula of the paper, pixel by pixel in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_cli.methods.losses import binary_cross_entropy, edge_loss, edge_map, focal_loss, label_loss, soft_iou_loss
from prn_cli.methods.objective import JointLoss
from prn_cli.methods.options import JointLossOptions
from prn_cli.methods.recipe import Batch, Outputs


def joint_loss(*, pred, pseudo, target, **weights) -> torch.Tensor:
    return JointLoss(JointLossOptions(**weights))(Outputs(pred), Batch(pred[0], target, pseudo))


def sample(seed: int = 0, ignored: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.standard_normal((2, 1, 9, 11)) * 3)
    target = torch.from_numpy(random.integers(0, 2, (2, 1, 9, 11)).astype(np.uint8))
    if ignored:
        target[0, 0, 2:4, 3:6] = 255
        logits[1, 0, 0, 0] = torch.nan
    return logits, target


def test_cross_entropy_and_focal_loss_by_the_formula() -> None:
    logits, target = sample()
    z, y = logits.numpy().ravel(), target.numpy().ravel()
    keep = (y != 255) & np.isfinite(z)
    p, y = 1 / (1 + np.exp(-z[keep])), y[keep].astype(float)
    expected = np.mean(-(1.12 * y * np.log(p) + (1 - y) * np.log(1 - p)))
    assert float(binary_cross_entropy(pred=logits, target=target, positive_weight=1.12)) == pytest.approx(
        expected, 1e-5
    )
    true_class = np.where(y == 1, p, 1 - p)
    expected = np.mean(-((1 - true_class) ** 2) * np.log(true_class))
    assert float(focal_loss(pred=logits, target=target, gamma=2.0)) == pytest.approx(expected, 1e-5)


def test_edge_map_is_the_laplacian_of_eight_neighbours() -> None:
    square = torch.zeros(1, 1, 6, 6)
    square[..., 2:4, 2:4] = 1
    edges = edge_map(square)[0, 0]
    assert float(edges[2, 2]) == pytest.approx(np.tanh(5))  # 8 - the three neighbours inside
    assert float(edges[1, 1]) == 0
    assert float(edge_map(torch.ones(1, 1, 5, 5)).max()) == 0


def test_edge_loss_leaves_out_what_touches_an_ignored_pixel() -> None:
    logits, target = sample(ignored=False)
    target[0, 0, 4, 4] = 255
    loss = edge_loss(pred=logits, target=target)
    for value in (0, 1):
        other = target.clone()
        other_logits = logits.clone()
        other_logits[0, 0, 4, 4] = 50.0 * value
        assert float(edge_loss(pred=other_logits, target=other)) == pytest.approx(float(loss))


def test_soft_iou_of_sure_predictions_is_the_iou() -> None:
    logits, target = sample()
    sure = torch.where(logits > 0, 40.0, -40.0).where(torch.isfinite(logits), torch.nan)
    keep = (target != 255) & torch.isfinite(logits)
    both = int(((sure > 0) & (target == 1) & keep).sum())
    either = int((((sure > 0) | (target == 1)) & keep).sum())
    assert float(soft_iou_loss(pred=sure, target=target)) == pytest.approx(1 - (both + 1) / (either + 1))


def test_losses_cannot_be_called_with_arguments_swapped() -> None:
    logits, target = sample()
    for loss in (binary_cross_entropy, focal_loss, edge_loss, soft_iou_loss):
        with pytest.raises(TypeError):
            loss(logits, target)  # type: ignore[misc]


def test_joint_loss_is_the_weighted_sum_averaged_over_the_paths() -> None:
    logits, target = sample(0)
    other, pseudo = sample(1)
    total = joint_loss(pred=(logits, other), pseudo=pseudo, target=target, iou_weight=0)
    expected = np.mean(
        [
            0.7
            * (0.7 * 0.75 * float(focal_loss(pred=z, target=pseudo)) + 0.3 * float(edge_loss(pred=z, target=pseudo)))
            + 0.3 * float(binary_cross_entropy(pred=z, target=target, positive_weight=1.12))
            for z in (logits, other)
        ]
    )
    assert float(total) == pytest.approx(expected, 1e-6)
    with_iou = joint_loss(pred=(logits, other), pseudo=pseudo, target=target, iou_weight=2)
    added = np.mean([float(soft_iou_loss(pred=z, target=target)) for z in (logits, other)])
    assert float(with_iou) == pytest.approx(expected + 2 * added, 1e-6)
    labels_only = joint_loss(pred=(logits,), pseudo=pseudo, target=target, pseudo_weight=0, iou_weight=0)
    assert float(labels_only) == pytest.approx(
        float(binary_cross_entropy(pred=logits, target=target, positive_weight=1.12)), 1e-6
    )


@pytest.mark.parametrize("pseudo", [0.0, 0.7])
def test_nothing_valid_costs_nothing_and_moves_nothing(pseudo: float) -> None:
    logits = torch.full((1, 1, 4, 4), torch.nan, requires_grad=True)
    target = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    loss = joint_loss(pred=(logits,), pseudo=target, target=target, pseudo_weight=pseudo)
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert float(logits.grad.nan_to_num().abs().max()) == 0


@given(seed=st.integers(0, 500), ignored=st.booleans(), entropy=st.floats(0, 1), iou=st.floats(0, 3))
@settings(max_examples=40, deadline=None)
def test_both_losses_of_the_labels_at_once_are_their_sum_with_its_gradient(
    seed: int, ignored: bool, entropy: float, iou: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pred = 6 * torch.randn(2, 1, 9, 8, generator=generator)
    target = (torch.rand(2, 1, 9, 8, generator=generator) > 0.6).to(torch.uint8)
    if ignored:
        target[torch.rand(target.shape, generator=generator) < 0.2] = 255
        pred[torch.rand(pred.shape, generator=generator) < 0.2] = torch.nan
    pred.requires_grad_()
    apart = entropy * binary_cross_entropy(pred=pred, target=target, positive_weight=1.12)
    apart = apart + iou * soft_iou_loss(pred=pred, target=target)
    at_once = label_loss(pred=pred, target=target, entropy_weight=entropy, positive_weight=1.12, iou_weight=iou)
    torch.testing.assert_close(at_once, apart, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(3 * loss, pred)[0] for loss in (at_once, apart)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)
