"""What `segrefiner` minimises: cross-entropy, and the difference between the edges of mask and label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from prn_cli.maps.pixels import IGNORE
from prn_cli.methods.losses import binary_cross_entropy
from prn_cli.methods.objective import Objective
from prn_cli.methods.recipe import Batch, Outputs

_REACH = 2  # px around a pixel that its texture shows


class DenoisingLoss(Objective):
    """Cross-entropy and texture loss of the logits against the labels (arXiv 2312.12425, section 3)."""

    def __init__(self, texture_weight: float) -> None:
        super().__init__()
        self.texture_weight = texture_weight

    def forward(self, outputs: Outputs, batch: Batch[Tensor]) -> Tensor:
        """The sum of both."""
        (logits,) = outputs.paths
        fit = binary_cross_entropy(pred=logits, target=batch.label)
        return fit + self.texture_weight * texture_loss(logits, batch.label)


def texture_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Mean difference of the textures of (N, 1, H, W) probabilities and labels, where neither shows ignored pixels."""
    counted = F.max_pool2d((label == IGNORE).float(), 2 * _REACH + 1, 1, _REACH) == 0
    difference = texture(torch.sigmoid(logits.float())) - texture((label == 1).float())
    return (difference.abs() * counted).sum() / counted.sum().clamp_min(1)


def texture(x: Tensor) -> Tensor:
    """Magnitude of the Sobel gradient (kernels / 4) of 3×3 means of (N, 1, H, W); beyond the border are zeros."""
    x = F.pad(F.avg_pool2d(x, 3, 1, 1), (1, 1, 1, 1))
    tall = (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
    wide = (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
    across, down = tall[..., 2:] - tall[..., :-2], wide[:, :, 2:] - wide[:, :, :-2]
    return torch.sqrt(across**2 + down**2 + 1e-4)
