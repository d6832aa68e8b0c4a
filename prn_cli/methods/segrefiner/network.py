"""The denoiser of SegRefiner: a U-Net with attention at its deepest levels, told the step.

As published (NeurIPS 2023): two residual blocks a level on the way down and three on the way up, six levels, attention
at 1/16 and 1/32 of the resolution. At width 128 and with images of three bands, it has 118.6 million parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prn_cli.methods.blocks import RelativeBands

MULTIPLIERS = (1, 1, 2, 2, 4, 4)
BLOCKS = 2
HEADS = 4
FIRST_ATTENTION = 4  # level, at 1/16 of the resolution


def _norm(channels: int) -> nn.GroupNorm:
    """32 groups at the published width, and fewer in narrow networks: groups of one channel would lose its level."""
    return nn.GroupNorm(math.gcd(32, channels // 4), channels)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside the identity; what is known of the step is added between them."""

    def __init__(self, inputs: int, outputs: int, known: int) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.step = nn.Linear(known, outputs)
        self.norm2 = _norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """(N, inputs, H, W), (N, known) → (N, outputs, H, W)."""
        y = self.conv1(F.silu(self.norm1(x))) + self.step(F.silu(step))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Each pixel looks at all others, by four heads, beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = nn.Conv1d(channels, channels, 1)
        self.each = channels // HEADS

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        flat = x.flatten(2)
        pixels = flat.shape[2]
        query, key, value = self.qkv(self.norm(flat)).reshape(-1, 3, self.each, pixels).unbind(1)
        weights = torch.softmax(query.transpose(1, 2) @ key / math.sqrt(self.each), -1)
        seen = (value @ weights.transpose(1, 2)).reshape(-1, HEADS * self.each, pixels)
        return x + self.out(seen).reshape(x.shape)  # type: ignore[no-any-return]


class Grow(nn.Module):
    """Twice the resolution: each pixel four times, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """A residual block, with attention and a change of resolution after it where there are any."""

    def __init__(self, block: ResidualBlock, after: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.block = block
        self.after = nn.Sequential(*after)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """(N, C, H, W), (N, known) → (N, C', H', W')."""
        return self.after(self.block(x, step))  # type: ignore[no-any-return]


class SegrefinerNetwork(RelativeBands):
    """A mask, the step of the chain and an image → the logits of the target.

    Args:
        width: channels at full resolution, a multiple of 4.
        bands: of the image; 0 without one.
        chain_steps: of the chain.
        windows_only: whether refinement leaves out the pass over the whole map.
    """

    name = "segrefiner"
    multiple = 2 ** (len(MULTIPLIERS) - 1)
    halo = 32
    tile = 256  # and no other: what a window shows depends on all of it

    def __init__(self, width: int = 8, bands: int = 3, *, chain_steps: int = 6, windows_only: bool = False) -> None:
        super().__init__(bands)
        self.width, self.chain_steps, self.windows_only = width, chain_steps, windows_only
        known = 4 * width
        self.steps = nn.Embedding(chain_steps, known)
        self.stem = nn.Conv2d(bands + 1, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, inputs = [width], width
        for level, factor in enumerate(MULTIPLIERS):
            for _ in range(BLOCKS):
                self.down.append(_stage(level, inputs, factor * width, known))
                inputs = factor * width
                skips.append(inputs)
            if level + 1 < len(MULTIPLIERS):
                self.down.append(nn.Conv2d(inputs, inputs, 3, 2, 1))
                skips.append(inputs)
        self.middle = nn.ModuleList(
            [Stage(ResidualBlock(inputs, inputs, known), [Attention(inputs)]), ResidualBlock(inputs, inputs, known)]
        )
        for level, factor in reversed(list(enumerate(MULTIPLIERS))):
            for number in range(BLOCKS + 1):
                grow = level > 0 and number == BLOCKS
                self.up.append(_stage(level, inputs + skips.pop(), factor * width, known, grow=grow))
                inputs = factor * width
        self.norm = _norm(inputs)
        self.head = nn.Conv2d(inputs, 1, 3, padding=1)

    @property
    def overview(self) -> int:
        """Side of the reduced map on which all steps but the last are taken, px; 0 without such a pass."""
        return 0 if self.windows_only or self.chain_steps == 1 else self.tile

    @property
    def image_channels(self) -> int:
        """Bands of the image that it takes; 0 for none."""
        return len(self.centre)

    def forward(self, mask: Tensor, step: Tensor, image: Tensor | None = None) -> Tensor:
        """(N, 1, H, W) of 0 and 1, (N, 1), (N, C, H, W) with NaN invalid → logits, (N, 1, H, W)."""
        planes = mask
        if image is not None:
            planes = torch.cat([self.relative(image), mask], 1)
        known = self.steps(step[:, 0].long())
        x = self.stem(planes)
        skips = [x]
        for stage in self.down:
            x = stage(x, known) if isinstance(stage, Stage) else stage(x)
            skips.append(x)
        for stage in self.middle:
            x = stage(x, known)
        for stage in self.up:
            x = stage(torch.cat([x, skips.pop()], 1), known)
        return self.head(F.silu(self.norm(x)))  # type: ignore[no-any-return]


def _stage(level: int, inputs: int, outputs: int, known: int, *, grow: bool = False) -> Stage:
    after: list[nn.Module] = [Attention(outputs)] if level >= FIRST_ATTENTION else []
    return Stage(ResidualBlock(inputs, outputs, known), [*after, Grow(outputs)] if grow else after)
