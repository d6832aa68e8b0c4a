"""What all classes of a map ask for is made once, and forgotten."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from prn_cli.methods.image import repeated
from prn_cli.methods.image.repeated import Repeated


class Doubled:
    """Asks for twice its input, and counts how often that was made."""

    def __init__(self, times: int, **options: int) -> None:
        self.repeated, self.made = Repeated(times, **options), 0

    def ask(self, values: np.ndarray) -> np.ndarray:
        def make() -> np.ndarray:
            self.made += 1
            if values.size == 1:
                raise RuntimeError("too small")
            return 2 * values

        return self.repeated.get([values], make)


def test_the_same_inputs_are_run_once_for_all_who_ask() -> None:
    runs = Doubled(3)
    first, other = np.arange(6, dtype=np.float32), np.ones(6, np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(runs.ask(first.copy()), 2 * first)
        np.testing.assert_array_equal(runs.ask(other.copy()), 2 * other)
    assert runs.made == 2
    runs.ask(first)  # forgotten: another map may be alike
    assert runs.made == 3


def test_shapes_are_told_apart() -> None:
    runs = Doubled(2)
    values = np.arange(6, dtype=np.float32)
    assert runs.ask(values.reshape(2, 3)).shape == (2, 3)
    assert runs.ask(values.reshape(3, 2)).shape == (3, 2)
    assert runs.ask(values.reshape(2, 3)[:, ::-1]).tolist() == [[4, 2, 0], [10, 8, 6]]
    assert runs.made == 3


def test_where_there_is_no_room_only_what_is_kept_is_not_run_again() -> None:
    runs = Doubled(3, most=3 * 400)
    maps = [np.full(100, number, np.float32) for number in range(5)]
    for _ in range(3):  # classes take turns with a row of windows
        for values in maps:
            np.testing.assert_array_equal(runs.ask(values), 2 * values)
    assert runs.made == 3 + 2 * 3
    for _ in range(3):
        runs.ask(maps[4])  # there is room again
    assert runs.made == 3 + 2 * 3 + 1


def test_what_nobody_comes_for_makes_room_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated, "_FORGOTTEN", 4)
    runs = Doubled(2, most=400)
    runs.ask(np.zeros(100, np.float32))  # of a map that failed then
    for _ in range(6):
        runs.ask(np.ones(100, np.float32))
    assert runs.made < 7


def test_an_error_reaches_all_and_is_forgotten() -> None:
    runs = Doubled(2)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="too small"):
            runs.ask(np.zeros(1, np.float32))
    assert runs.made == 3


def test_threads_wait_for_the_one_that_runs() -> None:
    runs = Doubled(8)
    values = np.arange(100, dtype=np.float32)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: runs.ask(values), range(8)))
    assert runs.made == 1
    assert all(np.array_equal(each, 2 * values) for each in found)
