"""Logits to refined logits, by rows of windows and by stretches of columns, so that memory does not grow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import cycle, groupby, islice, pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import PrnError, UsageError
from prn_cli.execution.ahead import InOrder, ahead
from prn_cli.maps.blend import ColumnBlender, RowBlender, mix_rows
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.probabilities import sigmoid
from prn_cli.maps.tiles import AxisPlan, Span, Stretch, Window, plan_axis, round_up, row_bands, smallest_tile
from prn_cli.methods import FloatMap, Refiner

_WIDTH_OVER_HEIGHT = 2  # of the windows of maps that need several
# So many, for each that goes on at once, that none is waited for while a stretch of windows is put together.
_RUNS_AHEAD = 3
_PIXELS_AT_ONCE = 1 << 20  # are handed out: some such bands wait until they are written

T = TypeVar("T")
R = TypeVar("R")


class Order(Enum):
    """In which order a map of several windows is read, refined and handed out; the result is the same.

    Memory grows with the width of the map in the first two, most in the first, and in the last with the height, least.
    """

    ROWS = "one row of windows after the other"
    ACROSS = "in each row of windows, one stretch of some columns after the other"
    DOWN = "one stretch of some columns after the other, each from the top"


class Strip(NamedTuple):
    """A stretch of a row of windows, with its logits, and the image's bands: `planes` are `(1 + C, h, w)`."""

    span: Span
    stretch: Stretch
    planes: FloatMap


@dataclass(frozen=True, slots=True)
class Rows:
    """Finished rows of a map, the whole width of it, or a stretch of its columns.

    Attributes:
        y: first row.
        logits: `(h, w)` float32, the base model's, NaN where invalid; perhaps the very array that was read.
        refined: `(h, w)` float32, NaN where invalid.
        x: first column.
        all_valid: whether it is known that no pixel is invalid.
    """

    y: int
    logits: FloatMap
    refined: FloatMap
    x: int = 0
    all_valid: bool = False

    @property
    def bias(self) -> FloatMap:
        """`(h, w)` float32: what was added to the base model's logits, NaN where invalid."""
        return self.refined - self.logits

    @property
    def probabilities(self) -> FloatMap:
        """`(h, w)` float32 in [0, 1]: the refined probabilities, NaN where invalid."""
        return sigmoid(self.refined)


@dataclass(frozen=True, slots=True)
class Ramp:
    """Rows at the edge of a section, whose result waits for the neighbouring section's.

    Attributes:
        y: first row.
        x: first column.
        field: `(ramp, w)` float32, of this section's windows alone; of several classes, `(C, ramp, w)`.
    """

    y: int
    x: int
    field: FloatMap

    @property
    def window(self) -> Window:
        """Where it lies on the map."""
        return Window(self.y, self.x, *self.field.shape[-2:])


def check_tile(tile: int, refiner: Refiner) -> None:
    """Check that windows of this side leave room for the refiner's halos.

    Raises:
        UsageError: they do not.
    """
    smallest = smallest_tile(refiner.halo, refiner.multiple)
    if round_up(max(tile, 1), refiner.multiple) < smallest:
        raise UsageError(
            f"a tile of {tile} px is too small for '{refiner.name}', whose windows need {refiner.halo} px of context "
            f"on each side",
            hint=f"give --tile {smallest} or more",
        )


def check_image(refiner: Refiner, *, given: bool) -> None:
    """Check that a refiner that takes an image beside the logits gets one, and no other.

    Raises:
        UsageError: it does not.
    """
    if refiner.image_channels and not given:
        raise UsageError(
            f"these weights take an image of {refiner.image_channels} bands beside the logits, and there is none",
            hint="give --images, the folder of the images, or other weights",
        )
    if given and not refiner.image_channels:
        raise UsageError("these weights take no image", hint="leave the image out")


