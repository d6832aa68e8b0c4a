from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.morphology import dilation

from prn_cli.methods import load_refiner
from prn_cli.methods.paper.refiner import dilate, fuse
from prn_cli.methods.refiner import Windows
from prn_cli.methods.weights import find_weights


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_fusion_cut_at_a_half_is_the_published_union(height, width, seed):
    draw = np.random.default_rng(seed)
    whole, local = draw.random((2, 2, height, width)).astype(np.float32)
    fused = fuse(whole, local) > 0.5
    for first, second, union in zip(whole > 0.5, local > 0.5, fused, strict=True):
        np.testing.assert_array_equal(union, first | dilation(first & second, np.ones((3, 3))))
    for one, grown in zip(whole, dilate(whole), strict=True):
        np.testing.assert_array_equal(grown, dilation(one, np.ones((3, 3))))


def test_without_a_local_decoder_the_global_one_counts():
    whole = np.full((1, 3, 3), 0.3, np.float32)
    np.testing.assert_array_equal(fuse(whole), whole)


def test_refined_logits_keep_nan_and_come_from_the_fused_probabilities(make_onnx, random_logits):
    refiner = load_refiner(find_weights(str(make_onnx("paper"))), device="cpu", threads=1)
    logits = random_logits(64, 64)
    logits[3:6, 7] = np.nan
    field = refiner.field(Windows(logits[np.newaxis]))[0]
    assert np.isfinite(field).all()
    refined = refiner.refined(logits, field, 1.0)
    np.testing.assert_array_equal(np.isnan(refined), np.isnan(logits))
    valid = ~np.isnan(logits)
    np.testing.assert_allclose((1 / (1 + np.exp(-refined)))[valid], field[valid], atol=2e-6)
    half = refiner.refined(logits, field, 0.5)
    np.testing.assert_allclose(half[valid], ((logits + refined) / 2)[valid], rtol=1e-4, atol=1e-5)
