"""Which maps are held out: given ones, a part of the set, folds that keep scenes together, or quarters of maps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prn_cli.errors import InputError, UsageError
from prn_cli.maps.pixels import IGNORE
from prn_cli.rasters import open_raster
from prn_cli.training.augment import TrainingMap
from prn_cli.workflows.train import FEW_MAPS, FEWEST_MAPS, FOLDS, QUARTERS, TrainOptions, compiled
from prn_cli.workflows.training.dataset import Dataset, names_of

LEAST_PART = 128
"""Side of the smallest part of a map that says something about the rest, px."""
_FEW_SCENES = 8

Box = tuple[float, float, float, float]
"""West, south, east and north of a map on the ground, in units of its reference system."""


@dataclass(frozen=True)
class Fold:
    """One part of a cross-validation, with the names of the maps that it holds out."""

    name: str
    held_out: frozenset[str]


@dataclass(frozen=True)
class Holdout:
    """Which maps to learn from, and which to hold out.

    Attributes:
        learn: maps that the final network learns from.
        how: how the held-out maps were chosen, in words.
        hold: maps held out of a single training; empty if there are folds.
        folds: held out in turn; empty if `hold` is not.
        parts: of the maps, for folds of too few whole maps; else empty.
        scenes: by map name; empty if none were asked for.
    """

    learn: Sequence[TrainingMap]
    how: str
    hold: Sequence[TrainingMap] = ()
    folds: Sequence[Fold] = ()
    parts: Sequence[TrainingMap] = ()
    scenes: Mapping[str, str] = field(default_factory=dict)

    def of_fold(self, fold: Fold) -> tuple[list[TrainingMap], list[TrainingMap]]:
        """The maps, or parts of maps, that a fold learns from, and those that it holds out."""
        return _divided(self.parts or self.learn, fold.held_out)


def hold_out(
    found: Dataset, options: TrainOptions, *, given: Dataset | None = None, cross_validate: bool = True
) -> Holdout:
    """Decide which maps are held out.

    Args:
        found: the labelled maps.
        options: of the run.
        given: the maps of `options.validation_logits`.
        cross_validate: hold out all maps in turn if they are few and the options do not say otherwise.

    Raises:
        InputError: too few maps, or maps without a georeference where one is needed.
        UsageError: scenes or stems that do not fit the maps.
    """
    names, seed = found.names, options.seed
    whole = bool(options.ways) or options.folds == 1 or not cross_validate
    pieces = [] if whole else _pieces(found.maps)
    if given is None and not pieces and len(names) < 2:
        raise InputError(
            "1 labelled map, expected at least 2: one to learn from, one to hold out",
            hint=f"label more maps; a single one must be {2 * LEAST_PART} px a side or more, with labels in two of its "
            "quarters, and without --folds 1 and scenes",
        )
    scenes = _scenes(found, options)
    if given is not None:
        _check_given(found, given, options.validation_logits)
        return Holdout(found.maps, f"given: {options.validation_logits}", hold=given.maps, scenes=scenes)
    if pieces:
        folds = make_folds({part.name: where for part, where in pieces}, options.folds or QUARTERS, seed=seed)
        turns = "each" if len(folds) == QUARTERS else f"{len(folds)} parts, each"
        how = f"quarters of every map, {turns} in turn; then whole maps are learned from"
        return Holdout(found.maps, how, folds=folds, parts=[part for part, _ in pieces])
    count = _fold_count(options, len(names), scenes, cross_validate)
    if count > 1 and options.validation_stems is None:
        folds = make_folds(scenes or {name: name for name in names}, count, seed=seed)
        by_scene = scenes and len(folds) == len(set(scenes.values()))
        what = f"{len(folds)} scenes in turn" if by_scene else f"{len(folds)} parts in turn, drawn with seed {seed}"
        return Holdout(found.maps, f"each of {what}; then all maps are learned from", folds=folds, scenes=scenes)
    held, how = _one_part(names, scenes, options)
    learn, hold = _divided(found.maps, held)
    if not learn or not hold:
        raise UsageError(f"{len(learn)} maps to learn from and {len(hold)} held out, expected at least 1 of each")
    return Holdout(learn, how, hold=hold, scenes=scenes)


def make_folds(groups: Mapping[str, str], count: int, *, seed: int = 0) -> list[Fold]:
    """Distribute groups of maps over folds of about equal size; there are two folds or more.

    Args:
        groups: the group of each map, by map name; a group is never divided.
        count: of folds; with no more groups than that, each group is a fold: leave-one-group-out.
        seed: of the draw.

    Raises:
        UsageError: there is only one group, so nothing can be held out.
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
    """The quarters of a map by position, such as `north-west`, so that one can be held out if there is no other map.

    Quarters without a labelled pixel are left out. Empty if a side would be less than `LEAST_PART`.
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


def _pieces(maps: Sequence[TrainingMap]) -> list[tuple[TrainingMap, str]]:
    """Quarters of a few maps, each with its position, sorted by name; none if a map is too small to be cut."""
    cut = [quarters(m) for m in maps] if len(names_of(maps)) <= FEWEST_MAPS else []
    places = {where for quarter in cut for where in quarter}
    if not all(cut) or len(places) < 2:
        return []
    pieces = [(part, where) for quarter in cut for where, part in quarter.items()]
    return sorted(pieces, key=lambda piece: piece[0].name)


def _divided(maps: Sequence[TrainingMap], held: frozenset[str]) -> tuple[list[TrainingMap], list[TrainingMap]]:
    return [m for m in maps if m.name not in held], [m for m in maps if m.name in held]


def _scenes(found: Dataset, options: TrainOptions) -> dict[str, str]:
    if options.groups is not None:
        return groups_by_pattern(found.names, options.groups)
    if options.group_distance is not None:
        return groups_by_distance(_boxes(found.paths), options.group_distance)
    return {}


def _check_given(found: Dataset, given: Dataset, place: Path | None) -> None:
    both = set(found.paths.values()) & set(given.paths.values())
    if both:
        raise UsageError(
            f"{len(both)} of the held-out maps are among those to learn from, such as {min(both).name}",
            hint="give --validation-logits maps of other images",
        )
    if len(given.classes) != len(found.classes):
        raise InputError(
            f"{len(given.classes)} classes, expected {len(found.classes)} as in the maps to learn from",
            hint="name maps of one model",
            path=place,
        )


def _fold_count(options: TrainOptions, maps: int, scenes: Mapping[str, str], cross_validate: bool) -> int:
    if options.folds is not None:
        return options.folds
    count = len(set(scenes.values()))
    if scenes and count <= _FEW_SCENES:
        return max(count, 2)  # `make_folds` refuses a single scene
    return FOLDS if maps < FEW_MAPS and cross_validate else 1


def _one_part(names: Sequence[str], scenes: Mapping[str, str], options: TrainOptions) -> tuple[frozenset[str], str]:
    """Names of the maps to hold out, and how they were chosen."""
    fraction, stems, seed = options.validation_fraction, options.validation_stems, options.seed
    if stems is not None:
        try:
            held = {line.strip() for line in stems.read_text("utf-8-sig").splitlines() if line.strip()}
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot be read ({error})", path=stems) from error
        unknown = held - set(names)
        if unknown:
            raise UsageError(f"{len(unknown)} stems name no map, such as {min(unknown)!r}", path=stems)
        return frozenset(held), f"by {stems}"
    if scenes:
        fold = make_folds(scenes, max(round(1 / fraction), 2), seed=seed)[0]
        return fold.held_out, f"scenes {', '.join(sorted({scenes[name] for name in fold.held_out}))}"
    count = min(max(round(len(names) * fraction), 1), len(names) - 1)
    order = np.random.default_rng(seed).permutation(len(names))
    held = {names[index] for index in order[:count]}
    return frozenset(held), f"{fraction:.0%} of the images, drawn with seed {seed}"


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


def _boxes(paths: Mapping[str, Path]) -> dict[str, Box]:
    boxes: dict[str, Box] = {}
    systems: dict[object, Path] = {}
    for name, path in paths.items():
        with open_raster(path) as raster:
            affine = None if raster.geo is None else raster.geo.affine()
            if raster.geo is None or affine is None:
                raise InputError("has no georeference, which --group-distance needs", hint="use --groups", path=path)
            systems[raster.geo.reference_system()] = path
            right, bottom = raster.width, raster.height
        corners = affine @ np.array([[0, right, 0, right], [0, 0, bottom, bottom], [1, 1, 1, 1]])
        (west, south), (east, north) = corners.min(axis=1), corners.max(axis=1)
        boxes[name] = (float(west), float(south), float(east), float(north))
    if len(systems) > 1:
        first, second, *_ = systems.values()
        raise InputError(
            f"lies in another reference system than {first.name}", hint="use --groups, or reproject", path=second
        )
    return boxes


def hint_at_scenes(names: Sequence[str]) -> str:
    """A note if stems look like tiles of a few scenes, which a random split would tear apart; else empty."""
    heads: dict[str, int] = {}
    for name in names:
        head = re.split(r"[_-](?=[^_-]*$)", name)[0]
        heads[head] = heads.get(head, 0) + 1
    if not (2 <= len(heads) <= len(names) // 3 and min(heads.values()) > 1):
        return ""
    some = ", ".join(sorted(heads)[:3])
    return (
        f"these look like tiles of {len(heads)} scenes ({some}, …): to see what new scenes will gain, "
        "keep scenes together with --groups '^(.*)[_-]'"
    )
