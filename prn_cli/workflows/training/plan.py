"""How the time of a run is divided: how many folds it bears, how many networks train side by side, and for how long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prn_cli.execution.clock import now
from prn_cli.training import parallel
from prn_cli.training.augment import TrainingMap, by_image
from prn_cli.training.export import to_onnx
from prn_cli.training.loop import Settings, seconds_per_step, steps_per_epoch
from prn_cli.training.runtime import use_threads
from prn_cli.workflows.training.holdout import Holdout
from prn_cli.workflows.training.own_masks import MEASURED
from prn_cli.workflows.training.run import Budget, Run

ENOUGH, ENOUGH_OF = 300, 0.2
"""Steps that the network of a fold should have before time is spent on another fold, and share of a whole training."""
UNDERTRAINED = 150
"""Networks of fewer steps are trusted half at most."""
_EXPORTS, _MOST = 4, 0.3
"""Trial exports whose time is kept for the verdict and the export, and the share of the budget that it may be."""
_DEAR = 0.25
"""Share of the budget beyond which a fold is too dear to measure, if there are others."""
_LOOKS = 8
"""How often held-out maps are looked at in the time that a network has."""
_LOOK = 0.05
"""Share of a network's time that these looks may take."""
_FEW_PIXELS = 1 << 22
"""Held-out pixels that are looked at where time is not short."""


@dataclass(frozen=True)
class Job:
    """A network to train: on what, and the held-out maps that it is measured on; none for the network to keep."""

    name: str
    learn: Sequence[TrainingMap]
    hold: Sequence[TrainingMap] = ()


@dataclass(frozen=True)
class Plan:
    """What to train, in order, and how.

    Attributes:
        jobs: networks to train; with folds, the network to keep is the last.
        at_once: networks that train side by side.
        threads: of each.
        settings: of the training.
        refining: seconds to refine and count a pixel, against those of a pixel of a training step.
        pace: seconds a step, measured; None without a time budget.
        end: seconds for the verdict and the export.
        dropped: folds that there is no time for.
    """

    jobs: Sequence[Job]
    at_once: int
    threads: int
    settings: Settings
    refining: float
    pace: float | None = None
    end: float = 0.0
    dropped: int = 0

    @property
    def order(self) -> list[int]:
        """Numbers of the jobs as they begin: with a budget, the network to keep has a thread of its own to the end."""
        folds = range(len(self.jobs) - 1)
        return [*folds, len(folds)] if self.pace is None else [len(folds), *folds]

    def seconds_for(self, number: int, budget: Budget) -> float:
        """Seconds of training for the job of this number, which begins now.

        The network to keep has all the time that is left, or half of it where one trains at a time; folds share the
        rest.
        """
        folds = len(self.jobs) - 1
        if number == folds:
            parts = 2 if folds and self.at_once == 1 else 1
        else:
            parts = math.ceil((folds - number) / max(self.at_once - 1, 1))
        return max((budget.left() - self.end) / parts - self.measuring(self.jobs[number].hold), 1e-3)

    def steps_between_looks(self, seconds: float) -> int:
        """Steps after which held-out maps are looked at, of a network that has this time."""
        return max(round(seconds / (self.pace or 1.0) / _LOOKS), 1)

    @property
    def per_pixel(self) -> float:
        """Seconds to refine a pixel, and to count what came out."""
        return self.refining * (self.pace or 0.0) / (self.settings.batch * self.settings.crop**2)

    def measuring(self, maps: Sequence[TrainingMap]) -> float:
        """Seconds to refine maps, and to count what came out."""
        return self.per_pixel * sum(m.label.size for m in maps)

    def looked_at(self, job: Job, seconds: float | None) -> Sequence[TrainingMap]:
        """The held-out maps that are looked at in training: so few that it costs little, if they decide nothing."""
        choose = self.settings.choose_epoch
        if choose and seconds is None:
            return job.hold
        pixels = float(_FEW_PIXELS)
        if seconds is not None:
            pixels = _LOOK * seconds / _LOOKS / max(self.per_pixel, 1e-12) * (3 if choose else 1)
        found: list[TrainingMap] = []
        for planes in sorted(by_image(job.hold), key=lambda planes: planes[0].label.size):
            pixels -= sum(m.label.size for m in planes)
            if pixels < 0 and found:
                break
            found += planes
        return found


