"""The page of `prn score`: before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from prn_cli.metrics.intervals import Estimate, verdict
from prn_cli.metrics.score import METRICS, Figure, Metric, Summary
from prn_cli.report.curves import (
    Scores,
    bias_reach,
    patch_thresholds,
    position_maps,
    precision_recall,
    reliability,
)
from prn_cli.report.gallery import Words, make_gallery
from prn_cli.report.glimpses import PATCH
from prn_cli.report.page import render
from prn_cli.report.totals import Totals

_WORDS = {"better": "better than", "worse": "worse than", "": "about as good as"}


@dataclass(frozen=True, slots=True)
class Scored:
    """What was scored, in words.

    Attributes:
        masks: where the masks are from.
        labels: where the labels are from.
        baseline: where the base's maps are from; None without a base.
        masks_cut: how the masks were cut, such as "probabilities cut at 0.5".
        baseline_cut: the same of the base.
        cut: where the base is cut (without one, the masks): the threshold that those of patches are compared with.
        own: where the base is cut a second time, such as "0.407"; empty if nowhere.
        own_changed: how many images are better, and how many worse than the base is there.
        is_own: whether the masks are the base's there.
        not_counted: what share of the pixels does not count, and why; empty if all do.
    """

    masks: str
    labels: str
    baseline: str | None
    masks_cut: str
    baseline_cut: str | None
    cut: float
    own: str = ""
    own_changed: tuple[int, int] = (0, 0)
    is_own: bool = False
    not_counted: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A metric in a table.

    Attributes:
        title: its name.
        figure: its figures.
        verdict: of the change, see `prn_cli.metrics.intervals.verdict`.
        drawn: the change as drawn, with better to the right; None without a base.
    """

    title: str
    figure: Figure
    verdict: str
    drawn: Estimate | None

    @property
    def reach(self) -> float:
        """The bound that lies farthest from 0."""
        return max((abs(bound) for bound in self.drawn or () if math.isfinite(bound)), default=0.0)


def score_page(
    summary: Summary,
    totals: Totals,
    what: Scored,
    *,
    failures: Sequence[tuple[str, str]] = (),
    metrics: Sequence[Metric] = METRICS,
    classes: Sequence[tuple[str, str]] = (),
) -> str:
    """Build the page.

    Args:
        summary: the figures of the set.
        totals: the pictures and curves of the same images.
        what: what was scored.
        failures: files that could not be scored, and why.
        metrics: of the tables; the first is that of the summary.
        classes: names and colours, if there are several.
    """
    paired = what.baseline is not None
    words = Words("Base mask", "Refined mask", "Base scores", "Won and lost", "Gain per image")
    if not paired:
        words = Words(None, "Mask", "Scores", "Errors", "IoU per image")
    if classes:
        rank = "Gain per image" if paired else "Accuracy per image"
        words = replace(words, rank=rank, figure="Accuracy", mask="", right="light: right both times")
    maps = [Scores("Refined" if paired else "Scores", "after", totals.after, totals.regions_after())]
    if paired:
        maps.insert(0, Scores("Base", "before", totals.before, totals.regions_before()))
    soft = totals.before is not None or totals.after is not None
    return render(
        "score.html.j2",
        title="prn score: base and refined" if paired else "prn score",
        summary=summary,
        what=what,
        paired=paired,
        gallery=make_gallery(totals.glimpses, words, bias_reach=bias_reach(totals), cut=what.cut),
        headline=_headline(summary, metrics[0], what),
        first=metrics[0],
        classes=classes,
        tables={
            "All pixels pooled": _rows(summary.pooled, metrics, summary.images),
            "Mean per image": _rows(summary.mean, metrics, summary.images),
        },
        gains=[round(glimpse.gain, 4) for glimpse in totals.glimpses],
        positions=position_maps(totals, cut=what.cut),
        precision_recall=precision_recall(maps) if soft else None,
        reliability=reliability(maps),
        patch_thresholds=patch_thresholds(totals, cut=what.cut),
        refined_is_soft=totals.after is not None,
        patch=PATCH,
        failures=failures,
    )


def _rows(figures: Mapping[str, Figure], metrics: Sequence[Metric], images: int) -> list[Row]:
    """The rows of a table of metrics, without those that have no figure."""
    rows = []
    for metric in metrics:
        figure = figures[metric.name]
        if not any(math.isfinite(e.value) for e in (figure.masks, figure.baseline) if e is not None):
            continue
        title = metric.title + (" (low is good)" if metric.lower_is_better else "")
        title += f" ({figure.images} of {images} images)" if figure.images < images else ""
        judged, drawn = "", figure.difference
        if drawn is not None:
            judged = verdict(drawn, lower_is_better=metric.lower_is_better)
            drawn = Estimate(-drawn.value, -drawn.high, -drawn.low) if metric.lower_is_better else drawn
        rows.append(Row(title, figure, judged, drawn))
    return rows


def _headline(summary: Summary, metric: Metric, what: Scored) -> str:
    """Whether the masks are better, in a sentence or two; empty without a base, or without intervals."""
    pooled, mean = summary.pooled[metric.name], summary.mean[metric.name]
    said = _compared("the refined masks", pooled.difference, mean.difference, "the base's")
    own = f"the base's at {what.own}"
    then = _compared("they", pooled.added, mean.added, own)
    if what.is_own:
        then = f"They are {own}: no network has changed them."
    return said and f"{said} {then}".strip()


def _compared(masks: str, pooled: Estimate | None, mean: Estimate | None, base: str) -> str:
    changes = [change for change in (pooled, mean) if change is not None and math.isfinite(change.low)]
    if len(changes) < 2:
        return ""
    over_all, by_image = (_WORDS[verdict(change, lower_is_better=False)] for change in changes)
    if over_all == by_image:
        return f"{masks[0].upper()}{masks[1:]} are {over_all} {base}."
    return f"Over all pixels, {masks} are {over_all} {base}; image by image, they are {by_image} them on average."
