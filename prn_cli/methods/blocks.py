"""Parts that several networks are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LIMIT = 4.0  # spreads around a band's centre: what lies beyond says no more


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution without an offset, normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(width, width), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        return F.relu(x + self.body(x))


class RelativeBands(nn.Module):
    """Base of modules that take an image's numbers relative to each band's centre and spread over the training images.

    Both are part of the weights.

    Args:
        bands: of the image.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(bands, 1, 1))
        self.register_buffer("spread", torch.ones(bands, 1, 1))

    def set_statistics(self, centre: Sequence[float], spread: Sequence[float]) -> None:
        """Say what each band's numbers are relative to, see `prn_cli.maps.bands`."""
        set_of_bands(self.centre, centre)
        set_of_bands(self.spread, spread)

    def relative(self, image: Tensor) -> Tensor:
        """(N, C, H, W), NaN invalid → the same in spreads around the centre; 0 where invalid."""
        relative = torch.where(torch.isnan(image), 0.0, (image - self.centre) / self.spread)
        return relative.clamp(-_LIMIT, _LIMIT)


def set_of_bands(buffer: Tensor, values: Sequence[float]) -> None:
    """Put a number a band into a buffer `(C, 1, 1)`."""
    buffer.copy_(torch.tensor(values, dtype=torch.float32).reshape(buffer.shape))
