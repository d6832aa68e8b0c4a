"""How time is divided: folds go first, networks side by side share it, and what is hurried has steps of fewer crops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prn_cli.execution import clock
from prn_cli.execution.watch import SILENT
from prn_cli.training.augment import TrainingMap
from prn_cli.training.loop import Settings
from prn_cli.workflows.train import TrainOptions
from prn_cli.workflows.training import plan as planning
from prn_cli.workflows.training.holdout import Fold, Holdout
from prn_cli.workflows.training.plan import make_plan
from prn_cli.workflows.training.run import Budget, Run


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands at 0; a step takes 0.1 s, the end 2 s."""
    monkeypatch.setattr(clock, "source", lambda: 0.0)
    monkeypatch.setattr(planning, "_measured", lambda run, plan, budget: replace(plan, pace=0.1, end=2.0))


def maps(count: int, side: int = 64) -> list[TrainingMap]:
    label = np.zeros((side, side), np.uint8)
    return [TrainingMap(str(number), label.astype(np.float32), label, label) for number in range(count)]


def run(threads: int = 2, **options: object) -> Run:
    settings = Settings(choose_epoch=False, crop=64)
    given = TrainOptions(**options)  # type: ignore[arg-type]
    return Run(given, settings, None, 0, torch.device("cpu"), threads, SILENT, Budget(None, 0.0))


def crossed(count: int = 3) -> Holdout:
    learn = maps(6)
    folds = [Fold(f"{n + 1} of {count}", frozenset(m.name for m in learn[n::count])) for n in range(count)]
    return Holdout(learn, "in turn", folds=folds)


def test_without_a_budget_all_folds_are_trained_side_by_side() -> None:
    two = make_plan(run(2), crossed(), Budget(None, 0.0))
    assert ([job.name for job in two.jobs][-1], two.at_once, two.threads, two.dropped) == ("all maps", 2, 1, 0)
    many = make_plan(run(16), crossed(), Budget(None, 0.0))
    assert (many.at_once, many.threads) == (4, 4)
    one = make_plan(run(1), crossed(), Budget(None, 0.0))
    assert (one.at_once, one.threads) == (1, 1)
    drawn_from_torch = replace(run(2), settings=Settings(objectives={"any": TrainOptions()}))
    assert make_plan(drawn_from_torch, crossed(), Budget(None, 0.0)).at_once == 1


def test_time_is_shared_by_rounds_and_folds_are_dropped_where_it_is_short() -> None:
    budget = Budget(122.0, 0.0)
    plan = make_plan(run(2), crossed(), budget)
    assert (plan.dropped, len(plan.jobs)) == (0, 4)
    seconds = [plan.seconds_for(number, budget) for number in range(4)]
    measuring = plan.measuring(plan.jobs[0].hold)
    # The clock stands, so all is left when a job begins: one thread trains the folds, the other the network to keep.
    assert seconds == pytest.approx([*(120 / folds - measuring for folds in (3, 2, 1)), 120])
    assert plan.order == [3, 0, 1, 2]
    one = make_plan(run(1), crossed(), budget)
    assert [one.seconds_for(number, budget) for number in (0, 3)] == pytest.approx(
        [40 - one.measuring(one.jobs[0].hold), 60]
    )
    held_out = make_plan(run(2), Holdout(maps(6), "given", hold=maps(3)), budget)
    assert held_out.seconds_for(0, budget) == pytest.approx(120 - held_out.measuring(held_out.jobs[0].hold))
    assert held_out.measuring(held_out.jobs[0].hold) > 0
    short = make_plan(run(2), crossed(), Budget(30.0, 0.0))
    assert ([job.name for job in short.jobs], short.dropped) == (["fold 1 of 3", "all maps"], 2)
    assert short.seconds_for(1, Budget(30.0, 0.0)) == pytest.approx(28.0)
    spent = Budget(122.0, 0.0, spent=100.0)
    assert make_plan(run(2), crossed(), spent).dropped == 2
    assert make_plan(run(2), crossed(), Budget(1.0, 0.0)).seconds_for(0, Budget(1.0, 0.0)) > 0


def test_where_time_is_short_no_fold_is_trained_that_is_dear_to_measure() -> None:
    large = [replace(m, name=f"large {m.name}") for m in maps(2, 4000)]
    learn = [*large, *maps(4)]
    folds = [Fold(name, frozenset(m.name for m in held)) for name, held in (("a", large), ("b", learn[2:]))]
    holdout = Holdout(learn, "in turn", folds=folds)
    dear = make_plan(run(), holdout, Budget(30.0, 0.0))
    assert ([job.name for job in dear.jobs], dear.dropped) == (["fold b", "all maps"], 1)
    both = make_plan(run(), holdout, Budget(10_000.0, 0.0))
    assert [job.name for job in both.jobs] == ["fold a", "fold b", "all maps"]


def test_a_short_training_needs_few_steps_a_fold() -> None:
    long, short, budget = run(2), replace(run(2), settings=Settings(crop=64, epochs=5)), Budget(40.0, 0.0)
    assert [make_plan(each, crossed(), budget).dropped for each in (long, short)] == [1, 0]


def test_where_time_is_short_steps_are_smaller_unless_something_else_was_asked_for() -> None:
    short, long = Budget(42.0, 0.0), Budget(10_000.0, 0.0)
    hurried = make_plan(run(), crossed(), short)
    assert (hurried.settings.batch, hurried.settings.rate) == (4, 0.002)
    assert (hurried.pace or 1) < 0.1
    for options, budget in (({}, long), ({"rate": 0.001}, short), ({"batch": 6}, short)):
        assert make_plan(run(**options), crossed(), budget).settings.rate == 0.001


def test_looks_at_held_out_maps_are_bounded() -> None:
    budget = Budget(60.0, 0.0)
    plan = make_plan(run(), Holdout(maps(4), "a part", hold=maps(50, 400)), budget)
    few = plan.looked_at(plan.jobs[0], 50.0)
    assert 1 <= len(few) < 50
    assert plan.measuring(few) <= 0.05 * 50.0 / 8 * 1.01 or len(few) == 1
    chosen_by = replace(plan, settings=Settings(choose_epoch=True))
    assert len(chosen_by.looked_at(plan.jobs[0], None)) == 50
