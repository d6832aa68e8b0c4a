"""What a workflow says while it works, to whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

_EXAMPLES = 3


class Advance(Protocol):
    """A progress callback: `advance()` or `advance(2, "what is done now")`."""

    def __call__(self, steps: float = 1, text: str | None = None) -> None:
        """Move on."""


def _no_advance(steps: float = 1, text: str | None = None) -> None:
    """Stand in for a bar where there is none."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A network that is being trained.

    Attributes:
        name: such as `fold 1 of 3`; empty where there is one stage only.
        epochs: how many at most.
        before: IoU of the base model, pooled over the held-out maps; None if none are held out.
        keeps_best: whether the best epoch is kept; else the last.
    """

    name: str
    epochs: int
    before: float | None
    keeps_best: bool


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch of training gave.

    Attributes:
        number: from 0.
        loss: mean over its steps.
        iou: pooled over the held-out maps, cut at 0.5; None if none are held out.
        best: whether it is the best so far.
        seconds: since the stage began.
    """

    number: int
    loss: float
    iou: float | None
    best: bool
    seconds: float


def _no_epoch(epoch: Epoch) -> None:
    """Stand in for a table where there is none."""


class Watch:
    """A listener that is silent; override what is to be heard. Methods are called from one thread at a time.

    Attributes:
        verbose: whether `detail` is heard, for libraries that have a level of their own.
    """

    verbose = False

    def note(self, message: str) -> None:
        """Something worth knowing, in one line."""

    def detail(self, message: str) -> None:
        """Something worth knowing when one looks closely."""

    def warning(self, message: str) -> None:
        """Something that may make the results worse than they look."""

    def failure(self, message: str) -> None:
        """One map has failed; the others go on."""

    def record(self, record: Mapping[str, Any]) -> None:
        """One map is done; for machines."""

    def progress(self, label: str, total: float | None) -> AbstractContextManager[Advance]:  # noqa: ARG002
        """How far the work has come, of `total` steps; unknown if None. Gives the callback that moves it on."""
        return nullcontext(_no_advance)

    def stage(self, stage: Stage, history: Sequence[Epoch]) -> AbstractContextManager[Callable[[Epoch], None]]:  # noqa: ARG002
        """A stage of training begins, or goes on after some epochs. Gives the callback for the epochs to come."""
        return nullcontext(_no_epoch)

    def mute(self) -> None:
        """This process is one of several, and another speaks for all: say nothing but what ends this one."""

    def note_files(self, files: Sequence[Path], what: str) -> None:
        """One note that names the first of some files, if there are any."""
        if files:
            more = ", …" if len(files) > _EXAMPLES else ""
            self.note(f"{len(files)} {what}: {', '.join(path.name for path in files[:_EXAMPLES])}{more}")


SILENT = Watch()
"""Listens to nothing: the default of every workflow."""
