"""Several threads, one network: how many runs go on at once, and who shares one."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from prn_cli.methods import load_refiner
from prn_cli.methods.shared_runs import SharedRuns
from prn_cli.methods.weights import find_weights
from prn_cli.refinement.rows import refine_map


class Network:
    """Doubles what it gets, and remembers the batches. Each run first calls `wait`."""

    def __init__(self):
        self.batches = []
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.wait = lambda: None

    def __call__(self, outputs, batches):
        inputs = {"x": np.concatenate([batch["x"] for batch in batches])}
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.wait()
        with self.lock:
            self.now -= 1
            self.batches.append(len(inputs["x"]))
        if (inputs["x"] == 13).any():
            raise ValueError("unlucky")
        return [2 * inputs["x"]]


def give(runs, arrays, threads=8):
    def one(array):
        try:
            return runs.run(("y",), {"x": array})[0]
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, arrays))


def until_the_others_wait(network, runs, threads=8):
    """Let the first run last until all other threads wait for the next one."""

    def wait():
        while not network.batches and len(runs._waiting) < threads - 1:
            time.sleep(0.001)

    return wait


def test_each_gets_its_own_and_those_that_wait_share():
    network = Network()
    arrays = [np.full((1, 1, 4, 4 + i % 2), i + 100, np.float32) for i in range(40)]
    runs = SharedRuns(network, at_once=1, most_pixels=3 * 20)
    network.wait = until_the_others_wait(network, runs)
    results = give(runs, arrays)
    for array, result in zip(arrays, results, strict=True):
        np.testing.assert_array_equal(result, 2 * array)
    assert network.most == 1
    assert sum(network.batches) == 40
    assert 1 < max(network.batches) <= 3  # as many as make 60 pixels


def test_runs_may_come_in_few_sizes():
    network = Network()
    runs = SharedRuns(network, at_once=1, most_pixels=7 * 16, few_sizes=True)
    network.wait = until_the_others_wait(network, runs)
    give(runs, [np.zeros((1, 1, 4, 4), np.float32)] * 40)
    assert sum(network.batches) == 40
    assert max(network.batches) == 4
    assert set(network.batches) <= {1, 2, 4}


def test_so_many_at_once_and_large_ones_alone():
    network = Network()
    network.wait = threading.Barrier(2, timeout=600).wait  # each run needs another one beside it
    give(SharedRuns(network, at_once=2, most_pixels=15), [np.zeros((1, 1, 4, 4), np.float32)] * 20)
    assert network.most == 2
    assert network.batches == [1] * 20


def test_a_run_that_fails_fails_for_all_who_shared_it_and_for_no_other():
    network = Network()
    arrays = [np.full((1, 1, 2, 2), i, np.float32) for i in range(40)]
    runs = SharedRuns(network, at_once=1, most_pixels=8)
    network.wait = until_the_others_wait(network, runs)
    results = give(runs, arrays)
    failed = [i for i, result in enumerate(results) if isinstance(result, str)]
    assert 13 in failed
    assert len(failed) <= 2
    assert {results[i] for i in failed} == {"unlucky"}


@pytest.mark.parametrize("network", ["fast", "paper"])
def test_runs_side_by_side_give_the_same_bits(make_onnx, random_logits, network):
    weights = find_weights(str(make_onnx(network)))
    one, many = (load_refiner(weights, device="cpu", threads=3, side_by_side=side) for side in (False, True))
    assert (one.runs, many.runs) == (1, 3)
    logits = random_logits(700, 900)
    expected = refine_map(logits, one)
    np.testing.assert_array_equal(refine_map(logits, many), expected)
    small = [logits[i : i + 32, i : i + 32] for i in range(60)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda part: refine_map(part, many), small))
    for part, result in zip(small, together, strict=True):
        np.testing.assert_array_equal(result, refine_map(part, one))
