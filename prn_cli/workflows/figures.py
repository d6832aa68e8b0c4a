"""Counts of refined maps: pixels of each value, changed pixels, and the drift from the logits of training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.components import Runs
from prn_cli.maps.drift import Reference, describe
from prn_cli.maps.pixels import IGNORE


@dataclass(slots=True)
class Figures:
    """Counts of pixels; `pixels` by class, `padding` those of `prn_cli.maps.certain.find_padding`.

    `below` says whether a logit of the rows with padding is below 0.
    """

    height: int
    width: int
    classes: Sequence[str]
    changed: int = 0
    pixels: list[int] = field(default_factory=list)
    drift: float | None = None
    not_counted: Counter[str] = field(default_factory=Counter)  # pixels by reason
    padding: int = 0
    below: bool = False

    @staticmethod
    def of(
        mask: NDArray[np.uint8], base: NDArray[np.uint8], classes: Sequence[str], *, all_valid: bool = False
    ) -> Figures:
        """Counts of rows of a refined and a base mask, uint8, 255 invalid."""
        # Faster than numpy.bincount, even for two dozen classes.
        found = [int(np.count_nonzero(mask == number)) for number in range(1, max(len(classes), 2))]
        valid = mask.size if all_valid else int(np.count_nonzero(mask != IGNORE))
        height, width = mask.shape
        return Figures(height, width, classes, int(np.count_nonzero(mask != base)), [valid - sum(found), *found])

    @property
    def valid(self) -> int:
        """Number of valid pixels."""
        return sum(self.pixels)

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def add(self, more: Figures) -> None:
        """Add the counts of further rows."""
        self.pixels = [a + b for a, b in zip(self.pixels, more.pixels, strict=True)] if self.pixels else more.pixels
        self.changed += more.changed
        self.not_counted.update(more.not_counted)
        self.padding += more.padding
        self.below |= more.below

    def take(self, runs: Runs) -> None:
        """Count a whole mask."""
        self.pixels = [int(runs.lengths[runs.values == value].sum()) for value in (0, 1)]
        self.changed = runs.changed()

    def as_dict(self) -> dict[str, Any]:
        """For the manifest and for JSON."""
        figures: dict[str, Any] = {"height": self.height, "width": self.width, "valid": self.valid}
        if self.classes:
            figures["classes"] = dict(zip(self.classes, self.pixels, strict=True))
        else:
            figures["foreground"] = self.pixels[1]
        figures |= {"changed": self.changed, "drift": self.drift, "not_counted": dict(self.not_counted)}
        return figures | ({"padding": self.padding, "below": self.below} if self.padding else {})


def counts_of(runs: Runs) -> dict[str, int]:
    """The figures of a whole mask that cleaning changes, as `Figures.as_dict` names them."""
    return {"foreground": int(runs.lengths[runs.values == 1].sum()), "changed": runs.changed()}


class Sample:
    """A regular sample of a map's logits, to compare with the weights' reference of training, if there is one."""

    PIXELS = 1 << 12

    def __init__(self, reference: Reference | None, pixels: int) -> None:
        self.reference, self.step = reference, max(1, math.isqrt(pixels // self.PIXELS))
        self.parts: list[NDArray[np.float32]] = []

    def of(self, logits: NDArray[np.float32], y: int, x: int) -> NDArray[np.float32]:
        """The sample of rows, `(…, h, w)`, whose first pixel lies at `y` and `x`."""
        if self.reference is None:
            return np.empty(0, np.float32)
        # A copy even where it is empty: an empty view would keep all the rows in memory.
        return logits[..., -y % self.step :: self.step, -x % self.step :: self.step].flatten()

    def distance(self) -> float | None:
        """See `prn_cli.maps.drift.Reference.distance`; None without a reference."""
        if self.reference is None:
            return None
        return round(self.reference.distance(describe(np.concatenate(self.parts)))[0], 2)
