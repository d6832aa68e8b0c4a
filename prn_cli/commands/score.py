"""`prn score`."""

from __future__ import annotations

import csv
import io
import math
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prn_cli.commands import console, options, reporting
from prn_cli.commands.options import TaskChoice
from prn_cli.errors import InputError, PrnError, UsageError, one_line
from prn_cli.execution.threads import Batch, run_batch
from prn_cli.files.remote import without_secrets

if TYPE_CHECKING:
    from rich.table import Table

    from prn_cli.maps.tiles import Window
    from prn_cli.metrics.intervals import Estimate
    from prn_cli.metrics.score import Figure, ImageCounter, ImageScore, Metric, Summary
    from prn_cli.rasters import LabelMap, ScoreMap
    from prn_cli.tasks.multiclass import ClassCounter

    Prediction = LabelMap | ScoreMap

_INPUT = "Input"
_BASELINE = "Baseline"
_METHOD = "Method"
_OUTPUT = "Output"

_CSV_HEADING = ("file", "label", "height", "width", "pixels")
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "?")
_PIXELS_AT_ONCE = 1 << 20  # are read, while as many are counted
_THRESHOLD, _BUFFER = 0.5, 3.0  # unless others are given
_NUMBERS = "classes"  # kind of input beside the kinds of score maps and masks

