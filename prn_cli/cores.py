"""How many cores there are to work on."""

from __future__ import annotations

import os

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
