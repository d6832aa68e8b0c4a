"""Adapting weights to a few labelled maps: what to start from, and how gently to go on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prn_cli.errors import InputError, UsageError
from prn_cli.maps.drift import Reference
from prn_cli.methods.fast.network import FastNetwork
from prn_cli.methods.networks import from_description
from prn_cli.methods.weights import Weights
from prn_cli.thresholding.strength import TELLING_MAPS
from prn_cli.training.checkpoint import load_network


@dataclass(frozen=True)
class Schedule:
    """How to go on from weights, where nothing else is asked for."""

    epochs: int
    steps: int
    rate: float
    keep_level: bool


def schedule(maps: int) -> Schedule:
    """What so many labelled maps bear.

    Fewer than `TELLING_MAPS` say nothing of the level of other maps: one without foreground would take it from all. And
    whether faster steps gain or lose shows on held-out maps only if there are some.
    """
    if maps < TELLING_MAPS:
        return Schedule(epochs=4, steps=25, rate=2e-4, keep_level=True)
    return Schedule(epochs=7, steps=25, rate=1e-3, keep_level=False)


@dataclass(frozen=True)
class Start:
    """Weights to go on from.

    Attributes:
        name: as they were asked for.
        sha256: of their file.
        description: of their network, see `prn_cli.training.export.describe`.
        tensors: by name.
        reference: of the logits that the weights were trained on, if they say it.
    """

    name: str
    sha256: str
    description: dict[str, str]
    tensors: dict[str, Tensor]
    reference: Reference | None

    @property
    def width(self) -> int:
        """Of the network."""
        return int(self.description["prn.width"])

    @property
    def keep_level(self) -> bool:
        """Whether the network corrects scores against their neighbourhood only."""
        return self.description["prn.keep_level"] == "1"

    @property
    def image_channels(self) -> int:
        """Bands of the images that the network sees beside the logits; 0 for none."""
        return int(self.description.get("prn.image_channels", "0"))

    def network(self, *, keep_level: bool = False) -> FastNetwork:
        """A network with these weights; one that keeps the level, if they do or if that is asked for."""
        kept = str(int(keep_level or self.keep_level))
        network = from_description(self.description | {"prn.keep_level": kept})
        assert isinstance(network, FastNetwork)
        network.load_state_dict(self.tensors)
        return network


def load_start(weights: Weights) -> Start:
    """Read weights to go on from.

    Args:
        weights: found by `prn_cli.methods.weights.find_tensors`.

    Raises:
        InputError: they are not those of a network that prn knows.
        UsageError: they are of another network than `fast`.
    """
    network, description = load_network(weights.path)
    if not isinstance(network, FastNetwork):
        raise UsageError(
            f"--from {weights.name}: these are weights of '{network.name}', expected 'fast'",
            hint="train that network from the start",
        )
    text = description.get("prn.reference")
    try:
        reference = None if text is None else Reference.from_json(text)
    except ValueError as error:
        raise InputError(f"damaged: {error}", hint="export these weights again", path=weights.path) from error
    return Start(weights.name, weights.sha256, description, network.state_dict(), reference)
