"""What a set of maps tells about its logits without labels: all that the choice of a threshold knows.

Everything is counted in integers and adds up: the statistics of a set are the same whatever the order of the maps and
the number of parts or processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.certain import hold
from prn_cli.thresholding.thresholds import scratch

FloatMap = NDArray[np.float32]
FloatArray = NDArray[np.float64]

PER_LOGIT = 32
"""Bins a unit of the logit: 1/128 of a probability near 0.5, 3 % of one near 0 or 1."""
LIMIT = 16
"""Logits beyond ±16 fall into the outermost bins: probabilities of 1e-7."""
BINS = 2 * LIMIT * PER_LOGIT
EDGES: FloatArray = np.arange(-LIMIT * PER_LOGIT, LIMIT * PER_LOGIT + 1) / PER_LOGIT
"""`(BINS + 1,)`: bin b holds the logits from `EDGES[b]` to `EDGES[b + 1]`."""
CENTRES: FloatArray = (EDGES[:-1] + EDGES[1:]) / 2
LEVELS = 4 * LIMIT
"""Steepness is summed by half units of the logit."""
CELL = 4
"""Side of the cells whose mean logits steepness is measured between, px."""

_BLOCK = 1 << 15  # pixels at once
_FINE = 256  # steepness is summed in 1/256 of a logit, as an integer
_STEEPEST = 64.0


@dataclass(frozen=True, slots=True)
class LogitStatistics:
    """Statistics of one map or many; the sum of two is that of both together.

    Attributes:
        counts: `(BINS,)` int64, valid pixels by their logit.
        cells: `(LEVELS,)` int64, 4×4 px cells by their mean logit, where all neighbours are valid.
        steepness: `(LEVELS,)` int64, sum of these cells' gradients, in 1/256 of a logit a cell.
    """

    counts: NDArray[np.int64]
    cells: NDArray[np.int64]
    steepness: NDArray[np.int64]

    def __add__(self, other: LogitStatistics) -> LogitStatistics:
        """The statistics of both."""
        return LogitStatistics(self.counts + other.counts, self.cells + other.cells, self.steepness + other.steepness)

    @property
    def pixels(self) -> int:
        """Valid pixels."""
        return int(self.counts.sum())


def no_statistics() -> LogitStatistics:
    """The statistics of no pixel, to add to."""
    return LogitStatistics(np.zeros(BINS, np.int64), np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64))


def measure(logits: FloatMap) -> LogitStatistics:
    """Measure a map, or a band of one.

    Args:
        logits: `(H, W)` float32, NaN where invalid.
    """
    cells, steepness = measure_steepness(logits)
    return LogitStatistics(count_logits(logits), cells, steepness)


def count_logits(logits: FloatMap) -> NDArray[np.int64]:
    """Count pixels by their logit.

    The upper half of a float32 (a bfloat16, with 8 bits of precision) is counted as it lies in memory, and a table
    brings the 65,536 counts into `BINS` bins. Logits beyond ±4 may land in the bin beside their own.

    Args:
        logits: any shape, float32, NaN where invalid.

    Returns:
        `(BINS,)` int64.
    """
    halves = np.ascontiguousarray(logits, np.float32).reshape(-1).view(np.uint16)[_UPPER_HALF::2]
    keys = np.zeros(1 << 16, np.int64)
    for start in range(0, len(halves), _BLOCK):
        part = halves[start : start + _BLOCK]
        place = scratch("logit place", part.shape, np.intp)
        np.copyto(place, part)
        np.add.at(keys, place, 1)
    return np.bincount(_bins_of_keys(), weights=keys, minlength=BINS + 1)[:BINS].astype(np.int64)


def measure_steepness(logits: FloatMap) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How steep a map is where its logit has a given value.

    Args:
        logits: `(H, W)` float32, NaN where invalid.

    Returns:
        Cells and summed steepness by the cells' mean logit, `(LEVELS,)` int64 each; see `LogitStatistics`.
    """
    height, width = (side // CELL * CELL for side in logits.shape)
    cells, steepness = np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64)
    if min(height, width) < 3 * CELL:
        return cells, steepness
    means, gradient = _cell_gradients(hold(logits), height, width)
    inner = means[1:-1, 1:-1]
    valid = np.isfinite(gradient) & np.isfinite(inner)
    level = np.clip(np.floor(inner[valid] * 2) + LEVELS // 2, 0, LEVELS - 1).astype(np.intp)
    fine = np.rint(np.minimum(gradient[valid], _STEEPEST) * _FINE)
    cells += np.bincount(level, minlength=LEVELS)
    steepness += np.bincount(level, weights=fine, minlength=LEVELS).astype(np.int64)
    return cells, steepness


def _cell_gradients(logits: FloatMap, height: int, width: int) -> tuple[FloatMap, FloatMap]:
    """Mean logits of all cells, `(h, w)`, and the gradients between them, `(h - 2, w - 2)`."""
    rows = logits[0:height:CELL, :width] + logits[1:height:CELL, :width]
    rows += logits[2:height:CELL, :width]
    rows += logits[3:height:CELL, :width]
    means = rows[:, 0::CELL] + rows[:, 1::CELL]  # far faster than a sum over an axis of four
    means += rows[:, 2::CELL]
    means += rows[:, 3::CELL]
    means *= np.float32(1 / CELL**2)
    across, down = means[1:-1, 2:] - means[1:-1, :-2], means[2:, 1:-1] - means[:-2, 1:-1]
    gradient = np.sqrt(across * across + down * down) / np.float32(2)
    return means, gradient


@cache
def _bins_of_keys() -> NDArray[np.intp]:
    """`(65536,)`: the bin of every upper half of a float32; `BINS` for NaN."""
    bits = np.arange(1 << 16, dtype=np.uint32) << 16
    smallest = bits.view(np.float32)  # in magnitude
    with np.errstate(invalid="ignore"):
        middle = np.clip((bits | 0x8000).view(np.float32), -LIMIT, LIMIT).astype(np.float64)
    place = np.floor(np.nan_to_num(middle) * PER_LOGIT) + BINS // 2
    bins: NDArray[np.intp] = np.minimum(place, BINS - 1).astype(np.intp)
    bins[smallest == 0] = BINS // 2 - 1  # a logit of 0 is not above a threshold of 0.5
    bins[smallest == np.inf], bins[smallest == -np.inf] = BINS - 1, 0
    bins[np.isnan(smallest)] = BINS
    return bins


_UPPER_HALF = 1 if np.little_endian else 0
