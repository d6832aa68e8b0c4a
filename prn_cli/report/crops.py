"""Where an image is looked at closely: windows at full resolution, in which most pixels changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.tiles import Window

SIDE = 128
"""Of a crop, px."""
MOST = 2
"""Crops of an image."""
_SEARCHED = 1024  # px, side of the largest region that is read to place a crop


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an image at full resolution.

    Attributes:
        window: where it lies.
        pictures: as WebP, by panel: `image` or `scores`, `before`, `after`, `change`.
    """

    window: Window
    pictures: dict[str, bytes]


def busiest(
    counts: NDArray[Any], height: int, width: int, changed: Callable[[Window], NDArray[np.bool_]]
) -> Iterator[Window]:
    """Windows in which most pixels changed, the busiest first, without overlap; none of an image of one window's size.

    Args:
        counts: how many pixels changed in each cell of a coarse grid over the map: says where to look.
        height: rows of the map.
        width: columns of the map.
        changed: gives the changed pixels of a window of at most 1024 px a side, `(h, w)`: says where exactly.
    """
    sizes, sides = (height, width), (min(SIDE, height), min(SIDE, width))
    box = [max(side * cells // size, 1) for side, cells, size in zip(sides, counts.shape, sizes, strict=True)]
    found: list[Window] = []
    while sizes != sides and len(found) < MOST:
        place = _densest(counts, box, [_scaled(window, counts.shape, sizes) for window in found])
        if place is None:
            return
        spans = [_around(*axis) for axis in zip(place, box, counts.shape, sizes, sides, strict=True)]
        (top, bottom), (left, right) = spans
        region = Window(top, left, bottom - top, right - left)
        taken = [(w.y - top, w.x - left, w.y + w.height - top, w.x + w.width - left) for w in found]
        exact = _densest(changed(region), sides, taken)
        if exact is None:
            return
        found.append(Window(top + exact[0], left + exact[1], *sides))
        yield found[-1]


def _densest(
    counts: NDArray[Any], box: Sequence[int], taken: Sequence[tuple[int, int, int, int]]
) -> tuple[int, int] | None:
    """Where the box of the greatest sum begins that touches nothing taken; None if their sums are 0."""
    rows, columns = box
    total = np.pad(counts.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), ((1, 0), (1, 0)))
    sums = total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    for top, left, bottom, right in taken:
        sums[max(top - rows + 1, 0) : max(bottom, 0), max(left - columns + 1, 0) : max(right, 0)] = 0
    y, x = divmod(int(sums.argmax()), sums.shape[1])
    return (y, x) if sums[y, x] > 0 else None


def _scaled(window: Window, cells: Sequence[int], sizes: Sequence[int]) -> tuple[int, int, int, int]:
    """The cells that a window touches: first row and column, and one past the last."""
    (rows, height), (columns, width) = zip(cells, sizes, strict=True)
    bottom, right = window.bottom - 1, window.x + window.width - 1
    first = window.y * rows // height, window.x * columns // width
    return *first, bottom * rows // height + 1, right * columns // width + 1


def _around(first: int, length: int, cells: int, size: int, side: int) -> tuple[int, int]:
    """From which pixel to which some cells reach, and one more on either side; at least `side` px."""
    start, stop = (-(-np.clip(cell, 0, cells) * size // cells) for cell in (first - 1, first + length + 1))
    middle, reach = (start + stop) // 2, min(max(stop - start, side), _SEARCHED)
    start = min(max(middle - reach // 2, 0), size - reach)
    return int(start), int(start + reach)
