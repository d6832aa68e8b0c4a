"""Window plans in integers: where tiles lie on a map, and how far they look beyond themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

_SHORTEST_RAMP = 16
_BAND_PIXELS = 1 << 22
_BLOCK_PIXELS = 1 << 18

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels: `height` rows from row `y`, `width` columns from column `x`."""

    y: int
    x: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of this window in an `(H, W)` array. Only for windows inside the map."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    @property
    def bottom(self) -> int:
        """First row below the window."""
        return self.y + self.height


def block_rows(width: int) -> int:
    """Rows of a map of this width that make a block: what is made of it on the way stays in a processor's cache."""
    return max(_BLOCK_PIXELS // width, 1)


def row_bands(height: int, width: int, *, pixels: int = _BAND_PIXELS, block: int = 0) -> Iterator[Window]:
    """Cut a map into bands of about so many pixels: whole rows, a multiple of `block`, or else of `block_rows`."""
    block = block or block_rows(width)
    return cut_windows(height, width, max(pixels // (block * width), 1) * block, width)


def cut_windows(height: int, width: int, rows: int, columns: int) -> Iterator[Window]:
    """Cut a map into windows of so many rows and columns, from the top left; the last ones may be smaller."""
    for y in range(0, height, rows):
        for x in range(0, width, columns):
            yield Window(y, x, min(rows, height - y), min(columns, width - x))


class WholeRows(Generic[T]):
    """Pieces of the rows of a map, which come from the left; `join` puts those of the same rows side by side."""

    def __init__(self, width: int, join: Callable[[list[T]], T]) -> None:
        self._width, self._join = width, join
        self._parts: defaultdict[int, list[T]] = defaultdict(list)  # by row

    def add(self, piece: T, y: int, x: int, width: int) -> T | None:
        """Take a piece. If it was the last one of its rows, returns these rows; else None."""
        if x + width < self._width:
            self._parts[y].append(piece)
            return None
        return self._join([*self._parts.pop(y), piece]) if y in self._parts else piece


@dataclass(frozen=True, slots=True)
class Span:
    """One window along one axis of a plan, and the part of its result that is used.

    Attributes:
        start: first pixel of the window; a multiple of the plan's `multiple`.
        length: pixels of the window, a multiple too; the last window may reach beyond the map.
        keep: first pixel whose result is used.
        stop: one past the last pixel whose result is used; the next span's `keep` is `ramp` before it.
    """

    start: int
    length: int
    keep: int
    stop: int

    @property
    def end(self) -> int:
        """One past the last pixel of the window."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some neighbouring windows along one axis, which are worked on together.

    Attributes:
        spans: the windows, in order.
        start: first pixel of the first window.
        end: one past the last pixel of the last window that is on the map.
        keep: first pixel that is finished when the windows up to these are.
        stop: one past the last pixel that is.
    """

    spans: tuple[Span, ...]
    start: int
    end: int
    keep: int
    stop: int


@dataclass(frozen=True, slots=True)
class AxisPlan:
    """The windows along one axis of a map.

    Attributes:
        size: pixels of the map along this axis.
        ramp: pixels over which one window's result passes into the next one's.
        spans: the windows, in order.
    """

    size: int
    ramp: int
    spans: tuple[Span, ...]

    @property
    def longest(self) -> int:
        """Pixels of the longest window."""
        return max(span.length for span in self.spans)

    def stretches(self, most: int) -> tuple[Stretch, ...]:
        """The windows in groups of about equal size, of at most so many windows each."""
        count = -(-len(self.spans) // most)
        cuts = [len(self.spans) * number // count for number in range(count + 1)]
        groups = [self.spans[first:end] for first, end in pairwise(cuts)]
        return tuple(
            Stretch(
                spans=group,
                start=group[0].start,
                end=min(group[-1].end, self.size),
                keep=group[0].keep,
                stop=self.size if group is groups[-1] else group[-1].stop - self.ramp,
            )
            for group in groups
        )


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def overlap_of(halo: int, multiple: int) -> int:
    """Pixels that two neighbouring windows share: a halo each, and a ramp of at least 16 px between the halos."""
    return round_up(2 * halo + max(halo // 2, _SHORTEST_RAMP), multiple)


def ramp_of(halo: int, multiple: int) -> int:
    """Pixels over which one window's result passes into the next one's: what their halos leave of the overlap."""
    return overlap_of(halo, multiple) - 2 * halo


def smallest_tile(halo: int, multiple: int) -> int:
    """The smallest window side with which a map can be covered: the overlap, and a step no shorter than the ramp."""
    return overlap_of(halo, multiple) + round_up(ramp_of(halo, multiple), multiple)


def plan_axis(size: int, *, tile: int, halo: int, multiple: int, shift: int = 0, fixed: bool = False) -> AxisPlan:
    """Cover one axis of a map with windows.

    A map that fits one window gets one, without halo. Otherwise windows of equal length, at most `tile`, overlap so
    that every used pixel has at least `halo` pixels of context on each side, or the map's own border. Windows start
    and end on multiples of `multiple`, counted from the map's first pixel, so that a network's strides and patches
    fall on the same pixels in every plan.

    Args:
        size: pixels of the map, at least 1.
        tile: longest window, px; rounded up to a multiple.
        halo: context that a pixel needs on each side, px.
        multiple: what window lengths and starts are multiples of.
        shift: move the inner borders towards the first pixel by this much (rounded down to a multiple); the result
            should not care, which is how it is tested.
        fixed: every window is `tile` long; the last ones may then reach beyond the map by more than a multiple.

    Raises:
        ValueError: if `tile` is below `smallest_tile(halo, multiple)` and the map needs more than one window.
    """
    tile = round_up(tile, multiple)
    shift -= shift % multiple
    padded = round_up(size, multiple)
    if padded + shift <= tile:
        return AxisPlan(size, 0, (Span(0, tile if fixed else padded, 0, size),))
    if tile < smallest_tile(halo, multiple):
        raise ValueError(f"tile {tile} is below {smallest_tile(halo, multiple)}")
    ramp, overlap = ramp_of(halo, multiple), overlap_of(halo, multiple)
    step = tile - overlap
    if not fixed:
        fresh = padded + shift - overlap  # what the windows cover without what they share
        count = -(-fresh // step)
        step = max(round_up(-(-fresh // count), multiple), round_up(ramp, multiple))
    shift %= step
    starts = range(-shift, max(padded - overlap, 1 - shift), step)
    spans = []
    for number, start in enumerate(starts):
        last = number == len(starts) - 1
        begin = max(start, 0)
        end = begin + tile if fixed else (padded if last else start + step + overlap)
        keep = 0 if number == 0 else begin + halo
        stop = size if last else start + step + halo + ramp
        spans.append(Span(begin, end - begin, keep, stop))
    return AxisPlan(size, ramp, tuple(spans))
