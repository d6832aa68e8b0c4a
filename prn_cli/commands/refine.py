"""`prn refine`: logit maps to better masks, by the folder."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prn_cli.commands import console, options
from prn_cli.commands.batch import Batch, Item, run_batch
from prn_cli.commands.done_before import finished, why
from prn_cli.commands.objects import PART, FillHoles, MinArea, Objects, Polygons
from prn_cli.commands.options import TaskChoice
from prn_cli.commands.parts import check_part, select_part
from prn_cli.commands.plan import show_plan
from prn_cli.commands.refine_file import Figures, Run, content_of, open_map, rasters_of, refine_file
from prn_cli.errors import PrnError, UsageError

if TYPE_CHECKING:
    from prn_cli.files.manifest import Manifest
    from prn_cli.rasters import Partners

_OUTPUT = "Output"
_METHOD = "Method"
_CLUSTER = "Cluster"

_TIFF_SUFFIXES = (".tif", ".tiff")
_FLOAT_SUFFIXES = (".npy", *_TIFF_SUFFIXES)
_NOT_WRITTEN = (".npz", ".jpg", ".jpeg", ".jp2", ".bmp", ".gif", ".webp")
_LARGE_FILE = 1 << 22  # bytes
# On a cluster, so that workers that come later find work.
_LEAST_CALLS = 32
# Where processes pay: they gain what threads lose to one another's interpreter, some 2 ms of each map on one core.
_WORTH_PROCESSES = 64  # maps
_SMALL_FILE = 1 << 19  # bytes, for each core


class FormatChoice(StrEnum):
    """Format of the masks."""

    auto = "auto"
    tif = "tif"
    png = "png"
    npy = "npy"
    cog = "cog"


def _shipped_names(incomplete: str) -> list[str]:
    from prn_cli.methods.weights import shipped

    return [weights.name for weights in shipped() if weights.name.startswith(incomplete)]


Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        callback=options.local,
        metavar="MASKS",
        help="Folder of the masks, named by the inputs' stems; or a file, for a single input.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]
ProbabilitiesOut = Annotated[
    Path | None,
    typer.Option(
        "--probabilities",
        callback=options.local,
        metavar="DIR",
        help="Write the refined probabilities too, as float32.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]
BiasOut = Annotated[
    Path | None,
    typer.Option(
        "--bias",
        callback=options.local,
        metavar="DIR",
        help="Write what was added to the logits too, as float32.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]
Format = Annotated[
    FormatChoice,
    typer.Option(
        "--format",
        help="Format of the masks; auto: TIFF for TIFF and with --like, PNG for others; cog: cloud-optimised GeoTIFF.",
        rich_help_panel=_OUTPUT,
    ),
]
Like = Annotated[
    Path | None,
    typer.Option(
        "--like",
        metavar="FILE|DIR",
        help="GeoTIFF of the same size that gives the georeference, or a folder of them, paired by stem.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]
WeightsName = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        metavar="NAME|PATH",
        help="Shipped weights by name (see 'prn weights list'), an .onnx file, or a folder of 'prn train'.",
        autocompletion=_shipped_names,
        rich_help_panel=_METHOD,
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        "-t",
        min=0,
        max=1,
        help="Refined probability above which a pixel is foreground.",
        rich_help_panel=_METHOD,
        show_default="as the weights say",
    ),
]
Strength = Annotated[
    float | None,
    typer.Option(
        "--strength",
        min=0,
        max=1,
        help="Share of the correction that is applied: 0 leaves the base model's masks, 1 applies all of it.",
        rich_help_panel=_METHOD,
        show_default="as the weights say",
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(
        "--tile",
        min=1,
        help="Side of the windows that larger maps are cut into, px.",
        rich_help_panel=_METHOD,
        show_default="as the weights say",
    ),
]
Tta = Annotated[
    bool,
    typer.Option(
        "--tta", help="Average over the eight flips and quarter turns: eight times slower.", rich_help_panel=_METHOD
    ),
]

Dask = Annotated[
    str | None,
    typer.Option(
        "--dask",
        metavar="local|local:N|ADDRESS",
        help="Refine on a Dask cluster: local, a worker a core; local:N, N workers; or a scheduler's tcp://host:8786.",
        rich_help_panel=_CLUSTER,
        show_default=False,
    ),
]
DaskSplit = Annotated[
    float,
    typer.Option(
        "--dask-split",
        min=0,
        metavar="MPX",
        help="Maps of more megapixels are refined in sections, on many workers.",
        rich_help_panel=_CLUSTER,
    ),
]


@dataclass(frozen=True, slots=True)
class _Result:
    status: str
    seconds: float
    figures: Mapping[str, Any] = field(default_factory=dict)


def refine(
    logits: options.Logits,
    out: Out,
    probabilities: ProbabilitiesOut = None,
    bias: BiasOut = None,
    format: Format = FormatChoice.auto,
    like: Like = None,
    values: options.Values = "0,255",
    min_area: MinArea = 0,
    fill_holes: FillHoles = 0,
    polygons: Polygons = None,
    palette_file: options.PaletteFile = None,
    co: options.CreationOptions = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    task: options.Task = TaskChoice.binary,
    classes: options.Classes = None,
    weights: WeightsName = "fast",
    strength: Strength = None,
    threshold: Threshold = None,
    tile: Tile = None,
    tta: Tta = False,
    null: options.Null = False,
    input_kind: options.InputKind = options.InputKindChoice.auto,
    nodata: options.Nodata = None,
    valid_mask: options.ValidMask = None,
    images: options.Images = None,
    band: options.Band = None,
    key: options.Key = None,
    max_pixels: options.MaxPixels = None,
    device: options.Device = options.DeviceChoice.auto,
    threads: options.Threads = 0,
    num_parts: options.NumParts = None,
    part_id: options.PartId = None,
    dry_run: options.DryRun = False,
    dask: Dask = None,
    dask_split: DaskSplit = 100,
    fail_fast: options.FailFast = False,
    settings_file: options.Settings = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Refine logit maps into better masks.

    Maps may have any size. A mask that is there already is kept if it was made from the same input with the same
    settings, so a run that was stopped goes on where it stopped. Files that prn did not write are not written over.
    """
    from prn_cli import rasters
    from prn_cli.execution.cores import keep_freed_memory
    from prn_cli.files.manifest import Manifest, check_outputs, manifest_beside
    from prn_cli.files.temporaries import remove_stale
    from prn_cli.methods import load_refiner
    from prn_cli.methods.weights import find_weights
    from prn_cli.refinement.rows import Link, check_image, check_tile

    check_part(num_parts, part_id)
    options.check_classes(task, classes=classes, band=band, palette=palette_file)
    options.refuse_with_task(
        task,
        {"--threshold": threshold is not None},
        {TaskChoice.saliency: "soft maps are not cut", TaskChoice.multiclass: "the greatest score counts"},
    )
    objects = Objects(polygons, min_area, fill_holes)
    objects.check_task(task)
    written = options.mask_values(values)
    options.refuse_with_task(
        task,
        {"--values": written != (0, 255)},
        {TaskChoice.saliency: "masks hold probabilities", TaskChoice.multiclass: "masks hold class numbers"},
    )
    creation = options.creation_options(co)
    if dask is not None:
        from prn_cli.execution.cluster import check_cluster

        check_cluster(dask)
    inputs = rasters.find_inputs(logits, stdin=sys.stdin, null=null)
    found = find_weights(weights)
    cores = options.thread_count(threads)
    load = partial(
        load_refiner,
        found,
        device=device.value,
        threads=cores if dask is None else 0,  # on a cluster, each worker's threads are its own
        side_by_side=len(inputs) > 1 or _is_large(inputs[0]),
    )
    chosen, twins = select_part(inputs.stems(), num_parts, part_id)
    fork = dask is None and gains_by_processes(inputs[0], len(chosen), cores) and _can_fork()
    refiner = load(threads=1) if fork else load()  # whose other threads a fork would lack
    if fork and refiner.device != "cpu":
        fork, refiner = False, load()
    if images is not None and not refiner.needs.bands:
        console.note("the weights take no image: --images is left aside")
        images = None
    check_image([Link(refiner)], given=images is not None)
    # Outputs are named by stems, so only inputs of one stem may share them: all parts compare these, and see the same.
    seen = sorted({*chosen, *twins})
    pictures = rasters.find_images(inputs, images, seen)
    single = _is_single_file(inputs, out, format)
    masks = rasters.find_valid_masks(inputs, valid_mask, seen)
    references = rasters.find_references(inputs, like, seen)
    if like is not None and format is FormatChoice.auto:
        format = FormatChoice.tif
    names: list[str] = []
    palette = None if palette_file is None else rasters.read_palette(palette_file)
    more = {"probabilities": probabilities, "bias": bias}
    if task is TaskChoice.multiclass:
        names = rasters.class_names(rasters.count_classes_of_maps(inputs, key=key), classes, palette)
        more = {f"{role}/{name}": place and place / name for role, place in more.items() for name in names}
    found_items = {
        number: Item(
            path,
            {"logits": path} | masks.role(path) | pictures.role(path) | references.role(path),
            _outputs(path, out, single, format, more, objects),
        )
        for number in seen
        for path in (inputs[number],)
    }
    check_outputs((item.inputs.values(), item.outputs.values()) for item in found_items.values())
    items = [found_items[number] for number in chosen]
    if num_parts is not None:
        console.note(f"part {part_id} of {num_parts}: {len(items)} of {len(inputs)} inputs")
    _check_tiff_options(items, like, co)
    for item in items[:1]:
        _check_creation(item, creation, task, cog=format is FormatChoice.cog)
    layer = [] if polygons is None or num_parts is not None else [polygons]
    outputs = [*(output for item in items for output in item.outputs.values()), *layer]
    manifest = manifest_beside(out, outputs) if single else Manifest(out, outputs)
    if not overwrite:
        manifest.refuse_strangers(outputs)

    side = tile or refiner.needs.tile
    check_tile(side, refiner)
    kind = options.kind_of(input_kind.value, inputs, nodata=nodata, key=key)
    console.detail(f"{found.path} ({refiner.name}) on {refiner.device}, tile {side}, halo {refiner.needs.halo}")

    cut_at = refiner.threshold if threshold is None else threshold
    share = refiner.strength if strength is None else strength
    if share == 0 and strength is None and cut_at == 0.5:
        console.note(
            "these weights leave masks as they are: in training, no correction helped on held-out images (--strength 1 "
            "applies it nevertheless)"
        )
    else:
        said = [f"strength {share:g}, cut at {cut_at:g}"] if (share, cut_at) != (1, 0.5) else []
        if (share, cut_at) == (refiner.strength, refiner.threshold):
            said += _expected(found.card)
        if said:
            console.note("; ".join(said))
    if probabilities is not None and cut_at != 0.5 and task is TaskChoice.binary:
        console.note(f"to score the probabilities as the masks are cut: prn score --threshold {cut_at:g}")
    run = Run(
        refiner,
        share,
        cut_at,
        side,
        tta,
        task,
        names,
        None if palette is None else palette.colours,
        objects,
        format is FormatChoice.cog,
        written,
        partial(
            open_map,
            task=task,
            channels=refiner.needs.bands,
            max_pixels=max_pixels,
            kind=kind,
            nodata=nodata,
            band=band,
            key=key,
        ),
        creation,
        settings={
            **({} if task is TaskChoice.binary else {"task": task.value}),
            **({} if task is not TaskChoice.multiclass else {"classes": names}),
            **({} if palette is None else {"palette": palette.colours.tobytes().hex()}),
            **objects.settings(),
            **({"cog": True} if format is FormatChoice.cog else {}),
            "weights": found.sha256,
            "strength": share,
            "threshold": cut_at,
            "tile": side,
            "tta": tta,
            "values": values,
            "input_kind": kind,
            "nodata": options.as_json(nodata),
            "bidx": band,
            "key": key,
            "creation_options": creation,
        },
    )
    if dry_run:
        show_plan(
            items,
            lambda item: _why(item, run, manifest, (masks, pictures, references), overwrite=overwrite),
            verb="refine",
            json=json,
        )
        return
    if num_parts is None:
        objects.check_place()

    def work(item: Item, run: Run, refine_one: Callable[..., Figures] = refine_file) -> _Result:
        for kind in (masks, pictures, references):
            kind.of(item.path)  # a map without its partner fails, alone
        return _refine_item(item, run, manifest, refine_one, overwrite=overwrite)

    with ExitStack() as stack:
        refine_one, maps_at_once = stack.enter_context(_workers(dask, dask_split, cores=cores, stop=run.stop))
        manifest.start()
        remove_stale(output.parent for item in items for output in item.outputs.values())
        keep_freed_memory()
        started = time.perf_counter()
        processes = None
        if fork and _can_fork():  # reading a first map, to see what its numbers are, may have taken threads
            from prn_cli.commands.processes import Processes

            # While one process waits for the disk, the others keep the cores at work.
            forked = Processes(items, partial(work, run=replace(run, small_only=True)), cores + 1, stop=run.stop)
            processes = stack.enter_context(forked)
            console.detail(f"in {processes.count} processes")
        loading = threading.Lock()
        loaded = cache(lambda: replace(run, refiner=load()))

        def whole() -> Run:
            with loading:  # once, whatever threads ask for it
                return loaded() if fork else run

        batch = run_batch(
            items,
            lambda item: work(item, whole(), refine_one),
            name=lambda item: str(item.path),
            label="Refining",
            fail_fast=fail_fast,
            threads=maps_at_once,  # more than one, so that an interrupt is seen at once even in a single large map
            stop=run.stop,
            on_done=_print_record if json else None,
            processes=processes,
        )
    _summarise(batch, out, time.perf_counter() - started)
    if share > 0:
        _warn_of_drift(batch)
    _write_layer(batch, objects, manifest, parts=num_parts is not None)
    batch.finish()


