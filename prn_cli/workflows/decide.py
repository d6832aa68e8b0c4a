"""The threshold of a run whose weights have not fixed one: see `prn_cli.thresholding.decision`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import PrnError, WeightsError, percent
from prn_cli.execution.watch import Watch
from prn_cli.maps.certain import find_padding
from prn_cli.methods.weights import Weights
from prn_cli.rasters import Reading, open_map
from prn_cli.rasters.pairs import Paths
from prn_cli.tasks import Task
from prn_cli.thresholding.calibration import Calibration, Evidence, expect
from prn_cli.thresholding.decision import CUTS, ClassDecision, Decision, decide, decide_classes
from prn_cli.thresholding.logit_statistics import LogitStatistics, measure, no_statistics
from prn_cli.thresholding.sampling import sample_windows
from prn_cli.workflows.survey import sample_paths

T = TypeVar("T")
Score = Literal["iou", "dice"]

_SCORES = {"iou": "IoU", "dice": "Dice"}
_PIXELS = 40_000
"""Pixels that offsets of classes are chosen on."""


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
    def cut(self) -> float:
        """The threshold."""
        return self.decision.threshold

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
            f"{100 * self.decision.gain:+.1f} points of {_SCORES[self.score]} expected, "
            f"no loss with a probability of {percent(self.decision.confidence)}"
        )


@dataclass(frozen=True, slots=True)
class ClassOffsets:
    """What is taken from the logits of each class of a set of maps before the greatest one counts.

    Attributes:
        decision: for the set.
        names: of the classes.
        score: what is to be high.
        maps: how many maps the sample is of.
    """

    decision: ClassDecision
    names: Sequence[str]
    score: Score
    maps: int

    @property
    def cut(self) -> float | tuple[float, ...]:
        """The offsets; 0.5 if classes stay as they are."""
        offsets = self.decision.offsets
        return tuple(offsets.tolist()) if offsets.any() else 0.5

    def __str__(self) -> str:
        """For people, in a line."""
        if self.cut == 0.5:
            return "the greatest score counts: nothing in the scores says that a class needs an offset"
        pairs = zip(self.names, self.decision.offsets, strict=True)
        offsets = ", ".join(f"{name} {-offset:+.2g}" for name, offset in pairs if offset)
        return (
            f"logits shifted by {offsets}, chosen without labels for {_maps(self.maps)}: "
            f"{100 * self.decision.gains.mean():+.1f} points of mean {_SCORES[self.score]} expected"
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
    found = _sampled(inputs, lambda path, _: _measure_file(path, reading, valid_mask(path)), threads, watch)
    total = sum(found, no_statistics())
    calibration = expect(total)
    decision = Decision(0.5, 0.0, 1.0)
    if total.pixels:
        decision = decide(total.counts, calibration, score, evidence=evidence)
    return SetDecision(decision, total, calibration, score, len(found), evidence)


def decide_offsets(
    inputs: Paths,
    reading: Reading,
    score: Score,
    *,
    task: Task,
    valid_mask: Callable[[Path], Path | None],
    threads: int,
    watch: Watch,
) -> ClassOffsets:
    """Choose offsets of the classes of a set, see `decide_threshold`; `task` has the names of the classes."""

    def measured(path: Path, maps: int) -> tuple[list[LogitStatistics], NDArray[np.float32]]:
        with task.open_scores(path, reading, valid_mask=valid_mask(path)) as scores:
            windows = sample_windows(path.stem, scores.height, scores.width)
            share = max(_PIXELS // maps // len(windows), 1)
            logits = [np.asarray(scores.logits(window)) for window in windows]
        planes = range(len(task.names))
        statistics = [sum((measure(each[plane]) for each in logits), no_statistics()) for plane in planes]
        return statistics, np.concatenate([_some_pixels(each, share) for each in logits])

    found = _sampled(inputs, measured, threads, watch)
    pixels = np.concatenate([np.empty((0, len(task.names)), np.float32), *(each for _, each in found)])
    if not len(pixels):
        return ClassOffsets(ClassDecision.none(len(task.names)), task.names, score, len(found))
    of_classes = zip(*(statistics for statistics, _ in found), strict=True)
    calibrations = [expect(sum(of_class, no_statistics())) for of_class in of_classes]
    return ClassOffsets(decide_classes(pixels, calibrations, score), task.names, score, len(found))


def _some_pixels(logits: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """`(n, C)`: valid pixels of `(C, h, w)`, evenly drawn."""
    pixels = logits.reshape(len(logits), -1)
    pixels = pixels[:, ~np.isnan(pixels).any(axis=0)]
    return pixels[:, :: -(-pixels.shape[1] // most) or 1].T


def _sampled(inputs: Paths, measured: Callable[[Path, int], T], threads: int, watch: Watch) -> list[T]:
    """Measure a sample of the maps, in the order of their hash; `measured` takes a map, and how many are drawn."""
    paths = sample_paths(inputs).values()

    def attempt(path: Path) -> T | None:
        try:
            return measured(path, len(paths))
        except (PrnError, OSError) as error:  # it fails when its turn comes
            message = error.message if isinstance(error, PrnError) else error
            watch.detail(f"{path}: no part of the choice of a threshold: {message}")
            return None

    with ThreadPoolExecutor(threads, thread_name_prefix="measure") as pool:
        return [found for found in pool.map(attempt, paths) if found is not None]


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
        return sum((measure(_scored(scores.logits(window))) for window in windows), no_statistics())


def _scored(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits without areas that were rather filled than scored."""
    padding = find_padding(logits)
    if padding is not None:
        logits[padding] = np.nan
    return logits
