"""The work of `pseudolabel --weak`: what a set says of its activations, then masks map by map, in strips."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, PrnError, UsageError
from prn_cli.execution.threads import Progress
from prn_cli.execution.watch import Watch
from prn_cli.files.manifest import Manifest, check_outputs, check_unchanged
from prn_cli.files.temporaries import write_whole
from prn_cli.maps.bands import band_statistics
from prn_cli.maps.guided import CELL, guided, reach
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.tiles import Window
from prn_cli.metrics.classes import SUMS, count_classes
from prn_cli.metrics.regions import FloatArray
from prn_cli.rasters import (
    Activations,
    LabelMap,
    MapImage,
    Partners,
    RasterWriter,
    class_names,
    count_bands,
    create_raster,
    find_images,
    find_inputs,
    open_map,
    read_tags,
)
from prn_cli.rasters.guards import check_same_size
from prn_cli.tasks import Task
from prn_cli.thresholding.weak import (
    BACKGROUND,
    BINS,
    FloatMaps,
    choose_background,
    class_scores,
    count_evidence,
    decide_labels,
    evidence,
)
from prn_cli.workflows.items import Item
from prn_cli.workflows.options import as_json
from prn_cli.workflows.pseudolabel import PseudolabelOptions
from prn_cli.workflows.weak import WeakMap, WeakResult
from prn_cli.workflows.work import Work, done_line

_LABELS, _CONFIDENCE, _SCORES = "labels", "confidence", "scores"
_TIFF = (".tif", ".tiff")
_STRIP_PIXELS = 1 << 18
_SURVEYED = 400  # maps, evenly spread over the set
_SAMPLE = 32  # rows and columns of each
_USUAL = 0.75  # quantile of the peaks, so that a few odd images do not count
_SURVEY = "weak.json"
_THUMB = 256  # px


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the activations of an image are: by scale and class, None where a class has no file."""

    stem: str
    scales: Sequence[Sequence[Path | None]]
    missing: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return next(path for paths in self.scales for path in paths if path is not None)

    def inputs(self) -> dict[str, Path]:
        named = enumerate(path for paths in self.scales for path in paths if path is not None)
        return {f"activations {number}": path for number, path in named}


