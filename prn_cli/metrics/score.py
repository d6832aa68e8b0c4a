"""Masks and soft maps against labels: images to counts, counts to figures with intervals.

An image leaves a small record of counts behind (`ImageScore`), so that thousands need little memory; `summarise` turns
the records into means over images, pooled figures, and, with a baseline, paired differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.probabilities import binarize
from prn_cli.metrics import boundaries, calibration, regions
from prn_cli.metrics.intervals import CONFIDENCE, RESAMPLES, Estimate, bootstrap, mean, pooled
from prn_cli.metrics.regions import FloatArray

_REGIONS = slice(0, 4)
_BOUNDARIES = slice(4, 20)
_CALIBRATION = slice(20, 70)
_WRONG = slice(1, 3)  # false positives and false negatives
_ABSOLUTE_ERROR = 20


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure.

    Args:
        name: its key in JSON and CSV.
        title: its name for people.
        counts: where its family's counts lie in an image's record.
        ratio: from counts `(..., K)` to figures `(...)`.
        lower_is_better: whether 0 is the best figure and not 1.
        of: the class that it is of, if it is of one among several.
    """

    name: str
    title: str
    counts: slice
    ratio: Callable[[FloatArray], FloatArray]
    lower_is_better: bool = False
    of: str = ""

    def figure(self, records: FloatArray) -> FloatArray:
        """From records `(..., K)` to figures `(...)`."""
        return self.ratio(records[..., self.counts])


METRICS = (
    Metric("iou", "IoU", _REGIONS, regions.iou),
    Metric("f1", "F1", _REGIONS, regions.f1),
    Metric("precision", "Precision", _REGIONS, regions.precision),
    Metric("recall", "Recall", _REGIONS, regions.recall),
    Metric("accuracy", "Accuracy", _REGIONS, regions.accuracy),
    Metric("boundary_iou", "Boundary IoU", _BOUNDARIES, boundaries.boundary_iou),
    Metric("mba", "mBA", _BOUNDARIES, boundaries.mean_boundary_accuracy),
    Metric("relaxed_precision", "Relaxed precision", _BOUNDARIES, boundaries.relaxed_precision),
    Metric("relaxed_recall", "Relaxed recall", _BOUNDARIES, boundaries.relaxed_recall),
    Metric("mae", "MAE", _CALIBRATION, calibration.mean_absolute_error, lower_is_better=True),
    Metric("ece", "ECE", _CALIBRATION, calibration.expected_calibration_error, lower_is_better=True),
)


@dataclass(frozen=True, slots=True)
class ImageScore:
    """What one image leaves behind.

    Args:
        height: rows.
        width: columns.
        pixels: how many count: valid in the mask, the label and the baseline.
        counts: `(K,)` float64, the counts of every family: K is 70 here, and other tasks have records of their own.
        baseline: the same of the baseline, if there is one.
        own: the same of the baseline cut at its own threshold, if that is asked for.
        not_counted: how many do not count, by reason.
    """

    height: int
    width: int
    pixels: int
    counts: FloatArray
    baseline: FloatArray | None = None
    own: FloatArray | None = None
    not_counted: Mapping[str, int] = field(default_factory=dict, kw_only=True)

    @property
    def is_own(self) -> bool:
        """Whether the mask is the baseline's at its own threshold, as far as regions and boundaries tell."""
        end = _CALIBRATION.start
        return self.own is not None and np.array_equal(self.counts[:end], self.own[:end])


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric of a set of images; with a baseline, also that one's and the paired difference (masks minus baseline).

    `own` is the baseline's at its own threshold, and `added` the paired difference to that.

    NaN where a figure does not exist: the calibration error of masks, the mBA of images without a boundary.
    `images` says of how many images it exists.
    """

    masks: Estimate
    baseline: Estimate | None = None
    difference: Estimate | None = None
    own: Estimate | None = None
    added: Estimate | None = None
    images: int = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a set of images.

    Args:
        images: how many there are.
        pixels: how many pixels count, all images together.
        mean: by the name of the metric, the mean of the images' own figures.
        pooled: by the name of the metric, the figure of the images' summed counts.
        resamples: how many bootstrap resamples the intervals come from.
        confidence: what share of the resamples the intervals hold.
        seed: what the resamples were drawn with.
    """

    images: int
    pixels: int
    mean: dict[str, Figure]
    pooled: dict[str, Figure]
    resamples: int
    confidence: float
    seed: int


