"""Many items side by side in threads; one that fails never stops the rest."""

from __future__ import annotations

import math
import re
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePath
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from prn_cli.errors import PrnError
from prn_cli.execution.watch import SILENT, Advance, Watch, shortened

T = TypeVar("T")
R = TypeVar("R")

NAP = 0.5  # seconds


class Threads:
    """The executor that makes each call in the calling thread, on a machine of `cores` cores."""

    split = math.inf

    def __init__(self, cores: int) -> None:
        self.slots = cores
        # While some threads wait for the disk, the others keep the cores busy.
        self.at_once = cores + 2

    def call(self, function: Callable[..., R], *arguments: object) -> R:
        return function(*arguments)

    def calls(self, function: Callable[..., Iterable[R]], arguments: Iterable[tuple[object, ...]]) -> Iterator[R]:
        for each in arguments:
            yield from function(*each)


class Progress:
    """How far the work on one item has come, and whether it is still wanted.

    A copy in another process reports nothing, and is always wanted.

    Args:
        stop: is set when the work is no longer wanted.
        report: is told of each step.
        steps: that all the work on the item counts for.
    """

    def __init__(
        self, stop: threading.Event | None = None, report: Callable[[float], Any] | None = None, steps: float = 1
    ) -> None:
        self.stop = stop or threading.Event()
        self._report, self._steps, self._reported = report, steps, 0.0
        self._lock = threading.Lock()

    def done(self, part: float) -> None:
        """Report that a further part of the work is done, 0 to 1. Safe in threads."""
        with self._lock:
            steps = min(part * self._steps, self.rest)
            self._reported += steps
        if self._report is not None:
            self._report(steps)

    @property
    def rest(self) -> float:
        """The steps that were not reported yet."""
        return self._steps - self._reported

    def check(self) -> None:
        """Raise `CancelledError` if the work is no longer wanted."""
        if self.stop.is_set():
            raise CancelledError

    def __reduce__(self) -> tuple[Any, ...]:
        return Progress, ()


_FEW = 2


def _kind(name: str, cause: str) -> str:
    """What a failure has in common with others: its cause without the file and its numbers."""
    stem = re.escape(PurePath(name).stem)
    return re.sub(rf"\d+|(?<!\w){stem}(?!\w)", "#", cause.replace(name, ""))