def jobs_of(holdout: Holdout) -> list[Job]:
    """All networks that there are to train, the one to keep last."""
    if not holdout.folds:
        return [Job("", holdout.learn, holdout.hold)]
    folds = [Job(f"fold {fold.name}", *holdout.of_fold(fold)) for fold in holdout.folds]
    return [*folds, Job("all maps", holdout.learn)]


def make_plan(run: Run, holdout: Holdout, budget: Budget) -> Plan:
    """Divide the time. Folds go first where it is short: one is held out at least."""
    *folds, last = jobs_of(holdout)
    whole = _side_by_side(run, [*folds, last])
    if budget.seconds is None:
        return whole
    plan = _hurried(run, _measured(run, whole, budget), budget)
    total = plan.settings.epochs * steps_per_epoch(last.learn, plan.settings)
    wanted = min(ENOUGH, ENOUGH_OF * total) * (plan.pace or 0.0)
    affordable = sorted(folds, key=lambda fold: plan.measuring(fold.hold) > _DEAR * (budget.seconds or 0.0))
    for count in range(len(folds), 0, -1):
        few = _side_by_side(run, [*(folds if count == len(folds) else affordable[:count]), last])
        plan = replace(plan, jobs=few.jobs, at_once=few.at_once, threads=few.threads, dropped=len(folds) - count)
        if plan.seconds_for(0, budget) >= wanted * (2 if plan.at_once == 1 else 1):
            break
    return plan


def _hurried(run: Run, plan: Plan, budget: Budget) -> Plan:
    """Where time ends training before its half, more and faster steps of fewer crops, unless others were asked for."""
    options, settings = run.options, plan.settings
    total = settings.epochs * steps_per_epoch(plan.jobs[-1].learn, settings)
    steps = plan.seconds_for(len(plan.jobs) - 1, budget) / (plan.pace or 1.0)
    briefly = run.start is not None and not run.recipe.starts_from
    said = briefly or options.rate is not None or {"--batch"} & options.given().keys()
    if said or parallel.size() > 1 or steps > total / 2 or settings.batch < 2:
        return plan
    hurried = replace(settings, batch=settings.batch // 2, rate=2 * settings.rate)
    return replace(plan, settings=hurried, pace=0.55 * (plan.pace or 1.0))


def _side_by_side(run: Run, jobs: Sequence[Job]) -> Plan:
    """One thread each, as far as cores go: two jobs of two threads on two cores are five times slower."""
    # Objectives may draw from torch's generator, which all threads share: side by side, the order would be by chance.
    alone = run.device.type != "cpu" or parallel.size() > 1 or run.settings.objectives
    rounds = len(jobs) if alone else math.ceil(len(jobs) / run.threads)
    at_once = math.ceil(len(jobs) / rounds)
    return Plan(jobs, at_once, max(run.threads // at_once, 1), run.settings, run.recipe.refining)


def _measured(run: Run, plan: Plan, budget: Budget) -> Plan:
    """The plan with the time of a step and of the end, by a few steps and an export that are forgotten."""
    learn = plan.jobs[-1].learn
    network = run.network(learn)
    use_threads(plan.threads)
    began = now()
    to_onnx(network.cpu())
    end = min(_EXPORTS * (now() - began), _MOST * (budget.seconds or math.inf))
    pace = parallel.agreed(seconds_per_step(network, learn, run.settings, run.device))
    timed = replace(plan, pace=pace, end=parallel.agreed(end))
    if not run.options.of_scores:
        return replace(timed, refining=run.recipe.cost(network))
    pixels = min(MEASURED, sum(m.label.size for m in learn))
    return replace(timed, end=timed.end + timed.per_pixel * pixels)
