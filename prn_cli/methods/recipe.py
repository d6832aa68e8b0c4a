"""What a recipe is: how a method's network is made, described, trained and exported. With torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from prn_cli.methods import options_of, recipe_of
from prn_cli.methods.objective import JointLoss, Objective
from prn_cli.methods.refiner import FloatMap
from prn_cli.options import Options

A = TypeVar("A")
B = TypeVar("B")


class Network(Protocol):
    """An `nn.Module` that says of itself what the tiler must know.

    Attributes:
        name: of its method.
        multiple: window sides and positions are multiples of this, px.
        halo: context that a pixel needs on each side, px.
        tile: default side of a window, px.
    """

    name: str
    multiple: int
    halo: int
    tile: int


@dataclass(frozen=True)
class Batch(Generic[A]):
    """Crops to learn from, as NumPy arrays or as tensors.

    Attributes:
        logits: (N, P, S, S) float32, NaN invalid; P is the recipe's `planes`.
        label: (N, P, S, S) uint8, 255 ignore.
        pseudo: pseudo-labels, the same.
        image: (N, C, S, S) float32, NaN invalid; None without images.
        plane: (N,) int64, the class that each crop is of, or its first, from 0; None if all are of one.
        more: what the recipe's `prepare` has added; the first axis is the batch's.
    """

    logits: A
    label: A
    pseudo: A
    image: A | None = None
    plane: A | None = None
    more: Mapping[str, A] = field(default_factory=dict)

    def mapped(self, change: Callable[[A], B]) -> Batch[B]:
        """The batch with every array changed."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "more"}
        changed = {name: None if value is None else change(value) for name, value in found.items()}
        return Batch(**changed, more={name: change(value) for name, value in self.more.items()})  # type: ignore[arg-type]


class Outputs(NamedTuple):
    """What a network gives in training.

    Attributes:
        paths: refined logits of each path that takes the training signal, (N, P, H, W).
        features: (N, F, h, w) from which the logits are made, for objectives that look at them; F is the recipe's
            `feature_channels`, and cells may be larger than pixels.
    """

    paths: tuple[Tensor, ...]
    features: Tensor | None = None


