"""Numbers to the colours of the page's pictures, which are the same in light and dark.

Won and lost are blue and orange (Okabe and Ito 2008), more and less are green and purple (ColorBrewer PRGn). Both pairs
stay distinct to colour-blind eyes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Pixels = NDArray[np.uint8]

WON, LOST = "#4db4ff", "#ff8c1a"
FOREGROUND, BACKGROUND = "#e6e9ec", "#20252b"
WRONG = "#7f7f7f"
NOT_COUNTED = ("#4a5058", "#6b727b")  # stripes
LESS, MIDDLE, MORE = "#762a83", "#f7f7f7", "#1b7837"
_STOPS = ("#40004b", LESS, "#9970ab", "#c2a5cf", "#e7d4e8", MIDDLE, "#d9f0d3", "#a6dba0", "#5aae61", MORE, "#00441b")

_LEVELS = 6  # of shades between two colours: few compress well, and nobody sees more in a mask


def blend(shares: NDArray[np.float32], colours: Sequence[str] | NDArray[np.str_], weights: ArrayLike = 1) -> Pixels:
    """Mix colours by their shares of each cell.

    Args:
        shares: `(h, w, classes + 1)` that add up to 1; the last is of pixels that do not count, which are striped.
        colours: one a class, `#rrggbb`.
        weights: of the classes in a mix, so that slivers of those that matter are still seen.

    Returns:
        `(h, w, 3)` uint8.
    """
    mix = shares[..., :-1] * np.asarray(weights, np.float32)
    mix = np.round(mix / np.maximum(mix.sum(axis=-1, keepdims=True), 1e-9) * _LEVELS)
    mix /= np.maximum(mix.sum(axis=-1, keepdims=True), 1)
    pixels = np.round(mix @ _rgb(colours))
    striped = shares[..., -1] > 0.5
    stripe = np.add.outer(*map(np.arange, striped.shape)) // 4 % 2
    pixels[striped] = _rgb(NOT_COUNTED)[stripe[striped]]
    return np.asarray(pixels, np.uint8)


def diverging(values: NDArray[np.floating[Any]], *, centre: float, reach: float) -> Pixels:
    """Colour numbers by how far they lie from the centre: purple below, green above, grey where NaN.

    Args:
        values: of any shape.
        centre: the number that is white.
        reach: how far from it the darkest colours are.

    Returns:
        `(..., 3)` uint8.
    """
    place = np.clip((values - centre) / reach, -1, 1)
    known = ~np.isnan(place)
    place = (np.where(known, place, 0) + 1) / 2 * (len(_STOPS) - 1)
    stops = _rgb(_STOPS)
    colours = np.stack([np.interp(place, np.arange(len(stops)), channel) for channel in stops.T], axis=-1)
    colours[~known] = _rgb(NOT_COUNTED)[0]
    return np.round(colours).astype(np.uint8)


def gradient() -> list[str]:
    """The stops of `diverging`, evenly spaced, as `#rrggbb`."""
    return list(_STOPS)


def hexadecimal(pixel: NDArray[np.uint8]) -> str:
    """`(3,)` uint8 as `#rrggbb`."""
    return "#" + "".join(f"{int(part):02x}" for part in pixel)


def _rgb(colours: Iterable[str]) -> NDArray[np.float32]:
    return np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours], np.float32)
