"""Charts as inline SVG. Colours come from the page's classes, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.metrics.intervals import Estimate
from prn_cli.report import colours
from prn_cli.report.markup import number, place, text

_WIDTH, _HEIGHT = 480, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 44
_MOST_POINTS = 160


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a chart.

    Attributes:
        name: in the legend.
        look: class of its colour: `before`, `after` or `plain`.
        points: `(N, 2)` x and y; NaN breaks the line.
        marked: whether each point is drawn.
        spot: a point of its own, with what it is.
    """

    name: str
    look: str
    points: NDArray[np.float64]
    marked: bool = False
    spot: tuple[float, float, str] | None = None


def plot(
    series: Sequence[Series],
    *,
    title: str,
    x_title: str,
    y_title: str,
    x: tuple[float, float] = (0, 1),
    y: tuple[float, float] = (0, 1),
    diagonal: bool = False,
    bars: NDArray[np.float64] | None = None,
) -> str:
    """Lines over two axes.

    Args:
        series: the lines.
        title: what a screen reader says of the whole.
        x_title: under the axis.
        y_title: beside the axis.
        x: the axis's range.
        y: the axis's range.
        diagonal: draw where y equals x.
        bars: shares, `(N,)` evenly spread over x, drawn at the foot.
    """

    def sx(value: float) -> float:
        return _LEFT + (value - x[0]) / (x[1] - x[0]) * (_WIDTH - _LEFT - _RIGHT)

    def sy(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - y[0]) / (y[1] - y[0]) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_frame(title, _WIDTH, _HEIGHT)]
    for tick in ticks(*x):
        parts.append(f'<path class="grid" d="M{place(sx(tick))} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        parts.append(_label(sx(tick), _HEIGHT - _BOTTOM + 16, f"{tick:g}", "middle"))
    for tick in ticks(*y):
        parts.append(f'<path class="grid" d="M{_LEFT} {place(sy(tick))}H{_WIDTH - _RIGHT}"/>')
        parts.append(_label(_LEFT - 7, sy(tick) + 4, f"{tick:g}", "end"))
    parts.append(_label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x_title, "middle", "axis"))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(13 {place(middle)}) rotate(-90)">'
        f"{text(y_title)}</text>"
    )
    if bars is not None:
        width = (sx(x[1]) - sx(x[0])) / len(bars)
        for i, share in enumerate(bars):
            top = sy(y[0] + share * 0.3 * (y[1] - y[0]))
            left, height = place(sx(x[0]) + i * width + 1), place(_HEIGHT - _BOTTOM - top)
            parts.append(
                f'<rect class="foot" x="{left}" y="{place(top)}" width="{place(width - 2)}" height="{height}"/>'
            )
    if diagonal:
        parts.append(f'<path class="ideal" d="M{sx(x[0])} {sy(y[0])}L{sx(x[1])} {sy(y[1])}"/>')
    for line in series:
        points = [(sx(a), sy(b)) for a, b in _thinned(line.points).tolist()]
        parts.append(f'<path class="line {line.look}" d="{_path(points)}"/>')
        if line.marked:
            parts += [_mark(px, py, line.look) for px, py in points if math.isfinite(px + py)]
        if line.spot is not None:
            px, py, what = line.spot
            parts.append(_mark(sx(px), sy(py), f"{line.look} spot", what))
    return "".join((*parts, "</svg>")) + legend([(line.look, line.name) for line in series])