class PredictionCounter(Protocol):
    """Counts what the metrics need of one prediction, which comes in bands of rows, from the top.

    Attributes:
        soft: whether the prediction is a soft map; known once rows have come.
    """

    soft: bool

    def add(self, prediction: NDArray[Any], label: NDArray[np.uint8]) -> None:
        """Take the next rows, `(h, W)`; the label is 255 where a pixel does not count."""
        ...

    def counts(self, *, soft: bool) -> FloatArray:
        """The record, `(K,)`; if not `soft`, what is compared with it is a mask, and it counts as one too."""
        ...


class ImageCounter:
    """Counts what the metrics need of an image that comes in bands of rows, from the top.

    With a baseline, a pixel counts where both are valid, so that the two are compared on the same pixels.

    Args:
        height: rows of the image.
        width: columns of the image.
        prediction: counts it.
        baselines: count the baseline, each at a cut of its own.
    """

    def __init__(self, height: int, width: int, prediction: PredictionCounter, *baselines: PredictionCounter) -> None:
        self._height, self._width = height, width
        self._counters = [prediction]
        self._baselines = baselines
        self._pixels = 0

    def add(self, prediction: NDArray[Any], label: NDArray[np.uint8], baseline: NDArray[Any] | None = None) -> None:
        """Take the next rows.

        Args:
            prediction: `(h, W)`; uint8 is a mask or class numbers (255 invalid), float32 a soft map (NaN invalid).
            label: `(h, W)` uint8: 0 background, 1 foreground, or class numbers; 255 ignore.
            baseline: another prediction of the same rows.

        Raises:
            InputError: shapes that differ, or values out of range.
        """
        regions.require_same_shape(prediction, label)
        if baseline is not None and baseline.shape != label.shape:
            sizes = " differs from its label's ".join("×".join(map(str, array.shape)) for array in (baseline, label))
            raise InputError(f"the baseline's shape {sizes}", hint="both must have the same height and width")
        predictions = [prediction] if baseline is None else [prediction, baseline]
        valid = label != IGNORE
        for each in predictions:
            valid &= ~invalid(each)
        pixels = int(np.count_nonzero(valid))
        counted = label if pixels == label.size else np.where(valid, label, np.uint8(IGNORE))
        self._pixels += pixels
        if baseline is not None and len(self._counters) == 1:
            self._counters += self._baselines
        for number, counter in enumerate(self._counters):
            counter.add(predictions[min(number, 1)], counted)

    def score(self) -> ImageScore:
        """The record of the image, when all its rows have come.

        Raises:
            InputError: no pixel is valid in all there is.
        """
        if not self._pixels:
            where = "mask and label" if len(self._counters) == 1 else "mask, label and baseline"
            raise InputError(f"no pixel is valid in {where}", hint="check --nodata and --label-nodata, or leave it out")
        soft = all(counter.soft for counter in self._counters)
        records = [counter.counts(soft=soft) for counter in self._counters]
        return ImageScore(self._height, self._width, self._pixels, *records)


