"""Logits that are more, or less, than scores: infinite ones are certain, and ties may be no scores at all.

logit(1) is +inf, and the log of an underflowed probability -inf. Arithmetic needs finite numbers, so ±inf becomes
±`STAND_IN` when a map is read. Everything from ±`CERTAIN` on counts as certain: its probability is exactly 1 or 0 in
float32, and no correction changes it.

Where a model did not look, mosaics are often filled with 0, a tie. The base mask is background there, and no correction
makes it foreground.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatMaps = NDArray[np.float32]

CERTAIN = 5000.0
"""Logits of models lie within ±5000. Finite values beyond stand for missing data, such as -9999 and -3.4e38."""
STAND_IN = 2 * CERTAIN
"""Taken for infinity: so large that its difference from any logit is still certain."""
_HELD = 16.0  # a probability of 1e-7
_LEAST_PADDING = 16  # px in a row
_EQUAL = 1e-5  # logits of classes: rounding keeps ties apart


def find_certain(scores: NDArray[Any]) -> NDArray[np.bool_]:
    """Which scores `(C, h, w)` are certain: infinite ones, and classes masked out by a finite value such as -1e9.

    A value below all logits masks a class if another class of the pixel has a logit. If none has, it means no data.
    """
    below = scores < -CERTAIN
    return np.asarray(np.isinf(scores) | (below & ~below.all(axis=0)))


def settle(scores: NDArray[Any], certain: NDArray[np.bool_]) -> FloatMaps:
    """Scores `(C, h, w)` in float32, with `STAND_IN` for those that are certain, see `find_certain`.

    NaN in all classes where a softmax is undefined: several are +inf, or all are -inf.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.where(certain, np.where(scores > 0, STAND_IN, -STAND_IN), scores).astype(np.float32)
    if len(scores) > 1:
        undefined = (np.isposinf(scores).sum(axis=0) > 1) | np.isneginf(scores).all(axis=0)
        result[:, undefined] = np.nan
    return result


def keep_certain(base: FloatMaps, refined: FloatMaps) -> None:
    """Put the base model's certain logits, of any shape, in the place of the refined ones; keep ties background."""
    certain = np.abs(base) >= CERTAIN
    if certain.any():
        refined[certain] = base[certain]
    ties = base == 0
    if ties.any():
        refined[ties] = np.minimum(refined[ties], 0)


def find_padding(logits: FloatMaps) -> NDArray[np.bool_] | None:
    """Where ties follow each other in a row, as they do where a model did not look: `(h, w)`; None if nowhere.

    Ties are 16 pixels or more, exactly 0 in `(h, w)` logits, or equal in all classes of `(C, h, w)`, one-versus-rest.
    """
    ties = logits == 0 if logits.ndim == 2 else np.ptp(logits, axis=0) < _EQUAL
    if not ties.any():
        return None
    steps = np.diff(ties.view(np.int8), axis=1, prepend=np.int8(0), append=np.int8(0))
    (rows, starts), (_, ends) = np.nonzero(steps > 0), np.nonzero(steps < 0)
    long = ends - starts >= min(_LEAST_PADDING, ties.shape[1])
    if not long.any():
        return None
    steps[:] = 0
    steps[rows[long], starts[long]] = 1
    steps[rows[long], ends[long]] -= 1
    return np.cumsum(steps[:, :-1], axis=1, dtype=np.int8).view(np.bool_)


def hold(logits: FloatMaps) -> FloatMaps:
    """Logits as networks and statistics see them: certain ones are ±16. The same array if there are none."""
    least, most = (reduce(logits, axis=None, initial=0) for reduce in (np.fmin.reduce, np.fmax.reduce))
    if least > -CERTAIN and most < CERTAIN:
        return logits
    certain = np.abs(logits) >= CERTAIN
    return np.where(certain, np.copysign(np.float32(_HELD), logits), logits)