@dataclass(frozen=True, slots=True)
class _Survey:
    """What a set says of its activations.

    Attributes:
        peaks: `(C,)`, the usual peak of every class: the upper quartile over the images that may have it.
        background: score of the background in masks, None without one.
        plain: the same in the scores, which know no tags.
    """

    peaks: NDArray[np.float64]
    background: float | None
    plain: float | None

    def record(self, names: Sequence[str]) -> dict[str, Any]:
        """For the run's folder, as JSON."""
        return {
            "classes": list(names),
            "peaks": self.peaks.tolist(),
            "background": self.background,
            "plain": self.plain,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    options: PseudolabelOptions
    task: Task
    names: Sequence[str]
    sources: Mapping[Path, _Source]
    possible: Mapping[Path, NDArray[np.bool_]]
    survey: _Survey
    work: Work

    @property
    def classes(self) -> int:
        return len(self.survey.peaks)


def run(options: PseudolabelOptions, watch: Watch) -> WeakResult:
    """See `prn_cli.workflows.pseudolabel.pseudolabel`."""
    run = _prepare(options, watch)
    result = WeakResult(options=options, classes=run.names, background=run.survey.background)
    if options.dry_run:
        plan, summary = run.work.plan()
        return replace(result, plan=plan, summary=summary)
    started = time.perf_counter()
    write_whole(options.out / _SURVEY, json.dumps(run.survey.record(run.names)).encode())
    batch = run.work.run(
        lambda item, progress: _label_map(item, run, progress),
        label="Making masks",
        watch=watch,
        fail_fast=options.fail_fast,
        threads=min(options.thread_count(), len(run.work.items)),
    )
    maps = [found for _, found in batch.results]
    summary = ""
    if maps:
        speed = sum(each.pixels for each in maps) / 1e6 / (time.perf_counter() - started)
        summary = f"{done_line([each.status for each in maps], 'written', options.out)}; {speed:.3g} Mpx/s"
        watch.note(summary)
    return replace(result, maps=maps, failures=batch.failures, summary=summary, verdict=batch.verdict)


# What there is.


def _prepare(options: PseudolabelOptions, watch: Watch) -> _Run:
    """Find and check everything before the first mask is made."""
    assert options.weak is not None
    task = options.find_task("pseudolabel --weak")
    found, folders = _find_sources(options.weak)
    sources = list(found)
    tags = _find_tags(options, sources, watch)
    sources = [source for source in sources if tags is None or source.stem in tags]
    names, task = _name_classes(options, task, sources, folders)
    first = 0 if options.background == "none" else 1
    possible = {} if tags is None else _possible(options, tags, names[first:], folders, watch)
    kept = {source.path: _settled(source, possible.get(source.stem), names[first:]) for source in sources}
    by_path = {path: possible[source.stem] for path, source in kept.items() if source.stem in possible}
    paths = list(kept)
    images, labels = find_images(paths, options.images), _find_truth(options, paths)
    saliency = Partners("saliency map", "saliency").among(paths, options.saliency)
    items = []
    for path, source in kept.items():
        partners = {name: part for each in (images, saliency, labels) for name, part in each.role(path).items()}
        grid = partners.get("image", partners.get("saliency", partners.get("label", path)))
        outputs = _outputs(source.stem, options.out, tiff=grid.suffix.lower() in _TIFF, several=task.several)
        items.append(Item(path, source.inputs() | partners, outputs))
    check_outputs((item.inputs.values(), item.outputs.values()) for item in items)
    every = [output for item in items for output in item.outputs.values()]
    manifest = Manifest(options.out, every)
    if not options.overwrite:
        manifest.refuse_strangers(every)
    if options.scale_of is not None:
        survey = _scale_of(options.scale_of, names)
    else:
        survey = _survey(options, list(kept.values()), by_path, len(names) - first)
    if options.background == "auto" and options.scale_of is None and survey.background is not None:
        watch.note(f"background score {survey.background:.3g}, chosen on the set")
    work = Work(
        items=items,
        partners=[images, saliency],
        manifest=manifest,
        settings=partial(_settings, options=options, task=task, names=names, survey=survey, possible=by_path),
        overwrite=options.overwrite,
        verb="label",
    )
    return _Run(options=options, task=task, names=names, sources=kept, possible=by_path, survey=survey, work=work)


def _find_sources(folders: Sequence[Path]) -> tuple[list[_Source], list[str]]:
    """The images, by the files of the first folder, and the names of the class folders, if there are such."""
    scales: list[dict[str, list[Path | None]]] = []
    names: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError("no such folder", hint="name the folder of the activation maps", path=folder)
        parts = sorted(part for part in folder.iterdir() if part.is_dir() and not part.name.startswith("."))
        found = [part.name for part in parts]
        if scales and found != names:
            raise InputError("has not the class folders of the first --weak", hint="name them alike", path=folder)
        names = found
        files = [{path.stem: path for path in find_inputs([str(part)])} for part in parts or [folder]]
        stems = sorted(set().union(*files))
        scales.append({stem: [each.get(stem) for each in files] for stem in stems})
    count = max(len(names), 1)
    sources = []
    for stem in scales[0]:
        of_scales = [scale.get(stem, [None] * count) for scale in scales]
        missing = [
            f"{folder}{f'/{name}' if name else ''}"
            for folder, paths in zip(folders, of_scales, strict=True)
            for name, path in zip(names or [""], paths, strict=True)
            if path is None
        ]
        sources.append(_Source(stem, of_scales, tuple(missing)))
    return sources, names


def _find_tags(options: PseudolabelOptions, sources: Sequence[_Source], watch: Watch) -> dict[str, set[str]] | None:
    """The tags of each image that has activations. A note names those that lack one of the two."""
    if options.tags is None:
        return None
    stems = {source.stem for source in sources}
    tags = read_tags(options.tags, stems)
    watch.note_files([s.path for s in sources if s.stem not in tags], f"maps have no tags in {options.tags}, left out")
    watch.note_files([Path(s) for s in tags if s not in stems], f"images of {options.tags} have no activation map")
    if not stems & set(tags):
        raise InputError("names none of the activation maps", hint="a line an image: STEM,CLASS", path=options.tags)
    return tags


def _name_classes(
    options: PseudolabelOptions, task: Task, sources: Sequence[_Source], folders: Sequence[str]
) -> tuple[list[str], Task]:
    """Names of the classes, the background first if there is one, and the task that knows them."""
    count = len(folders) or count_bands([source.path for source in sources])
    none = options.background == "none"
    if none and count == 1:
        raise UsageError("--background none of one class: every pixel would be of it", hint="give a score, or auto")
    if not task.several:
        if count > 1:
            raise UsageError(f"activation maps of {count} classes", hint="add --task multiclass")
        return ["background", *(folders or ["foreground"])], task
    if options.classes is None and folders:
        names = list(folders) if none else ["background", *folders]
    else:
        names = class_names(count + (not none), options.classes, None)
    return names, task.with_classes([], given=",".join(names))


def _possible(
    options: PseudolabelOptions,
    tags: Mapping[str, set[str]],
    names: Sequence[str],
    folders: Sequence[str],
    watch: Watch,
) -> dict[str, NDArray[np.bool_]]:
    """`(C,)` which classes each image may have. A warning for each tag that is no class."""
    anything = len(names) == 1 and not folders  # the one class has no name: any tag is it
    if anything:
        return {stem: np.array([bool(found - {"0", "background"})]) for stem, found in tags.items()}
    for stranger in sorted(set().union(*tags.values()) - {*names, "0", "background"}):
        count = sum(stranger in found for found in tags.values())
        watch.warning(f"{options.tags}: no map has the class '{stranger}', a tag of {count} images")
    return {stem: np.array([name in found for name in names]) for stem, found in tags.items()}


def _settled(source: _Source, possible: NDArray[np.bool_] | None, names: Sequence[str]) -> _Source:
    """The source, which needs no file of a class that is impossible."""
    if possible is None or len(source.scales[0]) != len(names):
        return source
    absent = {name for name, there in zip(names, possible, strict=True) if not there}
    return _Source(source.stem, source.scales, tuple(m for m in source.missing if Path(m).name not in absent))


def _find_truth(options: PseudolabelOptions, paths: Sequence[Path]) -> Partners:
    """The true masks, if there are some: `labels/` need not be there."""
    default = PseudolabelOptions().labels
    if options.labels == default and not default.is_dir():
        return Partners("label", "label")
    if (options.out / _LABELS).resolve() == options.labels.resolve():
        raise UsageError(f"would put masks among the labels of {options.labels}", hint="choose another -o")
    return Partners("label", "label").among(paths, options.labels)


def _outputs(stem: str, out: Path, *, tiff: bool, several: bool) -> dict[str, Path]:
    return {
        _LABELS: out / _LABELS / f"{stem}{'.tif' if tiff else '.png'}",
        _CONFIDENCE: out / _CONFIDENCE / f"{stem}{'.tif' if tiff else '.npy'}",
        _SCORES: out / _SCORES / f"{stem}{'.tif' if tiff and not several else '.npy'}",
    }


def _settings(
    item: Item,
    *,
    options: PseudolabelOptions,
    task: Task,
    names: Sequence[str],
    survey: _Survey,
    possible: Mapping[Path, NDArray[np.bool_]],
) -> Mapping[str, Any]:
    tags = possible.get(item.path)
    return {
        **task.settings(),
        "classes": list(names),
        "tags": None if tags is None else tags.tolist(),
        "normalise": options.normalise,
        "background": [survey.background, survey.plain],
        "peaks": [] if options.normalise == "none" else survey.peaks.tolist(),
        "undecided": options.undecided,
        "edges": [options.edge_box, options.edge_smoothness] if "image" in item.inputs else None,
        "values": options.values,
        "label_nodata": as_json(options.label_nodata),
        "creation_options": options.creation_options(),
    }


# What the set says.


def _survey(
    options: PseudolabelOptions,
    sources: Sequence[_Source],
    possible: Mapping[Path, NDArray[np.bool_]],
    classes: int,
) -> _Survey:
    """Read some of the maps for the peaks of the classes and the score of the background."""
    peaks, samples, tagged = [], [], []
    count = min(len(sources), _SURVEYED)
    for number in range(count):
        source = sources[round(number * (len(sources) - 1) / max(count - 1, 1))]
        try:
            with Activations(source.scales, classes, reading=options.reading()) as activations:
                peaks.append(activations.peaks())
                samples.append(_sample(activations))
        except PrnError:
            continue  # it fails on its own when its turn comes
        tagged.append(possible.get(source.path, np.ones(classes, np.bool_)))
    highest = np.zeros(classes)
    for number in range(classes):
        some = [peak[number] for peak, may in zip(peaks, tagged, strict=True) if may[number]]
        highest[number] = np.quantile(some, _USUAL) if some else 0.0
    if options.background == "none":
        return _Survey(highest, None, None)
    if options.background != "auto":
        return _Survey(highest, float(options.background), float(options.background))
    counts, plain = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    for peak, sample, there in zip(peaks, samples, tagged, strict=True):
        found = evidence(sample, _scale(options, peak, highest))
        counts += count_evidence(found[there] if there.any() else np.zeros_like(found[:1]))
        plain += count_evidence(evidence(sample, highest if options.normalise != "none" else np.ones(classes)))
    return _Survey(highest, choose_background(counts), choose_background(plain))


def _sample(activations: Activations) -> FloatMaps:
    """Some rows and columns of a map, `(C, h, w)`."""
    height, width = activations.height, activations.width
    down, across = (-(-side // _SAMPLE) for side in (height, width))
    rows = [activations.read(Window(y, 0, 1, width))[:, :, ::across] for y in range(0, height, down)]
    return np.concatenate(rows, axis=1)


def _scale_of(folder: Path, names: Sequence[str]) -> _Survey:
    """The survey of an earlier run with the same classes."""
    path = folder / _SURVEY
    try:
        record = json.loads(path.read_text("utf-8"))
        survey = _Survey(np.array(record["peaks"], np.float64), record["background"], record["plain"])
        classes = record["classes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("not of a run with --weak", hint="name its output folder", path=path) from error
    if classes != list(names):
        raise UsageError(f"--scale-of {folder}: classes {', '.join(classes)}, expected {', '.join(names)}")
    return survey


def _scale(options: PseudolabelOptions, own: NDArray[np.float64], of_set: NDArray[np.float64]) -> NDArray[np.float64]:
    """The activations that are an evidence of 1."""
    scales = {"peak": own, "set": of_set, "both": np.sqrt(own * of_set), "none": np.ones(len(own))}
    return scales[options.normalise]


# A map.


@dataclass(slots=True, kw_only=True)
class _Opened:
    """The open files of a map, and what is counted of it.

    Attributes:
        spreads: centre and spread of the image's bands.
        peaks: `(C,)`, of every class in this map.
        plain_peaks: the same in the first scale alone.
    """

    activations: Activations
    image: MapImage | None
    spreads: tuple[FloatMaps, FloatMaps] | None
    saliency: MapImage | None
    label: LabelMap | None
    peaks: NDArray[np.float64]
    plain_peaks: NDArray[np.float64]
    counts: FloatArray = field(default_factory=lambda: np.zeros((3, SUMS)))
    pixels: int = 0
    decided: int = 0


def _open(item: Item, run: _Run, stack: ExitStack) -> _Opened:
    options, inputs, source = run.options, item.inputs, run.sources[item.path]
    reading = options.reading()
    opened: dict[str, MapImage] = {}
    for role in ("image", "saliency"):
        if role in inputs:
            image = opened.get("image")
            shape = None if image is None else (image.height, image.width)
            opened[role] = stack.enter_context(open_map("image", inputs[role], shape=shape))
    label = None
    if "label" in inputs:
        label = stack.enter_context(run.task.open_label(inputs["label"], reading))
    seen = opened.get("image") or opened.get("saliency")
    grid = seen or label
    if label is not None and seen is not None:
        check_same_size(label.raster, seen.raster)
    saliency = opened.get("saliency")
    if saliency is not None and saliency.bands != 1:
        raise InputError(f"{saliency.bands} bands, expected 1", hint="save it as grey", path=saliency.path)
    with Activations(source.scales, run.classes, reading=reading) as own:
        peaks, plain_peaks = own.peaks(), own.peaks(1)
    return _Opened(
        activations=stack.enter_context(Activations(source.scales, run.classes, grid=grid, reading=reading)),
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


def _label_map(item: Item, run: _Run, progress: Progress) -> WeakMap:
    """Make the mask of one map. Outputs that are current are kept; the figures are always counted again."""
    started = time.perf_counter()
    work, missing = run.work, run.sources[item.path].missing
    if missing:
        raise InputError(f"has no activation map in {', '.join(missing)}", hint="add it, or tag it", path=item.path)
    job = work.job(item)
    kept = work.finished(job) is not None
    with ExitStack() as stack:
        opened = _open(item, run, stack)
        writers = [] if kept else [stack.enter_context(w) for w in _create(item, run, opened)]
        _fill(run, opened, item, writers, progress)
        if not opened.pixels:
            raise InputError("no valid pixel in the activation maps", path=item.path)
        if not kept:
            work.manifest.begin(job)
    if kept:
        check_unchanged(job.stamps)
    else:
        work.manifest.record(job, seconds=time.perf_counter() - started, figures={"decided": opened.decided})
    counts = None if opened.label is None else opened.counts
    return WeakMap(item.path, item.outputs, "kept" if kept else "written", opened.pixels, opened.decided, counts)


def _create(item: Item, run: _Run, opened: _Opened) -> Sequence[RasterWriter]:
    """Writers of the mask, its confidence, and the scores of the classes."""
    height, width, options = opened.activations.height, opened.activations.width, run.options
    create = partial(
        create_raster, width=width, like=opened.activations.like, creation_options=options.creation_options()
    )
    bands = len(run.names) if run.task.several else 1
    nan, scores = float("nan"), item.outputs[_SCORES]
    kind = "float16" if scores.suffix == ".npy" else "float32"
    return (
        create(item.outputs[_LABELS], height=height, **run.task.content(options.mask_values())),
        create(item.outputs[_CONFIDENCE], height=height, dtype="float32", nodata=nan),
        create(scores, height=height * bands, dtype=kind, nodata=nan, bands=bands),
    )


def _fill(run: _Run, opened: _Opened, item: Item, writers: Sequence[RasterWriter], progress: Progress) -> None:
    """Make, write and count a map, some rows at a time."""
    options, survey, height = run.options, run.survey, opened.activations.height
    possible, values = run.possible.get(item.path), options.mask_values()
    scale = _scale(options, opened.peaks, survey.peaks)
    of_scores = np.ones(run.classes) if options.normalise == "none" else survey.peaks
    rows = max(_STRIP_PIXELS // opened.activations.width // CELL, 1) * CELL
    for y in range(0, height, rows):
        progress.check()
        window = Window(y, 0, min(rows, height - y), opened.activations.width)
        found = _activations(run, opened, window)
        saliency = None if opened.saliency is None else _unit(opened.saliency, window)
        scores = class_scores(evidence(found, scale), survey.background, possible=possible, saliency=saliency)
        made = decide_labels(scores, options.undecided, saliency=saliency)
        opened.pixels += int(np.count_nonzero(made.classes != IGNORE))
        opened.decided += int(np.count_nonzero(made.labels != IGNORE))
        if writers:
            writers[0].write(run.task.written(made.labels, None, values))
            writers[1].write(made.confidence)
            plain = class_scores(evidence(found, of_scores), survey.plain, saliency=saliency)
            for number, one in enumerate(plain if run.task.several else plain[1:]):
                writers[2].write(one.astype(writers[2].dtype), number * height + y)
        if opened.label is not None:
            raw = evidence(opened.activations.read(window, 1), opened.plain_peaks)
            rest = None if survey.background is None else BACKGROUND
            before = decide_labels(class_scores(raw, rest)).classes
            truth = opened.label.read(window)
            for place, mask in enumerate((before, made.classes, made.labels)):
                opened.counts[place] += count_classes(mask, truth)
        progress.done(window.height / height)


def _activations(run: _Run, opened: _Opened, window: Window) -> FloatMaps:
    """The activations of a window, filtered by the image if there is one."""
    if opened.image is None or opened.spreads is None:
        return opened.activations.read(window)
    options, (centre, spread) = run.options, opened.spreads
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
