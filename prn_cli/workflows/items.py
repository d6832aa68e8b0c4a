"""The maps of a run: what is read and written for each, what was done before, and what a run would do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prn_cli.errors import OutputError, PrnError

if TYPE_CHECKING:
    from prn_cli.files.manifest import Job, Manifest


PART = "polygons"
"""Role of an output that is no raster: the polygons of a map, of which a layer is made."""


@dataclass(frozen=True, slots=True)
class Item:
    """One map: what is read and what is written, by role."""

    path: Path
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]

    @property
    def rasters(self) -> dict[str, Path]:
        """The outputs that are rasters."""
        return {role: path for role, path in self.outputs.items() if role != PART}


ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True, slots=True)
class Planned:
    """What a run would do with a map.

    Attributes:
        item: the map.
        action: what the command does to maps, such as `refine`; or `keep`, or `fail`.
        why: the reason.
    """

    item: Item
    action: str
    why: str

    def record(self) -> dict[str, Any]:
        """For JSON, with the keys of the run's own records."""
        outputs = {role: str(path) for role, path in self.item.rasters.items()}
        return {"input": str(self.item.path), "status": self.action, **outputs, "why": self.why}


def plan_items(items: Sequence[ItemT], why: Callable[[ItemT], str], *, verb: str) -> Iterator[Planned]:
    """What a run would do, map by map. No pixel is read: a damaged file shows only when its turn comes.

    Args:
        items: the maps.
        why: the reason to work on a map, empty if its outputs are current; see `reason`.
        verb: what the command does to maps.
    """
    from prn_cli.rasters import check_file

    for item in items:
        try:
            for path in item.inputs.values():
                check_file(path)
            found = why(item)
        except PrnError as error:
            yield Planned(item, "fail", error.message)
        else:
            yield Planned(item, verb if found else "keep", found or "made from the same inputs with the same settings")


def summary_of(planned: Iterable[Planned], *, verb: str) -> str:
    """How many maps a run would work on, keep, and fail on, in a line."""
    counts = Counter(each.action for each in planned)
    return (
        f"dry run, nothing written: {', '.join(f'{counts[action]} to {action}' for action in (verb, 'keep', 'fail'))}"
    )


def finished(manifest: Manifest, job: Job, *, overwrite: bool) -> dict[str, Any] | None:
    """The manifest's entry of a job whose outputs are current; None if they are to be made.

    Raises:
        OutputError: an output was replaced by another whole raster.
    """
    if overwrite:
        return None
    entry = manifest.finished(job)
    if entry is None:
        _refuse_edited(manifest, job)
    return entry


def reason(manifest: Manifest, job: Job, *, overwrite: bool) -> str:
    """Why the outputs of a job are to be made, in a few words; empty if they are current.

    Raises:
        OutputError: as `finished`.
    """
    found = manifest.why(job)
    if overwrite:
        return found or "--overwrite"
    if found:
        _refuse_edited(manifest, job)
    return found


def _refuse_edited(manifest: Manifest, job: Job) -> None:
    """Check that no output was replaced by another whole raster; one that is cut off may be written anew."""
    from prn_cli.rasters import is_whole

    for path in manifest.changed(job):
        if is_whole(path):
            raise OutputError("was changed since prn wrote it", hint="move it away, or --overwrite", path=path)
