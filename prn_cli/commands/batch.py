"""Many files, one after another or side by side: one bad file never stops the rest."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

import typer

from prn_cli.commands import console
from prn_cli.errors import PrnError

if TYPE_CHECKING:
    from prn_cli.commands.processes import Processes

T = TypeVar("T")
R = TypeVar("R")

NAP = 0.5  # seconds


class TooLarge(Exception):  # noqa: N818 (no failure: the first process does it)
    """Raised in one of several processes by work that wants more than one core."""


@dataclass(frozen=True, slots=True)
class Item:
    """One map: what is read and what is written, by role."""

    path: Path
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]

    def absolute(self) -> Item:
        """The same item, by paths that hold in any working folder."""
        return Item(
            self.path.absolute(),
            {role: path.absolute() for role, path in self.inputs.items()},
            {role: path.absolute() for role, path in self.outputs.items()},
        )


@dataclass
class Batch(Generic[T, R]):
    """What became of each item. Items of one name, such as the classes of a map, count and fail as one.

    Attributes:
        results: of the items that were done, in the order of the items.
        failures: the names of those that failed, with the cause.
        not_tried: how many were left when the first failure stopped the rest.
        done: the names of the items that were done.
        failed: the names of those that failed.
    """

    results: list[tuple[T, R]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    not_tried: int = 0
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    def fail(self, name: str, cause: str) -> None:
        """Record a failure and say it in one line on stderr; the first of a name says enough."""
        if name in self.failed:
            return
        self.failed.add(name)
        self.failures.append((name, cause))
        console.error(cause if cause.startswith(name) else f"{name}: {cause}")

    def finish(self) -> None:
        """End the command with exit code 1 if anything failed.

        Raises:
            typer.Exit: with code 1 if there is a failure.
        """
        if self.failures:
            total = len(self.done | self.failed) + self.not_tried
            rest = "; the rest is done" if self.done - self.failed else ""
            if self.not_tried:
                rest = f"; stopped at the first failure, {self.not_tried} not tried"
            console.error(f"{len(self.failures)} of {total} failed{rest}")
            raise typer.Exit(1)


def run_batch(
    items: Sequence[T],
    work: Callable[[T], R],
    *,
    name: Callable[[T], str],
    label: str,
    fail_fast: bool = False,
    threads: int = 1,
    on_done: Callable[[T, R], None] | None = None,
    stop: threading.Event | None = None,
    fatal: type[PrnError] | tuple[()] = (),
    processes: Processes[T, R] | None = None,
) -> Batch[T, R]:
    """Do `work` for every item.

    Args:
        items: what to work on.
        work: called once an item, in a worker thread if `threads` > 1. Its exceptions become failures.
        name: how an item is called in messages, where those of one name are one.
        label: the text of the progress bar.
        fail_fast: stop at the first failure.
        threads: how many items at once.
        on_done: called in this thread after each success, in the order in which they finish.
        stop: set when the batch ends, early or not; work that takes long looks at it, so that an interrupt need not
            wait for it.
        fatal: errors that are no item's own, and end the command.
        processes: do the work on the same items first; what they leave is done here.

    Returns:
        The results and failures; call `finish()` when the command has said what it has to say.
    """
    batch: Batch[T, R] = Batch()
    with console.progress(label, len(items)) as advance:
        for item, outcome in _outcomes(items, work, threads, stop or threading.Event(), processes):
            try:
                result = outcome()
            except fatal:
                raise
            except (PrnError, OSError, MemoryError) as error:
                batch.fail(name(item), _cause(error))
            except Exception as error:  # a defect in one file's path must not cost the others
                for line in traceback.format_exc().splitlines():
                    console.detail(line)
                batch.fail(name(item), f"unexpected {type(error).__name__}: {error}")
            else:
                batch.results.append((item, result))
                batch.done.add(name(item))
                if on_done is not None:
                    on_done(item, result)
            advance()
            if fail_fast and batch.failures:
                batch.not_tried = len({name(item) for item in items} - batch.done - batch.failed)
                break
    order = {id(item): position for position, item in enumerate(items)}
    batch.results.sort(key=lambda pair: order[id(pair[0])])
    return batch


def _cause(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory for this file"
    return str(error)


def _outcomes(
    items: Sequence[T],
    work: Callable[[T], R],
    threads: int,
    stop: threading.Event,
    processes: Processes[T, R] | None,
) -> Iterator[tuple[T, Callable[[], R]]]:
    if processes is not None:
        items = yield from processes.outcomes()
    if threads <= 1:
        for item in items:
            yield item, lambda item=item: work(item)  # type: ignore[misc]
        return
    done: SimpleQueue[Future[R]] = SimpleQueue()
    pending: dict[Future[R], T] = {}

    with _pool(threads, stop) as pool:

        def begin(item: T) -> None:
            future = pool.submit(work, item)
            pending[future] = item
            future.add_done_callback(done.put)

        rest = iter(items)
        # A short queue, so that a stop or an interrupt does not wait for work that nobody needs any more.
        for item in islice(rest, 2 * threads):
            begin(item)
        while pending:
            try:
                # An interrupt that comes just before this thread falls asleep is seen when it wakes: so it does, soon.
                future = done.get(timeout=NAP)
            except Empty:
                continue
            for item in islice(rest, 1):
                begin(item)
            yield pending.pop(future), future.result


@contextmanager
def _pool(threads: int, stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prn")
    try:
        yield pool
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
