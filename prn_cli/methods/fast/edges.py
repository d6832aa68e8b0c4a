"""The image beside the logits: by its edges, masks get theirs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prn_cli.methods.blocks import RelativeBands
from prn_cli.methods.fast.cells import STRIDE, BilinearUp, box_mean

_REACH = 4.0  # logits that a share of 1 moves a score by: shares learn slowly, and edges want whole logits


class EdgePath(RelativeBands):
    """A correction that lays the edges of masks where the image has edges, 0 at the start.

    The guided filter fits scores as a linear function of the image's brightness in every box, and so makes of blurred
    edges sharp ones that lie on the image's (He, Sun and Tang, "Guided Image Filtering", TPAMI 2013, equations 5 to 8;
    the fits at 1/4 of the resolution, as in He and Sun, "Fast Guided Filter", 2015). What it would change is scaled by
    what the network makes of each cell: it is told where that helps.

    The brightness is the mean over the bands of the image's relative numbers.

    Args:
        channels: bands of the image.
        width: channels of the features at 1/4 of the resolution.
    """

    BOXES = (3, 5)
    """Sides of the boxes, in cells."""
    SMOOTHNESS = 0.01
    """ε of the filter: contrast below its root, in spreads of the image, is no edge."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels)
        self.head = nn.Conv2d(width, len(self.BOXES), 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.to_pixels = BilinearUp(STRIDE)

    def forward(self, features: Tensor, image: Tensor, score: Tensor, weight: Tensor) -> Tensor:
        """What to add to the logits, (N, 1, H, W); 0 where score or image are invalid.

        Args:
            features: (N, width, H/4, W/4).
            image: (N, C, H, W), NaN invalid.
            score: (N, 1, H, W) in [-1, 1], positive for foreground.
            weight: (N, 1, H, W), 1 where the score is valid, else 0.
        """
        shares = self.head(features).float()
        with torch.autocast(score.device.type, enabled=False):  # differences of products want all their digits
            guide = self.relative(image).mean(1, keepdim=True)
            seen = weight * (1 - torch.isnan(image).any(1, keepdim=True).to(weight.dtype))
            return self._correction(shares, guide, score, seen)

    def _correction(self, shares: Tensor, guide: Tensor, score: Tensor, weight: Tensor) -> Tensor:
        cells = F.avg_pool2d(weight, STRIDE)
        planes = torch.cat([guide, score, guide * guide, guide * score], 1) * weight
        means = F.avg_pool2d(planes, STRIDE) / (cells + 1e-4)
        slopes, offsets = [], []
        for side in self.BOXES:
            g, s, gg, gs = box_mean(means, cells, side).chunk(4, 1)
            slope = (gs - g * s) / ((gg - g * g).clamp_min(0) + self.SMOOTHNESS)
            slope, offset = box_mean(torch.cat([slope, s - slope * g], 1), cells, side).chunk(2, 1)
            slopes.append(slope)
            offsets.append(offset)
        # share · (slope · guide + offset - score), summed over the boxes while it is still small
        mixed = [(shares * torch.cat(part, 1)).sum(1, keepdim=True) for part in (slopes, offsets)]
        slope, offset, share = (self.to_pixels(part) for part in (*mixed, shares.sum(1, keepdim=True)))
        correction: Tensor = _REACH * weight * (slope * guide + offset - share * score)
        return correction
