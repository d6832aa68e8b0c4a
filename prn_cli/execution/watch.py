"""What a workflow says while it works, to whoever listens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

_EXAMPLES = 3


class Advance(Protocol):
    """A progress callback: `advance()` or `advance(2, "what is done now")`."""

    def __call__(self, steps: float = 1, text: str | None = None) -> None:
        """Move on."""


def _no_advance(steps: float = 1, text: str | None = None) -> None:
    """Stand in for a bar where there is none."""


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

    def note_files(self, files: Sequence[Path], what: str) -> None:
        """One note that names the first of some files, if there are any."""
        if files:
            more = ", …" if len(files) > _EXAMPLES else ""
            self.note(f"{len(files)} {what}: {', '.join(path.name for path in files[:_EXAMPLES])}{more}")


SILENT = Watch()
"""Listens to nothing: the default of every workflow."""
