"""A part of the inputs for each task of a job array."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from prn_cli.errors import UsageError

T = TypeVar("T")


def part_of(name: str, count: int) -> int:
    """The part, 0 to `count` - 1, to which a name belongs.

    By a hash of the name alone, so that tasks that start hours apart agree although files have come since.
    """
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


def check_part(count: int | None, number: int | None) -> None:
    """Check `--num-parts` and `--part-id`.

    Raises:
        UsageError: one without the other, or a number beyond the parts.
    """
    if (count is None) != (number is None):
        given, missing = ("--num-parts", "--part-id") if number is None else ("--part-id", "--num-parts")
        raise UsageError(f"{given} without {missing}", hint=f"give {missing} too")
    if count is not None and number is not None and number >= count:
        raise UsageError(
            f"--part-id {number} of --num-parts {count}, expected 0 to {count - 1}", hint="parts are counted from 0"
        )


def select_part(items: Sequence[T], name: Callable[[T], str], count: int | None, number: int | None) -> list[T]:
    """The items of one part, in their order; all of them if there are no parts."""
    if count is None:
        return list(items)
    return [item for item in items if part_of(name(item), count) == number]
