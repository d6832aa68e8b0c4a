from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prn_cli.methods.recipe import Batch, Graph, Outputs, Recipe
from toy_method.options import ToyOptions


class ToyNetwork(nn.Module):
    name = "toy"
    multiple = 2
    halo = 0
    tile = 64

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.encoder = nn.Conv2d(2, features, 1)
        self.decoder = nn.Conv2d(features + 1, 1, 1)

    def encode(self, logits: Tensor) -> Tensor:
        invalid = torch.isnan(logits)
        clean = torch.where(invalid, 0.0, logits)
        return torch.tanh(self.encoder(torch.cat([torch.tanh(clean), invalid.float()], 1)))

    def decode(self, features: Tensor, level: Tensor) -> Tensor:
        plane = level[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return self.decoder(torch.cat([features, plane], 1))  # type: ignore[no-any-return]


class _Part(nn.Module):
    def __init__(self, network: ToyNetwork, part: str) -> None:
        super().__init__()
        self.network, self.part = network, part

    def forward(self, *inputs: Tensor) -> Tensor:
        return getattr(self.network, self.part)(*inputs)  # type: ignore[no-any-return]


class ToyRecipe(Recipe):
    cross_validates = True
    built_with = ("features",)

    def build(self, options: ToyOptions, bands: int = 0) -> ToyNetwork:
        assert not bands
        return ToyNetwork(options.features)

    def describe(self, network: ToyNetwork) -> dict[str, str]:
        return super().describe(network) | {"prn.overview": "16"}

    def feature_channels(self, network: ToyNetwork) -> int:
        return network.features

    def prepare(
        self, batch: Batch[NDArray[np.float32]], options: ToyOptions, random: np.random.Generator
    ) -> Batch[NDArray[np.float32]]:
        return replace(batch, more={"level": random.random((len(batch.logits), 1), np.float32)})

    def outputs(self, network: ToyNetwork, batch: Batch[Tensor]) -> Outputs:
        features = network.encode(batch.logits)
        return Outputs((batch.logits + network.decode(features, batch.more["level"]),), features)

    def graphs(self, network: ToyNetwork) -> tuple[Graph, ...]:
        features, level = torch.zeros(2, network.features, 4, 8), torch.zeros(2, 1)
        return (
            Graph(_Part(network, "encode"), ("logits",), ("features",), (torch.zeros(2, 1, 4, 8),)),
            Graph(_Part(network, "decode"), ("given", "level"), ("bias",), (features, level)),
        )
