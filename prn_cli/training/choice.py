"""How much of a correction to apply, and where to cut: chosen on maps that the correction has not seen.

A refined logit is `logit + strength · (refined - logit)`: 0 is the base model, 1 the whole correction. Masks are cut at
0.5; at the base model's own threshold; or on the way from that, at strength 0, to 0.5, at strength 1, for a correction
learns the level in time. What each would have given on held-out maps is counted once, map by map (`tally`); the choice
(`choose`) is arithmetic on these counts. The network must add to what the threshold alone gains, surely, and harm no
scene; where nothing does, the strength is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.blend import strengthen
from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics.intervals import resample
from prn_cli.metrics.regions import iou, ratio
from prn_cli.thresholding.decision import WORTHWHILE, utility

FloatMap = NDArray[np.float32]
FloatArray = NDArray[np.float64]

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
CUTS = 3
FEW_SCENES = 8
"""Of no more scenes than that, none may lose."""
SCEPTIC = 0.01
"""There is one more map, on which nobody has looked, and where the whole correction loses so much."""


def logit_cuts(threshold: float, strength: float) -> tuple[float, float, float]:
    """Where logits of a strength may be cut, if the base model's own threshold is this one."""
    own = math.log(threshold) - math.log1p(-threshold)
    return 0.0, (1 - strength) * own, own


def tally(logits: FloatMap, refined: FloatMap, label: NDArray[np.uint8], threshold: float = 0.5) -> NDArray[np.int64]:
    """Count what every strength would give on one map.

    Args:
        logits: the base model's, `(h, w)` float32, NaN where invalid.
        refined: the whole correction's, the same.
        label: `(h, w)` uint8: 0 background, 1 foreground, 255 ignore.
        threshold: the base model's own.

    Returns:
        `(S, 3, 4)` int64, for `STRENGTHS` and their cuts, see `logit_cuts`: tp, fp, fn, tn, as `RegionCounts.array` has
        them.
    """
    valid = (label != IGNORE) & ~np.isnan(logits)
    true, base, whole = label[valid] == 1, logits[valid], refined[valid]
    positives = int(np.count_nonzero(true))
    counts = np.empty((len(STRENGTHS), CUTS, 4), np.int64)
    for row, strength in zip(counts, STRENGTHS, strict=True):
        mixed = strengthen(base, whole, strength)
        for cell, cut in zip(row, logit_cuts(threshold, strength), strict=True):
            above = mixed > np.float32(cut)
            tp, found = int(np.count_nonzero(above & true)), int(np.count_nonzero(above))
            cell[:] = tp, found - tp, positives - tp, len(true) - positives - (found - tp)
    return counts


