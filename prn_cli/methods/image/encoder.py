"""What is in an image: the first layers of EfficientNet-Lite0, down to 1/16 of the resolution.

Tan and Le, "EfficientNet" (ICML 2019), in its variant without squeeze-and-excitation and with ReLU6. Normalisation is
folded into the convolutions, so that nothing in it depends on the batch.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = (  # expansion, kernel, stride, channels, repeats
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
)
CHANNELS = (16, 24, 40, 112)
"""Of the features at 1/2, 1/4, 1/8 and 1/16 of the resolution."""
_STEM = 32


class _Conv(nn.Module):
    """A convolution that pads as TensorFlow does: with stride 2, more below and to the right."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_in")
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        total = kernel - stride
        self.pad = (total // 2, total - total // 2) * 2 if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x if self.pad is None else F.pad(x, self.pad))
        return y


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; beside the identity where the shape stays."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _Conv(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = _Conv(wide, wide, kernel, stride=stride, groups=wide)
        self.project = _Conv(wide, outputs, 1)
        nn.init.normal_(self.project.conv.weight, std=wide**-0.5)
        self.keeps_shape = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, outputs, H/stride, W/stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        found: Tensor = x + y if self.keeps_shape else y
        return found


class Encoder(nn.Module):
    """(N, 3, H, W) in [-1, 1], H and W multiples of 16 → features at 1/2, 1/4, 1/8 and 1/16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(3, _STEM, 3, stride=2)
        blocks: list[nn.Module] = []
        width = _STEM
        self.ends: list[int] = []  # the last block of each resolution
        for expansion, kernel, stride, channels, repeats in BLOCKS:
            if stride > 1:
                self.ends.append(len(blocks) - 1)
            for number in range(repeats):
                step = 1 if number else stride
                blocks.append(InvertedResidual(width, channels, expansion=expansion, kernel=kernel, stride=step))
                width = channels
        self.ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, image: Tensor) -> list[Tensor]:
        """The features, finest first."""
        x, found = F.relu6(self.stem(image)), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.ends:
                found.append(x)
        return found
