"""Runs that are repeated: all classes of a map ask for the same, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeAlias

import numpy as np

from prn_cli.methods.refiner import FloatMap, Runner

MOST = 512 << 20
"""Bytes that are kept, at most."""
_FORGOTTEN = 10_000  # runs after which nobody comes for what is kept: a map has failed

Outputs: TypeAlias = list[FloatMap]


@dataclass
class _Kept:
    left: int
    asked: int
    size: int = 0
    outputs: Future[Outputs] = field(default_factory=Future)


class RepeatedRuns:
    """Runs a network once for inputs that are asked for so many times. Safe in threads.

    Where so much is kept that there is no room for more, inputs are run each time that they come.

    Args:
        runner: of the network.
        times: that the same inputs come, after which their outputs are forgotten.
        most: bytes to keep.
    """

    def __init__(self, runner: Runner, times: int, most: int = MOST) -> None:
        self._runner, self._times, self._most = runner, times, most
        self._kept: dict[bytes, _Kept] = {}
        self._asked = 0
        self._lock = threading.Lock()

    def run(self, outputs: Sequence[str], inputs: Mapping[str, FloatMap]) -> Outputs:
        """The outputs, which are not to be written to; see `Runner.run`."""
        if self._times == 1:
            return self._runner.run(outputs, inputs)
        key = _digest(inputs)
        with self._lock:
            found, first = self._ask(key)
        if found is None:
            return self._runner.run(outputs, inputs)
        if first:
            try:
                result = self._runner.run(outputs, inputs)
            except BaseException as error:
                found.outputs.set_exception(error)
                with self._lock:
                    self._kept.pop(key, None)
                raise
            found.size = sum(output.nbytes for output in result)
            found.outputs.set_result(result)
        return found.outputs.result()

    def _ask(self, key: bytes) -> tuple[_Kept | None, bool]:
        """What is kept of a run, or will be, and whether it has to be run for that; None where there is no room."""
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


def _digest(inputs: Mapping[str, FloatMap]) -> bytes:
    digest = blake2b(repr([each.shape for each in inputs.values()]).encode(), digest_size=16)
    for each in inputs.values():
        digest.update(np.ascontiguousarray(each).data)
    return digest.digest()
