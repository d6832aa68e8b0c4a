"""A network in training as a refiner, so that validation takes the road that `prn refine` takes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from prn_cli.errors import DivergedError
from prn_cli.maps.blend import strengthen
from prn_cli.maps.drift import Reference
from prn_cli.maps.probabilities import logit
from prn_cli.methods.fast.network import FastNetwork
from prn_cli.methods.networks import Network

FloatMap = NDArray[np.float32]


class NetworkRefiner:
    """See `prn_cli.methods.Refiner`; the fields are those of the exported network's refiner.

    Args:
        network: put into eval mode.
        device: where it is.
    """

    strength = 1.0
    threshold = 0.5
    reference: Reference | None = None
    runs = 1

    def __init__(self, network: Network, device: torch.device) -> None:
        self.network, self.where = network.eval(), device
        self.adds = isinstance(network, FastNetwork)
        self.name, self.device = network.name, device.type
        self.multiple, self.halo, self.tile = network.multiple, network.halo, network.tile
        self.image_channels = network.image_channels if isinstance(network, FastNetwork) else 0
        self.padding: Literal["nan", "mirror"] = "nan" if self.adds else "mirror"

    @torch.no_grad()
    def field(self, logits: FloatMap, image: FloatMap | None = None) -> FloatMap:
        """The field of (N, h, w) logits and, for a network that takes one, an (N, C, h, w) image.

        It is the bias map of `fast`, or the fused probabilities of `paper`.

        Raises:
            DivergedError: it is not finite.
        """
        planes = logits[:, np.newaxis] if image is None else np.concatenate([logits[:, np.newaxis], image], axis=1)
        windows = torch.from_numpy(np.array(planes, order="C")).to(self.where)  # a copy: maps may be read-only
        if isinstance(self.network, FastNetwork):
            field = self.network.bias(windows)
        else:
            field = torch.sigmoid(self.network(windows))
        found = field[:, 0].float().cpu().numpy()
        if not (np.isfinite(found) | np.isnan(logits)).all():
            raise DivergedError("the network gives numbers that are not finite")
        return found

    def refined(self, logits: FloatMap, field: FloatMap, strength: float) -> FloatMap:
        """Refined logits, (h, w) float32, NaN where `logits` is."""
        whole = logits + field if self.adds else np.where(np.isnan(logits), np.float32(np.nan), logit(field))
        return strengthen(logits, whole, strength)
