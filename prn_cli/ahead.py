"""Work done ahead: while one thread uses what an iterator gave, another makes what comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_END: Any = object()


def ahead(items: Generator[T], count: int = 1) -> Generator[T]:
    """The same items in the same order, made in a thread of their own, up to `count` of them before they are wanted.

    What the iterator raises is raised here. If the caller stops early, the iterator is closed once it has made what it
    was about to make.
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
