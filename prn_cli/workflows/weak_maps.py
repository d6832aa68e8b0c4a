"""The work of `pseudolabel --weak`, map by map, in strips."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.execution.threads import Progress
from prn_cli.execution.watch import Watch
from prn_cli.files.manifest import check_unchanged
from prn_cli.files.temporaries import write_whole
from prn_cli.maps.bands import band_statistics
from prn_cli.maps.guided import CELL, guided, reach
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.tiles import Window, row_bands
from prn_cli.metrics.classes import SUMS, count_classes
from prn_cli.metrics.regions import FloatArray
from prn_cli.rasters import LabelMap, MapImage, Raster, RasterWriter, create_raster, open_map
from prn_cli.rasters.activations import Activations
from prn_cli.thresholding.weak import BACKGROUND, FloatMaps, class_scores, decide_labels, evidence
from prn_cli.workflows.items import Item
from prn_cli.workflows.pseudolabel import PseudolabelOptions
from prn_cli.workflows.weak import WeakMap, WeakResult
from prn_cli.workflows.weak_plan import CONFIDENCE, LABELS, SCORES, SURVEY, Plan, prepare
from prn_cli.workflows.work import done_line

_STRIP_PIXELS = 1 << 18
_THUMB = 256  # px


def run(options: PseudolabelOptions, watch: Watch) -> WeakResult:
    """See `prn_cli.workflows.pseudolabel.pseudolabel`."""
    plan = prepare(options, watch)
    result = WeakResult(options=options, classes=plan.survey.classes, background=plan.survey.background)
    if options.dry_run:
        planned, summary = plan.work.plan()
        return replace(result, plan=planned, summary=summary)
    started = time.perf_counter()
    write_whole(options.out / SURVEY, plan.survey.content())
    batch = plan.work.run(
        lambda item, progress: _label_map(item, plan, progress),
        label="Making masks",
        watch=watch,
        fail_fast=options.fail_fast,
        threads=min(options.thread_count(), len(plan.work.items)),
    )
    maps = [found for _, found in batch.results]
    summary = ""
    if maps:
        speed = sum(each.pixels for each in maps) / 1e6 / (time.perf_counter() - started)
        summary = f"{done_line([each.status for each in maps], 'written', options.out)}; {speed:.3g} Mpx/s"
        watch.note(summary)
    result = replace(result, maps=maps, failures=batch.failures, summary=summary, verdict=batch.verdict)
    result.account.tell(watch)
    return result


@dataclass(slots=True, kw_only=True)
class _Opened:
    """The open files of a map, and what is counted of it.

    Attributes:
        spreads: centre and spread of the image's bands.
        peaks: `(C,)`, of every class in this map; None where they are not asked for.
        plain_peaks: the same in the first scale alone; None without a label.
    """

    activations: Activations
    image: MapImage | None
    spreads: tuple[FloatMaps, FloatMaps] | None
    saliency: MapImage | None
    label: LabelMap | None
    peaks: NDArray[np.float64] | None
    plain_peaks: NDArray[np.float64] | None
    counts: FloatArray = field(default_factory=lambda: np.zeros((3, SUMS)))
    pixels: int = 0
    decided: int = 0


def _open(item: Item, plan: Plan, stack: ExitStack) -> _Opened:
    options, inputs, source = plan.options, item.inputs, plan.sources[item.path]
    reading = options.reading()
    opened: dict[str, MapImage] = {}
    like: Raster | None = None
    for role in ("image", "saliency"):
        if role in inputs:
            opened[role] = stack.enter_context(open_map("image", inputs[role], like=like, any_shape=True))
            like = like or opened[role].raster
    label = None
    if "label" in inputs:
        label = stack.enter_context(plan.task.open_label(inputs["label"], reading, like=like))
    grid = opened.get("image") or opened.get("saliency") or label
    saliency = opened.get("saliency")
    if saliency is not None and saliency.bands != 1:
        raise InputError(f"{saliency.bands} bands, expected 1", hint="save it as grey", path=saliency.path)
    with Activations(source.scales, plan.classes, reading=reading) as own:
        peaks = own.peaks() if plan.survey.by_map(tagged=item.path in plan.possible) else None
        plain_peaks = None if label is None else own.peaks(1)
    return _Opened(
        activations=stack.enter_context(Activations(source.scales, plan.classes, grid=grid, reading=reading)),
        image=opened.get("image"),
        spreads=_spreads(inputs["image"]) if "image" in inputs else None,
        saliency=saliency,
        label=label,
        peaks=peaks,
        plain_peaks=plain_peaks,
    )


def _spreads(path: Path) -> tuple[FloatMaps, FloatMaps]:
    """Centre and spread of an image's bands, `(bands, 1, 1)` each, by a small version of it."""
    with open_map("image", path) as image:
        shape = min(image.height, _THUMB), min(image.width, _THUMB)
    with open_map("image", path, shape=shape) as small:
        centre, spread = (np.array(values, np.float32)[:, None, None] for values in band_statistics([small.read()]))
    return centre, spread