Baseline = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="LOGITS",
        help="Folder of the base model's logit maps (or masks), paired by stem: adds its figures and the difference.",
        rich_help_panel=_BASELINE,
        show_default=False,
    ),
]
BaselineKind = Annotated[
    options.InputKindChoice,
    typer.Option("--baseline-input-kind", help="What the baseline's numbers mean.", rich_help_panel=_BASELINE),
]
BaselineThreshold = Annotated[
    float,
    typer.Option(
        "--baseline-threshold",
        min=0,
        max=1,
        help="Probability above which the baseline is foreground.",
        rich_help_panel=_BASELINE,
    ),
]
BaselineNodata = Annotated[
    float | None,
    typer.Option(
        "--baseline-nodata",
        help="As --nodata, for the baseline.",
        rich_help_panel=_BASELINE,
        show_default="as --nodata",
    ),
]
BaselineBand = Annotated[
    int | None,
    typer.Option(
        "--baseline-bidx",
        min=1,
        help="As --bidx, for the baseline.",
        rich_help_panel=_BASELINE,
        show_default="as --bidx",
    ),
]
Threshold = Annotated[
    float,
    typer.Option(
        "--threshold",
        "-t",
        min=0,
        max=1,
        help="Probability above which a soft map is foreground.",
        rich_help_panel=_METHOD,
    ),
]
Buffer = Annotated[
    float,
    typer.Option("--buffer", min=0, help="Buffer of relaxed precision and recall, px.", rich_help_panel=_METHOD),
]
Resamples = Annotated[
    int,
    typer.Option("--resamples", min=100, help="Bootstrap resamples of the intervals.", rich_help_panel=_METHOD),
]
Csv = Annotated[
    str | None,
    typer.Option(
        "--csv",
        metavar="FILE",
        help="Write a row an image; '-': on stdout instead of the table.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class _Image:
    """The files of one image; the baseline is None where it is missing."""

    masks: Path
    label: Path
    baseline: Path | None


def score(
    masks: options.Masks,
    labels: options.Labels,
    null: options.Null = False,
    input_kind: options.InputKind = options.InputKindChoice.auto,
    nodata: options.Nodata = None,
    label_nodata: options.LabelNodata = None,
    valid_mask: options.ValidMask = None,
    band: options.Band = None,
    key: options.Key = None,
    max_pixels: options.MaxPixels = None,
    baseline: Baseline = None,
    baseline_input_kind: BaselineKind = options.InputKindChoice.auto,
    baseline_threshold: BaselineThreshold = _THRESHOLD,
    baseline_nodata: BaselineNodata = None,
    baseline_band: BaselineBand = None,
    task: options.Task = TaskChoice.binary,
    classes: options.Classes = None,
    threshold: Threshold = _THRESHOLD,
    buffer: Buffer = _BUFFER,
    resamples: Resamples = 2000,
    seed: options.Seed = 0,
    json: options.Json = False,
    csv_file: Csv = None,
    report: reporting.Report = None,
    page_images: reporting.PageImages = None,
    bias: reporting.PageBias = None,
    threads: options.Threads = 0,
    fail_fast: options.FailFast = False,
    settings_file: options.Settings = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Score masks or probability maps against labels.

    Prints the mean over images and the pooled figure of every metric, with 95 % bootstrap intervals over images.
    """
    from prn_cli import rasters
    from prn_cli.files.manifest import unchanged
    from prn_cli.metrics.score import ImageCounter
    from prn_cli.tasks.multiclass import ClassCounter
    from prn_cli.tasks.saliency import score_soft_map

    options.check_classes(task, classes=classes, band=band)
    options.refuse_with_task(
        task,
        {
            "--threshold": threshold != _THRESHOLD,
            "--baseline-threshold": baseline_threshold != _THRESHOLD,
            "--buffer": buffer != _BUFFER,
        },
        {TaskChoice.saliency: "soft maps are measured whole", TaskChoice.multiclass: "the greatest score counts"},
    )
    if json and csv_file == "-":
        raise UsageError("--json and --csv - both want stdout", hint="give --csv a file")
    options.refuse_with_task(
        task,
        {"--report": report is not None},
        dict.fromkeys((TaskChoice.saliency, TaskChoice.multiclass), "it shows masks of one class"),
    )
    if report is None and (bias is not None or page_images is not None):
        raise UsageError("--images and --bias are for the report, and there is none", hint="add --report FILE")
    if not math.isfinite(buffer):
        raise UsageError(f"a buffer of {buffer} pixels is no distance", hint="give a number")
    inputs = rasters.find_inputs(masks, stdin=sys.stdin, null=null)
    images = _pair(inputs, labels, baseline)
    valid_masks = rasters.find_valid_masks(inputs, valid_mask)
    if csv_file is not None and csv_file != "-":
        partners = [path for image in images for path in (image.label, image.baseline)]
        options.local(Path(csv_file))
        options.refuse_strangers(
            Path(csv_file),
            [*inputs, *partners, *valid_masks.found.values()],
            option="--csv",
            what="table",
            example="rows.csv",
            is_ours=lambda head: not head or head.startswith(",".join(_CSV_HEADING).encode()),
        )

    def detect(files: list[Path], given: str, value: float | None) -> Any:
        if given != "auto" or not files:
            return given
        if task is not TaskChoice.multiclass:
            return rasters.detect_mask_or_kind(files, nodata=value, key=key)
        if rasters.count_bands(files, key=key) == 1:
            return _NUMBERS
        return rasters.detect_kind(files, nodata=value, key=key)

    kind = detect([image.masks for image in images], input_kind.value, nodata)
    base_nodata = nodata if baseline_nodata is None else baseline_nodata
    base_band = band if baseline_band is None else baseline_band
    base_files = [image.baseline for image in images if image.baseline is not None]
    base_kind = detect(base_files, baseline_input_kind.value, base_nodata)
    names = None if classes is None else rasters.class_names(classes.count(",") + 1, classes, None)
    console.detail(f"masks read as {kind}" + (f", baseline as {base_kind}" if base_files else ""))

    def open_prediction(
        path: Path, what: Any, value: float | None, number: int | None, valid: Path | None
    ) -> Prediction:
        if what == _NUMBERS:
            return rasters.open_class_numbers(path, nodata=value, valid_mask=valid, key=key)
        if task is TaskChoice.multiclass:
            return rasters.open_class_scores(path, kind=what, nodata=value, valid_mask=valid, key=key)
        if what == "mask":
            return rasters.open_mask(path, nodata=value, valid_mask=valid, key=key)
        return rasters.open_scores(path, kind=what, nodata=value, valid_mask=valid, band=number, key=key)

    def whole(path: Path, what: Any, value: float | None, number: int | None, valid: Path | None) -> Any:
        return rasters.read_mask_or_scores(path, kind=what, nodata=value, valid_mask=valid, band=number, key=key)[1]

    stop = threading.Event()

    page = None
    if report is not None:
        page = reporting.ScoreReport(
            report,
            inputs,
            [path for image in images for path in (image.label, image.baseline)],
            images=page_images,
            bias=bias,
            threshold=threshold,
            baseline_threshold=None if baseline is None else baseline_threshold,
        )

    foregrounds: dict[Path, int | None] = {}

    def work(image: _Image) -> ImageScore:
        if baseline is not None and image.baseline is None:
            raise InputError(f"no baseline with this stem in {baseline}", hint="add it, or leave this file out")
        valid = valid_masks.of(image.masks)
        if task is TaskChoice.saliency:
            return score_soft_map(
                whole(image.masks, kind, nodata, band, valid),
                rasters.read_grey_label(image.label, nodata=label_nodata),
                baseline=None
                if image.baseline is None
                else whole(image.baseline, base_kind, base_nodata, base_band, valid),
            )
        with ExitStack() as stack:
            open_truth = rasters.open_class_numbers if task is TaskChoice.multiclass else rasters.open_label
            label: LabelMap = stack.enter_context(open_truth(image.label, nodata=label_nodata))
            if isinstance(label, rasters.BinaryMap):
                foregrounds[image.label] = label.foreground
            opened: list[Prediction] = []
            opened.append(open_prediction(image.masks, kind, nodata, band, valid))
            stack.callback(opened[0].close)
            if image.baseline is not None:
                opened.append(open_prediction(image.baseline, base_kind, base_nodata, base_band, valid))
                stack.callback(opened[1].close)
            if task is TaskChoice.multiclass:
                _check_classes([label, *opened], names)
                return _score_rows(ClassCounter(label.height, label.width), label, opened, stop)
            counter = ImageCounter(
                label.height,
                label.width,
                threshold=threshold,
                buffer=buffer,
                baseline_threshold=baseline_threshold,
                pool=pool,
            )
            result = _score_rows(counter, label, opened, stop)
            if page is not None:
                page.look(image.masks, label, opened, stop)
            return result

    def checked(image: _Image) -> ImageScore:
        with unchanged(image.masks, image.label, image.baseline, *valid_masks.role(image.masks).values()):
            return work(image)

    cores = options.thread_count(threads)
    # As many images as cores keep these at work by themselves.
    with ThreadPoolExecutor(cores, thread_name_prefix="count") if len(images) < cores else nullcontext() as pool:
        batch = run_batch(
            images,
            lambda image, _: checked(image),
            name=lambda image: str(image.masks),
            label="Scoring",
            watch=console.Terminal(),
            fail_fast=fail_fast,
            threads=cores,
            stop=stop,
        )
    two_kinds = rasters.two_kinds_of_labels(foregrounds)
    if two_kinds is not None:
        batch.fail(str(two_kinds.path), str(two_kinds))
    results = [result for _, result in batch.results]
    figures = _figures_of(task, results, names)
    summary = figures.summarise(results, resamples=resamples, seed=seed) if results else None
    order = {str(image.masks): position for position, image in enumerate(images)}
    failures = sorted(batch.failures, key=lambda failure: order.get(failure[0], -1))  # threads finish in any order
    if json:
        settings: dict[str, Any] = {"input_kind": kind}
        if task is TaskChoice.binary:
            settings |= {"threshold": None if kind == "mask" else threshold, "buffer": buffer}
        else:
            settings["task"] = task.value
        if baseline is not None:
            settings["baseline_input_kind"] = base_kind
            if task is TaskChoice.binary:
                settings["baseline_threshold"] = None if base_kind == "mask" else baseline_threshold
        console.json_line(_document(summary, settings, failures))
    elif summary is not None and csv_file != "-":
        _show(
            summary,
            figures,
            _described(kind, threshold, task),
            None if baseline is None else _described(base_kind, baseline_threshold, task),
        )
    if csv_file is not None and (results or csv_file == "-"):
        try:
            _write_csv(batch, csv_file, figures)
        except PrnError as error:
            batch.fail(csv_file, str(error))
    if page is not None and summary is not None:
        from prn_cli.report import Scored

        what = Scored(
            masks=" ".join(map(without_secrets, masks)),
            labels=str(labels),
            baseline=None if baseline is None else str(baseline),
            masks_cut=_described(kind, threshold, task),
            baseline_cut=None if baseline is None else _described(base_kind, baseline_threshold, task),
            cut=page.cut,
        )
        page.finish(summary, what, failures)
    console.end(batch.verdict)


def _check_classes(opened: Sequence[Prediction], names: Sequence[str] | None) -> None:
    """Check that a label and its predictions have the same classes, as far as they tell."""
    from prn_cli.rasters import ClassNumbers, ClassScoreMap

    known = [scores.classes for scores in opened if isinstance(scores, ClassScoreMap)]
    known += [] if names is None else [len(names)]
    if not known:
        return
    for each in opened:
        if isinstance(each, ClassNumbers):
            each.check_below(min(known))
        elif isinstance(each, ClassScoreMap) and each.classes != min(known):
            raise InputError(f"{each.classes} classes, expected {min(known)}", hint="check --classes", path=each.path)


def _score_rows(
    counter: ImageCounter | ClassCounter, label: LabelMap, predictions: Sequence[Prediction], stop: threading.Event
) -> ImageScore:
    """Count a mask, and a baseline if there is one, against their label, some rows at a time."""
    from prn_cli.execution.ahead import ahead
    from prn_cli.maps.classes import choose
    from prn_cli.maps.tiles import row_bands
    from prn_cli.rasters import ClassScoreMap, LabelMap

    def rows_of(opened: Prediction, window: Window) -> Any:
        if isinstance(opened, LabelMap):
            return opened.read(window)
        return choose(opened.scores(window)) if isinstance(opened, ClassScoreMap) else opened.probabilities(window)

    for name, opened in zip(("shape", "the baseline's shape"), predictions, strict=False):
        if (opened.height, opened.width) != (label.height, label.width):
            raise InputError(
                f"{name} {opened.height}×{opened.width} differs from its label's {label.height}×{label.width}",
                hint="both must have the same height and width",
            )
    windows = list(row_bands(label.height, label.width, pixels=_PIXELS_AT_ONCE))

    def read() -> Generator[list[Any]]:
        for window in windows:
            if stop.is_set():
                raise CancelledError
            yield [rows_of(opened, window) for opened in (predictions[0], label, *predictions[1:])]

    # While the rows of one band are counted, those of the next are read.
    with closing(ahead(read()) if len(windows) > 1 else read()) as bands:
        for rows in bands:
            counter.add(*rows)
    for opened in predictions:
        if not isinstance(opened, LabelMap):
            opened.check_valid()
    return counter.score()


@dataclass(frozen=True, slots=True)
class _Figures:
    """The figures of a task.

    Attributes:
        metrics: in the order of the tables.
        summarise: from the images' records to the figures of the set.
        aggregates: what of the summary there is to show, each with its heading beside a baseline, and alone.
        counts: names of the first numbers of an image's record, for people to add up.
    """

    metrics: Sequence[Metric]
    summarise: Callable[..., Summary]
    aggregates: Sequence[tuple[str, str, str]]
    counts: Sequence[str] = ()


def _figures_of(task: TaskChoice, results: Sequence[ImageScore], names: Sequence[str] | None) -> _Figures:
    from prn_cli.metrics import score
    from prn_cli.tasks import multiclass, saliency

    if task is TaskChoice.multiclass:
        named = names or [str(number) for number in range(multiclass.classes_of(results))]
        ways = [("pooled", "All pixels pooled", "Pooled"), ("mean", "Per image (mean)", "Per image")]
        metrics = multiclass.class_metrics(named)
        return _Figures(metrics, partial(score.summarise, metrics=metrics), ways)
    if task is TaskChoice.saliency:
        means = ("mean", "Mean over images", "Mean over images")
        return _Figures(saliency.METRICS, saliency.Saliency().summarise, [means])
    ways = [("mean", "Per image (mean)", "Per image"), ("pooled", "All pixels pooled", "Pooled")]
    return _Figures(score.METRICS, score.summarise, ways, ("tp", "fp", "fn", "tn"))


def _described(kind: str, threshold: float, task: TaskChoice) -> str:
    if kind == "mask":
        return "masks"
    if kind == _NUMBERS:
        return "class numbers"
    return f"{kind} cut at {threshold:g}" if task is TaskChoice.binary else kind


def _pair(inputs: Sequence[Path], labels: Path, baseline: Path | None) -> list[_Image]:
    from prn_cli.rasters import pair_by_stem

    pairs = pair_by_stem(inputs, labels)
    baseline_of = dict(pair_by_stem(inputs, baseline, same_allowed=True).matched) if baseline is not None else {}
    console.note_files(pairs.unmatched_inputs, f"masks have no label in {labels} and are left out")
    console.note_files(pairs.unmatched_partners, f"files in {labels} have no mask")
    return [_Image(path, label, baseline_of.get(path)) for path, label in pairs.matched]


def _document(summary: Summary | None, settings: dict[str, Any], failures: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The JSON document: figures under `mean` and `pooled` by metric; null where a figure does not exist."""

    def plain(figure: Figure) -> dict[str, Any]:
        result: dict[str, Any] = {**_finite(figure.masks)}
        if figure.baseline is not None and figure.difference is not None:
            result |= {"baseline": _finite(figure.baseline), "difference": _finite(figure.difference)}
        return result

    if summary is None:
        record: dict[str, Any] = {"images": 0, "pixels": 0, "mean": {}, "pooled": {}}
    else:
        record = asdict(summary)
        for aggregate in ("mean", "pooled"):
            record[aggregate] = {name: plain(figure) for name, figure in getattr(summary, aggregate).items()}
    return record | settings | {"failures": [{"file": name, "error": cause} for name, cause in failures]}


def _finite(estimate: Estimate) -> dict[str, float | None]:
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in estimate._asdict().items()}


def _write_csv(batch: Batch[_Image, ImageScore], target: str, task: _Figures) -> None:
    """A row an image, in the order of the inputs; an empty cell where a figure does not exist.

    On stdout, names are shown. In a file, which is UTF-8, they are kept, bytes that are no text included, so that one
    can join tables by them; but for control characters, which would break lines, or steer the terminal of `cat`.
    """
    from prn_cli.metrics.score import figures

    def name(path: Path) -> str:
        return one_line(str(path)) if target == "-" else str(path).translate(_CONTROLS)

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [metric.name for metric in task.metrics]
    paired = any(result.baseline is not None for _, result in batch.results)
    writer.writerow([*_CSV_HEADING, *task.counts, *names] + [f"baseline_{name}" for name in names if paired])
    for image, result in batch.results:
        sets = [result.counts] if result.baseline is None else [result.counts, result.baseline]
        values = [value for counts in sets for value in figures(counts, task.metrics).values()]
        writer.writerow(
            [name(image.masks), name(image.label), result.height, result.width, result.pixels]
            + [int(count) for count in result.counts[: len(task.counts)]]
            + [f"{value:.6f}" if math.isfinite(value) else "" for value in values]
        )
    if target == "-":
        print(text.getvalue(), end="", flush=True)
    else:
        from prn_cli.files.temporaries import write_whole

        write_whole(Path(target), text.getvalue().encode("utf-8", sys.getfilesystemencodeerrors()))


def _show(summary: Summary, task: _Figures, masks: str, baseline: str | None) -> None:
    """Print the table for people: 80 columns, plain ASCII, so that any terminal and pipe can show it."""
    share = f"{summary.confidence:.0%}".replace("%", " %")
    size = f"{summary.images} image{'s' if summary.images > 1 else ''}, {summary.pixels / 1e6:.4g} Mpx counted"
    console.tell(f"{size}; {masks}" + (f"; baseline: {baseline}" if baseline else ""), style="bold")
    console.show(_table_alone(summary, task, share) if baseline is None else _table_of_two(summary, task, share))
    if summary.images == 1:
        method = "One image: no intervals."
    else:
        method = f"Intervals: bootstrap over images, {summary.resamples} resamples, seed {summary.seed}."
    if baseline is not None and summary.images > 1:
        method += "\nBetter, worse: the interval of the change excludes 0."
    console.tell(method, style="dim")


def _table_alone(summary: Summary, task: _Figures, share: str) -> Table:
    table = _empty_table()
    for _, _, title in task.aggregates:
        table.add_column(title, justify="right")
        table.add_column(f"{share} interval", justify="right")
    for metric in _present(summary, task):
        cells = [getattr(summary, part)[metric.name].masks for part, _, _ in task.aggregates]
        table.add_row(_title(metric), *(text for cell in cells for text in (_value(cell), _interval(cell))))
    return table


def _table_of_two(summary: Summary, task: _Figures, share: str) -> Table:
    table = _empty_table()
    for title in ("Baseline", "Masks", "Change", f"{share} interval"):
        table.add_column(title, justify="right")
    table.add_column("")
    for part, heading, _ in task.aggregates:
        table.add_row(f"[bold]{heading}[/bold]")
        for metric in _present(summary, task):
            figure = getattr(summary, part)[metric.name]
            assert figure.baseline is not None
            assert figure.difference is not None
            verdict = _verdict(figure.difference, metric)
            style = {"better": "green", "worse": "red"}.get(verdict)
            difference = (_value(figure.difference, sign="+"), _interval(figure.difference, sign="+"), verdict)
            marked = (f"[{style}]{text}[/{style}]" if style else text for text in difference)
            table.add_row(f"  {_title(metric)}", _value(figure.baseline), _value(figure.masks), *marked)
        table.add_section()
    return table


def _empty_table() -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("", no_wrap=True)
    return table


def _present(summary: Summary, task: _Figures) -> list[Metric]:
    """The metrics that exist for these images at all: no calibration error where everything is a mask."""
    every = getattr(summary, task.aggregates[-1][0])

    def values(figure: Figure) -> list[float]:
        return [estimate.value for estimate in (figure.masks, figure.baseline) if estimate is not None]

    return [metric for metric in task.metrics if any(map(math.isfinite, values(every[metric.name])))]


def _title(metric: Metric) -> str:
    return f"{metric.title} [dim](low is good)[/dim]" if metric.lower_is_better else metric.title


def _value(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.value:{sign}.4f}" if math.isfinite(estimate.value) else "-"


def _interval(estimate: Estimate, sign: str = "") -> str:
    if not math.isfinite(estimate.low):
        return "-"
    return f"[{estimate.low:{sign}.4f}, {estimate.high:{sign}.4f}]"


def _verdict(difference: Estimate, metric: Metric) -> str:
    if difference.low > 0 or difference.high < 0:
        return "worse" if (difference.low > 0) == metric.lower_is_better else "better"
    return ""
