"""Masks from class activation maps, and from what else is known of an image: its tags, its edges, what stands out.

The evidence of a class is its activation, cut off below 0 and divided by a peak. The background has a constant score;
a pixel belongs to whatever has the greatest score (FBR, arXiv 2406.15755, after PSA and IRN). A class that an image's
tags do not name is impossible there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE

FloatMaps = NDArray[np.float32]

BACKGROUND = 0.10
"""Score of the background in FBR's paper."""
SHARPNESS = 3
"""Power of a score in its probability: of several classes, one that leads should have more than half."""
USUAL_BACKGROUND = 0.3
"""The score of the background where nothing tells a better one."""

_NOTHING, _ALL = 0.44, 0.12  # score of the background where tags account for nothing of the images, and for all
_LEAST = np.float32(1e-4)


def evidence(activations: FloatMaps, peaks: NDArray[np.floating]) -> FloatMaps:
    """Activations `(C, h, w)`, NaN invalid, as evidence from 0 to 1: 1 at the peak of each class, `(C,)`.

    A class without a peak, at most 0, has no evidence.
    """
    scale = np.divide(1, peaks, out=np.zeros(len(peaks)), where=peaks > 0)
    found: FloatMaps = np.clip(activations * scale[:, None, None].astype(np.float32), 0, 1)
    return found


def class_scores(
    found: FloatMaps,
    background: float | None,
    *,
    possible: NDArray[np.bool_] | None = None,
    saliency: FloatMaps | None = None,
) -> FloatMaps:
    """The scores of all classes as probabilities: the part of each in the sum of their powers, see `SHARPNESS`.

    Args:
        found: `(C, h, w)` evidence, NaN invalid.
        background: its score; None where every pixel belongs to a class.
        possible: `(C,)`; classes that are not get a probability of 0. All are possible if None.
        saliency: `(h, w)` from 0 to 1, how much a pixel stands out; the background's score is at least the rest to 1.

    Returns:
        `(C + 1, h, w)` float32 that add up to 1, the background first; `(C, h, w)` without one. NaN where invalid.
    """
    scores = np.maximum(found, _LEAST)
    if possible is not None:
        scores[~possible] = np.where(np.isnan(scores[~possible]), np.nan, 0)
    if background is not None:
        rest = np.full(found.shape[1:], background, np.float32)
        if saliency is not None:
            rest = np.maximum(rest, 1 - saliency)
        scores = np.concatenate((rest[None], scores))
    scores = scores**SHARPNESS
    total = scores.sum(axis=0)
    parts: FloatMaps = np.divide(scores, total, out=np.full_like(scores, np.nan), where=total > 0)
    return parts


@dataclass(frozen=True, slots=True)
class WeakLabels:
    """Masks from class scores.

    Attributes:
        classes: `(h, w)` uint8: the class of the greatest score; 255 where invalid.
        labels: the same, 255 where undecided, too.
        confidence: `(h, w)` float32: the probability of the class; NaN where invalid.
    """

    classes: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    confidence: FloatMaps


def decide_labels(scores: FloatMaps, ratio: float = 1.0, *, saliency: FloatMaps | None = None) -> WeakLabels:
    """Choose the class of every pixel, or none.

    Args:
        scores: `(C, h, w)` that add up to 1, see `class_scores`.
        ratio: a pixel is decided where the greatest score is this many times the second.
        saliency: where a pixel stands out, above 0.5, and no class claims it, it is undecided.
    """
    invalid = np.isnan(scores).any(axis=0)
    chosen = scores.argmax(axis=0).astype(np.uint8)
    confidence = scores.max(axis=0)
    second = np.partition(scores, -2, axis=0)[-2] if len(scores) > 1 else np.zeros_like(confidence)
    with np.errstate(invalid="ignore"):
        undecided = confidence < ratio**SHARPNESS * second
        if saliency is not None:
            undecided |= (chosen == 0) & (saliency > 0.5)
    classes = np.where(invalid, np.uint8(IGNORE), chosen)
    confidence[invalid] = np.nan
    return WeakLabels(classes, np.where(undecided, np.uint8(IGNORE), classes), confidence)


def mean_evidence(found: FloatMaps) -> NDArray[np.float64]:
    """`(C,)` means of evidence `(C, h, w)` over the pixels of each class that are known; 0 where none is."""
    known = ~np.isnan(found)
    return np.asarray(
        np.where(known, found, 0).sum(axis=(1, 2), dtype=np.float64) / np.maximum(known.sum(axis=(1, 2)), 1)
    )


def account_for(means: NDArray[np.floating], tagged: NDArray[np.bool_]) -> float:
    """The part of the images, 0 to 1, that their tags account for, about: what the evidence of classes is more there.

    By the mean evidence of each class in each image, `(n, C)`, see `mean_evidence`, and whether the image has its tag.
    """
    there, elsewhere = ((means * part).sum(axis=0) / np.maximum(part.sum(axis=0), 1) for part in (tagged, ~tagged))
    return float(np.clip(((there - elsewhere) * tagged.mean(axis=0)).sum(), 0, 1))


def choose_background(means: NDArray[np.floating], tagged: NDArray[np.bool_]) -> float:
    """A background score without labels: the more of the images their tags account for, the lower.

    The line was fitted to the learned tiles of four sets (`bench/weak_background.py`). Arguments as of `account_for`.
    """
    return _NOTHING - (_NOTHING - _ALL) * account_for(means, tagged)
