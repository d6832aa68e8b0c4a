"""The work of `refine`: all maps, by threads or on a cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from prn_cli.errors import PrnError, percent
from prn_cli.execution.cores import keep_freed_memory
from prn_cli.execution.executor import Executor
from prn_cli.execution.threads import Batch, Progress, Threads
from prn_cli.execution.watch import Watch
from prn_cli.files.temporaries import check_place
from prn_cli.maps.drift import FAR
from prn_cli.workflows.account import Account, warn_of_absent
from prn_cli.workflows.figures import counts_of
from prn_cli.workflows.items import DRAFT, PART, Item
from prn_cli.workflows.refine import RefinedMap, RefineOptions, RefineResult
from prn_cli.workflows.refine_map import refine_item, steps_of, tile_of, write_tile
from prn_cli.workflows.refine_plan import Plan, prepare
from prn_cli.workflows.scenes import Scene, load_draft
from prn_cli.workflows.work import done_line


def run(options: RefineOptions, watch: Watch) -> RefineResult:
    """See `prn_cli.workflows.refine.refine`."""
    plan = prepare(options, watch)
    if options.dry_run:
        planned, summary = plan.work.plan()
        return RefineResult(plan=planned, summary=summary)
    if options.polygons is not None and options.num_parts is None:
        check_place(options.polygons)
    started = time.perf_counter()
    batch = _refine_all(plan, watch)
    _finish_scenes(plan, batch, watch)
    maps = [found for _, found in batch.results]
    summary = _summary(maps, options.out, time.perf_counter() - started)
    if summary:
        watch.note(summary)
    _account(maps).tell(watch)
    if maps and plan.run.task.cuts:
        foreground, valid = (sum(found.figures[name] for found in maps) for name in ("foreground", "valid"))
        warn_of_absent({"background": valid - foreground, "foreground": foreground}, watch, noun="mask")
    _warn_of_padding(maps, watch)
    if any(link.applied > 0 for link in plan.run.links):
        _warn_of_drift(maps, watch)
    _write_layer(batch, plan, watch)
    return RefineResult(maps=maps, failures=batch.failures, summary=summary, verdict=batch.verdict)


def _refine_all(plan: Plan, watch: Watch) -> Batch[Item, RefinedMap]:
    stop = threading.Event()
    with _executor(plan.options, watch, stop) as executor:
        keep_freed_memory()
        return plan.work.run(
            partial(_refine_item, plan=plan, executor=executor),
            label="Refining",
            watch=watch,
            steps=partial(steps_of, run=plan.run),
            fail_fast=plan.options.fail_fast,
            threads=executor.at_once,  # more than one, so that an interrupt is seen at once even in a single large map
            stop=stop,
            on_done=lambda item, found: None if item.path in plan.scenes else watch.record(found.record()),
        )


def _executor(options: RefineOptions, watch: Watch, stop: threading.Event) -> AbstractContextManager[Executor]:
    cores = options.thread_count()
    if options.dask is None:
        return nullcontext(Threads(cores))
    from prn_cli.execution.cluster import Cluster

    return Cluster(options.dask, split=options.dask_split * 1e6, cores=cores, stop=stop, watch=watch)


def _refine_item(item: Item, progress: Progress, *, plan: Plan, executor: Executor) -> RefinedMap:
    """Refine one map, unless its outputs are current; of a scene, make a draft."""
    started = time.perf_counter()
    made = plan.work.drafts.get(item.path, item)
    outputs = {**item.rasters, **made.rasters}
    job, manifest = plan.work.job(made), plan.work.manifest
    entry = plan.work.finished(job)
    if entry is not None:
        return RefinedMap(item.path, outputs, "kept", entry["figures"])
    run = plan.run_of(item)
    figures = refine_item(made, run, executor, partial(manifest.begin, job), progress).as_dict()
    figures |= plan.own_threshold(run)
    seconds = time.perf_counter() - started
    manifest.record(job, seconds=seconds, figures=figures)
    return RefinedMap(item.path, outputs, "refined", figures, seconds)


def _finish_scenes(plan: Plan, batch: Batch[Item, RefinedMap], watch: Watch) -> None:
    """Make masks of the drafts, scene by scene, where they are not current."""
    drafted = {item.path: (item, found) for item, found in batch.results if item.path in plan.scenes}
    finished: dict[Path, RefinedMap] = {}
    for scene in dict.fromkeys(plan.scenes.values()):
        members = [drafted[path] for path in scene.places if path in drafted]
        try:
            finished |= _finish_scene(scene, members, plan, batch)
        except (PrnError, OSError) as error:
            for item, _ in members:
                batch.fail(str(item.path), str(error))
    for found in finished.values():
        watch.record(found.record())
    results = ((item, finished.get(item.path, found)) for item, found in batch.results)
    batch.results = [(item, found) for item, found in results if str(item.path) not in batch.failed]


def _finish_scene(
    scene: Scene, members: Sequence[tuple[Item, RefinedMap]], plan: Plan, batch: Batch[Item, RefinedMap]
) -> dict[Path, RefinedMap]:
    work, run, finished = plan.work, plan.run, {}
    jobs = {item.path: work.job(item) for item, _ in members}
    entries = {path: work.finished(job) for path, job in jobs.items()}
    for item, found in members:
        entry = entries[item.path]
        if entry is not None:
            finished[item.path] = replace(found, figures=entry["figures"])
    if len(finished) == len(members):
        return finished
    drafts = ((item, load_draft(scene.drafts[item.path].outputs[DRAFT])) for item, _ in members)
    placed = [tile_of(item, run, runs, scene.places[item.path]) for item, runs in drafts]
    cleaned = run.objects.clean([tile for tile, _ in placed])
    for (item, found), (tile, grid), runs in zip(members, placed, cleaned, strict=True):
        if item.path in finished:
            continue
        started, job = time.perf_counter(), jobs[item.path]
        try:
            write_tile(item, run, replace(tile, runs=runs), grid, on_written=partial(work.manifest.begin, job))
            figures = {**found.figures, **counts_of(runs)}
            seconds = found.seconds + time.perf_counter() - started
            work.manifest.record(job, seconds=seconds, figures=figures)
        except (PrnError, OSError) as error:
            batch.fail(str(item.path), str(error))
        else:
            finished[item.path] = replace(found, status="refined", figures=figures, seconds=seconds)
    return finished


def _summary(maps: Sequence[RefinedMap], out: Path, seconds: float) -> str:
    """How many maps, how fast, and how much changed, in one line; empty if none is done."""
    if not maps:
        return ""
    parts = [done_line([found.status for found in maps], "refined", out)]
    refined = [found.figures for found in maps if found.status == "refined"]
    pixels = sum(figures["height"] * figures["width"] for figures in refined)
    if pixels:
        valid, changed = (sum(figures[name] for figures in refined) for name in ("valid", "changed"))
        parts.append(f"{percent(changed / max(valid, 1))} of the pixels changed")
        parts.append(f"{pixels / 1e6 / seconds:.3g} Mpx/s")
    return "; ".join(parts)


def _account(maps: Sequence[RefinedMap]) -> Account:
    figures = [found.figures for found in maps]
    return Account.of((each["height"] * each["width"], each.get("not_counted", {})) for each in figures)


def _warn_of_padding(maps: Sequence[RefinedMap], watch: Watch) -> None:
    """Name maps with areas of exact zeros, which are rather filled than scored."""
    padded = [found for found in maps if found.figures.get("padding")]
    if not padded:
        return
    zeros, pixels = (sum(found.figures[name] for found in padded) for name in ("padding", "valid"))
    meant = "they stay background; if nothing was scored there, say --nodata 0"
    if not any(found.figures.get("below", True) for found in padded):
        meant = "no logit is below 0, as after a ReLU, which leaves nothing to refine there; save what goes into it"
    watch.warning(
        f"{percent(zeros / pixels)} of the pixels of {len(padded)} of {len(maps)} maps are exactly 0 over whole areas, "
        f"such as in {padded[0].input.name}: {meant}"
    )


def _warn_of_drift(maps: Sequence[RefinedMap], watch: Watch) -> None:
    """Name maps unlike those that the weights were trained on: the correction is untested there."""
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
    """Write the layer of polygons from the parts of the maps that are done."""
    layer = plan.run.objects.layer
    if layer is None:
        return
    if plan.options.num_parts is not None:
        watch.note(f"run once without --num-parts to write {layer}")
        return
    files = {str(item.path): item.outputs[PART] for item, _ in batch.results}
    try:
        if files:
            watch.note(f"{plan.run.objects.write_layer(files, plan.work.manifest)} polygons → {layer}")
    except PrnError as error:
        batch.fail(str(layer), str(error))
