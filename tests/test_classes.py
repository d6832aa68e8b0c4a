from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_cli.maps.classes import choose, one_versus_rest, one_versus_rest_of, recombine
from prn_cli.maps.probabilities import sigmoid


def draw_logits(seed, classes, scale):
    """Logits with ties, with neighbouring floats, and with an invalid pixel."""
    random = np.random.default_rng(seed)
    logits = (random.standard_normal((classes, 14, 15)) * scale).astype(np.float32)
    logits[:, :4] = logits[:1, :4]
    logits[1:, 4:8] = np.nextafter(logits[:1, 4:8], np.float32(np.inf))
    logits[:, 9, 9] = np.nan
    return logits


def softmax(logits):
    wide = logits.astype(np.float64)
    return np.exp(wide - np.logaddexp.reduce(wide, axis=0))


cases = (st.integers(0, 99), st.integers(2, 9), st.sampled_from([1e-30, 1e-3, 1, 10, 300, 4000]))


@settings(max_examples=60, deadline=None)
@given(*cases)
def test_one_versus_rest_is_the_logit_of_the_softmax(seed, classes, scale):
    logits = draw_logits(seed, classes, scale)
    wide = np.delete(logits.astype(np.float64).reshape(classes, -1), 9 * 15 + 9, axis=1)
    expected = np.stack([wide[c] - np.logaddexp.reduce(np.delete(wide, c, 0), axis=0) for c in range(classes)])
    found = np.delete(one_versus_rest(logits).reshape(classes, -1), 9 * 15 + 9, axis=1)
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=3e-6)


@settings(max_examples=60, deadline=None)
@given(*cases)
def test_what_is_left_alone_keeps_its_class_and_its_probabilities(seed, classes, scale):
    logits = draw_logits(seed, classes, scale)
    base = choose(logits)
    assert base[9, 9] == 255
    apart = one_versus_rest(logits)
    assert np.array_equal(choose(apart), base)
    with np.errstate(invalid="ignore"):
        probabilities = softmax(logits)
    np.testing.assert_allclose(recombine(apart), probabilities, atol=3e-6)
    rounded = probabilities.astype(np.float32)
    assert np.array_equal(choose(one_versus_rest_of(rounded)), choose(rounded))


def test_recombined_probabilities_are_normalised_sigmoids():
    random = np.random.default_rng(1)
    refined = (random.standard_normal((4, 8, 9)) * 5).astype(np.float32)
    shares = sigmoid(refined)
    np.testing.assert_allclose(recombine(refined), shares / shares.sum(axis=0), rtol=1e-5)
    assert np.array_equal(choose(recombine(refined)), choose(refined))
    disowned = np.full((3, 1, 1), -500, np.float32)
    assert recombine(disowned).ravel() == pytest.approx([1 / 3] * 3)


def test_two_classes_that_are_treated_alike_are_a_binary_map():
    random = np.random.default_rng(2)
    logits = random.standard_normal((2, 20, 20)).astype(np.float32) * 3
    apart = one_versus_rest(logits)
    np.testing.assert_allclose(apart[0], -apart[1], atol=1e-6)
    change = random.standard_normal((20, 20)).astype(np.float32)
    refined = np.stack((apart[0] - change, apart[1] + change))
    np.testing.assert_allclose(recombine(refined)[1], sigmoid(apart[1] + change), atol=1e-6)
