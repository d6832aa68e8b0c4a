"""The stages of a training run: each fold, then all maps, with a log and a state to resume from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import PrnError
from prn_cli.execution.watch import Epoch, Stage
from prn_cli.files.temporaries import remove_stale, write_whole
from prn_cli.training import parallel
from prn_cli.training.augment import TrainingMap
from prn_cli.training.checkpoint import load_state, save_state
from prn_cli.training.folds import FinishedFold, load_folds, save_folds
from prn_cli.training.loop import State, base_counts, fit, pooled, steps_per_epoch, tallies
from prn_cli.training.runtime import tensorboard_log
from prn_cli.workflows.training.folder import FOLDS, LOG, STATE, TENSORBOARD
from prn_cli.workflows.training.holdout import Holdout
from prn_cli.workflows.training.run import Run

History = Sequence[tuple[str, Epoch]]
"""Epochs, each with the name of its stage."""


@dataclass(frozen=True)
class Outcome:
    """A trained network, and its counts on held-out maps, or those of the folds' networks.

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


def train(run: Run, holdout: Holdout) -> Outcome:
    """Train a network, and measure it on held-out maps.

    Raises:
        DivergedError: training diverged.
        OutputError: the folder cannot be written to.
    """
    if parallel.rank() == 0:
        remove_stale([run.options.out])
    return _cross_validated(run, holdout) if holdout.folds else _held_out(run, holdout)


def untrained(run: Run, holdout: Holdout) -> Outcome:
    """A network as it is built, whose correction is not applied: there are too few maps to train one."""
    network = run.network(holdout.learn)
    tensors = network.state_dict()
    names = tuple(m.name for m in holdout.learn)
    return Outcome(network, State(tensors, tensors, tensors), 0.0, names, np.zeros((0, 0, 0, 4), np.int64))


def _held_out(run: Run, holdout: Holdout) -> Outcome:
    network, state = _stage(run, "", holdout.learn, holdout.hold)
    counts = tallies(network, holdout.hold, run.device)
    return Outcome(network, state, state.seconds, tuple(m.name for m in holdout.hold), counts)


def _cross_validated(run: Run, holdout: Holdout) -> Outcome:
    """Learn from all maps; count on each fold with a network that has not seen it."""
    budget = run.settings.time_budget
    run = replace(run, settings=replace(run.settings, time_budget=budget and budget / (len(holdout.folds) + 1)))
    path, first = run.options.out / FOLDS, parallel.rank() == 0
    finished = parallel.agreed(load_folds(path, fingerprint=run.fingerprint) if first and run.options.resume else [])
    for fold in holdout.folds[len(finished) :]:
        name = f"fold {fold.name}"
        learn, hold = holdout.of_fold(fold)
        network, state = _stage(run, name, learn, hold, _history(finished))
        counts = tallies(network, hold, run.device)
        finished.append(FinishedFold(name, tuple(m.name for m in hold), counts, tuple(state.history)))
        if first:
            save_folds(path, finished, fingerprint=run.fingerprint)
    network, state = _stage(run, "all maps", holdout.learn, [], _history(finished))
    return Outcome(
        network,
        state,
        state.seconds + sum(fold.history[-1].seconds for fold in finished),
        tuple(name for fold in finished for name in fold.maps),
        np.concatenate([fold.counts for fold in finished]),
    )


def _history(finished: Sequence[FinishedFold]) -> History:
    return [(fold.name, epoch) for fold in finished for epoch in fold.history]


def _stage(
    run: Run, name: str, learn: Sequence[TrainingMap], hold: Sequence[TrainingMap], earlier: History = ()
) -> tuple[Any, State]:
    """Train one network to the end, from where a killed run left it if there is a state."""
    first, path = parallel.rank() == 0, run.options.out / STATE
    network = run.network(learn)
    state = load_state(path, fingerprint=run.fingerprint, stage=name) if first and run.options.resume else None
    state = parallel.agreed(state)
    if run.options.resume and state is None and not earlier:
        run.watch.note(f"no state in {run.options.out}: starting anew")
    before = pooled(base_counts(hold)).iou() if hold else None
    if first and state is not None:
        _log(run, earlier, name, state)
    stage = Stage(name, run.settings.epochs, before, run.settings.choose_epoch)
    with ExitStack() as stack:
        show = stack.enter_context(run.watch.stage(stage, list(state.history) if state else []))
        folder = run.options.out / TENSORBOARD / name.replace(" ", "-")
        board = stack.enter_context(tensorboard_log(folder)) if first and run.options.tensorboard else None
        run.watch.detail(f"{steps_per_epoch(learn, run.settings)} steps per epoch")
        epochs = fit(network, learn, hold, run.settings, device=run.device, state=state, trained=run.start is not None)
        for epoch, reached in _until_interrupted(run, epochs):
            state = reached
            if not first:
                continue
            save_state(path, reached, fingerprint=run.fingerprint, stage=name)
            _log(run, earlier, name, reached)
            if board is not None:
                _draw(board, epoch, before)
            show(epoch)
    if state is None:
        raise RuntimeError("no epoch was run")
    network.load_state_dict(state.best)
    return network, state


def _log(run: Run, earlier: History, name: str, reached: State) -> None:
    # The whole of it, after the state: a kill may come between the two, and the state is what counts.
    lines = [*earlier, *((name, epoch) for epoch in reached.history)]
    text = "".join(json.dumps(({"stage": stage} if stage else {}) | asdict(epoch)) + "\n" for stage, epoch in lines)
    write_whole(run.options.out / LOG, text.encode())


def _draw(board: Any, epoch: Epoch, before: float | None) -> None:
    board.add_scalar("loss", epoch.loss, epoch.number)
    if epoch.iou is not None and before is not None:
        board.add_scalar("iou/after", epoch.iou, epoch.number)
        board.add_scalar("iou/before", before, epoch.number)


def _until_interrupted(run: Run, epochs: Iterator[tuple[Epoch, State]]) -> Iterator[tuple[Epoch, State]]:
    try:
        yield from epochs
    except KeyboardInterrupt:
        if any((run.options.out / name).exists() for name in (STATE, FOLDS)):
            run.watch.note("finished epochs are kept: the same line with --resume goes on from there")
        raise
    except RuntimeError as error:
        if not parallel.lost(error):
            raise
        raise PrnError(
            "another process of this run has ended", hint="see its error; the same line with --resume goes on"
        ) from error
