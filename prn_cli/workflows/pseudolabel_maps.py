"""The work of `pseudolabel`, map by map."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prn_cli.errors import InputError, UsageError
from prn_cli.execution.threads import Progress
from prn_cli.execution.watch import Watch
from prn_cli.files.manifest import Manifest, check_outputs, check_unchanged
from prn_cli.files.remote import without_secrets
from prn_cli.maps.tiles import row_bands
from prn_cli.metrics.regions import RegionCounts
from prn_cli.rasters import (
    LabelMap,
    RasterWriter,
    Reading,
    ScoreMap,
    count_reasons,
    create_raster,
    find_valid_masks,
    mask_nodata,
    tiff_suffix,
)
from prn_cli.report import HeadroomReport, Searched
from prn_cli.tasks import Task
from prn_cli.thresholding.pseudolabels import Headroom, ThresholdCurve, count_curve, empty_curve, make_pseudolabels
from prn_cli.workflows.account import Account, warn_of_absent
from prn_cli.workflows.items import Item
from prn_cli.workflows.options import as_json, labels_beside, recorded, with_kind
from prn_cli.workflows.pseudolabel import PseudolabelledMap, PseudolabelOptions, PseudolabelResult
from prn_cli.workflows.work import Work, check_foregrounds, done_line, pair_labels, pass_over_outputs

_LABELS, _THRESHOLDS = "labels", "thresholds"
_BAND_PIXELS = 1 << 22  # of a map in memory at once


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    options: PseudolabelOptions
    task: Task
    work: Work
    reading: Reading
    page: HeadroomReport | None
    foregrounds: dict[Path, int | None] = field(default_factory=dict)  # of the labels that were read
    ignored: set[float] = field(default_factory=set)  # values of labels


def run(options: PseudolabelOptions, watch: Watch) -> PseudolabelResult:
    """See `prn_cli.workflows.pseudolabel.pseudolabel`."""
    run = _prepare(options, watch)
    if options.dry_run:
        plan, summary = run.work.plan()
        return PseudolabelResult(options=options, input_kind=run.reading.kind, plan=plan, summary=summary)
    started = time.perf_counter()
    threads = min(options.thread_count(), len(run.work.items))
    batch = run.work.run(
        lambda item, progress: _search_map(item, run, progress),
        label="Searching thresholds",
        watch=watch,
        fail_fast=options.fail_fast,
        threads=threads,
    )
    check_foregrounds(batch, run.foregrounds)
    maps = [found for _, found in batch.results]
    headrooms = {name: Headroom() for name in run.task.names}
    for found in maps:
        headrooms[found.class_name].add(found.curve, found.counts)
    whole = [found for found in maps if found.class_name == run.task.names[0]]  # each image once
    account = Account.of((found.pixels, found.not_counted) for found in whole)
    account.tell(watch)
    if maps:
        warn_of_absent(_label_pixels(maps), watch, ignored=run.ignored)
    summary = ""
    if maps:
        speed = sum(each.pixels for each in maps) / 1e6 / (time.perf_counter() - started)
        done = f"{len(maps)} searched, nothing written"
        if not options.figures_only:
            done = done_line([each.status for each in maps], "written", options.out)
        summary = f"{done}; {speed:.3g} Mpx/s"
        watch.note(summary)
    if run.page is not None:
        source = " ".join(map(without_secrets, options.logits))
        what = Searched(source, str(options.labels), options.patch, options.grid, str(account))
        run.page.finish(what, batch.failures)
    return PseudolabelResult(
        options=options,
        input_kind=run.reading.kind,
        account=account,
        maps=maps,
        headrooms=headrooms,
        failures=batch.failures,
        summary=summary,
        verdict=batch.verdict,
    )


def _label_pixels(maps: Sequence[PseudolabelledMap]) -> Mapping[str, int]:
    """How many pixels of the labels count, by class."""
    total: Counter[str] = Counter()
    for found in maps:
        counts = found.counts
        total[found.class_name or "foreground"] += counts.tp + counts.fn
        total.update({} if found.class_name else {"background": counts.fp + counts.tn})
    return total


def _prepare(options: PseudolabelOptions, watch: Watch) -> _Run:
    """Find and check everything before the first map is read."""
    task = options.find_task("pseudolabel")
    if options.report is None and options.images is not None:
        raise UsageError("--images are for the report, and there is none", hint="add --report FILE")
    reading, out = options.reading(), options.out
    labels = labels_beside(options.labels, options.logits)
    inputs = pass_over_outputs(options.find_inputs(options.logits, watch), Manifest(out), [out], watch)
    pairs = pair_labels(inputs, labels, watch, noun="map")
    paths = [path for path, _ in pairs]
    valid_masks = find_valid_masks(paths, options.valid_mask)
    task = task.with_classes(paths, reading, given=options.classes)
    outputs = (lambda *_: {}) if options.figures_only else _outputs
    items = [
        Item(path, {"logits": path, "label": label} | valid_masks.role(path), outputs(path, out / name), plane, name)
        for plane, name in enumerate(task.names)
        for path, label in pairs
    ]
    if not options.figures_only and any((out / name / _LABELS).resolve() == labels.resolve() for name in task.names):
        raise UsageError(f"would put pseudo-labels among the labels of {labels}", hint="choose another -o", path=out)
    check_outputs((item.inputs.values(), item.outputs.values()) for item in items)
    places = [place for item in items for place in item.outputs.values()]
    manifest = Manifest(out, places)
    if places:
        _create(items[0], options, (1, 1))  # unknown creation options show before the work
        if not options.overwrite:
            manifest.refuse_strangers(places)
    page = None
    if options.report is not None:
        page = HeadroomReport(
            options.report,
            paths,
            [path for item in items for path in (*item.inputs.values(), *item.outputs.values())],
            images=options.images,
            patch=options.patch,
            grid=options.grid,
            watch=watch,
        )
    reading = with_kind(reading, paths, watch)
    settings = {
        **task.settings(),
        "patch": options.patch,
        "grid": options.grid,
        "values": options.values,
        **recorded(reading),
        "label_nodata": as_json(reading.label_nodata),
        "creation_options": options.creation_options(),
    }

    def settings_of(item: Item) -> Mapping[str, Any]:
        return settings | ({"class": item.plane} if task.several else {})

    work = Work(
        items=items,
        partners=[valid_masks],
        manifest=manifest,
        settings=settings_of,
        overwrite=options.overwrite,
        verb="search",
    )
    return _Run(options=options, task=task, work=work, reading=reading, page=page)


def _outputs(path: Path, out: Path) -> dict[str, Path]:
    tiff = tiff_suffix(path)
    return {
        _LABELS: out / _LABELS / (path.stem + (tiff or ".png")),
        _THRESHOLDS: out / _THRESHOLDS / (path.stem + (tiff or ".npy")),
    }


def _create(item: Item, options: PseudolabelOptions, size: tuple[int, int], **more: Any) -> Sequence[RasterWriter]:
    """Writers of the pseudo-label and the threshold map of a map of this size."""
    (height, width), patch = size, options.patch
    more["creation_options"] = options.creation_options()
    nodata = mask_nodata(options.mask_values())
    rows, columns = -(-height // patch), -(-width // patch)
    place = item.outputs[_THRESHOLDS]
    return (
        create_raster(item.outputs[_LABELS], height=height, width=width, dtype="uint8", nodata=nodata, **more),
        create_raster(place, height=rows, width=columns, dtype="float32", nodata=float("nan"), downscale=patch, **more),
    )


def _search_map(item: Item, run: _Run, progress: Progress) -> PseudolabelledMap:
    """Search one map. Outputs that are current are kept; the figures are always counted again."""
    started = time.perf_counter()
    work, job = run.work, run.work.job(item)
    kept = bool(item.outputs) and work.finished(job) is not None
    with (
        run.task.open_scores(
            item.path, run.reading, plane=item.plane, valid_mask=item.inputs.get("valid_mask")
        ) as scores,
        run.task.open_label(item.inputs["label"], run.reading, plane=item.plane, like=scores.raster) as label,
    ):
        run.foregrounds[label.path] = label.foreground
        run.ignored.update(label.ignored_values)
        begin = partial(work.manifest.begin, job) if item.outputs and not kept else None
        curve, counts, lost = _search(item, run, (scores, label), progress, begin=begin)
        if run.page is not None:
            run.page.look(scores, label, progress.stop)
        pixels = scores.height * scores.width
    if begin is None:
        check_unchanged(job.stamps)
    else:
        figures = asdict(counts) | {"not_counted": dict(lost)}
        work.manifest.record(job, seconds=time.perf_counter() - started, figures=figures)
    status = "written" if begin is not None else "kept" if kept else "searched"
    return PseudolabelledMap(item.path, item.name, item.outputs, status, curve, counts, pixels, lost)


def _search(
    item: Item,
    run: _Run,
    opened: tuple[ScoreMap, LabelMap],
    progress: Progress,
    *,
    begin: Callable[[], None] | None,
) -> tuple[ThresholdCurve, RegionCounts, Mapping[str, int]]:
    """Search, write and count one map, some rows of patches at a time; pixels that do not count are counted by reason.

    `begin` is called just before the outputs take their names; without it, nothing is written.
    """
    (scores, label), options = opened, run.options
    height, width, patch = scores.height, scores.width, options.patch
    values = options.mask_values()
    written = np.full(256, mask_nodata(values), np.uint8)
    written[:2] = values
    curve, oracle, lost = empty_curve(), RegionCounts(), Counter[str]()
    with ExitStack() as stack:
        writers: list[RasterWriter] = []
        if begin is not None:
            created = _create(item, options, (height, width), like=scores.raster)
            writers = [stack.enter_context(writer) for writer in created]
        for window in row_bands(height, width, pixels=_BAND_PIXELS, block=patch):
            progress.check()
            probabilities, truth = scores.probabilities(window), label.read(window)
            found = make_pseudolabels(probabilities, truth, patch=patch, grid=options.grid)
            curve += count_curve(probabilities, truth)
            oracle += found.counts
            if found.counts.pixels < truth.size:
                lost.update(count_reasons(label.reasons(window), scores.reasons(window)))
            if writers:
                writers[0].write(written[found.mask])
                writers[1].write(found.thresholds)
            progress.done(window.height / height * (1 if run.page is None else 0.5))
        scores.check_valid()
        if not oracle.pixels:
            raise InputError("no pixel is valid in both the map and its label", path=item.path)
        if begin is not None:
            begin()
    return curve, oracle, lost