def _write_layer(batch: Batch[Item, _Result], objects: Objects, manifest: Manifest, *, parts: bool) -> None:
    """Make the layer of polygons of what the maps that are done have left for it."""
    if objects.layer is None:
        return
    if parts:
        console.note(f"run once without --num-parts to write {objects.layer}")
        return
    files = {str(item.path): item.outputs[PART] for item, _ in batch.results}
    try:
        if files:
            objects.write_layer(files, manifest)
    except PrnError as error:
        batch.fail(str(objects.layer), str(error))


def _is_single_file(inputs: Sequence[Path], out: Path, format: FormatChoice) -> bool:
    """Whether `out` names a file and not a folder."""
    from prn_cli.rasters import WRITTEN_SUFFIXES

    if out.is_dir():
        return False
    suffix = out.suffix.lower()
    if suffix in _NOT_WRITTEN:
        raise UsageError(f"cannot write '{suffix}' masks, expected {' '.join(WRITTEN_SUFFIXES)}", path=out)
    if suffix not in WRITTEN_SUFFIXES:
        if out.exists():
            raise UsageError("is a file, expected a folder for the masks", hint="give another --out", path=out)
        return False
    if len(inputs) > 1:
        raise UsageError(f"names one file for the masks of {len(inputs)} inputs", hint="give a folder", path=out)
    if format is not FormatChoice.auto and not suffix.startswith(f".{_suffix(format)}"):
        raise UsageError(f"is not named as --format {format} says", hint="leave --format out", path=out)
    return True


