"""The chain of SegRefiner (arXiv 2312.12425, section 3): pixels turn from the target to the coarse mask, and back.

A pixel is fine, where it shows the target, or coarse, where it shows the coarse mask. Step by step fine pixels turn
coarse, and coarse ones never fine: Q_t = [[β_t, 1 - β_t], [0, 1]]. After step t a pixel is still fine with probability
β̄_t = β_0 · … · β_t. The way back asks a network for the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatMap = NDArray[np.float32]

_FIRST = 0.8


def fine_shares(steps: int) -> NDArray[np.float64]:
    """β̄ of each step, from 0.8 to 0 in equal parts; of a single step, 0."""
    return np.linspace(0, _FIRST, steps)[::-1]


def diffuse(target: NDArray[Any], coarse: NDArray[Any], share: float | NDArray[Any], noise: FloatMap) -> NDArray[Any]:
    """The state in which a share β̄ of the pixels is fine, by uniform noise of the same shape."""
    return np.where(noise < share, target, coarse)


def confidence(logits: FloatMap) -> FloatMap:
    """How sure the network is of a pixel, 0 to 1: 2 · |σ(z) - ½|."""
    return np.abs(np.tanh(logits / 2))


def refining_probability(sure: FloatMap, step: int, shares: NDArray[np.float64]) -> FloatMap:
    """Probability that a coarse pixel turns fine on the way back from a step, by how sure the network is of it."""
    here = np.float32(shares[step])
    before = np.float32(shares[step - 1] if step else 1)
    return np.asarray(sure * (before - here) / (1 - sure * here), np.float32)


def accumulate(fine: FloatMap, probability: FloatMap) -> FloatMap:
    """Probability of having turned fine up to now, from that up to the step before and that of this step."""
    return fine + (1 - fine) * probability


def restore(
    predict: Callable[[FloatMap, int], FloatMap],
    coarse: FloatMap,
    steps: Iterable[int],
    shares: NDArray[np.float64],
    noise: Callable[[int], FloatMap],
) -> tuple[FloatMap, FloatMap]:
    """Go back from coarse masks.

    Args:
        predict: gives the logits of the target from masks `(N, h, w)` of 0 and 1, and the step.
        coarse: `(N, h, w)` float32, 0 and 1.
        steps: in their order, from the last on.
        shares: see `fine_shares`.
        noise: uniform numbers of a step, shaped as the masks.

    Returns:
        The logits of the last of these steps, and the probability that each pixel turned fine up to there.
    """
    masks, fine, logits = coarse, np.zeros_like(coarse), np.zeros_like(coarse)
    waiting = list(steps)
    for number, step in enumerate(waiting, 1):
        logits = predict(masks, step)
        fine = accumulate(fine, refining_probability(confidence(logits), step, shares))
        if number < len(waiting):
            masks = np.where(noise(step) < fine, logits >= 0, coarse).astype(np.float32)
    return logits, fine
