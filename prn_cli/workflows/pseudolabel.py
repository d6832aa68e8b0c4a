"""The best threshold of every patch, what it makes of each map, and what a set of maps could gain."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prn_cli.errors import InputError, UsageError
from prn_cli.execution.watch import SILENT, Watch
from prn_cli.files.remote import without_secrets
from prn_cli.options import Option
from prn_cli.workflows.items import Item, Planned
from prn_cli.workflows.options import (
    DryRun,
    GridName,
    Labels,
    LogitsHere,
    MaskOptions,
    Overwrite,
    PatchSide,
    ReadOptions,
    ReportOptions,
    RunOptions,
    TaskOptions,
)

if TYPE_CHECKING:
    from prn_cli.execution.threads import Batch, Progress
    from prn_cli.files.manifest import Job, Manifest
    from prn_cli.metrics.regions import RegionCounts
    from prn_cli.rasters import LabelMap, Partners, RasterWriter, ScoreMap
    from prn_cli.rasters.reading import Reading
    from prn_cli.report import HeadroomReport
    from prn_cli.tasks import Task
    from prn_cli.thresholding.pseudolabels import Cut, Headroom, ThresholdCurve

_LABELS, _THRESHOLDS = "labels", "thresholds"
_TIFF = (".tif", ".tiff")
_BAND_PIXELS = 1 << 22  # of a map in memory at once


@dataclass(frozen=True, kw_only=True)
class PseudolabelOptions(ReadOptions, TaskOptions, MaskOptions, ReportOptions, RunOptions):
    """Options of `pseudolabel`."""

    logits: LogitsHere = field(default=("logits",), kw_only=False)
    labels: Labels = Path("labels")
    out: Annotated[
        Path,
        Option(
            "Folder of the results: pseudo-labels in labels/, threshold maps in thresholds/.",
            "Output",
            flags=("-o",),
            metavar="DIR",
            output=True,
        ),
    ] = Path("pseudolabels")
    patch: PatchSide = 64
    grid: GridName = "paper"
    overwrite: Overwrite = False
    dry_run: DryRun = False


@dataclass(frozen=True, slots=True)
class PseudolabelledMap:
    """A map that was searched, or one class of it against the rest.

    Attributes:
        input: the map.
        class_name: of the class; empty of a single foreground.
        outputs: the files written, by role: `labels`, `thresholds`.
        status: `written`, or `kept` if that was done before.
        curve: what every single threshold would give.
        counts: the pseudo-labels against the label.
        pixels: of the map.
    """

    input: Path
    class_name: str
    outputs: Mapping[str, Path]
    status: str
    curve: ThresholdCurve
    counts: RegionCounts
    pixels: int


@dataclass(frozen=True, slots=True)
class PseudolabelResult:
    """What became of a run.

    Attributes:
        options: of the run.
        input_kind: what the numbers of the maps mean.
        maps: those that were searched, in the order of the inputs.
        headrooms: what the set could gain, by class; a single foreground has an empty name.
        failures: name and cause of what failed.
        summary: how many maps, where and how fast, in a line.
        verdict: how many failed, in a line; empty if none did.
        plan: with `dry_run`, what would be done, map by map.
    """

    options: PseudolabelOptions
    input_kind: str
    maps: Sequence[PseudolabelledMap] = ()
    headrooms: Mapping[str, Headroom] = field(default_factory=dict)
    failures: Sequence[tuple[str, str]] = ()
    summary: str = ""
    verdict: str = ""
    plan: Sequence[Planned] = ()

    def document(self) -> dict[str, Any]:
        """For JSON; figures are None without images; of several classes, they stand under `classes` by name."""
        found = {name: _figures(headroom) for name, headroom in self.headrooms.items()}
        return {
            **found.get("", {"classes": found}),
            "patch": self.options.patch,
            "grid": self.options.grid,
            "input_kind": self.input_kind,
            "out": str(self.options.out),
            "failures": [{"file": name, "error": cause} for name, cause in self.failures],
        }


def _figures(headroom: Headroom) -> dict[str, Any]:
    def plain(cut: Cut) -> dict[str, Any]:
        record = {"pooled": round(cut.pooled, 6), "mean": round(cut.mean, 6)}
        return record if cut.threshold is None else {"threshold": cut.threshold} | record

    found: dict[str, Any] = dict.fromkeys(("at_half", "best_single", "oracle", "headroom"))
    if headroom.images:
        cuts = (headroom.at(0.5), headroom.best_single(), headroom.oracle(), headroom.gain())
        found = dict(zip(found, map(plain, cuts), strict=True))
    return {"images": headroom.images, "pixels": headroom.pixels, **found}


def pseudolabel(options: PseudolabelOptions, watch: Watch = SILENT) -> PseudolabelResult:
    """Find the best threshold of every patch of labelled maps, and write what it makes of them.

    A map whose outputs are there already is searched again for its figures, but not written again if they were made
    from the same inputs with the same settings. A map that fails does not stop the others; the result names it.

    Args:
        options: as on the command line.
        watch: is told what happens.

    Raises:
        PrnError: nothing could be begun.
    """
    from prn_cli.thresholding.pseudolabels import Headroom
    from prn_cli.workflows.items import plan_items, reason, summary_of

    run = _prepare(options, watch)
    if options.dry_run:
        whether = partial(reason, run.manifest, overwrite=options.overwrite)
        plan = list(plan_items(run.items, lambda item: whether(run.job(item)), verb="search"))
        return PseudolabelResult(options, run.reading.kind, plan=plan, summary=summary_of(plan, verb="search"))
    started = time.perf_counter()
    batch = _search_all(run, watch)
    maps = [found for _, found in batch.results]
    headrooms = {name: Headroom() for name in run.task.names}
    for found in maps:
        headrooms[found.class_name].add(found.curve, found.counts)
    summary = _summary(maps, options.out, time.perf_counter() - started)
    if summary:
        watch.note(summary)
    if run.page is not None:
        from prn_cli.report import Searched

        source = " ".join(map(without_secrets, options.logits))
        run.page.finish(Searched(source, str(options.labels), options.patch, options.grid), batch.failures)
    return PseudolabelResult(options, run.reading.kind, maps, headrooms, batch.failures, summary, batch.verdict)


@dataclass(frozen=True, slots=True)
class _Item(Item):
    """A map, or one class of it against the rest.

    Attributes:
        plane: number of the class, from 0.
        name: of the class; empty of a single foreground.
    """

    plane: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that is ready to begin."""

    options: PseudolabelOptions
    task: Task
    items: Sequence[_Item]
    valid_masks: Partners
    reading: Reading
    values: tuple[int, int]
    creation: Mapping[str, str]
    manifest: Manifest
    page: HeadroomReport | None
    foregrounds: dict[Path, int | None] = field(default_factory=dict)  # of the labels that were read

    def job(self, item: _Item) -> Job:
        """The manifest's note of the work on a map.

        Raises:
            InputError: an input is missing.
        """
        from prn_cli.workflows.options import as_json, recorded

        self.valid_masks.of(item.path)
        settings = {
            **self.task.settings(),
            "patch": self.options.patch,
            "grid": self.options.grid,
            "values": self.options.values,
            **recorded(self.reading),
            "label_nodata": as_json(self.reading.label_nodata),
            "creation_options": self.creation,
        }
        if self.task.several:
            settings["class"] = item.plane
        return self.manifest.job(inputs=item.inputs, settings=settings, outputs=item.outputs)


