"""What training minimises: objectives, which add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prn_cli.methods.losses import edge_loss, focal_loss, label_loss

if TYPE_CHECKING:
    from prn_cli.methods.options import JointLossOptions
    from prn_cli.methods.recipe import Batch, Outputs


class Objective(nn.Module):
    """A loss of what a network gives on a batch: `objective(outputs, batch)` is a scalar.

    It may have parameters, which are trained with the network's, and a state: both are in its `state_dict`, which is
    part of a run's checkpoint, so a state lies in buffers. Random numbers come from torch's generator, which is seeded
    anew in every epoch. Where several processes train, each sees the whole batch.

    Attributes:
        needs_features: whether it looks at the network's features.
    """

    needs_features = False

    def __add__(self, other: Objective) -> Objective:
        return Total([self, other])

    if TYPE_CHECKING:

        def __call__(self, outputs: Outputs, batch: Batch[Tensor]) -> Tensor:
            """The loss."""


class Total(Objective):
    """The sum of several objectives."""

    def __init__(self, parts: list[Objective]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.needs_features = any(part.needs_features for part in parts)

    def forward(self, outputs: Outputs, batch: Batch[Tensor]) -> Tensor:
        """The sum of the losses."""
        return torch.stack([part(outputs, batch) for part in self.parts]).sum()


class JointLoss(Objective):
    """The joint loss on pseudo-labels and ground truth, averaged over the paths of a network.

    PatchRefineNet (WACV 2024), section 3.3, with a soft IoU added to it.
    """

    def __init__(self, options: JointLossOptions) -> None:
        super().__init__()
        self.options = options

    def forward(self, outputs: Outputs, batch: Batch[Any]) -> Tensor:
        """The mean of the paths' losses."""
        return torch.stack([self._path(logits, batch.pseudo, batch.label) for logits in outputs.paths]).mean()

    def _path(self, logits: Tensor, pseudo: Tensor, target: Tensor) -> Tensor:
        weights = self.options
        loss = label_loss(
            pred=logits,
            target=target,
            entropy_weight=1 - weights.pseudo_weight,
            positive_weight=weights.positive_weight,
            iou_weight=weights.iou_weight,
        )
        if weights.pseudo_weight > 0:
            region = focal_loss(pred=logits, target=pseudo, gamma=weights.focal_gamma)
            signal = weights.focal_weight * weights.focal_scale * region
            if weights.focal_weight < 1:
                signal = signal + (1 - weights.focal_weight) * edge_loss(pred=logits, target=pseudo)
            loss = loss + weights.pseudo_weight * signal
        return loss
