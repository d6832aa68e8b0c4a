"""The work of a run on its maps: what was done before, what would be done, and doing it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from prn_cli.errors import OutputError, PrnError, UsageError
from prn_cli.execution.threads import Batch, Progress, run_batch
from prn_cli.execution.watch import Watch
from prn_cli.files.manifest import MANIFEST_NAME, OTHER_SETTINGS, Job, Manifest
from prn_cli.files.temporaries import remove_stale
from prn_cli.rasters import check_file, is_whole, pair_by_stem, two_kinds_of_labels
from prn_cli.rasters.pairs import Partners, Paths
from prn_cli.rasters.sidecars import find_sidecars
from prn_cli.workflows.items import Item, Planned
from prn_cli.workflows.parts import select_part

R = TypeVar("R")


def pass_over_outputs(inputs: Paths, manifest: Manifest, places: Iterable[Path | None], watch: Watch) -> Paths:
    """The inputs without what prn itself wrote, which a pattern finds when the same command runs again.

    Only those in `places`, files and folders of outputs, are looked up in the manifest. Refuses inputs of which none is
    left.
    """
    real = cache(os.path.realpath)
    known = [(os.path.join(real(place), ""), os.path.abspath(place)) for place in places if place is not None]  # noqa: PTH100, PTH118
    asked: dict[Path, Path] = {}  # by input, the name that the manifest may have for it
    for path in inputs:
        folder, name = os.path.split(path)
        where = os.path.join(real(folder), name, "")  # noqa: PTH118
        for start, place in known:
            if where.startswith(start):
                asked[path] = Path(place, where.removeprefix(start))
    by_manifest = manifest.made(asked.values()) if asked else set()
    made = {path for path, name in asked.items() if name in by_manifest}
    if made and len(made) == len(inputs):
        raise UsageError(f"all inputs were made by prn, says {manifest.path}", hint="name other maps, or another --out")
    made |= _made_of_others(inputs, made)
    if not made:
        return inputs
    watch.note(f"{len(made)} of {len(inputs)} inputs passed over: prn made them, says {MANIFEST_NAME} beside them")
    return Paths([str(path) for path in inputs if path not in made])


def _made_of_others(inputs: Paths, made: Set[Path]) -> set[Path]:
    """Inputs that runs into other folders have written, if another input has the same stem: they were made of it."""
    _, twins = select_part(inputs.stems(), None, None)
    paths = [path for path in map(inputs.__getitem__, twins) if path not in made]
    places = dict.fromkeys(place for path in paths for place in (path.parent, path.parent.parent))
    found = {path for place in places if (place / MANIFEST_NAME).is_file() for path in Manifest(place).made(paths)}
    sources = {path.stem for path in paths if path not in found}
    return {path for path in found if path.stem in sources}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The maps of a run, and what their outputs depend on.

    Attributes:
        items: the maps.
        partners: their partner files; a map that lacks one fails.
        manifest: of the outputs.
        settings: of an item: everything but its files that its outputs depend on, as JSON.
        overwrite: redo outputs that are current.
        verb: what the workflow does to a map, such as `refine`.
        drafts: what is made of some maps first, see `prn_cli.workflows.scenes`.
    """

    items: Sequence[Item]
    partners: Sequence[Partners]
    manifest: Manifest
    settings: Callable[[Item], Mapping[str, Any]]
    overwrite: bool
    verb: str
    drafts: Mapping[Path, Item] = field(default_factory=dict)

    def job(self, item: Item) -> Job:
        """The manifest's job for a map, which is refused if it lacks a partner."""
        for partners in self.partners:
            partners.of(item.path)
        inputs = {
            name: place
            for role, path in item.inputs.items()
            for name, place in ((role, path), *((f"{role}/{p.name}", p) for p in find_sidecars(path).values()))
        }
        return self.manifest.job(inputs=inputs, settings=self.settings(item), outputs=item.outputs)

    def finished(self, job: Job) -> dict[str, Any] | None:
        """The manifest's entry of a job whose outputs are current; None if they must be made.

        An output that was replaced by another whole raster is refused.
        """
        if self.overwrite:
            return None
        entry = self.manifest.finished(job)
        if entry is None:
            self._refuse_edited(job)
        return entry

    def plan(self) -> tuple[list[Planned], str]:
        """What the run would do with each map, and a summary in one line.

        No pixel is read, so a damaged file shows only when the run reaches it.
        """
        plan = []
        for item in self.items:
            steps = [*([self.drafts[item.path]] if item.path in self.drafts else ()), item]
            whole = replace(item, outputs={**item.outputs, **steps[0].outputs})
            try:
                for path in item.inputs.values():
                    check_file(path)
                why = next(filter(None, (self._why(self.job(step)) for step in steps)), "")
            except PrnError as error:
                plan.append(Planned(whole, "fail", error.message))
            else:
                kept = "made from the same inputs with the same settings"
                plan.append(Planned(whole, self.verb if why else "keep", why or kept))
        counts = Counter(each.action for each in plan)
        what = ", ".join(f"{counts[action]} to {action}" for action in (self.verb, "keep", "fail"))
        return plan, f"dry run, nothing written: {what}"

    def _why(self, job: Job) -> str:
        """Why the outputs of a job must be made; empty if they are current."""
        why = self.manifest.why(job)
        if self.overwrite:
            return why or "--overwrite"
        if why:
            self._refuse_edited(job)
        return why

    def _note_replaced(self, watch: Watch) -> None:
        """Say that an earlier run with other settings is replaced, as far as the first map tells."""
        try:
            why = self.manifest.why(self.job(self.items[0])) if self.items else ""
        except PrnError:  # it fails when its turn comes
            return
        if why.startswith(OTHER_SETTINGS) and not self.overwrite:
            watch.note(f"replaces what an earlier run left in {self.manifest.folder}: it had {why}")

    def _refuse_edited(self, job: Job) -> None:
        for path in self.manifest.changed(job):
            if is_whole(path):  # one that is cut off may be written again
                raise OutputError("was changed since prn wrote it", hint="move it away, or --overwrite", path=path)

    def run(
        self, do: Callable[[Item, Progress], R], *, label: str, watch: Watch, threads: int, **options: Any
    ) -> Batch[Item, R]:
        """Do the work on every map; see `prn_cli.execution.threads.run_batch`."""
        everything = (*self.items, *self.drafts.values())
        if any(item.outputs for item in everything):
            self._note_replaced(watch)
            self.manifest.start()
        remove_stale(output.parent for item in everything for output in item.outputs.values())
        return run_batch(self.items, do, name=name_of, label=label, watch=watch, threads=threads, **options)


def name_of(item: Item) -> str:
    """What messages call an item."""
    return str(item.path)


def pair_labels(inputs: Sequence[Path], labels: Path, watch: Watch, *, noun: str) -> Sequence[tuple[Path, Path]]:
    """Maps with their labels, by stem. A note names files without a partner."""
    pairs = pair_by_stem(inputs, labels)
    watch.note_files(pairs.unmatched_inputs, f"{noun}s have no label in {labels} and are left out")
    watch.note_files(pairs.passed_over, f"files in {labels} are passed over by their suffix")
    watch.note_files(pairs.unmatched_partners, f"files in {labels} have no {noun}")
    return pairs.matched


def check_foregrounds(batch: Batch[Any, Any], foregrounds: Mapping[Path, int | None]) -> None:
    """Record a failure if the labels of a set differ in the value of the foreground."""
    two_kinds = two_kinds_of_labels(foregrounds)
    if two_kinds is not None:
        batch.fail(str(two_kinds.path), str(two_kinds))


def done_line(statuses: Sequence[str], done: str, out: Path) -> str:
    """How many maps were done and kept, and where they are."""
    kept = statuses.count("kept")
    return f"{len(statuses) - kept} {done}" + (f", {kept} kept" if kept else "") + f" → {out}"
