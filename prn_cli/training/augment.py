"""Crops of maps, drawn at random: place, flips and quarter turns, and the jitter of the base model's scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE


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


@dataclass(frozen=True)
class Batch:
    """Crops, each (N, 1, S, S), and with images logits of (N, 1 + C, S, S): the image's bands follow the logits."""

    logits: NDArray[np.float32]
    label: NDArray[np.uint8]
    pseudo: NDArray[np.uint8]


def draw_batch(
    maps: Sequence[TrainingMap], count: int, side: int, jitter: Jitter, random: np.random.Generator
) -> Batch:
    """Draw `count` crops of `side` × `side` px.

    Large maps are drawn more often, by the root of their area: by the area itself, one large scene would drown the
    others, and what holds there alone would be learned. Where a map is smaller than a crop, the rest is invalid and
    ignored.
    """
    roots = np.sqrt([m.label.size for m in maps])
    chosen = random.choice(len(maps), size=count, p=roots / roots.sum())
    crops = [_draw_crop(maps[index], side, random) for index in chosen]
    logits = np.stack([crop[0] for crop in crops])
    shape = (count, 1, 1, 1)
    scale = np.exp(jitter.scale * random.standard_normal(shape))
    shift = jitter.shift * random.standard_normal(shape)
    return Batch(
        logits=np.concatenate([(logits[:, :1] * scale + shift).astype(np.float32), logits[:, 1:]], axis=1),
        label=np.stack([crop[1] for crop in crops])[:, None],
        pseudo=np.stack([crop[2] for crop in crops])[:, None],
    )


def _draw_crop(
    source: TrainingMap, side: int, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8]]:
    height, width = source.label.shape
    y = int(random.integers(0, max(height - side, 0) + 1))
    x = int(random.integers(0, max(width - side, 0) + 1))
    turns, flip = int(random.integers(4)), bool(random.integers(2))

    def cut(plane: NDArray[np.generic], fill: float) -> NDArray[np.generic]:
        window = plane[..., y : y + side, x : x + side]
        missing = (side - window.shape[-2], side - window.shape[-1])
        if any(missing):
            beside = ((0, 0),) * (window.ndim - 2)
            window = np.pad(window, (*beside, (0, missing[0]), (0, missing[1])), constant_values=fill)
        window = np.rot90(window, turns, axes=(-2, -1))
        return window[..., ::-1] if flip else window

    logits = cut(source.logits[np.newaxis], np.nan)
    return (  # type: ignore[return-value]
        logits if source.image is None else np.concatenate([logits, cut(source.image, np.nan)]),
        cut(source.label, IGNORE),
        cut(source.pseudo, IGNORE),
    )
