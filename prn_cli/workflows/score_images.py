"""The work of `score`, image by image."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from prn_cli.errors import PrnError, UsageError
from prn_cli.execution.ahead import ahead
from prn_cli.execution.threads import Batch, Progress, run_batch
from prn_cli.execution.watch import Watch
from prn_cli.files.manifest import Stamp, check_unchanged, manifest_beside, stamp_inputs
from prn_cli.files.remote import gdal_name, without_secrets
from prn_cli.files.temporaries import refuse_strangers, write_whole
from prn_cli.maps.tiles import row_bands
from prn_cli.metrics.score import ImageCounter, ImageScore, invalid
from prn_cli.rasters import (
    LabelMap,
    Partners,
    Reading,
    ScoreMap,
    count_reasons,
    find_valid_masks,
    with_bands,
)
from prn_cli.report import Scored, ScoreReport
from prn_cli.tasks import Task
from prn_cli.workflows.account import Account, warn_of_absent
from prn_cli.workflows.items import Item
from prn_cli.workflows.score import HEADING, ScoredImage, ScoreOptions, ScoreResult
from prn_cli.workflows.work import check_foregrounds, name_of, pair_labels

_PIXELS_AT_ONCE = 1 << 20  # are read, while as many are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    options: ScoreOptions
    task: Task
    images: Sequence[Item]
    partners: Sequence[Partners]  # of the images; one that lacks a partner fails
    reading: Reading
    base_reading: Reading
    page: ScoreReport | None
    foregrounds: dict[Path, int | None] = field(default_factory=dict)  # of the labels that were read
    ignored: set[float] = field(default_factory=set)  # values of labels
    own: Mapping[Path, float] = field(default_factory=dict)  # of images, where the baseline alone would be cut
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
        if self.own:
            found["own_threshold"] = [min(self.own.values()), max(self.own.values())]
        return found

    @property
    def own_said(self) -> str:
        """Where the baseline is cut a second time, in words; empty if nowhere."""
        return " to ".join(dict.fromkeys(f"{each(self.own.values()):g}" for each in (min, max))) if self.own else ""

    def described(self, reading: Reading, threshold: float) -> str:
        """How masks are read, in words."""
        words = {"mask": "masks", "numbers": "class numbers"}.get(reading.kind)
        return words or (f"{reading.kind} cut at {threshold:g}" if self.task.cuts else reading.kind)


def run(options: ScoreOptions, watch: Watch) -> ScoreResult:
    """See `prn_cli.workflows.score.score`."""
    run = _prepare(options, watch)
    batch = _score_all(run, watch)
    scores = [score for _, score in batch.results]
    account = Account.of((score.height * score.width, score.not_counted) for score in scores)
    account.tell(watch)
    if scores:
        warn_of_absent(run.task.label_pixels(scores), watch, ignored=run.ignored)
        warn_of_absent(run.task.predicted_pixels(scores), watch, noun="mask")
    result = ScoreResult(
        account=account,
        task=run.task,
        images=[ScoredImage(image.path, image.inputs["label"], score) for image, score in batch.results],
        summary=run.task.summarise(scores, resamples=options.resamples, seed=options.seed) if scores else None,
        settings=run.settings(),
        masks_read=run.described(run.reading, options.threshold),
        baseline_read=run.described(run.base_reading, options.baseline_threshold) if options.baseline else None,
        own=run.own_said,
    )
    if options.csv_file is not None and scores:
        try:
            write_whole(options.csv_file, result.csv().encode("utf-8", sys.getfilesystemencodeerrors()))
        except PrnError as error:
            batch.fail(str(options.csv_file), str(error))
    order = {name_of(image): position for position, image in enumerate(run.images)}
    failures = sorted(batch.failures, key=lambda failure: order.get(failure[0], -1))  # threads end in any order
    result = replace(result, failures=failures, verdict=batch.verdict)
    if run.page is not None and result.summary is not None:
        what = Scored(
            masks=" ".join(map(without_secrets, options.masks)),
            labels=str(options.labels),
            baseline=None if options.baseline is None else str(options.baseline),
            masks_cut=result.masks_read,
            baseline_cut=result.baseline_read,
            cut=run.page.cut,
            own=run.own_said,
            own_changed=result.changed_images("own"),
            is_own=result.is_own,
            not_counted=str(account),
        )
        run.page.finish(result.summary, what, failures, result.metrics)
    return result


def _prepare(options: ScoreOptions, watch: Watch) -> _Run:
    """Find and check everything before the first file is scored."""
    task = options.find_task("score").with_classes([], given=options.classes)
    if options.report is None and (options.bias is not None or options.images is not None):
        raise UsageError("--images and --bias are for the report, and there is none", hint="add --report FILE")
    if not math.isfinite(options.buffer):
        raise UsageError(f"a buffer of {options.buffer} pixels is no distance", hint="give a number")
    reading = options.reading()
    inputs = options.find_inputs(options.masks, watch, inside="masks")
    baselines = Partners("baseline", "baseline").among(inputs, options.baseline, same_allowed=True)
    partners = [baselines, find_valid_masks(inputs, options.valid_mask)]
    images = [
        Item(path, {"masks": path, "label": label} | partners[0].role(path) | partners[1].role(path), {})
        for path, label in pair_labels(inputs, options.labels, watch, noun="mask")
    ]
    if options.csv_file is not None:
        refuse_strangers(
            options.csv_file,
            [*inputs, *partners[1].found.values(), *(path for image in images for path in image.inputs.values())],
            option="--csv",
            what="table",
            example="rows.csv",
            is_ours=lambda head: not head or head.startswith(",".join(HEADING).encode()),
        )
    base_reading = replace(
        reading,
        kind=options.baseline_input_kind,
        nodata=reading.nodata if options.baseline_nodata is None else options.baseline_nodata,
        band=reading.band if options.baseline_band is None else options.baseline_band,
        scale=options.baseline_scale,
    )
    base_files = [image.inputs["baseline"] for image in images if "baseline" in image.inputs]
    reading = replace(reading, kind=task.detect([image.path for image in images], reading))
    base_reading = replace(base_reading, kind=task.detect(base_files, base_reading))
    reading, base_reading = with_bands(reading, [image.path for image in images]), with_bands(base_reading, base_files)
    pair = reading.is_pair or base_reading.is_pair
    said = f"masks read as {reading.kind}" + (f", baseline as {base_reading.kind}" if base_files else "")
    (watch.note if pair else watch.detail)(f"{said}; 2 bands are a softmax pair, background first" if pair else said)
    page = None
    if options.report is not None:
        page = ScoreReport(
            options.report,
            inputs,
            [path for image in images for path in (image.inputs["label"], image.inputs.get("baseline"))],
            images=options.images,
            bias=options.bias,
            threshold=options.threshold,
            baseline_threshold=None if options.baseline is None else options.baseline_threshold,
            rows=task.rows if task.several else None,
            watch=watch,
        )
    return _Run(
        options=options,
        task=task,
        images=images,
        partners=partners,
        reading=reading,
        base_reading=base_reading,
        page=page,
        own=_own_thresholds(images, options) if task.cuts and base_files and base_reading.kind != "mask" else {},
    )


def _own_thresholds(images: Sequence[Item], options: ScoreOptions) -> dict[Path, float]:
    """Of each image, where the baseline alone would be cut; empty if that is unknown, or where it is cut anyway."""
    paths = [image.path for image in images]
    own = dict.fromkeys(paths, options.own_threshold)
    if options.own_threshold is None:
        folders = {path.parent: path for path in paths if gdal_name(path) is None}
        for path in folders.values():
            own |= {path: found.get("own_threshold") for path, found in manifest_beside(path).figures(paths).items()}
    known = {path: threshold for path, threshold in own.items() if threshold is not None}
    other = set(known.values()) - {options.baseline_threshold}
    return known if other and len(known) == len(paths) else {}


def _score_all(run: _Run, watch: Watch) -> Batch[Item, ImageScore]:
    cores = run.options.thread_count()
    # As many images as cores keep these busy by themselves.
    few = len(run.images) < cores
    with ThreadPoolExecutor(cores, thread_name_prefix="count") if few else nullcontext() as pool:
        run = replace(run, pool=pool)
        batch = run_batch(
            run.images,
            lambda image, progress: _score_image(image, run, progress),
            name=name_of,
            label="Scoring",
            watch=watch,
            fail_fast=run.options.fail_fast,
            threads=cores,
        )
    check_foregrounds(batch, run.foregrounds)
    return batch


def _score_image(image: Item, run: _Run, progress: Progress) -> ImageScore:
    options, task = run.options, run.task
    for partners in run.partners:
        partners.of(image.path)
    again = partial(_opened, image, run, stamp_inputs(image.inputs, sampled=False))
    with again() as opened:
        label, *predictions = opened
        run.foregrounds[label.path] = label.foreground
        run.ignored.update(label.ignored_values)
        task.check_same_classes(label, predictions)
        names = ("threshold", "baseline_threshold", "buffer")
        thresholds = {name: getattr(options, name) for name in names} | {"own_threshold": run.own.get(image.path)}
        counter = task.counter(label.height, label.width, pool=run.pool, **thresholds)
        part = 1 if run.page is None else 0.5  # of the work on the image; the report looks at it again
        lost = _count(counter, task, opened, progress, part=part)
        result = replace(counter.score(), not_counted=lost)
        if run.page is not None:
            run.page.look(image.path, opened, again, progress.stop)
    return result


@contextmanager
def _opened(image: Item, run: _Run, stamps: Mapping[str, Stamp]) -> Iterator[Sequence[Any]]:
    """The label of an image, its mask, and its baseline if there is one, all of them as they were stamped."""
    task, baseline, valid_mask = run.task, image.inputs.get("baseline"), image.inputs.get("valid_mask")
    with ExitStack() as stack:
        mask = stack.enter_context(task.open_prediction(image.path, run.reading, valid_mask=valid_mask))
        grid = mask.raster
        opened = [stack.enter_context(task.open_label(image.inputs["label"], run.reading, like=grid)), mask]
        if baseline is not None:
            base = task.open_prediction(baseline, run.base_reading, valid_mask=valid_mask, like=grid)
            opened.append(stack.enter_context(base))
        yield opened
    check_unchanged(stamps)


def _count(
    counter: ImageCounter,
    task: Task,
    opened: Sequence[LabelMap | ScoreMap],
    progress: Progress,
    *,
    part: float,
) -> Mapping[str, int]:
    """Count a mask, and its baseline if there is one, against their label, some rows at a time.

    Returns how many pixels do not count, by reason.
    """
    label, mask, *baseline = opened
    assert isinstance(label, LabelMap)
    windows = list(row_bands(label.height, label.width, pixels=_PIXELS_AT_ONCE))
    lost = Counter[str]()

    def read() -> Generator[list[Any]]:
        for window in windows:
            progress.check()
            rows = [task.rows(mask, window), label.read(window), *(task.rows(each, window) for each in baseline)]
            if any(bool(invalid(each).any()) for each in rows):
                lost.update(count_reasons(*(each.reasons(window) for each in opened)))
            yield rows

    # While the rows of one band are counted, those of the next are read.
    with closing(ahead(read()) if len(windows) > 1 else read()) as bands:
        for rows in bands:
            counter.add(*rows)
            progress.done(part / len(windows))
    for each in (mask, *baseline):
        if isinstance(each, ScoreMap):
            each.check_valid()
    return lost
