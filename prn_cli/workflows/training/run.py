"""A run of training: the value that its steps share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prn_cli.execution.clock import now
from prn_cli.execution.watch import Watch
from prn_cli.methods import recipe_of
from prn_cli.methods.recipe import build
from prn_cli.training.adapt import Start
from prn_cli.training.augment import TrainingMap
from prn_cli.training.loop import Settings
from prn_cli.workflows.train import TrainOptions

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Budget:
    """The time that a run may take, s: all of it, what earlier calls have taken, and the clock when this one began."""

    seconds: float | None
    began: float
    spent: float = 0.0

    def elapsed(self) -> float:
        """Seconds that the run has taken, with earlier calls."""
        return self.spent + now() - self.began

    def left(self) -> float:
        """Seconds that are left."""
        return math.inf if self.seconds is None else self.seconds - self.elapsed()


@dataclass(frozen=True)
class Run:
    """What was asked for, and what follows from it.

    Attributes:
        options: of the workflow.
        settings: of the training; final once the number of maps is known.
        start: weights to start from, if any.
        bands: of the images; 0 without images.
        device: where to train.
        threads: of the CPU.
        watch: is told of progress.
        budget: of time.
        multiple: crops may be smaller, by multiples of this, px; 0 if they may not.
        fingerprint: all that the result depends on, by what users call it; empty until the maps are known.
    """

    options: TrainOptions
    settings: Settings
    start: Start | None
    bands: int
    device: torch.device
    threads: int
    watch: Watch
    budget: Budget
    multiple: int = 0
    fingerprint: Mapping[str, str] = field(default_factory=dict)

    @property
    def recipe(self) -> Any:
        """The method's recipe."""
        return recipe_of(self.options.method)

    def network(self, maps: Sequence[TrainingMap] = ()) -> Any:
        """A network to train on these maps."""
        recipe, options = self.recipe, self.settings.options
        if self.start is not None:
            network = self.start.network(options)
        else:
            network = build(self.options.method, options, bands=self.bands, seed=self.options.seed)
        if self.bands and maps and (self.start is None or recipe.observes_again):
            recipe.observe(network, (m.image for m in maps if m.image is not None))
        return network
