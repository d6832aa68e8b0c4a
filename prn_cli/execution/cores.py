"""What this process takes of the machine: how many cores, and what becomes of memory that it frees."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from functools import cache
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc

_share: int | None = None


def take_cores(count: int) -> None:
    """Use no more than `count` cores from now on: others on this machine have theirs."""
    global _share
    _share = count


def core_count() -> int:
    """The number of cores that this process may use."""
    if _share is not None:
        return _share
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores, _granted()), 1)


def free_cores() -> int:
    """The cores that other programs have left idle, in the last minute or just now; at least half of them all."""
    cores = core_count()
    busy = min(os.getloadavg()[0], _running()) if hasattr(os, "getloadavg") else 0.0
    whole = os.cpu_count() or cores
    return max(min(cores, whole - round(busy)), -(-cores // 2))


def _running() -> float:
    """How many threads besides this one run just now: the load of the last minute holds what has ended, too."""
    try:
        running = Path("/proc/loadavg").read_text("ascii").split()[3].partition("/")[0]
        return int(running) - 1
    except (OSError, ValueError, IndexError):  # not Linux
        return math.inf


@cache  # each window of a TIFF asks for the number of cores
def _granted() -> int:
    """The cores that a container of Linux grants; a large number if it sets no limit."""
    try:
        quota, _, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").partition(" ")
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or the word "max"
        return sys.maxsize


def spare_threads() -> None:
    """Let NumPy make no threads for linear algebra, unless the user wants them: prn does none that is worth them, and
    they spin for a while before they sleep. To be called before NumPy is imported.
    """
    if not {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"} & os.environ.keys():
        os.environ["OPENBLAS_NUM_THREADS"] = "1"


def keep_freed_memory() -> None:
    """Let this process keep the memory of arrays that are freed, for the next ones, instead of handing it back.

    Work on many maps makes and frees arrays of megabytes all the time, and glibc would take each from the kernel anew,
    page by page. Elsewhere than on glibc, nothing happens.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        return
    # Larger ones are few, and leave gaps that little else fits into. glibc knows no larger limit.
    largest_in_heap, never = 1 << 25, (1 << 31) - 1
    for parameter, value in ((_M_MMAP_THRESHOLD, largest_in_heap), (_M_TRIM_THRESHOLD, never), (_M_TOP_PAD, 1 << 24)):
        libc.mallopt(parameter, value)
