"""The stages of training: a live table on a terminal, a row each; elsewhere a line an epoch; on stderr."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prn_cli.commands import console
from prn_cli.errors import percent
from prn_cli.execution.watch import Epoch, Show, Stage

if TYPE_CHECKING:
    from rich.table import Table

FULL = "strength 1"
"""What the figures of an epoch are of; the verdict has those of the strength and the threshold that are chosen."""


@contextmanager
def shown(names: Sequence[str], terminal: console.Terminal) -> Iterator[Show]:
    """Show the epochs of the stages of these names. Yields the callback for them."""
    if terminal.quiet or not console.stderr().is_terminal:
        yield lambda stage, epoch, left: terminal.note(_line(stage, epoch, left))
        return
    from rich.live import Live

    latest: dict[str, tuple[Stage, Epoch]] = {}
    with Live(_table(names, latest, None), console=console.stderr(), refresh_per_second=4) as live:

        def show(stage: Stage, epoch: Epoch, left: float) -> None:
            latest[stage.name] = stage, epoch
            live.update(_table(names, latest, left))

        yield show


def _line(stage: Stage, epoch: Epoch, left: float) -> str:
    name = f"{stage.name}, " if stage.name else ""
    iou = ""
    if epoch.iou is not None and stage.before is not None:
        gain = f" ({_gain(epoch)})" if epoch.gain else ""
        iou = f"  {stage.figure} at {FULL}: {stage.before:.4f} → {epoch.iou:.4f}{gain}"
    best = "  best" if epoch.best and stage.keeps_best else ""
    return f"{name}{_reached(stage, epoch)}  loss {epoch.loss:.4f}{iou}{best}  {_time(left)} left"


def _reached(stage: Stage, epoch: Epoch) -> str:
    number = epoch.number + 1
    if stage.epochs:
        return f"epoch {number}/{stage.epochs}"
    return f"step {epoch.steps}, {percent(epoch.done)} of its time"


def _gain(epoch: Epoch) -> str:
    if not epoch.gain:
        return "–"
    value, low, high = (100 * part for part in epoch.gain)
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _table(names: Sequence[str], latest: dict[str, tuple[Stage, Epoch]], left: float | None) -> Table:
    from rich.table import Table

    title = "training" if left is None else f"training, {_time(left)} left"
    figure = next((stage.figure for stage, _ in latest.values()), "IoU")
    caption = f"{figure} of held-out maps at {FULL}; the strength and the threshold are chosen when training ends"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("")
    for heading in ("reached", "loss", f"{figure} before", "after", "change, points [95 %]"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in names:
        if name not in latest:
            table.add_row(name, *["–"] * 5)
            continue
        stage, epoch = latest[name]
        figures = ["–"] * 3
        if epoch.iou is not None and stage.before is not None:
            figures = [f"{stage.before:.4f}", f"{epoch.iou:.4f}", _gain(epoch)]
        table.add_row(name, _reached(stage, epoch), f"{epoch.loss:.4f}", *figures)
    return table
