"""The charts that both pages share: precision and recall, reliability, best thresholds, maps by position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import percent
from prn_cli.metrics.calibration import BINS, PIXELS, POSITIVES, PROBABILITY
from prn_cli.metrics.regions import RegionCounts
from prn_cli.report import colours
from prn_cli.report.charts import Chart, Line
from prn_cli.report.glimpses import SoftCounts
from prn_cli.report.page import MINUS, count, number
from prn_cli.report.totals import ByPosition, Totals
from prn_cli.thresholding.pseudolabels import ThresholdCurve
from prn_cli.thresholding.thresholds import PAPER_GRID

_TABLE_STEPS = (50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 950)
LEAST_BIAS = 0.5
"""The least bias of the darkest colours, in logits: it moves a probability by an eighth at most."""
_LIMITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class Scores:
    """A set of maps in the charts: its name, the class of its colour, counts of its soft maps, if any, and masks."""

    name: str
    look: str
    soft: SoftCounts | None
    at_cut: RegionCounts


def precision_recall(series: Sequence[Scores]) -> Chart:
    """Precision over recall at every threshold, and where the cut is; a single point for masks."""
    lines, rows = [], []
    for scores in series:
        points = np.full((1, 2), np.nan)
        if scores.soft is not None:
            points = precision_and_recall(scores.soft.curve)
            rows += [
                [f"{scores.name} at {step / 1000:g}", number(points[step - 1, 1]), number(points[step - 1, 0])]
                for step in _TABLE_STEPS
            ]
        precision, recall, name = scores.at_cut.precision(), scores.at_cut.recall(), f"{scores.name}, as cut"
        rows.append([name, number(precision), number(recall)])
        lines.append(Line(scores.name, scores.look, points, spot=(recall, precision, name)))
    heading = ("", "Precision", "Recall")
    return Chart("Precision over recall", "Recall", "Precision", lines, heading=heading, rows=rows)


def precision_and_recall(curve: ThresholdCurve) -> NDArray[np.float64]:
    """`(1000, 2)` recall and precision at 0.001, 0.002 … 1; NaN where nothing is predicted."""
    tp, fp = (part[::-1].cumsum()[::-1][1:].astype(np.float64) for part in (curve.foreground, curve.background))
    positives = max(int(curve.foreground.sum()), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack((tp / positives, tp / (tp + fp)), axis=1)


def reliability(series: Sequence[Scores]) -> Chart | None:
    """How often a pixel of each probability is foreground; None without a soft map."""
    lines, rows = [], []
    bars = np.zeros(0)
    for scores in series:
        if scores.soft is None:
            continue
        counts = np.stack([scores.soft.calibration[part] for part in (PIXELS, POSITIVES, PROBABILITY)])
        counts[:, BINS - 1] += counts[:, BINS]  # probabilities of exactly 1
        pixels, positives, probability = counts[:, :BINS]
        with np.errstate(invalid="ignore", divide="ignore"):
            points = np.stack((probability / pixels, positives / pixels), axis=1)
        bars = pixels / pixels.sum()
        lines.append(Line(scores.name, scores.look, points[pixels > 0], marked=True))
        rows += [
            [f"{scores.name}, {i / BINS:.2f} to {(i + 1) / BINS:.2f}", number(p), number(y), count(n)]
            for i, ((p, y), n) in enumerate(zip(points, pixels, strict=True))
        ]
    if not lines:
        return None
    return Chart(
        "Share of foreground over probability",
        x_title="Probability",
        y_title="Share of true foreground",
        lines=lines,
        heading=("Probability", "Mean", "Foreground", "Pixels"),
        rows=rows,
        diagonal=True,
        bars=bars.tolist(),
    )


class Bin(NamedTuple):
    """Patches by their best threshold."""

    threshold: float
    patches: int
    share: float


@dataclass(frozen=True, slots=True)
class ThresholdChart:
    """How the best thresholds of the patches are distributed.

    Attributes:
        patches: how many there are.
        as_good: those for which the base's cut is as good as any.
        bins: the others.
        below: share of the patches with a best threshold at or below the base's cut.
        above: share of the patches with a best threshold above it.
        limit: a round number that no bin's share exceeds.
    """

    patches: int
    as_good: Bin
    bins: Sequence[Bin]
    below: float
    above: float
    limit: float

    @property
    def rows(self) -> list[list[str]]:
        """Of the table of numbers."""
        bins = [(f"{self.as_good.threshold:g} is as good", self.as_good)]
        bins += [(f"up to {found.threshold:g}", found) for found in self.bins]
        return [[name, count(found.patches), percent(found.share)] for name, found in bins]


def patch_thresholds(totals: Totals, *, cut: float) -> ThresholdChart | None:
    """The distribution of the best thresholds; None if the base has no soft maps."""
    if totals.patches is None:
        return None
    patches = max(int(totals.patches.sum()) + totals.as_good, 1)
    bins = [Bin(round(float(t), 2), int(n), int(n) / patches) for t, n in zip(PAPER_GRID, totals.patches, strict=True)]
    below = sum(found.share for found in bins if found.threshold <= cut + 1e-6)
    above = sum(found.share for found in bins if found.threshold > cut + 1e-6)
    limit = next(limit for limit in _LIMITS if limit >= max(found.share for found in bins))
    return ThresholdChart(patches, Bin(cut, totals.as_good, totals.as_good / patches), bins, below, above, limit)


@dataclass(frozen=True, slots=True)
class PositionMap:
    """A map of means over so many images, by position: rows of colours and numbers, and their legend.

    `low` and `high` are what low and high numbers mean, `ends` the numbers of the lowest, the middle and the highest
    colour, and `span` is the range of the means.
    """

    title: str
    unit: str
    low: str
    high: str
    ends: Sequence[str]
    images: int
    span: str
    cells: Sequence[Sequence[tuple[str, str]]]

    @property
    def rows(self) -> list[list[str]]:
        """Of the table of numbers."""
        return [[str(i), *(number for _, number in row)] for i, row in enumerate(self.cells, 1)]


def position_maps(totals: Totals, *, cut: float) -> list[PositionMap]:
    """The mean bias and the mean best threshold by position, where they are known."""
    maps = []
    if totals.bias.images:
        words = ("Bias added", "logits added to the base, mean over images", "scores lowered", "scores raised")
        maps.append(_position_map(totals.bias, words, centre=0, least=LEAST_BIAS))
    if totals.thresholds.images:
        words = ("Best threshold", "threshold of the patches, mean", "scores too low", "scores too high")
        maps.append(_position_map(totals.thresholds, words, centre=cut, least=0.05))
    return maps


def _position_map(means: ByPosition, words: tuple[str, str, str, str], *, centre: float, least: float) -> PositionMap:
    title, unit, low, high = words
    values = means.result()
    known = values[~np.isnan(values)]
    span = f"from {number(float(known.min()), 2)} to {number(float(known.max()), 2)}" if known.size else ""
    reach = max(round_reach(values - centre), least)
    pixels = colours.diverging(values, centre=centre, reach=reach)
    signed = centre == 0
    ends = (f"{end:{'+' if signed and end else ''}.3g}" for end in (centre - reach, centre, centre + reach))
    cells = [
        [(colours.hexadecimal(pixel), number(float(value), 2, sign=signed)) for pixel, value in zip(*row, strict=True)]
        for row in zip(pixels, values, strict=True)
    ]
    title = f"{title}, by position in the image"
    return PositionMap(title, unit, low, high, [end.replace("-", MINUS) for end in ends], means.images, span, cells)


def round_reach(values: NDArray[np.floating]) -> float:
    """A round number that few of the values exceed, up or down."""
    known = np.abs(values[~np.isnan(values)]).astype(np.float64)
    largest = float(np.quantile(known, 0.99)) if known.size else 0.0
    if not largest > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return float(next(power * m for m in (1, 2, 3, 5, 7, 10) if power * m >= largest * 0.999))


def bias_reach(totals: Totals) -> float:
    """The bias of the darkest colours in the images' bias maps."""
    maps = [glimpse.bias.ravel() for glimpse in totals.glimpses if glimpse.bias is not None]
    return max(round_reach(np.concatenate(maps)), LEAST_BIAS) if maps else 1.0