def _prepare(options: PseudolabelOptions, watch: Watch) -> _Run:
    """Find and check everything before the first map is read."""
    from prn_cli.files.manifest import Manifest, check_outputs
    from prn_cli.rasters.pairs import find_inputs, find_valid_masks, pair_by_stem
    from prn_cli.workflows.options import with_kind

    task = options.find_task("pseudolabel")
    if options.report is None and options.images is not None:
        raise UsageError("--images are for the report, and there is none", hint="add --report FILE")
    values, creation, reading = options.mask_values(), options.creation_options(), options.reading()
    inputs = find_inputs(options.logits, stdin=sys.stdin, null=options.null)
    labels, out = options.labels, options.out
    pairs = pair_by_stem(inputs, labels)
    watch.note_files(pairs.unmatched_inputs, f"maps have no label in {labels} and are left out")
    watch.note_files(pairs.unmatched_partners, f"files in {labels} have no map")
    paths = [path for path, _ in pairs.matched]
    valid_masks = find_valid_masks(paths, options.valid_mask)
    task = task.with_classes(paths, reading, given=options.classes)
    items = [
        _Item(path, {"logits": path, "label": label} | valid_masks.role(path), _outputs(path, out / name), plane, name)
        for plane, name in enumerate(task.names)
        for path, label in pairs.matched
    ]
    if any((out / name / _LABELS).resolve() == labels.resolve() for name in task.names):
        raise UsageError(
            f"would get the pseudo-labels among the labels of {labels}", hint="choose another -o", path=out
        )
    check_outputs((item.inputs.values(), item.outputs.values()) for item in items)
    _create(items[0], values, creation, height=1, width=1, patch=1)  # what is wrong with them shows before the work
    outputs = [output for item in items for output in item.outputs.values()]
    manifest = Manifest(out, outputs)
    if not options.overwrite:
        manifest.refuse_strangers(outputs)
    page = None
    if options.report is not None:
        from prn_cli.report import HeadroomReport

        files = [path for item in items for path in (*item.inputs.values(), *item.outputs.values())]
        page = HeadroomReport(
            options.report,
            paths,
            files,
            images=options.images,
            patch=options.patch,
            grid=options.grid,
            watch=watch,
        )
    reading = with_kind(reading, paths, watch)
    return _Run(options, task, items, valid_masks, reading, values, creation, manifest, page)


