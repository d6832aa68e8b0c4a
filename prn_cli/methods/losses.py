"""The terms of the joint loss, one function each.

Everywhere: `pred` is (N, 1, H, W) float logits; `target` is (N, 1, H, W) uint8: 0 background, 1 foreground, 255 ignore.
The value is a mean over the pixels that are not ignored and whose logit is finite; 0 if there are none.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prn_cli.maps.pixels import IGNORE


def _counted(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits without NaN, targets in {0, 1}, and a weight of 1 where a pixel counts."""
    weight = ((target != IGNORE) & torch.isfinite(pred)).to(torch.float32)
    return torch.where(weight > 0, pred, 0.0).float(), (target == 1).to(torch.float32), weight


def _mean(value: Tensor, weight: Tensor) -> Tensor:
    return (value * weight).sum() / weight.sum().clamp_min(1)


def binary_cross_entropy(*, pred: Tensor, target: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Cross-entropy with foreground pixels weighted by `positive_weight`."""
    logits, truth, weight = _counted(pred, target)
    loss = F.binary_cross_entropy_with_logits(
        logits, truth, pos_weight=logits.new_tensor(positive_weight), reduction="none"
    )
    return _mean(loss, weight)


def focal_loss(*, pred: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Cross-entropy times (1 - p of the true class)^gamma (Lin et al. 2017), without a class weight."""
    logits, truth, weight = _counted(pred, target)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    wrong = 1 - torch.exp(-cross_entropy)
    return _mean((wrong * wrong if gamma == 2 else wrong**gamma) * cross_entropy, weight)  # a power is slow


def soft_iou_loss(*, pred: Tensor, target: Tensor) -> Tensor:
    """1 - IoU of the probabilities, pooled over the batch (Rahman and Wang 2016): the figure itself, made smooth.

    Cross-entropy alone makes a weak base model timid: probabilities that are right on average are below 0.5 almost
    everywhere, and the mask vanishes.
    """
    logits, truth, weight = _counted(pred, target)
    probability, truth = torch.sigmoid(logits) * weight, truth * weight
    both = (probability * truth).sum()
    return 1 - (both + 1) / (probability.sum() + truth.sum() - both + 1)


class _LabelLoss(torch.autograd.Function):
    """Both losses of the labels with their gradient, in half the time.

    They are functions of the probability of the wrong class: -log(1 - wrong), and its sums over either class.
    """

    @staticmethod
    def forward(ctx: Any, pred: Tensor, target: Tensor, weights: tuple[float, float, float]) -> Tensor:
        logits, truth = pred.detach().float().flatten(), target.flatten()
        counted = (truth != IGNORE) & torch.isfinite(logits)
        every = bool(counted.all())
        if not every:
            logits, truth = logits[counted], truth[counted]
        of_entropy, of_positives, of_iou = weights
        sign = truth.to(torch.float32).mul_(-2).add_(1)  # -1 where it is foreground
        right = torch.sigmoid(-sign * logits)
        wrong, foreground = 1 - right, (1 - sign).mul_(0.5)
        weight = (foreground * (of_positives - 1) + 1).mul_(of_entropy / max(len(logits), 1))
        positives, missed = foreground.sum(), wrong @ foreground
        false = wrong.sum() - missed
        both, either = positives - missed + 1, positives + false + 1
        # The gradient by the wrong class's logit: of the entropy, its probability; of the IoU, by the quotient rule.
        slope = torch.lerp(both / either**2, 1 / either, foreground)
        gradient = right.mul(slope).mul_(of_iou).add_(weight).mul_(wrong).mul_(sign)
        if not every:
            gradient = gradient.new_zeros(counted.shape).masked_scatter_(counted, gradient)
        ctx.save_for_backward(gradient.reshape(pred.shape).to(pred.dtype))
        entropy = right.clamp_min_(torch.finfo(torch.float32).tiny).log_() @ weight
        return of_iou * (1 - both / either) - entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None


def label_loss(
    *, pred: Tensor, target: Tensor, entropy_weight: float = 1.0, positive_weight: float = 1.0, iou_weight: float = 0.0
) -> Tensor:
    """`binary_cross_entropy` and `soft_iou_loss`, weighted and added."""
    weights = (entropy_weight, positive_weight, iou_weight)
    return _LabelLoss.apply(pred, target, weights)  # type: ignore[no-any-return, no-untyped-call]


def edge_map(probability: Tensor) -> Tensor:
    """ReLU(tanh(8-neighbour Laplacian)) of (N, 1, H, W) values in [0, 1]: the rim of the foreground from inside."""
    # Eight times a pixel less its neighbours is nine times the pixel less the sum of its 3×3.
    above, here, below = _three(probability, -2)
    total = sum(_three(above + here + below, -1))
    return F.relu(torch.tanh(9 * probability - total))


def _three(x: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """The value before, at and after each place along an axis; at the ends, the last one again.

    Sums and minima of these are several times as fast as pooling by a window of 3.
    """
    size = x.shape[axis]
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, size - 1, 1)
    before = torch.cat([first, x.narrow(axis, 0, size - 1)], axis)
    return before, x, torch.cat([x.narrow(axis, 1, size - 1), last], axis)


def edge_loss(*, pred: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy between the edge maps of the predicted probability and of the target."""
    logits, truth, weight = _counted(pred, target)
    # A pixel beside one that does not count has no edge value of its own.
    for axis in (-2, -1):
        before, here, after = _three(weight, axis)
        weight = torch.minimum(torch.minimum(before, here), after)
    predicted = edge_map(torch.sigmoid(logits)).clamp(1e-4, 1 - 1e-4)
    edges = edge_map(truth)
    loss = -(edges * torch.log(predicted) + (1 - edges) * torch.log1p(-predicted))
    return _mean(loss, weight)
