"""`prn pseudolabel`: the best threshold of every patch, what it makes of each map, and what a set could gain."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prn_cli.commands import console, options, reporting
from prn_cli.commands.options import TaskChoice
from prn_cli.errors import InputError, UsageError
from prn_cli.execution.threads import Batch, run_batch
from prn_cli.files.remote import without_secrets
from prn_cli.workflows.items import Item, finished, plan_items, reason, summary_of

if TYPE_CHECKING:
    from prn_cli.files.manifest import Manifest
    from prn_cli.metrics.regions import RegionCounts
    from prn_cli.rasters import LabelMap, Partners, ScoreMap
    from prn_cli.thresholding.pseudolabels import Cut, Headroom, ThresholdCurve

_LABELS, _THRESHOLDS = "labels", "thresholds"
_TIFF = (".tif", ".tiff")
_BAND_PIXELS = 1 << 22  # of a map in memory at once

Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        callback=options.local,
        metavar="DIR",
        help="Folder of the results: pseudo-labels in labels/, threshold maps in thresholds/.",
        rich_help_panel="Output",
    ),
]


@dataclass(frozen=True, slots=True)
class _Run:
    """What is the same for all maps of a run."""

    task: TaskChoice
    patch: int
    grid: Any
    kind: Any
    nodata: float | None
    label_nodata: float | None
    valid_masks: Partners
    band: int | None
    key: str | None
    classes: Sequence[str]
    values: tuple[int, int]
    options: Mapping[str, str]
    settings: Mapping[str, Any]
    page: reporting.HeadroomReport | None = None
    foregrounds: dict[Path, int | None] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class _Item(Item):
    """A map, or one class of it against the rest.

    Attributes:
        number: of the class, from 0; None for a map of one foreground.
        name: of the class.
    """

    number: int | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class _Result:
    """What one map adds to the figures of the set."""

    curve: ThresholdCurve
    oracle: RegionCounts
    pixels: int
    kept: bool


def pseudolabel(
    logits: options.OptionalLogits = None,
    labels: options.Labels = Path("labels"),
    out: Out = Path("pseudolabels"),
    task: options.Task = TaskChoice.binary,
    classes: options.Classes = None,
    patch: options.Patch = 64,
    grid: options.Grid = options.GridChoice.paper,
    values: options.Values = "0,255",
    co: options.CreationOptions = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    report: reporting.Report = None,
    page_images: reporting.PageImages = None,
    null: options.Null = False,
    input_kind: options.InputKind = options.InputKindChoice.auto,
    nodata: options.Nodata = None,
    label_nodata: options.LabelNodata = None,
    valid_mask: options.ValidMask = None,
    band: options.Band = None,
    key: options.Key = None,
    max_pixels: options.MaxPixels = None,
    threads: options.Threads = 0,
    dry_run: options.DryRun = False,
    fail_fast: options.FailFast = False,
    settings_file: options.Settings = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Find the best threshold of every patch, and what a set of maps could gain by them.

    In a folder that holds logits/ and labels/, no argument is needed. Writes each map cut at its patches' thresholds,
    and a map of these thresholds; prints the IoU at 0.5, at the best single threshold, and of the pseudo-labels (the
    oracle). The distance between the last two is the headroom for a refiner.
    """
    from prn_cli import rasters
    from prn_cli.files.manifest import Manifest, check_outputs
    from prn_cli.files.temporaries import remove_stale
    from prn_cli.thresholding.pseudolabels import Headroom

    options.check_classes(task, classes=classes, band=band)
    if report is not None and task is TaskChoice.multiclass:
        raise UsageError(
            "--report with --task multiclass", hint="report on one class at a time: --bidx, and labels of it"
        )
    if report is None and page_images is not None:
        raise UsageError("--images are for the report, and there is none", hint="add --report FILE")
    written = options.mask_values(values)
    creation = options.creation_options(co)
    inputs = rasters.find_inputs(list(logits or ["logits"]), stdin=sys.stdin, null=null)
    pairs = rasters.pair_by_stem(inputs, labels)
    console.note_files(pairs.unmatched_inputs, f"maps have no label in {labels} and are left out")
    console.note_files(pairs.unmatched_partners, f"files in {labels} have no map")
    paths = [path for path, _ in pairs.matched]
    masks = rasters.find_valid_masks(paths, valid_mask)
    names: list[str] = []
    if task is TaskChoice.multiclass:
        names = rasters.class_names(rasters.count_classes_of_maps(paths, key=key), classes, None)
    items = [
        _Item(path, {"logits": path, "label": label} | masks.role(path), _outputs(path, out / name), number, name)
        for number, name in (enumerate(names) if names else [(None, "")])
        for path, label in pairs.matched
    ]
    if any((out / name / _LABELS).resolve() == labels.resolve() for name in names or [""]):
        raise UsageError(
            f"would get the pseudo-labels among the labels of {labels}", hint="choose another -o", path=out
        )
    check_outputs((item.inputs.values(), item.outputs.values()) for item in items)
    for path in items[0].outputs.values():
        # Unknown creation options show before the work, and not in every file.
        dtype = "uint8" if path.parent.name == _LABELS else "float32"
        rasters.create_raster(path, height=1, width=1, dtype=dtype, creation_options=creation)
    outputs = [output for item in items for output in item.outputs.values()]
    manifest = Manifest(out, outputs)
    if not overwrite:
        manifest.refuse_strangers(outputs)
    page = None
    if report is not None:
        files = [path for item in items for path in (*item.inputs.values(), *item.outputs.values())]
        page = reporting.HeadroomReport(report, paths, files, images=page_images, patch=patch, grid=grid.value)
    kind = options.kind_of(input_kind.value, paths, nodata=nodata, key=key)
    run = _Run(
        task,
        patch,
        grid.value,
        kind,
        nodata,
        label_nodata,
        masks,
        band,
        key,
        names,
        written,
        creation,
        settings={
            **({} if task is TaskChoice.binary else {"task": task.value}),
            "patch": patch,
            "grid": grid.value,
            "values": values,
            "input_kind": kind,
            "nodata": options.as_json(nodata),
            "label_nodata": options.as_json(label_nodata),
            "bidx": band,
            "key": key,
            "creation_options": creation,
        },
        page=page,
    )
    if dry_run:
        plan = [*plan_items(items, lambda item: _why(item, run, manifest, overwrite=overwrite), verb="search")]
        console.show_plan(plan, summary_of(plan, verb="search"), json=json)
        return
    manifest.start()
    remove_stale(output.parent for output in outputs)
    headrooms = {name: Headroom() for name in names or [""]}
    started = time.perf_counter()
    batch = run_batch(
        items,
        lambda item, _: _work(item, run, manifest, overwrite=overwrite),
        name=lambda item: str(item.path),
        label="Searching thresholds",
        watch=console.Terminal(),
        fail_fast=fail_fast,
        threads=min(options.thread_count(threads), len(items)),
        stop=run.stop,
        on_done=lambda item, result: headrooms[item.name].add(result.curve, result.oracle),
    )
    two_kinds = rasters.two_kinds_of_labels(run.foregrounds)
    if two_kinds is not None:
        batch.fail(str(two_kinds.path), str(two_kinds))
    _summarise(batch, out, time.perf_counter() - started)
    if json:
        console.json_line(_document(headrooms, run, out, batch.failures))
    elif names and batch.results:
        _show_classes(headrooms, run)
    elif batch.results:
        _show(headrooms[""], run)
    if page is not None:
        from prn_cli.report import Searched

        source = " ".join(map(without_secrets, logits or ["logits"]))
        page.finish(Searched(source, str(labels), patch, grid.value), batch.failures)
    console.end(batch.verdict)


