from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_cli.report.shrinking import Cells, Mean, Shares


@st.composite
def maps(draw):
    """A map, where it is cut into bands, and the side of the grid."""
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    cuts = sorted(draw(st.sets(st.integers(1, max(height - 1, 1)), max_size=4)))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    values = random.standard_normal((height, width)).astype(np.float32)
    values[random.random(values.shape) < 0.2] = np.nan
    codes = random.integers(0, 5, values.shape).astype(np.uint8)
    return values, codes, [cut for cut in cuts if cut < height], draw(st.integers(1, 25))


def bands(array, cuts):
    edges = [0, *cuts, len(array)]
    return [(a, array[a:b]) for a, b in pairwise(edges)]


def cell_of(place, cells):
    return place[0] * cells.shape[0] // cells.height, place[1] * cells.shape[1] // cells.width


@settings(deadline=None, max_examples=50)
@given(maps())
def test_means_and_shares_of_cells_are_those_of_their_pixels(case):
    values, codes, cuts, side = case
    cells = Cells(*values.shape, side)
    assert max(cells.shape) == min(side, max(values.shape))
    mean, shares = Mean(cells), Shares(cells, 5)
    for first, band in bands(values, cuts):
        mean.add(first, band)
    for first, band in bands(codes, cuts):
        shares.add(first, band)

    members: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for place in np.ndindex(values.shape):
        members.setdefault(cell_of(place, cells), []).append(place)
    assert set(members) == set(np.ndindex(cells.shape))  # no cell is empty
    expected = np.full(cells.shape, np.nan, np.float32)
    for cell, places in members.items():
        known = [values[place] for place in places if not np.isnan(values[place])]
        expected[cell] = np.mean(known) if known else np.nan
        found = np.bincount([codes[place] for place in places], minlength=5) / len(places)
        np.testing.assert_allclose(shares.result()[cell], found, rtol=1e-6)
    np.testing.assert_allclose(mean.result(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(shares.counts(), np.bincount(codes.ravel(), minlength=5))
