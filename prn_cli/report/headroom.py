"""The page of `prn pseudolabel`: what there is to gain, before anyone trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics import regions
from prn_cli.metrics.intervals import CONFIDENCE, RESAMPLES, Comparison, Estimate, compare
from prn_cli.metrics.regions import FloatArray, RegionCounts
from prn_cli.report import charts, curves
from prn_cli.report.charts import Series
from prn_cli.report.gallery import Words, gains, gallery, ranked
from prn_cli.report.markup import count, number, points, table, text
from prn_cli.report.page import Section, render
from prn_cli.report.totals import Totals
from prn_cli.thresholding.pseudolabels import CURVE_STEPS, ThresholdCurve, count_curve, empty_curve
from prn_cli.thresholding.thresholds import Grid, search_thresholds

HALF = 0.5
_SMALLEST_PATCH = 16


def patch_sizes(patch: int) -> tuple[int, ...]:
    """The sides whose oracles are shown: the one in use, halves and doubles of it; each divides the next."""
    smaller = [patch // d for d in (4, 2) if patch % d == 0 and patch // d >= _SMALLEST_PATCH]
    return (*smaller, patch, 2 * patch, 4 * patch)


@dataclass
class Choice:
    """What thresholds of one kind and another make of one image, gathered band by band.

    Attributes:
        curve: of single thresholds.
        oracles: by side of the patches, in px: each patch at its own best threshold.
    """

    curve: ThresholdCurve
    oracles: dict[int, RegionCounts]

    @classmethod
    def start(cls, patch: int) -> Choice:
        """Of no pixel yet."""
        return cls(empty_curve(), {size: RegionCounts(0, 0, 0, 0) for size in patch_sizes(patch)})

    def add(self, probabilities: NDArray[np.float32], label: NDArray[np.uint8], *, grid: Grid) -> None:
        """Take in a band whose rows are a multiple of the largest patch, unless it is the last.

        Args:
            probabilities: `(h, W)` float32 in [0, 1], NaN invalid.
            label: `(h, W)` uint8: 0 background, 1 foreground, 255 ignore.
            grid: the thresholds that a patch may take.
        """
        truth = np.where(np.isnan(probabilities), np.uint8(IGNORE), label)
        self.curve += count_curve(probabilities, truth)
        for size in self.oracles:
            found = search_thresholds(probabilities, truth, patch=size, grid=grid)
            tp, fp, positives, valid = (int(c.sum()) for c in (found.tp, found.fp, found.positives, found.valid))
            self.oracles[size] += RegionCounts(tp, fp, positives - tp, valid - positives - fp)


@dataclass(frozen=True, slots=True)
class Searched:
    """What was searched, in words.

    Attributes:
        logits: where the maps are from.
        labels: where the labels are from.
        patch: side of a patch, px.
        grid: the thresholds that a patch may take.
    """

    logits: str
    labels: str
    patch: int
    grid: Grid


@dataclass(frozen=True, slots=True)
class _Row:
    """One way to cut the maps, against the base at 0.5."""

    title: str
    look: str
    threshold: str
    pooled: Comparison
    mean: Comparison


def headroom_page(
    choices: Sequence[Choice], totals: Totals, what: Searched, *, failures: Sequence[tuple[str, str]] = ()
) -> str:
    """Build the page.

    Args:
        choices: of each image.
        totals: the pictures and curves of the same images.
        what: what was searched.
        failures: files that could not be searched, and why.
    """
    words = Words("Base mask", "Oracle mask", "Base scores", "Won and lost", "Headroom per image")
    order = ranked(totals.glimpses, words)
    pixels = sum(choice.oracles[what.patch].pixels for choice in choices)
    sections = [
        Section("summary", "What there is to gain", _summary(choices, what)),
        Section("images-gain", words.rank, _GAINS + gains(order, words)),
        Section("gallery", "Images", gallery(order, words, bias_reach=1.0, cut=HALF)),
        Section("positions", "Where scores run high or low", curves.positions(totals, cut=HALF)),
        Section("curves", "Scores and thresholds", _curves(choices, totals, what)),
    ]
    lead = (
        f"<p>{count(len(choices))} image{'s' if len(choices) > 1 else ''}, {pixels / 1e6:.4g} Mpx counted. "
        f"{text(what.logits)} against {text(what.labels)}, patches of {what.patch} px, {what.grid} grid.</p>"
    )
    return render("prn pseudolabel: headroom", lead, sections, failures=failures, notes=_notes(len(choices), what))


_GAINS = "<p>What the oracle mask has above the base mask at 0.5, in points of IoU.</p>"


def _rows(choices: Sequence[Choice]) -> tuple[list[_Row], float]:
    foreground, background = (
        np.stack([getattr(choice.curve, kind) for choice in choices]).astype(np.float64)
        for kind in ("foreground", "background")
    )

    def at(step: int) -> FloatArray:
        """`(images, 4)` counts at step / 1000."""
        tp, fp = foreground[:, step:].sum(axis=1), background[:, step:].sum(axis=1)
        return np.stack((tp, fp, foreground.sum(axis=1) - tp, background.sum(axis=1) - fp), axis=1)

    total = sum((choice.curve for choice in choices[1:]), start=choices[0].curve)
    best = int(total.ious().argmax()) + 1
    half = at(round(HALF * CURVE_STEPS))
    kinds = [
        ("Base at 0.5", "before", f"{HALF:g}", half),
        ("Best single threshold", "plain", f"{best / CURVE_STEPS:g}", at(best)),
    ]
    for size in sorted(choices[0].oracles, reverse=True):
        counts = np.stack([choice.oracles[size].array() for choice in choices])
        kinds.append((f"Oracle, patches of {size} px", "after", "by patch", counts))
    rows = []
    for title, look, threshold, counts in kinds:
        pooled, mean = (compare(half, counts, regions.iou, pool=pool) for pool in (True, False))
        rows.append(_Row(title, look, threshold, pooled, mean))
    return rows, best / CURVE_STEPS


def _summary(choices: Sequence[Choice], what: Searched) -> str:
    rows, threshold = _rows(choices)
    oracle = next(row for row in rows if row.title == f"Oracle, patches of {what.patch} px")
    base, single = rows[:2]
    cards = (
        _card("Base at 0.5, pooled IoU", base.pooled.after, None)
        + _card(f"One threshold for all, {threshold:g}", single.pooled.after, single.pooled.difference)
        + _card(f"Oracle, patches of {what.patch} px", oracle.pooled.after, oracle.pooled.difference)
    )
    over = oracle.pooled.after.value - single.pooled.after.value
    lead = (
        f'<p class="verdict"><strong>Headroom: {points(over)} points of pooled IoU</strong> between the best single '
        f"threshold and the best threshold of every {what.patch} px patch. The oracle knows the labels: "
        "a mark to aim at, not a forecast.</p>"
    )
    result = f'{lead}<div class="cards">{cards}</div>'
    for title, kind in (("All pixels pooled", "pooled"), ("Mean per image", "mean")):
        found: list[tuple[_Row, Comparison]] = [(row, getattr(row, kind)) for row in rows]
        ladder = charts.ladder([(row.title, c.after, row.look) for row, c in found], title=f"IoU, {title}")
        body = [
            [
                row.title,
                row.threshold,
                number(c.after.value),
                _bounds(c.after),
                points(c.difference.value),
                _point_bounds(c.difference),
            ]
            for row, c in found
        ]
        share = f"{100 * CONFIDENCE:.0f} % interval"
        heading = ["", "Threshold", "IoU", share, "Points over the base", share]
        result += f"<h3>IoU, {title.lower()}</h3>{ladder}{table(heading, body, caption=f'IoU, {title.lower()}')}"
    return result


def _card(title: str, figure: Estimate, change: Estimate | None) -> str:
    line = "" if change is None else f"<p>{points(change.value)} points {_point_bounds(change, brackets=True)}</p>"
    return f'<div class="card"><h3>{title}</h3><p class="big">{number(figure.value)}</p>{line}</div>'


def _bounds(estimate: Estimate) -> str:
    return f"{number(estimate.low)} to {number(estimate.high)}" if math.isfinite(estimate.low) else "–"


def _point_bounds(change: Estimate, *, brackets: bool = False) -> str:
    if not math.isfinite(change.low):
        return "" if brackets else "–"
    bounds = f"{points(change.low)} to {points(change.high)}"
    return f"({bounds})" if brackets else bounds


def _curves(choices: Sequence[Choice], totals: Totals, what: Searched) -> str:
    base = sum((g.regions_before() for g in totals.glimpses[1:]), start=totals.glimpses[0].regions_before())
    before = totals.before
    parts = [
        _by_threshold(choices),
        curves.patch_thresholds(totals, cut=HALF, patch=what.patch),
        curves.precision_recall([("Base", "before", None if before is None else before.curve, base)]),
        curves.reliability([("Base", "before", before)]),
    ]
    return f'<div class="pair">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def _by_threshold(choices: Sequence[Choice]) -> str:
    pooled = sum((choice.curve for choice in choices[1:]), start=choices[0].curve).ious()
    mean = np.mean([choice.curve.ious() for choice in choices], axis=0)
    steps = np.arange(1, CURVE_STEPS + 1) / CURVE_STEPS
    best = int(pooled.argmax())
    lines = [
        Series(
            "Pooled",
            "after",
            np.stack((steps, pooled), axis=1),
            spot=(float(steps[best]), float(pooled[best]), f"best: {steps[best]:g}"),
        ),
        Series("Mean per image", "before", np.stack((steps, mean), axis=1)),
    ]
    chart = charts.plot(lines, title="IoU over a single threshold", x_title="Threshold, one for all", y_title="IoU")
    return (
        f"<h3>IoU over a single threshold</h3>{chart}<p>The mark is the best for the pooled IoU: "
        f"{number(float(pooled[best]))} at {steps[best]:g}, against "
        f"{number(float(pooled[CURVE_STEPS // 2 - 1]))} at 0.5.</p>"
    )


def _notes(images: int, what: Searched) -> str:
    notes = [
        f"Oracle: every patch cut at the threshold that makes its mask most like the label ({what.grid} grid); smaller "
        "patches have higher oracles and are harder to learn. Won and lost are of the oracle at "
        f"{what.patch} px against the base at 0.5.",
        "The oracle makes the best of every patch, not of the pooled IoU: with large patches it may stay below the "
        "best single threshold, which is chosen on these same images.",
    ]
    if images > 1:
        notes.append(f"Intervals: bootstrap over images, {RESAMPLES} resamples, seed 0, {100 * CONFIDENCE:.0f} %.")
    return "".join(f"<p>{note}</p>" for note in notes)
