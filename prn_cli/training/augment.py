"""Crops of maps, drawn at random: place, flips and quarter turns, and the jitter of the base model's scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.methods.recipe import Batch


@dataclass(frozen=True)
class TrainingMap:
    """One labelled map: logits (H, W) float32, NaN invalid; label and pseudo-label (H, W) uint8, 0, 1, 255 ignore.

    And its image, (C, H, W) float32, NaN invalid, if there is one.
    """

    name: str
    logits: NDArray[np.float32]
    label: NDArray[np.uint8]
    pseudo: NDArray[np.uint8]
    image: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Jitter:
    """Spread of the random change of a crop's scores: logit · exp(scale · N) + shift · N'.

    It stands for another base model, or another scene, so that the weights do not lean on one model's calibration.
    """

    scale: float = 0.2
    shift: float = 0.5


def draw_batch(
    maps: Sequence[TrainingMap], count: int, side: int, jitter: Jitter, random: np.random.Generator
) -> Batch[NDArray[Any]]:
    """Draw `count` crops of `side` × `side` px.

    Large maps are drawn more often, by the root of their area: by the area itself, one large scene would drown the
    others, and what holds there alone would be learned. Where a map is smaller than a crop, the rest is invalid and
    ignored.
    """
    roots = np.sqrt([m.label.size for m in maps])
    chosen = random.choice(len(maps), size=count, p=roots / roots.sum())
    logits, label, pseudo, *image = zip(*(_draw_crop(maps[index], side, random) for index in chosen), strict=True)
    shape = (count, 1, 1, 1)
    scale = np.exp(jitter.scale * random.standard_normal(shape))
    shift = jitter.shift * random.standard_normal(shape)
    return Batch(
        logits=(np.stack(logits) * scale + shift).astype(np.float32),
        label=np.stack(label),
        pseudo=np.stack(pseudo),
        image=np.stack(image[0]) if image else None,
    )


def _draw_crop(source: TrainingMap, side: int, random: np.random.Generator) -> list[NDArray[Any]]:
    """Logits, label, pseudo-label and perhaps the image of a crop, `(channels, side, side)` each."""
    height, width = source.label.shape
    y = int(random.integers(0, max(height - side, 0) + 1))
    x = int(random.integers(0, max(width - side, 0) + 1))
    turns, flip = int(random.integers(4)), bool(random.integers(2))

    def cut(planes: NDArray[Any], fill: float) -> NDArray[Any]:
        window = planes[:, y : y + side, x : x + side]
        missing = ((0, 0), (0, side - window.shape[1]), (0, side - window.shape[2]))
        window = np.rot90(np.pad(window, missing, constant_values=fill), turns, axes=(1, 2))
        return window[..., ::-1] if flip else window

    planes: list[tuple[NDArray[Any], float]] = [
        (source.logits[np.newaxis], np.nan),
        (source.label[np.newaxis], IGNORE),
        (source.pseudo[np.newaxis], IGNORE),
    ]
    if source.image is not None:
        planes.append((source.image, np.nan))
    return [cut(*plane) for plane in planes]
