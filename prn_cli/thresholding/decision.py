"""Where to cut a set of maps so that IoU or Dice is as high as can be expected, without labels.

If a pixel of logit z is foreground with probability p(z), a cut has the expected intersection and union

    E[I] = Σ p over the pixels above the cut        E[U] = pixels above the cut + Σ p over those below

and the best cut is that of the greatest E[I] / E[U] (Dai and Li, RankSEG, JMLR 2023; RankSEG-RMA, arXiv 2510.15362, cut
each image so). Sums over a histogram give it for all cuts at once. As p is not known for sure, gains are averaged over
what it may be (`calibration`), a loss counts more than a gain, and a cut no more than those beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from prn_cli.metrics.intervals import bootstrap
from prn_cli.thresholding.calibration import FIT, Calibration, Evidence, Fit, expect, learn, probabilities_by
from prn_cli.thresholding.logit_statistics import BINS, EDGES, PER_LOGIT, LogitStatistics, measure, no_statistics

FloatArray = NDArray[np.float64]
Score = Literal["iou", "dice"]

LOSS_WEIGHT = 3.0
"""A loss counts so many times a gain of the same size."""
LABELLED_LOSS_WEIGHT = 5.0
"""The same where maps are labelled: who labels expects no loss."""
CAUTION = 0.04
"""Gains far above 4 points hardly count, so that they do not outweigh a small risk; losses count exponentially."""
_FARTHEST = 5
"""Cuts lie within so many logits of 0: thresholds from 0.007 to 0.993."""
TELLING_MAPS = 10
"""So many labelled maps tell by themselves what a threshold gains; fewer bear no network of their own."""
CLASS_PIXELS = 40_000
"""Pixels that offsets of classes are chosen on."""
WORTHWHILE = 1e-6
"""What is worth no more than that, see `utility`, is left alone."""
_SURE = 0.975
"""Confidence that a gain is one, if the lower bound of its 95 % interval is above 0."""
_SHARE_OF_SET = 0.5
"""By the statistics of its set, the cut of an image must be worth so much of what the set's own is worth."""
_NEARBY = 3
"""Bins to either side, a tenth of a logit, in which a cut must do well, too."""
_HALF = BINS // 2
_FIRST, _LAST = _HALF - _FARTHEST * PER_LOGIT, _HALF + _FARTHEST * PER_LOGIT
CUTS = _LAST - _FIRST + 1


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
    hits = _from_above(np.asarray(counts * probabilities, np.float64))
    return _scores(hits, pixels + hits[..., :1], score)


def decide(
    counts: NDArray[np.number],
    calibration: Calibration,
    score: Score = "iou",
    *,
    of_set: NDArray[np.number] | None = None,
    evidence: Evidence | None = None,
) -> Decision:
    """Choose a threshold.

    Args:
        counts: `(BINS,)` pixels by logit, see `logit_statistics`: of the set, or of one image.
        calibration: how logits turn into probabilities, as far as is known without labels.
        score: what is to be high.
        of_set: counts of the whole set, which those of an image are drawn towards, half and half.
        evidence: of labelled maps.

    Returns:
        The decision; 0.5 where scores below it were cut off, as by a ReLU: then nothing is known of the background.
    """
    known = counts if of_set is None else of_set
    if known[: _HALF - 1].sum() <= _CUT_OFF * known.sum():
        return Decision(0.5, 0.0, 1.0)
    loss_weight, allowed = LOSS_WEIGHT, np.ones(CUTS, bool)
    if evidence is not None:
        calibration, loss_weight, allowed = evidence.update(calibration), LABELLED_LOSS_WEIGHT, evidence.allowed
    points, weights = calibration.samples()
    probabilities = probabilities_by(points)

    def gains_of(counts: NDArray[np.number]) -> FloatArray:
        scores = expected_scores(counts, probabilities, score)
        return scores[:, _FIRST : _LAST + 1] - scores[:, _HALF, None]

    def worth_of(gains: FloatArray) -> FloatArray:
        return np.where(allowed, _worst_nearby(weights @ utility(gains, loss_weight)), 0.0)

    if of_set is not None:
        whole = worth_of(gains_of(of_set))
        allowed = allowed & (whole >= _SHARE_OF_SET * max(whole.max(), 0.0))
        counts = counts / max(counts.sum(), 1) + of_set / max(of_set.sum(), 1)
    gains = gains_of(counts)
    worth = worth_of(gains)
    best = int(worth.argmax())
    if worth[best] <= WORTHWHILE:
        return Decision(0.5, 0.0, 1.0)
    threshold = 1 / (1 + np.exp(-EDGES[_FIRST + best]))
    return Decision(round(float(threshold), 3), float(weights @ gains[:, best]), float(weights @ (gains[:, best] >= 0)))


_CUT_OFF = 1e-3


