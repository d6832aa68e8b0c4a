"""Masks or probability maps against labels, by the folder: figures of the set, with intervals, and of every image."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prn_cli.errors import InputError, PrnError, UsageError, one_line
from prn_cli.execution.watch import SILENT, Watch
from prn_cli.files.remote import without_secrets
from prn_cli.files.temporaries import refuse_strangers, write_whole
from prn_cli.options import Option
from prn_cli.workflows.options import Labels, ReadOptions, ReportOptions, RunOptions, ScoreKind, Seed, TaskOptions

if TYPE_CHECKING:
    from prn_cli.execution.threads import Batch, Progress
    from prn_cli.metrics.intervals import Estimate
    from prn_cli.metrics.score import Figure, ImageCounter, ImageScore, Metric, Summary
    from prn_cli.rasters.labels import LabelMap
    from prn_cli.rasters.pairs import Partners
    from prn_cli.rasters.reading import Reading
    from prn_cli.rasters.scores import ScoreMap
    from prn_cli.report import ScoreReport
    from prn_cli.tasks import Task

_HEADING = ("file", "label", "height", "width", "pixels")
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "?")
_PIXELS_AT_ONCE = 1 << 20  # are read, while as many are counted


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(ReadOptions, TaskOptions, ReportOptions, RunOptions):
    """Options of `score`."""

    masks: Annotated[
        tuple[str, ...],
        Option(
            "Files, folders or globs of masks or probability maps; '-' reads paths from stdin.",
            metavar="MASKS...",
            argument=True,
        ),
    ] = field(kw_only=False)
    labels: Labels
    baseline: Annotated[
        Path | None,
        Option(
            "Folder of the base model's logit maps (or masks), paired by stem: adds its figures and the difference.",
            "Baseline",
            metavar="LOGITS",
        ),
    ] = None
    baseline_input_kind: Annotated[ScoreKind, Option("What the baseline's numbers mean.", "Baseline")] = "auto"
    baseline_threshold: Annotated[
        float, Option("Probability above which the baseline is foreground.", "Baseline", least=0, most=1)
    ] = 0.5
    baseline_nodata: Annotated[
        float | None, Option("As --nodata, for the baseline.", "Baseline", default="as --nodata")
    ] = None
    baseline_band: Annotated[
        int | None,
        Option("As --bidx, for the baseline.", "Baseline", flags=("--baseline-bidx",), least=1, default="as --bidx"),
    ] = None
    threshold: Annotated[
        float, Option("Probability above which a soft map is foreground.", "Method", flags=("-t",), least=0, most=1)
    ] = 0.5
    buffer: Annotated[float, Option("Buffer of relaxed precision and recall, px.", "Method", least=0)] = 3.0
    resamples: Annotated[int, Option("Bootstrap resamples of the intervals.", "Method", least=100)] = 2000
    seed: Seed = 0
    csv: Annotated[
        str | None,
        Option("Write a row per image; '-': on stdout instead of the table.", "Output", metavar="FILE", output=True),
    ] = None
    bias: Annotated[
        Path | None,
        Option("Folder of bias maps, shown in the report, as prn refine --bias writes them.", "Output", metavar="DIR"),
    ] = None

    @property
    def csv_file(self) -> Path | None:
        """Where the rows are written; None if nowhere, or on stdout."""
        return None if self.csv in (None, "-") else Path(str(self.csv))


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """An image that was scored.

    Attributes:
        masks: the mask or soft map.
        label: its label.
        score: what was counted of it.
    """

    masks: Path
    label: Path
    score: ImageScore


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """What became of a run.

    Attributes:
        task: that was scored.
        images: those that were scored, in the order of the inputs.
        summary: the figures of the set; None without images.
        failures: name and cause of what failed.
        settings: on which the figures depend.
        masks_read: how the masks were read, such as "probabilities cut at 0.5".
        baseline_read: the same of the baseline; None without one.
        verdict: how many failed, in a line; empty if none did.
    """

    task: Task
    images: Sequence[ScoredImage]
    summary: Summary | None
    failures: Sequence[tuple[str, str]]
    settings: Mapping[str, Any]
    masks_read: str
    baseline_read: str | None
    verdict: str = ""

    @property
    def metrics(self) -> Sequence[Metric]:
        """The figures, in the order of tables."""
        return self.task.metrics([image.score for image in self.images])

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row per image: its files and size, counts if the task has some to add up, and figures by metric.

        Figures of the baseline have names that begin with `baseline_`. A figure that does not exist is NaN.
        """
        from prn_cli.metrics.score import figures

        metrics = self.metrics
        for image in self.images:
            score = image.score
            size = (image.masks, image.label, score.height, score.width, score.pixels)
            row: dict[str, Any] = dict(zip(_HEADING, size, strict=True))
            row |= dict(zip(self.task.counts, map(int, score.counts), strict=False))
            row |= figures(score.counts, metrics)
            if score.baseline is not None:
                row |= {f"baseline_{name}": value for name, value in figures(score.baseline, metrics).items()}
            yield row

    def csv(self, *, shown: bool = False) -> str:
        """The rows as CSV; an empty cell where a figure does not exist.

        Names are kept, bytes that are no text included, so that one can join tables by them; but for control
        characters, which would break lines, or steer the terminal of `cat`.

        Args:
            shown: names are for people, see `prn_cli.errors.one_line`.
        """

        def cell(value: Any) -> Any:
            if isinstance(value, Path):
                return one_line(str(value)) if shown else str(value).translate(_CONTROLS)
            if isinstance(value, float):
                return f"{value:.6f}" if math.isfinite(value) else ""
            return value

        rows = list(self.rows())
        heading = [*_HEADING, *self.task.counts, *(metric.name for metric in self.metrics)]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(rows[0] if rows else heading)
        writer.writerows(map(cell, row.values()) for row in rows)
        return text.getvalue()

    def document(self) -> dict[str, Any]:
        """For JSON: figures under `mean` and `pooled` by metric; None where a figure does not exist."""
        if self.summary is None:
            record: dict[str, Any] = {"images": 0, "pixels": 0, "mean": {}, "pooled": {}}
        else:
            record = asdict(self.summary)
            for aggregate in ("mean", "pooled"):
                figures = getattr(self.summary, aggregate)
                record[aggregate] = {name: _plain(figure) for name, figure in figures.items()}
        failures = [{"file": name, "error": cause} for name, cause in self.failures]
        return {**record, **self.settings, "failures": failures}