class Graph(NamedTuple):
    """A part of a network as it is run in refinement.

    Attributes:
        module: from the inputs, in their order, to the outputs.
        inputs: names.
        outputs: names, of which no other input or output has one.
        examples: of the inputs; the first axis is the batch's, the last two of those with four axes are free.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    examples: tuple[Tensor, ...]


class Recipe:
    """Base of the recipes. `options` is always an object of the method's options class.

    Attributes:
        takes_images: whether networks can be built with bands of an image.
        bands: that their images must have; 0 if they may have any number.
        identity_at_start: whether an untrained network leaves logits as they are.
        cross_validates: whether training is quick enough to be repeated for every fold.
        adaptable: whether trained weights can go on learning from other maps.
        starts_from: shipped weights that training starts from unless others are named; random ones if empty.
        adapts: epochs, and steps of each, for going on from weights; steps None for as many as from random ones.
        rate: peak learning rate of a training from nothing.
        refining: seconds to refine and count a pixel, against those of a pixel of a training step, see `cost`.
        half_precision: whether files hold the weights in float16; they are run in float32.
        observes_again: whether weights that go on learning observe the new images.
        learns_without_labels: whether it can learn what the base model's own masks say of the images.
        built_with: options that decide which tensors the network has; attributes of the network, too.
    """

    takes_images: ClassVar[bool] = False
    bands: ClassVar[int] = 0
    identity_at_start: ClassVar[bool] = False
    cross_validates: ClassVar[bool] = False
    adaptable: ClassVar[bool] = False
    starts_from: ClassVar[str] = ""
    adapts: ClassVar[tuple[int, int | None]] = 7, 25
    rate: ClassVar[float] = 1e-3
    refining: ClassVar[float] = 0.6
    half_precision: ClassVar[bool] = False
    observes_again: ClassVar[bool] = False
    learns_without_labels: ClassVar[bool] = False
    built_with: ClassVar[tuple[str, ...]] = ()

    def build(self, options: Any, bands: int = 0) -> Any:
        """An untrained network: an `nn.Module` that is a `Network`.

        Args:
            options: of the method.
            bands: of the image beside the logits; 0 without one.
        """
        raise NotImplementedError

    def describe(self, network: Any) -> dict[str, str]:
        """Metadata that say how a network was built; keys begin with `prn.`."""
        return {f"prn.{name}": str(int(getattr(network, name))) for name in self.built_with}

    def options_from(self, description: Mapping[str, str], options: Any) -> Any:
        """Options of the network that `describe` has described; these, where the description says nothing.

        A switch that is on in either is on.

        Raises:
            KeyError: an entry is missing.
            ValueError: an entry is no number.
        """
        found: dict[str, int | bool] = {}
        for name in self.built_with:
            given, key = getattr(options, name), f"prn.{name}"
            switch = isinstance(given, bool)  # weights may be older than it
            value = int(description.get(key, "0") if switch else description[key])
            found[name] = given or value == 1 if switch else value
        return replace(options, **found)

    def gentle(self, options: Any) -> Any:
        """The options for learning from maps that say little of others: a few, or those of a few scenes."""
        return options

    def for_labels(self, options: Any, *, of_scores: bool, classes: int) -> Any:  # noqa: ARG002
        """The options for labels of so many classes, given or made of the base model's scores."""
        return options

    def planes(self, network: Any) -> int:  # noqa: ARG002
        """How many classes of a map the network finds at once; 1 if it is run once for each."""
        return 1

    def fitting(self, network: Any, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Trained weights as this network can go on from them, if it is built in another way."""
        return tensors

    def observe(self, network: Any, images: Iterable[FloatMap]) -> None:
        """Take from the images to learn from, `(C, H, W)` each, what the network must know of all images."""

    def cost(self, network: Any) -> float:  # noqa: ARG002
        """Seconds to refine and count a pixel of a class, against those of a pixel of a training step."""
        return self.refining

    def reduced_side(self, network: Any) -> int:  # noqa: ARG002
        """Side of the reduced copies of the maps that are learned from besides the maps, px; 0 for none."""
        return 0

    def feature_channels(self, network: Any) -> int:  # noqa: ARG002
        """How many channels the features of `outputs` have; 0 if it gives none, and no objective can look at them."""
        return 0

    def prepare(self, batch: Batch[Any], options: Any, random: np.random.Generator) -> Batch[Any]:  # noqa: ARG002
        """Change a batch of NumPy arrays, or add to it, by random numbers of this generator alone."""
        return batch

    def outputs(self, network: Any, batch: Batch[Tensor]) -> Outputs:
        """Run a network in training."""
        raise NotImplementedError

    def objective(self, options: Any, network: Any) -> Objective:  # noqa: ARG002
        """What training minimises: the joint loss, unless the method has one of its own."""
        return JointLoss(options)

    def graphs(self, network: Any) -> tuple[Graph, ...]:
        """The network as it is exported and run in refinement."""
        raise NotImplementedError


def as_text(values: Tensor) -> str:
    """Numbers as metadata hold them; `Metadata.numbers` reads them."""
    return " ".join(f"{value:.9g}" for value in values.flatten().tolist())


def build(name: str, options: Options | None = None, *, bands: int = 0, seed: int | None = None) -> Any:
    """An untrained network of a method.

    Args:
        name: of the method.
        options: of the method; its defaults if None.
        bands: of the image beside the logits; 0 without one.
        seed: of the random weights; None to go on with torch's generator as it is.

    Raises:
        KeyError: there is no such method.
    """
    if seed is not None:
        torch.manual_seed(seed)
    return recipe_of(name).build(options or options_of(name)(), bands)


def describe(network: Any) -> dict[str, str]:
    """What a refiner must know of a network, as the metadata of its files."""
    return {
        "prn.format": "1",
        "prn.network": network.name,
        "prn.multiple": str(network.multiple),
        "prn.halo": str(network.halo),
        "prn.tile": str(network.tile),
        **recipe_of(network.name).describe(network),
        "prn.strength": "1",
        "prn.threshold": "0.5",
    }


def from_description(description: Mapping[str, str]) -> Any:
    """An untrained network of the kind that the metadata of a file describe.

    Raises:
        KeyError: an entry is missing, or names a method that this version does not know.
        ValueError: an entry is no number.
    """
    name = description["prn.network"]
    options = recipe_of(name).options_from(description, options_of(name)())
    return build(name, options, bands=int(description.get("prn.image_channels", "0")))
