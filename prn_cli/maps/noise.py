"""Random numbers that belong to a place: windows that overlap, resumed runs and sections of a map see the same ones."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.tiles import Window

_BLOCK = 64  # px a side of what one generator fills


def place_seed(*parts: int | str) -> int:
    """A seed of 64 bits from a seed and what it is for, such as a map's name and a place on it.

    The same on every machine and in every process, unlike `hash`.
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def place_noise(seed: int, window: Window, *, draw: int = 0) -> NDArray[np.float32]:
    """Uniform random numbers of a map's pixels: a function of the seed, the pixel and the draw alone.

    Args:
        seed: of the map, 64 bits, see `place_seed`.
        window: on the map's grid; it may reach beyond the map, not above or to the left of it.
        draw: number of the draw; each is independent of the others.

    Returns:
        `(height, width)` float32 in [0, 1).
    """
    noise = np.empty((window.height, window.width), np.float32)
    for top in range(window.y // _BLOCK, -(-window.bottom // _BLOCK)):
        for left in range(window.x // _BLOCK, -(-(window.x + window.width) // _BLOCK)):
            # Philox is a function of its key and a counter of 256 bits, of which a block takes the lowest 64.
            generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, top, left, draw]))
            y, x = top * _BLOCK - window.y, left * _BLOCK - window.x
            target = noise[max(y, 0) : y + _BLOCK, max(x, 0) : x + _BLOCK]
            block = generator.random((_BLOCK, _BLOCK), np.float32)
            target[:] = block[max(-y, 0) :, max(-x, 0) :][: target.shape[0], : target.shape[1]]
    return noise
