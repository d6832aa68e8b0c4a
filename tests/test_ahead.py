from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from prn_cli.execution.ahead import InOrder, ahead


@pytest.mark.parametrize("count", [1, 3, 50])
def test_the_same_items_in_the_same_order(count):
    assert list(ahead((number**2 for number in range(20)), count)) == [number**2 for number in range(20)]
    assert list(ahead((number for number in ()), count)) == []


def test_no_more_than_so_many_are_made_before_they_are_wanted():
    made: list[int] = []
    third = threading.Event()

    def items():
        for number in range(10):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    found = ahead(items(), 2)
    assert next(found) == 0
    assert third.wait(600)
    assert made == [0, 1, 2]
    found.close()
    assert made == [0, 1, 2]


def test_they_are_made_by_another_thread_which_ends():
    def items():
        yield threading.current_thread()

    (thread,) = ahead(items())
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_what_goes_wrong_is_raised_where_its_item_was_wanted():
    def items():
        yield 1
        raise OSError("gone")

    found = ahead(items(), 5)
    assert next(found) == 1
    with pytest.raises(OSError, match="gone"):
        next(found)


def test_whoever_stops_early_closes_the_iterator():
    closed = []

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    found = ahead(items(), 3)
    next(found)
    found.close()
    assert closed == [True]


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_results_are_taken_in_order_and_few_of_them_wait(threads):
    begun, taken = [], []

    def task(number):
        begun.append(number)
        assert threads is None or len(begun) <= len(taken) + 5  # four, and the one that is waited for
        return number

    pool = None if threads is None else ThreadPoolExecutor(threads)
    tasks = InOrder(pool, 4)
    for number in range(20):
        tasks.add(partial(task, number))
    while len(taken) < 20:
        taken += [tasks.take()]
    assert taken == list(range(20))
    tasks.add(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        tasks.take()
    if pool is not None:
        pool.shutdown()
