"""Runs that all classes of a map ask for are made once, and forgotten."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from prn_cli.methods.image import repeated
from prn_cli.methods.image.repeated import RepeatedRuns


class Counting:
    """A runner that counts its runs, and doubles its input."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def run(self, outputs: Any, inputs: Any) -> list[np.ndarray]:
        self.runs.append(inputs["x"].size)
        if inputs["x"].size == 1:
            raise RuntimeError("too small")
        return [2 * inputs["x"] for _ in outputs]


def ask(runs: RepeatedRuns, values: np.ndarray) -> np.ndarray:
    return runs.run(["y"], {"x": values})[0]


def test_the_same_inputs_are_run_once_for_all_who_ask() -> None:
    runner = Counting()
    runs = RepeatedRuns(runner, 3)
    first, other = np.arange(6, dtype=np.float32), np.ones(6, np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(ask(runs, first.copy()), 2 * first)
        np.testing.assert_array_equal(ask(runs, other.copy()), 2 * other)
    assert len(runner.runs) == 2
    ask(runs, first)  # forgotten: another map may be alike
    assert len(runner.runs) == 3


def test_shapes_are_told_apart() -> None:
    runner = Counting()
    runs = RepeatedRuns(runner, 2)
    values = np.arange(6, dtype=np.float32)
    assert ask(runs, values.reshape(2, 3)).shape == (2, 3)
    assert ask(runs, values.reshape(3, 2)).shape == (3, 2)
    assert ask(runs, values.reshape(2, 3)[:, ::-1]).tolist() == [[4, 2, 0], [10, 8, 6]]
    assert len(runner.runs) == 3


def test_where_there_is_no_room_only_what_is_kept_is_not_run_again() -> None:
    runner = Counting()
    runs = RepeatedRuns(runner, 3, most=3 * 400)
    maps = [np.full(100, number, np.float32) for number in range(5)]
    for _ in range(3):  # classes take turns with a row of windows
        for values in maps:
            np.testing.assert_array_equal(ask(runs, values), 2 * values)
    assert len(runner.runs) == 3 + 2 * 3
    for _ in range(3):
        ask(runs, maps[4])  # there is room again
    assert len(runner.runs) == 3 + 2 * 3 + 1


def test_what_nobody_comes_for_makes_room_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated, "_FORGOTTEN", 4)
    runner = Counting()
    runs = RepeatedRuns(runner, 2, most=400)
    ask(runs, np.zeros(100, np.float32))  # of a map that failed then
    for _ in range(6):
        ask(runs, np.ones(100, np.float32))
    assert len(runner.runs) < 7


def test_an_error_reaches_all_and_is_forgotten() -> None:
    runner = Counting()
    runs = RepeatedRuns(runner, 2)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="too small"):
            ask(runs, np.zeros(1, np.float32))
    assert len(runner.runs) == 3


def test_threads_wait_for_the_one_that_runs() -> None:
    runner = Counting()
    runs = RepeatedRuns(runner, 8)
    values = np.arange(100, dtype=np.float32)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ask(runs, values), range(8)))
    assert len(runner.runs) == 1
    assert all(np.array_equal(each, 2 * values) for each in found)
