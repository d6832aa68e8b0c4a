"""The page of `prn score`: before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prn_cli.metrics.intervals import Estimate
from prn_cli.metrics.regions import RegionCounts
from prn_cli.metrics.score import METRICS, Figure, Metric, Summary
from prn_cli.report import charts, curves
from prn_cli.report.gallery import Words, gains, gallery, ranked
from prn_cli.report.glimpses import PATCH
from prn_cli.report.markup import count, number, points, table, text
from prn_cli.report.page import Section, render
from prn_cli.report.totals import Totals


@dataclass(frozen=True, slots=True)
class Scored:
    """What was scored, in words.

    Attributes:
        masks: where the masks are from.
        labels: where the labels are from.
        baseline: where the base's maps are from; None without.
        masks_cut: how the masks were cut, such as "probabilities cut at 0.5".
        baseline_cut: the same of the base.
        cut: where the base is cut (without one, the masks): the threshold that patches are compared with.
    """

    masks: str
    labels: str
    baseline: str | None
    masks_cut: str
    baseline_cut: str | None
    cut: float


def score_page(summary: Summary, totals: Totals, what: Scored, *, failures: Sequence[tuple[str, str]] = ()) -> str:
    """Build the page.

    Args:
        summary: the figures of the set.
        totals: the pictures and curves of the same images.
        what: what was scored.
        failures: files that could not be scored, and why.
    """
    paired = what.baseline is not None
    words = Words(
        "Base mask" if paired else None,
        "Refined mask" if paired else "Mask",
        "Base scores" if paired else "Scores",
        "Won and lost" if paired else "Errors",
        "Gain per image" if paired else "IoU per image",
    )
    order = ranked(totals.glimpses, words)
    reach = curves.bias_reach(totals)
    sections = [
        Section("summary", "Summary", _summary(summary)),
        Section("images-gain", words.rank, _gains_lead(order, paired) + gains(order, words)),
        Section("gallery", "Images", gallery(order, words, bias_reach=reach, cut=what.cut)),
        Section("positions", "Where scores run high or low", curves.positions(totals, cut=what.cut)),
        Section("curves", "Scores and thresholds", _curves(totals, what)),
    ]
    lead = (
        f"<p>{count(summary.images)} image{'s' if summary.images > 1 else ''}, {summary.pixels / 1e6:.4g} Mpx counted. "
        f"{text(what.masks)} ({text(what.masks_cut)}) against {text(what.labels)}"
    )
    if what.baseline is not None and what.baseline_cut is not None:
        lead += f"; base: {text(what.baseline)} ({text(what.baseline_cut)})"
    title = "prn score: base and refined" if paired else "prn score"
    return render(title, lead + ".</p>", sections, failures=failures, notes=_notes(summary, paired))


def _summary(summary: Summary) -> str:
    mean, pooled = summary.mean["iou"], summary.pooled["iou"]
    cards = _card("IoU, all pixels pooled", pooled) + _card("IoU, mean per image", mean)
    result = f'<p class="verdict">{_verdict_in_words(summary)}</p><div class="cards">{cards}</div>'
    for title, figures in (("All pixels pooled", summary.pooled), ("Mean per image", summary.mean)):
        result += f"<h3>{title}</h3>{_table(figures, title, summary.confidence)}"
    return result


def _verdict_in_words(summary: Summary) -> str:
    pooled, mean = summary.pooled["iou"].difference, summary.mean["iou"].difference
    if pooled is None or mean is None:
        return f"Pooled IoU {number(summary.pooled['iou'].masks.value)}{_range(summary.pooled['iou'].masks)}."
    if not math.isfinite(pooled.low):
        return f"Pooled IoU changes by {points(pooled.value)} points. One image: no interval."
    verdicts = {verdict(d, lower_is_better=False) for d in (pooled, mean)}
    if verdicts == {"better"}:
        lead = "IoU rises."
    elif verdicts == {"worse"}:
        lead = "IoU falls."
    elif {"better", "worse"} <= verdicts:
        lead = "IoU rises on one count and falls on the other."
    elif "better" in verdicts:
        lead = "IoU rises on one count; on the other the interval holds 0."
    elif "worse" in verdicts:
        lead = "IoU falls on one count; on the other the interval holds 0."
    else:
        lead = "No clear change of IoU: both intervals hold 0."
    share = f"{100 * summary.confidence:.0f} %"
    return (
        f"<strong>{lead}</strong> Pooled IoU {points(pooled.value)} points ({share} interval {points(pooled.low)} to "
        f"{points(pooled.high)}), mean per image {points(mean.value)} ({points(mean.low)} to {points(mean.high)})."
    )


def _card(title: str, figure: Figure) -> str:
    if figure.baseline is None or figure.difference is None:
        return (
            f'<div class="card"><h3>{title}</h3><p class="big">{number(figure.masks.value)}</p>'
            f"<p>{_range(figure.masks).strip()}</p></div>"
        )
    change = figure.difference
    judged = verdict(change, lower_is_better=False)
    look, sign = {"better": ("won", "▲ "), "worse": ("lost", "▼ ")}.get(judged, ("", ""))
    return (
        f'<div class="card"><h3>{title}</h3><p class="big">{number(figure.baseline.value)} → '
        f'{number(figure.masks.value)}</p><p class="{look}">{sign}{points(change.value)} points'
        f"{_points_range(change)}{f', {judged}' if judged else ''}</p>"
        f"{charts.interval(change, _extent([change]))}</div>"
    )


def _points_range(change: Estimate) -> str:
    return f" ({points(change.low)} to {points(change.high)})" if math.isfinite(change.low) else ""


def _range(estimate: Estimate) -> str:
    return f" ({number(estimate.low)} to {number(estimate.high)})" if math.isfinite(estimate.low) else ""


def _table(figures: dict[str, Figure], title: str, confidence: float) -> str:
    shown = [metric for metric in METRICS if _exists(figures[metric.name])]
    changes = [d for m in shown if (d := figures[m.name].difference) is not None and math.isfinite(d.value)]
    extent = _extent(changes)
    share = f"{100 * confidence:.0f} % interval"
    rows = []
    for metric in shown:
        figure = figures[metric.name]
        heading = metric.title + (" (low is good)" if metric.lower_is_better else "")
        if figure.baseline is None or figure.difference is None:
            bounds = f"{number(figure.masks.low)} to {number(figure.masks.high)}"
            rows.append([heading, number(figure.masks.value), bounds if math.isfinite(figure.masks.low) else "–"])
            continue
        change = figure.difference
        judged = verdict(change, lower_is_better=metric.lower_is_better)
        look, sign = {"better": ("won", "▲ better"), "worse": ("lost", "▼ worse")}.get(judged, ("", ""))
        bounds = f"{number(change.low, sign=True)} to {number(change.high, sign=True)}"
        rows.append(
            [
                heading,
                number(figure.baseline.value),
                number(figure.masks.value),
                number(change.value, sign=True),
                bounds if math.isfinite(change.low) else "–",
                charts.interval(_turned(change, metric), extent),
                f'<span class="{look}">{sign}</span>',
            ]
        )
    if changes:
        heading_row = ["", "Base", "Refined", "Change", share, "worse ← 0 → better", ""]
    else:
        heading_row = ["", "Figure", share]
    return table(heading_row, rows, caption=title)


def _turned(change: Estimate, metric: Metric) -> Estimate:
    """The change as drawn: better is always to the right."""
    return Estimate(-change.value, -change.high, -change.low) if metric.lower_is_better else change


def _extent(changes: Sequence[Estimate]) -> float:
    return max((abs(b) for change in changes for b in change if math.isfinite(b)), default=0.0)


def _exists(figure: Figure) -> bool:
    return any(math.isfinite(e.value) for e in (figure.masks, figure.baseline) if e is not None)


def verdict(change: Estimate, *, lower_is_better: bool) -> str:
    """`better` or `worse` where the interval excludes 0, else nothing."""
    if change.low > 0 or change.high < 0:
        return "worse" if (change.low > 0) == lower_is_better else "better"
    return ""


def _gains_lead(order: Sequence[object], paired: bool) -> str:
    if not paired:
        return "<p>IoU of each image.</p>"
    better = sum(g.gain > 0 for g in order)  # type: ignore[attr-defined]
    worse = sum(g.gain < 0 for g in order)  # type: ignore[attr-defined]
    return (
        f'<p>Change of IoU in points: <span class="won">▲ {better} better</span> (to the right), '
        f'<span class="lost">▼ {worse} worse</span> (to the left), {len(order) - better - worse} the same.</p>'
    )


def _curves(totals: Totals, what: Scored) -> str:
    before, after = totals.before, totals.after
    if before is None and after is None:
        return ""
    names = [("Refined", "after", after, _pool([g.regions_after() for g in totals.glimpses]))]
    if what.baseline is not None:
        names.insert(0, ("Base", "before", before, _pool([g.regions_before() for g in totals.glimpses])))
    else:
        names = [("Scores", *names[0][1:])]
    lines = [(title, look, None if soft is None else soft.curve, counts) for title, look, soft, counts in names]
    parts = [
        curves.precision_recall(lines),
        curves.reliability([(title, look, soft) for title, look, soft, _ in names]),
        curves.patch_thresholds(totals, cut=what.cut),
    ]
    hint = ""
    if after is None:
        hint = (
            "<p>The refined masks are hard: one point, and no reliability. Score what <code>prn refine "
            "--probabilities</code> writes to see the curves of both.</p>"
        )
    return hint + f'<div class="pair">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def _pool(counts: Sequence[RegionCounts]) -> RegionCounts:
    return sum(counts[1:], start=counts[0])


def _notes(summary: Summary, paired: bool) -> str:
    notes = [
        "IoU, F1, precision and recall are of the foreground. Pooled: counted over the pixels of all images; mean: "
        "over the images' own figures."
    ]
    if summary.images > 1:
        notes.append(
            f"Intervals: bootstrap over images, {summary.resamples} resamples, seed {summary.seed}, "
            f"{100 * summary.confidence:.0f} %. Better and worse: the interval of the paired change excludes 0."
        )
    if paired:
        notes.append("Won: wrong in the base mask, right in the refined one. Lost: the other way round.")
    notes.append(
        f"Best thresholds: of patches of {PATCH} px of the base's scores, on the grid 0.05, 0.10 … 1 (PatchRefineNet), "
        "chosen with the label in hand: what they show is known of labelled maps only."
    )
    return "".join(f"<p>{note}</p>" for note in notes)
