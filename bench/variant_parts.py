"""What `variants.py` puts in place of the recipe's own: targets, losses, and other forms of the network `fast`."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.probabilities import logit, sigmoid
from prn_cli.methods.fast.network import STRIDE, FastNetwork
from prn_cli.methods.losses import edge_loss, soft_iou_loss
from prn_cli.methods.objective import JointLoss
from prn_cli.methods.recipe import Batch, Outputs
from prn_cli.thresholding.pseudolabels import best_thresholds, make_pseudolabels
from prn_cli.training.augment import TrainingMap

PATCH, PATCHES = 64, (32, 64, 128)
SOFT = 200  # stands for 1 where the pseudo-label of a TrainingMap holds a soft target
RIM = 2.0  # spread of the blur that makes boundaries soft, px


def soft_target(m: TrainingMap, share: NDArray[np.float32]) -> TrainingMap:
    """The map with a soft target, (H, W) in [0, 1], in the place of its pseudo-label."""
    return replace(m, pseudo=np.where(m.label == IGNORE, IGNORE, np.rint(SOFT * share)).astype(np.uint8))


def pseudo(m: TrainingMap, side: int = PATCH) -> TrainingMap:
    return replace(m, pseudo=make_pseudolabels(sigmoid(m.logits), m.label, patch=side).mask)


def of_three_sizes(m: TrainingMap) -> TrainingMap:
    return soft_target(m, np.mean([pseudo(m, side).pseudo == 1 for side in PATCHES], axis=0))


def soft_pseudo(m: TrainingMap, *, interpolation: int) -> TrainingMap:
    """The sigmoid of how far each logit is above that of its patch's best threshold, or of one between its patches'."""
    grid = np.nan_to_num(best_thresholds(sigmoid(m.logits), m.label, patch=PATCH), nan=0.5)
    cuts = cv2.resize(grid, (grid.shape[1] * PATCH, grid.shape[0] * PATCH), interpolation=interpolation)
    height, width = m.label.shape
    return soft_target(m, sigmoid(np.nan_to_num(m.logits) - logit(cuts[:height, :width])))


def blurred(m: TrainingMap) -> TrainingMap:
    return soft_target(m, cv2.GaussianBlur((m.label == 1).astype(np.float32), (0, 0), RIM))


def ranked(m: TrainingMap) -> TrainingMap:
    """With the share of the map's pixels that score lower than each, as an image of one band."""
    known = np.sort(m.logits[np.isfinite(m.logits)])
    rank = (np.searchsorted(known, m.logits).astype(np.float32) + 0.5) / (len(known) + 1)
    return replace(m, image=np.where(np.isnan(m.logits), np.float32(np.nan), rank)[np.newaxis])


