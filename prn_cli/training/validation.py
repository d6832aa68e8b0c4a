"""Which maps are held out: folds of cross-validation in which whole scenes stay together; or parts of single maps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import UsageError
from prn_cli.maps.pixels import IGNORE
from prn_cli.training.augment import TrainingMap

LEAST_PART = 128
"""Side of the smallest part of a map that says something about the rest, px."""

Box = tuple[float, float, float, float]
"""West, south, east and north of a map on the ground, in units of its reference system."""


@dataclass(frozen=True)
class Fold:
    """One part of a cross-validation.

    Attributes:
        name: for people.
        held_out: names of the maps that this fold does not learn from.
    """

    name: str
    held_out: frozenset[str]


def make_folds(groups: Mapping[str, str], count: int, *, seed: int = 0) -> list[Fold]:
    """Share out groups of maps over folds, of about as many maps each.

    Args:
        groups: of each map, by its name; a group is never divided.
        count: of folds; with no more groups than that, each group is a fold: leave-one-group-out.
        seed: decides which groups come together.

    Returns:
        Two folds or more.

    Raises:
        UsageError: there is one group only, so nothing can be held out.
    """
    members: dict[str, list[str]] = {}
    for name, group in groups.items():
        members.setdefault(group, []).append(name)
    if len(members) < 2:
        only = next(iter(members), "none")
        raise UsageError(
            f"all maps are of one group, {only!r}: there is no other to hold out",
            hint="tell scenes apart by another --groups or --group-distance, or leave it out and hold out single maps",
        )
    order = sorted(members)
    np.random.default_rng(seed).shuffle(order)
    # The largest first, each into the fold that has the fewest maps so far.
    order.sort(key=lambda group: -len(members[group]))
    bins: list[list[str]] = [[] for _ in range(min(count, len(members)))]
    for group in order:
        min(bins, key=lambda held: sum(len(members[g]) for g in held)).append(group)
    whole = len(bins) == len(members) < len(groups)
    return [
        Fold(
            name=held[0] if whole else f"{number} of {len(bins)}",
            held_out=frozenset(name for group in held for name in members[group]),
        )
        for number, held in enumerate(bins, 1)
    ]


def quarters(source: TrainingMap) -> dict[str, TrainingMap]:
    """Cut a map into four, so that one part can be held out where there is no other map.

    Args:
        source: the map.

    Returns:
        Its quarters by where they lie, those without a labelled pixel left out; empty if a side would be less than
        `LEAST_PART`.
    """
    height, width = (side // 2 for side in source.label.shape)
    if min(height, width) < LEAST_PART:
        return {}
    found = {}
    for north, rows in (("north", slice(None, height)), ("south", slice(height, None))):
        for east, columns in (("west", slice(None, width)), ("east", slice(width, None))):
            where = (..., rows, columns)
            label = source.label[where]
            if (label != IGNORE).any():
                found[f"{north}-{east}"] = TrainingMap(
                    name=f"{source.name} {north}-{east}",
                    logits=source.logits[where],
                    label=label,
                    pseudo=source.pseudo[where],
                    image=None if source.image is None else source.image[where],
                )
    return found


def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression that `--groups` asks for.

    Raises:
        UsageError: it is none.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--groups {pattern!r} is not a regular expression: {error}") from error


def groups_by_pattern(names: Sequence[str], pattern: str) -> dict[str, str]:
    r"""Group maps by a regular expression on their stems: `(tile\d+)_` puts tile1_part001 and tile1_part002 together.

    Args:
        names: stems of the maps.
        pattern: searched in each; the group's name is its first group, or all that it matches.

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
    """Group maps that lie within a distance of one another, and those that such maps connect.

    Args:
        boxes: where each map lies, all in one reference system.
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
    return {name: names[first] for name, first in zip(names, _firsts(leader), strict=True)}


def _firsts(leader: NDArray[np.intp]) -> list[int]:
    first: dict[int, int] = {}
    for index, value in enumerate(leader.tolist()):
        first.setdefault(value, index)
    return [first[value] for value in leader.tolist()]
