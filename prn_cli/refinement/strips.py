"""One link of a chain over a map: read by strips, refined, and handed on in rows that no later window will change."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import cycle, pairwise
from typing import Any, TypeVar

import numpy as np

from prn_cli.errors import PrnError
from prn_cli.execution.ahead import InOrder, ahead
from prn_cli.maps.blend import RowBlender
from prn_cli.maps.certain import keep_certain
from prn_cli.maps.tiles import Span, Stretch, Window, row_bands
from prn_cli.methods.refiner import FloatMap, Refiner
from prn_cli.refinement.links import How, Link, Order, Piece, Ramp
from prn_cli.refinement.windows import Strip, StripRefiner

ReadPlanes = Callable[[Window], Sequence[FloatMap]]
"""Gives planes of a window of the map, `(h, w)` float32 each: logits, NaN where invalid, and what goes with them."""

# So many, for each that goes on at once, that none is waited for while a stretch of windows is put together.
_RUNS_AHEAD = 3
_PIXELS_AT_ONCE = 1 << 20  # are handed out: some such bands wait until they are written

T = TypeVar("T")


def refine_link(
    read: ReadPlanes,
    planes: int,
    size: tuple[int, int],
    link: Link,
    how: How,
    *,
    section: slice = slice(None),
    keep: slice = slice(0, 1),
    overview: Any = None,
) -> Generator[Piece | Ramp]:
    """Refine some of the rows of windows of a map.

    The rows that one row of windows needs are read, each row of the map once; the windows are refined, as many side by
    side as the refiner runs at once, and blended; the rows that no later window will change are handed out. So little
    more than the planes and the field of one row of windows are in memory; or, by stretches, those of a few windows,
    and what two rows of windows, or two stretches, share.

    Args:
        read: gives the planes of a window.
        planes: how many there are.
        size: height and width of the map.
        link: the refiner.
        how: to go about it.
        section: of the rows of windows.
        keep: planes that are handed on.
        overview: what the refiner's `overview` gave.

    Yields:
        The finished rows of the section; before them, if there is a section above, and after them, if there is one
        below, the rows that the two share.

    Raises:
        PrnError: the network failed, or gave numbers that are not finite.
    """
    refiner, (height, width) = link.refiner, size
    rows, columns = link.plan(height, width, how.shift)
    spans = rows.spans[section]
    stretches = columns.stretches(len(columns.spans) if how.order is Order.ROWS else refiner.runs * how.batch)
    places = _in_order(spans, stretches, how.order)
    fresh = _read(read, places, height)
    several = len(places) > 1
    below = {stretch: RowBlender(rows) for stretch in stretches}
    with (
        _runs_at_once(refiner, len(spans) * len(columns.spans)) as pool,
        closing(ahead(fresh, how.read_ahead) if several and how.read_ahead else fresh) as bands,
    ):
        early = several and how.read_ahead > 0 and pool is not None
        shape = planes, min(rows.longest, height), max(stretch.end - stretch.start for stretch in stretches)
        buffers = [np.empty(shape, np.float32) for _ in range(2 if early else 1)]
        work = StripRefiner(refiner, how, size, overview, InOrder(pool, _RUNS_AHEAD * refiner.runs))
        begun = ((strip, work.begin(strip)) for strip in _strips(bands, places, height, buffers))
        beside: dict[Span, FloatMap] = {}  # what the stretch to the left left open
        for strip, groups in _one_early(begun) if early else begun:
            span, stretch = strip.span, strip.stretch
            field, right = work.finish(strip, groups, columns.ramp, beside.pop(span, None))
            if stretch is not stretches[-1]:
                beside[span] = right.copy()  # a view would keep all the strip
            field, y = below[stretch].add(span, field), span.keep
            if span is spans[0] and y > 0:
                yield Ramp(y, stretch.keep, field[: rows.ramp].copy(), _used(strip)[0, : rows.ramp].copy())
                y, field = y + rows.ramp, field[rows.ramp :]
            # What comes next comes into the same buffer.
            yield from _finished(link, strip, y, field, keep, copy=several, widest=shape[2])
    for stretch, blender in below.items():
        if blender.open is not None:
            yield Ramp(spans[-1].stop - rows.ramp, stretch.keep, blender.open)


def _in_order(spans: Sequence[Span], stretches: Sequence[Stretch], order: Order) -> list[tuple[Span, Stretch]]:
    """The strips of a section, in the order in which they are worked on."""
    if order is Order.DOWN:
        return [(span, stretch) for stretch in stretches for span in spans]
    return [(span, stretch) for span in spans for stretch in stretches]


def _read(read: ReadPlanes, places: Iterable[tuple[Span, Stretch]], height: int) -> Generator[Sequence[FloatMap]]:
    """The planes of a section, in bands that end where a row of windows ends.

    Each row of each stretch comes once.
    """
    read_to: dict[Stretch, int] = {}
    for span, stretch in places:
        start, end = read_to.get(stretch, span.start), min(span.end, height)
        read_to[stretch] = end
        width = stretch.end - stretch.start
        for band in row_bands(end - start, width):
            yield read(Window(start + band.y, stretch.start, band.height, width))


def _strips(
    bands: Iterator[Sequence[FloatMap]],
    places: Sequence[tuple[Span, Stretch]],
    height: int,
    buffers: Sequence[FloatMap],
) -> Iterator[Strip]:
    """Each stretch of each row of windows, with the planes of the map's rows from its start on.

    They lie in the buffers, which take turns; what two rows of windows share is kept for the next one. Logits that come
    in one piece stay where they are.
    """
    turns = cycle(buffers)
    shared: dict[Stretch, FloatMap] = {}
    following = dict(pairwise(dict.fromkeys(span for span, _ in places)))  # each row of windows and the one below it
    for span, stretch in places:
        rows, width = min(span.end, height) - span.start, stretch.end - stretch.start
        planes = next(turns)[:, :rows, :width]
        filled = 0
        if stretch in shared:
            above = shared.pop(stretch)
            filled = above.shape[1]
            planes[:, :filled] = above
        while filled < rows:
            parts = next(bands)
            if len(parts) == 1 and len(parts[0]) == rows:
                planes = np.ascontiguousarray(parts[0], np.float32)[np.newaxis]  # nothing to put together
            else:
                for plane, part in zip(planes, parts, strict=True):
                    plane[filled : filled + len(part)] = part
            filled += len(parts[0])
        if span in following:
            shared[stretch] = planes[:, following[span].start - span.start :].copy()
        yield Strip(span, stretch, planes)


def _one_early(items: Iterable[T]) -> Iterator[T]:
    """The same items, each when the next one has been made."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


