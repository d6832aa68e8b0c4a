"""The threshold of a run whose weights have not fixed one: see `prn_cli.thresholding.decision`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import PrnError, WeightsError, percent
from prn_cli.maps.certain import find_padding
from prn_cli.refinement.rows import Link
from prn_cli.thresholding.calibration import Calibration, Evidence, expect
from prn_cli.thresholding.decision import (
    CLASS_PIXELS,
    CUTS,
    ClassDecision,
    ClassSample,
    Decision,
    Score,
    decide,
    decide_class_set,
)
from prn_cli.thresholding.logit_statistics import LogitStatistics, measure, no_statistics
from prn_cli.thresholding.sampling import MAPS, WINDOWS
from prn_cli.workflows.survey import Drawn, MapSet, refine_window

FloatMap = NDArray[np.float32]
T = TypeVar("T")

_SCORES = {"iou": "IoU", "dice": "Dice"}
_REFINED_MAPS, _REFINED_WINDOWS = 32, 2
"""Bounds of the sample where a network has to refine it first."""


@dataclass(frozen=True, slots=True)
class Refined:
    """A sample of a set as its refiners leave it: of all maps, or of fewer where a network has to run.

    Attributes:
        maps: the set.
        links: its refiners.
        threads: to read in.
    """

    maps: MapSet
    links: Sequence[Link]
    threads: int

    @property
    def _applied(self) -> bool:
        return any(link.applied for link in self.links)

    @property
    def _bands(self) -> int:
        """Of the images that have to be read."""
        return max((link.refiner.needs.bands for link in self.links), default=0) if self._applied else 0

    def windows(self, one: Drawn) -> Iterator[FloatMap]:
        """Logits `(h, w)` or `(C, h, w)` of the windows of a map, NaN where they were rather filled than scored."""
        most = _REFINED_WINDOWS if self._applied else WINDOWS
        for logits, image in self.maps.windows(one, bands=self._bands, most=most):
            padding = find_padding(logits)
            if self._applied:
                planes = [
                    refine_window(plane, image, self.links, number)
                    for number, plane in enumerate(self.maps.task.planes(logits))
                ]
                logits = np.stack(planes).reshape(logits.shape)
            if padding is not None:
                logits[..., padding] = np.nan
            yield logits

    def measure(self, one: Drawn) -> LogitStatistics:
        """Measure one map."""
        return sum((measure(logits) for logits in self.windows(one)), no_statistics())

    def measured(self, measure: Callable[[Drawn, int], T]) -> list[T]:
        """Measure the maps, in the order of their hash; `measure` takes a map, and how many are drawn."""
        drawn = self.maps.drawn(_REFINED_MAPS if self._applied else MAPS, bands=self._bands)

        def attempt(one: Drawn) -> T | None:
            try:
                return measure(one, len(drawn))
            except (PrnError, OSError) as error:  # it fails when its turn comes
                message = error.message if isinstance(error, PrnError) else error
                self.maps.watch.detail(f"{one.path}: no part of the choice of a threshold: {message}")
                return None

        with ThreadPoolExecutor(self.threads, thread_name_prefix="measure") as pool:
            return [found for found in pool.map(attempt, drawn) if found is not None]


@dataclass(frozen=True, slots=True)
class SetDecision:
    """The threshold of a set of maps, and what those of single maps are drawn towards.

    Attributes:
        decision: for the set.
        statistics: of the sample that it rests on.
        calibration: how logits of this set turn into probabilities, as far as is known without labels.
        score: what is to be high.
        maps: how many maps the sample is of.
        sample: how maps are measured.
        evidence: of labelled maps of the same base model.
    """

    decision: Decision
    statistics: LogitStatistics
    calibration: Calibration
    score: Score
    maps: int
    sample: Refined
    evidence: Evidence | None = None

    def of_map(self, one: Drawn) -> Decision:
        """The threshold of one map: what is expected of it alone, and of the set, half and half."""
        counts = self.sample.measure(one).counts
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
        return self.decision.cut

    def __str__(self) -> str:
        """For people, in a line."""
        if not isinstance(self.cut, tuple):
            return "the greatest score counts: nothing in the scores says that a class needs an offset"
        return (
            f"logits shifted by {shifts(self.names, self.cut)}, chosen without labels for {_maps(self.maps)}: "
            f"{100 * self.decision.gains.mean():+.1f} points of mean {_SCORES[self.score]} expected"
        )


def shifts(names: Sequence[str], offsets: Sequence[float]) -> str:
    """What is added to the logits of the classes that are shifted, for people."""
    return ", ".join(f"{name} {-offset:+.2g}" for name, offset in zip(names, offsets, strict=True) if offset)


def decide_threshold(sample: Refined, score: Score, evidence: Evidence | None = None) -> SetDecision:
    """Choose the threshold of a set by a bounded sample, the same in any order and for any part of the set.

    The sample is of all maps of the set, those of other parts of a job array among them; the evidence is of labelled
    maps of the same base model.
    """
    found = sample.measured(lambda one, _: sample.measure(one))
    total = sum(found, no_statistics())
    calibration = expect(total)
    decision = Decision(0.5, 0.0, 1.0)
    if total.pixels:
        decision = decide(total.counts, calibration, score, evidence=evidence)
    return SetDecision(decision, total, calibration, score, len(found), sample, evidence)


def decide_offsets(sample: Refined, score: Score) -> ClassOffsets:
    """Choose offsets of the classes of a set, see `decide_threshold`."""

    def measured(one: Drawn, maps: int) -> list[ClassSample]:
        windows = list(sample.windows(one))
        return [ClassSample.of(logits, CLASS_PIXELS // maps // len(windows)) for logits in windows]

    found, names = sample.measured(measured), sample.maps.task.names
    samples = [part for of_map in found for part in of_map]
    decision = decide_class_set(samples, score) if samples else ClassDecision.none(len(names))
    return ClassOffsets(decision, names, score, len(found))


def evidence_of(link: Link, path: Path) -> Evidence | None:
    """What weights of a few labelled maps have learned of the base model, see `prn train --shots`."""
    if not link.refiner.evidence:
        return None
    try:
        return Evidence.from_record(json.loads(link.refiner.evidence), CUTS)
    except ValueError as error:
        raise WeightsError(f"holds {error}", hint="train again", path=path) from error


def _maps(count: int) -> str:
    return f"{count} map{'s' if count > 1 else ''}"
