"""Small versions of maps, made band by band: means and shares over the cells of a coarse grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Cells:
    """A coarse grid over a map. Its cells are blocks of about equal size; in a small map each pixel is a cell.

    Args:
        height: rows of the map.
        width: columns of the map.
        side: at most this many cells along the longer side.
    """

    def __init__(self, height: int, width: int, side: int) -> None:
        scale = min(1.0, side / max(height, width))
        self.height, self.width = height, width
        self.shape = (max(1, round(height * scale)), max(1, round(width * scale)))

    def rows(self, first: int, count: int) -> NDArray[np.intp]:
        """`(count,)` the row of cells of each row of pixels, from row `first` on."""
        return np.arange(first, first + count) * self.shape[0] // self.height

    def columns(self) -> NDArray[np.intp]:
        """`(W,)` the column of cells of each column of pixels."""
        return np.arange(self.width) * self.shape[1] // self.width


class Mean:
    """The mean of a map over each cell, without NaN."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._total = np.zeros((2, *cells.shape))
        self._starts = np.flatnonzero(np.diff(cells.columns(), prepend=-1))

    def add(self, first: int, values: NDArray[np.floating[Any]]) -> None:
        """Add a band of whole rows, `(h, W)`, from row `first` of the map on."""
        valid = ~np.isnan(values)
        rows = self._cells.rows(first, len(values))
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        target = slice(rows[0], rows[-1] + 1)
        for total, numbers in zip(self._total, (np.where(valid, values, 0), valid), strict=True):
            narrow = np.add.reduceat(numbers, self._starts, axis=1, dtype=np.float64)
            total[target] += np.add.reduceat(narrow, starts, axis=0)

    def result(self) -> NDArray[np.float32]:
        """`(h, w)` float32; NaN in cells without a number."""
        total, count = self._total
        with np.errstate(invalid="ignore", divide="ignore"):
            return (total / count).astype(np.float32)


class Picked:
    """The value of the pixel in the middle of each cell, for class numbers, whose means say nothing."""

    def __init__(self, cells: Cells) -> None:
        self._values = np.zeros(cells.shape, np.uint8)
        sides = zip(cells.shape, (cells.height, cells.width), strict=True)
        self._rows, self._columns = (((np.arange(count) + 0.5) * side / count).astype(np.intp) for count, side in sides)

    def add(self, first: int, values: NDArray[np.uint8]) -> None:
        """Add a band of whole rows, `(h, W)`, from row `first` of the map on."""
        inside = np.flatnonzero((self._rows >= first) & (self._rows < first + len(values)))
        self._values[inside] = values[np.ix_(self._rows[inside] - first, self._columns)]

    def result(self) -> NDArray[np.uint8]:
        """`(h, w)` uint8."""
        return self._values


class Shares:
    """The share of each class in each cell.

    Args:
        cells: the grid.
        classes: how many classes there are.
    """

    def __init__(self, cells: Cells, classes: int) -> None:
        self._cells = cells
        self._classes = classes
        self._counts = np.zeros((*cells.shape, classes), np.int64)
        self._columns = cells.columns() * classes

    def add(self, first: int, codes: NDArray[np.uint8]) -> None:
        """Add a band of whole rows, `(h, W)`, of class numbers."""
        rows = self._cells.rows(first, len(codes))
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        place = codes + ((rows - top) * (self._cells.shape[1] * self._classes))[:, None]
        place += self._columns
        size = (bottom - top) * self._cells.shape[1] * self._classes
        self._counts[top:bottom] += np.bincount(place.ravel(), minlength=size).reshape(-1, *self._counts.shape[1:])

    def cells(self) -> NDArray[np.int64]:
        """`(h, w, classes)` pixels of each class in each cell."""
        return self._counts

    def counts(self) -> NDArray[np.int64]:
        """`(classes,)` pixels of each class in the whole map."""
        return np.asarray(self._counts.sum(axis=(0, 1)))

    def result(self) -> NDArray[np.float32]:
        """`(h, w, classes)` float32; the shares of a cell add up to 1."""
        return np.asarray(self._counts / self._counts.sum(axis=-1, keepdims=True), np.float32)
