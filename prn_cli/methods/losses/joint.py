"""The paper's joint loss on pseudo-labels and ground truth, every weight of it an option."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prn_cli.methods.losses.terms import binary_cross_entropy, edge_loss, focal_loss, soft_iou_loss


@dataclass(frozen=True)
class LossWeights:
    """Weights of the joint loss (PatchRefineNet, section 3.3). `pseudo=0` trains on ground truth only."""

    pseudo: float = 0.7
    """Weight of the pseudo-label terms; ground truth has 1 - `pseudo`."""
    focal: float = 0.7
    """Weight of the focal term within the pseudo-label terms; the edge term has 1 - `focal`."""
    focal_scale: float = 0.75
    focal_gamma: float = 2.0
    positive_weight: float = 1.12
    """Weight of foreground pixels in the ground-truth cross-entropy."""
    iou: float = 2.0
    """Weight of the soft IoU with the ground truth, which is added to the whole; not in the paper, whose loss has 0."""


def joint_loss(*, pred: Sequence[Tensor], pseudo: Tensor, target: Tensor, weights: LossWeights) -> Tensor:
    """The joint loss, averaged over the paths of a network.

    Args:
        pred: refined logits of each path, (N, 1, H, W).
        pseudo: pseudo-labels, (N, 1, H, W) uint8, 255 ignore.
        target: ground truth, (N, 1, H, W) uint8, 255 ignore.
        weights: of the terms.

    Returns:
        A scalar.
    """
    losses = []
    for logits in pred:
        truth = binary_cross_entropy(pred=logits, target=target, positive_weight=weights.positive_weight)
        loss = (1 - weights.pseudo) * truth
        if weights.pseudo > 0:
            region = focal_loss(pred=logits, target=pseudo, gamma=weights.focal_gamma)
            signal = weights.focal * weights.focal_scale * region
            if weights.focal < 1:
                signal = signal + (1 - weights.focal) * edge_loss(pred=logits, target=pseudo)
            loss = loss + weights.pseudo * signal
        if weights.iou > 0:
            loss = loss + weights.iou * soft_iou_loss(pred=logits, target=target)
        losses.append(loss)
    return torch.stack(losses).mean()
