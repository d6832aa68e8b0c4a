"""Coarse masks made from fine ones: few corners of their outlines are kept, then parts grow and shrink at random."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Points = NDArray[np.int64]

KEPT = 0.1
"""Part of the corners of an outline that is kept."""
WORST_IOU = 0.8
"""With the fine mask; rounds end when a coarse mask falls below it."""
_ROUNDS, _PARTS_OF_A_ROUND = 250, 4
_LARGEST_REACH = 4  # px that a part grows or shrinks at once: kernels are 3 to 9 px wide


def coarse_mask(mask: Mask, random: np.random.Generator) -> Mask:
    """A coarse mask for a fine one, `(h, w)`; without foreground, the mask itself."""
    if not mask.any():
        return mask
    kept = [_some(outline, random) for outline in outlines(mask)]
    coarse = fill(kept, mask.shape)
    for _ in range(_ROUNDS):
        if np.count_nonzero(coarse & mask) < WORST_IOU * np.count_nonzero(coarse | mask):
            break
        for _ in range(_PARTS_OF_A_ROUND):
            _change_part(coarse, random)
    return coarse


def outlines(mask: Mask) -> list[Points]:
    """The outlines of a mask, `(n, 2)` corners of pixels each, row and column, with every corner on the way.

    They are closed, and keep the foreground on the right.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    down, across = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    starts, ends = [], []
    for change, step in ((down, (0, 1)), (across, (1, 0))):
        for sign in (1, -1):
            here = np.argwhere(change == sign)
            there = here + step
            forth = (sign == 1) == (step == (0, 1))  # to the right above the foreground, down on its right side
            starts.append(here if forth else there)
            ends.append(there if forth else here)
    first, last = np.concatenate(starts), np.concatenate(ends)
    stride = mask.shape[1] + 1
    # As many edges end in a corner as begin there, so in the order of corners, each has one that follows it.
    following = np.empty(len(first), np.int64)
    following[np.argsort(last @ (stride, 1), kind="stable")] = np.argsort(first @ (stride, 1), kind="stable")
    return [first[cycle] for cycle in _cycles(following.tolist())]


def _cycles(following: list[int]) -> list[list[int]]:
    found, seen = [], bytearray(len(following))
    for start in range(len(following)):
        if seen[start]:
            continue
        cycle, at = [], start
        while not seen[at]:
            seen[at] = 1
            cycle.append(at)
            at = following[at]
        found.append(cycle)
    return found


def _some(outline: Points, random: np.random.Generator) -> Points:
    count = max(round(KEPT * len(outline)), 3)
    return outline[np.sort(random.choice(len(outline), count, replace=False))]


def fill(outlines: list[Points], shape: tuple[int, ...]) -> Mask:
    """The pixels `(h, w)` whose middle lies inside an odd number of closed outlines, `(n, 2)` corners each."""
    starts = np.concatenate(outlines)
    ends = np.concatenate([np.roll(outline, -1, axis=0) for outline in outlines])
    upward = starts[:, 0] > ends[:, 0]
    top, bottom = np.where(upward[:, None], ends, starts), np.where(upward[:, None], starts, ends)
    rows_each = bottom[:, 0] - top[:, 0]
    edge = np.repeat(np.arange(len(top)), rows_each)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(rows_each) - rows_each, rows_each) + top[edge, 0]
    slope = (bottom[edge, 1] - top[edge, 1]) / rows_each[edge]
    crossing = top[edge, 1] + (row + 0.5 - top[edge, 0]) * slope
    toggles = np.zeros((shape[0], shape[1] + 1), np.int64)
    np.add.at(toggles, (row, np.ceil(crossing - 0.5).astype(np.int64)), 1)
    return np.asarray(np.cumsum(toggles, axis=1)[:, :-1] % 2 == 1)


def _change_part(mask: Mask, random: np.random.Generator) -> None:
    """Grow or shrink the foreground of a random rectangle."""
    (top, left), (height, width) = (random.integers(side) for side in mask.shape), mask.shape
    part = mask[top : random.integers(top + 1, height + 1), left : random.integers(left + 1, width + 1)]
    reach = int(random.integers(1, _LARGEST_REACH + 1))
    away = np.arange(reach + 1)
    round_one = bool(random.integers(2))
    halves = np.sqrt(reach**2 - away**2).astype(np.int64) if round_one else np.full(reach + 1, reach)
    part[:] = grown(part, halves) if random.integers(2) else ~grown(~part, halves)


def grown(mask: Mask, halves: NDArray[np.int64]) -> Mask:
    """A mask grown by a kernel that is `2 · halves[d] + 1` px wide in the rows at a distance d from its middle."""
    height, width = mask.shape
    sums = np.zeros((height, width + 1), np.int32)
    np.cumsum(mask, axis=1, out=sums[:, 1:])
    columns = np.arange(width)
    result = np.zeros_like(mask)
    for away, half in enumerate(halves[:height]):
        run = sums[:, np.minimum(columns + half + 1, width)] > sums[:, np.maximum(columns - half, 0)]
        result[away:] |= run[: height - away]
        result[: height - away] |= run[away:]
    return result
