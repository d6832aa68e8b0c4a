"""Pseudo-labels: what a map's per-patch thresholds make of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prn_cli.thresholds import best_thresholds

__all__ = ["apply_thresholds", "best_thresholds"]


def apply_thresholds(
    probabilities: NDArray[np.float32], thresholds: NDArray[np.float32], *, patch: int
) -> NDArray[np.uint8]:
    """Cut every patch at its threshold: `(H, W)` uint8, 1 where p > t, 0 elsewhere, 255 where p is NaN."""
    height, width = probabilities.shape
    spread = np.repeat(np.repeat(thresholds, patch, axis=0)[:height], patch, axis=1)[:, :width]
    result = (probabilities > spread).astype(np.uint8)
    result[np.isnan(probabilities)] = 255
    return result
