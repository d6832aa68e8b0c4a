"""Saliency metrics: the measures of salient object detection for soft maps.

Each map is first stretched to 0 … 1, as in published figures; a map of one value stays as it is. Thresholds are the 256
levels of the stretched map in 8 bits.

- **MAE**: mean |p − y|.
- **F-measure** (Achanta et al. 2009, section 4, β² = 0.3): maximum and mean over the thresholds; and adaptive, at twice
  the mean of the map, at most 1.
- **Weighted F-measure** (Margolin et al. 2014, section 4, β² = 1): errors in the foreground are smoothed with those
  around them (a Gaussian of σ = 5 in 7×7 px). Errors in the background weigh more the further they lie from the
  foreground, 1 to 2, half way at 5 px.
- **S-measure** (Fan et al. 2017, section 3, α = 0.5): similarity of object and background, and of the four quadrants
  around the object's centre.
- **E-measure** (Fan et al. 2018, section 3): alignment of map and label about their means; maximum, mean, adaptive.

The figure of a set is the mean over its images. Maximum F and E are those of the images' mean curve: one threshold for
all images. Figures equal those of PySODMetrics 1.6; as there, an image without foreground has F-measures of 0.

Invalid pixels count nowhere and are treated as if they lay outside the image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics.regions import FloatArray, ratio, require_same_shape

LEVELS = 256
SUMS = 6 + 2 * LEVELS
"""Length of an image's record: 1, five figures, and the two curves."""

_BETA_SQUARED = 0.3
_ALPHA = 0.5
_SIGMA, _REACH = 5.0, 3  # px, of the Gaussian of the weighted F-measure
_HALF_WAY = 5.0  # px, where an error in the background weighs 1.5
_TINY = float(np.spacing(1))

_F_CURVE = slice(6, 6 + LEVELS)
_E_CURVE = slice(6 + LEVELS, SUMS)


def measure_saliency(probabilities: NDArray[np.float32], label: NDArray[np.uint8]) -> FloatArray:
    """Measure one soft map.

    Args:
        probabilities: `(H, W)` float32 in [0, 1], NaN invalid.
        label: `(H, W)` uint8, 0 background, 1 foreground, 255 ignore.

    Returns:
        `(518,)` float64: 1, MAE, adaptive F, weighted F, S, adaptive E, then F and E at the thresholds 255/255 …
        0/255. Records of several images add up.

    Raises:
        InputError: the shapes differ, values lie outside [0, 1], or no pixel is valid.
    """
    require_same_shape(probabilities, label)
    valid = (label != IGNORE) & ~np.isnan(probabilities)
    if not valid.any():
        raise InputError("no pixel is valid in both the map and its label")
    p, y = stretch(probabilities[valid]), label[valid] == 1
    f_curve, e_curve = _curves(p, y)
    adaptive = p >= min(2 * p.mean(), 1)
    chosen, right, true = adaptive.sum(), (adaptive & y).sum(), y.sum()
    adaptive_f = _f_measure(right, chosen, true)
    adaptive_e = _e_measure(right, chosen, true, len(y))
    figures = (np.abs(p - y).mean(), adaptive_f, _weighted_f(p, y, valid), _s_measure(p, y, valid), adaptive_e)
    return np.concatenate(((1.0, *map(float, figures)), f_curve, e_curve))


def stretch(probabilities: NDArray[np.float32]) -> FloatArray:
    """Stretch a map's values to 0 … 1; a map of one value stays as it is.

    Raises:
        InputError: values lie outside [0, 1].
    """
    least, most = float(probabilities.min()), float(probabilities.max())
    if not (least >= 0 and most <= 1):
        raise InputError(f"probabilities run from {least:g} to {most:g}; expected 0 to 1")
    exact = np.rint(probabilities * np.float32(255)).astype(np.float64) / 255
    # Values of 8-bit maps equal the thresholds, so the rounding of float32 would decide on which side they lie.
    p = exact if np.array_equal(exact.astype(np.float32), probabilities) else probabilities.astype(np.float64)
    least, most = float(p.min()), float(p.max())
    return p if least == most else (p - least) / (most - least)


def _figure(records: FloatArray, position: int) -> FloatArray:
    return ratio(records[..., position], records[..., 0], where_empty=np.nan)


def _of_curve(records: FloatArray, curve: slice, reduce: Callable[..., FloatArray]) -> FloatArray:
    return reduce(ratio(records[..., curve], records[..., :1], where_empty=np.nan), axis=-1)


# From records `(..., 518)` to figures `(...)`. A maximum or mean of a curve is that of the images' mean curve.
mean_absolute_error, adaptive_f, weighted_f, s_measure, adaptive_e = (
    partial(_figure, position=position) for position in range(1, 6)
)
max_f, mean_f = (partial(_of_curve, curve=_F_CURVE, reduce=reduce) for reduce in (np.max, np.mean))
max_e, mean_e = (partial(_of_curve, curve=_E_CURVE, reduce=reduce) for reduce in (np.max, np.mean))


