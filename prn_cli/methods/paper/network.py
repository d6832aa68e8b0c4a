"""PatchRefineNet as published, with the patch side as a parameter.

Source: PatchRefineNet (WACV 2024), section 3: a recurrent residual attention U-Net with pyramid pooling and two
decoders, one over the whole map and one over each patch alone. Written from the description
of the network; names are ours.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (32, 64, 128, 256)
POOLS = (1, 2, 4, 8)


def to_patches(features: Tensor, patch: int) -> Tensor:
    """(N, C, H, W) → (N·H/P·W/P, C, P, P), row by row; H and W must be multiples of `patch`."""
    n, c, h, w = features.shape
    rows, columns = h // patch, w // patch
    cut = features.reshape(n, c, rows, patch, columns, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(n * rows * columns, c, patch, patch)


def from_patches(patches: Tensor, height: int, width: int) -> Tensor:
    """Undo `to_patches`: (N·H/P·W/P, C, P, P) → (N, C, H, W)."""
    _, c, patch, _ = patches.shape
    rows, columns = height // patch, width // patch
    cut = patches.reshape(-1, rows, columns, c, patch, patch)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(-1, c, height, width)


def _conv_norm(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.BatchNorm2d(outputs))


class RecurrentUnit(nn.Module):
    """One convolution applied three times with the same weights: y = f(x); y = f(x + y), twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.step = _conv_norm(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        y = F.relu(self.step(x))
        y = F.relu(self.step(x + y))
        return F.relu(self.step(x + y))


class RecurrentResidualBlock(nn.Module):
    """x = 1×1 convolution; x + R(R(x)), the two recurrent units with weights of their own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(inputs, outputs, 1)
        self.units = nn.Sequential(RecurrentUnit(outputs), RecurrentUnit(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H, W)."""
        x = self.project(x)
        return x + self.units(x)  # type: ignore[no-any-return]


class PyramidPooling(nn.Module):
    """Averages over 1, 4, 16 and 64 equal parts of the map beside the map itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList([nn.Conv2d(width, width, 1, bias=False) for _ in POOLS])
        self.merge = nn.Conv2d(width * (len(POOLS) + 1), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        size = x.shape[-2:]
        pooled = [
            F.interpolate(project(average_pool(x, parts)), size, mode="bilinear", align_corners=False)
            for parts, project in zip(POOLS, self.projections, strict=True)
        ]
        return F.relu(self.merge(torch.cat([*pooled, x], 1)))


def average_pool(x: Tensor, parts: int) -> Tensor:
    """(N, C, H, W) → means of parts × parts equal cells; by reshaping, which ONNX can express for any H and W."""
    n, c, h, w = x.shape
    return x.reshape(n, c, parts, h // parts, parts, w // parts).mean((3, 5))


class AttentionGate(nn.Module):
    """Scales each pixel of the skip by what the decoder makes of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.of_decoder = _conv_norm(width, width // 2, 1)
        self.of_skip = _conv_norm(width, width // 2, 1)
        self.score = _conv_norm(width // 2, 1, 1)

    def forward(self, decoded: Tensor, skip: Tensor) -> Tensor:
        """Two (N, C, H, W) → the gated skip, (N, C, H, W)."""
        score = self.score(F.relu(self.of_decoder(decoded) + self.of_skip(skip)))
        return skip * torch.sigmoid(score)


class DecoderLevel(nn.Module):
    """Up by two, gate the skip, merge."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = _conv_norm(inputs, outputs, 3)
        self.gate = AttentionGate(outputs)
        self.merge = RecurrentResidualBlock(2 * outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, inputs, H, W), (N, outputs, 2H, 2W) → (N, outputs, 2H, 2W)."""
        x = F.relu(self.up(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return self.merge(torch.cat([self.gate(x, skip), x], 1))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Three levels from 1/8 of the resolution to the whole, and a head of one channel."""

    def __init__(self, head_kernel: int) -> None:
        super().__init__()
        pairs = zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True)
        self.levels = nn.ModuleList([DecoderLevel(inputs, outputs) for inputs, outputs in pairs])
        self.head = nn.Conv2d(WIDTHS[0], 1, head_kernel, padding=head_kernel // 2)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features at 1/8, 1/4, 1/2 and 1/1 of the resolution → logits, (N, 1, H, W)."""
        x = features[0]
        for level, skip in zip(self.levels, features[1:], strict=True):
            x = level(x, skip)
        return self.head(x)  # type: ignore[no-any-return]


class PaperNetwork(nn.Module):
    """PatchRefineNet: probabilities in, refined probabilities of the global and the patch-local decoder out.

    Args:
        patch: side of a patch, px, a multiple of 8; 0 for the variant without a local decoder (`p0`).
    """

    name = "paper"
    tile = 512
    halo = 0  # each window is refined as the published code refines a map: whole, with its own pyramid of averages

    def __init__(self, patch: int = 64) -> None:
        super().__init__()
        if patch % 8:
            raise ValueError(f"patch {patch} is not a multiple of 8")
        self.patch = patch
        self.encoder = nn.ModuleList(
            [RecurrentResidualBlock(i, o) for i, o in zip((1, *WIDTHS[:-1]), WIDTHS, strict=True)]
        )
        self.pyramid = PyramidPooling(WIDTHS[-1])
        self.global_decoder = Decoder(head_kernel=3 if patch else 1)
        self.local_decoder = Decoder(head_kernel=3) if patch else None

    @property
    def multiple(self) -> int:
        """What the sides of an input must be a multiple of, px."""
        return math.lcm(64, self.patch) if self.patch else 64

    def _decoded(self, probabilities: Tensor) -> tuple[Tensor, ...]:
        """(N, 1, H, W) probabilities, H and W multiples of `multiple` → logits of the global (and local) decoder."""
        x = probabilities
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.insert(0, x)
        features = [self.pyramid(x), *skips[1:]]
        outputs = [self.global_decoder(features)]
        if self.local_decoder is not None:
            scales = (8, 4, 2, 1)
            cut = [to_patches(f, self.patch // scale) for f, scale in zip(features, scales, strict=True)]
            outputs.append(from_patches(self.local_decoder(cut), *probabilities.shape[-2:]))
        return tuple(outputs)

    def probabilities(self, probabilities: Tensor) -> tuple[Tensor, ...]:
        """(N, 1, H, W) probabilities → those of the global (and local) decoder, as published."""
        return tuple(torch.sigmoid(logits) for logits in self._decoded(probabilities))

    def supervised(self, logits: Tensor) -> tuple[Tensor, ...]:
        """(N, 1, H, W) base logits, NaN invalid → refined logits of the global (and local) decoder."""
        return self._decoded(torch.sigmoid(torch.nan_to_num(logits, nan=-torch.inf)))

    def forward(self, logits: Tensor) -> Tensor:
        """(N, 1, H, W) base logits → refined logits by the published fusion, (N, 1, H, W)."""
        return fuse(*self.supervised(logits))


def fuse(whole: Tensor, local: Tensor | None = None) -> Tensor:
    """max(G, dilate3×3(min(G, L))): cut at one threshold, it is the published G ∪ dilate3×3(G ∩ L) of the cut maps."""
    if local is None:
        return whole
    return torch.maximum(whole, F.max_pool2d(torch.minimum(whole, local), 3, stride=1, padding=1))