def refine_rows(
    read_logits: Callable[[Window], FloatMap],
    height: int,
    width: int,
    refiner: Refiner,
    *,
    tile: int | None = None,
    tta: bool = False,
    batch: int = 1,
    shift: int = 0,
    strength: float | None = None,
    on_run: Callable[[], None] | None = None,
    read_image: Callable[[Window], FloatMap] | None = None,
    read_ahead: int = 0,
    order: Order = Order.ROWS,
) -> Generator[Rows]:
    """Refine a map of any size.

    The rows that one row of windows needs are read, each row of the map once; the windows are refined, as many side by
    side as the refiner runs at once, and blended; the rows that no later window will change are handed out. So little
    more than the logits and the field of one row of windows are in memory; or, by stretches, those of a few windows,
    and what two rows of windows, or two stretches, share.

    Args:
        read_logits: gives the logits of a window inside the map, `(h, w)` float32, NaN where invalid.
        height: rows of the map.
        width: columns of the map.
        refiner: the method.
        tile: side of a window, px; the refiner's own if None. A map that fits one window is refined in one piece.
        tta: test-time augmentation: the mean over the eight flips and quarter turns, at eight times the cost.
        batch: windows in one run of the network.
        shift: moves the borders of the windows, see `plan_axis`.
        strength: share of the correction that is applied, 0 to 1; what the weights say if None.
        on_run: called before each run of the network, in its thread; what it raises ends the work.
        read_image: gives the image of a window, `(refiner.image_channels, h, w)` float32, NaN where invalid; for
            refiners that take one.
        read_ahead: bands of some 4 Mpx to read, in a thread of their own, while the network is at work on others; of
            maps that take several rows of windows. A refiner with several runs at once then begins with one row (or
            stretch of it) of windows before the last is put together: the logits of two are in memory, and some fields.
        order: stretches are for maps that can be read so.

    Yields:
        Bands of consecutive rows, from the top, that together are the map. By stretches, the bands come in their
        order, and are cut alike in all stretches of a row of windows.

    Raises:
        UsageError: the tile is too small, or an image is missing or not wanted.
        PrnError: the network failed, or gave numbers that are not finite.
    """
    pieces = refine_section(
        read_logits,
        height,
        width,
        refiner,
        tile=tile,
        tta=tta,
        strength=strength,
        batch=batch,
        shift=shift,
        on_run=on_run,
        read_image=read_image,
        read_ahead=read_ahead,
        order=order,
    )
    for piece in pieces:
        if isinstance(piece, Rows):
            yield piece


def refine_section(
    read_logits: Callable[[Window], FloatMap],
    height: int,
    width: int,
    refiner: Refiner,
    *,
    section: slice = slice(None),
    tile: int | None = None,
    tta: bool = False,
    strength: float | None = None,
    batch: int = 1,
    shift: int = 0,
    on_run: Callable[[], None] | None = None,
    read_image: Callable[[Window], FloatMap] | None = None,
    read_ahead: int = 0,
    order: Order = Order.ROWS,
) -> Generator[Rows | Ramp]:
    """Refine some of the rows of windows of a map, see `refine_rows`; `join_sections` puts sections together.

    Args:
        section: of the rows of windows, as `window_rows` counts them.

    Yields:
        The finished rows of the section; before them, if there is a section above, and after them, if there is one
        below, the rows that the two share.
    """
    rows, columns = _plans(height, width, refiner, tile, shift)
    check_image(refiner, given=read_image is not None)

    spans = rows.spans[section]
    share = refiner.strength if strength is None else strength
    if share == 0:
        end = height if spans[-1].stop == height else spans[-1].stop - rows.ramp
        yield from _unchanged(read_logits, spans[0].keep, end, width)
        return
    stretches = columns.stretches(len(columns.spans) if order is Order.ROWS else refiner.runs * batch)
    below = {stretch: RowBlender(rows) for stretch in stretches}
    places = _in_order(spans, stretches, order)
    fresh = _read(read_logits, read_image, places, height)
    several = len(places) > 1
    with (
        _runs_at_once(refiner, len(spans) * len(columns.spans)) as pool,
        closing(ahead(fresh, read_ahead) if several and read_ahead else fresh) as bands,
    ):
        early = several and read_ahead > 0 and pool is not None
        widest = max(stretch.end - stretch.start for stretch in stretches)
        shape = 1 + refiner.image_channels, min(rows.longest, height), widest
        buffers = [np.empty(shape, np.float32) for _ in range(2 if early else 1)]
        runs: InOrder[FloatMap] = InOrder(pool, _RUNS_AHEAD * refiner.runs)
        strips = (
            (strip, _plan_runs(runs, strip, refiner, tta=tta, batch=batch, on_run=on_run))
            for strip in _strips(bands, places, height, buffers)
        )
        beside: dict[Span, FloatMap] = {}  # what the stretch to the left left open
        for (span, stretch, planes), groups in _one_early(strips) if early else strips:
            logits = planes[0, :, stretch.keep - stretch.start : stretch.stop - stretch.start]
            field, right = _blend(runs, groups, span, stretch, columns.ramp, beside.pop(span, None))
            if stretch is not stretches[-1]:
                beside[span] = right.copy()  # a view would keep all the strip
            field, y = below[stretch].add(span, field), span.keep
            if span is spans[0] and y > 0:
                yield Ramp(y, stretch.keep, field[: rows.ramp].copy())
                y, field = y + rows.ramp, field[rows.ramp :]
            for band in row_bands(len(field), widest, pixels=_PIXELS_AT_ONCE):
                at = y + band.y
                base = logits[at - span.start :][: band.height]
                base = base.copy() if several else base  # what comes next comes into the same buffer
                yield _finished(refiner, share, at, stretch.keep, base, field[band.y : band.bottom])
    for stretch, blender in below.items():
        if blender.open is not None:
            yield Ramp(spans[-1].stop - rows.ramp, stretch.keep, blender.open)