def _suffix(format: FormatChoice) -> str:
    return "tif" if format is FormatChoice.cog else format.value


def _outputs(
    path: Path, out: Path, single: bool, format: FormatChoice, more: Mapping[str, Path | None], objects: Objects
) -> dict[str, Path]:
    """The files that are written for one input, by role."""
    tiff = path.suffix.lower() in _TIFF_SUFFIXES
    if single:
        mask = out
    elif format is FormatChoice.auto:
        mask = out / (path.stem + (path.suffix.lower() if tiff else ".png"))
    else:
        mask = out / f"{path.stem}.{_suffix(format)}"
    outputs = {"mask": mask}
    for role, place in more.items():
        if place is None:
            continue
        names_file = not place.is_dir() and bool(place.suffix)
        if names_file and (not single or place.suffix.lower() not in _FLOAT_SUFFIXES):
            found = f"'{place.suffix}' for float32 maps" if single else "a file, for masks in a folder"
            raise UsageError(f"--{role} names {found}", hint="give a folder, or a .npy or .tif file", path=place)
        suffix = mask.suffix.lower() if mask.suffix.lower() in _TIFF_SUFFIXES else ".npy"
        outputs[role] = place if names_file else place / (path.stem + suffix)
    return outputs | objects.part(mask)


def _check_creation(item: Item, creation: Mapping[str, str], task: TaskChoice, *, cog: bool) -> None:
    """Find unknown creation options before the work, not in every file."""
    from prn_cli.rasters import create_raster

    for role, path in rasters_of(item).items():
        create_raster(
            path, height=1, width=1, **content_of(role, task, nodata=None), cog=cog, creation_options=creation
        )


