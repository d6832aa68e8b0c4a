"""The clock that time budgets go by."""

from __future__ import annotations

import time
from collections.abc import Callable

source: Callable[[], float] = time.monotonic
"""Benches on busy machines put the seconds of this process's processor in its place."""


def now() -> float:
    """Seconds, from any start."""
    return source()