def decide_by_labels(
    maps: Sequence[NDArray[np.int64]], statistics: LogitStatistics, score: Score = "iou", *, fit: Fit = FIT
) -> Decision:
    """Choose a threshold by labelled maps: calibrate, then decide; of ten maps or more, by what they surely gain.

    Of each map, `(2, BINS)` int64: background and foreground by logit. The statistics are of the same maps together,
    `fit` is what is known of other base models.
    """
    if len(maps) >= TELLING_MAPS:
        return _surely_better(np.stack(maps), score)
    return decide(statistics.counts, expect(statistics, fit), score, evidence=gather(maps, statistics, fit=fit))


def _surely_better(maps: NDArray[np.int64], score: Score) -> Decision:
    """Of 0.05, 0.1 … 0.95, the threshold whose gain has the highest lower bound over the maps; 0.5 if none is sure.

    On sets and base models that it was not made for, that is worth half a point more than calibration
    (`bench/first_call.py`).
    """
    thresholds = np.array([0.5, *(round(0.05 * step, 2) for step in range(1, 20))])
    cuts = [cut_of(threshold) for threshold in thresholds.tolist()]
    above = _from_above(maps.astype(np.float64))
    false, hits, foreground = above[:, 0, cuts], above[:, 1, cuts], above[:, 1, :1]

    def gains(weights: FloatArray) -> FloatArray:
        right, union = weights @ hits, weights @ (false + foreground)
        top, whole = (right, union) if score == "iou" else (2 * right, union + right)
        scores = top / np.maximum(whole, 1)
        return np.asarray(scores - scores[:, :1], np.float64)

    found, low, _ = bootstrap(gains, len(maps))
    low[0] = 0.0
    best = int(np.nan_to_num(low, nan=-1.0).argmax())
    return Decision(float(thresholds[best]), float(found[best]), 1.0 if best == 0 else _SURE)


def gather(maps: Sequence[NDArray[np.int64]], statistics: LogitStatistics, *, fit: Fit = FIT) -> Evidence:
    """What labelled maps say, see `decide_by_labels`: to be kept, for the decision on other maps of the base model."""
    prior = expect(statistics, fit)
    posterior = learn(prior, maps)
    before, after = (np.linalg.inv(each.covariance) for each in (prior, posterior))
    return Evidence(after - before, after @ posterior.mean - before @ prior.mean, bearable(maps), len(maps))