def _outputs(path: Path, out: Path) -> dict[str, Path]:
    """The files that are written for one map, by role."""
    suffix = path.suffix.lower()
    tiff = suffix in _TIFF
    return {
        _LABELS: out / _LABELS / (path.stem + (suffix if tiff else ".png")),
        _THRESHOLDS: out / _THRESHOLDS / (path.stem + (suffix if tiff else ".npy")),
    }


def _settings(item: _Item, run: _Run) -> Mapping[str, Any]:
    return run.settings if item.number is None else {**run.settings, "class": item.number}


def _why(item: _Item, run: _Run, manifest: Manifest, *, overwrite: bool) -> str:
    """Why `_work` would write the outputs of a map; empty if it would keep them."""
    run.valid_masks.of(item.path)
    job = manifest.job(inputs=item.inputs, settings=_settings(item, run), outputs=item.outputs)
    return reason(manifest, job, overwrite=overwrite)


def _work(item: _Item, run: _Run, manifest: Manifest, *, overwrite: bool) -> _Result:
    """Search one map. Its outputs are kept if they are current; the figures are always counted anew."""
    from prn_cli.files.manifest import check_unchanged
    from prn_cli.rasters import BinaryMap, ClassNumbers, open_class_numbers, open_grey_label, open_label, open_scores

    started = time.perf_counter()
    valid_mask = run.valid_masks.of(item.path)
    job = manifest.job(inputs=item.inputs, settings=_settings(item, run), outputs=item.outputs)
    kept = finished(manifest, job, overwrite=overwrite) is not None
    label_path = item.inputs["label"]
    label: LabelMap
    if item.number is not None:
        label = open_class_numbers(label_path, nodata=run.label_nodata, one=item.number)
    else:
        open_truth = open_grey_label if run.task is TaskChoice.saliency else open_label
        label = open_truth(label_path, nodata=run.label_nodata)
        if isinstance(label, BinaryMap):
            run.foregrounds[label_path] = label.foreground
    with (
        label,
        open_scores(
            item.path,
            kind=run.kind,
            nodata=run.nodata,
            valid_mask=valid_mask,
            band=run.band if item.number is None else item.number + 1,
            key=run.key,
        ) as scores,
    ):
        if isinstance(label, ClassNumbers):
            label.check_below(len(run.classes))
            if scores.raster.bands != len(run.classes):
                raise InputError(f"{scores.raster.bands} classes, expected {len(run.classes)}", path=item.path)
        if (label.height, label.width) != (scores.height, scores.width):
            raise InputError(
                f"label of {label.height}×{label.width} pixels, expected {scores.height}×{scores.width} as in "
                f"{item.path}",
                hint="make the two the same size",
                path=item.inputs["label"],
            )
        result = _search(item, run, scores, label, None if kept else lambda: manifest.begin(job))
        if run.page is not None:
            run.page.look(scores, label, run.stop)
    if kept:
        check_unchanged(job.stamps)
    else:
        figures = asdict(result.oracle)
        manifest.record(job, seconds=time.perf_counter() - started, figures=figures)
    return result


