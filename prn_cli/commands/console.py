"""What a person sees: results on stdout, everything else on stderr, progress bars only on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

import typer

from prn_cli.errors import one_line
from prn_cli.execution.watch import SILENT, Advance, Show, Watch

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from prn_cli.workflows.items import Planned


class Terminal(Watch):
    """A `Watch` for people: messages go to stderr, records of finished maps to stdout if `json`.

    `--quiet` and `--verbose` set attributes of the class: they hold for the whole process.
    """

    quiet = verbose = muted = False

    def __init__(self, *, json: bool = False) -> None:
        self._json = json

    def note(self, message: str) -> None:
        if not self.quiet:
            _line(f"prn: {message}")

    def detail(self, message: str) -> None:
        if self.verbose:
            _line(f"prn: {message}")

    def warning(self, message: str) -> None:
        if not self.quiet:
            _line(f"prn: warning: {message}")

    def failure(self, message: str) -> None:
        if not self.muted:
            error(message)

    def record(self, record: Mapping[str, Any]) -> None:
        if self._json:
            json_line(record)

    @contextmanager
    def progress(self, label: str, total: float | None) -> Iterator[Advance]:
        if self.quiet or not sys.stderr.isatty():
            with SILENT.progress(label, total) as advance:
                yield advance
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Rich would send stdout to the bar's console: right on one terminal, wrong into a pipe.
        same = sys.stdout.isatty()
        with Progress(*columns, console=stderr(), transient=True, redirect_stdout=same) as bar:
            task = bar.add_task(label, total=total)

            def advance(steps: float = 1, text: str | None = None) -> None:
                bar.update(task, advance=steps, description=text or label)

            yield advance

    def stages(self, names: Sequence[str]) -> AbstractContextManager[Show]:
        from prn_cli.commands import epochs

        return epochs.shown(names, self)

    def mute(self) -> None:
        Terminal.quiet = Terminal.muted = True


def set_level(parameter: typer.CallbackParam, value: bool) -> bool:
    """Option callback of `--quiet` and `--verbose`."""
    setattr(Terminal, str(parameter.name), value)
    return value


@cache
def stderr() -> Console:
    """The console for everything but results."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@cache
def stdout() -> Console:
    """The console for results that people read."""
    from rich.console import Console

    return Console(highlight=False)


def error(message: str) -> None:
    """Print one line on stderr: `prn: error: …`."""
    _line(f"prn: error: {message}")


def _line(text: str) -> None:
    text = one_line(text)
    if sys.stderr.isatty():
        style = "red" if text.startswith("prn: error") else "yellow" if text.startswith("prn: warning") else None
        stderr().print(text, style=style, markup=False, emoji=False, soft_wrap=True)  # above a live bar, not through it
    else:
        # Plain writing: no rich import, no wrapping, one line stays one line.
        print(text, file=sys.stderr, flush=True)


def table(first: str, *others: str) -> Table:
    """An empty table: one column of text, the others of numbers."""
    from rich import box
    from rich.table import Table

    empty = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    empty.add_column(first, no_wrap=True)
    for title in others:
        empty.add_column(title, justify="right")
    return empty


def show(table: RenderableType) -> None:
    """Print a table on stdout."""
    stdout().print(table)


def tell(text: str, style: str | None = None) -> None:
    """Print text on stdout as it is: no markup, and no line breaks inside paths."""
    stdout().print(text, style=style, markup=False, emoji=False, soft_wrap=True)


def json_line(record: Any) -> None:
    """Print a JSON document on one line of stdout, unbuffered.

    Unprintable characters are escaped: file names may hold terminal control codes, and bytes that are not text.
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


def show_plan(plan: Sequence[Planned], summary: str, *, json: bool) -> None:
    """Print what a run would do, one line per item: JSON, or text separated by tabs.

    Raises:
        typer.Exit: with code 1 if an item would fail.
    """
    for each in plan:
        if json:
            json_line(each.record())
        else:
            fields = (each.action, each.item.path, *each.item.rasters.values(), each.why)
            print("\t".join(one_line(str(field)) for field in fields), flush=True)
    Terminal().note(summary)
    if any(each.action == "fail" for each in plan):
        raise typer.Exit(1)


def end(verdict: str) -> None:
    """End a command; `verdict` says what failed, if anything.

    Raises:
        typer.Exit: with code 1 if something did.
    """
    if verdict:
        Terminal().failure(verdict)
        raise typer.Exit(1)
