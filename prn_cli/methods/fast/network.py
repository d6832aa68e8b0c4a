"""The default network: a small U-Net that adds a bias map to the base model's logits.

Two paths take the training signal, as in PatchRefineNet (section 3): a global one, which predicts a smooth bias from
averages over some 80 to 272 px, and a patch-local one, which corrects it from the pixels about a patch's width around.
Both start at zero, so an untrained network is the identity. Nothing in it depends on the size of the map it sees:
a window with enough halo gives what the whole map would give.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prn_cli.methods.blocks import ResidualBlock, conv_norm
from prn_cli.methods.fast.cells import STRIDE, BilinearUp, box_mean
from prn_cli.methods.fast.edges import EdgePath

DEPTH = 3
CONTEXT = (5, 9, 17)
"""Sides of the context averages, in cells of the deepest level (16 px)."""


class FastNetwork(nn.Module):
    """(N, 1, H, W) logits, NaN invalid, H and W multiples of 16 → a bias map of the same shape.

    With an image, its bands follow the logits: (N, 1 + C, H, W), NaN invalid in either.

    Args:
        width: channels at 1/4 of the resolution; doubled at 1/8 and at 1/16.
        keep_level: take the bias's own mean over 272 px out of it, so that it moves scores against their
            neighbourhood and never the neighbourhood as a whole. How high a base model's scores run overall is a
            matter of that model and that scene; weights that are to carry over must not have learned it.
        image_channels: bands of an image that the network sees beside the logits; 0 for none.
    """

    name = "fast"
    multiple = STRIDE * 2 ** (DEPTH - 1)
    halo = 96  # less than it sees: of what lies further off, masks show less than 0.1 % (docs/method.md)
    tile = 1024

    def __init__(self, width: int = 16, *, keep_level: bool = False, image_channels: int = 0) -> None:
        super().__init__()
        self.width, self.keep_level = width, keep_level
        widths = [width * 2**level for level in range(DEPTH)]
        deepest = widths[-1]
        self.stem = nn.Sequential(  # each cell from its own pixels
            nn.Conv2d(3, width, STRIDE, STRIDE, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.down = nn.ModuleList([conv_norm(i, o, stride=2) for i, o in pairwise(widths)])
        self.encoder = nn.ModuleList([ResidualBlock(w) for w in widths])
        self.context = nn.ModuleList([conv_norm(deepest, width, 1) for _ in CONTEXT])
        self.merge = nn.Sequential(conv_norm(deepest + width * len(CONTEXT), deepest, 1), conv_norm(deepest, width))
        self.global_head = nn.Conv2d(width, 1, 1)
        self.to_pixels = BilinearUp(self.multiple)
        self.up = nn.ModuleList([nn.Conv2d(widths[i], widths[i - 1], 1) for i in range(DEPTH - 1, 0, -1)])
        self.decoder = nn.ModuleList([ResidualBlock(w) for w in widths[-2::-1]])
        self.local_head = nn.Conv2d(width, STRIDE**2, 1)
        for head in (self.global_head, self.local_head):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        # Last, so that all else begins with the weights that it has without an image.
        self.edge_path = EdgePath(image_channels, width) if image_channels else None

    @property
    def image_channels(self) -> int:
        """Bands of the image that it takes; 0 for none."""
        return 0 if self.edge_path is None else len(self.edge_path.centre)

    def _logits(self, planes: Tensor) -> Tensor:
        return planes if self.edge_path is None else planes[:, :1]

    def _paths(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The global and the local bias map before levelling, how undecided the base model is, and the features."""
        logits = self._logits(planes)
        valid = ~torch.isnan(logits)
        weight = valid.to(logits.dtype)
        clean = torch.where(valid, logits, 0.0).clamp(-12, 12)
        side = torch.tanh(clean / 2)
        x = self.stem(torch.cat([clean / 4, side, weight], 1))
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(self.down[level - 1](x) if level else x)
            skips.append(x)
        cells = F.avg_pool2d(weight, self.multiple)
        context = [box_mean(project(x), cells, side) for project, side in zip(self.context, CONTEXT, strict=True)]
        coarse = self.global_head(self.merge(torch.cat([x, *context], 1)))
        smooth = self.to_pixels(coarse)
        for up, block, skip in zip(self.up, self.decoder, skips[-2::-1], strict=True):
            x = block(F.interpolate(up(x), scale_factor=2.0, mode="nearest") + skip)
        fine = F.pixel_shuffle(self.local_head(x), STRIDE)
        if self.edge_path is not None:
            fine = fine + self.edge_path(x, planes[:, 1:], side, weight)
        return smooth, fine, weight - side * side, x  # 4 · p · (1 - p); side is 0 where a pixel is invalid

    def biases(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 1 + C, H, W) logits and image → the global and the local bias map, (N, 1, H, W), and the features."""
        smooth, fine, doubt, features = self._paths(planes)
        return self._levelled(smooth, doubt), self._levelled(fine, doubt), features

    def _levelled(self, bias: Tensor, doubt: Tensor) -> Tensor:
        """To keep the level, the bias less its mean over the widest context, weighted by the base model's doubt."""
        if not self.keep_level:
            return bias
        cells = F.avg_pool2d(doubt, self.multiple)
        means = F.avg_pool2d(doubt * bias, self.multiple) / (cells + 1e-9)
        level = box_mean(means, 25 * cells, CONTEXT[-1])  # 25: doubt is small, and box_mean guards against 0 by 1e-4
        level_of_pixels: Tensor = self.to_pixels(level)
        return bias - level_of_pixels

    def supervised(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 1 + C, H, W) base logits and image → refined logits of each path, and the features.

        Returns:
            Those after the global path alone and after both, (N, 1, H, W), and (N, width, H/4, W/4).
        """
        smooth, fine, features = self.biases(planes)
        first = self._logits(planes) + smooth
        return first, first + fine, features

    def bias(self, planes: Tensor) -> Tensor:
        """(N, 1 + C, H, W) base logits and image → the bias map, (N, 1, H, W), finite everywhere."""
        smooth, fine, doubt, _ = self._paths(planes)
        return self._levelled(smooth + fine, doubt)  # once for both: it is linear

    def forward(self, planes: Tensor) -> Tensor:
        """(N, 1 + C, H, W) base logits and image, NaN invalid → refined logits, NaN where the base logits are."""
        return self._logits(planes) + self.bias(planes)
