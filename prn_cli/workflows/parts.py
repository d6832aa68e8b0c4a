"""A part of the inputs for each task of a job array."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from prn_cli.errors import UsageError


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def check_part(count: int | None, number: int | None) -> None:
    """Refuse one of `--num-parts` and `--part-id` without the other, and a number beyond the parts."""
    if (count is None) != (number is None):
        given, missing = ("--num-parts", "--part-id") if number is None else ("--part-id", "--num-parts")
        raise UsageError(f"{given} without {missing}", hint=f"give {missing} too")
    if count is not None and number is not None and number >= count:
        raise UsageError(
            f"--part-id {number} of --num-parts {count}, expected 0 to {count - 1}", hint="parts are counted from 0"
        )


def select_part(names: Iterable[str], count: int | None, number: int | None) -> tuple[list[int], list[int]]:
    """The positions of the names of one part, all if there are no parts; and of all names that occur more than once.

    The part of a name depends on the name alone, so that tasks agree if files are added. Each task sees all names,
    perhaps millions, so only their hashes are kept.
    """
    import numpy as np

    digests = np.fromiter(map(_digest, names), np.uint64)
    chosen = np.arange(len(digests)) if count is None else np.flatnonzero(digests % np.uint64(count) == number)
    _, first, repeats = np.unique(digests, return_inverse=True, return_counts=True)
    return chosen.tolist(), np.flatnonzero(repeats[first] > 1).tolist()
