"""The nearest foreground pixel of every pixel, exactly, with NumPy alone.

The squared distance to the nearest foreground of a column is a parabola in the column's number, and the lower envelope
of all columns' parabolas is the transform of a row (Felzenszwalb and Huttenlocher 2012, "Distance Transforms of
Sampled Functions", section 2.1). All rows of an image go through it side by side, in integers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Nearest(NamedTuple):
    """The nearest foreground pixel of every pixel; of several, the leftmost, and of these the topmost.

    Attributes:
        squared: `(H, W)` int64, its squared Euclidean distance between pixel centres.
        rows: `(H, W)` int64.
        columns: `(H, W)` int64.
    """

    squared: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]


def nearest_foreground(mask: NDArray[np.bool_]) -> Nearest:
    """Find the nearest foreground pixel of every pixel, by Euclidean distance.

    Args:
        mask: `(H, W)` booleans, some of them true.

    Raises:
        ValueError: no pixel is true.
    """
    filled = np.flatnonzero(mask.any(axis=0))
    if not len(filled):
        raise ValueError("no foreground pixel, expected at least one")
    inside = _nearest_rows(mask[:, filled])
    heights = (inside - np.arange(len(mask))[:, None]) ** 2
    chosen = _lowest(heights, filled, mask.shape[1])
    columns = filled[chosen]
    squared = np.take_along_axis(heights, chosen, axis=1) + (columns - np.arange(mask.shape[1])) ** 2
    return Nearest(squared, np.take_along_axis(inside, chosen, axis=1), columns)


def _nearest_rows(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The row of the nearest true pixel in the same column, the upper of two; every column has one."""
    height = len(mask)
    rows = np.arange(height)[:, None]
    far = 3 * height  # further away than any row
    above = np.maximum.accumulate(np.where(mask, rows, -far), axis=0)
    below = np.minimum.accumulate(np.where(mask, rows, far)[::-1], axis=0)[::-1]
    return np.where(rows - above <= below - rows, above, below)


def _lowest(heights: NDArray[np.int64], places: NDArray[np.intp], width: int) -> NDArray[np.intp]:
    """Which parabola is lowest at each of `width` columns, in every row; of several, the first.

    Args:
        heights: `(H, K)`, of the parabolas' feet.
        places: `(K,)`, their columns, ascending.
        width: columns.
    """
    count, parabolas = heights.shape
    # The envelope so far, a stack a row: which parabola, and the first column where it is below those before it.
    stack = np.zeros((count, parabolas), np.intp)
    begins = np.zeros((count, parabolas), np.int64)
    top = np.zeros(count, np.intp)
    for new in range(1, parabolas):
        begin = np.zeros(count, np.int64)
        rows = np.arange(count)  # those whose stack may end in a parabola that the new one hides
        while len(rows):
            last = stack[rows, top[rows]]
            rise = heights[rows, new] - heights[rows, last] + places[new] ** 2 - places[last] ** 2
            begin[rows] = np.maximum(rise // (2 * (places[new] - places[last])) + 1, 0)
            rows = rows[begin[rows] <= begins[rows, top[rows]]]
            top[rows] -= 1
            rows = rows[top[rows] >= 0]
        seen = np.flatnonzero(begin < width)
        top[seen] += 1
        stack[seen, top[seen]] = new
        begins[seen, top[seen]] = begin[seen]
    level = np.arange(parabolas)
    marks = np.zeros((count, width), np.intp)
    row, depth = np.nonzero((level[None, :] <= top[:, None]) & (level[None, :] > 0))
    marks[row, begins[row, depth]] = 1  # the first of a stack begins at column 0
    return np.take_along_axis(stack, marks.cumsum(axis=1), axis=1)
