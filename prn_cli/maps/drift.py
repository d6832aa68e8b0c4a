"""How far a map's logits lie from those that weights were trained on.

A correction learned on one base model's scores says little about another's. What can be seen without labels is the
distribution of the logits: a map whose quantiles lie outside those of all training maps is new to the network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.probabilities import sigmoid

FloatMap = NDArray[np.float32]
FloatArray = NDArray[np.float64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SHARE = "mean probability"
FEATURES = (*(f"{100 * q:.0f} % quantile" for q in QUANTILES), SHARE)
LIMIT = 12.0
"""Logits beyond ±12 are as good as 12: probabilities below 1e-5."""
FAR = 2.0
"""Distance from which on logits count as unlike those of training."""
_LEAST_SPREAD = np.array([0.25] * len(QUANTILES) + [0.02])


def describe(logits: FloatMap) -> FloatArray:
    """Features of one map, `(6,)` float64, see `FEATURES`, of its logits within ±12; NaN if no pixel is valid."""
    valid = logits[~np.isnan(logits)]
    if not valid.size:
        return np.full(len(FEATURES), np.nan)
    held = np.sort(np.clip(valid, -LIMIT, LIMIT))  # several times as fast as numpy.quantile
    place = np.array(QUANTILES) * (len(held) - 1)
    below = place.astype(int)
    above = np.minimum(below + 1, len(held) - 1)
    quantiles = held[below] + (place - below) * (held[above] - held[below])
    return np.append(quantiles, sigmoid(held).mean(dtype=np.float64))


@dataclass(frozen=True)
class Reference:
    """Range of every feature over the training maps, and the unit in which a distance from it is measured."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    spread: tuple[float, ...]

    def to_json(self) -> str:
        """As the weights' metadata hold it."""
        return json.dumps({key: [round(value, 4) for value in values] for key, values in asdict(self).items()})

    @classmethod
    def from_json(cls, text: str) -> Reference:
        """Read what `to_json` wrote; `ValueError` if it is not that."""
        try:
            parts = {key: tuple(map(float, json.loads(text)[key])) for key in ("low", "high", "spread")}
        except (KeyError, TypeError) as error:
            raise ValueError("not a reference of logits") from error
        reference = cls(**parts)
        lengths = {len(values) for values in parts.values()}
        if lengths != {len(FEATURES)} or not np.isfinite(list(parts.values())).all() or min(reference.spread) <= 0:
            raise ValueError("not a reference of logits")
        return reference

    def joined(self, other: Reference) -> Reference:
        """What covers the maps of both, in the greater of the two units."""
        return Reference(
            low=tuple(map(min, self.low, other.low)),
            high=tuple(map(max, self.high, other.high)),
            spread=tuple(map(max, self.spread, other.spread)),
        )

    def distance(self, features: FloatArray) -> tuple[float, str]:
        """How far a map's features lie outside the training maps', in their standard deviations, and which one most.

        0 within the range; NaN features count as within.
        """
        outside = [
            max(0.0, low - value, value - high) / spread  # the first of them where the value is NaN
            for value, low, high, spread in zip(features.tolist(), self.low, self.high, self.spread, strict=True)
        ]
        distance = max(outside)
        return distance, FEATURES[outside.index(distance)]


def reference(features: Sequence[FloatArray]) -> Reference:
    """The reference of a set of maps by the features of each; those without a valid pixel are left out."""
    table = np.array([row for row in features if not np.isnan(row).any()])
    if not len(table):
        raise ValueError("no map with a valid pixel")
    spread = np.maximum(table.std(axis=0), _LEAST_SPREAD)
    return Reference(*(tuple(map(float, values)) for values in (table.min(axis=0), table.max(axis=0), spread)))