def _plain(figure: Figure) -> dict[str, Any]:
    result: dict[str, Any] = {**_finite(figure.masks)}
    if figure.baseline is not None and figure.difference is not None:
        result |= {"baseline": _finite(figure.baseline), "difference": _finite(figure.difference)}
    return result


def _finite(estimate: Estimate) -> dict[str, float | None]:
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in estimate._asdict().items()}


def score(options: ScoreOptions, watch: Watch = SILENT) -> ScoreResult:
    """Score masks or soft maps against labels.

    Files that fail do not stop the others; the result names them.

    Args:
        options: as on the command line.
        watch: is told what happens.

    Raises:
        PrnError: nothing could be begun.
    """
    run = _prepare(options, watch)
    batch = _score_all(run, watch)
    scores = [score for _, score in batch.results]
    result = ScoreResult(
        task=run.task,
        images=[ScoredImage(image.masks, image.label, score) for image, score in batch.results],
        summary=run.task.summarise(scores, resamples=options.resamples, seed=options.seed) if scores else None,
        failures=batch.failures,
        settings=run.settings(),
        masks_read=run.described(run.reading, options.threshold),
        baseline_read=run.described(run.base_reading, options.baseline_threshold) if options.baseline else None,
    )
    if options.csv_file is not None and scores:
        try:
            write_whole(options.csv_file, result.csv().encode("utf-8", sys.getfilesystemencodeerrors()))
        except PrnError as error:
            batch.fail(str(options.csv_file), str(error))
    order = {str(image.masks): position for position, image in enumerate(run.images)}
    failures = sorted(batch.failures, key=lambda failure: order.get(failure[0], -1))  # threads end in any order
    result = replace(result, failures=failures, verdict=batch.verdict)
    if run.page is not None and result.summary is not None:
        from prn_cli.report import Scored

        what = Scored(
            masks=" ".join(map(without_secrets, options.masks)),
            labels=str(options.labels),
            baseline=None if options.baseline is None else str(options.baseline),
            masks_cut=result.masks_read,
            baseline_cut=result.baseline_read,
            cut=run.page.cut,
        )
        run.page.finish(result.summary, what, failures)
    return result


