"""What a set of maps tells about its logits without labels: all that the choice of a threshold knows.

Everything is counted in integers and adds up: the statistics of a set are the same whatever the order of the maps and
the number of parts or processes.
"""

from __future__ import annotations

from collections.abc import Iterable
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

_PHASES = (0, 1, 1, 0)
"""Where counting starts in each of four rows: all places in 2×2 px, which networks may tell apart, count alike."""
_BLOCK = 1 << 15  # pixels at once
_FINE = 256  # steepness is summed in 1/256 of a logit, as an integer
_STEEPEST = 64.0


@dataclass(frozen=True, slots=True)
class LogitStatistics:
    """Statistics of one map or many; the sum of two is that of both together.

    Attributes:
        counts: `(BINS,)` int64, every second valid pixel by its logit.
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
        """Pixels that were counted."""
        return int(self.counts.sum())


def no_statistics() -> LogitStatistics:
    """The statistics of no pixel, to add to."""
    return LogitStatistics(np.zeros(BINS, np.int64), np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64))


def measure(logits: FloatMap) -> LogitStatistics:
    """Measure a map, `(H, W)` float32 with NaN where invalid, or a band of one.

    Of each row, every second pixel is counted: neighbours say much the same. See `_PHASES`.
    """
    halves = _upper_halves(logits)
    counts = _count(halves[row :: len(_PHASES), first::2] for row, first in enumerate(_PHASES))
    return LogitStatistics(counts, *measure_steepness(logits))


def count_logits(logits: FloatMap) -> NDArray[np.int64]:
    """Count all pixels of a map of any shape, float32 with NaN where invalid, by their logit: `(BINS,)` int64.

    The upper half of a float32 (a bfloat16, with 8 bits of precision) is counted as it lies in memory, and a table
    brings the 65,536 counts into `BINS` bins. Logits beyond ±4 may land in the bin beside their own.
    """
    return _count([_upper_halves(logits.reshape(-1))])


def _upper_halves(logits: FloatMap) -> NDArray[np.uint16]:
    return np.ascontiguousarray(logits, np.float32).view(np.uint16)[..., _UPPER_HALF::2]


def _count(planes: Iterable[NDArray[np.uint16]]) -> NDArray[np.int64]:
    """`(BINS,)` pixels by the upper halves of their logits."""
    keys = scratch("logit keys", (1 << 16,), np.int64)
    keys.fill(0)
    for plane in planes:
        rows = max(_BLOCK // max(plane[:1].size, 1), 1)
        for start in range(0, len(plane), rows):
            part = plane[start : start + rows]
            place = scratch("logit place", part.shape, np.intp)
            np.copyto(place, part)
            np.add.at(keys, place.reshape(-1), 1)
    starts, bins = _runs_of_keys()
    counts = np.zeros(BINS + 1, np.int64)
    np.add.at(counts, bins, np.add.reduceat(keys, starts))
    return counts[:BINS]


def measure_steepness(logits: FloatMap) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How steep a map `(H, W)` is where its logit has a given value: `(LEVELS,)` int64, cells and summed steepness.

    Both by the cells' mean logit, see `LogitStatistics`.
    """
    height, width = (side // CELL for side in logits.shape)
    if min(height, width) < 3:
        return np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64)
    means, gradient = _cell_gradients(hold(logits), height, width)
    np.minimum(gradient, np.float32(_STEEPEST), out=gradient)
    gradient *= np.float32(_FINE)
    np.rint(gradient, out=gradient)
    means *= np.float32(2)
    means += np.float32(LEVELS // 2)
    np.clip(means, 0, LEVELS - 1, out=means)
    invalid = np.isnan(gradient)
    invalid |= np.isnan(means)
    invalid.reshape(-1, width)[:, [0, -1]] = True  # their neighbours are of another row
    gradient[invalid], means[invalid] = 0, LEVELS
    level = means.astype(np.intp)
    cells = np.bincount(level, minlength=LEVELS + 1)[:LEVELS]
    return cells, np.bincount(level, weights=gradient, minlength=LEVELS + 1)[:LEVELS].astype(np.int64)


def _cell_gradients(logits: FloatMap, height: int, width: int) -> tuple[FloatMap, FloatMap]:
    """Mean logits of so many rows and columns of cells, less the first and last row, and the gradients between them.

    Both are flat, good until the next call, and at the ends of rows the gradients are of no meaning.
    """
    rows = scratch("cell rows", (height, CELL * width), np.float32)
    whole = logits[: CELL * height, : CELL * width]
    np.add(whole[0::CELL], whole[1::CELL], out=rows)
    rows += whole[2::CELL]
    rows += whole[3::CELL]
    means = scratch("cell means", (height, width), np.float32)
    np.add(rows[:, 0::CELL], rows[:, 1::CELL], out=means)  # far faster than a sum over an axis of four
    means += rows[:, 2::CELL]
    means += rows[:, 3::CELL]
    means *= np.float32(1 / CELL**2)
    flat, inner = means.reshape(-1), slice(width, -width)
    down = np.subtract(flat[2 * width :], flat[: -2 * width], out=scratch("down", flat[inner].shape, np.float32))
    across = np.subtract(flat[width + 1 : 1 - width], flat[width - 1 : -1 - width])
    across *= across
    down *= down
    across += down
    gradient = np.sqrt(across, out=across)
    gradient *= np.float32(0.5)
    return flat[inner], gradient


@cache
def _runs_of_keys() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where runs of keys, the upper halves of float32, of one bin start, and which bin that is; `BINS` for NaN."""
    bits = np.arange(1 << 16, dtype=np.uint32) << 16
    smallest = bits.view(np.float32)  # in magnitude
    with np.errstate(invalid="ignore"):
        middle = np.clip((bits | 0x8000).view(np.float32), -LIMIT, LIMIT).astype(np.float64)
    place = np.floor(np.nan_to_num(middle) * PER_LOGIT) + BINS // 2
    bins: NDArray[np.intp] = np.minimum(place, BINS - 1).astype(np.intp)
    bins[smallest == 0] = BINS // 2 - 1  # a logit of 0 is not above a threshold of 0.5
    bins[smallest == np.inf], bins[smallest == -np.inf] = BINS - 1, 0
    bins[np.isnan(smallest)] = BINS
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    return starts, bins[starts]


_UPPER_HALF = 1 if np.little_endian else 0
