"""`--dry-run`: what a run would do, and why, without doing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import typer

from prn_cli.commands import console
from prn_cli.commands.batch import Item
from prn_cli.commands.objects import PART
from prn_cli.errors import PrnError, one_line

ItemT = TypeVar("ItemT", bound=Item)


def show_plan(items: Sequence[ItemT], why: Callable[[ItemT], str], *, verb: str, json: bool) -> None:
    """List on stdout, a line an item, what would be done, what would be kept and what would fail; and why.

    No pixel is read: a damaged file shows only when its turn comes.

    Args:
        items: the maps of the run.
        why: the reason to work on an item; empty if its outputs are current.
        verb: what the command does to a map.
        json: JSON lines, with the keys of the run's own, and tab-separated text otherwise.

    Raises:
        typer.Exit: with code 1 if an item would fail.
    """
    from prn_cli.rasters import check_file

    counts = {verb: 0, "keep": 0, "fail": 0}
    for item in items:
        try:
            for path in item.inputs.values():
                check_file(path)
            reason = why(item)
            action = verb if reason else "keep"
        except PrnError as error:
            action, reason = "fail", error.message
        counts[action] += 1
        reason = reason or "made from the same inputs with the same settings"
        outputs = {role: str(path) for role, path in item.outputs.items() if role != PART}
        if json:
            console.json_line({"input": str(item.path), "status": action, **outputs, "why": reason})
        else:
            fields = (action, item.path, *outputs.values(), reason)
            print("\t".join(one_line(str(field)) for field in fields), flush=True)
    console.note(f"dry run, nothing written: {', '.join(f'{count} to {action}' for action, count in counts.items())}")
    if counts["fail"]:
        raise typer.Exit(1)
