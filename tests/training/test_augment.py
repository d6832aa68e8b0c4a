"""Crops: the three planes turn together, invalid stays invalid, one seed gives one batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_cli.training.augment import Jitter, TrainingMap, draw_batch

NO_JITTER = Jitter(scale=0, shift=0)


def numbered(height: int, width: int, name: str = "map") -> TrainingMap:
    """A map whose logits tell where a pixel came from, and whose labels are a function of them."""
    logits = np.arange(height * width, dtype=np.float32).reshape(height, width)
    return TrainingMap(name, logits, (logits % 2).astype(np.uint8), (logits % 3 == 0).astype(np.uint8))


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_planes_stay_together_at_any_size(height: int, width: int, seed: int) -> None:
    batch = draw_batch([numbered(height, width)], 3, 32, NO_JITTER, np.random.default_rng(seed))
    assert batch.logits.shape == batch.label.shape == batch.pseudo.shape == (3, 1, 32, 32)
    valid = np.isfinite(batch.logits)
    assert valid.sum() == 3 * min(height, 32) * min(width, 32)
    assert np.array_equal(batch.label[valid], batch.logits[valid] % 2)
    assert np.array_equal(batch.pseudo[valid] == 1, batch.logits[valid] % 3 == 0)
    assert (batch.label[~valid] == 255).all()
    assert (batch.pseudo[~valid] == 255).all()


def test_all_eight_turns_are_drawn() -> None:
    batch = draw_batch([numbered(32, 32)], 200, 32, NO_JITTER, np.random.default_rng(0))
    assert len({crop.tobytes() for crop in batch.logits}) == 8


def test_jitter_is_one_scale_and_one_shift_a_crop() -> None:
    source = numbered(32, 32)
    batch = draw_batch([source], 4, 32, Jitter(scale=0.3, shift=0.6), np.random.default_rng(1))
    for crop in batch.logits:
        values = np.sort(crop.ravel())
        steps = np.diff(values)
        assert np.allclose(steps, steps[0], rtol=1e-2)
        assert steps[0] > 0
    assert len({round(float(np.sort(crop.ravel())[0]), 4) for crop in batch.logits}) == 4


def test_maps_are_drawn_by_the_root_of_their_area_and_by_seed() -> None:
    maps = [numbered(64, 64, "small"), numbered(64, 576, "large")]
    first = draw_batch(maps, 400, 64, NO_JITTER, np.random.default_rng(5))
    again = draw_batch(maps, 400, 64, NO_JITTER, np.random.default_rng(5))
    assert np.array_equal(first.logits, again.logits)
    large = np.mean([crop.max() > 64 * 64 for crop in first.logits])
    assert 0.65 < large < 0.85


def test_a_label_that_stands_in_for_the_pseudo_label_is_drawn_once() -> None:
    one = numbered(40, 40)
    batch = draw_batch(
        [TrainingMap("map", one.logits, one.label, one.label)], 2, 32, NO_JITTER, np.random.default_rng(0)
    )
    assert batch.pseudo is batch.label


def test_the_classes_of_a_map_are_cut_at_one_place() -> None:
    maps = [replace(numbered(40, 50, name), plane=plane) for name in "ab" for plane in range(3)]
    maps = [replace(m, logits=m.logits + 10_000 * m.plane) for m in maps]
    batch = draw_batch(maps, 6, 32, NO_JITTER, np.random.default_rng(3), planes=3)
    assert batch.logits.shape == batch.label.shape == (6, 3, 32, 32)
    assert batch.plane is not None
    assert batch.plane.tolist() == [0] * 6
    for plane in range(3):
        assert np.array_equal(batch.logits[:, plane], batch.logits[:, 0] + 10_000 * plane)