@dataclass(frozen=True, slots=True)
class _Image:
    """The files of one image; the baseline is None where it is missing."""

    masks: Path
    label: Path
    baseline: Path | None


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that is ready to begin."""

    options: ScoreOptions
    task: Task
    images: Sequence[_Image]
    valid_masks: Partners
    reading: Reading
    base_reading: Reading
    page: ScoreReport | None
    foregrounds: dict[Path, int | None] = field(default_factory=dict)  # of the labels that were read
    pool: Executor | None = None  # counts parts of an image side by side

    def settings(self) -> dict[str, Any]:
        """For JSON."""
        options, kind, base_kind = self.options, self.reading.kind, self.base_reading.kind
        found: dict[str, Any] = {"input_kind": kind}
        if self.task.cuts:
            found |= {"threshold": None if kind == "mask" else options.threshold, "buffer": options.buffer}
        else:
            found["task"] = self.task.name
        if options.baseline is not None:
            found["baseline_input_kind"] = base_kind
            if self.task.cuts:
                found["baseline_threshold"] = None if base_kind == "mask" else options.baseline_threshold
        return found

    def described(self, reading: Reading, threshold: float) -> str:
        """How masks are read, in words."""
        words = {"mask": "masks", "numbers": "class numbers"}.get(reading.kind)
        return words or (f"{reading.kind} cut at {threshold:g}" if self.task.cuts else reading.kind)


def _prepare(options: ScoreOptions, watch: Watch) -> _Run:
    """Find and check everything before the first file is scored."""
    from prn_cli.rasters.pairs import find_inputs, find_valid_masks

    task = options.find_task("score").with_classes([], given=options.classes)
    if options.report is None and (options.bias is not None or options.images is not None):
        raise UsageError("--images and --bias are for the report, and there is none", hint="add --report FILE")
    if not math.isfinite(options.buffer):
        raise UsageError(f"a buffer of {options.buffer} pixels is no distance", hint="give a number")
    reading = options.reading()
    inputs = find_inputs(options.masks, stdin=sys.stdin, null=options.null)
    images = _pair(inputs, options, watch)
    valid_masks = find_valid_masks(inputs, options.valid_mask)
    partners = [path for image in images for path in (image.label, image.baseline)]
    if options.csv_file is not None:
        refuse_strangers(
            options.csv_file,
            [*inputs, *partners, *valid_masks.found.values()],
            option="--csv",
            what="table",
            example="rows.csv",
            is_ours=lambda head: not head or head.startswith(",".join(_HEADING).encode()),
        )
    base_reading = replace(
        reading,
        kind=options.baseline_input_kind,
        nodata=reading.nodata if options.baseline_nodata is None else options.baseline_nodata,
        band=reading.band if options.baseline_band is None else options.baseline_band,
    )
    base_files = [image.baseline for image in images if image.baseline is not None]
    reading = replace(reading, kind=task.detect([image.masks for image in images], reading))
    base_reading = replace(base_reading, kind=task.detect(base_files, base_reading))
    watch.detail(f"masks read as {reading.kind}" + (f", baseline as {base_reading.kind}" if base_files else ""))
    page = None
    if options.report is not None:
        from prn_cli.report import ScoreReport

        page = ScoreReport(
            options.report,
            inputs,
            partners,
            images=options.images,
            bias=options.bias,
            threshold=options.threshold,
            baseline_threshold=None if options.baseline is None else options.baseline_threshold,
            watch=watch,
        )
    return _Run(options, task, images, valid_masks, reading, base_reading, page)


def _pair(inputs: Sequence[Path], options: ScoreOptions, watch: Watch) -> list[_Image]:
    from prn_cli.rasters.pairs import pair_by_stem

    labels, baseline = options.labels, options.baseline
    pairs = pair_by_stem(inputs, labels)
    baseline_of = dict(pair_by_stem(inputs, baseline, same_allowed=True).matched) if baseline is not None else {}
    watch.note_files(pairs.unmatched_inputs, f"masks have no label in {labels} and are left out")
    watch.note_files(pairs.unmatched_partners, f"files in {labels} have no mask")
    return [_Image(path, label, baseline_of.get(path)) for path, label in pairs.matched]


def _score_all(run: _Run, watch: Watch) -> Batch[_Image, ImageScore]:
    from prn_cli.execution.threads import run_batch
    from prn_cli.rasters.labels import two_kinds_of_labels

    cores = run.options.thread_count()
    # As many images as cores keep these at work by themselves.
    few = len(run.images) < cores
    with ThreadPoolExecutor(cores, thread_name_prefix="count") if few else nullcontext() as pool:
        run = replace(run, pool=pool)
        batch = run_batch(
            run.images,
            lambda image, progress: _score_image(image, run, progress),
            name=lambda image: str(image.masks),
            label="Scoring",
            watch=watch,
            fail_fast=run.options.fail_fast,
            threads=cores,
        )
    two_kinds = two_kinds_of_labels(run.foregrounds)
    if two_kinds is not None:
        batch.fail(str(two_kinds.path), str(two_kinds))
    return batch


def _score_image(image: _Image, run: _Run, progress: Progress) -> ImageScore:
    from prn_cli.files.manifest import unchanged
    from prn_cli.rasters.guards import check_same_size

    options, task = run.options, run.task
    if options.baseline is not None and image.baseline is None:
        raise InputError(f"no baseline with this stem in {options.baseline}", hint="add it, or leave this file out")
    valid_mask = run.valid_masks.of(image.masks)
    with unchanged(image.masks, image.label, image.baseline, valid_mask), ExitStack() as stack:
        label = stack.enter_context(task.open_label(image.label, run.reading))
        run.foregrounds[image.label] = label.foreground
        opened = [task.open_prediction(image.masks, run.reading, valid_mask=valid_mask)]
        stack.enter_context(opened[0])
        if image.baseline is not None:
            opened.append(task.open_prediction(image.baseline, run.base_reading, valid_mask=valid_mask))
            stack.enter_context(opened[1])
        for each in opened:
            check_same_size(each.raster, label.raster)
        task.check_same_classes(label, opened)
        counter = task.counter(
            label.height,
            label.width,
            threshold=options.threshold,
            baseline_threshold=options.baseline_threshold,
            buffer=options.buffer,
            pool=run.pool,
        )
        _count(counter, task, label, opened, progress, share=1 if run.page is None else 0.5)
        result = counter.score()
        if run.page is not None:
            run.page.look(image.masks, label, opened, progress.stop)
    return result


def _count(
    counter: ImageCounter,
    task: Task,
    label: LabelMap,
    predictions: Sequence[LabelMap | ScoreMap],
    progress: Progress,
    *,
    share: float,
) -> None:
    """Count a mask, and a baseline if there is one, against their label, some rows at a time.

    `share` of the work on the image is this.
    """
    from prn_cli.execution.ahead import ahead
    from prn_cli.maps.tiles import row_bands
    from prn_cli.rasters.scores import ScoreMap

    windows = list(row_bands(label.height, label.width, pixels=_PIXELS_AT_ONCE))

    def read() -> Generator[list[Any]]:
        for window in windows:
            progress.check()
            yield [task.rows(predictions[0], window), label.read(window)] + [
                task.rows(opened, window) for opened in predictions[1:]
            ]

    # While the rows of one band are counted, those of the next are read.
    with closing(ahead(read()) if len(windows) > 1 else read()) as bands:
        for rows in bands:
            counter.add(*rows)
            progress.done(share / len(windows))
    for opened in predictions:
        if isinstance(opened, ScoreMap):
            opened.check_valid()
