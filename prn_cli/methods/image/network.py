"""An encoder that sees the image once, and a light U-shaped decoder that turns logits and features into a bias map.

The bias is bounded, and its bound shrinks where the base model is sure: what it is sure of stays as it is.
The decoder starts at zero, so an untrained network is the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prn_cli.methods.blocks import ResidualBlock, conv_norm, set_of_bands
from prn_cli.methods.image.encoder import CHANNELS, Encoder
from prn_cli.methods.image.refiner import LIMIT

WIDTHS = (16, 32, 64, 96)
"""Channels of the decoder at 1/2, 1/4, 1/8 and 1/16 of the resolution."""
CONTEXT = (5, 13)
"""Sides of the context averages, in cells of 16 px."""
REACH = 10.0
"""The largest change of a logit, where the base model is undecided."""
_SURE = 5.0  # logits over which the bound falls to 1/e
_LEAST = 0.1  # of the bound, where the base model is sure
BANDS = 3
"""Of the image."""
_PLANES = 6  # the image, the logits, their side, and where they are valid


class Decoder(nn.Module):
    """Planes at full resolution and features of the image → (N, found, H, W), what the bias is made of."""

    def __init__(self, found: int) -> None:
        super().__init__()
        half, quarter, eighth, deepest = WIDTHS
        self.stem = nn.Sequential(conv_norm(_PLANES * 4 + CHANNELS[0], half, 1), conv_norm(half, half))
        self.down = nn.ModuleList([conv_norm(i, o, stride=2) for i, o in pairwise(WIDTHS)])
        self.see = nn.ModuleList([conv_norm(w + c, w, 1) for w, c in zip(WIDTHS[1:], CHANNELS[1:], strict=True)])
        self.encode = nn.ModuleList([ResidualBlock(w) for w in WIDTHS[1:]])
        self.context = nn.ModuleList([conv_norm(deepest, 24, 1) for _ in CONTEXT])
        self.merge = nn.Sequential(conv_norm(deepest + 24 * len(CONTEXT), deepest, 1), ResidualBlock(deepest))
        self.up = nn.ModuleList(
            [nn.Conv2d(i, o, 1) for i, o in ((deepest, eighth), (eighth, quarter), (quarter, half))]
        )
        self.decode = nn.ModuleList([ResidualBlock(eighth), ResidualBlock(quarter), conv_norm(half, half)])
        self.head = nn.Conv2d(half, 4 * found, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, planes: Tensor, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Planes (N, 6, H, W) and the features of the encoder; gives its own last features, too, (N, F, H/2, W/2)."""
        x = self.stem(torch.cat([F.pixel_unshuffle(planes, 2), features[0]], 1))
        skips = [x]
        for down, see, encode, seen in zip(self.down, self.see, self.encode, features[1:], strict=True):
            x = encode(see(torch.cat([down(x), seen], 1)))
            skips.append(x)
        around = [_around(project(x), side) for project, side in zip(self.context, CONTEXT, strict=True)]
        x = self.merge(torch.cat([x, *around], 1))
        for up, decode, skip in zip(self.up, self.decode, skips[-2::-1], strict=True):
            x = decode(F.interpolate(up(x), scale_factor=2.0, mode="nearest") + skip)
        return F.pixel_shuffle(self.head(x), 2), x


def _around(x: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False)


class ImageNetwork(nn.Module):
    """(N, 1, H, W) logits, NaN invalid, and (N, 3, H, W) image in [-1, 1] → a bias map; H and W multiples of 16.

    Args:
        freeze_encoder: train the decoder alone.
        two_views: in refinement, apply only what two views of each place agree on.
        hide_scores: it is to look at the image alone: in training and in refinement, it is given `hidden` logits.
        planes: classes that it finds at once, if scores are hidden; it cannot know which one is asked for.
    """

    name = "image"
    multiple = 16
    halo = 96
    tile = 1024

    low: Tensor
    high: Tensor

    def __init__(
        self, *, freeze_encoder: bool = False, two_views: bool = False, hide_scores: bool = False, planes: int = 1
    ) -> None:
        super().__init__()
        self.freeze_encoder, self.two_views = freeze_encoder, two_views
        self.hide_scores, self.planes = hide_scores, planes
        self.register_buffer("low", torch.zeros(BANDS, 1, 1))
        self.register_buffer("high", torch.zeros(BANDS, 1, 1))
        self.encoder = Encoder()
        self.encoder.requires_grad_(not freeze_encoder)
        self.decoder = Decoder(planes)

    @property
    def knows_range(self) -> bool:
        """Whether the range of each band of the images is known; if not, each set has its own."""
        return bool((self.high > self.low).all())

    def set_range(self, low: Sequence[float], high: Sequence[float]) -> None:
        """Set the range of each band of the images."""
        set_of_bands(self.low, low)
        set_of_bands(self.high, high)

    def stretched(self, image: Tensor) -> Tensor:
        """The image, (N, 3, H, W), in its range: [-1, 1], and half as much on either side."""
        return (2 * (image - self.low) / (self.high - self.low) - 1).clamp(-LIMIT, LIMIT)

    def bias(self, logits: Tensor, image: Tensor, features: Sequence[Tensor] | None = None) -> Tensor:
        """The bias maps, (N, planes, H, W), finite; 0 where the logits are invalid.

        Args:
            logits: (N, 1, H, W), NaN invalid.
            image: (N, 3, H, W) in [-1, 1], NaN invalid.
            features: of the encoder; run if None.
        """
        return self._bias(logits, image, features)[0]

    def supervised(self, logits: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Refined logits, (N, planes, H, W), and the features from which the bias is made, (N, F, H/2, W/2)."""
        bias, features = self._bias(logits[:, :1], image, None)
        return logits + bias, features

    def _bias(self, logits: Tensor, image: Tensor, features: Sequence[Tensor] | None) -> tuple[Tensor, Tensor]:
        valid = ~torch.isnan(logits)
        weight = valid.to(image.dtype)
        image = torch.nan_to_num(image, nan=0.0)
        clean = torch.where(valid, logits, 0.0).clamp(-30, 30)
        planes = torch.cat([image, 1.5 * torch.tanh(clean / 6), torch.tanh(clean / 2), weight], 1)
        raw, last = self.decoder(planes, self.encoder(image) if features is None else features)
        bound = REACH * (_LEAST + (1 - _LEAST) * torch.exp(-clean.abs() / _SURE))
        found: Tensor = weight * bound * torch.tanh(raw.float())
        return found, last

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """Refined logits, NaN where the base logits are."""
        return logits + self.bias(logits, image)