def _outputs(path: Path, out: Path) -> dict[str, Path]:
    """The files that are written for one map, by role."""
    suffix = path.suffix.lower()
    tiff = suffix in _TIFF
    return {
        _LABELS: out / _LABELS / (path.stem + (suffix if tiff else ".png")),
        _THRESHOLDS: out / _THRESHOLDS / (path.stem + (suffix if tiff else ".npy")),
    }


def _create(
    item: _Item,
    values: tuple[int, int],
    creation: Mapping[str, str],
    *,
    height: int,
    width: int,
    patch: int,
    **like: Any,
) -> tuple[RasterWriter, RasterWriter]:
    """Writers of the pseudo-label and the threshold map of a map of this size."""
    from prn_cli.rasters import create_raster, mask_nodata

    labels = create_raster(
        item.outputs[_LABELS],
        height=height,
        width=width,
        dtype="uint8",
        nodata=mask_nodata(values),
        creation_options=creation,
        **like,
    )
    thresholds = create_raster(
        item.outputs[_THRESHOLDS],
        height=-(-height // patch),
        width=-(-width // patch),
        dtype="float32",
        downscale=patch,
        nodata=float("nan"),
        creation_options=creation,
        **like,
    )
    return labels, thresholds


def _search_all(run: _Run, watch: Watch) -> Batch[_Item, PseudolabelledMap]:
    from prn_cli.execution.threads import run_batch
    from prn_cli.files.temporaries import remove_stale
    from prn_cli.rasters.labels import two_kinds_of_labels

    run.manifest.start()
    remove_stale(output.parent for item in run.items for output in item.outputs.values())
    batch = run_batch(
        run.items,
        lambda item, progress: _search_map(item, run, progress),
        name=lambda item: str(item.path),
        label="Searching thresholds",
        watch=watch,
        fail_fast=run.options.fail_fast,
        threads=min(run.options.thread_count(), len(run.items)),
    )
    two_kinds = two_kinds_of_labels(run.foregrounds)
    if two_kinds is not None:
        batch.fail(str(two_kinds.path), str(two_kinds))
    return batch


def _search_map(item: _Item, run: _Run, progress: Progress) -> PseudolabelledMap:
    """Search one map. Its outputs are kept if they are current; the figures are always counted anew."""
    from prn_cli.files.manifest import check_unchanged
    from prn_cli.rasters.guards import check_same_size
    from prn_cli.workflows.items import finished

    started = time.perf_counter()
    job = run.job(item)
    kept = finished(run.manifest, job, overwrite=run.options.overwrite) is not None
    valid_mask = run.valid_masks.of(item.path)
    with (
        run.task.open_label(item.inputs["label"], run.reading, plane=item.plane) as label,
        run.task.open_scores(item.path, run.reading, plane=item.plane, valid_mask=valid_mask) as scores,
    ):
        run.foregrounds[label.path] = label.foreground
        check_same_size(label.raster, scores.raster)
        on_written = None if kept else partial(run.manifest.begin, job)
        curve, counts = _search(item, run, scores, label, progress, on_written=on_written)
        if run.page is not None:
            run.page.look(scores, label, progress.stop)
        pixels = scores.height * scores.width
    if kept:
        check_unchanged(job.stamps)
    else:
        run.manifest.record(job, seconds=time.perf_counter() - started, figures=asdict(counts))
    status = "kept" if kept else "written"
    return PseudolabelledMap(item.path, item.name, item.outputs, status, curve, counts, pixels)


def _search(
    item: _Item,
    run: _Run,
    scores: ScoreMap,
    label: LabelMap,
    progress: Progress,
    *,
    on_written: Callable[[], None] | None,
) -> tuple[ThresholdCurve, RegionCounts]:
    """Search, write and count one map, some rows of patches at a time.

    `on_written` is called just before the outputs take their names; without it, none are written.
    """
    import numpy as np

    from prn_cli.maps.tiles import Window
    from prn_cli.metrics.regions import RegionCounts
    from prn_cli.rasters import mask_nodata
    from prn_cli.thresholding.pseudolabels import count_curve, empty_curve, make_pseudolabels

    height, width, patch = scores.height, scores.width, run.options.patch
    written = np.full(256, mask_nodata(run.values), np.uint8)
    written[:2] = run.values
    curve, oracle = empty_curve(), RegionCounts()
    with ExitStack() as stack:
        writers = []
        if on_written is not None:
            size = {"height": height, "width": width, "patch": patch}
            created = _create(item, run.values, run.creation, **size, like=scores.raster)
            writers = [stack.enter_context(writer) for writer in created]
        rows = max(_BAND_PIXELS // (width * patch), 1) * patch
        for y in range(0, height, rows):
            progress.check()
            window = Window(y, 0, min(rows, height - y), width)
            probabilities, truth = scores.probabilities(window), label.read(window)
            found = make_pseudolabels(probabilities, truth, patch=patch, grid=run.options.grid)
            curve += count_curve(probabilities, truth)
            oracle += found.counts
            if writers:
                writers[0].write(written[found.mask])
                writers[1].write(found.thresholds)
            progress.done(window.height / height * (1 if run.page is None else 0.5))
        scores.check_valid()
        if not oracle.pixels:
            raise InputError("no pixel is valid in both the map and its label", path=item.path)
        if on_written is not None:
            on_written()
    return curve, oracle


def _summary(maps: Sequence[PseudolabelledMap], out: Path, seconds: float) -> str:
    """How many, where, how fast, in a line."""
    if not maps:
        return ""
    kept = sum(each.status == "kept" for each in maps)
    done = f"{len(maps) - kept} written" + (f", {kept} kept" if kept else "")
    return f"{done} → {out}; {sum(each.pixels for each in maps) / 1e6 / seconds:.3g} Mpx/s"