def _search(
    item: _Item, run: _Run, scores: ScoreMap, label: LabelMap, on_written: Callable[[], None] | None
) -> _Result:
    """Search, write and count one map, some rows of patches at a time.

    `on_written` is called just before the outputs take their names; without it, none are written.
    """
    import numpy as np

    from prn_cli.maps.tiles import Window
    from prn_cli.metrics.regions import RegionCounts
    from prn_cli.rasters import create_raster, mask_nodata
    from prn_cli.thresholding.pseudolabels import count_curve, empty_curve, make_pseudolabels

    height, width, patch = scores.height, scores.width, run.patch
    written = np.full(256, mask_nodata(run.values), np.uint8)
    written[:2] = run.values
    curve, oracle = empty_curve(), RegionCounts()
    with ExitStack() as stack:
        writers = {}
        if on_written is not None:
            writers[_LABELS] = stack.enter_context(
                create_raster(
                    item.outputs[_LABELS],
                    height=height,
                    width=width,
                    dtype=np.uint8,
                    like=scores.raster,
                    nodata=mask_nodata(run.values),
                    creation_options=run.options,
                )
            )
            writers[_THRESHOLDS] = stack.enter_context(
                create_raster(
                    item.outputs[_THRESHOLDS],
                    height=-(-height // patch),
                    width=-(-width // patch),
                    dtype=np.float32,
                    like=scores.raster,
                    downscale=patch,
                    nodata=np.nan,
                    creation_options=run.options,
                )
            )
        rows = max(_BAND_PIXELS // (width * patch), 1) * patch
        for y in range(0, height, rows):
            if run.stop.is_set():
                raise CancelledError
            window = Window(y, 0, min(rows, height - y), width)
            probabilities, truth = scores.probabilities(window), label.read(window)
            found = make_pseudolabels(probabilities, truth, patch=patch, grid=run.grid)
            curve += count_curve(probabilities, truth)
            oracle += found.counts
            if writers:
                writers[_LABELS].write(written[found.mask])
                writers[_THRESHOLDS].write(found.thresholds)
        scores.check_valid()
        if not oracle.pixels:
            raise InputError("no pixel is valid in both the map and its label", path=item.path)
        if on_written is not None:
            on_written()
    return _Result(curve, oracle, height * width, on_written is None)


def _summarise(batch: Batch[_Item, _Result], out: Path, seconds: float) -> None:
    """One line on stderr: how many, where, how fast."""
    if not batch.results:
        return
    kept = sum(result.kept for _, result in batch.results)
    pixels = sum(result.pixels for _, result in batch.results)
    done = f"{len(batch.results) - kept} written" + (f", {kept} kept" if kept else "")
    console.note(f"{done} → {out}; {pixels / 1e6 / seconds:.3g} Mpx/s")


def _document(
    headrooms: Mapping[str, Headroom], run: _Run, out: Path, failures: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """The JSON document; figures are null without images; of several classes, they stand under `classes` by name."""

    def plain(cut: Cut) -> dict[str, Any]:
        record = {"pooled": round(cut.pooled, 6), "mean": round(cut.mean, 6)}
        return record if cut.threshold is None else {"threshold": cut.threshold} | record

    def figures(headroom: Headroom) -> dict[str, Any]:
        any_images = headroom.images > 0
        gain = _gain(headroom) if any_images else None
        return {
            "images": headroom.images,
            "pixels": headroom.pixels,
            "at_half": plain(headroom.at(0.5)) if any_images else None,
            "best_single": plain(headroom.best_single()) if any_images else None,
            "oracle": plain(headroom.oracle()) if any_images else None,
            "headroom": None if gain is None else {"pooled": round(gain[0], 6), "mean": round(gain[1], 6)},
        }

    found = {name: figures(headroom) for name, headroom in headrooms.items()}
    return {
        **({"classes": found} if run.classes else found[""]),
        "patch": run.patch,
        "grid": run.grid,
        "input_kind": run.kind,
        "out": str(out),
        "failures": [{"file": name, "error": cause} for name, cause in failures],
    }


def _gain(headroom: Headroom) -> tuple[float, float]:
    """Pooled and mean IoU of the oracle above the best single threshold."""
    single, oracle = headroom.best_single(), headroom.oracle()
    return oracle.pooled - single.pooled, oracle.mean - single.mean


def _show(headroom: Headroom, run: _Run) -> None:
    """Print the table for people."""
    from rich import box
    from rich.table import Table

    images = f"{headroom.images} image{'s' if headroom.images > 1 else ''}, {headroom.pixels / 1e6:.4g} Mpx counted"
    console.tell(f"{images}; patches of {run.patch} px, {run.grid} grid", style="bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("IoU", no_wrap=True)
    for title in ("Threshold", "Pooled", "Mean per image"):
        table.add_column(title, justify="right")
    for name, cut in (
        ("Base model", headroom.at(0.5)),
        ("Best single threshold", headroom.best_single()),
        ("Oracle: best of every patch", headroom.oracle()),
    ):
        threshold = "by patch" if cut.threshold is None else f"{cut.threshold:g}"
        table.add_row(name, threshold, f"{cut.pooled:.4f}", f"{cut.mean:.4f}")
    table.add_section()
    pooled, mean = _gain(headroom)
    table.add_row("[bold]Headroom[/bold] over the best single", "", f"{pooled:+.4f}", f"{mean:+.4f}")
    console.show(table)


def _show_classes(headrooms: Mapping[str, Headroom], run: _Run) -> None:
    """Print the table of every class against the rest, pooled over the images."""
    from rich import box
    from rich.table import Table

    found = {name: headroom for name, headroom in headrooms.items() if headroom.images}
    images = max(headroom.images for headroom in found.values())
    console.tell(f"{images} image{'s' if images > 1 else ''}; patches of {run.patch} px, {run.grid} grid", style="bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("Pooled IoU against the rest", no_wrap=True)
    for title in ("At 0.5", "Best single", "at", "Oracle", "Headroom"):
        table.add_column(title, justify="right")

    def add_row(name: str, values: Sequence[float], threshold: str) -> None:
        half, single, oracle, gain = values
        table.add_row(name, f"{half:.4f}", f"{single:.4f}", threshold, f"{oracle:.4f}", f"{gain:+.4f}")

    rows = []
    for name, headroom in found.items():
        cuts = headroom.at(0.5), headroom.best_single(), headroom.oracle()
        rows.append((*(cut.pooled for cut in cuts), cuts[2].pooled - cuts[1].pooled))
        add_row(name, rows[-1], f"{cuts[1].threshold:g}")
    table.add_section()
    add_row("[bold]Mean[/bold]", [sum(column) / len(rows) for column in zip(*rows, strict=True)], "")
    console.show(table)
