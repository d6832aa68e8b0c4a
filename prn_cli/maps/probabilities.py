"""Logits to probabilities and back, in float32, and probabilities to masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE

SMALLEST_PROBABILITY = 1e-6
"""Probabilities are clipped to this and its complement before they become logits."""
MASK_PROBABILITY = 0.95
"""Of the foreground of masks that stand in place of scores."""


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-z)) in float32, without overflow; exact to rounding for small probabilities, too. NaN stays."""
    tail = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, np.float32(1), tail) / (1 + tail), np.float32)


def logit(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """log(p / (1 - p)) in float32, with p clipped to [1e-6, 1 - 1e-6]. NaN stays."""
    clipped = np.clip(probabilities, np.float32(SMALLEST_PROBABILITY), np.float32(1 - SMALLEST_PROBABILITY))
    return np.asarray(np.log(clipped) - np.log1p(-clipped), np.float32)


def mask_probabilities(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """0.05 for background, 0.95 for foreground, as sure as a mask is taken to be, and NaN where it is invalid."""
    probabilities = np.where(mask == 1, MASK_PROBABILITY, 1 - MASK_PROBABILITY).astype(np.float32)
    probabilities[mask == IGNORE] = np.nan
    return probabilities


def binarize(probabilities: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Cut a map of probabilities into a mask: foreground is above the threshold, strictly; NaN becomes 255."""
    mask = (probabilities > np.float32(threshold)).astype(np.uint8)
    mask[np.isnan(probabilities)] = IGNORE
    return mask