def _label_map(item: Item, plan: Plan, progress: Progress) -> WeakMap:
    """Make the mask of one map. Outputs that are current are kept; the figures are always counted again."""
    started = time.perf_counter()
    work, missing = plan.work, plan.sources[item.path].missing
    if missing:
        raise InputError(f"has no activation map in {', '.join(missing)}", hint="add it, or tag it", path=item.path)
    job = work.job(item)
    kept = work.finished(job) is not None
    with ExitStack() as stack:
        opened = _open(item, plan, stack)
        writers = [] if kept else [stack.enter_context(w) for w in _create(item, plan, opened)]
        _fill(plan, opened, item, writers, progress)
        if not opened.pixels:
            raise InputError("no valid pixel in the activation maps", path=item.path)
        invalid = opened.activations.height * opened.activations.width - opened.pixels
        if not kept:
            work.manifest.begin(job)
    if kept:
        check_unchanged(job.stamps)
    else:
        figures = {"decided": opened.decided, "not_counted": {"invalid": invalid} if invalid else {}}
        work.manifest.record(job, seconds=time.perf_counter() - started, figures=figures)
    counts = None if opened.label is None else opened.counts
    status = "kept" if kept else "written"
    return WeakMap(item.path, item.outputs, status, opened.pixels, opened.decided, counts, invalid)


def _create(item: Item, plan: Plan, opened: _Opened) -> Sequence[RasterWriter]:
    """Writers of the mask, its confidence, and the scores of the classes."""
    height, width, options = opened.activations.height, opened.activations.width, plan.options
    create = partial(
        create_raster, width=width, like=opened.activations.like, creation_options=options.creation_options()
    )
    bands = len(plan.survey.classes) if plan.task.several else 1
    nan, scores = float("nan"), item.outputs[SCORES]
    kind = "float16" if scores.suffix == ".npy" else "float32"
    return (
        create(item.outputs[LABELS], height=height, **plan.task.content(options.mask_values())),
        create(item.outputs[CONFIDENCE], height=height, dtype="float32", nodata=nan),
        create(scores, height=height * bands, dtype=kind, nodata=nan, bands=bands),
    )


def _fill(plan: Plan, opened: _Opened, item: Item, writers: Sequence[RasterWriter], progress: Progress) -> None:
    """Make, write and count a map, some rows at a time."""
    options, survey, height = plan.options, plan.survey, opened.activations.height
    possible, values = plan.possible.get(item.path), options.mask_values()
    scale, of_scores = survey.scale(opened.peaks), survey.scale()
    for window in row_bands(height, opened.activations.width, pixels=_STRIP_PIXELS, block=CELL):
        progress.check()
        found = _activations(plan, opened, window)
        saliency = None if opened.saliency is None else _unit(opened.saliency, window)
        scores = class_scores(evidence(found, scale), survey.background, possible=possible, saliency=saliency)
        made = decide_labels(scores, options.undecided, saliency=saliency)
        opened.pixels += int(np.count_nonzero(made.classes != IGNORE))
        opened.decided += int(np.count_nonzero(made.labels != IGNORE))
        if writers:
            writers[0].write(plan.task.written(made.labels, None, values))
            writers[1].write(made.confidence)
            plain = class_scores(evidence(found, of_scores), survey.background, saliency=saliency)
            for number, one in enumerate(plain if plan.task.several else plain[1:]):
                writers[2].write(one.astype(writers[2].dtype), number * height + window.y)
        if opened.label is not None and opened.plain_peaks is not None:
            raw = evidence(opened.activations.read(window, 1), opened.plain_peaks)
            rest = None if survey.background is None else BACKGROUND
            before = decide_labels(class_scores(raw, rest)).classes
            truth = opened.label.read(window)
            for place, mask in enumerate((before, made.classes, made.labels)):
                opened.counts[place] += count_classes(mask, truth)
        progress.done(window.height / height)


def _activations(plan: Plan, opened: _Opened, window: Window) -> FloatMaps:
    """The activations of a window, filtered by the image if there is one."""
    if opened.image is None or opened.spreads is None:
        return opened.activations.read(window)
    options, (centre, spread) = plan.options, opened.spreads
    halo = reach(options.edge_box)
    top, bottom = max(window.y - halo, 0), min(window.bottom + halo, opened.image.height)
    padded = Window(top, 0, bottom - top, window.width)
    guide = (opened.image.read(padded) - centre) / spread
    found = guided(opened.activations.read(padded), guide, side=options.edge_box, smoothness=options.edge_smoothness)
    return found[:, window.y - top : window.bottom - top]


def _unit(saliency: MapImage, window: Window) -> FloatMaps:
    """Saliency from 0 to 1; 0 where it is invalid."""
    kind = saliency.raster.dtype
    full = float(np.iinfo(kind).max) if kind.kind in "ui" else 1.0
    values: FloatMaps = np.clip(np.nan_to_num(saliency.read(window)[0] / np.float32(full)), 0, 1)
    return values