def _expected(card: Mapping[str, Any]) -> list[str]:
    """What training expects of the correction, if the weights' card says so."""
    choice = card.get("choice")
    gain = choice.get("gain") if isinstance(choice, dict) else None
    return [f"{100 * gain:+.2f} points of IoU on the held-out maps of training"] if isinstance(gain, float) else []


def _check_tiff_options(items: Sequence[Item], like: Path | None, co: Sequence[str] | None) -> None:
    """Check that what is for TIFF alone is given where one is written."""
    option = "--like" if like is not None else "--co" if co else ""
    if not option or not items:
        return
    if not any(path.suffix.lower() in _TIFF_SUFFIXES for item in items for path in rasters_of(item).values()):
        raise UsageError(f"{option} is for TIFF, and none is written", hint=f"add --format tif, or leave {option} out")


def _why(item: Item, run: Run, manifest: Manifest, partners: Sequence[Partners], *, overwrite: bool) -> str:
    """Why `_refine_item` would refine a map; empty if it would keep its outputs."""
    for kind in partners:
        kind.of(item.path)
    job = manifest.job(inputs=item.inputs, settings=run.settings, outputs=item.outputs)
    return why(manifest, job, overwrite=overwrite)


def _refine_item(
    item: Item, run: Run, manifest: Manifest, refine_one: Callable[..., Figures], *, overwrite: bool
) -> _Result:
    """Refine one map, unless that was done before."""
    started = time.perf_counter()
    job = manifest.job(inputs=item.inputs, settings=run.settings, outputs=item.outputs)
    entry = finished(manifest, job, overwrite=overwrite)
    if entry is not None:
        return _Result("kept", 0.0, entry["figures"])
    figures = refine_one(item, run, on_written=lambda: manifest.begin(job)).as_dict()
    seconds = time.perf_counter() - started
    manifest.record(job, seconds=seconds, figures=figures)
    return _Result("refined", seconds, figures)