def _in_order(spans: Sequence[Span], stretches: Sequence[Stretch], order: Order) -> list[tuple[Span, Stretch]]:
    """The strips of a section, in the order in which they are worked on."""
    if order is Order.DOWN:
        return [(span, stretch) for stretch in stretches for span in spans]
    return [(span, stretch) for span in spans for stretch in stretches]


def _read(
    read_logits: Callable[[Window], FloatMap],
    read_image: Callable[[Window], FloatMap] | None,
    places: Iterable[tuple[Span, Stretch]],
    height: int,
) -> Generator[list[FloatMap]]:
    """Logits, and the image's bands, of a section, in bands that end where a row of windows ends.

    Each row of each stretch comes once.
    """
    read_to: dict[Stretch, int] = {}
    for span, stretch in places:
        start, end = read_to.get(stretch, span.start), min(span.end, height)
        read_to[stretch] = end
        width = stretch.end - stretch.start
        for band in row_bands(end - start, width):
            window = Window(start + band.y, stretch.start, band.height, width)
            yield [read_logits(window), *(() if read_image is None else read_image(window))]


def _strips(
    bands: Iterator[Sequence[FloatMap]],
    places: Sequence[tuple[Span, Stretch]],
    height: int,
    buffers: Sequence[FloatMap],
) -> Iterator[Strip]:
    """Each stretch of each row of windows, with the logits, and the image's bands, of the map's rows from its start on.

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


def window_rows(
    height: int, width: int, refiner: Refiner, *, tile: int | None = None, shift: int = 0
) -> tuple[Span, ...]:
    """The rows of windows that `refine_rows` cuts a map into, of which sections are made."""
    rows, _ = _plans(height, width, refiner, tile, shift)
    return rows.spans


def join_sections(pieces: Iterable[T | Ramp], finish: Callable[[Ramp], R]) -> Iterator[T | R]:
    """Finish the rows that sections share.

    Args:
        pieces: all that `refine_section` gave for each section of a map, from the top; anything may stand for rows.
        finish: gives the rows of a ramp whose field is that of both sections, see `finish_ramp`.

    Yields:
        The pieces, with rows in the place of ramps, the same as `refine_rows` gives them.
    """
    above: dict[int, Ramp] = {}  # by column
    for piece in pieces:
        if not isinstance(piece, Ramp):
            yield piece
        elif piece.x not in above:
            above[piece.x] = piece
        else:
            yield finish(Ramp(piece.y, piece.x, mix_rows(above.pop(piece.x).field, piece.field)))


def finish_ramp(ramp: Ramp, logits: FloatMap, refiner: Refiner, *, strength: float | None = None) -> Rows:
    """Refine rows that two sections share.

    Args:
        ramp: with the field of both, `(ramp, w)`; its memory may be taken.
        logits: of its window, `(ramp, w)` float32, NaN where invalid.
        refiner: the method.
        strength: share of the correction that is applied, 0 to 1; what the weights say if None.

    Raises:
        PrnError: the network gave numbers that are not finite.
    """
    share = refiner.strength if strength is None else strength
    return _finished(refiner, share, ramp.y, ramp.x, logits, ramp.field)


def _plans(height: int, width: int, refiner: Refiner, tile: int | None, shift: int) -> tuple[AxisPlan, AxisPlan]:
    side = tile or refiner.tile
    check_tile(side, refiner)
    # Memory grows with the height of the windows alone, and wide ones share less of their work with their neighbours.
    rows, columns = (
        plan_axis(size, tile=longest, halo=refiner.halo, multiple=refiner.multiple, shift=shift)
        for size, longest in ((height, side), (width, side * (_WIDTH_OVER_HEIGHT if height > side else 1)))
    )
    return rows, columns


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


def _finished(refiner: Refiner, share: float, y: int, x: int, base: FloatMap, field: FloatMap) -> Rows:
    refined = refiner.refined(base, field, share)
    return Rows(y, base, refined, x, _check_finite(base, refined, y, x))


def _unchanged(read_logits: Callable[[Window], FloatMap], start: int, end: int, width: int) -> Iterator[Rows]:
    for band in row_bands(end - start, width):
        y = start + band.y
        logits = read_logits(Window(y, 0, band.height, width))
        yield Rows(y, logits, logits)


def refine_map(
    logits: FloatMap,
    refiner: Refiner,
    *,
    image: FloatMap | None = None,
    tile: int | None = None,
    tta: bool = False,
    shift: int = 0,
    strength: float | None = None,
) -> FloatMap:
    """Refine a map in memory, see `refine_rows`.

    Args:
        logits: `(H, W)` float32, NaN where invalid.
        refiner: the method.
        image: `(refiner.image_channels, H, W)` float32, NaN where invalid, for refiners that take one.
        tile: side of a window, px; the refiner's own if None.
        tta: test-time augmentation by flips and quarter turns.
        shift: moves the borders of the windows.
        strength: share of the correction that is applied, 0 to 1; what the weights say if None.

    Returns:
        Refined logits, `(H, W)` float32, NaN where invalid.
    """
    height, width = logits.shape
    bands = refine_rows(
        lambda window: logits[window.slices],
        height,
        width,
        refiner,
        tile=tile,
        tta=tta,
        shift=shift,
        strength=strength,
        read_image=None if image is None else lambda window: image[:, *window.slices],
    )
    return np.concatenate([rows.refined for rows in bands])


def cut(refined: FloatMap, threshold: float, *, all_valid: bool = False) -> NDArray[np.uint8]:
    """Cut refined logits into a mask.

    Args:
        refined: `(h, W)` float32, NaN where invalid.
        threshold: probability above which a pixel is foreground, 0 to 1.
        all_valid: no pixel is invalid, so that none needs to be looked for.

    Returns:
        `(h, W)` uint8: 0 background, 1 foreground, 255 invalid.
    """
    # In logits, where probabilities close to 0 and 1 are still apart.
    with np.errstate(divide="ignore"):
        least = np.float32(np.log(threshold) - np.log1p(-threshold))
    mask: NDArray[np.uint8] = np.asarray(refined > least).view(np.uint8)
    if all_valid:
        return mask
    invalid = np.isnan(refined)
    if invalid.any():
        mask[invalid] = IGNORE
    return mask


def _plan_runs(
    runs: InOrder[FloatMap],
    strip: Strip,
    refiner: Refiner,
    *,
    tta: bool,
    batch: int,
    on_run: Callable[[], None] | None,
) -> list[tuple[list[Span], bool]]:
    """Add the runs on a strip, whose planes must stay as they are until the last of them is done.

    Returns:
        The columns of each run; or those of windows without a valid pixel, of which there is none, and True.
    """
    span, stretch, planes = strip

    def window_of(column: Span) -> FloatMap:
        return planes[:, :, column.start - stretch.start : column.end - stretch.start]

    def kind(column: Span) -> tuple[int, bool]:
        logits = window_of(column)[0]
        return column.length, bool(np.isnan(logits[0, 0]) and np.isnan(logits).all())

    def run(group: Sequence[Span], length: int) -> FloatMap:
        if on_run is not None:
            on_run()
        windows = [_pad(window_of(column), span.length, length, refiner) for column in group]
        return _field(refiner, np.stack(windows) if len(windows) > 1 else windows[0][np.newaxis], tta)

    groups: list[tuple[list[Span], bool]] = []
    for (length, empty), alike in groupby(stretch.spans, kind):
        while group := list(islice(alike, batch)):
            groups.append((group, empty))
            if not empty:
                runs.add(partial(run, group, length))
    return groups


def _blend(
    runs: InOrder[FloatMap],
    groups: Sequence[tuple[Sequence[Span], bool]],
    span: Span,
    stretch: Stretch,
    ramp: int,
    before: FloatMap | None,
) -> tuple[FloatMap, FloatMap]:
    """Blend the used rows of a strip.

    Returns:
        The field, `(span.stop - span.keep, stretch.stop - stretch.keep)`, and what is `before` the strip to the right:
        the columns that it will change, `(span.stop - span.keep, ramp)`; none of the last strip.
    """
    used = slice(span.keep - span.start, span.stop - span.start)
    if ramp == 0 and not groups[0][1]:  # the only window of its row
        field = runs.take()[0, used, : stretch.end]
        return field, field[:, stretch.end :]
    height = span.stop - span.keep
    blender = ColumnBlender(height, stretch, ramp, before)
    for group, empty in groups:
        if empty:
            # Nothing to refine, and no valid pixel in reach of the ramps: borders of mosaics are full of these.
            for column in group:
                blender.add(column, np.zeros((height, column.length), np.float32))
            continue
        for column, field in zip(group, runs.take(), strict=True):
            blender.add(column, field[used])
    return blender.finished, blender.open


def _pad(window: FloatMap, height: int, width: int, refiner: Refiner) -> FloatMap:
    """The window with what lies beyond the map, below and to the right, made up."""
    missing = ((0, 0), (0, height - window.shape[1]), (0, width - window.shape[2]))
    if missing == ((0, 0), (0, 0), (0, 0)):
        return window
    if refiner.padding == "mirror":
        return np.pad(window, missing, mode="symmetric")
    return np.pad(window, missing, constant_values=np.nan)


def _field(refiner: Refiner, windows: FloatMap, tta: bool) -> FloatMap:
    def field_of(view: FloatMap) -> FloatMap:
        return refiner.field(view[:, 0]) if view.shape[1] == 1 else refiner.field(view[:, 0], view[:, 1:])

    if not tta:
        return field_of(windows)
    total = np.zeros(windows[:, 0].shape, np.float32)
    for flipped in (False, True):
        for turns in range(4):
            view = np.rot90(windows[..., ::-1] if flipped else windows, turns, axes=(2, 3))
            field = np.rot90(field_of(np.ascontiguousarray(view)), -turns, axes=(1, 2))
            total += field[:, :, ::-1] if flipped else field
    total /= 8
    return total


def _check_finite(logits: FloatMap, refined: FloatMap, y: int, x: int) -> bool:
    """Check that every valid pixel has a refined logit; whether all pixels are valid."""
    finite = np.isfinite(refined)
    if finite.all():
        return True
    broken = ~finite & ~np.isnan(logits)
    if broken.any():
        row, column = np.argwhere(broken)[0]
        raise PrnError(
            f"the network gives {refined[row, column]} at row {y + row}, column {x + column}, "
            f"for a logit of {logits[row, column]:g}",
            hint="check the input's range and the weights",
        )
    return False