class MaskCounter:
    """A `PredictionCounter` of masks of one class, and soft maps of it that are cut.

    However the image is split into bands, the counts are the same; the sums of a soft map's probabilities are so to the
    last bit if it is split by `tiles.row_bands`. Memory grows with the width, and for the metrics of boundaries with
    their reach.

    Args:
        height: rows of the image.
        width: columns of the image.
        threshold: where a soft map is cut: foreground is above it, strictly.
        buffer: of relaxed precision and recall, in pixels.
        pool: counts the parts of a large image side by side.

    Raises:
        UsageError: a negative buffer.
    """

    def __init__(
        self, height: int, width: int, *, threshold: float, buffer: float, pool: Executor | None = None
    ) -> None:
        self.soft = False
        self._threshold = threshold
        self._regions = regions.RegionCounts()
        self._boundaries = boundaries.BoundaryCounter(height, width, buffer=buffer, pool=pool)
        self._calibration = calibration.CalibrationCounter()

    def add(self, prediction: NDArray[Any], label: NDArray[np.uint8]) -> None:
        """See `PredictionCounter.add`."""
        self.soft = _soft(prediction)
        mask = binarize(prediction, self._threshold) if self.soft else prediction
        self._regions += regions.count_regions(mask, label)
        self._boundaries.add(mask, label)
        if self.soft:
            self._calibration.add(prediction, label)

    def counts(self, *, soft: bool) -> FloatArray:
        """See `PredictionCounter.counts`: the absolute error may be that of the mask, the calibration error stays."""
        region, boundary = self._regions, self._boundaries.counts()
        error = self._calibration.counts() if self.soft else calibration.calibration_of_mask(region)
        found = np.concatenate((region.array(), boundary, error))
        if not soft:
            found[_ABSOLUTE_ERROR] = found[_WRONG].sum()
        return found


def figures(counts: FloatArray, metrics: Sequence[Metric] = METRICS) -> dict[str, float]:
    """Figures of one record `(K,)`, by the name of the metric; NaN where one does not exist."""
    return {metric.name: float(metric.figure(counts)) for metric in metrics}


def summarise(
    scores: Iterable[ImageScore],
    *,
    metrics: Sequence[Metric] = METRICS,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Summary:
    """Turn the records of a set of images into figures with bootstrap intervals.

    Args:
        scores: the records; either all have a baseline, and its own threshold, or none.
        metrics: the figures that are made of them.
        resamples: how many bootstrap resamples are drawn.
        confidence: what share of them the intervals hold, 0 to 1.
        seed: the same seed gives the same intervals.

    Raises:
        InputError: no records.
    """
    records = list(scores)
    if not records:
        raise InputError("no image was scored, expected at least one")
    found = zip(*((record.counts, record.baseline, record.own) for record in records), strict=True)
    sets = [np.stack(counts) for counts in found if all(each is not None for each in counts)]
    of_images = [_figures_of_all(counts, metrics) for counts in sets]

    def statistic(weights: FloatArray) -> FloatArray:
        """`(R, images)` to `(R, sets and differences to the others, mean and pooled, metrics)`."""
        result = [
            np.stack((mean(values, weights), _figures_of_all(pooled(counts, weights), metrics)), axis=1)
            for values, counts in zip(of_images, sets, strict=True)
        ]
        return np.stack([*result, *(result[0] - other for other in result[1:])], axis=1)

    bounds = bootstrap(statistic, len(records), resamples=resamples, confidence=confidence, seed=seed)
    defined = np.isfinite(of_images).all(axis=0).sum(axis=0).tolist()
    names = [*("masks", "baseline", "own")[: len(sets)], *("difference", "added")[: len(sets) - 1]]

    def collect(position: int) -> dict[str, Figure]:
        return {
            metric.name: Figure(
                **{
                    name: Estimate(*(float(bound[kind, position, i]) for bound in bounds))
                    for kind, name in enumerate(names)
                },
                images=defined[i],
            )
            for i, metric in enumerate(metrics)
        }

    pixels = sum(record.pixels for record in records)
    return Summary(len(records), pixels, collect(0), collect(1), resamples, confidence, seed)


def invalid(prediction: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a prediction or label is invalid: NaN in a soft map, else 255."""
    return np.isnan(prediction) if _soft(prediction) else np.asarray(prediction == IGNORE)


def _soft(prediction: NDArray[Any]) -> bool:
    return prediction.dtype.kind == "f"


def _figures_of_all(records: FloatArray, metrics: Sequence[Metric]) -> FloatArray:
    return np.stack([metric.figure(records) for metric in metrics], axis=-1)
