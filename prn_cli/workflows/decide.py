"""The threshold of a run whose weights have not fixed one: see `prn_cli.thresholding.decision`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prn_cli.errors import PrnError, WeightsError
from prn_cli.execution.watch import Watch
from prn_cli.methods.weights import Weights
from prn_cli.rasters import Reading, open_map
from prn_cli.rasters.pairs import Paths
from prn_cli.thresholding.calibration import Calibration, Evidence, expect
from prn_cli.thresholding.decision import CUTS, Decision, decide
from prn_cli.thresholding.logit_statistics import LogitStatistics, measure, no_statistics
from prn_cli.thresholding.sampling import sample_maps, sample_windows

Score = Literal["iou", "dice"]


@dataclass(frozen=True, slots=True)
class SetDecision:
    """The threshold of a set of maps, and what those of single maps are drawn towards.

    Attributes:
        decision: for the set.
        statistics: of the sample that it rests on.
        calibration: how logits of this set turn into probabilities, as far as is known without labels.
        score: what is to be high.
        maps: how many maps the sample is of.
        evidence: of labelled maps of the same base model.
    """

    decision: Decision
    statistics: LogitStatistics
    calibration: Calibration
    score: Score
    maps: int
    evidence: Evidence | None = None

    def of_map(self, path: Path, reading: Reading, valid_mask: Path | None) -> Decision:
        """The threshold of one map: what is expected of it alone, and of the set, half and half.

        Raises:
            PrnError: the map cannot be read.
        """
        counts = _measure_file(path, reading, valid_mask).counts
        return decide(counts, self.calibration, self.score, of_set=self.statistics.counts, evidence=self.evidence)

    @property
    def digest(self) -> str:
        """Of all that the thresholds of single maps depend on beside the map."""
        calibration, labelled = self.calibration, None if self.evidence is None else self.evidence.record()
        known = f"{calibration.mean.round(4)} {calibration.covariance.round(6)} {labelled} {self.score}"
        return hashlib.sha256(self.statistics.counts.tobytes() + known.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """For people, in a line."""
        if self.decision.threshold == 0.5:
            return "cut at 0.5: nothing in the scores says that another threshold is better"
        labels = "without labels" if self.evidence is None else f"by {_maps(self.evidence.maps)} with labels"
        return (
            f"cut at {self.decision.threshold:g}, chosen {labels} for {_maps(self.maps)}: "
            f"{100 * self.decision.gain:+.1f} points of {'IoU' if self.score == 'iou' else 'Dice'} expected, "
            f"no loss with a probability of {self.decision.confidence:.0%}"
        )


def decide_threshold(
    inputs: Paths,
    reading: Reading,
    score: Score,
    *,
    valid_mask: Callable[[Path], Path | None],
    evidence: Evidence | None = None,
    threads: int,
    watch: Watch,
) -> SetDecision:
    """Choose the threshold of a set by a bounded sample, the same in any order and for any part of the set.

    Args:
        inputs: all maps of the set, those of other parts of a job array among them.
        reading: how they are read.
        score: what is to be high.
        valid_mask: of a map, if it has one. May raise a `PrnError` where it is missing.
        evidence: of labelled maps of the same base model.
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
    decision = Decision(0.5, 0.0, 1.0)
    if total.pixels:
        decision = decide(total.counts, calibration, score, evidence=evidence)
    return SetDecision(decision, total, calibration, score, found, evidence)


def evidence_of(weights: Weights) -> Evidence | None:
    """What weights of a few labelled maps have learned of the base model, see `prn train --shots`.

    Raises:
        WeightsError: their card is damaged.
    """
    record = weights.card.get("evidence")
    if record is None:
        return None
    try:
        return Evidence.from_record(record, CUTS)
    except ValueError as error:
        raise WeightsError(f"the card of these weights holds {error}", hint="train again", path=weights.path) from error


def _maps(count: int) -> str:
    return f"{count} map{'s' if count > 1 else ''}"


def _measure_file(path: Path, reading: Reading, valid_mask: Path | None) -> LogitStatistics:
    with open_map("scores", path, reading, valid_mask=valid_mask) as scores:
        windows = sample_windows(path.stem, scores.height, scores.width)
        return sum((measure(scores.logits(window)) for window in windows), no_statistics())
