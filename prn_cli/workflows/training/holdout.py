"""Which maps are held out: given ones, a part of the set, folds that keep scenes together, or quarters of maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prn_cli.errors import InputError, UsageError, percent
from prn_cli.maps.pixels import IGNORE
from prn_cli.training.augment import TrainingMap
from prn_cli.training.choice import FEW_SCENES
from prn_cli.workflows.train import FEW_MAPS, FEWEST_MAPS, FOLDS, QUARTERS, TrainOptions
from prn_cli.workflows.training.dataset import Dataset, names_of
from prn_cli.workflows.training.scenes import Scenes, find_scenes

LEAST_PART = 128
"""Side of the smallest part of a map that says something about the rest, px."""


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
        scenes: by map name; empty if each map is one of its own.
        note: how scenes were found that nobody asked for.
    """

    learn: Sequence[TrainingMap]
    how: str
    hold: Sequence[TrainingMap] = ()
    folds: Sequence[Fold] = ()
    parts: Sequence[TrainingMap] = ()
    scenes: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

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
    known = find_scenes(found, options) if given is None and not pieces else Scenes()
    scenes, note = known.of, str(known)
    if given is not None:
        _check_given(found, given, options.validation_logits)
        return Holdout(found.maps, f"given: {options.validation_logits}", hold=given.maps)
    if pieces:
        folds = make_folds({part.name: where for part, where in pieces}, options.folds or QUARTERS, seed=seed)
        turns = "each" if len(folds) == QUARTERS else f"{len(folds)} parts, each"
        how = f"quarters of every map, {turns} in turn; then whole maps are learned from"
        parts = [part for part, _ in pieces]
        return Holdout(found.maps, how, folds=folds, parts=parts, note=_fewer(options, folds, "quarters of a map"))
    count = _fold_count(options, len(names), scenes, cross_validate)
    if count > 1 and options.validation_stems is None:
        folds = make_folds(scenes or {name: name for name in names}, count, seed=seed)
        by_scene = scenes and len(folds) == len(set(scenes.values()))
        what = f"{len(folds)} scenes in turn" if by_scene else f"{len(folds)} parts in turn, drawn with seed {seed}"
        how = f"each of {what}; then all maps are learned from"
        note = "; ".join(filter(None, (note, _fewer(options, folds, "scenes" if scenes else "maps"))))
        return Holdout(found.maps, how, folds=folds, scenes=scenes, note=note)
    held, how = _one_part(names, scenes, options)
    learn, hold = _divided(found.maps, held)
    if not learn or not hold:
        raise UsageError(f"{len(learn)} maps to learn from and {len(hold)} held out, expected at least 1 of each")
    return Holdout(learn, how, hold=hold, scenes=scenes, note=note)


def _fewer(options: TrainOptions, folds: Sequence[Fold], what: str) -> str:
    """That there are fewer folds than were asked for; empty if there are not."""
    asked = options.folds or 0
    return f"--folds {asked} makes {len(folds)}: there are only {len(folds)} {what}" if asked > len(folds) else ""


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
                    pseudo=label if source.pseudo is source.label else source.pseudo[where],
                    image=None if source.image is None else source.image[where],
                    plane=source.plane,
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
    if scenes and count <= FEW_SCENES and (cross_validate or options.ways):  # a slow method repeats nothing unasked
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
    return frozenset(held), f"{percent(fraction)} of the images, drawn with seed {seed}"
