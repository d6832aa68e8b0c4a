"""`prn score`."""

from __future__ import annotations


def score() -> None:
    """(being built)"""
    raise NotImplementedError
