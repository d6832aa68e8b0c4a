"""Saliency metrics: how well a soft map shows what stands out, as the field of salient object detection measures it.

A map is stretched to 0 … 1 first, image by image, as published figures have it; a map of one value stays as it is.
"At a threshold" means the stretched map, quantised to 8 bits, at all of the 256 levels.

- **MAE**: mean |p − y|.
- **F-measure** (Achanta et al. 2009, section 4, β² = 0.3): at every threshold, the maximum and the mean of these; and
  adaptive, at twice the mean of the map, at most 1.
- **Weighted F-measure** (Margolin et al. 2014, section 4, β² = 1): errors in the foreground are softened by those
  around them (a Gaussian of σ = 5 in 7×7 px), and errors in the background weigh more the further they lie from the
  foreground, 1 to 2, half way at 5 px.
- **S-measure** (Fan et al. 2017, section 3, α = 0.5): likeness of the object and the background, and of the four
  quadrants around the object's centre.
- **E-measure** (Fan et al. 2018, section 3): alignment of map and label about their means; maximum, mean, adaptive.

Every figure of a set is the mean over its images. The maximum F- and E-measure are those of the images' mean curve:
one threshold for all images, not the best for each. Figures equal those of PySODMetrics 1.6. An image without
foreground has F-measures of 0 there and here.

Invalid pixels count nowhere, and are treated as though they lay outside the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics.distance import nearest_foreground
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
        0/255. The sum of two images' records is that of both; see `max_f` and the others.

    Raises:
        InputError: shapes that differ, values outside [0, 1], or no valid pixel.
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
    """Stretch a map's values to 0 … 1; those of a map of one value stay as they are.

    Raises:
        InputError: values outside [0, 1].
    """
    least, most = float(probabilities.min()), float(probabilities.max())
    if not (least >= 0 and most <= 1):
        raise InputError(f"probabilities run from {least:g} to {most:g}; expected 0 to 1")
    exact = np.rint(probabilities * np.float32(255)).astype(np.float64) / 255
    # 8-bit maps lie on the thresholds themselves, where the rounding of float32 would decide.
    p = exact if np.array_equal(exact.astype(np.float32), probabilities) else probabilities.astype(np.float64)
    least, most = float(p.min()), float(p.max())
    return p if least == most else (p - least) / (most - least)


def mean_absolute_error(records: FloatArray) -> FloatArray:
    """MAE, `(..., 518)` records to `(...)`."""
    return _mean(records, 1)


def adaptive_f(records: FloatArray) -> FloatArray:
    """Adaptive F-measure, `(..., 518)` records to `(...)`."""
    return _mean(records, 2)


def weighted_f(records: FloatArray) -> FloatArray:
    """Weighted F-measure, `(..., 518)` records to `(...)`."""
    return _mean(records, 3)


def s_measure(records: FloatArray) -> FloatArray:
    """S-measure, `(..., 518)` records to `(...)`."""
    return _mean(records, 4)


def adaptive_e(records: FloatArray) -> FloatArray:
    """Adaptive E-measure, `(..., 518)` records to `(...)`."""
    return _mean(records, 5)


def max_f(records: FloatArray) -> FloatArray:
    """Maximum of the mean F-measure curve, `(..., 518)` records to `(...)`."""
    return _curve(records, _F_CURVE).max(axis=-1)  # type: ignore[no-any-return]


def mean_f(records: FloatArray) -> FloatArray:
    """Mean of the F-measure curve, `(..., 518)` records to `(...)`."""
    return _curve(records, _F_CURVE).mean(axis=-1)  # type: ignore[no-any-return]


def max_e(records: FloatArray) -> FloatArray:
    """Maximum of the mean E-measure curve, `(..., 518)` records to `(...)`."""
    return _curve(records, _E_CURVE).max(axis=-1)  # type: ignore[no-any-return]


def mean_e(records: FloatArray) -> FloatArray:
    """Mean of the E-measure curve, `(..., 518)` records to `(...)`."""
    return _curve(records, _E_CURVE).mean(axis=-1)  # type: ignore[no-any-return]


def _mean(records: FloatArray, position: int) -> FloatArray:
    return ratio(records[..., position], records[..., 0], where_empty=np.nan)


def _curve(records: FloatArray, part: slice) -> FloatArray:
    return ratio(records[..., part], records[..., :1], where_empty=np.nan)


def _curves(p: FloatArray, y: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """F- and E-measure at the levels 255 … 0, by the counts of pixels at and above each."""
    levels = (p * (LEVELS - 1)).astype(np.intp)
    levels += y * np.intp(LEVELS)
    false, true = np.bincount(levels, minlength=2 * LEVELS).reshape(2, LEVELS)[:, ::-1].cumsum(axis=1)
    return _f_measure(true, true + false, true[-1]), _e_measure(true, true + false, true[-1], len(y))


def _f_measure(right: Any, chosen: Any, true: Any) -> FloatArray:
    """F-measure of masks, by their pixels of true foreground, their pixels, and those of the true foreground.

    R P (1 + β²) / (β² P + R) with precision P = right / chosen and recall R = right / true.
    """
    denominator = _BETA_SQUARED * np.asarray(true, np.float64) + chosen
    return ratio((1 + _BETA_SQUARED) * np.asarray(right, np.float64), denominator, where_empty=0.0)


def _e_measure(right: Any, chosen: Any, true: Any, pixels: int) -> FloatArray:
    """E-measure of masks, as in `_f_measure`: there are four kinds of pixels, each with one alignment."""
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
    if not y.any():
        return 0.0
    errors, true = np.zeros(valid.shape), np.zeros(valid.shape, np.bool_)
    errors[valid], true[valid] = np.abs(p - y), y
    near = nearest_foreground(true)
    # Beyond its rim the foreground is taken to go on as it is there, so that the background's errors do not leak in.
    spread = np.where(valid, errors[near.rows, near.columns], 0.0)
    weighted = errors[true]
    weighted = np.minimum(weighted, _gaussian(spread)[true])
    weight = 2 - np.exp(np.log(0.5) / _HALF_WAY * np.sqrt(near.squared))
    false = float((errors * weight)[valid & ~true].sum())
    recall = 1 - float(weighted.mean())
    hits = len(weighted) - float(weighted.sum())
    precision = hits / (hits + false + _TINY)
    return 2 * recall * precision / (recall + precision + _TINY)


def _gaussian(image: FloatArray) -> FloatArray:
    """Convolve with a Gaussian of 7×7 px that sums to 1; beyond the image lies 0."""
    kernel = np.exp(-(np.arange(-_REACH, _REACH + 1) ** 2) / (2 * _SIGMA**2))
    kernel /= kernel.sum()
    height, width = image.shape
    padded = np.pad(image, _REACH)
    across = sum(factor * padded[:, i : i + width] for i, factor in enumerate(kernel))
    return np.asarray(sum(factor * across[i : i + height] for i, factor in enumerate(kernel)), np.float64)


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
    """Likeness of a part to all ones (Fan et al. 2017, equation 9)."""
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
