"""Results that are asked for again: all classes of a map ask for the same, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.methods.refiner import FloatMap

MOST = 512 << 20
"""Bytes that are kept, at most."""
_FORGOTTEN = 10_000  # results after which nobody comes for what is kept: a map has failed


@dataclass
class _Kept:
    left: int
    asked: int
    size: int = 0
    result: Future[FloatMap] = field(default_factory=Future)


class Repeated:
    """Makes results once for inputs that come so many times. Safe in threads.

    Where so much is kept that there is no room for more, results are made each time that they are asked for.

    Args:
        times: that the same inputs come, after which their result is forgotten.
        most: bytes to keep.
    """

    def __init__(self, times: int, most: int = MOST) -> None:
        self._times, self._most = times, most
        self._kept: dict[bytes, _Kept] = {}
        self._asked = 0
        self._lock = threading.Lock()

    def get(self, inputs: Sequence[NDArray[Any]], make: Callable[[], FloatMap]) -> FloatMap:
        """What `make` makes of these inputs, and of nothing else; not to be written to."""
        key = _digest(inputs)
        with self._lock:
            found, first = self._ask(key)
        if found is None:
            return make()
        if first:
            try:
                result = make()
            except BaseException as error:
                found.result.set_exception(error)
                with self._lock:
                    self._kept.pop(key, None)
                raise
            found.size = result.nbytes
            found.result.set_result(result)
        return found.result.result()

    def _ask(self, key: bytes) -> tuple[_Kept | None, bool]:
        """What is kept of a result, or will be, and whether it has to be made; None where there is no room."""
        self._asked += 1
        found, first = self._kept.get(key), False
        if found is None:
            if sum(kept.size for kept in self._kept.values()) >= self._most:
                self._kept = {k: v for k, v in self._kept.items() if self._asked - v.asked < _FORGOTTEN}
                return None, True
            found, first = _Kept(self._times, self._asked), True
            self._kept[key] = found
        found.left, found.asked = found.left - 1, self._asked
        if not found.left:
            del self._kept[key]
        return found, first


def _digest(inputs: Sequence[NDArray[Any]]) -> bytes:
    digest = blake2b(repr([each.shape for each in inputs]).encode(), digest_size=16)
    for each in inputs:
        digest.update(np.ascontiguousarray(each).data)
    return digest.digest()