def _is_large(path: Path) -> bool:
    """Whether a file surely holds work for several runs of the network side by side."""
    return _size(path) > _LARGE_FILE


def gains_by_processes(first: Path, count: int, cores: int) -> bool:
    """Whether so many maps like this one are done sooner by several processes than by the threads of one.

    With more cores, more threads wait for the interpreter, and larger maps gain.
    """
    return cores > 1 and count >= _WORTH_PROCESSES and _size(first) <= _SMALL_FILE * cores


def _can_fork() -> bool:
    from prn_cli.commands.processes import can_fork  # takes a while

    return can_fork()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it fails on its own when its turn comes
        return 0


@contextmanager
def _workers(
    dask: str | None, split: float, *, cores: int, stop: threading.Event
) -> Iterator[tuple[Callable[..., Figures], int]]:
    """Who refines a file, as `refine_file` does, and how many files at once."""
    if dask is None:
        # While some threads wait for the disk, the others keep the cores at work.
        yield refine_file, cores + 2
        return
    from prn_cli.commands.refine_on_cluster import RefineOnCluster
    from prn_cli.execution.cluster import Cluster

    with Cluster(dask, cores=cores, stop=stop, watch=console.Terminal()) as cluster:
        yield RefineOnCluster(cluster, split * 1e6), max(2 * cluster.slots, _LEAST_CALLS)


def _print_record(item: Item, result: _Result) -> None:
    console.json_line(
        {
            "input": str(item.path),
            "status": result.status,
            **{role: str(path) for role, path in rasters_of(item).items()},
            **result.figures,
            "seconds": round(result.seconds, 4),
        }
    )


def _warn_of_drift(batch: Batch[Item, _Result]) -> None:
    """Say which maps are unlike those that the weights were trained on: there, nothing is known of the correction."""
    from prn_cli.maps.drift import FAR

    drifts = [(result.figures.get("drift"), item.path.name) for item, result in batch.results]
    far = [(drift, name) for drift, name in drifts if isinstance(drift, float) and drift > FAR]
    if far:
        distance, name = max(far)
        console.warning(
            f"{len(far)} of {len(batch.results)} maps have logits unlike those that the weights were trained on "
            f"(furthest: {name}, {distance:.1f} standard deviations outside): check a few by 'prn score', train on "
            "such maps, or weaken the correction by --strength"
        )


def _summarise(batch: Batch[Item, _Result], out: Path, seconds: float) -> None:
    """One line on stderr: how many, how fast, how much changed."""
    if not batch.results:
        return
    refined = [result for _, result in batch.results if result.status == "refined"]
    kept = len(batch.results) - len(refined)
    parts = [f"{len(refined)} refined" + (f", {kept} kept" if kept else "") + f" → {out}"]
    pixels = sum(result.figures["height"] * result.figures["width"] for result in refined)
    if pixels:
        valid = sum(result.figures["valid"] for result in refined)
        changed = sum(result.figures["changed"] for result in refined)
        parts.append(f"{changed / max(valid, 1):.2%} of the pixels changed")
        parts.append(f"{pixels / 1e6 / seconds:.3g} Mpx/s")
    console.note("; ".join(parts))
