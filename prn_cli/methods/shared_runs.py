"""Several threads that run one network: how many runs go on at once, and who shares one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = Mapping[str, NDArray[np.float32]]
Results: TypeAlias = list[NDArray[np.float32]]


class SharedRuns:
    """Lets so many runs go on at once; batches of the same shape that wait meanwhile share the next one.

    Args:
        run: from names of outputs, and the inputs of the batches that share the run, to outputs. The first axis of
            every array is the batch's; in the outputs, the batches follow each other.
        at_once: how many may go on.
        most_pixels: how many pixels of several batches may share a run.
        few_sizes: let 1, 2, 4, 8 … batches share a run, so that runs come in few shapes.
    """

    def __init__(
        self,
        run: Callable[[tuple[str, ...], Sequence[Arrays]], Results],
        *,
        at_once: int,
        most_pixels: int,
        few_sizes: bool = False,
    ) -> None:
        self._run, self._most_pixels, self._few_sizes = run, most_pixels, few_sizes
        self._free = at_once
        self._lock = threading.Lock()
        self._waiting: list[_Request] = []

    def run(self, outputs: tuple[str, ...], inputs: Arrays) -> Results:
        """Run a batch, alone or with others."""
        own = _Request(outputs, inputs)
        with self._lock:
            begins = self._free > 0
            if begins:
                self._free -= 1
            else:
                self._waiting.append(own)
        results = None if begins else own.news.result()
        return self._begin(own) if results is None else results

    def _begin(self, own: _Request) -> Results:
        """Run a batch, and those that may share its run; then let the next one begin."""
        with self._lock:
            shared = [own, *self._company(own)]
            self._waiting = [other for other in self._waiting if other not in shared]
        try:
            results = self._run(own.outputs, [each.inputs for each in shared])
            cuts = np.cumsum([each.count for each in shared])[:-1]
            first, *others = zip(*(np.split(result, cuts) for result in results), strict=True)
            for other, parts in zip(shared[1:], others, strict=True):
                other.news.set_result(list(parts))
            return list(first)
        except BaseException as error:
            for other in shared[1:]:
                other.news.set_exception(error)
            raise
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.pop(0).news.set_result(None)
                else:
                    self._free += 1

    def _company(self, own: _Request) -> list[_Request]:
        most = max(self._most_pixels // own.pixels, 1)
        alike = [other for other in self._waiting if other.kind == own.kind][: most - 1]
        return alike[: (1 << (len(alike) + 1).bit_length() - 1) - 1] if self._few_sizes else alike


class _Request:
    """A batch that waits: for its results, or, told None, for its own run."""

    def __init__(self, outputs: tuple[str, ...], inputs: Arrays) -> None:
        self.outputs, self.inputs = outputs, inputs
        first = next(iter(inputs.values()))
        self.count, self.pixels = len(first), first.size
        self.kind = outputs, tuple((name, array.shape) for name, array in inputs.items())
        self.news: Future[Results | None] = Future()
