"""Signals that end a run: Ctrl-C, a batch system's SIGTERM, a lost terminal's SIGHUP. All are a KeyboardInterrupt."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOPS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}

came: list[int] = []
"""The signals that came, so that what they broke is told from faults of its own."""

_held = False


def _interrupt(number: int, _: object) -> None:
    came.append(number)
    if not _held:
        raise KeyboardInterrupt


def stop_cleanly() -> None:
    """Make what would end the process at once an interrupt, so that files are cleaned up."""
    for number in STOPS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # what nohup ignores stays so
            signal.signal(number, _interrupt)


def finish_undisturbed() -> None:
    """Let no signal change the exit code of work that is done."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def held() -> Iterator[None]:
    """Let an interrupt wait until this block is through: some extension modules crash where one breaks their import."""
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False
    if came:
        raise KeyboardInterrupt
