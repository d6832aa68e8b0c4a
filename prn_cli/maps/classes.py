"""A softmax of several classes as binary maps, one a class, and back.

The one-versus-rest logit of class c is the logit of its softmax probability:

    u_c = log(p_c / (1 - p_c)) = z_c - log Σ_{k≠c} exp(z_k)

so any binary method can work on it as on the logits of a binary model. Refined logits v_c go back together as

    p'_c = σ(v_c) / Σ_k σ(v_k)

of which the greatest is that of the greatest v_c. What is left alone stays as it is: σ(u_c) = p_c and Σ p_k = 1, so
v = u gives p' = p, and the class is the base model's. Of two classes, u_0 = -u_1; if the method treats them alike
(v_0 = -v_1), then p'_1 = σ(v_1), as though the map had been binary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.probabilities import logit

FloatMaps = NDArray[np.float32]

MOST_CLASSES = 255
"""Classes are numbered 0 to 254 in uint8; 255 is invalid."""


def one_versus_rest(logits: FloatMaps) -> FloatMaps:
    """The logit of every class against all others.

    Args:
        logits: `(C, h, w)` float32 of a softmax, C at least 2; NaN in all classes where invalid.

    Returns:
        `(C, h, w)` float32. The class with the greatest logit, the first of several, has the greatest one here, too,
        and alone: rounding changes no pixel's class.
    """
    winner = np.nan_to_num(logits, nan=-np.inf).argmax(axis=0)[None]
    top = np.take_along_axis(logits, winner, axis=0)
    shares = np.exp(logits - top)
    result = logits - top - np.log(np.maximum(shares.sum(axis=0) - shares, np.float32(1)))
    others = logits.copy()
    np.put_along_axis(others, winner, -np.inf, axis=0)
    second = others.max(axis=0)
    rest = np.log(np.exp(others - second).sum(axis=0))
    np.put_along_axis(result, winner, top - second - rest, axis=0)
    return _keep_order(result, winner)


def one_versus_rest_of(probabilities: FloatMaps) -> FloatMaps:
    """As `one_versus_rest`, of the probabilities of a softmax, which are clipped to [1e-6, 1 - 1e-6]."""
    winner = np.nan_to_num(probabilities, nan=-np.inf).argmax(axis=0)[None]
    return _keep_order(logit(probabilities), winner)


def _keep_order(logits: FloatMaps, winner: NDArray[np.intp]) -> FloatMaps:
    """Lift the winner's logit above all others, where rounding or clipping has made it one of them."""
    top = np.take_along_axis(logits, winner, axis=0)
    others = logits.copy()
    np.put_along_axis(others, winner, -np.inf, axis=0)
    least = np.nextafter(others.max(axis=0), np.float32(np.inf))
    np.put_along_axis(logits, winner, np.maximum(top, least), axis=0)
    return logits


def recombine(refined: FloatMaps) -> FloatMaps:
    """Probabilities of the classes, `(C, h, w)` that add up to 1, from their refined one-versus-rest logits."""
    # log σ(v), so that a pixel that every class disowns still has a sum to divide by.
    logs = np.minimum(refined, 0) - np.log1p(np.exp(-np.abs(refined)))
    logs -= logs.max(axis=0)
    shares = np.exp(logs)
    shares /= shares.sum(axis=0)
    return np.asarray(shares, np.float32)


def choose(scores: FloatMaps, offsets: Sequence[float] = ()) -> NDArray[np.uint8]:
    """The class of every pixel, `(h, w)` uint8: that of the greatest score `(C, h, w)`, the first of several.

    255 where a score is NaN. Offsets, if there are any, are taken from the scores of each class before.
    """
    if offsets:
        scores = scores - np.array(offsets, np.float32)[:, None, None]
    invalid = np.isnan(scores).any(axis=0)
    chosen: NDArray[np.uint8] = scores.argmax(axis=0).astype(np.uint8)
    chosen[invalid] = IGNORE
    return chosen


def masks_of(chosen: NDArray[np.uint8], classes: int) -> list[NDArray[np.uint8]]:
    """The mask of each class against the rest, `(h, w)` uint8 each: 0, 1, 255 ignore; from class numbers."""
    ignored = chosen == IGNORE
    return [np.where(ignored, np.uint8(IGNORE), (chosen == number).view(np.uint8)) for number in range(classes)]
