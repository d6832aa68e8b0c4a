from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from prn_cli.errors import InputError
from prn_cli.metrics import saliency as measures
from prn_cli.metrics.score import figures
from prn_cli.tasks.saliency import METRICS, Saliency

score_soft_map = Saliency().score_image


def soft_pair(seed, shape=(50, 64)):
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.standard_normal((2, *shape)), (0, 4, 4)) * 14
    probabilities = (1 / (1 + np.exp(-(2 * noise[0] + noise[1])))).astype(np.float32)
    return probabilities, (noise[0] > 0.4).astype(np.uint8)


def test_the_maximum_is_that_of_the_mean_curve():
    pairs = [soft_pair(seed) for seed in range(5)]
    summary = Saliency().summarise([score_soft_map(p, y) for p, y in pairs], resamples=100, seed=0)
    records = np.stack([measures.measure_saliency(p, y) for p, y in pairs])
    assert summary.pooled == {}
    assert summary.mean["max_f"].masks.value == pytest.approx(records[:, 6:262].mean(axis=0).max())
    assert summary.mean["mean_e"].masks.value == pytest.approx(records[:, 262:].mean())
    assert summary.mean["mae"].masks.value == pytest.approx(records[:, 1].mean())
    assert summary.mean["max_f"].masks.value <= np.mean([figures(r, METRICS)["max_f"] for r in records])
    for figure in summary.mean.values():
        assert figure.masks.low <= figure.masks.value <= figure.masks.high


def test_a_baseline_is_compared_on_the_same_pixels():
    probabilities, label = soft_pair(3)
    other = np.sqrt(probabilities)
    probabilities[:7], other[-6:] = np.nan, np.nan
    score = score_soft_map(probabilities, label, baseline=other)
    assert score.pixels == (50 - 13) * 64
    inner = slice(7, -6)
    assert score.counts == pytest.approx(measures.measure_saliency(probabilities[inner], label[inner]))
    assert score.baseline == pytest.approx(measures.measure_saliency(other[inner], label[inner]))


def test_what_cannot_be_scored_is_refused():
    probabilities, label = soft_pair(4)
    with pytest.raises(InputError, match=r"50×64.*50×60"):
        score_soft_map(probabilities, label[:, :60])
    with pytest.raises(InputError, match="no pixel is valid in mask, label and baseline"):
        score_soft_map(probabilities, label, baseline=np.full_like(probabilities, np.nan))
