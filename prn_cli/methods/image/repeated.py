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
"""Bytes that are kept, at most; what was kept longest goes first."""

Outputs: TypeAlias = list[FloatMap]


@dataclass
class _Kept:
    left: int
    size: int
    outputs: Future[Outputs] = field(default_factory=Future)


class RepeatedRuns:
    """Runs a network once for inputs that are asked for so many times. Safe in threads.

    Args:
        runner: of the network.
        times: that the same inputs come, after which their outputs are forgotten.
        most: bytes to keep.
    """

    def __init__(self, runner: Runner, times: int, most: int = MOST) -> None:
        self._runner, self._times, self._most = runner, times, most
        self._kept: dict[bytes, _Kept] = {}
        self._lock = threading.Lock()

    def run(self, outputs: Sequence[str], inputs: Mapping[str, FloatMap]) -> Outputs:
        """The outputs, which are not to be written to; see `Runner.run`."""
        if self._times == 1:
            return self._runner.run(outputs, inputs)
        digest = blake2b(repr([each.shape for each in inputs.values()]).encode(), digest_size=16)
        for each in inputs.values():
            digest.update(np.ascontiguousarray(each).data)
        key = digest.digest()
        with self._lock:
            found = self._kept.get(key)
            first = found is None
            if found is None:
                found = self._kept[key] = _Kept(self._times, 0)
            found.left -= 1
            if not found.left:
                del self._kept[key]
        if first:
            try:
                found.outputs.set_result(self._runner.run(outputs, inputs))
            except BaseException as error:
                found.outputs.set_exception(error)
                with self._lock:
                    self._kept.pop(key, None)
                raise
            self._trim(found)
        return found.outputs.result()

    def _trim(self, newest: _Kept) -> None:
        """Forget what was kept longest, if there is too much."""
        newest.size = sum(output.nbytes for output in newest.outputs.result())
        with self._lock:
            total = sum(kept.size for kept in self._kept.values())
            for key, kept in list(self._kept.items()):
                if total <= self._most:
                    return
                del self._kept[key]
                total -= kept.size
