"""Where to cut a set of maps so that IoU or Dice is as high as can be expected, without labels.

If a pixel of logit z is foreground with probability p(z), a cut has the expected intersection and union

    E[I] = Σ p over the pixels above the cut        E[U] = pixels above the cut + Σ p over those below

and the best cut is that of the greatest E[I] / E[U] (Dai and Li, RankSEG, JMLR 2023; RankSEG-RMA, arXiv 2510.15362, cut
each image so). Sums over a histogram give it for all cuts at once. As p is not known for sure, gains are averaged over
what it may be (`calibration`), and a loss counts more than a gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prn_cli.thresholding.calibration import Calibration
from prn_cli.thresholding.logit_statistics import BINS, CENTRES, EDGES, PER_LOGIT

FloatArray = NDArray[np.float64]
Score = Literal["iou", "dice"]

LOSS_WEIGHT = 3.0
"""A loss counts so many times a gain of the same size."""
CAUTION = 0.04
"""Gains far above 4 points hardly count, so that they do not outweigh a small risk; losses count exponentially."""
_FARTHEST = 5
"""Cuts lie within so many logits of 0: thresholds from 0.007 to 0.993."""
_HALF = BINS // 2
_FIRST, _LAST = _HALF - _FARTHEST * PER_LOGIT, _HALF + _FARTHEST * PER_LOGIT


@dataclass(frozen=True, slots=True)
class Decision:
    """A threshold, and what it is expected to be worth.

    Attributes:
        threshold: probability above which a pixel is foreground, rounded to 0.001.
        gain: expected change of the score against a threshold of 0.5; 0 where that is kept.
        confidence: probability that the change is no loss, 0 to 1; 1 where 0.5 is kept.
    """

    threshold: float
    gain: float
    confidence: float


def expected_scores(counts: NDArray[np.number], probabilities: FloatArray, score: Score = "iou") -> FloatArray:
    """The expected score of every cut.

    Args:
        counts: `(B,)` pixels by bin, bins in the order of their probability.
        probabilities: `(..., B)`, of each bin.
        score: intersection over union, or Dice.

    Returns:
        `(..., B + 1)`: with bins c and above as foreground; 1 where there is nothing to find and nothing is found.
    """
    pixels = _from_above(np.asarray(counts, np.float64))
    hits = _from_above(counts * probabilities)
    foreground = hits[..., :1]
    above, below = (hits, pixels + foreground - hits) if score == "iou" else (2 * hits, pixels + foreground)
    return np.divide(above, below, out=np.ones_like(hits), where=below > 0)


def decide(
    counts: NDArray[np.number],
    calibration: Calibration,
    score: Score = "iou",
    *,
    of_set: NDArray[np.number] | None = None,
) -> Decision:
    """Choose a threshold.

    Args:
        counts: `(BINS,)` pixels by logit, see `logit_statistics`: of the set, or of one image.
        calibration: how logits turn into probabilities.
        score: what is to be high.
        of_set: counts of the whole set, which those of an image are drawn towards, half and half.
    """
    if of_set is not None:
        counts = counts / max(counts.sum(), 1) + of_set / max(of_set.sum(), 1)
    points, weights = calibration.samples()
    probabilities = 1 / (1 + np.exp(-np.clip(points[:, :1] * CENTRES + points[:, 1:], -40, 40)))
    scores = expected_scores(counts, probabilities, score)
    gains = scores[:, _FIRST : _LAST + 1] - scores[:, _HALF, None]
    worth = weights @ _utility(gains)
    best = int(worth.argmax())
    if worth[best] <= _WORTHWHILE:
        return Decision(0.5, 0.0, 1.0)
    threshold = 1 / (1 + np.exp(-EDGES[_FIRST + best]))
    return Decision(round(float(threshold), 3), float(weights @ gains[:, best]), float(weights @ (gains[:, best] >= 0)))


_WORTHWHILE = 1e-6


def _utility(gains: FloatArray) -> FloatArray:
    """What a gain is worth: concave, and steeper for losses."""
    held = np.maximum(gains, -6 * CAUTION)
    return np.where(held > 0, 1.0, LOSS_WEIGHT) * CAUTION * -np.expm1(-held / CAUTION)


def _from_above(values: FloatArray) -> FloatArray:
    """Sums of bins c and above, for c from 0 to B: `(..., B)` to `(..., B + 1)`."""
    return np.concatenate([values[..., ::-1].cumsum(axis=-1)[..., ::-1], np.zeros_like(values[..., :1])], axis=-1)
