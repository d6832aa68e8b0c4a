"""Between pixels and cells of several pixels: means over boxes of cells, and cells back to pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4
"""Pixels a side of the smallest cells, into which `fast` folds the map."""


def box_mean(x: Tensor, weight: Tensor, side: int) -> Tensor:
    """Mean of `x` over a side×side box around every cell, over the cells that `weight` (N, 1, H, W) counts."""

    def total(y: Tensor) -> Tensor:
        y = F.avg_pool2d(y, (side, 1), stride=1, padding=(side // 2, 0))
        return F.avg_pool2d(y, (1, side), stride=1, padding=(0, side // 2))

    return total(x * weight) / (total(weight) + 1e-4)


class BilinearUp(nn.Module):
    """Bilinear upsampling of one channel by `factor`, pixel centres aligned as `F.interpolate` aligns them.

    As a convolution with fixed weights and a shuffle of its channels, which onnxruntime runs some fifty times faster
    than a resize of one channel to full resolution.
    """

    weight: Tensor

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        offset = (torch.arange(factor) + 0.5) / factor - 0.5
        taps = torch.stack([(-offset).clamp_min(0), 1 - offset.abs(), offset.clamp_min(0)], 1)
        weight = torch.einsum("ia,jb->ijab", taps, taps).reshape(factor**2, 1, 3, 3)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) → (N, 1, factor·H, factor·W)."""
        return F.pixel_shuffle(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), self.weight), self.factor)
