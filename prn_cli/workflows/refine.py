"""Logit maps to better masks: many files, by one refiner or several in a row."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prn_cli.errors import PrnError, UsageError
from prn_cli.execution.watch import SILENT, Watch
from prn_cli.options import Option
from prn_cli.workflows.options import (
    Device,
    DryRun,
    Logits,
    MapOptions,
    MaskOptions,
    Overwrite,
    RunOptions,
    TaskOptions,
)

if TYPE_CHECKING:
    from prn_cli.execution.executor import Executor
    from prn_cli.execution.threads import Batch, Progress
    from prn_cli.workflows.items import Item, Planned
    from prn_cli.workflows.refine_plan import Plan


def _shipped_names(incomplete: str) -> list[str]:
    from prn_cli.methods.weights import shipped

    return [weights.name for weights in shipped() if weights.name.startswith(incomplete)]


_read = partial(Option, panel="Input")
_written = partial(Option, panel="Output", output=True)
_objects = partial(Option, panel="Objects")
_method = partial(Option, panel="Method")
_by_weights = partial(_method, default="as the weights say")
_parts = partial(Option, panel="Run")
_cluster = partial(Option, panel="Cluster")


@dataclass(frozen=True, kw_only=True)
class RefineOptions(MapOptions, TaskOptions, MaskOptions, RunOptions):
    """Options of `refine`."""

    logits: Logits = field(kw_only=False)
    images: Annotated[
        Path | None, _read("Folder of the images that the maps were made from, paired by stem.", metavar="DIR")
    ] = None
    out: Annotated[
        Path,
        _written(
            "Folder of the masks, named by the inputs' stems; or a file, for a single input.",
            flags=("--out", "-o"),
            metavar="MASKS",
        ),
    ]
    probabilities: Annotated[
        Path | None, _written("Write the refined probabilities too, as float32.", metavar="DIR")
    ] = None
    bias: Annotated[Path | None, _written("Write what was added to the logits too, as float32.", metavar="DIR")] = None
    format: Annotated[
        Literal["auto", "tif", "png", "npy", "cog"],
        Option(
            "Format of the masks; auto: TIFF for TIFF and with --like, PNG for others; cog: cloud-optimised GeoTIFF.",
            panel="Output",
        ),
    ] = "auto"
    like: Annotated[
        Path | None,
        Option(
            "GeoTIFF of the same size that gives the georeference, or a folder of them, paired by stem.",
            metavar="FILE|DIR",
            panel="Output",
        ),
    ] = None
    palette_file: Annotated[
        Path | None,
        Option(
            "Colours of the classes: a PNG or TIFF with a palette, or a text file of NUMBER RED GREEN BLUE NAME.",
            flags=("--palette",),
            metavar="FILE",
            panel="Output",
        ),
    ] = None
    overwrite: Overwrite = False
    min_area: Annotated[
        float, _objects("Drop objects below this area: m² on georeferenced maps, pixels on others.", least=0)
    ] = 0
    fill_holes: Annotated[float, _objects("Fill holes below this area, in the same unit.", least=0)] = 0
    polygons: Annotated[
        Path | None,
        _objects("Write the masks of all maps as polygons too: .gpkg, .geojson or .fgb.", metavar="FILE", output=True),
    ] = None
    weights: Annotated[
        tuple[Path, ...],
        _method(
            "Shipped weights by name (see 'prn weights list'), an .onnx file, or a folder of 'prn train'. Several are "
            "applied one after the other.",
            flags=("--weights", "-w"),
            metavar="NAME|PATH",
            complete=_shipped_names,
        ),
    ] = (Path("fast"),)
    strength: Annotated[
        tuple[float, ...] | None,
        _by_weights(
            "Of the correction: 0 leaves the base model's masks, 1 applies all of it. One for all, or one each.",
            least=0,
            most=1,
        ),
    ] = None
    threshold: Annotated[
        float | Literal["auto"] | None,
        _method(
            "Refined probability above which a pixel is foreground; auto: where the expected score of the set is "
            "greatest, found without labels.",
            flags=("--threshold", "-t"),
            metavar="auto|0..1",
            least=0,
            most=1,
            default="what the weights have learned from labels, else auto",
        ),
    ] = None
    score: Annotated[
        Literal["iou", "dice"], _method("The score that an automatic threshold is chosen for.", flags=("--for",))
    ] = "iou"
    per_image: Annotated[bool, _method("Choose an automatic threshold for each map, not for the set.")] = False
    tile: Annotated[int | None, _by_weights("Side of the windows that larger maps are cut into, px.", least=1)] = None
    tta: Annotated[bool, _method("Average over the eight flips and quarter turns: eight times slower.")] = False
    device: Device = "auto"
    num_parts: Annotated[
        int | None, _parts("Split the inputs into this many parts, and work on one: for job arrays.", least=1)
    ] = None
    part_id: Annotated[int | None, _parts("The part to work on, counted from 0.", least=0)] = None
    dry_run: DryRun = False
    dask: Annotated[
        str | None,
        _cluster(
            "Refine on a Dask cluster: local, a worker a core; local:N, N workers; or a scheduler's tcp://host:8786.",
            metavar="local|local:N|ADDRESS",
        ),
    ] = None
    dask_split: Annotated[
        float, _cluster("Maps of more megapixels are refined in sections, on many workers.", metavar="MPX", least=0)
    ] = 100

    def fixed_threshold(self) -> float | None:
        """The threshold that was given; None if it is to be chosen.

        Raises:
            UsageError: one was given, with `per_image`.
        """
        if self.threshold is None or self.threshold == "auto":
            return None
        if self.per_image:
            raise UsageError(f"--per-image with --threshold {self.threshold:g}", hint="leave one of them out")
        return self.threshold


@dataclass(frozen=True, slots=True)
class RefinedMap:
    """What became of a map.

    Attributes:
        input: the map.
        outputs: the files written, by role: `mask`, `probabilities`, `bias`.
        status: `refined`, or `kept` if that was done before.
        figures: counts of pixels, as in the manifest.
        seconds: that it took.
    """

    input: Path
    outputs: Mapping[str, Path]
    status: Literal["refined", "kept"]
    figures: Mapping[str, Any]
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """For JSON."""
        outputs = {role: str(path) for role, path in self.outputs.items()}
        head = {"input": str(self.input), "status": self.status, **outputs}
        return {**head, **self.figures, "seconds": round(self.seconds, 4)}


@dataclass(frozen=True, slots=True)
class RefineResult:
    """What became of a run.

    Attributes:
        maps: those that were refined or kept, in the order of the inputs.
        failures: name and cause of what failed.
        summary: how many maps, how fast, how much changed, in a line.
        verdict: how many failed, in a line; empty if none did.
        plan: with `dry_run`, what would be done, map by map.
    """

    maps: Sequence[RefinedMap] = ()
    failures: Sequence[tuple[str, str]] = ()
    summary: str = ""
    verdict: str = ""
    plan: Sequence[Planned] = ()


def refine(options: RefineOptions, watch: Watch = SILENT) -> RefineResult:
    """Refine logit maps into masks.

    A map whose outputs are there already is kept if they were made from the same inputs with the same settings. A map
    that fails does not stop the others; the result names it.

    Args:
        options: as on the command line.
        watch: is told what happens.

    Raises:
        PrnError: nothing could be begun.
    """
    from prn_cli.files.temporaries import check_place
    from prn_cli.workflows.refine_plan import prepare

    plan = prepare(options, watch)
    if options.dry_run:
        return _planned(plan)
    if options.polygons is not None and options.num_parts is None:
        check_place(options.polygons)
    started = time.perf_counter()
    batch = _refine_all(plan, watch)
    maps = [found for _, found in batch.results]
    summary = _summary(maps, options.out, time.perf_counter() - started)
    if summary:
        watch.note(summary)
    if any(link.applied > 0 for link in plan.run.links):
        _warn_of_drift(maps, watch)
    _write_layer(batch, plan, watch)
    return RefineResult(maps, batch.failures, summary, batch.verdict)


def _planned(plan: Plan) -> RefineResult:
    """What a run would do."""
    from prn_cli.workflows.items import plan_items, reason, summary_of

    overwrite = plan.options.overwrite
    planned = [
        *plan_items(plan.items, lambda item: reason(plan.manifest, plan.job(item), overwrite=overwrite), verb="refine")
    ]
    return RefineResult(summary=summary_of(planned, verb="refine"), plan=planned)


def _refine_all(plan: Plan, watch: Watch) -> Batch[Item, RefinedMap]:
    """Refine all maps, by threads or on a cluster."""
    from prn_cli.execution.cores import keep_freed_memory
    from prn_cli.execution.threads import run_batch
    from prn_cli.files.temporaries import remove_stale
    from prn_cli.workflows.refine_map import steps_of

    stop = threading.Event()
    with _executor(plan.options, watch, stop) as executor:
        plan.manifest.start()
        remove_stale(output.parent for item in plan.items for output in item.outputs.values())
        keep_freed_memory()
        return run_batch(
            plan.items,
            partial(_refine_item, plan=plan, executor=executor),
            name=lambda item: str(item.path),
            label="Refining",
            watch=watch,
            steps=partial(steps_of, run=plan.run),
            fail_fast=plan.options.fail_fast,
            threads=executor.at_once,  # more than one, so that an interrupt is seen at once even in a single large map
            stop=stop,
            on_done=lambda _, found: watch.record(found.record()),
        )


def _executor(options: RefineOptions, watch: Watch, stop: threading.Event) -> AbstractContextManager[Executor]:
    cores = options.thread_count()
    if options.dask is None:
        from prn_cli.execution.threads import Threads

        return nullcontext(Threads(cores))
    from prn_cli.execution.cluster import Cluster

    return Cluster(options.dask, split=options.dask_split * 1e6, cores=cores, stop=stop, watch=watch)


def _refine_item(item: Item, progress: Progress, *, plan: Plan, executor: Executor) -> RefinedMap:
    """Refine one map, unless that was done before."""
    from prn_cli.workflows.items import finished
    from prn_cli.workflows.refine_map import refine_item

    started = time.perf_counter()
    job = plan.job(item)
    entry = finished(plan.manifest, job, overwrite=plan.options.overwrite)
    if entry is not None:
        return RefinedMap(item.path, item.rasters, "kept", entry["figures"])
    figures = refine_item(item, plan.run_of(item), executor, partial(plan.manifest.begin, job), progress).as_dict()
    seconds = time.perf_counter() - started
    plan.manifest.record(job, seconds=seconds, figures=figures)
    return RefinedMap(item.path, item.rasters, "refined", figures, seconds)


def _summary(maps: Sequence[RefinedMap], out: Path, seconds: float) -> str:
    """How many maps, how fast, how much changed, in a line; empty if none is done."""
    if not maps:
        return ""
    refined = [found.figures for found in maps if found.status == "refined"]
    kept = len(maps) - len(refined)
    parts = [f"{len(refined)} refined" + (f", {kept} kept" if kept else "") + f" → {out}"]
    pixels = sum(figures["height"] * figures["width"] for figures in refined)
    if pixels:
        valid, changed = (sum(figures[name] for figures in refined) for name in ("valid", "changed"))
        parts.append(f"{changed / max(valid, 1):.2%} of the pixels changed")
        parts.append(f"{pixels / 1e6 / seconds:.3g} Mpx/s")
    return "; ".join(parts)


def _warn_of_drift(maps: Sequence[RefinedMap], watch: Watch) -> None:
    """Name maps unlike those that the weights were trained on: there, nothing is known of the correction."""
    from prn_cli.maps.drift import FAR

    drifts = [(found.figures.get("drift"), found.input.name) for found in maps]
    far = [(drift, name) for drift, name in drifts if isinstance(drift, float) and drift > FAR]
    if far:
        distance, name = max(far)
        watch.warning(
            f"{len(far)} of {len(maps)} maps have logits unlike those that the weights were trained on "
            f"(furthest: {name}, {distance:.1f} standard deviations outside): check a few by 'prn score', train on "
            "such maps, or weaken the correction by --strength"
        )


def _write_layer(batch: Batch[Item, RefinedMap], plan: Plan, watch: Watch) -> None:
    """Write the layer of polygons from what the maps that are done have left for it."""
    from prn_cli.workflows.items import PART

    layer = plan.run.objects.layer
    if layer is None:
        return
    if plan.options.num_parts is not None:
        watch.note(f"run once without --num-parts to write {layer}")
        return
    files = {str(item.path): item.outputs[PART] for item, _ in batch.results}
    try:
        if files:
            watch.note(f"{plan.run.objects.write_layer(files, plan.manifest)} polygons → {layer}")
    except PrnError as error:
        batch.fail(str(layer), str(error))
