"""Who makes a workflow's calls: threads of this process, or the workers of a cluster. Workflows do not know which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

R = TypeVar("R")


class Executor(Protocol):
    """Makes calls of functions of this package. Pickle can carry functions, arguments and results.

    Attributes:
        slots: calls that are made at once, as far as that is known; 0 if it is not yet.
        at_once: how many threads should ask for calls, to keep it busy.
        split: pixels above which a map should be shared out among several calls.
    """

    slots: int
    at_once: int
    split: float

    def call(self, function: Callable[..., R], *arguments: object) -> R:
        """Call a function and wait for what it returns. Safe in threads.

        Raises:
            PrnError: what the function raises, or a worker that was lost.
            CancelledError: the run has ended.
        """
        ...

    def calls(self, function: Callable[..., Iterable[R]], arguments: Iterable[tuple[object, ...]]) -> Iterator[R]:
        """Call a function several times; gives, in order, what the results hold. Some calls are made in advance."""
        ...