def _soft_terms(path: Tensor, target: Tensor, positive: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy against a soft target, and its focal form, which are the losses' own where it is 0 or 1."""
    weight = ((target != IGNORE) & torch.isfinite(path)).float()
    logits, soft = torch.where(weight > 0, path, 0.0).float(), target.float() / SOFT * weight
    entropy = F.binary_cross_entropy_with_logits(logits, soft, pos_weight=logits.new_tensor(positive), reduction="none")
    focal = (torch.sigmoid(logits) - soft) ** 2 * entropy
    return tuple((term * weight).sum() / weight.sum().clamp_min(1) for term in (entropy, focal))  # type: ignore[return-value]


class SoftPseudoLoss(JointLoss):
    """The joint loss with soft pseudo-labels; edges are those of the label cut at ½."""

    def forward(self, outputs: Outputs, batch: Batch[Tensor]) -> Tensor:
        weights, pseudo = self.options, batch.pseudo
        rest = 1 - weights.pseudo_weight
        labels_alone = replace(weights, pseudo_weight=0.0, iou_weight=weights.iou_weight / rest)
        truth = JointLoss(labels_alone)(outputs, batch)
        hard = torch.where(pseudo == IGNORE, pseudo, (pseudo > SOFT // 2).to(torch.uint8))
        focal = torch.stack([_soft_terms(path, pseudo, 1.0)[1] for path in outputs.paths]).mean()
        edges = torch.stack([edge_loss(pred=path, target=hard) for path in outputs.paths]).mean()
        signal = weights.focal_weight * weights.focal_scale * focal + (1 - weights.focal_weight) * edges
        return rest * truth + weights.pseudo_weight * signal


class SoftLabelLoss(JointLoss):
    """The joint loss without pseudo-labels, its cross-entropy against a soft label."""

    def forward(self, outputs: Outputs, batch: Batch[Tensor]) -> Tensor:
        entropies = [_soft_terms(path, batch.pseudo, self.options.positive_weight)[0] for path in outputs.paths]
        ious = [soft_iou_loss(pred=path, target=batch.label) for path in outputs.paths]
        return torch.stack(entropies).mean() + self.options.iou_weight * torch.stack(ious).mean()


class Shallow(FastNetwork):
    """One level less; where it is made and run, the module's DEPTH and CONTEXT must say so."""

    multiple = STRIDE * 2


class Deep(FastNetwork):
    """One level more."""

    multiple = STRIDE * 8


class Ranked(FastNetwork):
    """With one plane more: each pixel's rank in its map, 0 to 1, which comes as an image of one band does."""

    image_channels = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.stem[0] = nn.Conv2d(4, self.width, STRIDE, STRIDE, bias=False)
        self.stem.register_forward_pre_hook(lambda _, planes: (torch.cat([planes[0], self.rank], 1),))

    def _logits(self, planes: Tensor) -> Tensor:
        return planes[:, :1]

    def _paths(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self.rank = 2 * torch.nan_to_num(planes[:, 1:], nan=0.5) - 1
        return super()._paths(planes[:, :1])


def turned(x: Tensor, element: int) -> Tensor:
    """`x` under one of the eight turns and flips of its last two axes."""
    return torch.rot90(x.flip(-1) if element >= 4 else x, element % 4, (-2, -1))


_CELL = torch.arange(STRIDE**2).view(STRIDE, STRIDE)
_PLACES = [turned(_CELL, g).flatten().tolist() for g in range(8)]
# A turn after a turn is one of the eight, too.
_AFTER = [[_PLACES.index(turned(turned(_CELL, h), g).flatten().tolist()) for h in range(8)] for g in range(8)]


def _channels(kind: str, count: int) -> Tensor:
    """(8, count): by each turn, the channel that comes to each place; `views` are the eight turns of a feature."""
    if kind == "views":
        return (8 * torch.arange(count // 8)[:, None] + torch.tensor(_AFTER).argsort(1)[:, None, :]).flatten(1)
    return torch.tensor(_PLACES) if kind == "pixels" else torch.arange(count).expand(8, -1)


class _Tied(nn.Module):
    """Weights summed over the eight turns of kernel and channels, so that what comes out turns with the map."""

    def __init__(self, weight: Tensor, outputs: Tensor, inputs: Tensor) -> None:
        super().__init__()
        places = torch.arange(weight.numel()).view(weight.shape)
        views = [places[outputs[g]] for g in range(8)]
        if weight.ndim > 1:
            views = [turned(view[:, inputs[g]], g) for g, view in enumerate(views)]
        self.register_buffer("places", torch.stack(views).flatten(), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight.flatten().index_select(0, self.places).view(8, *weight.shape).sum(0) / 8**0.5


class _TiedNorm(nn.BatchNorm2d):
    """The views of a feature under one scale and shift and, but in training, under one mean and variance."""

    def forward(self, x: Tensor) -> Tensor:
        known = (self.running_mean, self.running_var, self.weight, self.bias)
        mean, variance, scale, shift = (v.view(-1, 8).mean(1).repeat_interleave(8) for v in known)
        if self.training:
            mean, variance = self.running_mean, self.running_var
        return F.batch_norm(x, mean, variance, scale, shift, self.training, self.momentum, self.eps)


class Equal(FastNetwork):
    """The bias map of a turned or flipped map is the turned or flipped bias map; an eighth of the free weights."""

    def __init__(self) -> None:
        super().__init__()
        for step in self.down:  # on an even grid, an odd stride-2 kernel lies to one side
            step[0] = nn.Conv2d(step[0].in_channels, step[0].out_channels, 4, 2, 1, bias=False)
        kinds = {self.global_head: "plain", self.local_head: "pixels"}
        for module in list(self.modules()):
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = _TiedNorm
            elif isinstance(module, nn.Conv2d):
                outputs = _channels(kinds.get(module, "views"), module.out_channels)
                inputs = _channels("plain" if module is self.stem[0] else "views", module.in_channels)
                for name in ("weight", "bias"):
                    if (values := getattr(module, name)) is not None:
                        parametrize.register_parametrization(module, name, _Tied(values, outputs, inputs))
