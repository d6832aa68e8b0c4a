"""Crops of maps, drawn at random: place, flips and quarter turns, and the jitter of the base model's scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.methods.recipe import Batch
from prn_cli.refinement.chain import reduce_map


@dataclass(frozen=True, eq=False)
class TrainingMap:
    """One labelled map: logits (H, W) float32, NaN invalid; label and pseudo-label (H, W) uint8, 0, 1, 255 ignore.

    And its image, (C, H, W) float32, NaN invalid, if there is one; and the number of the class that it is of, from 0.
    """

    name: str
    logits: NDArray[np.float32]
    label: NDArray[np.uint8]
    pseudo: NDArray[np.uint8]
    image: NDArray[np.float32] | None = None
    plane: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class Jitter:
    """Spread of the random change of a crop's scores: logit · exp(scale · N) + shift · N'.

    It stands for another base model, or another scene, so that the weights do not lean on one model's calibration.
    """

    scale: float = 0.2
    shift: float = 0.5


def by_image(maps: Sequence[TrainingMap]) -> list[list[TrainingMap]]:
    """The maps of each image, or of each part of one, a class each: these follow each other."""
    found: list[list[TrainingMap]] = []
    for one in maps:
        if one.plane == 0 or not found:
            found.append([])
        found[-1].append(one)
    return found


def reduced_copies(maps: Sequence[TrainingMap], side: int) -> list[TrainingMap]:
    """Copies of the maps that are larger, of at most `side` px a side, as a pass over the whole map sees them."""
    return [_reduced(one, side) for one in maps if max(one.label.shape) > side]


def _reduced(one: TrainingMap, side: int) -> TrainingMap:
    marks = [np.where(plane == IGNORE, np.nan, plane).astype(np.float32) for plane in (one.label, one.pseudo)]
    planes = [one.logits, *marks, *(() if one.image is None else one.image)]
    height, width = one.label.shape
    logits, *found = reduce_map(lambda at: [plane[at.slices] for plane in planes], len(planes), (height, width), side)
    label, pseudo = (np.where(np.isnan(plane), IGNORE, plane >= 0.5).astype(np.uint8) for plane in found[:2])
    if one.pseudo is one.label:
        pseudo = label
    image = None if one.image is None else np.stack(found[2:])
    return TrainingMap(one.name, logits, label, pseudo, image, plane=one.plane)


def draw_batch(
    maps: Sequence[TrainingMap],
    count: int,
    side: int,
    jitter: Jitter,
    random: np.random.Generator,
    *,
    planes: int = 1,
) -> Batch[NDArray[Any]]:
    """Draw `count` crops of `side` × `side` px, of `planes` classes at once: those of a map follow each other.

    Large maps are drawn more often, by the root of their area: by the area itself, one large scene would drown the
    others, and what holds there alone would be learned. Where a map is smaller than a crop, the rest is invalid and
    ignored.
    """
    together = [maps[first : first + planes] for first in range(0, len(maps), planes)]
    roots = np.sqrt([m[0].label.size for m in together])
    chosen = random.choice(len(together), size=count, p=roots / roots.sum())
    found = [np.empty((count, len(arrays), side, side), arrays[0].dtype) for arrays in _planes(together[0])]
    for number, index in enumerate(chosen):
        _draw_crop(together[index], [array[number] for array in found], random)
    logits, label, *others = found
    pseudo = others.pop(0) if maps[0].pseudo is not maps[0].label else label
    shape = (count, 1, 1, 1)
    scale = np.exp(jitter.scale * random.standard_normal(shape))
    shift = jitter.shift * random.standard_normal(shape)
    for crop, factor, offset in zip(logits, scale, shift, strict=True):
        crop[:] = crop * factor + offset
    plane = np.array([together[index][0].plane for index in chosen], np.int64)
    return Batch(logits=logits, label=label, pseudo=pseudo, image=others[0] if others else None, plane=plane)


Planes: TypeAlias = Sequence[NDArray[Any]]


def _planes(source: Sequence[TrainingMap]) -> list[Planes]:
    """What a crop is cut from, `(H, W)` each: logits, labels, pseudo-labels if they are others, image if any."""
    first = source[0]
    others = [] if first.pseudo is first.label else [[one.pseudo for one in source]]
    images = [] if first.image is None else [list(first.image)]
    return [[one.logits for one in source], [one.label for one in source], *others, *images]


def _draw_crop(source: Sequence[TrainingMap], crops: Planes, random: np.random.Generator) -> None:
    """Fill the planes of a crop, `(channels, side, side)` each, by a place of the map that is turned and flipped."""
    (height, width), side = source[0].label.shape, crops[0].shape[-1]
    y = int(random.integers(0, max(height - side, 0) + 1))
    x = int(random.integers(0, max(width - side, 0) + 1))
    turns, flip = int(random.integers(4)), bool(random.integers(2))
    for crop, planes in zip(crops, _planes(source), strict=True):
        upright = np.rot90(crop[..., ::-1] if flip else crop, -turns, axes=(1, 2))  # a view
        if height < side or width < side:
            upright[:] = np.nan if crop.dtype.kind == "f" else IGNORE
        for target, plane in zip(upright, planes, strict=True):
            window = plane[y : y + side, x : x + side]
            target[: window.shape[0], : window.shape[1]] = window