def histogram(
    shares: Sequence[float], *, title: str, x_title: str, ticks_at: Sequence[tuple[float, str]], tips: Sequence[str]
) -> str:
    """Bars of shares, 0 to 1.

    Args:
        shares: one a bar.
        title: what a screen reader says of the whole.
        x_title: under the axis.
        ticks_at: place among the bars (0 is the left edge of the first, 1 its right edge) and text.
        tips: one a bar.
    """
    top = max(max(shares, default=0.0), 1e-9)
    limit = next((t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8) if t >= top), 1.0)
    width = (_WIDTH - _LEFT - _RIGHT) / len(shares)
    floor = _HEIGHT - _BOTTOM
    parts = [_frame(title, _WIDTH, _HEIGHT)]
    for tick in ticks(0, limit):
        level = floor - tick / limit * (floor - _TOP)
        parts.append(f'<path class="grid" d="M{_LEFT} {place(level)}H{_WIDTH - _RIGHT}"/>')
        parts.append(_label(_LEFT - 7, level + 4, f"{100 * tick:g} %", "end"))
    for i, (share, tip) in enumerate(zip(shares, tips, strict=True)):
        height = share / limit * (floor - _TOP)
        parts.append(
            f'<rect class="bar" x="{place(_LEFT + i * width + 1)}" y="{place(floor - height)}" '
            f'width="{place(width - 2)}" height="{place(height)}"><title>{text(tip)}</title></rect>'
        )
    for at, what in ticks_at:
        parts.append(_label(_LEFT + at * width, floor + 16, what, "middle"))
    parts.append(_label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x_title, "middle", "axis"))
    return "".join((*parts, "</svg>"))


def heat_map(values: NDArray[Any], *, centre: float, reach: float, title: str, digits: int) -> str:
    """A map in the diverging colours, with its numbers as tips; NaN is hatched grey."""
    rows, columns = values.shape
    cell = 20
    pixels = colours.diverging(values, centre=centre, reach=reach)
    parts = [_frame(title, columns * cell, rows * cell, "heat")]
    for y in range(rows):
        for x in range(columns):
            tip = number(float(values[y, x]), digits, sign=centre == 0)
            parts.append(
                f'<rect x="{x * cell}" y="{y * cell}" width="{cell}" height="{cell}" '
                f'fill="{colours.hexadecimal(pixels[y, x])}"><title>{tip}</title></rect>'
            )
    return "".join((*parts, "</svg>"))


def colour_bar(*, centre: float, reach: float, low: str, high: str, unit: str) -> str:
    """The legend of the diverging colours: what its ends mean, numbers, unit."""
    stops = colours.gradient()
    blocks = "".join(f'<rect x="{i * 20}" width="20.5" height="14" fill="{colour}"/>' for i, colour in enumerate(stops))
    signed = centre == 0
    ends = (centre - reach, centre, centre + reach)
    low_number, middle, high_number = (f"{end:{'+' if signed and end else ''}.3g}".replace("-", "−") for end in ends)
    width = 20 * len(stops)
    return (
        f'<div class="scale"><span>{text(low)}</span><svg viewBox="0 0 {width} 32" role="img" '
        f'aria-label="{text(f"{low} {low_number}, {middle} in the middle, {high} {high_number}, {unit}")}">{blocks}'
        f'<text x="0" y="28">{low_number}</text><text x="{width / 2}" y="28" text-anchor="middle">{middle}</text>'
        f'<text x="{width}" y="28" text-anchor="end">{high_number}</text></svg><span>{text(high)}</span>'
        f'<span class="unit">{text(unit)}</span></div>'
    )


def interval(estimate: Estimate, reach: float) -> str:
    """A difference and its interval about 0, small enough for a table; nothing where there is no interval."""
    if not math.isfinite(estimate.low) or reach <= 0:
        return ""

    def at(value: float) -> str:
        return place(70 + 64 * max(-1.0, min(1.0, value / reach)))

    look = "won" if estimate.low > 0 else "lost" if estimate.high < 0 else "even"
    return (
        '<svg class="interval" viewBox="0 0 140 16" aria-hidden="true"><path class="zero" d="M70 0V16"/>'
        f'<path class="{look}" d="M{at(estimate.low)} 8H{at(estimate.high)}M{at(estimate.low)} 4V12'
        f'M{at(estimate.high)} 4V12"/><circle class="{look}" cx="{at(estimate.value)}" cy="8" r="3.5"/></svg>'
    )


