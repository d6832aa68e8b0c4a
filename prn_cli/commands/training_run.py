"""The stages of a training run: each fold, then all maps; with a live table, a log, and a state to go on from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.commands import console
from prn_cli.errors import PrnError
from prn_cli.files.temporaries import remove_stale, write_whole
from prn_cli.training import parallel
from prn_cli.training.augment import TrainingMap
from prn_cli.training.checkpoint import load_state, save_state
from prn_cli.training.folds import FinishedFold, load_folds, save_folds
from prn_cli.training.loop import Epoch, Settings, State, base_counts, fit, pooled, steps_per_epoch, tallies
from prn_cli.training.runtime import tensorboard_log
from prn_cli.training.validation import Fold


@dataclass(frozen=True)
class Outcome:
    """A trained network, and what it, or its likes, gave on held-out maps.

    Attributes:
        network: with the weights to keep.
        state: of its stage.
        seconds: of all stages.
        maps: names of the held-out maps.
        counts: `(maps, S, T, 4)` int64, see `prn_cli.thresholding.strength.tally`.
    """

    network: Any
    state: State
    seconds: float
    maps: tuple[str, ...]
    counts: NDArray[np.int64]


@dataclass
class TrainingRun:
    """One run of `prn train` in a folder; where several processes train, the first alone writes and speaks.

    Attributes:
        make: a network to train, from the maps that it learns from.
        settings: of the training.
        device: where to train.
        out: the folder.
        fingerprint: of all that the result depends on.
        resume: whether to go on with what a killed run has left.
        tensorboard: whether to log for it.
        trained: whether the weights of `make` have been trained before.
        history: name of the stage and epoch, of the stages that are done.
    """

    make: Callable[[Sequence[TrainingMap]], Any]
    settings: Settings
    device: Any
    out: Path
    fingerprint: str
    resume: bool
    tensorboard: bool
    trained: bool
    history: list[tuple[str, Epoch]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Remove what a killed run left half-written."""
        if parallel.rank() == 0:
            remove_stale([self.out])

    def held_out(self, learn: Sequence[TrainingMap], hold: Sequence[TrainingMap]) -> Outcome:
        """Learn from some maps, and keep the epoch that is best on others."""
        network, state = self._stage("", learn, hold, self.settings)
        counts = tallies(network, hold, self.device)
        return Outcome(network, state, state.seconds, tuple(m.name for m in hold), counts)

    def cross_validated(
        self, maps: Sequence[TrainingMap], folds: Sequence[Fold], parts: Sequence[TrainingMap] = ()
    ) -> Outcome:
        """Learn from all maps; what to expect of that is counted on each fold, by a network that has not seen it.

        Args:
            maps: to learn from at the end.
            folds: of the maps; or of their parts, if there are any.
            parts: of the maps, where these are too few to hold whole ones out.
        """
        budget = self.settings.time_budget
        settings = replace(self.settings, time_budget=budget and budget / (len(folds) + 1))
        path, first = self.out / "folds.json", parallel.rank() == 0
        finished = parallel.agreed(load_folds(path, fingerprint=self.fingerprint) if first and self.resume else [])
        for done in finished:
            self.history += [(done.name, epoch) for epoch in done.history]
        for fold in folds[len(finished) :]:
            learn, hold = _parted(parts or maps, fold)
            network, state = self._stage(f"fold {fold.name}", learn, hold, settings)
            counts = tallies(network, hold, self.device)
            done = FinishedFold(f"fold {fold.name}", tuple(m.name for m in hold), counts, tuple(state.history))
            finished.append(done)
            if first:
                save_folds(path, finished, fingerprint=self.fingerprint)
        network, state = self._stage("all maps", maps, [], settings)
        return Outcome(
            network,
            state,
            state.seconds + sum(fold.history[-1].seconds for fold in finished),
            tuple(name for fold in finished for name in fold.maps),
            np.concatenate([fold.counts for fold in finished]),
        )

    def _stage(
        self, name: str, learn: Sequence[TrainingMap], hold: Sequence[TrainingMap], settings: Settings
    ) -> tuple[Any, State]:
        """Train one network to its end, or from where a killed run left it."""
        first, path = parallel.rank() == 0, self.out / "state.safetensors"
        network = self.make(learn)
        state = load_state(path, fingerprint=self.fingerprint, stage=name) if first and self.resume else None
        state = parallel.agreed(state)
        if self.resume and state is None and not self.history:
            console.note(f"no state in {self.out}: starting anew")
        before = pooled(base_counts(hold)).iou() if hold else None
        earlier = list(self.history)
        if first and state is not None:
            self._log(earlier, name, state)
        with ExitStack() as stack:
            report = stack.enter_context(Report(name, before, settings, list(state.history) if state else []))
            folder = self.out / "tensorboard" / name.replace(" ", "-")
            board = stack.enter_context(tensorboard_log(folder)) if first and self.tensorboard else None
            console.detail(f"{steps_per_epoch(learn, settings)} steps an epoch")
            epochs = fit(network, learn, hold, settings, device=self.device, state=state, trained=self.trained)
            for epoch, reached in self._until_interrupted(epochs):
                state = reached
                if not first:
                    continue
                save_state(path, reached, fingerprint=self.fingerprint, stage=name)
                self._log(earlier, name, reached)
                if board is not None:
                    board.add_scalar("loss", epoch.loss, epoch.number)
                    if epoch.iou is not None and before is not None:
                        board.add_scalar("iou/after", epoch.iou, epoch.number)
                        board.add_scalar("iou/before", before, epoch.number)
                report.add(epoch)
        if state is None:
            raise RuntimeError("no epoch was run")
        self.history = [*earlier, *((name, epoch) for epoch in state.history)]
        network.load_state_dict(state.best)
        return network, state

    def _log(self, earlier: list[tuple[str, Epoch]], name: str, reached: State) -> None:
        # The whole of it, after the state: a kill may come between the two, and the state is what counts.
        lines = [*earlier, *((name, epoch) for epoch in reached.history)]
        text = "".join(json.dumps(({"stage": stage} if stage else {}) | asdict(epoch)) + "\n" for stage, epoch in lines)
        write_whole(self.out / "log.jsonl", text.encode())

    def _until_interrupted(self, epochs: Iterator[tuple[Epoch, State]]) -> Iterator[tuple[Epoch, State]]:
        try:
            yield from epochs
        except KeyboardInterrupt:
            if any((self.out / name).exists() for name in ("state.safetensors", "folds.json")):
                console.note("finished epochs are kept: the same line with --resume goes on from there")
            raise
        except RuntimeError as error:
            if not parallel.lost(error):
                raise
            raise PrnError(
                "another process of this run has ended", hint="see its error; the same line with --resume goes on"
            ) from error


