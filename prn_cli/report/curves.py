"""The charts that both pages share: precision and recall, reliability, thresholds, maps by position."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from prn_cli.metrics.calibration import BINS
from prn_cli.metrics.regions import RegionCounts
from prn_cli.report import charts
from prn_cli.report.charts import Series
from prn_cli.report.glimpses import PATCH, Softness
from prn_cli.report.markup import count, number, numbers
from prn_cli.report.totals import ByPosition, Totals
from prn_cli.thresholding.pseudolabels import ThresholdCurve
from prn_cli.thresholding.thresholds import PAPER_GRID

_TABLE_STEPS = (50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 950)


def precision_recall(series: list[tuple[str, str, ThresholdCurve | None, RegionCounts]]) -> str:
    """Precision over recall at every threshold, and where the cut is.

    Args:
        series: name, look, curve (None for masks, which are a point) and the counts at the cut.
    """
    lines, rows = [], []
    for title, look, curve, at_cut in series:
        points = np.full((1, 2), np.nan)
        if curve is not None:
            points = _precision_recall(curve)
            table = points[[step - 1 for step in _TABLE_STEPS]]
            rows += [
                [f"{title} at {step / 1000:g}", number(p), number(r)]
                for step, (r, p) in zip(_TABLE_STEPS, table, strict=True)
            ]
        spot = (at_cut.recall(), at_cut.precision(), f"{title}, as cut")
        rows.append([f"{title}, as cut", number(at_cut.precision()), number(at_cut.recall())])
        lines.append(Series(title, look, points, spot=spot))
    chart = charts.plot(lines, title="Precision over recall", x_title="Recall", y_title="Precision")
    return (
        f"<h3>Precision and recall</h3>{chart}<p>All pixels pooled. The marks are the masks as cut.</p>"
        f"{numbers(['', 'Precision', 'Recall'], rows, caption='Precision and recall by threshold')}"
    )


def _precision_recall(curve: ThresholdCurve) -> NDArray[np.float64]:
    """`(1000, 2)` recall and precision at 0.001, 0.002 … 1; NaN where nothing is predicted."""
    tp, fp = (part[::-1].cumsum()[::-1][1:].astype(np.float64) for part in (curve.foreground, curve.background))
    positives = max(int(curve.foreground.sum()), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack((tp / positives, tp / (tp + fp)), axis=1)


def reliability(series: list[tuple[str, str, Softness | None]]) -> str:
    """How often a pixel of each probability is foreground; empty if there is no soft map."""
    lines, rows, bars = [], [], None
    for title, look, soft in series:
        if soft is None:
            continue
        bins = soft.bins[:, :BINS].copy()
        bins[:, -1] += soft.bins[:, BINS]  # probabilities of exactly 1
        pixels, positives, probability = bins
        with np.errstate(invalid="ignore", divide="ignore"):
            points = np.stack((probability / pixels, positives / pixels), axis=1)
        bars = pixels / pixels.sum()
        lines.append(Series(title, look, points[pixels > 0], marked=True))
        rows += [
            [f"{title}, {i / BINS:.2f} to {(i + 1) / BINS:.2f}", number(p), number(y), count(n)]
            for i, ((p, y), n) in enumerate(zip(points, pixels, strict=True))
        ]
    if not lines or bars is None:
        return ""
    chart = charts.plot(
        lines,
        title="Share of foreground over probability",
        x_title="Probability",
        y_title="Share of true foreground",
        diagonal=True,
        bars=bars,
    )
    heading = ["Probability", "Mean", "Foreground", "Pixels"]
    return (
        f"<h3>Reliability</h3>{chart}<p>On the dotted line, probabilities are what they say: below it too high, above "
        f"it too low. The bars at the foot are the share of pixels ({lines[-1].name}).</p>"
        f"{numbers(heading, rows, caption='Reliability by bins of the probability')}"
    )


def patch_thresholds(totals: Totals, *, cut: float, patch: int = PATCH) -> str:
    """How the best thresholds of the patches are distributed; empty if the base is no soft map."""
    if totals.patches is None:
        return ""
    others = int(totals.patches.sum())
    everything = max(others + totals.as_good, 1)
    shares = totals.patches / everything
    tips = [
        f"up to {t:g}: {count(n)} patches, {100 * s:.1f} %"
        for t, n, s in zip(_grid(), totals.patches, shares, strict=True)
    ]
    below = float(totals.patches[np.asarray(_grid()) <= cut + 1e-6].sum()) / everything
    above = others / everything - below
    chart = charts.histogram(
        shares.tolist(),
        title="Share of patches by best threshold",
        x_title="Best threshold",
        ticks_at=[(4 * k, f"{k / 5:g}") for k in range(6)],
        tips=tips,
    )
    rows = [
        [f"up to {t:g}", count(n), f"{100 * s:.1f} %"] for t, n, s in zip(_grid(), totals.patches, shares, strict=True)
    ]
    rows.insert(0, [f"{cut:g} is as good", count(totals.as_good), f"{100 * totals.as_good / everything:.1f} %"])
    return (
        f"<h3>Best threshold of each patch</h3>{chart}<p>{count(everything)} patches of {patch} px. For "
        f"{100 * totals.as_good / everything:.0f} % the base's own {cut:g} is as good as any (not drawn), "
        f"{100 * below:.0f} % want a lower threshold, {100 * above:.0f} % a higher one.</p>"
        f"{numbers(['Threshold', 'Patches', 'Share'], rows, caption='Patches by best threshold')}"
    )


def _grid() -> list[float]:
    return [round(float(t), 2) for t in PAPER_GRID]


def positions(totals: Totals, *, cut: float) -> str:
    """The mean bias and the mean threshold by position; empty if neither is known."""
    parts = []
    if totals.bias.images:
        values = totals.bias.result()
        reach = _reach(values)
        parts.append(
            "<div><h3>Bias added, by position in the image</h3>"
            + _map(totals.bias, values, 0.0, reach, "lowered", "raised", "logits added to the base, mean over images")
            + "</div>"
        )
    if totals.thresholds.images:
        values = totals.thresholds.result()
        reach = max(_reach(values - cut), 0.05)
        parts.append(
            "<div><h3>Best threshold, by position in the image</h3>"
            + _map(totals.thresholds, values, cut, reach, "too low", "too high", "threshold of the patches, mean")
            + "</div>"
        )
    return f'<div class="pair">{"".join(parts)}</div>' if parts else ""


def _map(
    found: ByPosition, values: NDArray[np.float64], centre: float, reach: float, low: str, high: str, unit: str
) -> str:
    digits = 2
    title = f"{unit}, by position, {found.images} images"
    known = values[~np.isnan(values)]
    span = f"from {number(float(known.min()), digits)} to {number(float(known.max()), digits)}" if known.size else ""
    rows = [[str(i + 1), *(number(float(v), digits) for v in row)] for i, row in enumerate(values)]
    heading = ["Row", *(str(i + 1) for i in range(values.shape[1]))]
    return (
        charts.heat_map(values, centre=centre, reach=reach, title=f"{title}, {span}", digits=digits)
        + charts.colour_bar(centre=centre, reach=reach, low=f"scores {low}", high=f"scores {high}", unit=unit)
        + f"<p>{found.images} images laid over each other, top left to bottom right; {span}.</p>"
        + numbers(heading, rows, caption=unit)
    )


def _reach(values: NDArray[np.float64]) -> float:
    """A round number that the values do not go far beyond."""
    known = np.abs(values[~np.isnan(values)])
    largest = float(np.quantile(known, 0.99)) if known.size else 0.0
    if not largest > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return float(next(power * m for m in (1, 2, 3, 5, 7, 10) if power * m >= largest * 0.999))


def bias_reach(totals: Totals) -> float:
    """The bias of the darkest colours in the images' bias maps."""
    maps = [np.abs(g.bias[~np.isnan(g.bias)]) for g in totals.glimpses if g.bias is not None]
    return _reach(np.concatenate(maps).astype(np.float64)) if maps else 1.0
