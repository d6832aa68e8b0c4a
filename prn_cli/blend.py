"""Windows put back together: each result passes smoothly into its neighbour's where both have context.

The outer halo of a window is thrown away, for lack of context. Between the halos of two neighbours lies a ramp, on
which the weight of the first falls from 1 to 0 while that of the second rises: together always 1, so there is
nothing to divide by, and where both windows agree their value comes out unchanged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prn_cli.tiles import AxisPlan, Span

FloatMap = NDArray[np.float32]


def rising_weights(ramp: int) -> FloatMap:
    """Weights of the following window on a ramp: a smooth step, flat at both ends.

    Returns:
        `(ramp,)` float32, rising, each in (0, 1); with its reverse it adds up to 1.
    """
    t = (np.arange(ramp, dtype=np.float64) + 0.5) / max(ramp, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def mix(before: FloatMap, after: FloatMap, weights: FloatMap | np.float32) -> FloatMap:
    """`before` where the weight is 0, `after` where it is 1; exactly their value where they are equal."""
    return before + weights * (after - before)


def strengthen(logits: FloatMap, refined: FloatMap, strength: float) -> FloatMap:
    """The refined logits of a strength between 0 and 1, `(h, w)` float32, NaN where invalid."""
    return refined if strength == 1 else mix(logits, refined, np.float32(strength))


def mix_rows(before: FloatMap, after: FloatMap) -> FloatMap:
    """Two results `(ramp, W)` for the rows of a ramp, the upper window's and the lower one's, as one."""
    return mix(before, after, rising_weights(len(before))[:, np.newaxis])


class ColumnBlender:
    """Puts the windows of one row of tiles side by side.

    Args:
        rows: height of the row of tiles.
        plan: the windows along the map's width, which are to be added in this order.
    """

    def __init__(self, rows: int, plan: AxisPlan) -> None:
        self.strip: FloatMap = np.empty((rows, plan.size), np.float32)
        self._weights = rising_weights(plan.ramp)
        self._ramp = plan.ramp

    def add(self, span: Span, result: FloatMap) -> None:
        """Blend in the result `(rows, span.length)` of the next window; pixels beyond the map are ignored."""
        kept = result[:, span.keep - span.start : span.stop - span.start]
        fresh = span.keep
        if span.keep > 0:
            fresh += self._ramp
            ramp = self.strip[:, span.keep : fresh]
            ramp[:] = mix(ramp, kept[:, : self._ramp], self._weights)
        self.strip[:, fresh : span.stop] = kept[:, fresh - span.keep :]


class RowBlender:
    """Puts rows of tiles one below the other and hands out the rows that no later tile will change.

    It holds one row of tiles and one ramp, whatever the height of the map.

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
