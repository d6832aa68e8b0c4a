"""Other forms of the network `fast`, for `variants.py`: of another depth, with ranks, equal under turns and flips."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prn_cli.training.networks.fast import STRIDE, FastNetwork


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

    def _paths(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
