"""Many items side by side: one that fails stops no other, whatever becomes of it."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import CancelledError
from contextlib import contextmanager

import pytest

from prn_cli.errors import InputError, OutputError
from prn_cli.execution.threads import Progress, Threads, run_batch
from prn_cli.execution.watch import Watch


class Listener(Watch):
    """Keeps what it is told, and in which thread."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.details: list[str] = []
        self.steps: list[float] = []
        self.total: float | None = None
        self.threads: set[int] = set()

    def failure(self, message: str) -> None:
        self.failures.append(message)
        self.threads.add(threading.get_ident())

    def detail(self, message: str) -> None:
        self.details.append(message)

    @contextmanager
    def progress(self, label, total):
        self.total = total

        def advance(steps=1, text=None):
            self.steps.append(steps)
            self.threads.add(threading.get_ident())

        yield advance


THREADS = pytest.mark.parametrize("threads", [1, 3])


@THREADS
def test_errors_of_all_kinds_are_failures_of_their_own_items(threads):
    class OddError(Exception):
        def __init__(self, one, two) -> None:
            super().__init__("odd")

    def work(item: int, _: Progress) -> int:
        if item == 1:
            raise InputError("found, expected", hint="do", path="1")
        if item == 2:
            raise OSError("no disk")
        if item == 3:
            raise OddError(1, 2)
        if item == 4:
            raise MemoryError
        if item == 5:
            return 1 // 0
        return item * 10

    watch, done = Listener(), []
    batch = run_batch(
        range(7),
        work,
        name=str,
        label="Working",
        watch=watch,
        threads=threads,
        on_done=lambda item, result: done.append((item, result)),
    )
    assert batch.results == [(0, 0), (6, 60)]
    assert sorted(done) == [(0, 0), (6, 60)]
    assert sorted(batch.failures) == [
        ("1", "1: found, expected; do"),
        ("2", "no disk"),
        ("3", "unexpected OddError: odd"),
        ("4", "not enough memory for this file"),
        ("5", "unexpected ZeroDivisionError: integer division or modulo by zero"),
    ]
    assert sorted(watch.failures)[0] == "1: found, expected; do"
    assert any("in work" in line for line in watch.details)
    assert batch.verdict == "5 of 7 failed; the rest is done"


@THREADS
def test_results_are_in_the_order_of_the_items(threads):
    turns = [threading.Event() for _ in range(3)]
    turns[-1].set()

    def work(item: int, _: Progress) -> int:
        if threads == 3:  # the last one is the first to finish
            assert turns[item].wait(30)
            turns[item - 1].set()
        return item

    finished: list[int] = []
    batch = run_batch(
        range(3), work, name=str, label="", threads=threads, on_done=lambda item, _: finished.append(item)
    )
    assert [item for item, _ in batch.results] == [0, 1, 2]
    assert sorted(finished) == [0, 1, 2]
    assert batch.verdict == ""


def test_items_of_one_name_fail_once():
    def work(item: str, _: Progress) -> None:
        if item == "a2":
            raise InputError("bad", path="a")
        if item == "a3":
            raise InputError("worse", path="a")

    batch = run_batch(["a1", "a2", "a3", "b1"], work, name=lambda item: item[0], label="")
    assert batch.failures == [("a", "a: bad")]
    assert batch.verdict == "1 of 2 failed; the rest is done"


@THREADS
def test_the_first_failure_may_stop_the_rest(threads):
    begun: list[int] = []

    def work(item: int, progress: Progress) -> None:
        begun.append(item)
        if item == 0:
            raise InputError("bad", path="0")
        assert progress.stop.wait(30)  # what was begun beside it may end

    batch = run_batch(range(50), work, name=str, label="", threads=threads, fail_fast=True)
    assert batch.failures == [("0", "0: bad")]
    assert len(begun) <= 3 * threads
    assert f"stopped at the first failure, {batch.not_tried} not tried" in batch.verdict


@THREADS
def test_a_fatal_error_ends_all(threads):
    def work(item: int, progress: Progress) -> None:
        if item == 1:
            raise OutputError("no room")
        if item > 1:
            assert progress.stop.wait(30)

    with pytest.raises(OutputError, match="no room"):
        run_batch(range(50), work, name=str, label="", threads=threads, fatal=OutputError)


def test_the_threads_of_a_batch_end_with_it_while_its_error_is_kept():
    def work(item: int, _: Progress) -> None:
        raise OutputError(f"no room for {item}")

    stop = threading.Event()
    with pytest.raises(OutputError, match="no room") as kept:
        run_batch(range(3), work, name=str, label="", threads=3, stop=stop, fatal=OutputError)
    assert stop.is_set(), kept


def test_an_interrupt_stops_long_work():
    stopped: list[int] = []
    begun = threading.Barrier(2)

    def work(item: int, progress: Progress) -> None:
        begun.wait(30)
        if item == 0:
            return
        assert progress.stop.wait(30)
        stopped.append(item)
        progress.check()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(range(2), work, name=str, label="", threads=2, on_done=interrupt)
    assert stopped == [1]


@THREADS
def test_progress_counts_the_steps_of_an_item_while_it_is_worked_on(threads):
    """In the thread of the batch; whatever was not reported is at the end."""

    def work(item: int, progress: Progress) -> None:
        if item == 10:
            for _ in range(4):
                progress.done(0.2)
            progress.done(0.1)

    watch = Listener()
    run_batch([10, 1], work, name=str, label="", watch=watch, steps=float, threads=threads)
    assert watch.total == 11
    assert sum(watch.steps) == pytest.approx(11)
    assert len([steps for steps in watch.steps if steps == pytest.approx(2)]) == 4
    assert len([steps for steps in watch.steps if steps == pytest.approx(1)]) == 3
    assert watch.threads == {threading.get_ident()}


def test_a_copy_of_a_progress_is_on_its_own():
    told: list[float] = []
    progress = Progress(report=told.append, steps=8)
    progress.stop.set()
    copy = pickle.loads(pickle.dumps(progress))
    copy.check()
    copy.done(1)
    assert told == []
    progress.done(0.5)
    progress.done(0.6)  # never more than all
    assert told == [4, 4]
    with pytest.raises(CancelledError):
        progress.check()


def test_threads_make_calls_where_they_are_asked_for():
    threads = Threads(2)
    assert threads.call(divmod, 7, 2) == (3, 1)
    calls = threads.calls(range, ((2,), (3,)))
    assert [next(calls), *calls] == [0, 1, 0, 1, 2]