def tally_classes(logits: FloatMap, refined: FloatMap, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count what every strength would give on one map of several classes, of which the greatest score counts.

    Args:
        logits: the base model's, `(C, h, w)` float32, one class against the rest each, NaN where invalid.
        refined: the whole correction's, the same.
        labels: `(C, h, w)` uint8, the same: 0, 1, 255 ignore.

    Returns:
        `(C, S, 3, 4)` int64, see `tally`; the cuts make no difference.
    """
    valid = (labels[0] != IGNORE) & ~np.isnan(logits).any(axis=0)
    base, whole, true = logits[:, valid], refined[:, valid], labels[:, valid].argmax(axis=0)
    counts = np.empty((len(logits), len(STRENGTHS), CUTS, 4), np.int64)
    for number, strength in enumerate(STRENGTHS):
        chosen = strengthen(base, whole, strength).argmax(axis=0)
        found, positives, tp = (
            np.bincount(which, minlength=len(logits)) for which in (chosen, true, true[chosen == true])
        )
        cells = tp, found - tp, positives - tp, len(true) - positives - found + tp
        counts[:, number] = np.stack(cells, axis=-1)[:, np.newaxis]
    return counts


@dataclass(frozen=True)
class Choice:
    """A strength and a threshold, with what they gain on the maps that they were chosen on.

    Attributes:
        strength: 0 to 1.
        threshold: probability above which a refined pixel is foreground.
        own: the base model's own threshold, by the labels.
        gain: change of the pooled IoU over the base model at 0.5, or of the mIoU over the greatest score.
        added: the network's share of it; the rest is the threshold's.
        groups: change of the pooled IoU, scene by scene and class by class.
        strengths: mean over the scenes for every strength of `STRENGTHS`, with the best of its thresholds.
        promising: whether some strength gains more on average than what was chosen: perhaps by chance, or not
            everywhere.
        scenes: how many there are.
        cell: of the counts that were chosen: strength and threshold, as indices.
        floor: the same of the best without the network.
    """

    strength: float
    threshold: float
    gain: float
    groups: dict[str, float]
    strengths: dict[str, float]
    own: float = 0.5
    added: float = 0.0
    promising: bool = False
    scenes: int = 1
    cell: tuple[int, int] = (0, 0)
    floor: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Limits:
    """What bounds the choice.

    Attributes:
        images: how many maps there are, where what was counted are parts of them; 0 if it is whole maps.
        any_threshold: whether the threshold may leave 0.5; of several classes, the greatest score counts instead.
        strength: at most.
    """

    images: int = 0
    any_threshold: bool = True
    strength: float = 1.0


def choose(
    counts: NDArray[np.int64],
    scenes: Sequence[str],
    *,
    classes: Sequence[str] = ("",),
    own: float = 0.5,
    limits: Limits = Limits(),
    seed: int = 0,
) -> Choice:
    """Choose strength and threshold on held-out maps.

    Without the network, the base model's own threshold is taken if it gains, and harms no scene; that is what the
    network must add to. What it adds is worth the mean, over resamples of the maps, of what the change of IoU is worth
    in each scene, and of what the change of the mean IoU of the images is worth. The strength and the threshold that
    are worth most are taken, if they are worth anything, and if no scene loses (of more than `FEW_SCENES`, their mean).
    Of several classes, the IoU is the mean over those that are there.

    Args:
        counts: `(maps, S, 3, 4)`, see `tally`; those of an image, a class each, follow each other.
        scenes: of each image, or one name for all.
        classes: names.
        own: the base model's own threshold.
        limits: of the choice.
        seed: of the bootstrap.
    """
    names = sorted(set(scenes))
    member = np.array([[scene == name for scene in scenes] for name in names], np.float64)
    values = counts.reshape(-1, len(classes), *counts.shape[1:]).astype(np.float64)
    by_scene = np.tensordot(member, values, axes=1)
    gains = _gain(_mean_iou(by_scene))
    expected = gains.mean(axis=0)
    images = _mean_iou(values)
    harmless = (gains if len(names) <= FEW_SCENES else expected[None]).min(axis=0) >= 0
    free = limits.any_threshold and own != 0.5
    rises = expected[0, 1] > 0 and images[:, 0, 1].mean() >= images[:, 0, 0].mean()
    floor = (0, int(free and harmless[0, 1] and rises))
    able = harmless & (np.array(STRENGTHS)[:, None] <= limits.strength)
    able[0], able[:, 1:] = False, able[:, 1:] & free
    worth = np.where(able, _worth(values, member, floor, limits.images or len(values), seed), 0.0)
    best = np.unravel_index(int(np.argmax(worth)), worth.shape) if worth.max() > WORTHWHILE else floor
    cell = (int(best[0]), int(best[1]))
    pooled = _mean_iou(values.sum(axis=0))
    strength = STRENGTHS[cell[0]]
    groups = [", ".join(filter(None, (scene, name))) for scene in names for name in classes]
    of_groups = _gain(iou(by_scene))[..., cell[0], cell[1]].ravel()
    return Choice(
        strength=strength,
        threshold=round(1 / (1 + math.exp(-logit_cuts(own, strength)[cell[1]])), 4),
        gain=float(pooled[cell] - pooled[0, 0]),
        groups={name: float(gain) for name, gain in zip(groups, of_groups, strict=True)},
        strengths={f"{s:g}": float(gain.max()) for s, gain in zip(STRENGTHS, expected, strict=True)},
        own=own,
        added=float(pooled[cell] - pooled[floor]),
        promising=float(expected[1:].max()) > max(float(expected[cell]), 0),
        scenes=len(names),
        cell=cell,
        floor=floor,
    )


def _mean_iou(counts: FloatArray) -> FloatArray:
    """The mean IoU of the classes, `(..., C, S, 3, 4)` counts to `(..., S, 3)`; of one, its IoU.

    A class counts where it occurs, or is predicted by any strength: else one that vanishes would be a gain for all.
    """
    scores, classes = iou(counts), counts.shape[-4]
    if classes == 1:
        return scores[..., 0, :, :]
    there = counts[..., :3].sum(axis=-1) > 0
    total = (scores * there).sum(axis=-3)
    ever = there.any(axis=(-2, -1)).sum(axis=-1)[..., None, None] + np.zeros_like(total)
    return ratio(total, ever, where_empty=1.0)


def _gain(scores: FloatArray, floor: tuple[int, int] = (0, 0)) -> FloatArray:
    """What `(..., S, 3)` is more than without the network."""
    return scores - scores[..., floor[0], floor[1], None, None]


def _worth(counts: FloatArray, member: FloatArray, floor: tuple[int, int], images: int, seed: int) -> FloatArray:
    """`(S, 3)`: what each strength and threshold is worth beyond the floor, by resamples of so many images."""
    flat = counts.reshape(len(counts), -1)
    of_images = _gain(_mean_iou(counts), floor)
    loss = SCEPTIC * np.array(STRENGTHS)[:, None]

    def statistic(weights: FloatArray) -> FloatArray:
        sceptic, weights = weights[:, -1], weights[:, :-1]
        drawn = weights.sum(axis=1)
        doubt = (sceptic / (sceptic + drawn))[:, None, None]
        worth = np.zeros((len(weights), *of_images.shape[1:]))
        scenes = np.zeros((len(weights), 1, 1))
        for scene in member:
            gain = _gain(_mean_iou((weights * scene @ flat).reshape(-1, *counts.shape[1:])), floor)
            present = (weights @ scene > 0)[:, None, None]
            worth += present * utility((1 - doubt) * gain - doubt * loss)
            scenes += present
        mean = np.tensordot(weights, of_images, axes=1) / np.maximum(drawn, 1)[:, None, None]
        return worth / np.maximum(scenes, 1) + utility((1 - doubt) * mean - doubt * loss)

    return np.asarray(resample(statistic, len(counts) + 1, drawn=images + 1, seed=seed).mean(axis=0))
