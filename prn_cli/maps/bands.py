"""Statistics of the bands of a set of images."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_FEWEST_SPREADS = 1e-6  # of a band's magnitude: less is rounding
_SAMPLE_PIXELS = 1 << 16  # of each image


def band_statistics(images: Iterable[NDArray[np.float32]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Centre and spread of each band over a set of images, hardly moved by a few stray numbers.

    Args:
        images: `(bands, H, W)` float32 each, NaN where invalid; pixels on a grid over each are looked at.

    Returns:
        By band the median, and the standard deviation of a normal distribution with the same 2nd and 98th
        percentiles; 1 for a band of one value.
    """
    pixels = _pixels_of(images)
    if not pixels.shape[1]:
        return (0.0,) * len(pixels), (1.0,) * len(pixels)
    low, centre, high = np.percentile(pixels, [2, 50, 98], axis=1)
    spread = (high - low) / (2 * 2.0537489)  # the 98th percentile of the standard normal distribution
    spread = np.where(spread > 0, spread, pixels.std(axis=1))
    spread[spread <= _FEWEST_SPREADS * np.abs(centre)] = 1.0
    spread[spread == 0] = 1.0
    return tuple(centre.astype(np.float32).tolist()), tuple(spread.astype(np.float32).tolist())


def _pixels_of(images: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Valid pixels on a grid over each image, `(bands, n)`."""
    found = []
    for image in images:
        bands, height, width = image.shape
        step = max(math.ceil(math.sqrt(height * width / _SAMPLE_PIXELS)), 1)
        pixels = image[:, step // 2 :: step, step // 2 :: step].reshape(bands, -1)
        found.append(pixels[:, np.isfinite(pixels).all(axis=0)])
    return np.concatenate(found, axis=1).astype(np.float64)


def band_range(images: Iterable[NDArray[np.float32]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The 1st and the 99th percentile of each band over a set of images; of a band of one value, 1 more or so."""
    pixels = _pixels_of(images)
    if not pixels.shape[1]:
        return (0.0,) * len(pixels), (1.0,) * len(pixels)
    low, high = np.percentile(pixels, [1, 99], axis=1)
    least = _FEWEST_SPREADS * np.abs(low)
    high += np.where(high - low <= least, np.maximum(least, 1), 0)  # 1 beside a great number is lost in float32
    return tuple(low.astype(np.float32).tolist()), tuple(high.astype(np.float32).tolist())
