"""The best threshold of every patch: on the paper's grid of 20, or exact over all values of the patch.

A patch is scored as in PatchRefineNet's optimal binarisation: IoU = (|label ∩ mask| + 1) / (|label ∪ mask| + 1).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Grid = Literal["paper", "exact"]

PAPER_GRID: NDArray[np.float32] = np.arange(1, 21, dtype=np.float32) / np.float32(20)
"""The paper's thresholds: 0.05, 0.10 … 1.00, float32."""


def best_thresholds(
    probabilities: NDArray[np.float32], labels: NDArray[np.uint8], *, patch: int, grid: Grid = "paper"
) -> NDArray[np.float32]:
    """Find the threshold of every patch that makes its mask most like the label."""
    height, width = probabilities.shape
    result = np.full((-(-height // patch), -(-width // patch)), np.nan, np.float32)
    for row, column in np.ndindex(*result.shape):
        area = (slice(row * patch, (row + 1) * patch), slice(column * patch, (column + 1) * patch))
        p, label = probabilities[area], labels[area]
        valid = (p == p) & (label != 255)
        if valid.any():
            result[row, column] = _best_threshold(p[valid], label[valid] != 0, grid)
    return result


def _best_threshold(p: NDArray[np.float32], label: NDArray[np.bool_], grid: Grid) -> np.float32:
    if grid == "paper":
        candidates = PAPER_GRID
    else:
        values = np.unique(p)
        candidates = np.concatenate(([np.nextafter(values[0], np.float32(-1))], values))
    best, best_score = candidates[-1], -1.0
    for t in candidates:
        mask = p > t
        both = int((mask & label).sum())
        score = (both + 1) / (int(label.sum()) + int(mask.sum()) - both + 1)
        if score > best_score:
            best, best_score = t, score
    return best
