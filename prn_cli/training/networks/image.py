"""The image beside the logits: what a network takes from it, at 1/4 of the resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_LIMIT = 4.0  # spreads around a band's centre: what lies beyond says no more


class ImagePath(nn.Module):
    """(N, C, H, W) image, NaN invalid, H and W multiples of 4 → features (N, width, H/4, W/4), 0 at the start.

    The image's numbers are taken relative to each band's centre and spread over the training images, which are part
    of the weights. Invalid pixels count as the centre.

    Args:
        channels: bands of the image.
        width: of the features.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(channels, 1, 1))
        self.register_buffer("spread", torch.ones(channels, 1, 1))
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def set_statistics(self, centre: Sequence[float], spread: Sequence[float]) -> None:
        """Say what each band's numbers are relative to, see `prn_cli.rasters.band_statistics`."""
        for buffer, values in ((self.centre, centre), (self.spread, spread)):
            buffer.copy_(torch.tensor(values, dtype=torch.float32).reshape(buffer.shape))

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W) → (N, width, H/4, W/4)."""
        relative = (image - self.centre) / self.spread
        relative = torch.where(torch.isnan(relative), torch.zeros_like(relative), relative).clamp(-_LIMIT, _LIMIT)
        features: Tensor = self.out(self.body(relative))
        return features
