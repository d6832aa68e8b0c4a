"""Scenes: maps that resemble each other more than maps of other places, and so are held out together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prn_cli.errors import InputError, PrnError, UsageError
from prn_cli.rasters import open_raster
from prn_cli.workflows.train import NO_GROUPS, TrainOptions, compiled
from prn_cli.workflows.training.dataset import Dataset

Box = tuple[float, float, float, float]
"""West, south, east and north of a map on the ground, in units of its reference system."""

_BLOCKS = 3
"""Parts into which maps of one place are divided."""
_LARGEST = 0.75
"""A scene of more of the maps than this leaves too little to learn from."""
_SHOWN = 4
_SPLITS = re.compile(r"(train|training|test|val|valid|validation)[_\-. ]", re.IGNORECASE)
"""Beginnings of names that say nothing of a scene."""


@dataclass(frozen=True)
class Scenes:
    """Scenes of a set.

    Attributes:
        of: the scene of each map, by map name; empty if each map is a scene of its own.
        how: how they were found, in words; empty if they were asked for.
    """

    of: Mapping[str, str] = field(default_factory=dict)
    how: str = ""

    def __str__(self) -> str:
        """For people, in a line; empty if there is nothing to say."""
        if not self.how:
            return ""
        names = sorted(set(self.of.values()))
        some = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        return f"{len(names)} scenes {self.how}: {some}; --groups none for maps of their own"


def find_scenes(found: Dataset, options: TrainOptions) -> Scenes:
    """The scenes that were asked for; if nothing was, those that names or places show, the fewer of the two.

    Raises:
        InputError: maps without a georeference where one is needed.
        UsageError: a pattern that does not fit the maps.
    """
    if options.groups == NO_GROUPS:
        return Scenes()
    if options.groups is not None:
        return Scenes(groups_by_pattern(found.names, options.groups))
    if options.group_distance is not None:
        boxes, _ = _boxes(found.paths)
        return Scenes(groups_by_distance(boxes, options.group_distance))
    if options.ways:
        return Scenes()
    both = (Scenes(scenes_by_name(found.names), "by name"), _scenes_by_place(found.paths))
    known = [scenes for scenes in both if scenes.of]
    return min(known, key=lambda scenes: len(set(scenes.of.values())), default=Scenes())


def scenes_by_name(names: Sequence[str]) -> dict[str, str]:
    """Scenes by the shortest beginning of the names that divides them into a few groups of several maps each.

    A beginning ends at a separator (`town_12`, `town-a-12`) or before a last number (`town12`). Empty if there is none:
    three maps a scene on average, nine tenths of the maps in scenes of two or more, none with more than three quarters.
    """
    parts = {name: _parts(_SPLITS.sub("", name, count=1) if _SPLITS.match(name) else name) for name in names}
    for depth in range(1, 1 + max(map(len, parts.values()), default=0)):
        found = {name: "".join(parts[name][:depth]).rstrip("_-. ") for name in names}
        sizes = Counter(found.values())
        several = sum(size for size in sizes.values() if size > 1)
        if len(sizes) < 2:
            continue
        if 3 * len(sizes) > len(names):
            return {}
        if several >= 0.9 * len(names) and max(sizes.values()) <= _LARGEST * len(names):
            return found
    return {}


def _parts(name: str) -> list[str]:
    """A name in parts that may be a beginning, all but the last."""
    parts = re.findall(r"[^_\-. ]*[_\-. ]+|[^_\-. ]+$", name)
    if parts and (numbered := re.fullmatch(r"(.*\D)(\d+)", parts[-1])):
        parts[-1:] = numbered.groups()
    return parts[:-1]


def _scenes_by_place(paths: Mapping[str, Path]) -> Scenes:
    """Scenes of georeferenced maps that adjoin or overlap; of one place, blocks of it."""
    try:
        boxes, pixel = _boxes(paths)
    except (PrnError, OSError):
        return Scenes()
    groups = groups_by_distance(boxes, 1.5 * pixel)
    sizes = Counter(groups.values())
    if len(sizes) == 1 and len(boxes) >= 2 * _BLOCKS:
        return Scenes(_blocks(boxes), "in one place")
    if 1 < len(sizes) < len(boxes) and max(sizes.values()) <= _LARGEST * len(boxes):
        return Scenes(groups, "by place")
    return Scenes()


def _blocks(boxes: Mapping[str, Box]) -> dict[str, str]:
    """Maps of one place in parts of as many maps each, side by side along the longer way."""
    west, south, east, north = np.array(list(boxes.values()), np.float64).T
    centres = np.stack([west + east, south + north])
    along = centres[int(np.ptp(centres[1]) > np.ptp(centres[0]))]
    rank = np.argsort(np.argsort(along, kind="stable"), kind="stable")
    return {name: f"block {1 + int(place) * _BLOCKS // len(boxes)}" for name, place in zip(boxes, rank, strict=True)}


def groups_by_pattern(names: Sequence[str], pattern: str) -> dict[str, str]:
    r"""Group maps by a regular expression on their stems: `(tile\d+)_` puts tile1_part001 and tile1_part002 together.

    A scene is named by the pattern's first group, or by the whole match.

    Raises:
        UsageError: not a regular expression, or a stem that it does not match.
    """
    expression = compiled(pattern)
    found = {name: expression.search(name) for name in names}
    strangers = [name for name, match in found.items() if match is None]
    if strangers:
        raise UsageError(
            f"--groups {pattern!r} does not match {len(strangers)} of {len(names)} stems, such as {strangers[0]!r}",
            hint="widen the pattern, or leave these maps out",
        )
    return {name: (match[1] or "") if match.re.groups else match[0] for name, match in found.items() if match}


def groups_by_distance(boxes: Mapping[str, Box], distance: float) -> dict[str, str]:
    """Group maps that lie within a distance of each other, directly or through other maps.

    Args:
        boxes: of the maps, by name, all in one reference system.
        distance: largest gap between the boxes of neighbours, in its units; 0 joins maps that touch.

    Returns:
        The group of each map: the name of its first member.
    """
    names = list(boxes)
    west, south, east, north = np.array([boxes[name] for name in names], np.float64).T
    leader = np.arange(len(names))
    for index in range(len(names)):
        across = np.maximum(np.maximum(west - east[index], west[index] - east), 0)
        along = np.maximum(np.maximum(south - north[index], south[index] - north), 0)
        joined = np.unique(leader[np.hypot(across, along) <= distance])
        leader[np.isin(leader, joined)] = joined[0]
    first: dict[int, str] = {}
    return {name: first.setdefault(number, name) for name, number in zip(names, leader.tolist(), strict=True)}


def _boxes(paths: Mapping[str, Path]) -> tuple[dict[str, Box], float]:
    """The box of each map, and the side of the largest pixel."""
    boxes: dict[str, Box] = {}
    pixel = 0.0
    systems: dict[object, Path] = {}
    for name, path in paths.items():
        with open_raster(path) as raster:
            affine = None if raster.geo is None else raster.geo.affine()
            if raster.geo is None or affine is None:
                raise InputError("has no georeference, which --group-distance needs", hint="use --groups", path=path)
            systems[raster.geo.reference_system()] = path
            right, bottom = raster.width, raster.height
        pixel = max(pixel, float(np.abs(affine[:, :2]).max()))
        corners = affine @ np.array([[0, right, 0, right], [0, 0, bottom, bottom], [1, 1, 1, 1]])
        (west, south), (east, north) = corners.min(axis=1), corners.max(axis=1)
        boxes[name] = (float(west), float(south), float(east), float(north))
    if len(systems) > 1:
        first, second, *_ = systems.values()
        raise InputError(
            f"lies in another reference system than {first.name}", hint="use --groups, or reproject", path=second
        )
    return boxes, pixel
