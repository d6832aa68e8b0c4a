"""The work of `refine`: all maps, by threads or on a cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from prn_cli.errors import PrnError
from prn_cli.execution.cores import keep_freed_memory
from prn_cli.execution.executor import Executor
from prn_cli.execution.threads import Batch, Progress, Threads
from prn_cli.execution.watch import Watch
from prn_cli.files.temporaries import check_place
from prn_cli.maps.drift import FAR
from prn_cli.workflows.account import Account, warn_of_absent
from prn_cli.workflows.items import PART, Item
from prn_cli.workflows.refine import RefinedMap, RefineOptions, RefineResult
from prn_cli.workflows.refine_map import refine_item, steps_of
from prn_cli.workflows.refine_plan import Plan, prepare
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
            on_done=lambda _, found: watch.record(found.record()),
        )


def _executor(options: RefineOptions, watch: Watch, stop: threading.Event) -> AbstractContextManager[Executor]:
    cores = options.thread_count()
    if options.dask is None:
        return nullcontext(Threads(cores))
    from prn_cli.execution.cluster import Cluster

    return Cluster(options.dask, split=options.dask_split * 1e6, cores=cores, stop=stop, watch=watch)


def _refine_item(item: Item, progress: Progress, *, plan: Plan, executor: Executor) -> RefinedMap:
    """Refine one map, unless its outputs are current."""
    started = time.perf_counter()
    job, manifest = plan.work.job(item), plan.work.manifest
    entry = plan.work.finished(job)
    if entry is not None:
        return RefinedMap(item.path, item.rasters, "kept", entry["figures"])
    figures = refine_item(item, plan.run_of(item), executor, partial(manifest.begin, job), progress).as_dict()
    seconds = time.perf_counter() - started
    manifest.record(job, seconds=seconds, figures=figures)
    return RefinedMap(item.path, item.rasters, "refined", figures, seconds)


def _summary(maps: Sequence[RefinedMap], out: Path, seconds: float) -> str:
    """How many maps, how fast, and how much changed, in one line; empty if none is done."""
    if not maps:
        return ""
    parts = [done_line([found.status for found in maps], "refined", out)]
    refined = [found.figures for found in maps if found.status == "refined"]
    pixels = sum(figures["height"] * figures["width"] for figures in refined)
    if pixels:
        valid, changed = (sum(figures[name] for figures in refined) for name in ("valid", "changed"))
        parts.append(f"{changed / max(valid, 1):.2%} of the pixels changed")
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
    watch.warning(
        f"{zeros / pixels:.1%} of the pixels of {len(padded)} of {len(maps)} maps are exactly 0 over whole areas, such "
        f"as in {padded[0].input.name}: they stay background; if nothing was scored there, say --nodata 0"
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