@dataclass
class Batch(Generic[T, R]):
    """What became of each item. Items of one name, such as the classes of a map, count and fail as one.

    Attributes:
        watch: is told of failures.
        results: of the items that were done, in item order.
        failures: name and cause of each failure.
        not_tried: items left when the first failure stopped the rest.
        done: names of the items that were done.
        failed: names of those that failed.
        alike: while nothing is done, names and texts of failures by what they have in common. Only the first of each
            kind is told at once: a mistake of the whole set is said once.
    """

    watch: Watch = SILENT
    results: list[tuple[T, R]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    not_tried: int = 0
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    alike: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def fail(self, name: str, cause: str) -> None:
        """Record and report a failure; of each name, only the first."""
        if name in self.failed:
            return
        self.failed.add(name)
        self.failures.append((name, cause))
        text, kind = cause if cause.startswith(name) else f"{name}: {cause}", _kind(name, cause)
        if kind not in self.alike:
            self.watch.failure(text)
        if not self.done:
            self.alike.setdefault(kind, []).append((name, text))

    def succeed(self, name: str) -> None:
        """Record that an item is done: what failed before is no mistake of the whole set."""
        self.done.add(name)
        self._tell(most=None)

    def end(self) -> None:
        """Tell of failures that were like those that were told."""
        if len(self.alike) == 1 and not self.done:
            [(_, *rest)] = self.alike.values()
            if len(rest) > _FEW:
                for _, text in rest:
                    self.watch.detail(text)
                return  # the verdict says so
        self._tell(most=_FEW)

    def _tell(self, most: int | None) -> None:
        alike, self.alike = self.alike, {}
        for (first, _), *rest in alike.values():
            few = most is None or len(rest) <= most
            for _, text in rest:
                (self.watch.failure if few else self.watch.detail)(text)
            if not few:
                names = shortened(name for name, _ in rest)
                self.watch.failure(f"{len(rest)} more failed as {first} did: {names}; -v names each")

    @property
    def verdict(self) -> str:
        """How many failed, in one line; empty if none did."""
        if not self.failures:
            return ""
        total = len(self.done | self.failed) + self.not_tried
        if len(self.alike) == 1 and len(self.failures) == total > 1:
            return f"all {total} failed in this way; -v names each"
        rest = "; the rest is done" if self.done - self.failed else ""
        if self.not_tried:
            rest = f"; stopped at the first failure, {self.not_tried} not tried"
        return f"{len(self.failures)} of {total} failed{rest}"


def run_batch(
    items: Sequence[T],
    work: Callable[[T, Progress], R],
    *,
    name: Callable[[T], str],
    label: str,
    watch: Watch = SILENT,
    steps: Callable[[T], float] | None = None,
    threads: int = 1,
    fail_fast: bool = False,
    on_done: Callable[[T, R], None] | None = None,
    stop: threading.Event | None = None,
    fatal: type[PrnError] | tuple[()] = (),
) -> Batch[T, R]:
    """Do `work` for every item, and collect results and failures.

    Args:
        items: what to work on.
        work: called once per item, in a worker thread if `threads` > 1. Its exceptions become failures.
        name: what messages call an item; see `Batch`.
        label: of the progress.
        watch: is told of progress and failures, in this thread.
        steps: of the progress that an item counts for; 1 each if None.
        threads: items at once.
        fail_fast: stop at the first failure.
        on_done: called in this thread after each success, in the order in which items finish.
        stop: set when the batch ends, early or not, so that an interrupt need not wait for long work.
        fatal: errors that end the batch.
    """
    batch: Batch[T, R] = Batch(watch)
    counts = [1.0 if steps is None else float(steps(item)) for item in items]
    results: list[tuple[int, T, R]] = []
    stop = stop or threading.Event()
    with (
        watch.progress(label, sum(counts)) as advance,
        # An error keeps this frame: left to the garbage collector, the threads might be joined in a deadlock.
        closing(_outcomes(items, work, counts, threads=threads, advance=advance, stop=stop)) as outcomes,
    ):
        for number, progress, outcome in outcomes:
            item = items[number]
            try:
                result = outcome()
            except fatal:
                raise
            except (PrnError, OSError, MemoryError) as error:
                cause = "not enough memory for this file" if isinstance(error, MemoryError) else str(error)
                batch.fail(name(item), cause)
            except Exception as error:  # a defect that one file shows must not cost the others
                for line in traceback.format_exc().splitlines():
                    watch.detail(line)
                batch.fail(name(item), f"unexpected {type(error).__name__}: {error}")
            else:
                results.append((number, item, result))
                batch.succeed(name(item))
                if on_done is not None:
                    on_done(item, result)
            advance(progress.rest)
            if fail_fast and batch.failures:
                batch.not_tried = len({name(item) for item in items} - batch.done - batch.failed)
                break
    batch.end()
    results.sort(key=lambda found: found[0])
    batch.results = [(item, result) for _, item, result in results]
    return batch


def _outcomes(
    items: Sequence[T],
    work: Callable[[T, Progress], R],
    counts: Sequence[float],
    *,
    threads: int,
    advance: Advance,
    stop: threading.Event,
) -> Generator[tuple[int, Progress, Callable[[], R]]]:
    """Do the work. As each item ends: its number, its progress, and a call that returns its result or raises."""
    if threads <= 1:
        for number, item in enumerate(items):
            progress = Progress(stop, advance, counts[number])
            yield number, progress, lambda item=item, progress=progress: work(item, progress)  # type: ignore[misc]
        return
    news: SimpleQueue[Future[R] | float] = SimpleQueue()  # of work that has ended, and of steps
    pending: dict[Future[R], tuple[int, Progress]] = {}

    with _pool(threads, stop) as pool:

        def begin(number: int) -> None:
            progress = Progress(stop, news.put, counts[number])
            future = pool.submit(work, items[number], progress)
            pending[future] = number, progress
            future.add_done_callback(news.put)

        rest = iter(range(len(items)))
        # A short queue, so that a stop or an interrupt does not wait for work that is no longer wanted.
        for number in islice(rest, 2 * threads):
            begin(number)
        while pending:
            try:
                # An interrupt that comes just before this thread falls asleep is seen when it wakes: so it does, soon.
                found = news.get(timeout=NAP)
            except Empty:
                continue
            if isinstance(found, float):
                advance(found)
                continue
            for number in islice(rest, 1):
                begin(number)
            yield *pending.pop(found), found.result


@contextmanager
def _pool(threads: int, stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prn")
    try:
        yield pool
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
