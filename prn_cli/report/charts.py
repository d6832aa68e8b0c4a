"""The geometry of charts. Templates draw them as inline SVG, in colours that follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.metrics.intervals import Estimate

_MOST_POINTS = 160


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale, with `low` at `start` px and `high` at `end` px. Values beyond its ends are placed there."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Place a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About five round numbers along the axis."""
        raw = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(k * step, 10) for k in range(first, last + 1)]


def axis_around(estimates: Iterable[Estimate], start: float, end: float) -> Axis:
    """An axis with room for some shares and their intervals, from one tenth to another."""
    values = [value for estimate in estimates for value in estimate if math.isfinite(value)]
    low, high = math.floor(10 * min(values) - 0.05) / 10, math.ceil(10 * max(values) + 0.05) / 10
    return Axis(max(low, 0.0), min(high, 1.0), start, end)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart.

    Attributes:
        name: in the legend.
        look: class of its colour: `before`, `after` or `plain`.
        points: `(N, 2)` x and y; NaN breaks the line.
        marked: whether each point is drawn.
        spot: x and y of a mark, and what it says.
    """

    name: str
    look: str
    points: NDArray[np.float64]
    marked: bool = False
    spot: tuple[float, float, str] | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over two axes from 0 to 1, with their numbers.

    Attributes:
        title: for screen readers.
        x_title: below the axis.
        y_title: beside the axis.
        lines: what is drawn.
        heading: of the table of numbers.
        rows: of that table; the first cell names the row.
        diagonal: whether to draw where y equals x.
        bars: shares, evenly spread over x, drawn at the foot.
    """

    title: str
    x_title: str
    y_title: str
    lines: Sequence[Line]
    heading: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    diagonal: bool = False
    bars: Sequence[float] = ()


def path(points: NDArray[np.float64], x: Axis, y: Axis) -> str:
    """An SVG path through points `(N, 2)`, broken where they are NaN."""
    result, pen_down = [], False
    for a, b in _thinned(points).tolist():
        known = math.isfinite(a + b)
        if known:
            result.append(f"{'L' if pen_down else 'M'}{x(a):.1f} {y(b):.1f}")
        pen_down = known
    return "".join(result)


def _thinned(points: NDArray[Any]) -> NDArray[np.float64]:
    """No more points than can be seen, evenly along the line, so that a steep part keeps its shape."""
    if len(points) <= _MOST_POINTS:
        return points
    steps = np.nan_to_num(np.abs(np.diff(points, axis=0)).sum(axis=1))
    length = np.concatenate(([0.0], np.cumsum(steps)))
    chosen = np.searchsorted(length, np.linspace(0, length[-1], _MOST_POINTS))
    return np.asarray(points[np.unique(np.minimum(chosen, len(points) - 1))])
