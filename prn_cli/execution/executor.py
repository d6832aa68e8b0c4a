"""The executor protocol: threads of this process, or the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

R = TypeVar("R")


class Executor(Protocol):
    """Calls functions of this package. Functions, arguments and results can be pickled.

    Attributes:
        slots: number of calls at once; 0 if it is not known yet.
        at_once: number of threads that should ask for calls, to keep it busy.
        split: pixels above which a map should be divided among several calls.
    """

    slots: int
    at_once: int
    split: float

    def call(self, function: Callable[..., R], *arguments: object) -> R:
        """Call a function and wait for its result. Safe in threads.

        Raises:
            PrnError: the function raised it, or a worker was lost.
            CancelledError: the run has ended.
        """
        ...

    def calls(self, function: Callable[..., Iterable[R]], arguments: Iterable[tuple[object, ...]]) -> Iterator[R]:
        """Call a function several times; yields the items of all results, in order. Some calls are made ahead."""
        ...
