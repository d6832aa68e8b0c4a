"""How `fast` is made, trained and exported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from prn_cli.maps.bands import band_statistics
from prn_cli.methods.fast.network import FastNetwork
from prn_cli.methods.fast.options import FastOptions
from prn_cli.methods.recipe import Batch, Graph, Outputs, Recipe, as_text
from prn_cli.methods.refiner import FloatMap


class FastRecipe(Recipe):
    """Learns from the logits, and perhaps an image; can go on from trained weights."""

    takes_images = True
    identity_at_start = True
    cross_validates = True
    adaptable = True
    built_with = ("width", "keep_level")

    def build(self, options: FastOptions, bands: int = 0) -> FastNetwork:
        return FastNetwork(options.width, keep_level=options.keep_level, image_channels=bands)

    def describe(self, network: FastNetwork) -> dict[str, str]:
        described = super().describe(network)
        if network.image_channels:
            described["prn.image_channels"] = str(network.image_channels)
        if network.edge_path is not None:
            described["prn.image_mean"] = as_text(network.edge_path.centre)
            described["prn.image_std"] = as_text(network.edge_path.spread)
        return described

    def gentle(self, options: FastOptions) -> FastOptions:
        """Keep the level: one map without foreground would take it from all."""
        return replace(options, keep_level=True)

    def observe(self, network: FastNetwork, images: Iterable[FloatMap]) -> None:
        """Take the centre and the spread of each band."""
        if network.edge_path is not None:
            network.edge_path.set_statistics(*band_statistics(images))

    def outputs(self, network: FastNetwork, batch: Batch[Tensor]) -> Outputs:
        """The logits after the global path alone, and after both."""
        planes = batch.logits if batch.image is None else torch.cat([batch.logits, batch.image], 1)
        *paths, features = network.supervised(planes)
        return Outputs(tuple(paths), features)

    def feature_channels(self, network: FastNetwork) -> int:
        return network.width

    def graphs(self, network: FastNetwork) -> tuple[Graph, ...]:
        """The bias map, so that the addition stays in float32 and the map can be written out."""
        side = 2 * network.multiple
        names, bands = ("logits", "image"), (1, network.image_channels)
        count = 1 + bool(network.image_channels)
        examples = tuple(torch.zeros(2, channels, side, 2 * side) for channels in bands[:count])
        return (Graph(_Bias(network), names[:count], ("bias",), examples),)


class _Bias(nn.Module):
    def __init__(self, network: FastNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *planes: Tensor) -> Tensor:
        return self.network.bias(planes[0] if len(planes) == 1 else torch.cat(planes, 1))
