"""`prn refine`."""

from __future__ import annotations


def refine() -> None:
    """(being built)"""
    raise NotImplementedError
