"""Optional dependencies, named where they are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prn_cli.errors import MissingExtraError
from prn_cli.execution import interrupts


@contextmanager
def needs_extra(purpose: str, *, package: str = "torch", extra: str = "train") -> Iterator[None]:
    """A block for imports that need an extra. An interrupt waits until the block ends.

    Args:
        purpose: what needs it, such as `prn train`.
        package: named if the import error names none.
        extra: of `prn-cli`.

    Raises:
        MissingExtraError: a module is missing.
    """
    try:
        with interrupts.held():
            yield
    except ImportError as error:
        raise MissingExtraError(error.name or package, extra, purpose) from error
