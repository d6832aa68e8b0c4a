from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_cli.errors import InputError
from prn_cli.maps.classes import choose, one_versus_rest
from prn_cli.maps.tiles import Window
from prn_cli.methods import load_refiner
from prn_cli.methods.weights import find_weights
from prn_cli.metrics.classes import count_classes
from prn_cli.metrics.score import figures, summarise
from prn_cli.refinement.rows import (
    How,
    Link,
    Order,
    join_sections,
    refine_map,
    refine_rows,
    refine_section,
    window_rows,
)
from prn_cli.tasks.multiclass import Multiclass, class_metrics, classes_of, finish_class_ramp, refine_classes


@pytest.fixture
def logits(random_logits):
    maps = np.stack([random_logits(300, 210, seed=seed) for seed in range(4)])
    maps[:, 20:60, 30:90] = np.nan
    return maps


def rows_of(logits, refiner, refine_part=refine_rows, *, tile, order=Order.ROWS, strength=None, **options):
    reads, links = [], [Link(refiner, strength, tile)]

    def read(window):
        reads.append(window)
        return one_versus_rest(logits[:, *window.slices])

    def refine(read_one, number):
        return refine_part(read_one, *logits.shape[1:], links, How(order=order, plane=number), **options)

    return list(refine_classes(read, len(logits), refine)), reads


def test_every_class_is_refined_as_a_map_of_its_own(logits, make_onnx):
    refiner = load_refiner(find_weights(str(make_onnx())), device="cpu")
    rows, reads = rows_of(logits, refiner, tile=96)
    assert len(rows) > 1
    assert sum(window.height for window in reads) == 300  # each row is read once, for all classes
    apart = one_versus_rest(logits)
    refined = np.concatenate([r.refined for r in rows], axis=1)
    for number in range(4):
        np.testing.assert_array_equal(refined[number], refine_map(apart[number], refiner, tile=96))
    np.testing.assert_array_equal(np.concatenate([r.logits for r in rows], axis=1), apart)
    np.testing.assert_array_equal(np.concatenate([choose(r.refined) for r in rows]), choose(refined))
    np.testing.assert_array_equal(np.concatenate([choose(r.logits) for r in rows]), choose(logits))
    np.testing.assert_array_equal(np.concatenate([r.bias for r in rows], axis=1), refined - apart)
    total = np.concatenate([r.probabilities for r in rows], axis=1).sum(axis=0)
    assert np.array_equal(np.isnan(total), np.isnan(logits[0]))
    assert total[~np.isnan(total)] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("order", Order)
def test_each_pixel_of_a_strip_is_read_once_for_all_classes_however_many_bands_it_takes(
    logits, make_onnx, monkeypatch, order
):
    def bands(height, width, **_):
        return (Window(y, 0, min(7, height - y), width) for y in range(0, height, 7))

    monkeypatch.setattr("prn_cli.refinement.strips.row_bands", bands)
    refiner = load_refiner(find_weights(str(make_onnx())), device="cpu")
    _, reads = rows_of(logits, refiner, tile=96, order=order)
    assert len(reads) > 40
    assert len(set(reads)) == len(reads)


@pytest.mark.parametrize("network", ["fast", "paper"])
def test_sections_joined_are_the_map_bit_for_bit(make_onnx, random_logits, network):
    refiner = load_refiner(find_weights(str(make_onnx(network))), device="cpu", threads=1)

    @settings(max_examples=20)
    @given(st.integers(2, 5), st.integers(100, 400), st.integers(1, 500), st.sampled_from([0, 0.3, 1]), st.data())
    def check(classes, height, width, strength, data):
        logits = np.stack([random_logits(height, width, seed=seed) for seed in range(classes)])
        y, x = data.draw(st.integers(0, height)), data.draw(st.integers(0, width))
        logits[:, y : y + 90, x : x + 200] = np.nan
        options = {"tile": 96, "strength": strength}
        links = [Link(refiner, strength, 96)]
        count = len(window_rows(height, width, links))
        cuts = sorted(data.draw(st.sets(st.integers(1, count - 1), min_size=1)))
        whole, _ = rows_of(logits, refiner, **options)
        for order in Order:
            pieces = [
                piece
                for section in pairwise([0, *cuts, count])
                for piece in rows_of(logits, refiner, refine_section, section=slice(*section), order=order, **options)[
                    0
                ]
            ]
            joined = list(
                join_sections(
                    pieces,
                    lambda ramp: finish_class_ramp(ramp, one_versus_rest(logits[:, *ramp.window.slices]), links),
                )
            )
            for part in ("logits", "refined", "probabilities", "bias"):
                found, expected = put_together(joined, part, height, width), put_together(whole, part, height, width)
                np.testing.assert_array_equal(found, expected)

    check()


def put_together(pieces, part, height, width):
    """A part of the rows of a map; each pixel comes once."""
    values = [getattr(rows, part) for rows in pieces]
    result = np.empty((*values[0].shape[:-2], height, width), values[0].dtype)
    seen = np.zeros((height, width), int)
    for rows, here in zip(pieces, values, strict=True):
        slices = Window(rows.y, rows.x, *here.shape[-2:]).slices
        result[..., *slices] = here
        seen[slices] += 1
    assert (seen == 1).all()
    return result


def test_without_a_bias_the_classes_stay(logits, make_onnx):
    refiner = load_refiner(find_weights(str(make_onnx(strength=0.0))), device="cpu")
    rows, _ = rows_of(logits, refiner, tile=96)
    np.testing.assert_array_equal(np.concatenate([choose(r.refined) for r in rows]), choose(logits))


def test_scores_by_bands_pool_mean_and_compare():
    random = np.random.default_rng(0)
    label = random.integers(0, 4, (3, 30, 40)).astype(np.uint8)
    label[:, :3] = 255
    masks, others = (np.where(random.random(label.shape) < share, label, 2).astype(np.uint8) for share in (0.8, 0.6))
    scores = []
    for image in range(3):
        counter = Multiclass().counter(30, 40)
        for rows in (slice(0, 11), slice(11, 30)):
            counter.add(masks[image, rows], label[image, rows], others[image, rows])
        scores.append(counter.score())
        whole = np.where(label[image] == 255, 255, others[image]).astype(np.uint8)
        assert np.array_equal(scores[-1].baseline, count_classes(whole, label[image]))
    assert classes_of(scores) == 4
    metrics = class_metrics(["a", "b", "c", "d"])
    summary = summarise(scores, metrics=metrics, resamples=100)
    pooled = figures(sum(score.counts for score in scores), metrics)
    assert summary.pixels == 3 * 27 * 40
    for name, figure in summary.pooled.items():
        assert figure.masks.value == pytest.approx(pooled[name])
        assert figure.difference.value == pytest.approx(figure.masks.value - figure.baseline.value)
    ious = [summary.pooled[f"iou_{name}"].masks.value for name in "abcd"]
    assert summary.pooled["miou"].masks.value == pytest.approx(np.mean(ious))


def test_an_image_without_a_valid_pixel_is_refused():
    counter = Multiclass().counter(2, 2)
    counter.add(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    with pytest.raises(InputError, match="no pixel is valid"):
        counter.score()
