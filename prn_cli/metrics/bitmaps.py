"""Dilation of large masks, 64 pixels at a time.

A bitmap is `(H, ceil(W / 64))` uint64: pixel x of a row is bit x % 64 of word x // 64. Shifting words moves 64 pixels
at once, some thirty times faster than a distance transform. A dilation may set bits beyond the last column: combine its
result with a mask of the image before counting.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bitmap = NDArray[np.uint64]


def pack(mask: NDArray[np.bool_]) -> Bitmap:
    """Pack a boolean mask `(H, W)` into a bitmap; bits beyond the last column are 0."""
    height, width = mask.shape
    packed = np.zeros((height, -(-width // 64) * 8), dtype=np.uint8)
    packed[:, : -(-width // 8)] = np.packbits(mask, axis=1, bitorder="little")
    return packed.view("<u8").astype(np.uint64, copy=False)


def count(bits: Bitmap) -> int:
    """Count the bits that are set."""
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def dilate_square(bits: Bitmap, distance: int) -> Bitmap:
    """Dilate by a square: set every pixel within this chessboard distance of a set one."""
    return _grow(_widen(bits, distance), distance, _join_beside_rows)


def dilate_disk(bits: Bitmap, radius: float) -> Bitmap:
    """Dilate by a disk: set every pixel whose centre lies within `radius` pixels, inclusive, of that of a set one."""
    height = len(bits)
    squared = math.floor(radius * radius)
    grown, half_width = bits, 0
    result = np.zeros_like(bits)
    for rows in range(math.isqrt(squared), -1, -1):
        widest = math.isqrt(squared - rows * rows)
        grown, half_width = _widen(grown, widest, half_width), widest
        if rows < height:
            result[rows:] |= grown[: height - rows]
            result[: height - rows] |= grown[rows:]
    return result


def fill(first: Bitmap, second: Bitmap, gaps: Bitmap, distance: int) -> tuple[Bitmap, Bitmap]:
    """Extend two disjoint classes into gaps: each pixel joins the nearer class, or none if both are equally near.

    Args:
        first: a class.
        second: another.
        gaps: pixels of neither.
        distance: the greatest chessboard distance at which a pixel joins a class.
    """
    near_first, near_second = first, second
    for _ in range(distance):
        if not gaps.any():
            break
        near_first, near_second = dilate_square(near_first, 1), dilate_square(near_second, 1)
        first = first | gaps & near_first & ~near_second
        second = second | gaps & near_second & ~near_first
        gaps = gaps & ~(near_first | near_second)
    return first, second


def frame(height: int, width: int, thickness: int, rows: slice = slice(None)) -> Bitmap:
    """The outermost `thickness` rows and columns of an image, or those of some of its rows."""
    patterns = np.ones((2, width), dtype=np.bool_)  # a row of the frame, and one between its sides
    if 2 * thickness < min(height, width):
        patterns[1, thickness : width - thickness] = False
    y = np.arange(height)[rows]
    between = (y >= thickness) & (y < height - thickness)
    return pack(patterns)[between.astype(np.intp)]


def _widen(bits: Bitmap, distance: int, reach: int = 0) -> Bitmap:
    return _grow(bits, distance, _join_beside_columns, reach)


def _grow(bits: Bitmap, distance: int, join: Callable[[Bitmap, Bitmap, int], None], reach: int = 0) -> Bitmap:
    """Repeat each pixel `distance` places to both sides. The bits are already repeated `reach` places."""
    while reach < distance:
        # Not twice as far, although the two sides together cover that: at the bitmap's edge one side is missing.
        step = min(reach + 1, distance - reach)
        longer = bits.copy()
        join(longer, bits, step)
        bits, reach = longer, reach + step
    return bits


def _join_beside_columns(target: Bitmap, bits: Bitmap, step: int) -> None:
    _join_right(target, bits, step)
    _join_left(target, bits, step)


def _join_beside_rows(target: Bitmap, bits: Bitmap, step: int) -> None:
    if step < len(bits):
        target[step:] |= bits[:-step]
        target[:-step] |= bits[step:]


def _join_right(target: Bitmap, bits: Bitmap, step: int) -> None:
    skip, rest = divmod(step, 64)
    words = bits.shape[1] - skip
    if words > 0:
        target[:, skip:] |= bits[:, :words] << np.uint64(rest)
    if rest and words > 1:
        target[:, skip + 1 :] |= bits[:, : words - 1] >> np.uint64(64 - rest)


def _join_left(target: Bitmap, bits: Bitmap, step: int) -> None:
    skip, rest = divmod(step, 64)
    words = bits.shape[1] - skip
    if words > 0:
        target[:, :words] |= bits[:, skip:] >> np.uint64(rest)
    if rest and words > 1:
        target[:, : words - 1] |= bits[:, skip + 1 :] << np.uint64(64 - rest)