def _parted(maps: Sequence[TrainingMap], fold: Fold) -> tuple[list[TrainingMap], list[TrainingMap]]:
    return [m for m in maps if m.name not in fold.held_out], [m for m in maps if m.name in fold.held_out]


class Report:
    """The live table on a terminal, or a line an epoch elsewhere; on stderr."""

    ROWS = 12

    def __init__(self, stage: str, before: float | None, settings: Settings, history: list[Epoch]) -> None:
        self.stage, self.before, self.settings, self.history = stage, before, settings, history
        self.live: Any = None

    def __enter__(self) -> Report:
        if console.stderr().is_terminal and not console.quiet():
            from rich.live import Live

            self.live = Live(self._table(), console=console.stderr(), refresh_per_second=4)
            self.live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live is not None:
            self.live.__exit__(*exception)

    def add(self, epoch: Epoch) -> None:
        """Show one more epoch."""
        self.history.append(epoch)
        if self.live is not None:
            self.live.update(self._table())
            return
        stage = f"{self.stage}, " if self.stage else ""
        gain = "" if epoch.iou is None or self.before is None else f"  IoU {self.before:.4f} → {epoch.iou:.4f}"
        best = "  best" if epoch.best and self.settings.choose_epoch else ""
        console.note(f"{stage}epoch {epoch.number + 1}/{self.settings.epochs}  loss {epoch.loss:.4f}{gain}{best}")

    def _table(self) -> Any:
        from rich.table import Table

        what = "held-out images, pooled IoU" if self.before is not None else "learning from all"
        table = Table(title=f"{self.stage}: {what}" if self.stage else what, title_justify="left")
        for heading in ("epoch", "loss", "before", "after", "change", "seconds"):
            table.add_column(heading, justify="right")
        best = max((e.number for e in self.history if e.best and self.settings.choose_epoch), default=-1)
        for epoch in self.history[-self.ROWS :]:
            known = epoch.iou is not None and self.before is not None
            table.add_row(
                f"{epoch.number + 1}/{self.settings.epochs}",
                f"{epoch.loss:.4f}",
                f"{self.before:.4f}" if known else "–",
                f"{epoch.iou:.4f}" if known else "–",
                f"{100 * (epoch.iou - self.before):+.2f}" if known else "–",  # type: ignore[operator]
                f"{epoch.seconds:.0f}",
                style="bold green" if epoch.number == best else None,
            )
        return table
