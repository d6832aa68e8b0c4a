"""Methods of refinement: a folder each, and a row in `METHODS`.

A method's folder holds `options.py` (what `prn train` can set), `refiner.py` (NumPy: how windows are refined),
`recipe.py` (torch: how its network is made, trained and exported), and perhaps `published.py` (checkpoints of others).
Its classes are named after it: `FastOptions`, `FastRefiner`, `FastRecipe`. Objectives that can be added to any method's
training are folders of the same kind, with `options.py` and `objective.py`. Nothing is imported before it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, cast

from prn_cli.errors import WeightsError
from prn_cli.execution.watch import SILENT, Watch

if TYPE_CHECKING:
    from torch import nn

    from prn_cli.methods.objective import Objective
    from prn_cli.methods.recipe import Recipe
    from prn_cli.methods.refiner import Refiner, Runner
    from prn_cli.methods.weights import Weights
    from prn_cli.options import Options

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Folder:
    """Where a method, or an objective, lives.

    Attributes:
        package: that is imported.
        prefix: of its classes' names.
    """

    package: str
    prefix: str

    def part(self, name: str) -> Any:
        """Its class of this name in the module of this name, such as `FastRecipe` of `fast/recipe.py`."""
        return getattr(import_module(f"{self.package}.{name}"), f"{self.prefix}{name.capitalize()}")


METHODS: dict[str, Folder] = {
    "fast": Folder("prn_cli.methods.fast", "Fast"),
    "paper": Folder("prn_cli.methods.paper", "Paper"),
    "segrefiner": Folder("prn_cli.methods.segrefiner", "Segrefiner"),
    "image": Folder("prn_cli.methods.image", "Image"),
}
"""By name, which is also `prn.network` in the metadata of weights. Other packages may add rows."""

OBJECTIVES: dict[str, Folder] = {
    "fbr": Folder("prn_cli.methods.fbr", "Fbr"),
}
"""Objectives that can be added to a method's own, by name."""


def options_of(name: str) -> type[Options]:
    """The options class of a method or of an objective."""
    return cast("type[Options]", (METHODS | OBJECTIVES)[name].part("options"))


def recipe_of(name: str) -> Recipe:
    """How a method's network is made, trained and exported. Imports torch.

    Raises:
        KeyError: there is no such method.
    """
    return cast("Recipe", METHODS[name].part("recipe")())


def objective_of(name: str, options: Options, network: nn.Module) -> Objective:
    """An objective of `OBJECTIVES`, to be added to that of a method's recipe. Imports torch."""
    return cast("Objective", OBJECTIVES[name].part("objective")(options, network))


def refiner_of(runner: Runner) -> Refiner:
    """The refiner for the network that a runner runs.

    Raises:
        WeightsError: it is not one of prn, or one that this version does not know.
    """
    found = runner.metadata.get("prn.format", "nothing")
    if found != "1":
        raise WeightsError(
            f"not a model that this version of prn can run: prn.format is {found}, expected 1",
            hint="export it with 'prn train' or 'prn weights import'" if found == "nothing" else "update prn",
            path=runner.path,
        )
    network = runner.metadata.get("prn.network", "")
    if network not in METHODS:
        raise WeightsError(f"network '{network}', expected {' or '.join(METHODS)}", hint="update prn", path=runner.path)
    return cast("Refiner", METHODS[network].part("refiner")(runner))


def load_refiner(
    weights: Weights,
    *,
    device: Device = "auto",
    threads: int = 0,
    side_by_side: bool = False,
    watch: Watch = SILENT,
) -> Refiner:
    """Load weights into the refiner of their method.

    Args:
        weights: found and verified: an ONNX file, see `prn_cli.methods.weights.find_weights`, or tensors, see
            `find_tensors`.
        device: `auto` takes CUDA where it works, else the CPU.
        threads: on the CPU; 0 for as many as cores.
        side_by_side: several runs at once, for callers with several threads, see `Session`.
        watch: hears why `auto` takes the CPU.

    Raises:
        WeightsError: not a model, not one of prn, or of a network that this version does not know.
        DeviceError: the device cannot be had.
    """
    from prn_cli.methods.loading import load_runner

    runner = load_runner(weights, device=device, threads=threads, side_by_side=side_by_side, watch=watch)
    refiner = refiner_of(runner)
    if weights.card.get("learned_without_labels"):
        refiner.strength = 0.0  # nothing says that the correction helps on maps of others
    return refiner
