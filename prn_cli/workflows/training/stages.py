"""The stages of a training run: each fold, then all maps, side by side, each with a state to resume from."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import PrnError, UsageError
from prn_cli.execution.threads import NAP, Progress
from prn_cli.execution.watch import Epoch, Show, Stage
from prn_cli.files.temporaries import remove_stale, write_whole
from prn_cli.tasks import find_task
from prn_cli.training import parallel
from prn_cli.training.checkpoint import load_state, save_state
from prn_cli.training.choice import CUTS, STRENGTHS
from prn_cli.training.loop import SEEDED, State, base_counts, fit, pooled_iou, tallies
from prn_cli.training.runtime import tensorboard_log, use_threads
from prn_cli.workflows.training.folder import LOG, STATES, TENSORBOARD, state_file
from prn_cli.workflows.training.holdout import Holdout
from prn_cli.workflows.training.own_cut import OwnCuts
from prn_cli.workflows.training.plan import UNDERTRAINED, Plan, jobs_of, make_plan
from prn_cli.workflows.training.run import Budget, Run

Report = Callable[[Stage, Epoch], None]


@dataclass(frozen=True)
class Outcome:
    """A trained network, and its counts on held-out maps, or those of the folds' networks.

    Attributes:
        network: with the weights to keep.
        state: of its stage.
        seconds: of the run.
        maps: names of the held-out maps.
        counts: `(maps, S, 3, 4)` int64, see `prn_cli.training.choice.tally`.
        dropped: folds that there was no time for.
        steps: of the network that has the fewest.
        total: steps that there would have been with more time; the same as `steps` where time was not short.
    """

    network: Any
    state: State
    seconds: float
    maps: tuple[str, ...]
    counts: NDArray[np.int64]
    dropped: int = 0
    steps: int = 0
    total: int = 0

    @property
    def undertrained(self) -> bool:
        """Whether time ended the training so early that the network is to be trusted less."""
        return self.steps < min(UNDERTRAINED, self.total)


def train(run: Run, holdout: Holdout, cuts: OwnCuts) -> Outcome:
    """Train a network, and measure it on held-out maps.

    Raises:
        DivergedError: training diverged.
        OutputError: the folder cannot be written to.
        UsageError: the folder to resume in holds the states of other networks.
    """
    out, first = run.options.out, parallel.rank() == 0
    if first:
        remove_stale([out])
    found = {job.name: _load(run, job.name) for job in jobs_of(holdout)} if first and run.options.resume else {}
    states = parallel.agreed({name: each for name, each in found.items() if each is not None})
    if run.options.resume and not states:
        if parallel.agreed(any(out.glob(STATES))):
            raise UsageError(f"--resume {out}: its run held out other parts", hint="give the same options to go on")
        run.watch.note(f"no state in {out}: starting anew")
    budget = replace(run.budget, spent=max((spent for _, spent in states.values()), default=0.0))
    plan = make_plan(run, holdout, budget)
    if plan.dropped:
        run.watch.note(f"{plan.dropped} of {len(holdout.folds)} folds are left out: there is no time for them")
    use_threads(plan.threads)
    stages = _Stages(run, plan, cuts, budget, {name: state for name, (state, _) in states.items()})
    with _resumable(run), run.watch.stages([job.name for job in plan.jobs]) as show:
        stages.train(show)
    ended = [stages.states[job.name] for job in plan.jobs]
    measured = [(job, state.counts) for job, state in zip(plan.jobs, ended, strict=True) if state.counts is not None]
    network = run.network(plan.jobs[-1].learn)
    network.load_state_dict(ended[-1].best)
    steps = min(state.steps for state in ended)
    return Outcome(
        network,
        ended[-1],
        budget.elapsed(),
        tuple(m.name for job, _ in measured for m in job.hold),
        np.concatenate([np.zeros((0, len(STRENGTHS), CUTS, 4), np.int64), *(counts for _, counts in measured)]),
        plan.dropped,
        steps,
        max((state.total for state in ended if state.late), default=steps),
    )


def untrained(run: Run, holdout: Holdout) -> Outcome:
    """A network as it is built, whose correction is not applied: there are too few maps to train one."""
    network = run.network(holdout.learn)
    tensors = network.state_dict()
    names = tuple(m.name for m in holdout.learn)
    return Outcome(network, State(tensors, tensors, tensors), 0.0, names, np.zeros((0, 0, 0, 4), np.int64))


def _load(run: Run, name: str) -> tuple[State, float] | None:
    return load_state(state_file(run.options.out, name), fingerprint=run.fingerprint)


class _Stages:
    """Trains the networks of a plan.

    Attributes:
        states: of the jobs that have begun, by name.
    """

    def __init__(self, run: Run, plan: Plan, cuts: OwnCuts, budget: Budget, states: dict[str, State]) -> None:
        self.run, self.plan, self.cuts, self.budget, self.states = run, plan, cuts, budget, states
        self.first = parallel.rank() == 0
        self._began = budget.elapsed()

    def train(self, show: Show) -> None:
        """Train all, and show how far they are."""
        if self.first:
            self._log()
        numbers = self.plan.order
        if self.plan.at_once == 1:
            for number in numbers:
                self._train(number, partial(self._tell, show), lambda: None)
            return
        news: SimpleQueue[tuple[Stage, Epoch] | None] = SimpleQueue()
        stop = threading.Event()
        with ThreadPoolExecutor(self.plan.at_once, thread_name_prefix="train") as pool:
            try:
                jobs = [
                    pool.submit(self._train, number, lambda *each: news.put(each), Progress(stop).check)
                    for number in numbers
                ]
                for job in jobs:
                    job.add_done_callback(lambda _: news.put(None))
                while not all(job.done() for job in jobs) or not news.empty():
                    with suppress(Empty):  # an interrupt is seen when the wait ends
                        found = news.get(timeout=NAP)
                        if found is not None:
                            self._tell(show, *found)
                    for job in jobs:
                        if job.done():
                            job.result()
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)

    def _train(self, number: int, report: Report, check: Callable[[], None]) -> None:
        """Train one network to its end, from where an earlier run left it, and measure it."""
        run, job = self.run, self.plan.jobs[number]
        state, settings, seconds = self.states.get(job.name), self.plan.settings, None
        if self.budget.seconds is not None:
            seconds = parallel.agreed(self.plan.seconds_for(number, self.budget))
            settings = replace(
                settings,
                time_budget=seconds + (state.seconds if state else 0.0),
                report=self.plan.steps_between_looks(seconds),
            )
        looked_at = self.plan.looked_at(job, seconds)
        before = pooled_iou(base_counts(looked_at)) if looked_at else None
        epochs_at_most = settings.epochs if seconds is None else None
        figure = "mIoU" if find_task(run.options.task).several else "IoU"
        stage = Stage(job.name, epochs_at_most, before, settings.choose_epoch, figure)
        with SEEDED:
            network = run.network(job.learn)
        start = run.start is not None
        epochs = fit(network, job.learn, looked_at, settings, run.device, state=state, trained=start, check=check)
        with self._board(job.name) as board:
            for epoch, reached in epochs:
                state = self.states[job.name] = reached
                self._save(job.name, state)
                if board is not None:
                    _draw(board, epoch, before)
                report(stage, epoch)
        if state is None:
            raise RuntimeError("no epoch was run")
        if job.hold and state.counts is None:
            network.load_state_dict(state.best)
            state.counts = tallies(network, job.hold, run.device, own=self.cuts.of(job.learn).threshold)
            self._save(job.name, state)

    def _save(self, name: str, state: State) -> None:
        if self.first:
            path = state_file(self.run.options.out, name)
            save_state(path, state, fingerprint=self.run.fingerprint, spent=self.budget.elapsed())

    def _tell(self, show: Show, stage: Stage, epoch: Epoch) -> None:
        if self.first:
            self._log()
            show(stage, epoch, self._left())

    def _left(self) -> float:
        """Seconds to the end: of the budget, or as the networks so far suggest."""
        if self.budget.seconds is not None:
            return max(self.budget.left(), 0.0)
        reached = [self.states[job.name].history[-1].done for job in self.plan.jobs if job.name in self.states]
        done = sum(reached) / len(self.plan.jobs)
        return (self.budget.elapsed() - self._began) * (1 - done) / max(done, 1e-3)

    def _log(self) -> None:
        # The whole of it, after the states: a kill may come between, and the states are what counts.
        lines = [
            json.dumps(({"stage": job.name} if job.name else {}) | asdict(epoch)) + "\n"
            for job in self.plan.jobs
            if job.name in self.states
            for epoch in list(self.states[job.name].history)
        ]
        if lines:
            write_whole(self.run.options.out / LOG, "".join(lines).encode())

    def _board(self, name: str) -> AbstractContextManager[Any]:
        if not (self.first and self.run.options.tensorboard):
            return nullcontext()
        return tensorboard_log(self.run.options.out / TENSORBOARD / name.replace(" ", "-"))  # type: ignore[no-any-return]


def _draw(board: Any, epoch: Epoch, before: float | None) -> None:
    board.add_scalar("loss", epoch.loss, epoch.number)
    if epoch.iou is not None and before is not None:
        board.add_scalar("iou/after", epoch.iou, epoch.number)
        board.add_scalar("iou/before", before, epoch.number)


@contextmanager
def _resumable(run: Run) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if any(run.options.out.glob(STATES)):
            run.watch.note("finished epochs are kept: the same line with --resume goes on from there")
        raise
    except RuntimeError as error:
        if not parallel.lost(error):
            raise
        raise PrnError(
            "another process of this run has ended", hint="see its error; the same line with --resume goes on"
        ) from error
