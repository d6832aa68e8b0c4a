from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prn_cli.maps.noise import place_noise, place_seed
from prn_cli.maps.tiles import Window
from prn_cli.methods.refiner import Windows


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**64 - 1))
def test_a_pixel_has_its_noise_in_every_window(y, x, height, width, seed):
    whole = place_noise(seed, Window(0, 0, y + height, x + width), draw=2)
    np.testing.assert_array_equal(place_noise(seed, Window(y, x, height, width), draw=2), whole[y:, x:])


def test_noise_is_uniform_and_differs_by_seed_and_draw():
    window = Window(1000, 70_000, 256, 300)
    noise = place_noise(5, window)
    assert (noise.dtype, noise.shape) == (np.float32, (256, 300))
    assert noise.min() >= 0
    assert noise.max() < 1
    counts, _ = np.histogram(noise, bins=16, range=(0, 1))
    assert np.abs(counts / counts.mean() - 1).max() < 0.06
    others = [place_noise(6, window), place_noise(5, window, draw=1)]
    for other in [*others, noise[::-1], np.roll(noise, 64, 0), np.roll(noise, 64, 1)]:
        assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.02


def test_a_seed_is_of_all_its_parts_and_the_same_in_every_process():
    parts = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), ("0", "a"), (0, "\udcff")]
    assert len({place_seed(*each) for each in parts}) == len(parts)
    code = "from prn_cli.maps.noise import place_seed; print(place_seed(3, 'map', 7))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == place_seed(3, "map", 7)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_noise_is_turned_with_its_window(flipped, turns):
    numbers = np.arange(30, dtype=np.float32).reshape(1, 5, 6)
    windows = Windows(numbers, places=[(3, 64)], seed=9)
    turned = windows.turned(flipped, turns)
    assert turned.noise().shape == turned.logits.shape
    by_pixel = dict(zip(numbers.ravel(), windows.noise().ravel(), strict=True))
    assert [by_pixel[number] for number in turned.logits.ravel()] == turned.noise().ravel().tolist()
