"""What this process takes of the machine: how many cores, and what becomes of memory that it frees."""

from __future__ import annotations

import ctypes
import os
import sys

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
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
