"""The page of `prn pseudolabel`: what there is to gain, before anyone trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics import regions
from prn_cli.metrics.intervals import CONFIDENCE, RESAMPLES, Estimate, compare
from prn_cli.metrics.regions import FloatArray, RegionCounts
from prn_cli.report.charts import Chart, Line
from prn_cli.report.curves import Scores, patch_thresholds, position_maps, precision_recall, reliability
from prn_cli.report.gallery import Words, make_gallery
from prn_cli.report.page import render
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
    """What different choices of thresholds make of an image, gathered band by band.

    Attributes:
        curve: of single thresholds.
        oracles: by side of the patches, in px: each patch at its own best threshold.
    """

    curve: ThresholdCurve
    oracles: dict[int, RegionCounts]

    @classmethod
    def start(cls, patch: int) -> Choice:
        """Of no pixel yet."""
        return cls(empty_curve(), {size: RegionCounts() for size in patch_sizes(patch)})

    def add(self, probabilities: NDArray[np.float32], label: NDArray[np.uint8], *, grid: Grid) -> None:
        """Add a band whose rows are a multiple of the largest patch, unless it is the last.

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
    """What was searched, and how; `not_counted` says what share of the pixels does not count, and why."""

    logits: str
    labels: str
    patch: int
    grid: Grid
    not_counted: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """IoU of one choice of thresholds, and its change over the base at 0.5; `look` is the class of its colour."""

    title: str
    look: str
    threshold: str
    figure: Estimate
    change: Estimate


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
    base = [Scores("Base", "before", totals.before, totals.regions_before())]
    pooled, mean = (_rows(choices, pool=pool) for pool in (True, False))
    return render(
        "headroom.html.j2",
        title="prn pseudolabel: headroom",
        what=what,
        images=len(choices),
        with_foreground=len(_with_foreground(choices)),
        pixels=sum(choice.oracles[what.patch].pixels for choice in choices),
        gallery=make_gallery(totals.glimpses, words, bias_reach=1.0, cut=HALF),
        half=pooled[0],
        single=pooled[1],
        oracle=next(row for row in pooled if row.title == _oracle(what.patch)),
        tables={"All pixels pooled": pooled, "Mean per image": mean},
        positions=position_maps(totals, cut=HALF),
        by_threshold=_by_threshold(choices),
        precision_recall=precision_recall(base),
        reliability=reliability(base),
        patch_thresholds=patch_thresholds(totals, cut=HALF),
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        failures=failures,
    )


def _rows(choices: Sequence[Choice], *, pool: bool) -> list[Row]:
    best = int(_pooled(choices).ious().argmax()) + 1
    choices = choices if pool else _with_foreground(choices)
    foreground, background = (
        np.stack([getattr(choice.curve, kind) for choice in choices]).astype(np.float64)
        for kind in ("foreground", "background")
    )

    def at(step: int) -> FloatArray:
        """`(images, 4)` counts at step / 1000."""
        tp, fp = foreground[:, step:].sum(axis=1), background[:, step:].sum(axis=1)
        return np.stack((tp, fp, foreground.sum(axis=1) - tp, background.sum(axis=1) - fp), axis=1)

    half = at(round(HALF * CURVE_STEPS))
    kinds = [
        ("Base at 0.5", "before", f"{HALF:g}", half),
        ("Best single threshold", "plain", f"{best / CURVE_STEPS:g}", at(best)),
    ]
    for size in sorted(choices[0].oracles, reverse=True):
        counts = np.stack([choice.oracles[size].array() for choice in choices])
        kinds.append((_oracle(size), "after", "by patch", counts))
    compared = ((*kind[:3], compare(half, kind[3], regions.iou, pool=pool)) for kind in kinds)
    return [Row(title, look, threshold, found.after, found.difference) for title, look, threshold, found in compared]


def _oracle(size: int) -> str:
    return f"Oracle, {size} px patches"


def _with_foreground(choices: Sequence[Choice]) -> Sequence[Choice]:
    """The images that have some; all if none has. On others a few pixels make the IoU 0 or 1."""
    return [choice for choice in choices if choice.curve.foreground.any()] or choices


def _pooled(choices: Sequence[Choice]) -> ThresholdCurve:
    return sum((choice.curve for choice in choices), start=empty_curve())


def _by_threshold(choices: Sequence[Choice]) -> Chart:
    pooled = _pooled(choices).ious()
    mean = np.mean([choice.curve.ious() for choice in _with_foreground(choices)], axis=0)
    steps = np.arange(1, CURVE_STEPS + 1) / CURVE_STEPS
    best = int(pooled.argmax())
    spot = (float(steps[best]), float(pooled[best]), f"best: {steps[best]:g}")
    lines = [
        Line("Pooled", "after", np.stack((steps, pooled), axis=1), spot=spot),
        Line("Mean per image", "before", np.stack((steps, mean), axis=1)),
    ]
    return Chart("IoU over a single threshold", "Threshold, one for all", "IoU", lines)
