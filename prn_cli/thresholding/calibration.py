"""How a model's logits z turn into probabilities, σ(slope · z + shift), and how sure that is.

Slope and shift are Platt's (1999). What is known of them is a normal distribution over (log slope, shift): without
labels, what three features of the logits say (`expect`, fitted over many sets and base models by
`bench/first_call.py --fit`); with a few labels, its update (`learn`). What the labels say can be kept (`Evidence`), to
update what is expected of another set of the same base model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.thresholding.logit_statistics import BINS, CENTRES, EDGES, LEVELS, PER_LOGIT, LogitStatistics

FloatArray = NDArray[np.float64]

FEATURES = ("steepest logit", "Otsu's threshold", "typical background")
USUAL_SPREAD = (1.4, 10.0)
"""Mean distance from 0 of the logits of base models. Others are taken for such logits times a factor."""
MAP_WEIGHT = 7.0
"""Independent pixels that a labelled map is worth: more trusts a few maps too much (bench/first_call.py)."""
_NODES = 9
_LEAST = 1e-5
"""Quadrature points of less weight are left out."""
_TAIL = 0.15
"""Weight of a second normal distribution, twice as wide: some base models are like no other."""
_SLOPES = (-1.5, 2.0)
"""Log slopes of logits of a usual spread are held between these."""
_SMALL = 1e-9
_STEPS = 100


@dataclass(frozen=True, slots=True)
class Fit:
    """The regression behind `expect`, over standardised features; see `FEATURES`."""

    centre: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[tuple[float, ...], tuple[float, ...]]
    mean: tuple[float, float]
    covariance: tuple[tuple[float, float], tuple[float, float]]


FIT = Fit(
    centre=(-0.794, -1.381, -2.891),
    spread=(1.223, 1.01, 1.9),
    weights=((0.053, -0.065, 0.132), (-0.048, -0.321, -0.073)),
    mean=(0.084, -0.573),
    covariance=((0.219, 0.18), (0.18, 0.631)),
)
"""Fitted to the training splits of all pairs of `bench/first_call.py`."""


@dataclass(frozen=True)
class Calibration:
    """A normal distribution over (log slope, shift).

    Attributes:
        mean: `(2,)` float64.
        covariance: `(2, 2)` float64.
        scale: what brings the logits to a usual spread.
    """

    mean: FloatArray
    covariance: FloatArray
    scale: float = 1.0

    def samples(self) -> tuple[FloatArray, FloatArray]:
        """Points `(K, 2)` of slope and shift, and their weights `(K,)`, by Gauss-Hermite quadrature."""
        nodes, weight = np.polynomial.hermite_e.hermegauss(_NODES)
        grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
        weights = np.outer(weight, weight).ravel() / weight.sum() ** 2
        grid, weights = grid[weights > _LEAST], weights[weights > _LEAST]
        root = np.linalg.cholesky(self.covariance + _SMALL * np.eye(2))
        points = self.mean + np.concatenate([grid, 2 * grid]) @ root.T
        points[:, 0] = np.exp(np.clip(points[:, 0], *(limit + np.log(self.scale) for limit in _SLOPES)))
        weights = np.concatenate([(1 - _TAIL) * weights, _TAIL * weights])
        return points, weights / weights.sum()


@dataclass(frozen=True)
class Evidence:
    """What labelled maps say of the calibration of their base model, whatever was expected of it.

    Attributes:
        precision: `(2, 2)` float64, inverse covariance of (log slope, shift) by the labels alone.
        information: `(2,)` float64, the precision times the mean.
        allowed: bool, by cut: whether the labelled maps bear it, see `prn_cli.thresholding.decision.bearable`.
        maps: how many there are.
    """

    precision: FloatArray
    information: FloatArray
    allowed: NDArray[np.bool_]
    maps: int

    def update(self, prior: Calibration) -> Calibration:
        """What is known of a set for which the prior is expected."""
        known = np.linalg.inv(prior.covariance + _SMALL * np.eye(2))
        covariance = np.asarray(np.linalg.inv(known + self.precision), np.float64)
        return Calibration(covariance @ (known @ prior.mean + self.information), covariance, prior.scale)

    def record(self) -> dict[str, Any]:
        """As the card of weights holds it."""
        return {
            "maps": self.maps,
            "precision": np.round(self.precision, 6).tolist(),
            "information": np.round(self.information, 6).tolist(),
            "allowed": np.packbits(self.allowed).tobytes().hex(),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], cuts: int) -> Evidence:
        """Read what `record` gave, for so many cuts; `ValueError` if it is not that."""
        try:
            precision, information = (np.array(record[key], np.float64) for key in ("precision", "information"))
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(record["allowed"]), np.uint8))[:cuts]
            maps = int(record["maps"])
        except (KeyError, TypeError) as error:
            raise ValueError("no evidence of labelled maps") from error
        fits = (precision.shape, information.shape, bits.shape) == ((2, 2), (2,), (cuts,))
        fits = fits and bool(np.isfinite([*precision.ravel(), *information]).all())
        if not fits or np.linalg.eigvalsh(precision).min() < -1e-3:
            raise ValueError("no evidence of labelled maps")
        return cls(precision, information, bits.astype(bool), maps)


def scale_of(statistics: LogitStatistics) -> float:
    """The factor that brings a set's logits to the nearest usual spread; 1 for those of most base models."""
    spread = float(np.average(np.abs(CENTRES), weights=statistics.counts)) if statistics.pixels else USUAL_SPREAD[0]
    return float(np.clip(spread, *USUAL_SPREAD)) / max(spread, 1 / PER_LOGIT)


