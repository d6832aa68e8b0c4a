"""Optional dependencies, named where they are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prn_cli.errors import MissingExtraError
from prn_cli.execution import interrupts


@contextmanager
def needs_extra(purpose: str, *, package: str = "torch", extra: str = "train") -> Iterator[None]:
    """Import, within this block, what an extra installs. An interrupt waits until the block is through.

    Args:
        purpose: what needs it, such as `prn train`.
        package: the module that is named where the error names none.
        extra: of `prn-cli`.

    Raises:
        MissingExtraError: a module is missing.
    """
    try:
        with interrupts.held():
            yield
    except ImportError as error:
        raise MissingExtraError(error.name or package, extra, purpose) from error