def bearable(maps: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """`(CUTS,)`: whether labelled maps lose no IoU by a cut: not pooled, whichever is left out, and not on average."""
    above = np.stack([_from_above(counts.astype(np.float64)) for counts in maps])[..., _FIRST : _LAST + 1]
    foreground = np.array([counts[1].sum() for counts in maps], np.float64)
    mean = _ious(above, foreground).mean(axis=0)
    if len(maps) > 1:
        above, foreground = above.sum(axis=0) - above, foreground.sum() - foreground
    pooled = _ious(above, foreground)
    half = _HALF - _FIRST
    allowed: NDArray[np.bool_] = (mean >= mean[half]) & (pooled >= pooled[:, [half]]).all(axis=0)
    return allowed


def cut_of(threshold: float) -> int:
    """The first bin above a threshold."""
    return round((math.log(threshold) - math.log1p(-threshold)) * PER_LOGIT) + _HALF


def _ious(above: FloatArray, foreground: FloatArray) -> FloatArray:
    """IoU of false and true positives `(maps, 2, cuts)`."""
    return _scores(above[:, 1], above.sum(axis=1) + foreground[:, None])


@dataclass(frozen=True, slots=True)
class ClassDecision:
    """Offsets of several classes: the class of a pixel is that of the greatest logit less its offset.

    Attributes:
        offsets: `(C,)` float64, in logits; 0 leaves the classes as they are.
        gains: `(C,)` float64, expected change of every class's score.
        confidence: probability that the mean over classes is no loss, by the least sure class that changes.
    """

    offsets: FloatArray
    gains: FloatArray
    confidence: float

    @property
    def cut(self) -> float | tuple[float, ...]:
        """The offsets; 0.5 if classes stay as they are."""
        return tuple(self.offsets.tolist()) if self.offsets.any() else 0.5

    @classmethod
    def none(cls, classes: int) -> ClassDecision:
        """All classes stay as they are."""
        return cls(np.zeros(classes), np.zeros(classes), 1.0)


@dataclass(frozen=True, slots=True)
class ClassSample:
    """What a map of several classes, or a window of one, tells without labels.

    Attributes:
        statistics: of each class against the rest.
        pixels: `(n, C)` float32, one-versus-rest logits of some pixels, without NaN.
    """

    statistics: Sequence[LogitStatistics]
    pixels: NDArray[np.float32]

    @classmethod
    def of(cls, logits: NDArray[np.float32], most: int) -> ClassSample:
        """Measure `(C, h, w)` one-versus-rest logits, NaN invalid, and take at most so many pixels of them, evenly."""
        pixels = logits.reshape(len(logits), -1)
        pixels = pixels[:, ~np.isnan(pixels).any(axis=0)]
        step = -(-pixels.shape[1] // max(most, 1)) or 1
        return cls([measure(plane) for plane in logits], pixels[:, ::step].T.copy())


def decide_class_set(samples: Sequence[ClassSample], score: Score = "iou", *, fit: Fit = FIT) -> ClassDecision:
    """Choose offsets for the classes of a set by samples of its maps, one at least, see `decide_classes`."""
    pixels = np.concatenate([sample.pixels for sample in samples])
    if not len(pixels):
        return ClassDecision.none(pixels.shape[1])
    of_classes = zip(*(sample.statistics for sample in samples), strict=True)
    return decide_classes(pixels, [expect(sum(each, no_statistics()), fit) for each in of_classes], score)


def decide_classes(
    logits: NDArray[np.float32], calibrations: Sequence[Calibration], score: Score = "iou"
) -> ClassDecision:
    """Choose offsets of all classes together, by coordinate ascent on the mean over classes.

    The logits are those of a sample of pixels, `(n, C)` float32, one-versus-rest, without NaN.
    """
    bins = np.clip(np.floor(logits * PER_LOGIT) + _HALF, 0, BINS - 1).astype(np.intp)
    beliefs = [
        _Belief.of(calibration, np.bincount(column, minlength=BINS))
        for calibration, column in zip(calibrations, bins.T, strict=True)
    ]

    def scores(offsets: FloatArray) -> list[FloatArray]:
        winner = (logits - offsets).argmax(axis=1)
        return [belief.score(bins[winner == c, c], score) for c, belief in enumerate(beliefs)]

    def worth(found: list[FloatArray]) -> float:
        return sum(float(b.weights @ utility(new - old)) for b, new, old in zip(beliefs, found, base, strict=True))

    offsets = np.zeros(len(calibrations))
    base = found = scores(offsets)
    best = WORTHWHILE
    for _ in range(_ROUNDS):
        before = best
        for c in range(len(offsets)):
            for step in _STEPS:
                tried = offsets.copy()
                tried[c] += step
                if abs(tried[c]) <= _FARTHEST and worth(new := scores(tried)) > best:
                    best, offsets, found = worth(new), tried, new
        if best == before:
            break
    if not offsets.any():
        return ClassDecision.none(len(offsets))
    changes = [new - old for new, old in zip(found, base, strict=True)]
    sure = [float(b.weights @ (change >= 0)) for b, change in zip(beliefs, changes, strict=True)]
    return ClassDecision(
        offsets, np.array([float(b.weights @ d) for b, d in zip(beliefs, changes, strict=True)]), min(sure)
    )


_ROUNDS = 20
_STEPS = (-1.0, -0.25, -0.0625, 0.0625, 0.25, 1.0)


@dataclass(frozen=True, slots=True)
class _Belief:
    """What the probabilities of a class may be: by bin `(K, BINS)`, how likely each is `(K,)`, foreground `(K,)`."""

    probabilities: FloatArray
    weights: FloatArray
    foreground: FloatArray

    @classmethod
    def of(cls, calibration: Calibration, counts: NDArray[np.number]) -> _Belief:
        points, weights = calibration.samples()
        probabilities = probabilities_by(points)
        return cls(probabilities, weights, probabilities @ np.asarray(counts, np.float64))

    def score(self, bins: NDArray[np.intp], score: Score) -> FloatArray:
        """`(K,)` expected score of a mask, given the bins of its pixels."""
        hits = self.probabilities @ np.bincount(bins, minlength=BINS)
        return _scores(hits, len(bins) + self.foreground, score)


def _scores(hits: FloatArray, both: FloatArray, score: Score = "iou") -> FloatArray:
    """Scores by the hits and the sum of mask and foreground; 1 where there is nothing to find and nothing is found."""
    above, below = (hits, both - hits) if score == "iou" else (2 * hits, both)
    return np.divide(above, below, out=np.ones_like(hits), where=below > 0)


def utility(gains: FloatArray, loss_weight: float = LOSS_WEIGHT) -> FloatArray:
    """What a change of the score is worth, 1 being all of it: concave, and steeper for losses."""
    held = np.maximum(gains, -6 * CAUTION)
    return np.where(held > 0, 1.0, loss_weight) * CAUTION * -np.expm1(-held / CAUTION)


def _worst_nearby(worth: FloatArray) -> FloatArray:
    """The least worth of the cuts around each: one that is good at its very place alone is so by chance."""
    around = sliding_window_view(np.pad(worth, _NEARBY, mode="edge"), 2 * _NEARBY + 1)
    return np.asarray(around.min(axis=-1), np.float64)


def _from_above(values: FloatArray) -> FloatArray:
    """Sums of bins c and above, for c from 0 to B: `(..., B)` to `(..., B + 1)`."""
    return np.concatenate([values[..., ::-1].cumsum(axis=-1)[..., ::-1], np.zeros_like(values[..., :1])], axis=-1)
