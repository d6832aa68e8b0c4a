"""The guided filter: scores that get the edges of an image (He, Sun and Tang, TPAMI 2013, section 3.5).

In every box, scores are fitted as a linear function of the image's bands; a pixel's score is the mean of what the boxes
around it say. The fits are made on cells of 4 px (He and Sun, "Fast Guided Filter", 2015).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatMaps = NDArray[np.float32]

CELL = 4
"""Side of a cell, px. Windows of a map must begin on multiples of it."""


def reach(side: int) -> int:
    """How far a pixel looks, px: two boxes, and a cell for the way from cells to pixels."""
    return CELL * (2 * (side // 2) + 1)


def guided(scores: FloatMaps, guide: FloatMaps, *, side: int, smoothness: float) -> FloatMaps:
    """Filter scores by an image.

    Args:
        scores: `(C, h, w)` float32, NaN invalid.
        guide: `(bands, h, w)` float32, NaN invalid. Its numbers are relative to each band's spread.
        side: of a box, in cells; odd.
        smoothness: ε of the filter: contrast below its root, in spreads of the image, is no edge.

    Returns:
        `(C, h, w)` float32. Where the image is invalid, scores stay as they are; NaN stays NaN.
    """
    seen = np.asarray(np.isfinite(guide).all(axis=0) & np.isfinite(scores).all(axis=0))
    if not seen.any():
        return scores
    image = np.where(seen, guide, 0).astype(np.float64)
    values = np.where(seen, scores, 0).astype(np.float64)
    bands, classes = len(image), len(values)
    rows, columns = np.triu_indices(bands)
    planes = np.concatenate(
        (image, values, image[rows] * image[columns], (image[:, None] * values).reshape(-1, *seen.shape))
    )
    weight = _cells(seen[None].astype(np.float64))
    means = _box_mean(_cells(planes) / np.maximum(weight, 1e-9), weight, side)
    mean, score, squares, products = np.split(means, np.cumsum((bands, classes, len(rows))))
    spread = np.empty((bands, bands, *weight.shape[1:]))
    spread[rows, columns] = spread[columns, rows] = squares - mean[rows] * mean[columns]
    spread[range(bands), range(bands)] += smoothness
    shared = products.reshape(bands, classes, *weight.shape[1:]) - mean[:, None] * score
    slopes = np.moveaxis(
        np.linalg.solve(np.moveaxis(spread, (0, 1), (-2, -1)), np.moveaxis(shared, (0, 1), (-2, -1))), (-2, -1), (0, 1)
    )
    offset = score - (slopes * mean[:, None]).sum(axis=0)
    fits = _box_mean(np.concatenate((slopes.reshape(-1, *weight.shape[1:]), offset)), weight, side)
    found = _to_pixels(fits, *seen.shape).reshape(bands + 1, classes, *seen.shape)
    result = (found[:-1] * image[:, None]).sum(axis=0) + found[-1]
    return np.where(seen, result, scores).astype(np.float32)


def _cells(planes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of cells; what lies beyond the map counts as 0."""
    height, width = planes.shape[1:]
    full = np.pad(planes, ((0, 0), (0, -height % CELL), (0, -width % CELL)))
    cells: NDArray[np.float64] = full.reshape(
        len(planes), full.shape[1] // CELL, CELL, full.shape[2] // CELL, CELL
    ).mean(axis=(2, 4))
    return cells


def _box_mean(values: NDArray[np.float64], weight: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Weighted means over boxes of `side` cells, cut off at the border."""
    return _box_sum(values * weight, side) / np.maximum(_box_sum(weight, side), 1e-9)


def _box_sum(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    half = side // 2
    for axis in (1, 2):
        length = values.shape[axis]
        shape = [(0, 0)] * 3
        shape[axis] = (1, 0)
        total = np.pad(values.cumsum(axis=axis), shape)
        places = np.arange(length)
        values = total.take(np.minimum(places + half + 1, length), axis) - total.take(
            np.maximum(places - half, 0), axis
        )
    return values


def _to_pixels(cells: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Interpolate between the centres of cells."""
    for axis, length in ((1, height), (2, width)):
        last = cells.shape[axis] - 1
        place = np.clip((np.arange(length) + 0.5) / CELL - 0.5, 0, last)
        below = np.minimum(place.astype(np.intp), max(last - 1, 0))
        part = (place - below).reshape((1, -1, 1) if axis == 1 else (1, 1, -1))
        upper = np.minimum(below + 1, last)
        cells = cells.take(below, axis) * (1 - part) + cells.take(upper, axis) * part
    return cells
