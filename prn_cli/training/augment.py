"""Crops of maps, drawn at random: place, flips and quarter turns, and the jitter of the base model's scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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
) -> Batch[NDArray[Any]]:
    """Draw `count` crops of `side` × `side` px.

    Large maps are drawn more often, by the root of their area: by the area itself, one large scene would drown the
    others, and what holds there alone would be learned. Where a map is smaller than a crop, the rest is invalid and
    ignored.
    """
    roots = np.sqrt([m.label.size for m in maps])
    chosen = random.choice(len(maps), size=count, p=roots / roots.sum())
    found = [np.empty((count, len(planes), side, side), planes.dtype) for planes in _planes(maps[0])]
    for number, index in enumerate(chosen):
        _draw_crop(maps[index], [array[number] for array in found], random)
    logits, label, *others = found
    pseudo = others.pop(0) if maps[0].pseudo is not maps[0].label else label
    shape = (count, 1, 1, 1)
    scale = np.exp(jitter.scale * random.standard_normal(shape))
    shift = jitter.shift * random.standard_normal(shape)
    for crop, factor, offset in zip(logits, scale, shift, strict=True):
        crop[:] = crop * factor + offset
    plane = np.array([maps[index].plane for index in chosen], np.int64)
    return Batch(logits=logits, label=label, pseudo=pseudo, image=others[0] if others else None, plane=plane)


def _planes(source: TrainingMap) -> list[NDArray[Any]]:
    """What a crop is cut from, `(channels, H, W)` each: logits, label, pseudo-label if it is another, image if any."""
    others = [] if source.pseudo is source.label else [source.pseudo[np.newaxis]]
    images = [] if source.image is None else [source.image]
    return [source.logits[np.newaxis], source.label[np.newaxis], *others, *images]


def _draw_crop(source: TrainingMap, crops: Sequence[NDArray[Any]], random: np.random.Generator) -> None:
    """Fill the planes of a crop, `(channels, side, side)` each, by a place of the map that is turned and flipped."""
    (height, width), side = source.label.shape, crops[0].shape[-1]
    y = int(random.integers(0, max(height - side, 0) + 1))
    x = int(random.integers(0, max(width - side, 0) + 1))
    turns, flip = int(random.integers(4)), bool(random.integers(2))
    for crop, planes in zip(crops, _planes(source), strict=True):
        upright = np.rot90(crop[..., ::-1] if flip else crop, -turns, axes=(1, 2))  # a view
        window = planes[:, y : y + side, x : x + side]
        if window.shape != upright.shape:
            upright[:] = np.nan if planes.dtype.kind == "f" else IGNORE
        upright[:, : window.shape[1], : window.shape[2]] = window
