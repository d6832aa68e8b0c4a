"""How `paper` is made, trained and exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prn_cli.methods.paper.network import PaperNetwork
from prn_cli.methods.paper.options import PaperOptions
from prn_cli.methods.recipe import Batch, Graph, Outputs, Recipe


class PaperRecipe(Recipe):
    """Learns from the logits alone, as published."""

    built_with = ("patch",)

    def build(self, options: PaperOptions, bands: int = 0) -> PaperNetwork:
        return PaperNetwork(options.patch)

    def outputs(self, network: PaperNetwork, batch: Batch[Tensor]) -> Outputs:
        """The logits of the global and the local decoder."""
        return Outputs(network.supervised(batch.logits))

    def graphs(self, network: PaperNetwork) -> tuple[Graph, ...]:
        """Probabilities in, those of each decoder out, as published."""
        side = 2 * network.multiple
        outputs = ("global", "local")[: 1 + bool(network.patch)]
        return (Graph(_Probabilities(network), ("probabilities",), outputs, (torch.zeros(2, 1, side, 2 * side),)),)


class _Probabilities(nn.Module):
    def __init__(self, network: PaperNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, probabilities: Tensor) -> tuple[Tensor, ...]:
        return self.network.probabilities(probabilities)
