"""How `image` is made, trained and exported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prn_cli.errors import UsageError
from prn_cli.maps.bands import band_range
from prn_cli.methods.image.network import BANDS, WIDTHS, ImageNetwork
from prn_cli.methods.image.options import ImageOptions
from prn_cli.methods.image.refiner import hidden
from prn_cli.methods.recipe import Batch, Graph, Outputs, Recipe, as_text
from prn_cli.methods.refiner import FloatMap

_COST_OF_VIEWS = 1.5
"""Of the two views, against one."""


class ImageRecipe(Recipe):
    """Learns from logits and an image; goes on from trained weights, whose encoder stays as it is."""

    takes_images = True
    bands = BANDS
    identity_at_start = True
    adaptable = True
    starts_from = "image"
    adapts = 5, None
    refining = 1.0
    observes_again = True
    half_precision = True
    learns_without_labels = True
    built_with = ("freeze_encoder", "two_views", "hide_scores", "planes")

    def build(self, options: ImageOptions, bands: int = BANDS) -> ImageNetwork:
        if bands != BANDS:
            raise UsageError("--network image needs the images", hint="give --images DIR")
        return ImageNetwork(**{name: getattr(options, name) for name in self.built_with})

    def describe(self, network: ImageNetwork) -> dict[str, str]:
        known = {"prn.image_channels": str(BANDS)}
        if network.knows_range:
            known |= {"prn.image_low": as_text(network.low), "prn.image_high": as_text(network.high)}
        return super().describe(network) | known

    def gentle(self, options: ImageOptions) -> ImageOptions:
        """Two views must agree: a scene that the network does not know looks different to it when turned."""
        return replace(options, two_views=True)

    def observe(self, network: ImageNetwork, images: Iterable[FloatMap]) -> None:
        """Take the range of each band; weights that learned from many sets know none."""
        if not network.knows_range:
            network.set_range(*band_range(images))

    def options_from(self, description: Mapping[str, str], options: ImageOptions) -> ImageOptions:
        """Weights may be older than `planes`."""
        found: ImageOptions = super().options_from({"prn.planes": "1", **description}, options)
        return found

    def for_labels(self, options: ImageOptions, *, of_scores: bool, classes: int) -> ImageOptions:
        """Hide scores that labels are made of, which would be copied, and those of several classes.

        One class at a time, from its scores, the network could not know which class is asked for.
        """
        hide = of_scores or classes > 1
        return replace(options, hide_scores=hide, planes=classes if hide else 1)

    def planes(self, network: ImageNetwork) -> int:
        return network.planes

    def cost(self, network: ImageNetwork) -> float:
        """All classes at once cost as much as one."""
        return self.refining * (_COST_OF_VIEWS if network.two_views else 1.0) / network.planes

    def fitting(self, network: ImageNetwork, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For another number of classes, each begins with the mean of what was learned for those that there were."""
        head = network.decoder.head.state_dict(prefix="decoder.head.")
        found = {name: tensors[name].reshape(-1, 4, *tensors[name].shape[1:]) for name in head}
        if all(len(planes) == network.planes for planes in found.values()):
            return dict(tensors)
        means = {name: planes.float().mean(0).to(planes.dtype) for name, planes in found.items()}
        repeats = {name: (network.planes, *(1,) * (mean.ndim - 1)) for name, mean in means.items()}
        return dict(tensors) | {name: mean.repeat(repeats[name]) for name, mean in means.items()}

    def prepare(self, batch: Batch[Any], options: ImageOptions, random: np.random.Generator) -> Batch[Any]:
        """Hide the logits, if that was asked for."""
        if not options.hide_scores or batch.image is None:
            return batch
        return replace(batch, logits=hidden(batch.logits, batch.image))

    def outputs(self, network: ImageNetwork, batch: Batch[Tensor]) -> Outputs:
        assert batch.image is not None
        with torch.autocast(batch.logits.device.type, enabled=False):
            image = network.stretched(batch.image)
        refined, features = network.supervised(batch.logits, image)
        return Outputs((refined,), features)

    def feature_channels(self, network: ImageNetwork) -> int:
        return WIDTHS[0]

    def graphs(self, network: ImageNetwork) -> tuple[Graph, ...]:
        """The bias map, from logits and an image that is in range."""
        side = 2 * network.multiple
        examples = tuple(torch.zeros(2, channels, side, 2 * side) for channels in (1, BANDS))
        return (Graph(_Bias(network), ("logits", "image"), ("bias",), examples),)


class _Bias(nn.Module):
    def __init__(self, network: ImageNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        return self.network.bias(logits, image)
