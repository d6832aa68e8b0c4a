"""A batch of small pieces of work in forks of this process: the threads of one process wait for one interpreter.

Forks share what is loaded already, the weights too, so that they cost some milliseconds. They need a process of one
thread: what other threads hold at that moment, locks or connections, is lost in a fork.
"""

from __future__ import annotations

import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from prn_cli.commands.batch import NAP, TooLarge
from prn_cli.errors import PrnError
from prn_cli.execution.cores import take_cores
from prn_cli.execution.interrupts import STOPS

T = TypeVar("T")
R = TypeVar("R")

_KEEPS_CONNECTIONS = "rasterio"  # GDAL, to servers
_AHEAD = 2  # items that a process has: it begins the next one while the last one's result is on its way


def can_fork() -> bool:
    """Whether this process can be forked safely, now."""
    if sys.platform != "linux" or _KEEPS_CONNECTIONS in sys.modules or current_process().daemon:
        return False
    try:
        return len(list(Path("/proc/self/task").iterdir())) == 1
    except OSError:
        return False


class Processes(Generic[T, R]):
    """Processes that do the work on some items, each with one core. A context manager.

    Attributes:
        count: how many there are: as many as were asked for, or could be had.
    """

    def __init__(self, items: Sequence[T], work: Callable[[T], R], count: int, *, stop: threading.Event) -> None:
        """Fork them.

        Args:
            items: what to work on.
            work: what it returns and raises, pickle can carry.
            count: of processes.
            stop: set in the processes when these are to end.
        """
        self._items = items
        self._workers: list[_Worker] = []
        # A signal that comes now waits: it is this process's to see to.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            for _ in range(count):
                self._workers.append(_fork(items, work, [worker.connection for worker in self._workers], stop))
        except OSError:  # no more processes or files for this user: those that there are do the work, or none
            pass
        except BaseException:
            self.__exit__(None, None, None)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.count = len(self._workers)

    def outcomes(self) -> Generator[tuple[T, Callable[[], R]], None, list[T]]:
        """Do the work.

        Yields:
            Each item when it is done, in the order in which they finish, and what gives its result or raises its error.

        Returns:
            The items that are left: those whose work is `TooLarge`, or all that remain if no process does.
        """
        rest = deque(range(len(self._items)))
        left: list[int] = []
        with DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.connection, EVENT_READ, worker)
            for most in range(1, _AHEAD + 1):
                self._give(rest, most)
            while any(worker.has for worker in self._workers):
                # An interrupt that comes just before this thread falls asleep is seen when it wakes: so it does, soon.
                for key, _ in selector.select(NAP):
                    worker = key.data
                    try:
                        done, result = pickle.loads(worker.connection.recv_bytes())
                    except (EOFError, OSError):
                        selector.unregister(worker.connection)
                        if worker.has:
                            number = worker.has.popleft()
                            rest.extendleft(reversed(worker.has))
                            worker.has.clear()
                            self._give(rest)
                            yield self._items[number], partial(_raise, worker.end())
                        continue
                    number = worker.has.popleft()
                    worker.give(rest)
                    if isinstance(result, TooLarge):
                        left.append(number)
                    else:
                        yield self._items[number], partial(_return if done else _raise, result)
        return [self._items[number] for number in (*left, *rest)]

    def _give(self, rest: deque[int], most: int = _AHEAD) -> None:
        for worker in self._workers:
            worker.give(rest, most)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            if worker.has:
                worker.process.terminate()
            worker.connection.close()
        for worker in self._workers:
            worker.process.join()


class _Worker:
    """A process, and the numbers of the items that it has."""

    def __init__(self, process: Any, connection: Connection) -> None:
        self.process = process
        self.connection = connection
        self.has: deque[int] = deque()

    def give(self, rest: deque[int], most: int = _AHEAD) -> None:
        """Give it of the rest, until it has so many."""
        try:
            while rest and len(self.has) < most:
                self.connection.send_bytes(rest[0].to_bytes(8, "little"))
                self.has.append(rest.popleft())
        except OSError:  # it has died, which reading tells
            pass

    def end(self) -> PrnError:
        """How it ended, in the midst of its work."""
        self.process.join()
        code = self.process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        return PrnError(
            f"the process that worked on it {how}", hint="perhaps memory is short: run again with fewer --threads"
        )


def _fork(
    items: Sequence[T], work: Callable[[T], R], inherited: Sequence[Connection], stop: threading.Event
) -> _Worker:
    context = get_context("fork")
    here, there = context.Pipe()
    try:
        process = context.Process(target=_serve, args=(items, work, there, [here, *inherited], stop), daemon=True)
        process.start()
    except BaseException:
        here.close()
        raise
    finally:
        there.close()
    return _Worker(process, here)


def _return(result: R) -> R:
    return result


def _raise(error: Exception) -> Any:
    raise error


def _serve(
    items: Sequence[T],
    work: Callable[[T], R],
    connection: Connection,
    inherited: Sequence[Connection],
    stop: threading.Event,
) -> None:
    """Work on the items whose numbers come, until the other side closes the connection, or its process is gone."""
    waits = True

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # or a second one might come while the event is set
        stop.set()
        if waits:
            raise SystemExit

    for number in STOPS - {signal.SIGTERM}:  # a terminal sends them to all; what follows, the first process says
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    for other in inherited:  # or the end of the first process would not be seen
        other.close()
    take_cores(1)
    try:
        while not stop.is_set():
            waits = True
            number = int.from_bytes(connection.recv_bytes(), "little")
            waits = False
            connection.send_bytes(_outcome(items[number], work))
    except (CancelledError, EOFError, OSError):
        return


def _outcome(item: T, work: Callable[[T], R]) -> bytes:
    try:
        return pickle.dumps((True, work(item)))
    except CancelledError:
        raise
    except Exception as error:
        error.add_note(traceback.format_exc())
        try:
            answer = pickle.dumps((False, error))
            pickle.loads(answer)
        except Exception:  # of a class that pickle cannot carry
            answer = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
        return answer