def ladder(rows: Sequence[tuple[str, Estimate, str]], *, title: str) -> str:
    """Shares with intervals, one below the other: name, figure, class of its colour."""
    gap, left, right = 34, 200, 66
    height = gap * len(rows) + 34
    bounds = [b for _, e, _ in rows for b in e if math.isfinite(b)]
    low, high = math.floor(10 * min(bounds) - 0.05) / 10, math.ceil(10 * max(bounds) + 0.05) / 10
    low, high = max(low, 0.0), min(high, 1.0)

    def at(value: float) -> str:
        return place(left + (value - low) / max(high - low, 1e-9) * (640 - left - right))

    parts = [_frame(title, 640, height, "wide")]
    for tick in ticks(low, high):
        parts.append(f'<path class="grid" d="M{at(tick)} 4V{height - 26}"/>')
        parts.append(_label(float(at(tick)), height - 10, f"{tick:g}", "middle"))
    for i, (name, estimate, look) in enumerate(rows):
        y = 20 + gap * i
        parts.append(_label(left - 14, y + 4, name, "end", "row"))
        if math.isfinite(estimate.low):
            parts.append(
                f'<path class="whisker {look}" d="M{at(estimate.low)} {y}H{at(estimate.high)}'
                f'M{at(estimate.low)} {y - 5}V{y + 5}M{at(estimate.high)} {y - 5}V{y + 5}"/>'
            )
        parts.append(f'<circle class="dot {look}" cx="{at(estimate.value)}" cy="{y}" r="5"/>')
        parts.append(_label(640 - right + 12, y + 4, number(estimate.value), "start", "row"))
    return "".join((*parts, "</svg>"))


def gain_bar(value: float, reach: float) -> str:
    """A bar to the right of the middle for a gain, to the left for a loss."""
    length = 0.0 if reach <= 0 else 100 * max(-1.0, min(1.0, value / reach))
    x = 100 + min(length, 0.0)
    return (
        '<svg class="gain" viewBox="0 0 200 14" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="{"won" if value > 0 else "lost"}" x="{place(x)}" y="1" '
        f'width="{place(abs(length))}" height="12"/><path class="zero" vector-effect="non-scaling-stroke" '
        'd="M100 0V14"/></svg>'
    )


def share_bar(value: float) -> str:
    """A bar from the left for a share, 0 to 1."""
    return (
        '<svg class="gain" viewBox="0 0 200 14" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="after" x="0" y="1" width="{place(200 * value)}" height="12"/></svg>'
    )


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """What the lines of a chart are: class and name."""
    items = "".join(
        f'<li><svg viewBox="0 0 28 12" aria-hidden="true"><path class="line {look}" d="M1 6H27"/>'
        f"{_mark(14, 6, look)}</svg>{text(name)}</li>"
        for look, name in entries
    )
    return f'<ul class="legend">{items}</ul>'


def ticks(low: float, high: float) -> list[float]:
    """Five or so round numbers from low to high."""
    span = high - low
    raw = span / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _frame(title: str, width: int, height: int, look: str = "chart") -> str:
    return f'<svg class="{look}" viewBox="0 0 {width} {height}" role="img" aria-label="{text(title)}">'


def _label(x: float, y: float, what: str, anchor: str, look: str = "tick") -> str:
    return f'<text class="{look}" x="{place(x)}" y="{place(y)}" text-anchor="{anchor}">{text(what)}</text>'


def _mark(x: float, y: float, look: str, what: str = "") -> str:
    """Circles for what was before, squares for what is after: not told apart by colour alone."""
    size = 5.5 if "spot" in look else 3.2
    tip = f"<title>{text(what)}</title>" if what else ""
    if "after" in look:
        side = place(2 * size)
        at = f'x="{place(x - size)}" y="{place(y - size)}" width="{side}" height="{side}"'
        return f'<rect class="mark {look}" {at}>{tip}</rect>'
    return f'<circle class="mark {look}" cx="{place(x)}" cy="{place(y)}" r="{place(size)}">{tip}</circle>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    result, pen_down = [], False
    for x, y in points:
        if not math.isfinite(x + y):
            pen_down = False
            continue
        result.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
        pen_down = True
    return "".join(result)


def _thinned(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """No more points than can be seen, evenly along the line, so that a steep part keeps its shape."""
    if len(points) <= _MOST_POINTS:
        return points
    steps = np.nan_to_num(np.abs(np.diff(points, axis=0)).sum(axis=1))
    length = np.concatenate(([0.0], np.cumsum(steps)))
    chosen = np.searchsorted(length, np.linspace(0, length[-1], _MOST_POINTS))
    return np.asarray(points[np.unique(np.minimum(chosen, len(points) - 1))])
