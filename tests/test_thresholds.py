from __future__ import annotations

import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prn_cli.errors import InputError
from prn_cli.thresholding import thresholds
from prn_cli.thresholding.thresholds import PAPER_GRID, best_thresholds, search_thresholds

OFFICIAL = Path(__file__).parent / "vectors" / "official_pseudolabels.npz"


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    """Maps, labels, thresholds and pseudo-labels of the published implementation."""
    with np.load(OFFICIAL) as file:
        return dict(file)


def brute_force(p: np.ndarray, label: np.ndarray, patch: int, grid: str) -> Iterator[tuple[tuple[int, int], tuple]]:
    """Each patch's threshold and counts, from the words of the method and in exact fractions."""
    for row in range(-(-p.shape[0] // patch)):
        for column in range(-(-p.shape[1] // patch)):
            area = np.s_[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            counts = ~np.isnan(p[area]) & (label[area] != 255)
            values, truth = p[area][counts], label[area][counts] == 1
            if not values.size:
                yield (row, column), (np.nan, 0, 0, 0, 0)
                continue
            candidates = PAPER_GRID
            if grid == "exact":
                distinct = np.unique(values)
                candidates = np.concatenate(([np.nextafter(distinct[0], np.float32(-1))], distinct))
            best = (Fraction(-1), None)
            for t in candidates:
                mask = values > t
                both, either = int((mask & truth).sum()), int((mask | truth).sum())
                score = Fraction(both + 1, either + 1)
                if score > best[0]:
                    best = (score, (t, both, int(mask.sum()) - both, int(truth.sum()), values.size))
            yield (row, column), best[1]


def check(p: np.ndarray, label: np.ndarray, patch: int, grid: str) -> None:
    found = search_thresholds(p, label, patch=patch, grid=grid)
    assert found.thresholds.dtype == np.float32
    assert found.thresholds.shape == (-(-p.shape[0] // patch), -(-p.shape[1] // patch))
    for at, (t, tp, fp, positives, valid) in brute_force(p, label, patch, grid):
        np.testing.assert_array_equal(found.thresholds[at], np.float32(t))  # 0.0 and -0.0 are one threshold
        assert (found.tp[at], found.fp[at], found.positives[at], found.valid[at]) == (tp, fp, positives, valid)


@st.composite
def maps(draw: st.DrawFn, most: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A small map with ties, extremes, values next to the grid's and NaN, and a label with 255."""
    shape = draw(st.tuples(st.integers(1, most), st.integers(1, most)))
    palette = draw(
        st.lists(
            st.one_of(
                st.sampled_from([0.0, -0.0, 1.0, 1e-45, float("nan")]),
                st.floats(0, 1, width=32),
                st.sampled_from(PAPER_GRID.tolist()),
                st.sampled_from(np.nextafter(PAPER_GRID, np.float32(2))[:-1].tolist()),
                st.sampled_from(np.nextafter(PAPER_GRID, np.float32(0)).tolist()),
            ),
            min_size=1,
            max_size=12,
        )
    )
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p = random.choice(np.array(palette, np.float32), shape)
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    label = (random.random(shape) < share).astype(np.uint8)
    label[random.random(shape) < draw(st.sampled_from([0.0, 0.2, 1.0]))] = 255
    return p, label


@pytest.mark.parametrize("patch", [32, 64, 128])
def test_paper_grid_equals_the_published_implementation(official, patch):
    for p, label, expected in zip(
        official["probabilities"], official["labels"], official[f"thresholds_p{patch}"], strict=True
    ):
        np.testing.assert_array_equal(best_thresholds(p, label, patch=patch), expected)


def test_paper_grid_is_the_published_one(official):
    assert set(np.unique(official["thresholds_p32"])) <= set(PAPER_GRID)
    np.testing.assert_allclose(PAPER_GRID, np.arange(1, 21) * 0.05, atol=1e-7)


def test_codes_are_exact_for_every_float32():
    # Rounding is monotonic, so codes never fall as p grows: they are right everywhere if they are at each threshold,
    # and at the next float.
    at, after = PAPER_GRID, np.nextafter(PAPER_GRID, np.float32(2))
    p = np.stack((at, after, np.nextafter(at, np.float32(0))))
    p[p > 1] = 1
    codes = thresholds._codes(p, np.zeros(p.shape, np.uint8)).copy()
    above = (p[..., None] > PAPER_GRID).sum(axis=-1)
    np.testing.assert_array_equal(np.maximum(codes.astype(int) - 2, 0), above)


@given(maps(), st.sampled_from([1, 2, 5, 8, 16, 17, 32, 33, 64, 100]))
@settings(max_examples=150, deadline=None)
def test_paper_grid_against_brute_force(example, patch):
    check(*example, patch, "paper")


@given(maps(most=24), st.sampled_from([1, 3, 8, 16, 30]))
@settings(max_examples=150, deadline=None)
def test_exact_grid_against_brute_force(example, patch):
    check(*example, patch, "exact")


@given(maps())
@settings(max_examples=50, deadline=None)
def test_exact_is_never_worse_than_paper(example):
    paper, exact = (search_thresholds(*example, patch=16, grid=grid) for grid in ("paper", "exact"))

    def score(found):
        return (found.tp + 1) / (found.positives + found.fp + 1)

    assert (score(exact) >= score(paper)).all()


@given(
    hnp.arrays(np.float32, (70, 50), elements=st.floats(0, 1, width=32), fill=st.just(0.3)), st.sampled_from([16, 25])
)
@settings(max_examples=20, deadline=None)
def test_a_threshold_makes_the_mask_that_was_counted(p, patch):
    label = (np.indices(p.shape).sum(axis=0) % 3 == 0).astype(np.uint8)
    for grid in ("paper", "exact"):
        found = search_thresholds(p, label, patch=patch, grid=grid)
        for (row, column), t in np.ndenumerate(found.thresholds):
            area = np.s_[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            assert ((p[area] > t) & (label[area] == 1)).sum() == found.tp[row, column]
            assert ((p[area] > t) & (label[area] == 0)).sum() == found.fp[row, column]


@pytest.mark.parametrize("block", [1 << 9, 1 << 12, 1 << 18])
@pytest.mark.parametrize("patch", [16, 64, 100, 513, 1024])
def test_block_by_block_gives_the_same(patch, block, monkeypatch):
    random = np.random.default_rng(patch)
    p = random.random((700, 321), dtype=np.float32) ** 3
    p[random.random(p.shape) < 0.01] = np.nan
    label = (random.random(p.shape) < 0.2).astype(np.uint8)
    monkeypatch.setattr(thresholds, "_BLOCK", block)
    check(p, label, patch, "paper")
    if block > 1 << 12:
        exact = best_thresholds(p, label, patch=patch, grid="exact")
        monkeypatch.setattr(thresholds, "_BLOCK", 1)
        np.testing.assert_array_equal(best_thresholds(p, label, patch=patch, grid="exact"), exact)


def test_full_patch_of_1024_does_not_overflow():
    p, label = np.ones((1024, 2048), np.float32), np.ones((1024, 2048), np.uint8)
    for grid in ("paper", "exact"):
        found = search_thresholds(p, label, patch=1024, grid=grid)
        np.testing.assert_array_equal(found.tp, [[1024**2] * 2])
        np.testing.assert_array_equal(found.valid, [[1024**2] * 2])


@pytest.mark.parametrize(
    ("p", "label", "paper", "exact"),
    [
        ([0.2, 0.62], [0, 0], 0.65, 0.62),  # no foreground: the lowest that nothing exceeds
        ([0.2, 1.0], [0, 0], 1.0, 1.0),
        ([0.3, 0.6], [1, 1], 0.05, np.nextafter(np.float32(0.3), np.float32(0))),  # all foreground: cut nothing off
        ([0.0, 0.6], [1, 1], 0.05, np.nextafter(np.float32(0), np.float32(-1))),
        ([0.3, 0.6], [0, 1], 0.3, 0.3),
        ([0.5, 0.5], [0, 1], 0.05, np.nextafter(np.float32(0.5), np.float32(0))),  # a tie is never cut through
        ([0.3, 0.9], [255, 0], 0.9, 0.9),
        ([np.nan, 0.9], [1, 1], 0.05, np.nextafter(np.float32(0.9), np.float32(0))),
        ([np.nan, 0.9], [1, 255], np.nan, np.nan),
    ],
)
def test_conventions(p, label, paper, exact):
    p, label = np.array([p], np.float32), np.array([label], np.uint8)
    for grid, expected in (("paper", paper), ("exact", exact)):
        np.testing.assert_array_equal(
            best_thresholds(p, label, patch=16, grid=grid), np.array([[expected]], np.float32)
        )


def test_windows_of_arrays_and_other_types():
    random = np.random.default_rng(0)
    p, label = random.random((90, 80)), random.random((90, 80)) < 0.3
    for grid in ("paper", "exact"):
        whole = best_thresholds(
            np.ascontiguousarray(p[5:, 3:-2], np.float32), label[5:, 3:-2].astype(np.uint8), patch=16, grid=grid
        )
        np.testing.assert_array_equal(best_thresholds(p[5:, 3:-2], label[5:, 3:-2], patch=16, grid=grid), whole)


def test_inputs_stay_as_they_are():
    p, label = np.full((40, 40), 0.3, np.float32), np.full((40, 40), 255, np.uint8)
    p.flags.writeable = label.flags.writeable = False
    for grid in ("paper", "exact"):
        assert np.isnan(best_thresholds(p, label, patch=16, grid=grid)).all()


def test_threads_do_not_disturb_each_other(official):
    failures = []

    def work(patch: int) -> None:
        for _ in range(5):
            for p, label, expected in zip(
                official["probabilities"], official["labels"], official[f"thresholds_p{patch}"], strict=True
            ):
                if not np.array_equal(best_thresholds(p, label, patch=patch), expected):
                    failures.append(patch)

    workers = [threading.Thread(target=work, args=(patch,)) for patch in (32, 64, 128, 64)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


@pytest.mark.parametrize("shapes", [((3, 4), (4, 3)), ((3, 4, 1), (3, 4, 1)), ((0, 4), (0, 4))])
def test_shapes_that_do_not_fit(shapes):
    with pytest.raises(InputError, match="shape"):
        best_thresholds(np.zeros(shapes[0], np.float32), np.zeros(shapes[1], np.uint8), patch=16)
