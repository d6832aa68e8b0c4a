"""The base model's own threshold: what the labels say of its scores without any network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.thresholding.decision import Decision, decide_by_labels
from prn_cli.thresholding.logit_statistics import LogitStatistics, count_logits, measure, no_statistics
from prn_cli.thresholding.sampling import sample_maps
from prn_cli.training.augment import TrainingMap

_MOST_MAPS = 100


class Measured(NamedTuple):
    """What a labelled map says of the base model's scores.

    Attributes:
        counts: `(2, BINS)` int64: background and foreground by logit.
        statistics: of the logits that have a label.
    """

    counts: NDArray[np.int64]
    statistics: LogitStatistics


class OwnCuts:
    """Decides on any of the maps, see `prn_cli.thresholding.decision.decide_by_labels`. Each is measured once.

    Args:
        free: whether the threshold may leave 0.5.
    """

    def __init__(self, *, free: bool = True) -> None:
        self._free = free
        self._measured: dict[TrainingMap, Measured] = {}

    def of(self, maps: Sequence[TrainingMap]) -> Decision:
        """The threshold by these maps; of many, by a sample of them."""
        if not self._free:
            return Decision(0.5, 0.0, 1.0)
        drawn = set(sample_maps([m.name for m in maps], _MOST_MAPS))
        return decide_on([self.measured(m) for m in maps if m.name in drawn])

    def measured(self, one: TrainingMap) -> Measured:
        """What a map says."""
        if one not in self._measured:
            counts = np.stack([count_logits(one.logits[one.label == side]) for side in (0, 1)])
            statistics = measure(np.where(one.label == IGNORE, np.float32(np.nan), one.logits))
            self._measured[one] = Measured(counts, statistics)
        return self._measured[one]


def decide_on(measured: Sequence[Measured]) -> Decision:
    """The threshold by these maps."""
    return decide_by_labels(*together(measured))


def together(measured: Sequence[Measured]) -> tuple[list[NDArray[np.int64]], LogitStatistics]:
    """The counts of each map, and the statistics of all."""
    return [each.counts for each in measured], sum((each.statistics for each in measured), no_statistics())
