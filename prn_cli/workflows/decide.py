"""The threshold of a run whose weights have not chosen one on labels: see `prn_cli.thresholding.decision`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import PrnError
from prn_cli.execution.watch import Watch
from prn_cli.maps.certain import find_padding
from prn_cli.rasters import Reading, open_map
from prn_cli.rasters.pairs import Paths
from prn_cli.thresholding.calibration import Calibration, expect
from prn_cli.thresholding.decision import Decision, decide
from prn_cli.thresholding.logit_statistics import LogitStatistics, measure, no_statistics
from prn_cli.thresholding.sampling import sample_maps, sample_windows

Score = Literal["iou", "dice"]


@dataclass(frozen=True, slots=True)
class SetDecision:
    """The threshold of a set of maps, and what those of single maps are drawn towards.

    Attributes:
        decision: for the set.
        statistics: of the sample that it rests on.
        calibration: how logits of this set turn into probabilities.
        score: what is to be high.
        maps: how many maps the sample is of.
    """

    decision: Decision
    statistics: LogitStatistics
    calibration: Calibration
    score: Score
    maps: int

    def of_map(self, path: Path, reading: Reading, valid_mask: Path | None) -> Decision:
        """The threshold of one map: what is expected of it alone, and of the set, half and half.

        Raises:
            PrnError: the map cannot be read.
        """
        counts = _measure_file(path, reading, valid_mask).counts
        return decide(counts, self.calibration, self.score, of_set=self.statistics.counts)

    @property
    def digest(self) -> str:
        """Of all that the thresholds of single maps depend on beside the map."""
        known = self.statistics.counts.tobytes() + self.calibration.to_json().encode()
        return hashlib.sha256(known + self.score.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """For people, in a line."""
        if self.decision.threshold == 0.5:
            return "cut at 0.5: nothing in the scores says that another threshold is better"
        maps = f"{self.maps} map{'s' if self.maps > 1 else ''}"
        return (
            f"cut at {self.decision.threshold:g}, chosen without labels from {maps}: "
            f"{100 * self.decision.gain:+.1f} points of {'IoU' if self.score == 'iou' else 'Dice'} expected, "
            f"no loss with a probability of {self.decision.confidence:.0%}"
        )


def decide_threshold(
    inputs: Paths,
    reading: Reading,
    score: Score,
    *,
    valid_mask: Callable[[Path], Path | None],
    threads: int,
    watch: Watch,
) -> SetDecision:
    """Choose the threshold of a set by a bounded sample, the same in any order and for any part of the set.

    Args:
        inputs: all maps of the set, those of other parts of a job array among them.
        reading: how they are read.
        score: what is to be high.
        valid_mask: of a map, if it has one. May raise a `PrnError` where it is missing.
        threads: to read in.
        watch: hears of maps that are left out of the sample.
    """
    numbers = {stem: number for number, stem in enumerate(inputs.stems())}
    drawn = sample_maps(numbers)
    paths = {stem: inputs[numbers[stem]] for stem in drawn}

    def measured(stem: str) -> LogitStatistics | PrnError:
        try:
            return _measure_file(paths[stem], reading, valid_mask(paths[stem]))
        except (PrnError, OSError) as error:  # it fails when its turn comes
            return error if isinstance(error, PrnError) else PrnError(str(error))

    found, total = 0, no_statistics()
    with ThreadPoolExecutor(threads, thread_name_prefix="measure") as pool:
        for stem, statistics in zip(drawn, pool.map(measured, drawn), strict=True):
            if isinstance(statistics, PrnError):
                watch.detail(f"{paths[stem]}: no part of the choice of a threshold: {statistics.message}")
                continue
            total += statistics
            found += 1
    calibration = expect(total)
    decision = decide(total.counts, calibration, score) if total.pixels else Decision(0.5, 0.0, 1.0)
    return SetDecision(decision, total, calibration, score, found)


def _measure_file(path: Path, reading: Reading, valid_mask: Path | None) -> LogitStatistics:
    with open_map("scores", path, reading, valid_mask=valid_mask) as scores:
        windows = sample_windows(path.stem, scores.height, scores.width)
        return sum((measure(_scored(scores.logits(window))) for window in windows), no_statistics())


def _scored(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits without areas that were rather filled than scored."""
    padding = find_padding(logits)
    if padding is not None:
        logits[padding] = np.nan
    return logits
