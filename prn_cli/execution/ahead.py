"""Prefetching: while one thread uses an item, another makes the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_END: Any = object()


def ahead(items: Generator[T], count: int = 1) -> Generator[T]:
    """The same items in the same order, made in another thread, up to `count` of them ahead.

    Errors of the iterator are raised here. If the caller stops early, the iterator is closed after its current item.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        made = deque(pool.submit(next, items, _END) for _ in range(count))
        while (item := made.popleft().result()) is not _END:
            made.append(pool.submit(next, items, _END))
            yield item
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        items.close()


class InOrder(Generic[T]):
    """Tasks whose results are taken in the order in which the tasks were added.

    A pool runs up to `count` of them ahead, so that no more results wait in memory. Without one, a task runs when its
    result is taken.
    """

    def __init__(self, pool: ThreadPoolExecutor | None, count: int) -> None:
        self._pool, self._count = pool, count
        self._waiting: deque[Callable[[], T]] = deque()
        self._begun: deque[Future[T]] = deque()

    def add(self, task: Callable[[], T]) -> None:
        self._waiting.append(task)
        self._begin()

    def take(self) -> T:
        """The next result; raises what the task raised."""
        if self._pool is None:
            return self._waiting.popleft()()
        first = self._begun.popleft()
        self._begin()
        return first.result()

    def _begin(self) -> None:
        while self._pool is not None and self._waiting and len(self._begun) < self._count:
            self._begun.append(self._pool.submit(self._waiting.popleft()))
