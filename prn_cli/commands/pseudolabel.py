"""`prn pseudolabel`."""

from __future__ import annotations


def pseudolabel() -> None:
    """(being built)"""
    raise NotImplementedError
