"""`prn weights`."""

from __future__ import annotations

import typer

weights = typer.Typer(help="List, import and export weights.", no_args_is_help=True)


@weights.command("list")
def list_weights() -> None:
    """(being built)"""
    raise NotImplementedError
