"""The best threshold of every patch: on the paper's grid of 20, or exact over all values of the patch.

A patch is scored as in PatchRefineNet's optimal binarisation, IoU = (|L ∩ M| + 1) / (|L ∪ M| + 1), where L is the
label and M the pixels with p > t, strictly. The highest score wins, and the lowest threshold where several have it.
So a patch without foreground takes the lowest threshold that nothing exceeds. Patches at the right and bottom border
may be partial. Pixels that are NaN, or 255 in the label, never count.

Searching the grid is bound by memory traffic, so it works on bits. Every pixel becomes a code of 5 bits (how many
thresholds lie below it) and a bit of label, and six bit planes of packed words. Logic on whole words (64 pixels an
operation) splits them, bit by bit, into one set of pixels per code; population counts add these up.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from prn_cli.errors import InputError
from prn_cli.maps.pixels import IGNORE

Grid = Literal["paper", "exact"]

PAPER_GRID: NDArray[np.float32] = np.arange(1, 21, dtype=np.float32) / np.float32(20)
"""The paper's thresholds: 0.05, 0.10 … 1.00, float32."""

# Rounded to float32 after each step, ceil(p · 15 · 4/3) is exactly the number of the lowest threshold that is not
# below p (1 for 0.05; 0 for p = 0), which ceil(p · 20) is not. A test shows it for every float32.
_SCALE = (np.float32(15), np.float32(4) / np.float32(3))
# Codes: 0 does not count, 1 + that number otherwise.
_CODES = 22
# How many different values code >> bit has, from the highest bit to the second-lowest.
_SPLITS = ((4, 2), (3, 3), (2, 6), (1, 11))

_BLOCK = 1 << 18  # pixels at once: enough to outweigh the calls, few enough for the caches
_MOST_ROWS = 512  # rows added up in 16 bits


@dataclass(frozen=True, slots=True)
class PatchSearch:
    """The best threshold of every patch, and the pixels behind it. All arrays are (ceil(H / patch), ceil(W / patch)).

    Attributes:
        thresholds: float32; foreground is p > t. NaN where no pixel counts. On the exact grid, t is the highest value
            that is cut off, or the float just below the lowest value where nothing is.
        tp: int64, foreground of the label above the threshold.
        fp: int64, background above it.
        positives: int64, foreground of the label.
        valid: int64, pixels that count.
    """

    thresholds: NDArray[np.float32]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    positives: NDArray[np.int64]
    valid: NDArray[np.int64]


def best_thresholds(
    probabilities: NDArray[np.float32], labels: NDArray[np.uint8], *, patch: int, grid: Grid = "paper"
) -> NDArray[np.float32]:
    """Find the threshold of every patch that makes its mask most like the label.

    Args:
        probabilities: `(H, W)` float32 in [0, 1], NaN invalid.
        labels: `(H, W)` uint8: 0 background, 1 foreground, 255 ignore.
        patch: side of a patch, px.
        grid: `paper` for the 20 thresholds of PatchRefineNet, `exact` for every cut between values of the patch.

    Returns:
        `(ceil(H / patch), ceil(W / patch))` float32, NaN where no pixel counts.

    Raises:
        InputError: the shapes differ or are not two-dimensional.
    """
    return search_thresholds(probabilities, labels, patch=patch, grid=grid).thresholds


def search_thresholds(
    probabilities: NDArray[np.float32], labels: NDArray[np.uint8], *, patch: int, grid: Grid = "paper"
) -> PatchSearch:
    """As `best_thresholds`, with the counts of every patch."""
    check_shapes(probabilities, labels)
    if patch < 1:
        raise ValueError(f"patch {patch}, expected at least 1")
    p = np.asarray(probabilities, np.float32)
    label = np.asarray(labels, np.uint8)
    return _search_grid(p, label, patch) if grid == "paper" else _search_exact(p, label, patch)


