"""The base model's own threshold: what the labels say of its scores without any network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.thresholding.decision import Decision, decide_by_labels
from prn_cli.thresholding.logit_statistics import LogitStatistics, count_logits, measure, no_statistics
from prn_cli.thresholding.sampling import sample_maps
from prn_cli.training.augment import TrainingMap

_MOST_MAPS = 100


class OwnCuts:
    """Decides on any of the maps by calibration, see `prn_cli.thresholding.decision.decide_by_labels`.

    Args:
        free: whether the threshold may leave 0.5.
    """

    def __init__(self, *, free: bool = True) -> None:
        self._free = free
        self._measured: dict[int, tuple[NDArray[np.int64], LogitStatistics]] = {}

    def of(self, maps: Sequence[TrainingMap]) -> Decision:
        """The threshold by these maps; of many, by a sample of them."""
        if not self._free:
            return Decision(0.5, 0.0, 1.0)
        drawn = set(sample_maps([m.name for m in maps], _MOST_MAPS))
        found = [self._of_map(m) for m in maps if m.name in drawn]
        statistics = sum((each for _, each in found), no_statistics())
        return decide_by_labels([counts for counts, _ in found], statistics)

    def _of_map(self, one: TrainingMap) -> tuple[NDArray[np.int64], LogitStatistics]:
        if id(one) not in self._measured:
            counts = np.stack([count_logits(one.logits[one.label == side]) for side in (0, 1)])
            statistics = measure(np.where(one.label == IGNORE, np.float32(np.nan), one.logits))
            self._measured[id(one)] = counts, statistics
        return self._measured[id(one)]
