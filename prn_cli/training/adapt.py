"""Adapting weights to a few labelled maps: what to start from, and how gently to go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prn_cli.errors import InputError, UsageError
from prn_cli.maps.drift import Reference
from prn_cli.methods import METHODS, options_of, recipe_of
from prn_cli.methods.recipe import Recipe, build
from prn_cli.methods.torch_runner import load_network
from prn_cli.methods.weights import Weights
from prn_cli.thresholding.decision import TELLING_MAPS


@dataclass(frozen=True)
class Schedule:
    """How to go on from weights, where nothing else is asked for. `few`: the maps say nothing of other maps."""

    epochs: int
    steps: int | None
    rate: float
    few: bool


def schedule(maps: int, recipe: Recipe) -> Schedule:
    """What this many labelled maps bear.

    Whether faster steps gain or lose shows on held-out maps only if there are `TELLING_MAPS` or more.
    """
    if maps < TELLING_MAPS:
        return Schedule(epochs=4, steps=25, rate=min(2e-4, recipe.rate), few=True)
    epochs, steps = recipe.adapts
    return Schedule(epochs, steps, rate=recipe.rate, few=False)


@dataclass(frozen=True)
class Start:
    """Weights to go on from.

    Attributes:
        name: as they were asked for.
        sha256: of their file.
        description: of their network, see `prn_cli.methods.recipe.describe`.
        tensors: by name.
        reference: of the logits that the weights were trained on, if they say it.
    """

    name: str
    sha256: str
    description: dict[str, str]
    tensors: dict[str, Tensor]
    reference: Reference | None

    @property
    def method(self) -> str:
        """Name of the method that they are of."""
        return self.description["prn.network"]

    @property
    def bands(self) -> int:
        """Of the images that the network sees beside the logits; 0 for none."""
        return int(self.description.get("prn.image_channels", "0"))

    def options(self, given: Any = None) -> Any:
        """The options of the network; the given ones, where the weights leave a choice."""
        return recipe_of(self.method).options_from(self.description, given or options_of(self.method)())

    def network(self, options: Any = None) -> Any:
        """A network with these weights, built with its own options or with these."""
        network = build(self.method, options or self.options(), bands=self.bands)
        network.load_state_dict(recipe_of(self.method).fitting(network, self.tensors))
        return network


def load_start(weights: Weights, method: str | None = None) -> Start:
    """Read weights to go on from.

    Args:
        weights: found by `prn_cli.methods.weights.find_tensors`.
        method: that they must be of; None for any that can go on.

    Raises:
        InputError: they are not those of a network that prn knows.
        UsageError: they are of another method, or of one that cannot go on.
    """
    network, description = load_network(weights.path)
    method = method or network.name
    adaptable = [name for name in METHODS if recipe_of(name).adaptable]
    if method not in adaptable:
        raise UsageError(f"--from is for --network {' or '.join(adaptable)}, not {method}")
    if network.name != method:
        raise UsageError(
            f"--from {weights.name}: these are weights of '{network.name}', expected '{method}'",
            hint="train that network from the start",
        )
    text = description.get("prn.reference")
    try:
        reference = None if text is None else Reference.from_json(text)
    except ValueError as error:
        raise InputError(f"damaged: {error}", hint="export these weights again", path=weights.path) from error
    return Start(weights.name, weights.sha256, description, network.state_dict(), reference)
