"""An image that comes in bands of rows has the counts of the whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_cli.maps.tiles import block_rows, row_bands
from prn_cli.metrics import bitmaps, boundaries
from prn_cli.metrics.calibration import count_calibration
from prn_cli.tasks.binary import Binary

score_image = Binary().score_image


def image(height, width, seed):
    random = np.random.default_rng(seed)
    coarse = random.standard_normal((3, height // 6 + 2, width // 6 + 2))
    fields = np.kron(coarse, np.ones((6, 6)))[:, :height, :width] + random.standard_normal((3, height, width)) / 3
    label = (fields[0] > 0.3).astype(np.uint8)
    label[random.random(label.shape) < 0.02] = 255
    soft = (1 / (1 + np.exp(-fields[:2] * 2 - fields[2]))).astype(np.float32)
    soft[:, random.random(label.shape) < 0.02] = np.nan
    return soft[0], soft[1], label


def in_bands(cuts, prediction, label, baseline=None, **options):
    counter = Binary().counter(*label.shape, **options)
    for top, bottom in zip([0, *cuts], [*cuts, len(label)], strict=True):
        rows = slice(top, bottom)
        counter.add(prediction[rows], label[rows], None if baseline is None else baseline[rows])
    return counter.score()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_bands_give_the_counts_of_the_whole(data):
    height, width = data.draw(st.integers(1, 260)), data.draw(st.integers(1, 400))
    prediction, baseline, label = image(height, width, data.draw(st.integers(0, 99)))
    if data.draw(st.booleans()):
        baseline = np.where(np.isnan(baseline), 255, baseline > 0.5).astype(np.uint8)
    cuts = sorted(data.draw(st.sets(st.integers(1, height - 1), max_size=9))) if height > 1 else []
    buffer = data.draw(st.floats(0, 70))
    try:
        whole = score_image(prediction, label, baseline=baseline, buffer=buffer)
    except Exception as error:
        with pytest.raises(type(error), match="no pixel is valid"):
            in_bands(cuts, prediction, label, baseline, buffer=buffer)
        return
    with pytest.MonkeyPatch.context() as patch:
        # Blocks as small as they get, in rows and in columns.
        patch.setattr(boundaries, "_BLOCK_WORDS", 1)
        patch.setattr(boundaries, "_MOST_WORDS", data.draw(st.integers(1, 3)))
        with ThreadPoolExecutor(2) if data.draw(st.booleans()) else nullcontext() as pool:
            banded = in_bands(cuts, prediction, label, baseline, buffer=buffer, pool=pool)
    assert (banded.height, banded.width, banded.pixels) == (height, width, whole.pixels)
    for ours, expected in ((banded.counts, whole.counts), (banded.baseline, whole.baseline)):
        np.testing.assert_array_equal(ours[:20], expected[:20])
        np.testing.assert_allclose(ours[20:], expected[20:], rtol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 40), st.integers(300, 900), st.integers(0, 9))
def test_the_bands_of_the_commands_give_every_bit_of_the_whole(height, width, seed):
    random = np.random.default_rng(seed)
    height *= block_rows(width) // 8
    probabilities = random.random((height, width), np.float32)
    label = (random.random((height, width)) < probabilities).astype(np.uint8)
    cuts = [band.bottom for band in row_bands(height, width, pixels=width * height // 3)][:-1]
    banded = in_bands(cuts, probabilities, label)
    np.testing.assert_array_equal(banded.counts, score_image(probabilities, label).counts)
    np.testing.assert_array_equal(banded.counts[20:], count_calibration(probabilities, label))


def test_memory_of_the_boundaries_is_flat_in_the_height():
    held = []

    class Watched(boundaries.BoundaryCounter):
        def _count_rows(self, ready):
            held.append(self._bits.shape[1])
            super()._count_rows(ready)

    counter = Watched(12_000, 4096)
    rows = np.zeros((500, 4096), np.uint8)
    for _ in range(24):
        counter.add(rows, rows)
    assert counter.counts()[boundaries.TRUE] == 0
    assert len(held) >= 5
    assert max(held) <= 2048 + 4 * 254 + 500  # a block, twice 2 % of the diagonal above and below it, and a band


@given(st.integers(1, 40), st.integers(1, 150), st.integers(1, 30), st.data())
def test_rows_of_a_frame_are_its_rows(height, width, thickness, data):
    start = data.draw(st.integers(0, height - 1))
    rows = slice(start, data.draw(st.integers(start + 1, height)))
    expected = np.ones((height, width), bool)
    if 2 * thickness < min(height, width):
        expected[thickness:-thickness, thickness:-thickness] = False
    np.testing.assert_array_equal(bitmaps.frame(height, width, thickness), bitmaps.pack(expected))
    np.testing.assert_array_equal(bitmaps.frame(height, width, thickness, rows), bitmaps.pack(expected[rows]))


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1 << 22))
def test_bands_are_the_map_from_the_top(height, width, pixels):
    bands = list(row_bands(height, width, pixels=pixels))
    assert [band.y for band in bands] == [0, *(band.bottom for band in bands)][:-1]
    assert bands[-1].bottom == height
    assert all((band.x, band.width) == (0, width) for band in bands)
    assert all(band.height % block_rows(width) == 0 for band in bands[:-1])
    assert all(band.height * width <= max(pixels, block_rows(width) * width) for band in bands)
