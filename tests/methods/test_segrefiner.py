"""SegRefiner: its chain against simulation and tables, coarse masks against oracles, any size and tiling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from prn_cli.methods import refiner_of
from prn_cli.methods.refiner import Windows
from prn_cli.methods.segrefiner.chain import (
    accumulate,
    confidence,
    diffuse,
    fine_shares,
    refining_probability,
    restore,
)
from prn_cli.methods.segrefiner.coarse import coarse_mask, fill, grown, outlines
from prn_cli.refinement.rows import (
    How,
    Link,
    Order,
    cut,
    finish_ramp,
    join_sections,
    look_over,
    refine_map,
    refine_rows,
    refine_section,
    window_rows,
)


class LocalRunner:
    """Stands for a network that sees 4 px around a pixel: the mean of image and mask there, made steep."""

    path: Path | None = None
    device, library, runs = "cpu", "none", 1
    inputs, outputs = ["mask", "step", "image"], ["logits"]

    def __init__(self, **metadata: object) -> None:
        known = {"multiple": 32, "halo": 32, "tile": 256, "side": 256, "overview": 256} | metadata
        known |= {"format": 1, "network": "segrefiner", "image_channels": 1}
        self.metadata = {f"prn.{name}": str(value) for name, value in known.items()}
        self.seen: list[int] = []

    def run(self, outputs, inputs):
        assert outputs == ["logits"]
        assert set(np.unique(inputs["mask"])) <= {0, 1}
        self.seen += inputs["step"].ravel().astype(int).tolist()
        planes = np.nan_to_num(inputs["image"][:, 0]) + 0.2 * (inputs["mask"][:, 0] - 0.5)
        return [(8 * ndimage.uniform_filter(planes, (0, 9, 9)))[:, np.newaxis].astype(np.float32)]


def scene(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Coarse logits, and an image whose sign is the truth: discs, which the logits show in blocks of 16 px."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    truth = np.zeros((height, width), bool)
    for _ in range(6):
        row, column = random.uniform(0, height), random.uniform(0, width)
        truth |= np.hypot(y - row, x - column) < random.uniform(0.08, 0.2) * max(height, width)
    blocks = ndimage.zoom(truth[8::16, 8::16].astype(float), 16, order=0) if min(truth.shape) > 16 else truth
    coarse = np.zeros(truth.shape)
    coarse[: blocks.shape[0], : blocks.shape[1]] = blocks[:height, :width]
    image = np.where(truth, 0.5, -0.5) + random.normal(0, 0.5, truth.shape)
    return (6 * coarse - 3).astype(np.float32), image.astype(np.float32)[np.newaxis]


# The chain.


def test_shares_are_those_of_the_paper():
    np.testing.assert_allclose(fine_shares(6), [0.8, 0.64, 0.48, 0.32, 0.16, 0])
    np.testing.assert_array_equal(fine_shares(1), [0])


def test_the_closed_form_is_what_step_by_step_simulation_gives():
    random = np.random.default_rng(0)
    shares = fine_shares(6)
    fine = np.ones(200_000, bool)
    for step, share in enumerate(shares):
        stays = share / (shares[step - 1] if step else 1)
        fine &= random.random(fine.size) < stays  # fine turns coarse, and never back
        at_once = diffuse(np.ones(fine.size), np.zeros(fine.size), share, random.random(fine.size, np.float32))
        assert fine.mean() == pytest.approx(share, abs=0.005)
        assert at_once.mean() == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize(
    ("step", "sure", "expected"),
    [
        (5, 0.5, 0.08),  # 0.5 · 0.16 / 1
        (5, 1.0, 0.16),
        (4, 0.5, 0.08 / 0.92),
        (3, 0.25, 0.04 / 0.92),
        (1, 1.0, 0.16 / 0.36),
        (0, 0.5, 0.1 / 0.6),
        (0, 1.0, 1.0),
        (0, 0.0, 0.0),
        (3, 0.0, 0.0),
    ],
)
def test_reverse_probabilities_are_those_of_a_table(step, sure, expected):
    found = refining_probability(np.float32([sure]), step, fine_shares(6))
    assert found[0] == pytest.approx(expected, abs=1e-6)


@given(st.integers(1, 12), st.floats(0, 1), st.data())
def test_reverse_probabilities_are_bayes_of_the_transition_matrices(steps, sure, data):
    step = data.draw(st.integers(0, steps - 1))
    shares = fine_shares(steps)
    state = np.array([sure, 1 - sure])  # of being fine at the start, as far as the network knows
    for t in range(step + 1):
        stays = shares[t] / (shares[t - 1] if t else 1)
        before, state = state, state @ np.array([[stays, 1 - stays], [0, 1]])
    turned = before[0] * (1 - stays) / state[1]  # fine before, given coarse now
    found = refining_probability(np.float32([sure]), step, shares)[0]
    assert found == pytest.approx(turned, abs=1e-5)


@given(st.floats(0, 1))
def test_of_constant_confidence_what_turned_fine_is_confidence_times_the_share(sure):
    shares, fine = fine_shares(6), np.zeros(1, np.float32)
    for step in reversed(range(6)):
        fine = accumulate(fine, refining_probability(np.float32([sure]), step, shares))
        assert fine[0] == pytest.approx(sure * (shares[step - 1] if step else 1), abs=1e-5)


def test_confidence_of_none_and_of_certainty():
    logits = np.float32([0, 1, -1, 80, -3e38])
    np.testing.assert_allclose(confidence(logits), [0, 2 / (1 + np.exp(-1)) - 1, 2 / (1 + np.exp(-1)) - 1, 1, 1])
    coarse = (np.arange(12).reshape(1, 3, 4) % 2).astype(np.float32)
    noise = np.full(coarse.shape, 0.999, np.float32)
    for certain, ended in ((0.0, 0.0), (3e38, 1.0), (-3e38, 1.0)):
        seen = []

        def predict(masks, step, certain=certain, seen=seen):
            seen.append((step, masks))
            return np.full(masks.shape, certain, np.float32)

        logits, fine = restore(predict, coarse, reversed(range(6)), fine_shares(6), lambda _: noise * 0)
        assert [step for step, _ in seen] == [5, 4, 3, 2, 1, 0]
        np.testing.assert_array_equal(logits, np.float32(certain))
        np.testing.assert_array_equal(fine, np.float32(ended))
        np.testing.assert_array_equal(seen[-1][1], coarse if certain == 0 else float(certain > 0))


# Coarse masks.


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_outlines_filled_are_the_mask(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    if mask.any():
        np.testing.assert_array_equal(fill(outlines(mask), mask.shape), mask)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_growth_is_dilation(height, width, reach, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.1
    away = np.arange(-reach, reach + 1)
    for halves, kernel in (
        (np.full(reach + 1, reach), np.ones((2 * reach + 1,) * 2, bool)),
        (np.sqrt(reach**2 - np.arange(reach + 1) ** 2).astype(int), np.hypot(away[:, None], away) <= reach),
    ):
        np.testing.assert_array_equal(grown(mask, halves), ndimage.binary_dilation(mask, kernel))


def test_coarse_masks_are_coarse_and_repeatable():
    truth = scene(200, 160)[1][0] > 0
    truth = ndimage.binary_opening(truth, iterations=2)
    found = [coarse_mask(truth, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()
    for coarse in found:
        assert 0.5 < (coarse & truth).sum() / (coarse | truth).sum() < 0.8
    nothing = np.zeros((9, 9), bool)
    assert not coarse_mask(nothing, np.random.default_rng(0)).any()
    assert coarse_mask(~nothing, np.random.default_rng(0)).any()


# Refining.


def test_the_pass_over_the_whole_map_comes_first_and_windows_only_where_it_left_doubt():
    runner = LocalRunner()
    logits, image = scene(700, 900)
    image[:, :, 450:] = -3  # nothing on the right, and no doubt about it
    refined = refine_map(logits, refiner_of(runner), image=image)
    assert runner.seen[:5] == [5, 4, 3, 2, 1]
    windows = runner.seen[5:]
    assert set(windows) == {0}
    assert 0 < len(windows) < 4 * 5
    truth = ndimage.uniform_filter(image[0], 9) > 0
    before, after = (np.mean(cut(found, 0.5) == truth) for found in (logits, refined))
    assert after > 0.99 > before


@pytest.mark.parametrize("metadata", [{}, {"overview": 0}, {"chain_steps": 1, "overview": 0}])
def test_any_tiling_gives_one_mask(metadata):
    logits, image = scene(400, 500)
    logits[100:180, 60:300] = np.nan
    refiner = refiner_of(LocalRunner(**metadata))
    whole = cut(refine_map(logits, refiner, image=image, seed=5), 0.5)
    np.testing.assert_array_equal(whole == 255, np.isnan(logits))
    other = cut(refine_map(logits, refiner, image=image, seed=5, shift=64), 0.5)
    assert np.mean(other != whole) < 1e-3

    def read(window):
        return logits[window.slices]

    def read_image(window):
        return image[:, *window.slices]

    links, size = [Link(refiner)], logits.shape
    for how in (How(seed=5, batch=3), How(seed=5, order=Order.ACROSS), How(seed=5, read_ahead=2)):
        parts = np.full(size, np.nan, np.float32)
        for rows in refine_rows(read, *size, links, how, read_image=read_image):
            parts[rows.y : rows.y + len(rows.refined), rows.x : rows.x + rows.refined.shape[1]] = rows.refined
        np.testing.assert_array_equal(cut(parts, 0.5), whole)
    how = How(seed=5)
    known = look_over(read, *size, links, how, read_image=read_image)
    sections = [slice(0, 1), slice(1, len(window_rows(*size, links)))]
    pieces = [
        piece
        for section in sections
        for piece in refine_section(read, *size, links, how, section=section, read_image=read_image, overviews=known)
    ]
    rows = join_sections(pieces, lambda ramp: finish_ramp(ramp, logits[ramp.window.slices], links))
    np.testing.assert_array_equal(cut(np.concatenate([one.refined for one in rows]), 0.5), whole)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (100, 100), (300, 300), (257, 31)])
@pytest.mark.parametrize("metadata", [{}, {"overview": 0}])
def test_any_size(size, metadata):
    logits, image = scene(*size)
    found = refine_map(logits, refiner_of(LocalRunner(**metadata)), image=image)
    assert found.shape == size
    assert np.isfinite(found).all()


def test_turned_windows_are_laid_where_they_were():
    logits, image = scene(300, 300)
    found = cut(refine_map(logits, refiner_of(LocalRunner()), image=image), 0.5)
    turned = cut(refine_map(logits, refiner_of(LocalRunner()), image=image, tta=True), 0.5)
    assert np.mean(turned != found) < 0.002


def test_an_object_of_a_few_pixels_stays():
    logits = np.full((300, 400), -4, np.float32)
    logits[100:111, 200:211] = 4
    image = np.sign(logits)[np.newaxis] * 0.5
    assert 20 < cut(refine_map(logits, refiner_of(LocalRunner()), image=image), 0.5).sum() < 130


def test_mosaics_do_without_the_pass_over_the_whole_map():
    refiner = refiner_of(LocalRunner())
    assert refiner.overview_side(2000, 6144) == 256
    assert refiner.overview_side(2000, 6145) == 0
    runner = LocalRunner()
    logits, image = np.full((40, 6200), -3, np.float32), np.full((1, 40, 6200), -0.5, np.float32)
    logits[10:30, 3000:3040] = 3
    refined = refine_map(logits, refiner_of(runner), image=image)
    assert set(runner.seen) == {5, 4, 3, 2, 1, 0}
    assert len(runner.seen) <= 6 * 2  # windows of one class stay as they are
    np.testing.assert_allclose(refined[:, :2000], -3, atol=1e-4)


def test_noise_belongs_to_the_place():
    windows = Windows(np.zeros((2, 64, 32), np.float32), places=[(0, 0), (32, 16)], size=(200, 200), seed=9)
    noise = windows.noise(3)
    np.testing.assert_array_equal(noise[0, 32:, 16:], noise[1, :32, :16])
    chosen = windows.some(np.array([1]))
    np.testing.assert_array_equal(chosen.noise(3)[0], noise[1])
    np.testing.assert_array_equal(windows.turned(True, 1).noise(3)[0], np.rot90(noise[0][:, ::-1]))