def describe(statistics: LogitStatistics, scale: float = 1.0) -> FloatArray:
    """What tells without labels whether a base model predicts too much: `(3,)` float64, see `FEATURES`.

    - The logit at which maps are steepest (between 4 px cells, mean over logits weighted by their mean gradient):
      boundaries lie where a model changes its mind. If that is above 0, the mask at 0.5 is too large.
    - Otsu's threshold (1979) of the logits, held to ±6.
    - The median logit of the background, pixels weighted by 1 - p: how far training has come.

    Args:
        statistics: of the logits as they are.
        scale: what they are multiplied by.
    """
    counts, centres = statistics.counts.astype(np.float64), scale * CENTRES
    return np.array([_steepest(statistics, scale), scale * _otsu(counts, centres), _background(counts, centres)])


def expect(statistics: LogitStatistics, fit: Fit = FIT) -> Calibration:
    """The calibration that a set's logits make likely; the less usual their spread, the less is known."""
    scale = scale_of(statistics)
    standard = np.clip((describe(statistics, scale) - fit.centre) / fit.spread, -3, 3)
    mean = np.array(fit.mean) + np.array(fit.weights) @ standard + [np.log(scale), 0]
    return Calibration(mean, np.array(fit.covariance) * (1 + np.log(scale) ** 2), scale)


def learn(prior: Calibration, maps: Sequence[NDArray[np.int64]], *, weight: float = MAP_WEIGHT) -> Calibration:
    """Update a calibration by labelled maps (Laplace's approximation): the mode, and the inverse curvature there.

    Of each map, `(2, BINS)` int64: background and foreground by their logit. Pixels of a map are anything but
    independent: all of a map count as `weight` pixels.
    """
    total = np.zeros((2, BINS))
    for counts in maps:
        total += counts * (weight / max(int(counts.sum()), 1))
    precision = np.linalg.inv(prior.covariance + _SMALL * np.eye(2))
    found = prior.mean.copy()
    for _ in range(_STEPS):
        gradient, curvature = _log_likelihood(total, found)
        step = np.linalg.solve(curvature + precision, gradient - precision @ (found - prior.mean))
        found += np.clip(step, -0.5, 0.5)
        if np.abs(step).max() < 1e-8:
            break
    return Calibration(found, np.linalg.inv(_log_likelihood(total, found)[1] + precision), prior.scale)


def probabilities_by(points: FloatArray) -> FloatArray:
    """`(K, BINS)`, of each bin by each pair of slope and shift `(K, 2)`."""
    return np.asarray(1 / (1 + np.exp(-np.clip(points[:, :1] * CENTRES + points[:, 1:], -40, 40))), np.float64)


def _log_likelihood(counts: FloatArray, at: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gradient `(2,)` and expected curvature `(2, 2)` of the labels' log-likelihood over (log slope, shift)."""
    slope = np.exp(at[0])
    pixels, p = counts.sum(axis=0), probabilities_by(np.array([[slope, at[1]]]))[0]
    surplus, spread = counts[1] - pixels * p, pixels * p * (1 - p)
    directions = np.stack([slope * CENTRES, np.ones(BINS)])
    return directions @ surplus, (directions * spread) @ directions.T


def _steepest(statistics: LogitStatistics, scale: float) -> float:
    """Mean scaled logit within ±5, weighted by the mean steepness there; 0 if nothing is known."""
    levels = scale * ((np.arange(LEVELS) + 0.5) / 2 - LEVELS / 4)
    cells, steepness = statistics.cells.astype(np.float64), statistics.steepness.astype(np.float64)
    enough = (np.abs(levels) < 5) & (cells > 2e-4 * cells.sum())
    mean = np.divide(steepness, cells, out=np.zeros(LEVELS), where=enough)
    return float(mean @ levels / mean.sum()) if mean.sum() > 0 else 0.0


def _otsu(counts: FloatArray, centres: FloatArray) -> float:
    """The cut that separates two classes of logits best, as if these lay at the centres."""
    below = counts.cumsum() / max(counts.sum(), 1)
    mean = (counts * np.clip(centres, -6, 6)).cumsum() / max(counts.sum(), 1)
    within = below * (1 - below)
    between = np.divide((mean[-1] * below - mean) ** 2, within, out=np.zeros(BINS), where=within > _SMALL)
    return float(EDGES[between.argmax() + 1]) if between.max() > 0 else 0.0


def _background(counts: FloatArray, centres: FloatArray) -> float:
    """The median logit, with pixels weighted by 1 - p."""
    weights = (counts / (1 + np.exp(np.minimum(centres, 40)))).cumsum()
    return float(np.clip(centres[min(int(np.searchsorted(weights, weights[-1] / 2)), BINS - 1)], -10, 10))
