"""What a workflow reports while it works."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
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
        name: such as `fold 1 of 3`; empty if there is only one stage.
        epochs: at most; None if time decides.
        before: IoU of the base model, pooled over the held-out maps that are looked at; None without any.
        keeps_best: whether the best epoch is kept, not the last.
        figure: what `before` and an epoch's `iou` are called.
    """

    name: str
    epochs: int | None
    before: float | None
    keeps_best: bool
    figure: str = "IoU"


@dataclass(frozen=True, slots=True)
class Epoch:
    """The result of an epoch, or of a part of one, counted from 0.

    Attributes:
        loss: mean over its steps.
        iou: pooled over held-out maps, cut at 0.5, or mIoU of the greatest score; None without any.
        best: whether it is the best so far.
        seconds: since the start of the stage.
        steps: since the start of the stage.
        done: of the stage, 0 to 1.
        gain: change of `iou` over the base model, and the bounds of its 95 % interval; None of fewer than two maps.
    """

    number: int
    loss: float
    iou: float | None
    best: bool
    seconds: float
    steps: int = 0
    done: float = 0.0
    gain: tuple[float, ...] | None = None


class Show(Protocol):
    """A callback for epochs: `show(stage, epoch, left)`, with the seconds that all stages are expected to take yet."""

    def __call__(self, stage: Stage, epoch: Epoch, left: float) -> None:
        """Show an epoch."""


def _no_epoch(stage: Stage, epoch: Epoch, left: float) -> None:
    """Stand in for a table where there is none."""


def shortened(names: Iterable[str]) -> str:
    """The first few of some names, for a message."""
    first = list(islice(names, _EXAMPLES + 1))
    return ", ".join(first if len(first) <= _EXAMPLES else [*first[:_EXAMPLES], "…"])


class Watch:
    """A silent listener; override what you want to hear. Methods are called from one thread at a time.

    `verbose` says whether `detail` is heard, for libraries that have a log level of their own.
    """

    verbose = False

    def note(self, message: str) -> None:
        """A message in one line."""

    def detail(self, message: str) -> None:
        """A message for those who want all of them."""

    def warning(self, message: str) -> None:
        """A message about results that may be worse than they look."""

    def failure(self, message: str) -> None:
        """A map has failed; the others go on."""

    def record(self, record: Mapping[str, Any]) -> None:
        """A map is done: its record, for machines."""

    def progress(self, label: str, total: float | None) -> AbstractContextManager[Advance]:  # noqa: ARG002
        """Work of `total` steps, unknown if None, starts. Returns a context with the callback that advances it."""
        return nullcontext(_no_advance)

    def stages(self, names: Sequence[str]) -> AbstractContextManager[Show]:  # noqa: ARG002
        """Training starts, or resumes, in stages of these names. Returns a context with the callback for epochs."""
        return nullcontext(_no_epoch)

    def mute(self) -> None:
        """This process is one of several and not the first: report only what ends it."""

    def note_files(self, files: Sequence[Path], what: str) -> None:
        """A note that names the first of some files, if there are any."""
        if files:
            self.note(f"{len(files)} {what}: {shortened(path.name for path in files)}")


SILENT = Watch()
"""The default of every workflow."""