@contextmanager
def _runs_at_once(refiner: Refiner, windows: int) -> Iterator[ThreadPoolExecutor | None]:
    """Threads for the refiner's runs, if it takes several at once and there are several."""
    count = min(refiner.runs, windows)
    if count < 2:
        yield None
        return
    pool = ThreadPoolExecutor(count, thread_name_prefix="refine")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _used(strip: Strip) -> FloatMap:
    """The planes of a strip from its first used row on, in the columns that are finished."""
    span, stretch, planes = strip
    return planes[:, span.keep - span.start :, stretch.keep - stretch.start : stretch.stop - stretch.start]


def _finished(
    link: Link, strip: Strip, y: int, field: FloatMap, keep: slice, *, copy: bool, widest: int
) -> Iterator[Piece]:
    """The rows of a strip whose field is final, from row `y` on, in bands."""
    planes = _used(strip)[:, y - strip.span.keep :]
    for band in row_bands(len(field), widest, pixels=_PIXELS_AT_ONCE):
        rows = slice(band.y, band.bottom)
        base, kept = planes[0, rows], planes[keep, rows]
        if copy:
            kept = kept.copy()
            base = kept[0] if keep.start == 0 else base.copy()
        refined, all_valid = finished(link, y + band.y, strip.stretch.keep, base, field[rows])
        yield Piece(y + band.y, strip.stretch.keep, kept, refined, all_valid)


def finished(link: Link, y: int, x: int, base: FloatMap, field: FloatMap) -> tuple[FloatMap, bool]:
    """Refined logits from base logits and their blended field, whose memory may be taken; whether all are valid.

    Raises:
        PrnError: the network gave numbers that are not finite, for the pixel that is named by its place on the map.
    """
    refined = link.refiner.refined(base, field, link.applied)
    finite = np.isfinite(refined)
    if finite.all():
        keep_certain(base, refined)
        return refined, True
    broken = ~finite & ~np.isnan(base)
    if broken.any():
        row, column = np.argwhere(broken)[0]
        raise PrnError(
            f"the network gives {refined[row, column]} at row {y + row}, column {x + column}, "
            f"for a logit of {base[row, column]:g}",
            hint="check the input's range and the weights",
        )
    keep_certain(base, refined)
    return refined, False