def _curves(p: FloatArray, y: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """F- and E-measure at the thresholds 255 … 0."""
    levels = (p * (LEVELS - 1)).astype(np.intp)
    levels += y * np.intp(LEVELS)
    false, true = np.bincount(levels, minlength=2 * LEVELS).reshape(2, LEVELS)[:, ::-1].cumsum(axis=1)
    return _f_measure(true, true + false, true[-1]), _e_measure(true, true + false, true[-1], len(y))


def _f_measure(right: Any, chosen: Any, true: Any) -> FloatArray:
    """F-measure R P (1 + β²) / (β² P + R), with precision P = right / chosen and recall R = right / true."""
    denominator = _BETA_SQUARED * np.asarray(true, np.float64) + chosen
    return ratio((1 + _BETA_SQUARED) * np.asarray(right, np.float64), denominator, where_empty=0.0)


def _e_measure(right: Any, chosen: Any, true: Any, pixels: int) -> FloatArray:
    """E-measure, from the counts of `_f_measure`: pixels are of four kinds, each with one alignment."""
    right, chosen, true = (np.asarray(count, np.float64) for count in (right, chosen, true))
    if true == 0:
        total = pixels - chosen
    elif true == pixels:
        total = chosen
    else:
        mask_mean, label_mean = chosen / pixels, true / pixels
        total = np.zeros_like(chosen)
        for mask, label, count in (
            (1, 1, right),
            (1, 0, chosen - right),
            (0, 1, true - right),
            (0, 0, pixels - true - chosen + right),
        ):
            a, b = mask - mask_mean, label - label_mean
            alignment = 2 * a * b / (a * a + b * b + _TINY)
            total += count * (alignment + 1) ** 2 / 4
    return np.asarray(total / max(pixels - 1, 1), np.float64)


def _weighted_f(p: FloatArray, y: NDArray[np.bool_], valid: NDArray[np.bool_]) -> float:
    from scipy import ndimage  # only this metric needs it

    if not y.any():
        return 0.0
    errors, true = np.zeros(valid.shape), np.zeros(valid.shape, np.bool_)
    errors[valid], true[valid] = np.abs(p - y), y
    distance, nearest = ndimage.distance_transform_edt(~true, return_indices=True)
    # Background takes the error of the nearest foreground, so that its own errors do not leak into the foreground.
    spread = np.where(valid, errors[tuple(nearest)], 0.0)
    smooth = ndimage.gaussian_filter(spread, _SIGMA, radius=_REACH, mode="constant")
    weighted = np.minimum(errors[true], smooth[true])
    weight = 2 - np.exp(np.log(0.5) / _HALF_WAY * distance)
    false = float((errors * weight)[valid & ~true].sum())
    recall = 1 - float(weighted.mean())
    hits = len(weighted) - float(weighted.sum())
    precision = hits / (hits + false + _TINY)
    return 2 * recall * precision / (recall + precision + _TINY)


def _s_measure(p: FloatArray, y: NDArray[np.bool_], valid: NDArray[np.bool_]) -> float:
    share = float(y.mean())
    if share == 0:
        return 1 - float(p.mean())
    if share == 1:
        return float(p.mean())
    objects = share * _likeness(p[y]) + (1 - share) * _likeness(1 - p[~y])
    rows, columns = np.nonzero(valid)
    below = rows > np.round(rows[y].mean())
    right = columns > np.round(columns[y].mean())
    regions = 0.0
    for quadrant in (~below & ~right, ~below & right, below & ~right, below & right):
        if quadrant.any():
            regions += float(quadrant.mean()) * _structure(p[quadrant], y[quadrant].astype(np.float64))
    return max(0.0, _ALPHA * objects + (1 - _ALPHA) * regions)


def _likeness(p: FloatArray) -> float:
    """Similarity of a part to all ones (Fan et al. 2017, equation 9)."""
    mean = float(p.mean())
    deviation = float(p.std(ddof=1)) if len(p) > 1 else 0.0
    return 2 * mean / (mean * mean + 1 + deviation + _TINY)


def _structure(p: FloatArray, y: FloatArray) -> float:
    """Structural similarity of a quadrant, without stabilising constants (Fan et al. 2017, equation 2)."""
    mean_p, mean_y = float(p.mean()), float(y.mean())
    least = max(len(p) - 1, 1)
    variances = float(((p - mean_p) ** 2).sum() + ((y - mean_y) ** 2).sum()) / least
    covariance = float(((p - mean_p) * (y - mean_y)).sum()) / least
    numerator = 4 * mean_p * mean_y * covariance
    denominator = (mean_p**2 + mean_y**2) * variances
    if numerator != 0:
        return numerator / (denominator + _TINY)
    return 1.0 if denominator == 0 else 0.0
