"""What a person sees: results on stdout, everything else on stderr, bars only on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

import typer

from prn_cli.errors import one_line
from prn_cli.execution.watch import SILENT, Advance, Epoch, Stage, Watch

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from prn_cli.workflows.items import Planned


_level = {"quiet": False, "verbose": False, "muted": False}


def set_quiet(value: bool) -> bool:
    """Option callback: say nothing but errors."""
    _level["quiet"] = value
    return value


def set_verbose(value: bool) -> bool:
    """Option callback: say more, tracebacks included."""
    _level["verbose"] = value
    return value


def verbose() -> bool:
    """Whether `--verbose` was given."""
    return _level["verbose"]


def quiet() -> bool:
    """Whether `--quiet` was given."""
    return _level["quiet"]


@cache
def stderr() -> Console:
    """The console on which everything but results goes."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@cache
def stdout() -> Console:
    """The console for results that people read."""
    from rich.console import Console

    return Console(highlight=False)


def mute() -> None:
    """Say nothing but what ends this process: it is one of several, and another speaks for all."""
    _level["quiet"] = _level["muted"] = True


def error(message: str, *, final: bool = False) -> None:
    """One line on stderr: `prn: error: …`; `final` if it ends the process."""
    if final or not _level["muted"]:
        _line(f"prn: error: {message}")


def warning(message: str) -> None:
    """One line on stderr: `prn: warning: …`, unless `--quiet`."""
    if not quiet():
        _line(f"prn: warning: {message}")


def note(message: str) -> None:
    """One line on stderr, unless `--quiet`."""
    if not quiet():
        _line(f"prn: {message}")


def detail(message: str) -> None:
    """One line on stderr, only with `--verbose`."""
    if verbose():
        _line(f"prn: {message}")


def _line(text: str) -> None:
    text = one_line(text)
    if sys.stderr.isatty():
        style = "red" if text.startswith("prn: error") else "yellow" if text.startswith("prn: warning") else None
        stderr().print(text, style=style, markup=False, emoji=False, soft_wrap=True)  # above a live bar, not through it
    else:
        # Plain writing: no rich import, no wrapping, one line stays one line.
        print(text, file=sys.stderr, flush=True)


def table(first: str, *others: str) -> Table:
    """An empty table, of one column of text and others of numbers."""
    from rich import box
    from rich.table import Table

    empty = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    empty.add_column(first, no_wrap=True)
    for title in others:
        empty.add_column(title, justify="right")
    return empty


def show(table: RenderableType) -> None:
    """A table for people, on stdout."""
    stdout().print(table)


def tell(text: str, style: str | None = None) -> None:
    """Text for people, on stdout, just as it is: a path in it keeps its brackets, and is not broken over two lines."""
    stdout().print(text, style=style, markup=False, emoji=False, soft_wrap=True)


def json_line(record: Any) -> None:
    """One JSON document on one line of stdout, unbuffered.

    What cannot be shown is escaped: file names may hold what steers a terminal, and bytes that are no text at all.
    """
    text = json.dumps(record, ensure_ascii=not holds_all(sys.stdout), allow_nan=False, default=str)
    text = text if text.isprintable() else "".join(map(_json_character, text))
    if hasattr(sys.stdout, "rich_proxied_file"):  # a live bar shares the terminal, and would break the line in pieces
        stderr().print(text, markup=False, emoji=False, soft_wrap=True)
    else:
        print(text, flush=True)


def holds_all(stream: TextIO) -> bool:
    """Whether a stream's encoding has every character."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def _json_character(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]


@contextmanager
def progress(label: str, total: float | None) -> Iterator[Advance]:
    """A bar on stderr if that is a terminal and `--quiet` is off; else nothing. Yields the callback that moves it."""
    if quiet() or not sys.stderr.isatty():
        with SILENT.progress(label, total) as advance:
            yield advance
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Rich would send what is printed on stdout to the bar's console: right on one terminal, wrong into a pipe.
    same = sys.stdout.isatty()
    with Progress(*columns, console=stderr(), transient=True, redirect_stdout=same) as bar:
        task = bar.add_task(label, total=total)

        def advance(steps: float = 1, text: str | None = None) -> None:
            bar.update(task, advance=steps, description=text or label)

        yield advance


class Terminal(Watch):
    """What workflows say, to people: on stderr, but for the records of `--json`.

    Args:
        json: print the records of finished maps on stdout, a line each.
    """

    def __init__(self, *, json: bool = False) -> None:
        self._json = json

    @property
    def verbose(self) -> bool:  # type: ignore[override]
        """Whether `--verbose` was given."""
        return verbose()

    def note(self, message: str) -> None:
        """See `note`."""
        note(message)

    def detail(self, message: str) -> None:
        """See `detail`."""
        detail(message)

    def warning(self, message: str) -> None:
        """See `warning`."""
        warning(message)

    def failure(self, message: str) -> None:
        """See `error`."""
        error(message)

    def record(self, record: Mapping[str, Any]) -> None:
        """See `json_line`."""
        if self._json:
            json_line(record)

    def progress(self, label: str, total: float | None) -> AbstractContextManager[Advance]:
        """See `progress`."""
        return progress(label, total)

    def stage(self, stage: Stage, history: Sequence[Epoch]) -> AbstractContextManager[Callable[[Epoch], None]]:
        """See `epochs.shown`."""
        from prn_cli.commands import epochs

        return epochs.shown(stage, history)

    def mute(self) -> None:
        """See `mute`."""
        mute()


def show_plan(plan: Sequence[Planned], summary: str, *, json: bool) -> None:
    """What a run would do, a line an item on stdout: JSON, or text separated by tabs.

    Raises:
        typer.Exit: with code 1 if an item would fail.
    """
    for each in plan:
        if json:
            json_line(each.record())
        else:
            fields = (each.action, each.item.path, *each.item.rasters.values(), each.why)
            print("\t".join(one_line(str(field)) for field in fields), flush=True)
    note(summary)
    if any(each.action == "fail" for each in plan):
        raise typer.Exit(1)


def end(verdict: str) -> None:
    """End a command that may have failed in part.

    Args:
        verdict: what failed, in a line; empty if nothing did.

    Raises:
        typer.Exit: with code 1 if something did.
    """
    if verdict:
        error(verdict)
        raise typer.Exit(1)
