"""How much of a correction a set bears, found without labels: where the network does not know the place, it shows.

A sample is looked at as it is, mirrored, turned, and at half its scale. How far the masks of these views agree, how
much surer refined scores are, and how much area is won or lost tell a regression, fitted over many sets and base models
by `bench/image.py`, what each strength is likely to gain. At each place of a map, what two of the views add at the
least is added.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.probabilities import sigmoid
from prn_cli.methods.refiner import FloatMap, Windows

FEATURES = ("agreement of views", "gain of expected IoU", "log area, refined by base")


class Agreement:
    """Counts over a sample of a set, from which its features come."""

    def __init__(self) -> None:
        self._overlap = np.zeros((3, 2))  # with the mask of the mirror image, of the turned map, at half scale
        self._expected = np.zeros((2, 2))  # of the base model and refined
        self._areas = np.zeros(2)

    def add(self, logits: FloatMap, fields: Sequence[FloatMap]) -> None:
        """Count windows, `(N, h, w)`, cut at 0, and what is to be added to them, see `fields_of_views`."""
        valid = ~np.isnan(logits)
        refined = np.nan_to_num(logits + fields[0], nan=-np.inf)
        base = np.nan_to_num(logits, nan=-np.inf)
        mask = refined > 0
        for counts, other in zip(self._overlap, fields[1:], strict=True):
            same = valid & (np.nan_to_num(logits + other, nan=-np.inf) > 0)
            counts += (mask & same).sum(), (mask | same).sum()
        for counts, scores in zip(self._expected, (base, refined), strict=True):
            chance = sigmoid(scores)
            found = scores > 0
            hits = chance[found].sum()
            counts += hits, found.sum() + chance[~found].sum()
        self._areas += (base > 0).sum(), mask.sum()

    def features(self) -> NDArray[np.float64]:
        """See `FEATURES`, `(3,)`."""
        *agreement, before, after = (both / either if either else 1.0 for both, either in self._counts())
        area = np.log((self._areas[1] + 1) / (self._areas[0] + 1))
        return np.array([np.mean(agreement), after - before, np.clip(area, -3, 3)])

    def _counts(self) -> NDArray[np.float64]:
        return np.concatenate([self._overlap, self._expected])


FieldOf = Callable[[Windows], FloatMap]


def fields_of_views(windows: Windows, field_of: FieldOf, views: slice = slice(None)) -> tuple[FloatMap, ...]:
    """What is added to windows as they are, mirrored, turned, and at half their scale; all as the windows lie.

    `field_of` may give anything whose last two axes are those of the windows.
    """
    return tuple(view(windows, field_of) for view in _VIEWS[views])


def consensus(fields: Sequence[FloatMap]) -> FloatMap:
    """What all of some views add at the least; 0 where they do not agree on the direction."""
    first, *others = fields
    least, agreed = np.abs(first), np.ones(first.shape, np.bool_)
    for other in others:
        np.minimum(least, np.abs(other), out=least)
        agreed &= (other > 0) == (first > 0)
    return np.where(agreed, np.copysign(least, first), np.float32(0))


def _mirrored(windows: Windows, field_of: FieldOf) -> FloatMap:
    return field_of(windows.turned(True, 0))[..., ::-1]


def _turned(windows: Windows, field_of: FieldOf) -> FloatMap:
    return np.rot90(field_of(windows.turned(False, 1)), -1, axes=(-2, -1))


def _at_half_scale(windows: Windows, field_of: FieldOf) -> FloatMap:
    """The field of windows at half their scale, at the full one again."""
    height, width = windows.logits.shape[1:]
    side = [2 * multiple * max(size // (2 * multiple), 1) for multiple, size in ((_CELL, height), (_CELL, width))]
    rows, columns = (np.minimum(np.arange(s), n - 1) for s, n in zip(side, (height, width), strict=True))
    cut = np.ix_(range(len(windows.logits)), rows, columns)
    image = None if windows.image is None else _halved(windows.image[..., rows[:, None], columns])
    small = replace(windows, logits=_halved(windows.logits[cut]), image=image)
    field = field_of(small).repeat(2, axis=-2).repeat(2, axis=-1)[..., :height, :width]
    missing = height - field.shape[-2], width - field.shape[-1]
    return np.pad(field, (*[(0, 0)] * (field.ndim - 2), (0, missing[0]), (0, missing[1])), mode="edge")


_CELL = 16  # px, of which sides of windows are multiples
_VIEWS: Sequence[Callable[[Windows, FieldOf], FloatMap]] = (
    lambda windows, field_of: field_of(windows),
    _mirrored,
    _turned,
    _at_half_scale,
)
DECIDING = slice(2, 4)
"""The views that decide at each place. They share neither direction nor scale, and all four gain no more."""


def _halved(maps: FloatMap) -> FloatMap:
    *first, height, width = maps.shape
    return np.asarray(maps.reshape(*first, height // 2, 2, width // 2, 2).mean(axis=(-3, -1)), np.float32)


@dataclass(frozen=True)
class Brake:
    """A regression from features to the gain of each strength.

    Attributes:
        centre: of each feature.
        spread: of each feature.
        weights: of each strength, of the features and at last a constant, in points of IoU.
        strengths: greater than 0.
        least: expected gain below which masks are left as they are, in points of IoU.
    """

    centre: Sequence[float]
    spread: Sequence[float]
    weights: Sequence[Sequence[float]]
    strengths: Sequence[float]
    least: float

    def strength(self, features: NDArray[np.float64]) -> float:
        """The strength with the greatest expected gain; 0 if that is too small."""
        standard = np.clip((features - self.centre) / self.spread, -3, 3)
        gains = np.asarray(self.weights) @ [*standard, 1.0]
        best = int(gains.argmax())
        return float(self.strengths[best]) if gains[best] > self.least else 0.0

    def to_json(self) -> str:
        """As the weights' metadata hold it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Brake:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is not that.
        """
        try:
            brake = cls(**json.loads(text))
            shape = np.array(brake.weights, np.float64).shape
            sizes = [len(values) for values in (brake.strengths, brake.centre, brake.spread)]
            numbers = [*brake.centre, *brake.spread, *brake.strengths, float(brake.least), *np.ravel(brake.weights)]
        except (TypeError, ValueError) as error:
            raise ValueError("not a brake") from error
        fits = shape == (sizes[0], len(FEATURES) + 1) and sizes[1:] == [len(FEATURES)] * 2
        if not fits or not np.isfinite(numbers).all() or min(brake.spread) <= 0 or not _within(brake.strengths):
            raise ValueError("not a brake")
        return brake


def _within(strengths: Sequence[float]) -> bool:
    return all(0 <= strength <= 1 for strength in strengths)