def check_shapes(probabilities: NDArray[Any], labels: NDArray[Any]) -> None:
    """Refuse a map and a label that do not lie on the same pixels."""
    if probabilities.ndim != 2 or labels.shape != probabilities.shape or not probabilities.size:
        raise InputError(
            f"map of shape {probabilities.shape}, label of shape {labels.shape}",
            hint="both must be the same (H, W)",
        )


def _search_grid(p: NDArray[np.float32], label: NDArray[np.uint8], patch: int) -> PatchSearch:
    result = _empty_search(p.shape, patch)
    with np.errstate(invalid="ignore"):  # NaN becomes an integer, which is then set to 0
        for top, bottom in _strips(p.shape, patch):
            above = _count_above(p[top:bottom], label[top:bottom], patch)
            _choose(above, result, slice(top // patch, -(-bottom // patch)))
    return result


def _empty_search(shape: tuple[int, ...], patch: int) -> PatchSearch:
    patches = (-(-shape[0] // patch), -(-shape[1] // patch))
    counts = (np.zeros(patches, np.int64) for _ in range(4))
    return PatchSearch(np.full(patches, np.nan, np.float32), *counts)


def _strips(shape: tuple[int, ...], patch: int) -> Iterator[tuple[int, int]]:
    """Rows to work on at once, first and last + 1: whole rows of patches, as many as make a block."""
    rows = (max(_BLOCK // (shape[1] * patch), 1) if patch <= _MOST_ROWS else 1) * patch
    return ((y, min(y + rows, shape[0])) for y in range(0, shape[0], rows))


def _choose(above: NDArray[np.int32], result: PatchSearch, rows: slice) -> None:
    """Find each patch's best threshold from the pixels above each of its thresholds (see `_count_above`)."""
    positives, valid = above[1, 1], above[0, 1]
    above = above[:, 3:]
    union = np.subtract(above[0], above[1], out=scratch("union", above.shape[1:], np.int32))
    union += positives + 1
    hit = np.add(above[1], 1, out=scratch("hit", above.shape[1:], np.int32))
    # In float64 these ratios differ wherever the fractions do: their terms are below 2**22.
    score = np.divide(hit, union, out=scratch("score", union.shape, np.float64))
    best = score.reshape(len(score), -1).argmax(axis=0)
    predicted, tp = above.reshape(*above.shape[:2], -1)[:, best, np.arange(best.size)].reshape(2, *valid.shape)
    np.copyto(result.thresholds[rows], PAPER_GRID[best].reshape(valid.shape), where=valid > 0)
    result.tp[rows] = tp
    result.fp[rows] = predicted - tp
    result.positives[rows] = positives
    result.valid[rows] = valid


def _count_above(p: NDArray[np.float32], label: NDArray[np.uint8], patch: int) -> NDArray[np.int32]:
    """Count the pixels of every patch whose code is at least 0, 1, … 22, for all pixels and for foreground.

    `(2, 23, patch rows, patch columns)`, good until the next call.
    """
    height, width = p.shape
    shape = (2, _CODES, -(-height // patch), -(-width // patch))
    sums = scratch("sums", shape, np.int32)
    sums.fill(0)
    # Every patch's row of pixels fills whole words, so that a word lies in one patch.
    bits = 16 if patch <= 16 else 32 if patch <= 32 else 64
    # Patches that are too big for one block are counted in parts, some rows at a time.
    too_big = height * width > 2 * _BLOCK or patch > _MOST_ROWS
    rows = min(max(_BLOCK // width, 1), _MOST_ROWS) if too_big else height
    for y in range(0, height, rows):
        codes = _codes(p[y : y + rows], label[y : y + rows])
        planes = _bit_planes(_patchwise(codes, patch, bits), bits)
        counts = _count_block(planes, min(patch, len(codes))).reshape(*shape, -1)
        for word in range(counts.shape[-1]):
            sums += counts[..., word]
    # Pairs of codes from the top down give every even bound; the odd code of the pair below gives the odd one.
    above = scratch("above", (2, _CODES + 1, *shape[2:]), np.int32)
    even, pairs, odd = above[:, ::2], sums[:, : _CODES // 2], sums[:, _CODES // 2 :]
    even[:, -1] = 0
    np.add.accumulate(pairs[:, ::-1], axis=1, out=even[:, -2::-1])
    np.add(even[:, 1:], odd, out=above[:, 1::2])
    return above


def _codes(p: NDArray[np.float32], label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w) uint8: the code, plus 32 where the label is foreground; 0 where the pixel does not count."""
    scaled = scratch("scaled", p.shape, np.float32)
    np.multiply(p, _SCALE[0], out=scaled)
    np.multiply(scaled, _SCALE[1], out=scaled)
    np.ceil(scaled, out=scaled)
    codes = scratch("codes", p.shape, np.uint8)
    np.copyto(codes, scaled, casting="unsafe")
    rest = np.multiply(label, 32, out=scratch("rest", p.shape, np.uint8))
    rest += 1
    codes += rest
    valid = np.equal(p, p, out=scratch("valid", p.shape, np.bool_))
    valid &= np.not_equal(label, IGNORE, out=rest.view(np.bool_))
    codes *= valid.view(np.uint8)
    return codes


def _patchwise(codes: NDArray[np.uint8], patch: int, bits: int) -> NDArray[np.uint8]:
    """Reorder (h, w) to (row in patch, patch row, patch column, column in patch), zeros where patches have no pixel."""
    height, width = codes.shape
    tall, wide = min(patch, height), -(-patch // bits) * bits
    down, right = height // tall, width // patch  # whole patches
    below, beyond = height % tall, width % patch  # rows and columns of the partial ones
    result = scratch("patchwise", (tall, down + (below > 0), right + (beyond > 0), wide), np.uint8)
    if below or beyond or wide != patch:
        result.fill(0)

    def put(rows: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        target[..., :right, :patch] = rows[..., : width - beyond].reshape(*rows.shape[:-1], right, patch)
        if beyond:
            target[..., right, :beyond] = rows[..., width - beyond :]

    put(codes[: height - below].reshape(down, tall, width), result[:, :down].swapaxes(0, 1))
    if below:
        put(codes[height - below :], result[:below, down])
    return result


def _bit_planes(codes: NDArray[np.uint8], bits: int) -> list[NDArray[Any]]:
    """The six lowest bits of all pixels, each as (words,) of so many bits."""
    masked = scratch("masked", codes.shape, np.uint8)
    words = np.dtype(f"u{bits // 8}")
    return [np.packbits(np.bitwise_and(codes, np.uint8(1 << bit), out=masked)).view(words) for bit in range(6)]


def _count_block(planes: list[NDArray[Any]], rows: int) -> NDArray[np.uint16]:
    """Count pixels by code and word column: (2, 22, words / rows), for all pixels and for foreground.

    In the first half of the codes is code >> 1, in the second half those of them that have the last bit set.
    """
    words = planes[0].size
    sets = scratch("sets", (2, _CODES, words), planes[0].dtype)
    halves = sets[0, : _CODES // 2], sets[0, _CODES // 2 :]
    parents = ~np.zeros((1, words), planes[0].dtype)
    for bit, size in _SPLITS:
        children = halves[0] if size == len(halves[0]) else scratch(f"split {bit}", (size, words), sets.dtype)
        split = parents[: size // 2]
        np.bitwise_and(split, planes[bit], out=children[1::2])
        np.bitwise_xor(split, children[1::2], out=children[: size - size % 2 : 2])
        if size % 2:
            children[-1] = parents[-1]
        parents = children
    np.bitwise_and(parents, planes[0], out=halves[1])
    np.bitwise_and(sets[0], planes[5], out=sets[1])
    counts = np.bitwise_count(sets, out=scratch("counts", sets.shape, np.uint8))
    return _sum_rows(counts.reshape(2, _CODES, rows, -1))


def _sum_rows(counts: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Add up axis 2 by folding it, which keeps the inner loops long: once in 8 bits (2 · 64 fit), then in 16."""
    rows = counts.shape[2]
    half = rows // 2
    counts[:, :, :half] += counts[:, :, rows - half :]
    rows -= half
    sums = scratch("row sums", (*counts.shape[:2], rows, counts.shape[3]), np.uint16)
    np.copyto(sums, counts[:, :, :rows])
    while rows > 1:
        half = rows // 2
        sums[:, :, :half] += sums[:, :, rows - half : rows]
        rows -= half
    return sums[:, :, 0]


def _search_exact(p: NDArray[np.float32], label: NDArray[np.uint8], patch: int) -> PatchSearch:
    result = _empty_search(p.shape, patch)
    shape = result.thresholds.shape
    columns = max(_BLOCK // patch**2, 1)
    for row in range(shape[0]):
        for first in range(0, shape[1], columns):
            part = (slice(row * patch, (row + 1) * patch), slice(first * patch, (first + columns) * patch))
            _search_patches(p[part], label[part], patch, result, (row, slice(first, first + columns)))
    return result


def _search_patches(
    p: NDArray[np.float32], label: NDArray[np.uint8], patch: int, result: PatchSearch, where: tuple[int, slice]
) -> None:
    """Search a row of patches by sorting each, and put what is found into `result` at `where`."""
    height, width = p.shape
    count = -(-width // patch)
    # The bits of floats from 0 up sort as the floats do. The shift drops the sign of -0.0 and makes room for the label.
    keys = np.full((height, count * patch), _INVALID_KEY)
    pixels = keys[:, :width]
    np.left_shift(np.ascontiguousarray(p).view(np.uint32), 1, out=pixels)
    pixels |= label & 1
    pixels[(p != p) | (label == IGNORE)] = _INVALID_KEY
    keys = keys.reshape(height, count, patch).swapaxes(0, 1).reshape(count, height * patch)
    keys.sort(axis=1)
    values = keys >> 1

    valid = (keys != _INVALID_KEY).sum(axis=1, keepdims=True)
    place = np.arange(keys.shape[1])
    is_valid = place < valid
    below = np.cumsum((keys & 1) * is_valid, axis=1, dtype=np.int64)  # foreground at or below each place
    positives = below[:, -1:]
    # With the cut just above a place: tp = positives - below, tp + fp = valid - 1 - place.
    cut = is_valid.copy()
    cut[:, :-1] &= values[:, :-1] != values[:, 1:]
    cut |= place == valid - 1
    score = np.where(cut, (positives - below + 1) / np.where(cut, valid - place + below, 1), -1.0)
    best = score.argmax(axis=1)[:, None]
    nothing_cut = (positives + 1) / (valid + 1) >= np.take_along_axis(score, best, axis=1)

    lowest, chosen = (
        np.take_along_axis(values, at, axis=1).astype(np.uint32).view(np.float32) for at in (np.zeros_like(best), best)
    )
    thresholds = np.where(nothing_cut, np.nextafter(lowest, np.float32(-1)), chosen)
    tp = np.where(nothing_cut, positives, positives - np.take_along_axis(below, best, axis=1))
    predicted = np.where(nothing_cut, valid, valid - 1 - best)
    result.thresholds[where] = np.where(valid > 0, thresholds, np.float32(np.nan))[:, 0]
    result.tp[where] = tp[:, 0]
    result.fp[where] = (predicted - tp)[:, 0]
    result.positives[where] = positives[:, 0]
    result.valid[where] = valid[:, 0]


_INVALID_KEY = np.uint32(0xFFFFFFFF)


class _Scratch(threading.local):
    """Arrays that a thread uses again and again: fresh memory costs more than all the arithmetic on it."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array with any contents, valid until the same thread asks for this name again."""
        last = self._arrays.get(name)
        if last is not None and last.shape == shape and last.dtype == dtype:
            return last
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if name not in self._buffers or self._buffers[name].size < size:
            self._buffers[name] = np.empty(size, np.uint8)
        self._arrays[name] = self._buffers[name][:size].view(kind).reshape(shape)
        return self._arrays[name]


scratch = _Scratch().array
