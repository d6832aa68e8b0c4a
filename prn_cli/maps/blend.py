"""Windows put back together: each result passes smoothly into its neighbour's where both have context.

The outer halo of a window is thrown away, for lack of context. Between the halos of two neighbours lies a ramp, on
which the weight of the first falls from 1 to 0 while that of the second rises: together always 1, so there is
nothing to divide by, and where both windows agree their value comes out unchanged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.tiles import AxisPlan, Span, Stretch

FloatMap = NDArray[np.float32]


def rising_weights(ramp: int) -> FloatMap:
    """Weights of the following window on a ramp, a smooth step from 0 to 1, which with its reverse adds up to 1."""
    t = (np.arange(ramp, dtype=np.float64) + 0.5) / max(ramp, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def mix(before: FloatMap, after: FloatMap, weights: FloatMap | np.float32) -> FloatMap:
    """`before` where the weight is 0, `after` where it is 1; exactly their value where they are equal."""
    return before + weights * (after - before)


def strengthen(logits: FloatMap, refined: FloatMap, strength: float) -> FloatMap:
    """The refined logits of a strength between 0 and 1, `(h, w)` float32, NaN where invalid."""
    return refined if strength == 1 else mix(logits, refined, np.float32(strength))


def mix_rows(before: FloatMap, after: FloatMap) -> FloatMap:
    """Two results `(…, ramp, W)` for the rows of a ramp, the upper window's and the lower one's, as one."""
    return mix(before, after, rising_weights(before.shape[-2])[:, np.newaxis])


class ColumnBlender:
    """Puts the windows of one row of tiles side by side, those of one stretch of columns at a time.

    Args:
        rows: height of the row of tiles.
        stretch: the windows, which are to be added in this order.
        ramp: px over which one passes into the next one.
        before: what the stretch before left open, `(rows, ramp)`; None for the first.
    """

    def __init__(self, rows: int, stretch: Stretch, ramp: int, before: FloatMap | None) -> None:
        self._strip: FloatMap = np.empty((rows, stretch.spans[-1].stop - stretch.keep), np.float32)
        self._stretch = stretch
        self._ramp, self._weights = ramp, rising_weights(ramp)
        if before is not None:
            self._strip[:, :ramp] = before

    def add(self, span: Span, result: FloatMap) -> None:
        """Blend in the result `(rows, span.length)` of the next window; pixels beyond the map are ignored."""
        kept = result[:, span.keep - span.start : span.stop - span.start]
        at = span.keep - self._stretch.keep
        fresh = self._ramp if span.keep > 0 else 0
        ramp = self._strip[:, at : at + fresh]
        ramp[:] = mix(ramp, kept[:, :fresh], self._weights[:fresh])
        self._strip[:, at + fresh : at + kept.shape[1]] = kept[:, fresh:]

    @property
    def finished(self) -> FloatMap:
        """`(rows, stretch.stop - stretch.keep)`: what no later window will change."""
        return self._strip[:, : self._stretch.stop - self._stretch.keep]

    @property
    def open(self) -> FloatMap:
        """`(rows, ramp)`: the columns that the next stretch will change; none after the last one."""
        return self._strip[:, self._stretch.stop - self._stretch.keep :]


class RowBlender:
    """Puts rows of tiles one below the other and hands out the rows that no later tile will change.

    It holds one ramp, whatever the height of the map.

    Args:
        plan: the windows along the map's height, which are to be added in this order.
    """

    def __init__(self, plan: AxisPlan) -> None:
        self._plan = plan
        self._open: FloatMap | None = None

    @property
    def open(self) -> FloatMap | None:
        """`(ramp, W)`: the rows that the next row of tiles will change; None after the last."""
        return self._open

    def add(self, span: Span, strip: FloatMap) -> FloatMap:
        """Blend in the next row of tiles.

        Args:
            span: its window along the height.
            strip: `(span.stop - span.keep, W)`, its used rows; changed in place.

        Returns:
            The finished rows, from `span.keep` on: all of them for the last row of tiles, else all but the ramp.
        """
        ramp = self._plan.ramp
        if self._open is not None:
            strip[:ramp] = mix_rows(self._open, strip[:ramp])
        if span.stop == self._plan.size:
            self._open = None
            return strip
        self._open = strip[-ramp:].copy()
        return strip[:-ramp]
