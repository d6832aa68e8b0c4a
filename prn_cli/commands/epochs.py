"""The epochs of training: a live table on a terminal, elsewhere a line each; on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prn_cli.commands import console
from prn_cli.execution.watch import Epoch, Stage

if TYPE_CHECKING:
    from rich.table import Table

_ROWS = 12


@contextmanager
def shown(stage: Stage, history: Sequence[Epoch], terminal: console.Terminal) -> Iterator[Callable[[Epoch], None]]:
    """Show the epochs of a stage, of which some may have been run before. Yields the callback for the next ones."""
    if terminal.quiet or not console.stderr().is_terminal:
        yield lambda epoch: terminal.note(_line(stage, epoch))
        return
    from rich.live import Live

    epochs = list(history)
    with Live(_table(stage, epochs), console=console.stderr(), refresh_per_second=4) as live:

        def show(epoch: Epoch) -> None:
            epochs.append(epoch)
            live.update(_table(stage, epochs))

        yield show


def _line(stage: Stage, epoch: Epoch) -> str:
    name = f"{stage.name}, " if stage.name else ""
    gain = "" if epoch.iou is None or stage.before is None else f"  IoU {stage.before:.4f} → {epoch.iou:.4f}"
    best = "  best" if epoch.best and stage.keeps_best else ""
    return f"{name}epoch {epoch.number + 1}/{stage.epochs}  loss {epoch.loss:.4f}{gain}{best}"


def _table(stage: Stage, epochs: Sequence[Epoch]) -> Table:
    from rich.table import Table

    what = "held-out images, pooled IoU" if stage.before is not None else "learning from all"
    table = Table(title=f"{stage.name}: {what}" if stage.name else what, title_justify="left")
    for heading in ("epoch", "loss", "before", "after", "change", "seconds"):
        table.add_column(heading, justify="right")
    best = max((epoch.number for epoch in epochs if epoch.best and stage.keeps_best), default=-1)
    for epoch in epochs[-_ROWS:]:
        figures = ["–"] * 3
        if epoch.iou is not None and stage.before is not None:
            figures = [f"{stage.before:.4f}", f"{epoch.iou:.4f}", f"{100 * (epoch.iou - stage.before):+.2f}"]
        table.add_row(
            f"{epoch.number + 1}/{stage.epochs}",
            f"{epoch.loss:.4f}",
            *figures,
            f"{epoch.seconds:.0f}",
            style="bold green" if epoch.number == best else None,
        )
    return table
