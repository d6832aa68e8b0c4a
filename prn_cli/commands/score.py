"""`prn score`: the table, JSON or CSV of what was scored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prn_cli.commands import console
from prn_cli.commands.from_options import command
from prn_cli.errors import UsageError, percent
from prn_cli.workflows.score import ScoreOptions, ScoreResult
from prn_cli.workflows.score import score as run

if TYPE_CHECKING:
    from rich.table import Table

    from prn_cli.metrics.intervals import Estimate
    from prn_cli.metrics.score import Figure, Metric, Summary

_HEADINGS = {"mean": ("Per image (mean)", "Per image"), "pooled": ("All pixels pooled", "Pooled")}  # of two, and alone
_MEAN_ALONE = ("Mean over images", "Mean over images")


def _score(options: ScoreOptions, *, json: bool) -> None:
    """Score masks or probability maps against labels.

    Prints the mean over images and the pooled figure of every metric, with 95 % bootstrap intervals over images. With
    --baseline, masks of prn are compared with the base model at its own threshold, too.
    """
    if json and options.csv == "-":
        raise UsageError("--json and --csv - both want stdout", hint="give --csv a file")
    result = run(options, console.Terminal())
    if json:
        console.json_line(result.document())
    elif options.csv == "-":
        print(result.csv(shown=True), end="", flush=True)
    elif result.summary is not None:
        _show(result, result.summary)
    console.end(result.verdict)


score = command(ScoreOptions, _score)


def _show(result: ScoreResult, summary: Summary) -> None:
    """Print the table for people: 80 columns, plain ASCII, so that any terminal and pipe can show it."""
    size = f"{summary.images} image{'s' if summary.images > 1 else ''}, {summary.pixels / 1e6:.4g} Mpx counted"
    baseline = result.baseline_read
    read = f"; baseline: {baseline}" if baseline else ""
    read += f", and at {result.own}" if result.own else ""
    console.tell(f"{size}; {result.masks_read}{read}", style="bold")
    console.show(_table_alone(result, summary) if baseline is None else _table_of_two(result, summary))
    if summary.images == 1:
        method = "One image: no intervals."
    else:
        method = f"Intervals: bootstrap over images, {summary.resamples} resamples, seed {summary.seed}."
    partial = {
        metric.title: figures[metric.name].images
        for *_, figures in _parts(result, summary)
        for metric in _present(result, figures)
        if figures[metric.name].images < summary.images
    }
    if partial:
        counts = ", ".join(f"{title} for {count or 'none'}" for title, count in partial.items())
        method += f"\nFigures that exist for fewer than {summary.images} images: {counts}."
    if baseline is not None and summary.images > 1:
        better, worse = result.changed_images()
        first = result.metrics[0]
        console.tell(f"By {first.title}, {better} of {summary.images} images became better, {worse} worse.")
        if result.own:
            console.tell(_beyond_threshold(result, first, summary.pooled[first.name]))
        method += "\nBetter, worse: the interval of the change excludes 0."
    console.tell(method, style="dim")


def _beyond_threshold(result: ScoreResult, first: Metric, figure: Figure) -> str:
    """The masks compared with the baseline at its own threshold, in a sentence."""
    if result.is_own:
        return f"The masks are the baseline's at {result.own}: no network has changed them."
    assert figure.added is not None
    better, worse = result.changed_images("own")
    change = f"{first.title} {_value(figure.added, sign='+')} {_interval(figure.added, sign='+')}"
    return f"Compared with the baseline at {result.own}: {better} better, {worse} worse;\npooled {change}."


def _parts(result: ScoreResult, summary: Summary) -> list[tuple[str, str, dict[str, Figure]]]:
    """What of a summary there is to show: its heading in a table of two, its heading alone, its figures by metric."""
    shown = result.task.aggregates
    return [(*(_HEADINGS[part] if len(shown) > 1 else _MEAN_ALONE), getattr(summary, part)) for part in shown]


def _table_alone(result: ScoreResult, summary: Summary) -> Table:
    table = console.table("")
    parts = _parts(result, summary)
    for _, title, _ in parts:
        table.add_column(title, justify="right")
        table.add_column(f"{percent(summary.confidence)} interval", justify="right")
    for metric in _present(result, parts[-1][-1]):
        cells = [figures[metric.name].masks for _, _, figures in parts]
        table.add_row(_title(metric), *(text for cell in cells for text in (_value(cell), _interval(cell))))
    return table


def _table_of_two(result: ScoreResult, summary: Summary) -> Table:
    from prn_cli.metrics.intervals import verdict

    base = ["Baseline"]
    if result.own:
        base = [
            f"At {result.settings['baseline_threshold']:g}",
            f"At {result.own}" if len(result.own) < 6 else "Own cut",
        ]
    table = console.table("", *base, "Masks", "Change", f"{percent(summary.confidence)} interval")
    table.add_column("")
    if result.own:
        table.padding = 0  # for 80 columns
    parts = _parts(result, summary)
    for heading, _, figures in parts:
        table.add_row(f"[bold]{heading}[/bold]")
        for metric in _present(result, parts[-1][-1]):
            figure = figures[metric.name]
            assert figure.baseline is not None
            assert figure.difference is not None
            judged = verdict(figure.difference, lower_is_better=metric.lower_is_better)
            style = {"better": "green", "worse": "red"}.get(judged)
            difference = (_value(figure.difference, sign="+"), _interval(figure.difference, sign="+"), judged)
            marked = (f"[{style}]{text}[/{style}]" if style else text for text in difference)
            values = [_value(each) for each in (figure.baseline, figure.own, figure.masks) if each is not None]
            table.add_row(f"  {_title(metric)}", *values, *marked)
        table.add_section()
    return table


def _present(result: ScoreResult, figures: dict[str, Figure]) -> list[Metric]:
    """The metrics that exist for these images at all: no calibration error where everything is a mask."""

    def exists(figure: Figure) -> bool:
        return any(each is not None and math.isfinite(each.value) for each in (figure.masks, figure.baseline))

    return [metric for metric in result.metrics if exists(figures[metric.name])]


def _title(metric: Metric) -> str:
    return f"{metric.title} [dim](low is good)[/dim]" if metric.lower_is_better else metric.title


def _value(estimate: Estimate, sign: str = "") -> str:
    return _number(estimate.value, sign) if math.isfinite(estimate.value) else "-"


def _interval(estimate: Estimate, sign: str = "") -> str:
    if not math.isfinite(estimate.low):
        return "-"
    return f"[{_number(estimate.low, sign)}, {_number(estimate.high, sign)}]"


def _number(value: float, sign: str) -> str:
    text = f"{value:{sign}.4f}"
    return text if float(text) else f"{0:{sign}.4f}"
