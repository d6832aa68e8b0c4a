"""The bootstrap over images: how much a figure would change with other images of the same kind.

Images are drawn with replacement, not pixels, because pixels of an image are not independent. Pooled figures are
pooled again in each resample. The interval is the percentile interval (Efron and Tibshirani 1993, section 13.3). A
resample is a row of weights, how often each image was drawn, so that all resamples of a metric are one matrix product
with the images' counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from prn_cli.metrics.regions import FloatArray

RESAMPLES = 2000
CONFIDENCE = 0.95

_SHOWN = 5e-5  # half of the last digit of a figure in a table
_WEIGHTS_AT_A_TIME = 1 << 21  # 16 MiB of float64, whatever the number of images


class Estimate(NamedTuple):
    """A figure and its bootstrap interval; the bounds are NaN with fewer than two images."""

    value: float
    low: float
    high: float


def verdict(change: Estimate, *, lower_is_better: bool) -> str:
    """`better` or `worse` if the interval excludes 0 and the change can be seen in a table, else nothing."""
    if abs(change.value) >= _SHOWN and (change.low > 0 or change.high < 0):
        return "worse" if (change.low > 0) == lower_is_better else "better"
    return ""


class Comparison(NamedTuple):
    """Two sets of masks for the same images: both figures and their paired difference (after minus before)."""

    before: Estimate
    after: Estimate
    difference: Estimate


def bootstrap(
    statistic: Callable[[FloatArray], FloatArray],
    images: int,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Figures of a set of images, with bootstrap intervals.

    Args:
        statistic: from weights `(R, images)`, how often each image counts, to figures `(R, M)`.
        images: how many images there are.
        resamples: how many resamples are drawn.
        confidence: share of resamples within the interval, 0 to 1.
        seed: the same seed gives the same interval.

    Returns:
        The figures, the lower and the upper bounds, `(M,)` each. Resamples in which a figure is NaN are left out of
        its interval. Bounds are NaN with fewer than two images, and where no resample has the figure.
    """
    figures = statistic(np.ones((1, images)))[0]
    if images < 2:
        return figures, np.full_like(figures, np.nan), np.full_like(figures, np.nan)
    drawn = resample(statistic, images, resamples=resamples, seed=seed)
    low, high = np.full_like(figures, np.nan), np.full_like(figures, np.nan)
    present = ~np.isnan(drawn).all(axis=0)
    tail = (1 - confidence) / 2
    if present.any():
        low[present], high[present] = np.nanquantile(drawn[:, present], (tail, 1 - tail), axis=0)
    return figures, low, high


def resample(
    statistic: Callable[[FloatArray], FloatArray],
    images: int,
    *,
    drawn: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> FloatArray:
    """Figures of resamples of a set of images, `(R, ...)`; see `bootstrap`. `drawn`: of each; all if None."""
    weights = _resample_weights(images, drawn or images, resamples, seed)
    return np.concatenate([statistic(each) for each in weights])


def compare(
    before: FloatArray,
    after: FloatArray,
    ratio: Callable[[FloatArray], FloatArray],
    *,
    pool: bool,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """Compare two sets of masks of the same images on one metric.

    Args:
        before: `(images, K)` counts of the first set.
        after: `(images, K)` counts of the second, image by image the same.
        ratio: from counts `(..., K)` to figures `(...)`, such as `regions.iou`.
        pool: compare the figures of the summed counts, not the means of the images' own figures.
        resamples: how many resamples are drawn.
        confidence: share of resamples within the intervals, 0 to 1.
        seed: the same seed gives the same intervals.
    """

    def figure(counts: FloatArray, weights: FloatArray) -> FloatArray:
        return ratio(pooled(counts, weights)) if pool else mean(ratio(counts)[:, None], weights)[:, 0]

    def statistic(weights: FloatArray) -> FloatArray:
        first, second = figure(before, weights), figure(after, weights)
        return np.stack((first, second, second - first), axis=-1)

    bounds = bootstrap(statistic, len(before), resamples=resamples, confidence=confidence, seed=seed)
    return Comparison(*(Estimate(*map(float, column)) for column in zip(*bounds, strict=True)))


def pooled(counts: FloatArray, weights: FloatArray) -> FloatArray:
    """Sum the images' counts `(images, K)` by weights `(R, images)`, to `(R, K)`."""
    return weights @ counts


def mean(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Average the images' figures `(images, M)` by weights `(R, images)`, to `(R, M)`; NaN figures are left out."""
    absent = np.isnan(values)
    present = weights @ (~absent).astype(np.float64)
    total = weights @ np.where(absent, 0.0, values)
    return np.where(present > 0, total / np.maximum(present, 1), np.nan)


def _resample_weights(images: int, drawn: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    generator = np.random.default_rng(seed)
    step = max(1, _WEIGHTS_AT_A_TIME // images)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        places = generator.integers(images, size=(rows, drawn)) + images * np.arange(rows)[:, None]
        yield np.bincount(places.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float64)
