"""The workers of a Dask cluster as an executor. The only module that imports Dask.

The process that the user started finds the files, writes the manifest and reports failures; the workers process
pixels. A call that was lost with its worker is made again on another one.
"""

from __future__ import annotations

import io
import logging
import pickle
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from prn_cli import __version__
from prn_cli.errors import MissingExtraError, PrnError, UsageError
from prn_cli.execution.cores import take_cores
from prn_cli.execution.watch import SILENT, Watch

R = TypeVar("R")

_PATIENCE = "10s"  # for a scheduler to answer
_LEAST_AT_ONCE = 32  # calls, so that workers that come later find work
_LOOK = 5.0  # seconds, after which a call that waits looks whether there is still a scheduler
_LOGGERS = ("distributed", "tornado", "asyncio")
# A terminal interrupts all processes that it has started; local workers leave it to the one that started them.
_LEAVE_INTERRUPTS = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)"


class Cluster:
    """An executor whose workers see the same files. A context manager.

    Paths among the arguments are sent as absolute ones; errors name them as they were given.
    """

    def __init__(self, where: str, *, split: float, cores: int, stop: threading.Event, watch: Watch = SILENT) -> None:
        """Start workers here, or connect to a scheduler.

        Args:
            where: `local`, one worker per core; `local:N`, N workers; or the address of a scheduler.
            split: see `prn_cli.execution.executor.Executor`.
            cores: of this machine, for local workers to share.
            stop: when it is set, waiting calls raise `CancelledError`.
            watch: is told how many workers there are.

        Raises:
            MissingExtraError: Dask is not installed.
            UsageError: not a number of workers, not an address, or no scheduler there.
        """
        distributed = _distributed()
        level = logging.WARNING if watch.verbose else logging.CRITICAL
        _quieten(level)
        self._local: Any = None
        workers = _local_workers(where, cores)
        if workers:
            self._local = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=max(cores // workers, 1),
                processes=True,
                dashboard_address=None,
                silence_logs=level,
                preload=[_LEAVE_INTERRUPTS],
            )
        try:
            self._client = distributed.Client(self._local or where, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--dask {where}: no Dask scheduler answers there", hint="check the address, or give local"
            ) from error
        workers_there = self._client.scheduler_info(n_workers=-1)["workers"].values()
        self.slots = sum(worker["nthreads"] for worker in workers_there)
        self.at_once, self.split = max(2 * self.slots, _LEAST_AT_ONCE), split
        watch.note(
            f"{len(workers_there)} workers with {self.slots} threads at {self._client.scheduler.address}"
            if workers_there
            else f"no worker has come to {where} yet; waiting for one"
        )
        self._waiting: dict[Any, Mapping[str, str]] = {}  # by call, the paths that were sent otherwise than given
        self._stop = stop
        threading.Thread(target=self._cancel_when_stopped, daemon=True).start()

    def _cancel_when_stopped(self) -> None:
        self._stop.wait()
        self._cancel(list(self._waiting), force=True)

    def _cancel(self, futures: list[Any], *, force: bool = False) -> None:
        with suppress(Exception):  # a cluster that was lost does nothing any more
            self._client.cancel(futures, force=force)

    def call(self, function: Callable[..., R], *arguments: object) -> R:
        return next(self._results(function, [arguments]))

    def calls(self, function: Callable[..., Iterable[R]], arguments: Iterable[tuple[object, ...]]) -> Iterator[R]:
        for result in self._results(function, arguments):
            yield from result

    def _results(self, function: Callable[..., R], arguments: Iterable[tuple[object, ...]]) -> Iterator[R]:
        """The results in order; some calls are made ahead."""
        queue: deque[Any] = deque()
        try:
            for each in arguments:
                queue.append(self._submit(function, each))
                if len(queue) > 2 * max(self.slots, 1):
                    yield self._next(queue)
            while queue:
                yield self._next(queue)
        finally:
            for future in queue:
                del self._waiting[future]
            self._cancel(list(queue))

    def _next(self, queue: deque[Any]) -> Any:
        try:
            return self._result(queue[0])
        finally:
            del self._waiting[queue.popleft()]

    def _submit(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> Any:
        payload, given = _pickled((function, arguments))
        future = self._client.submit(_call, __version__, payload, pure=False)
        self._waiting[future] = given
        if self._stop.is_set():
            self._cancel([future])
        return future

    def _result(self, future: Any) -> Any:
        try:
            return self._outcome(future)
        except _distributed().KilledWorker as error:
            raise PrnError(
                "several workers died over this file, one after another",
                hint="see their logs; perhaps they have not enough memory",
            ) from error
        except PrnError as error:
            if error.path is not None:
                error.path = self._waiting[future].get(error.path, error.path)
            raise
        except Exception as error:
            # Dask's own is another class in each version; either way, nothing will come of this call.
            if type(error).__name__.endswith("CancelledError"):
                if self._stop.is_set():
                    raise CancelledError from error
                raise _lost() from error
            raise

    def _outcome(self, future: Any) -> Any:
        while True:
            try:
                return future.result(timeout=_LOOK)
            except TimeoutError:
                if future.done():  # just now; or it is the call's own
                    return future.result()
                if self._client.status in ("closing", "closed"):  # calls that come just then are never ended
                    raise _lost() from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        if self._local is not None:
            self._local.close()


def check_cluster(where: str) -> None:
    """Check the value of `--dask` as far as possible without a worker.

    Raises:
        MissingExtraError: Dask is not installed.
        UsageError: not a number of workers, and not an address.
    """
    _local_workers(where, 1)
    _distributed()


class _Pickler(pickle.Pickler):
    """Pickles paths as absolute ones, valid in any working folder, and remembers the given ones."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.given: dict[str, str] = {}

    def reducer_override(self, found: Any) -> Any:
        if not isinstance(found, Path) or (absolute := found.absolute()) == found:  # an address is
            return NotImplemented
        self.given[str(absolute)] = str(found)
        return Path, (str(absolute),)


def _pickled(found: object) -> tuple[bytes, Mapping[str, str]]:
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(found)
    return file.getvalue(), pickler.given


def _lost() -> PrnError:
    return PrnError("the scheduler was lost", hint="see its log, and run again")


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError(error.name or "distributed", "dask", "--dask") from error
    return distributed


def _quieten(level: int) -> None:
    """Let Dask log from this level on. Errors come back with the calls; the rest is for the cluster's own logs."""
    for name in (*_LOGGERS, *logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LOGGERS:  # some of their children have levels of their own
            logging.getLogger(name).setLevel(level)


def _local_workers(where: str, cores: int) -> int:
    """How many workers to start here; 0 for the address of a scheduler."""
    local = re.fullmatch(r"local(?::([1-9]\d*))?", where)
    if local:
        return int(local[1] or cores)
    if not re.fullmatch(r"\w+://.+:\d+", where):
        raise UsageError(f"--dask {where}, expected local, local:2 or an address", hint="as in tcp://host:8786")
    return 0


def _call(version: str, payload: bytes) -> Any:
    """Make a call, on a worker. Its function comes as bytes, so that the version is checked before it is unpickled."""
    worker = _distributed().get_worker()
    if version != __version__:
        raise PrnError(
            f"the worker at {worker.address} has prn {__version__}, this run is of prn {version}",
            hint="install the same version on all machines",
        )
    take_cores(worker.state.nthreads)
    function, arguments = pickle.loads(payload)
    result = function(*arguments)
    return list(result) if isinstance(result, Iterator) else result
