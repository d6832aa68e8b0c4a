"""Several refiners one after the other: each reads what the one before has finished, by windows, as it comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prn_cli.maps.certain import hold
from prn_cli.maps.tiles import AxisPlan, WholeRows, Window, row_bands
from prn_cli.methods.refiner import FloatMap, Windows
from prn_cli.refinement.links import How, Link, Order, Piece, Ramp
from prn_cli.refinement.strips import ReadPlanes, refine_link


@dataclass(frozen=True)
class Chain:
    """Links over one map.

    Attributes:
        read: gives the map's planes: logits, then the bands of the image, and at the end, if there are several links,
            the logits again, which are handed on through all of them.
        planes: how many there are.
        size: height and width of the map.
        links: in their order; at least one.
        how: to go about it.
    """

    read: ReadPlanes
    planes: int
    size: tuple[int, int]
    links: Sequence[Link]
    how: How

    def pieces(self, section: slice, overviews: Sequence[Any]) -> Generator[Piece | Ramp]:
        """What the last link finishes of a section of its rows of windows; `kept` are the map's logits.

        By columns from the top, rows of the links before would wait until the last column, so a chain goes across.
        """
        several = len(self.links) > 1
        how = replace(self.how, order=Order.ACROSS) if several and self.how.order is Order.DOWN else self.how
        keep = slice(self.planes - 1, self.planes) if several else slice(0, 1)
        chain = replace(self, how=how)
        yield from chain._link(len(self.links) - 1, section, keep, overviews)

    def _link(self, number: int, section: slice, keep: slice, overviews: Sequence[Any]) -> Generator[Piece | Ramp]:
        link = self.links[number]
        with closing(self._input(number, section, overviews)) as given:
            yield from refine_link(
                given.read,
                self.planes,
                self.size,
                link,
                self.how,
                section=section,
                keep=keep,
                overview=overviews[number],
            )

    def _input(self, number: int, section: slice, overviews: Sequence[Any]) -> FinishedRows | Source:
        """What a link reads: the map, or what the link before it has finished."""
        if number == 0:
            return Source(self.read)
        height, width = self.size
        spans = self._rows(number).spans[section]
        start, end = spans[0].start, min(spans[-1].end, height)
        above = rows_for(self._rows(number - 1), start, end)
        return FinishedRows(self._link(number - 1, above, slice(1, None), overviews), start, width)

    def _rows(self, number: int) -> AxisPlan:
        return self.links[number].plan(*self.size, self.how.shift)[0]

    def overviews(self) -> tuple[Any, ...]:
        """What each link must know of its whole map before its windows come; None for those that need nothing.

        For a link in the middle of the chain, the links before it are run on the whole map.
        """
        found: list[Any] = []
        for number, link in enumerate(self.links):
            needs, side = link.refiner.needs, link.refiner.overview_side(*self.size)
            if not side:
                found.append(None)
                continue
            with closing(self._input(number, slice(None), found)) as given:
                reduced = reduce_map(given.read, 1 + needs.bands, self.size, side)
            image = reduced[np.newaxis, 1:] if needs.bands else None
            windows = Windows(reduced[:1], image, size=self.size, seed=self.how.seed)
            found.append(link.refiner.overview(windows))
        return tuple(found)


class Source:
    """The map as the first link reads it."""

    def __init__(self, read: ReadPlanes) -> None:
        self.read = read

    def close(self) -> None:
        """Nothing is open."""


class FinishedRows:
    """Rows that a link finishes, read by windows that go down the map, and in each row of windows to the right.

    Rows wait until a window that reaches the right border has read them.

    Args:
        pieces: of the link, from the top.
        start: first row that is read.
        width: of the map.
    """

    def __init__(self, pieces: Generator[Piece | Ramp], start: int, width: int) -> None:
        self._pieces, self._start, self._width = pieces, start, width
        self._whole: WholeRows[FloatMap] = WholeRows(width, lambda parts: np.concatenate(parts, axis=2))
        self._rows: deque[tuple[int, FloatMap]] = deque()  # first row, and planes

    def read(self, window: Window) -> Sequence[FloatMap]:
        """The planes of a window: refined logits, and what the link has handed on."""
        while not self._rows or _end(*self._rows[-1]) < window.bottom:
            self._take(next(self._pieces))
        columns = slice(window.x, window.x + window.width)
        parts = [
            planes[:, max(window.y - y, 0) : window.bottom - y, columns]
            for y, planes in self._rows
            if y < window.bottom and _end(y, planes) > window.y
        ]
        if columns.stop == self._width:
            while self._rows and _end(*self._rows[0]) <= window.bottom:
                self._rows.popleft()
        return list(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))

    def _take(self, piece: Piece | Ramp) -> None:
        if isinstance(piece, Ramp):  # at the edges of a section, whose rows are not read
            return
        planes = np.concatenate([piece.refined[np.newaxis], piece.kept])
        rows = self._whole.add(planes, piece.y, piece.x, planes.shape[2])
        if rows is not None and _end(piece.y, rows) > self._start:
            self._rows.append((piece.y, rows))

    def close(self) -> None:
        """End the link's work."""
        self._pieces.close()


def _end(y: int, planes: FloatMap) -> int:
    """One past the last row of planes from row `y` on."""
    return y + int(planes.shape[1])


def rows_for(plan: AxisPlan, start: int, end: int) -> slice:
    """The fewest rows of windows that together finish these rows of a map."""
    first = max(i for i, span in enumerate(plan.spans) if i == 0 or span.keep + plan.ramp <= start)
    stop = next(i for i, span in enumerate(plan.spans) if span.stop == plan.size or span.stop - plan.ramp >= end)
    return slice(first, max(stop, first) + 1)


def reduce_map(read: ReadPlanes, planes: int, size: tuple[int, int], side: int) -> FloatMap:
    """A copy of a map of at most `side` px a side: the means of the valid pixels of cells, NaN where there are none.

    Args:
        read: gives the planes of a window; each row of the map is read once.
        planes: how many of them to reduce.
        size: height and width of the map.
        side: longest side, px.

    Returns:
        `(planes, h, w)` float32.
    """
    height, width = size
    rows, columns = min(height, side), min(width, side)
    first_columns = -(-np.arange(columns) * width // columns)
    total = np.zeros((2, planes, rows, columns))
    for band in row_bands(height, width):
        found = np.stack(read(band)[:planes])
        found[0] = hold(found[0])
        valid = np.isfinite(found)
        cells = np.arange(band.y, band.bottom) * rows // height
        for sums, values in zip(total, (np.where(valid, found, 0), valid), strict=True):
            of_columns = np.add.reduceat(values, first_columns, axis=2, dtype=np.float64)
            for row, cell in enumerate(cells):
                sums[:, cell] += of_columns[:, row]
    with np.errstate(invalid="ignore"):
        return np.asarray(total[0] / total[1], np.float32)
