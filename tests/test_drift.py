from __future__ import annotations

import json

import numpy as np
import pytest

from prn_cli.maps.drift import FAR, FEATURES, Reference, describe, reference


def logits(seed: int, shift: float = 0.0, scale: float = 2.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((40, 50)) + shift).astype(np.float32)


def test_features_are_quantiles_of_what_is_valid_within_the_limit() -> None:
    values = np.array([[-50, -2, 0, 2, 50, np.nan]], np.float32)
    found = describe(values)
    assert len(found) == len(FEATURES)
    assert np.allclose(found[:5], np.quantile([-12, -2, 0, 2, 12], (0.05, 0.25, 0.5, 0.75, 0.95)))
    assert found[5] == pytest.approx(0.5)
    assert np.isnan(describe(np.full((2, 2), np.nan, np.float32))).all()


def test_maps_like_those_of_training_are_near_and_others_far() -> None:
    known = reference([describe(logits(seed, shift=0.1 * seed)) for seed in range(8)])
    assert known.distance(describe(logits(3, shift=0.3)))[0] == 0
    distance, feature = known.distance(describe(logits(9, shift=5.0)))
    assert distance > FAR
    assert feature in FEATURES
    assert known.distance(describe(logits(9, scale=8)))[0] > FAR
    assert known.distance(np.full(len(FEATURES), np.nan))[0] == 0


def test_what_was_seen_before_is_near_as_well() -> None:
    before, after = (reference([describe(logits(seed, shift=shift)) for seed in range(4)]) for shift in (0.0, 5.0))
    both = before.joined(after)
    assert before.distance(describe(logits(1, shift=5.0)))[0] > FAR
    for shift in (0.0, 2.5, 5.0):
        assert both.distance(describe(logits(1, shift=shift)))[0] == 0
    assert both.distance(describe(logits(1, shift=9.0)))[0] > FAR


def test_a_reference_travels_as_json() -> None:
    known = reference([describe(logits(seed)) for seed in range(3)])
    again = Reference.from_json(known.to_json())
    assert np.allclose(again.low, known.low, atol=1e-4)
    assert Reference.from_json(again.to_json()) == again


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"low": [1], "high": [1], "spread": [1]}',
        '{"low": 1, "high": 2, "spread": 3}',
        json.dumps({"low": [0] * 6, "high": [1] * 6, "spread": [1, 1, 1, 1, 1, float("nan")]}),
        json.dumps({"low": [0] * 6, "high": [float("inf")] * 6, "spread": [1] * 6}),
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"reference|Expecting"):
        Reference.from_json(text)
