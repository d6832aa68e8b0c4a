"""How much of a correction to apply, and where to cut: chosen on maps that the correction has not seen.

A refined logit is `logit + strength · (refined - logit)`: 0 is the base model, 1 the whole correction. What a strength
and a threshold would have given on held-out maps is counted once, map by map (`tally`); the choice (`choose`) is
arithmetic on these counts. It never expects a loss: where no strength gains, it is 0, and prn leaves masks alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.blend import strengthen
from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics.intervals import bootstrap
from prn_cli.metrics.regions import iou

FloatMap = NDArray[np.float32]
FloatArray = NDArray[np.float64]

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
TELLING_MAPS = 10
"""With fewer held-out maps, a gain that may be chance is none, and the threshold stays."""
_HALF = THRESHOLDS.index(0.5)


def tally(logits: FloatMap, refined: FloatMap, label: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count what every strength and threshold would give on one map.

    Args:
        logits: the base model's, `(h, w)` float32, NaN where invalid.
        refined: the whole correction's, the same.
        label: `(h, w)` uint8: 0 background, 1 foreground, 255 ignore.

    Returns:
        `(S, T, 4)` int64 for `STRENGTHS` and `THRESHOLDS`: tp, fp, fn, tn, as `RegionCounts.array` has them.
    """
    valid = (label != IGNORE) & ~np.isnan(logits)
    true = label[valid] == 1
    base, whole = logits[valid], refined[valid]
    odds = np.array([np.log(t) - np.log1p(-t) for t in THRESHOLDS], np.float32)
    counts = np.empty((len(STRENGTHS), len(THRESHOLDS), 4), np.int64)
    for row, strength in zip(counts, STRENGTHS, strict=True):
        # A logit is foreground at the thresholds that it exceeds: the first `reached` ones.
        reached = np.searchsorted(odds, strengthen(base, whole, strength), side="left")
        above = [
            np.bincount(part, minlength=len(odds) + 1)[::-1].cumsum()[::-1] for part in (reached[true], reached[~true])
        ]
        (tp, fp), (positives, negatives) = (part[1:] for part in above), (part[0] for part in above)
        row[:] = np.stack([tp, fp, positives - tp, negatives - fp], axis=-1)
    return counts


@dataclass(frozen=True)
class Choice:
    """A strength and a threshold, with what they gain on the maps that they were chosen on.

    Attributes:
        strength: 0 to 1.
        threshold: probability above which a refined pixel is foreground.
        gain: mean over the groups of the change of pooled IoU; of one group, all maps together, if none were given.
        groups: change of pooled IoU, group by group.
        strengths: the same mean for every strength of `STRENGTHS`, cut at 0.5.
    """

    strength: float
    threshold: float
    gain: float
    groups: dict[str, float]
    strengths: dict[str, float]


def choose(
    counts: NDArray[np.int64],
    groups: Sequence[str],
    *,
    images: int | None = None,
    any_threshold: bool = True,
    seed: int = 0,
) -> Choice:
    """Choose strength and threshold on held-out maps.

    The strength is the one with the largest expected gain over the base model at 0.5: the mean over groups, so that a
    scene of many tiles does not outvote the others. Of two to nine maps, strengths whose pooled gain may be chance
    are out: those with the lower bound of its 95 % bootstrap interval over maps not above 0. Of two groups, both must
    gain. The threshold leaves 0.5 only on ten maps or more, and if that gains on top, with the lower bound of such an
    interval over three groups or more (over maps, if there is one group) above 0: a level that fits the maps at hand is
    the first thing that does not carry over.

    Args:
        counts: `(maps, S, T, 4)`, see `tally`.
        groups: of each map: its scene, or one name for all.
        images: how many maps there are, where `counts` has several rows for each, of parts or classes.
        any_threshold: whether the threshold may leave 0.5; of several classes, the greatest score counts instead.
        seed: of the bootstrap.
    """
    names = sorted(set(groups))
    member = np.array([[group == name for group in groups] for name in names], np.float64)
    pooled = np.tensordot(member, counts.astype(np.float64), axes=1)
    scores = iou(pooled)
    gains = scores - scores[:, :1, _HALF : _HALF + 1]
    expected = gains[:, :, _HALF].mean(axis=0)
    few, pair = (images or len(counts)) < TELLING_MAPS, len(names) == 2
    sure = _sure(counts, seed) if few and len(counts) > 1 else np.ones(len(STRENGTHS), bool)
    if pair:
        sure[1:] &= (gains[:, 1:, _HALF] > 0).all(axis=0)
    best = int(np.argmax(np.where(sure, expected, -np.inf)))  # the first of equals, which is the weaker
    cut = _threshold(counts[:, best], pooled[:, best], seed) if any_threshold and not (few or pair) else _HALF
    return Choice(
        strength=STRENGTHS[best],
        threshold=THRESHOLDS[cut],
        gain=float(gains[:, best, cut].mean()),
        groups={name: float(gain) for name, gain in zip(names, gains[:, best, cut], strict=True)},
        strengths={f"{strength:g}": float(gain) for strength, gain in zip(STRENGTHS, expected, strict=True)},
    )


def _sure(counts: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Which strengths gain surely over the base model at 0.5, by the maps; strength 0, which changes nothing, does."""
    flat = counts[:, :, _HALF].astype(np.float64).reshape(len(counts), -1)

    def statistic(weights: FloatArray) -> FloatArray:
        scores = iou((weights @ flat).reshape(len(weights), len(STRENGTHS), 4))
        return scores - scores[:, :1]

    _, low, _ = bootstrap(statistic, len(counts), seed=seed)
    low[0] = np.inf
    return low > 0


def _threshold(maps: NDArray[np.int64], groups: FloatArray, seed: int) -> int:
    """Index of the threshold, from counts `(maps, T, 4)` and those of their groups."""
    if len(groups) > 1:
        gains = iou(groups) - iou(groups)[:, _HALF, None]

        def statistic(weights: FloatArray) -> FloatArray:
            return np.asarray(weights @ gains / weights.sum(axis=1, keepdims=True), np.float64)

        count = len(groups)
    else:
        flat = maps.astype(np.float64).reshape(len(maps), -1)

        def statistic(weights: FloatArray) -> FloatArray:
            scores = iou((weights @ flat).reshape(len(weights), *maps.shape[1:]))
            return scores - scores[:, _HALF, None]

        count = len(maps)
    _, low, _ = bootstrap(statistic, count, seed=seed)
    low = np.nan_to_num(low, nan=-1.0)
    low[_HALF] = 0.0
    # Of those that surely gain, the one nearest to 0.5 among equals.
    order = sorted(range(len(low)), key=lambda index: (-low[index], abs(index - _HALF)))
    return order[0]
