"""How `segrefiner` is made, trained and exported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_cli.maps.bands import band_statistics
from prn_cli.maps.pixels import IGNORE
from prn_cli.methods.objective import Objective
from prn_cli.methods.recipe import Batch, Graph, Outputs, Recipe
from prn_cli.methods.refiner import FloatMap
from prn_cli.methods.segrefiner.chain import diffuse, fine_shares
from prn_cli.methods.segrefiner.coarse import coarse_mask
from prn_cli.methods.segrefiner.network import SegrefinerNetwork
from prn_cli.methods.segrefiner.objective import DenoisingLoss
from prn_cli.methods.segrefiner.options import SegrefinerOptions

_INPUTS = ("mask", "step", "image")


class SegrefinerRecipe(Recipe):
    """Learns to tell the target from images and masks at any step of the chain."""

    takes_images = True
    adaptable = True
    built_with = ("width", "chain_steps", "windows_only")
    rate = 4e-4

    def build(self, options: SegrefinerOptions, bands: int = 0) -> SegrefinerNetwork:
        return SegrefinerNetwork(
            options.width, bands, chain_steps=options.chain_steps, windows_only=options.windows_only
        )

    def describe(self, network: SegrefinerNetwork) -> dict[str, str]:
        described = super().describe(network) | {"prn.side": str(network.tile), "prn.overview": str(network.overview)}
        if network.image_channels:
            described["prn.image_channels"] = str(network.image_channels)
        return described

    def reduced_side(self, network: SegrefinerNetwork) -> int:
        return network.overview

    def observe(self, network: SegrefinerNetwork, images: Iterable[FloatMap]) -> None:
        """Take the centre and the spread of each band."""
        if network.image_channels:
            network.set_statistics(*band_statistics(images))

    def prepare(
        self, batch: Batch[NDArray[Any]], options: SegrefinerOptions, random: np.random.Generator
    ) -> Batch[NDArray[Any]]:
        """Add a step of the chain, drawn for each crop, and its mask: pixels of the label and of the coarse mask."""
        target, coarse = batch.label == 1, batch.logits >= 0
        made = random.random(len(coarse)) < options.synthetic
        for fine, crop in zip(target[made, 0], np.flatnonzero(made), strict=True):
            coarse[crop, 0] = coarse_mask(fine, random)
        shares = fine_shares(options.chain_steps)
        step = random.integers(len(shares), size=len(coarse))
        noise = random.random(target.shape, np.float32)
        known = np.where(batch.label == IGNORE, coarse, target)
        mask = diffuse(known, coarse, shares[step].reshape(-1, 1, 1, 1), noise)
        return replace(batch, more={"mask": mask.astype(np.float32), "step": step[:, np.newaxis].astype(np.float32)})

    def outputs(self, network: SegrefinerNetwork, batch: Batch[Tensor]) -> Outputs:
        """The logits of the target."""
        return Outputs((network(batch.more["mask"], batch.more["step"], batch.image),))

    def objective(self, options: SegrefinerOptions, network: SegrefinerNetwork) -> Objective:
        """Cross-entropy and texture loss."""
        return DenoisingLoss(options.texture_weight)

    def graphs(self, network: SegrefinerNetwork) -> tuple[Graph, ...]:
        """The network itself; the steps are taken outside."""
        side = 2 * network.multiple
        planes = torch.zeros(2, network.image_channels, side, 2 * side)
        examples = planes.new_zeros(2, 1, side, 2 * side), planes.new_zeros(2, 1), planes
        count = 2 + bool(network.image_channels)
        return (Graph(network, _INPUTS[:count], ("logits",), examples[:count]),)
