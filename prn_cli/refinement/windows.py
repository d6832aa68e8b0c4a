"""From a strip of a map to the field of its windows: cut out, padded, turned, refined and put side by side again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np

from prn_cli.execution.ahead import InOrder
from prn_cli.maps.blend import ColumnBlender
from prn_cli.maps.certain import hold
from prn_cli.maps.tiles import Span, Stretch
from prn_cli.methods.refiner import FloatMap, Refiner, Windows
from prn_cli.refinement.links import How


class Strip(NamedTuple):
    """A stretch of a row of windows; `planes` are the logits, and what lies beside them, `(k, h, w)`."""

    span: Span
    stretch: Stretch
    planes: FloatMap


class Group(NamedTuple):
    """Windows of one run; or windows without a valid pixel, for which there is none."""

    columns: list[Span]
    empty: bool


@dataclass(frozen=True, slots=True)
class StripRefiner:
    """Refines strips of one map.

    Attributes:
        refiner: the method.
        how: to go about it.
        size: height and width of the map.
        overview: what the refiner's `overview` gave.
        runs: takes its runs of the network.
    """

    refiner: Refiner
    how: How
    size: tuple[int, int]
    overview: Any
    runs: InOrder[FloatMap]

    def begin(self, strip: Strip) -> list[Group]:
        """Add the runs on a strip, whose planes must stay as they are until the last of them is done."""
        planes = strip.planes

        def kind(column: Span) -> tuple[int, bool]:
            logits = planes[0, :, column.start - strip.stretch.start : column.end - strip.stretch.start]
            return column.length, bool(np.isnan(logits[0, 0]) and np.isnan(logits).all())

        groups: list[Group] = []
        for (_, empty), alike in groupby(strip.stretch.spans, kind):
            while columns := list(islice(alike, self.how.batch)):
                groups.append(Group(columns, empty))
                if not empty:
                    self.runs.add(partial(self._run, strip, columns))
        return groups

    def finish(
        self, strip: Strip, groups: Sequence[Group], ramp: int, before: FloatMap | None
    ) -> tuple[FloatMap, FloatMap]:
        """Blend the used rows of a strip.

        Args:
            strip: see `begin`.
            groups: what that gave.
            ramp: px over which a window passes into the next one.
            before: columns that the strip to the left left open; None for the first.

        Returns:
            The field, `(span.stop - span.keep, stretch.stop - stretch.keep)`, and what is `before` the strip to the
            right: the columns that it will change, `(span.stop - span.keep, ramp)`; none of the last strip.
        """
        span, stretch = strip.span, strip.stretch
        used = slice(span.keep - span.start, span.stop - span.start)
        if ramp == 0 and not groups[0].empty:  # the only window of its row
            field = self.runs.take()[0, used, : stretch.end]
            self._done(1)
            return field, field[:, stretch.end :]
        height = span.stop - span.keep
        blender = ColumnBlender(height, stretch, ramp, before)
        for columns, empty in groups:
            if empty:
                # Nothing to refine, and no valid pixel in reach of the ramps: borders of mosaics are full of these.
                for column in columns:
                    blender.add(column, np.zeros((height, column.length), np.float32))
            else:
                for column, field in zip(columns, self.runs.take(), strict=True):
                    blender.add(column, field[used])
            self._done(len(columns))
        return blender.finished, blender.open

    def _done(self, windows: int) -> None:
        if self.how.on_windows is not None:
            self.how.on_windows(windows)

    def _run(self, strip: Strip, columns: Sequence[Span]) -> FloatMap:
        if self.how.on_run is not None:
            self.how.on_run()
        needs, first = self.refiner.needs, strip.stretch.start
        shape = strip.span.length, columns[0].length
        planes = strip.planes[: 1 + needs.bands]
        cut = [pad(planes[:, :, c.start - first : c.end - first], *shape, mode=needs.padding) for c in columns]
        batch = np.stack(cut) if len(cut) > 1 else cut[0][np.newaxis]
        windows = Windows(
            hold(batch[:, 0]),
            batch[:, 1:] if needs.bands else None,
            [(strip.span.start, column.start) for column in columns],
            self.size,
            self.how.seed,
            self.overview,
            self.how.plane,
        )
        return mean_field(self.refiner.field, windows) if self.how.tta else self.refiner.field(windows)


def pad(window: FloatMap, height: int, width: int, *, mode: str) -> FloatMap:
    """The window with what lies beyond the map, below and to the right, made up."""
    missing = ((0, 0), (0, height - window.shape[1]), (0, width - window.shape[2]))
    if missing == ((0, 0), (0, 0), (0, 0)):
        return window
    if mode == "mirror":
        return np.pad(window, missing, mode="symmetric")
    return np.pad(window, missing, constant_values=np.nan)


def mean_field(field_of: Callable[[Windows], FloatMap], windows: Windows) -> FloatMap:
    """The mean of the field over the eight flips and quarter turns of windows."""
    total = np.zeros(windows.logits.shape, np.float32)
    for flipped in (False, True):
        for turns in range(4):
            field = np.rot90(field_of(windows.turned(flipped, turns)), -turns, axes=(1, 2))
            total += field[:, :, ::-1] if flipped else field
    total /= 8
    return total
