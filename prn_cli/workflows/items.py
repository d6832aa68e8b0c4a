"""The maps of a run, and what its result says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PART = "polygons"
"""Role of an output that is no raster: a map's polygons, from which the layer is made."""

DRAFT = "draft"
"""Role of an output that is no raster either: a map's mask before its scene is cleaned, see `workflows.scenes`."""


@dataclass(frozen=True, slots=True)
class Item:
    """One map, or one class of it: what is read and what is written, by role.

    `plane` is the number of the class from 0, `name` its name; empty for a single foreground.
    """

    path: Path
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    plane: int = 0
    name: str = ""

    @property
    def rasters(self) -> dict[str, Path]:
        """The outputs that are rasters."""
        return {role: path for role, path in self.outputs.items() if role not in (PART, DRAFT)}


@dataclass(frozen=True, slots=True)
class Planned:
    """What a run would do with a map: `action` is the workflow's verb, such as `refine`, or `keep`, or `fail`."""

    item: Item
    action: str
    why: str

    def record(self) -> dict[str, Any]:
        """For JSON, with the keys of the run's own records."""
        outputs = {role: str(path) for role, path in self.item.rasters.items()}
        return {"input": str(self.item.path), "status": self.action, **outputs, "why": self.why}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a run.

    Attributes:
        failures: name and cause of each failure.
        verdict: how many failed, in one line; empty if none did.
    """

    failures: Sequence[tuple[str, str]] = ()
    verdict: str = ""

    def failure_records(self) -> list[dict[str, str]]:
        """The failures for JSON."""
        return [{"file": name, "error": cause} for name, cause in self.failures]


@dataclass(frozen=True, kw_only=True)
class WrittenResult(Result):
    """What became of a run that writes files for every map.

    Attributes:
        summary: what was done, where and how fast, in one line; or, with `dry_run`, what would be done.
        plan: with `dry_run`, what would be done with each map.
    """

    summary: str = ""
    plan: Sequence[Planned] = ()
