"""Maps of several classes: every class refined against the rest, all put together again; and scored."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.maps.classes import FloatMaps, choose, recombine
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.tiles import Window
from prn_cli.methods import Refiner
from prn_cli.metrics import classes as counting
from prn_cli.metrics.regions import FloatArray, require_same_shape
from prn_cli.refinement.rows import Ramp, Rows, finish_ramp
from prn_cli.tasks.binary import ImageScore, Metric

ReadWindow = Callable[[Window], FloatMaps]


@dataclass(frozen=True, slots=True)
class ClassRows:
    """Finished rows of a map of several classes, the whole width of it, or a stretch of its columns.

    Attributes:
        y: first row.
        x: first column.
        logits: `(C, h, w)` float32, the base model's one-versus-rest logits, NaN where invalid.
        refined: the same, refined.
    """

    y: int
    x: int
    logits: FloatMaps
    refined: FloatMaps

    @property
    def bias(self) -> FloatMaps:
        """`(C, h, w)` float32: what was added to the one-versus-rest logits, NaN where invalid."""
        return self.refined - self.logits

    @property
    def probabilities(self) -> FloatMaps:
        """`(C, h, w)` float32: the refined probabilities, which add up to 1; NaN where invalid."""
        return recombine(self.refined)

    @property
    def mask(self) -> NDArray[np.uint8]:
        """`(h, w)` uint8: refined class numbers, 255 where invalid."""
        return choose(self.refined)

    @property
    def base(self) -> NDArray[np.uint8]:
        """`(h, w)` uint8: the base model's class numbers, 255 where invalid."""
        return choose(self.logits)


def hold(read: ReadWindow, times: int) -> ReadWindow:
    """A reader that keeps each window until it was asked for so many times, by one class after the other."""
    held: dict[Window, tuple[FloatMaps, int]] = {}

    def read_or_remember(window: Window) -> FloatMaps:
        maps, wanted = held.pop(window) if window in held else (read(window), times)
        if wanted > 1:
            held[window] = maps, wanted - 1
        return maps

    return read_or_remember


def refine_class_rows(
    read: ReadWindow, classes: int, refine: Callable[[ReadWindow], Iterator[Rows | Ramp]]
) -> Generator[ClassRows | Ramp]:
    """Refine all classes of a map, or of a section of it, side by side, so that each window is read once.

    C bands of rows are in memory.

    Args:
        read: gives the one-versus-rest logits of a window, `(C, h, w)` float32, NaN where invalid.
        classes: how many there are.
        refine: from a reader of one class's logits to its refined rows, see `refine.refine_rows`, or those of a
            section, see `refine.refine_section`. It must ask for the same windows, and give the same rows, whatever
            the logits are.

    Yields:
        What `refine` gives, for all classes.
    """
    held = hold(read, classes)

    def read_class(number: int, window: Window) -> FloatMaps:
        one: FloatMaps = held(window)[number]
        return one

    streams = [refine(partial(read_class, number)) for number in range(classes)]
    for pieces in zip(*streams, strict=True):
        first = pieces[0]
        if isinstance(first, Ramp):
            yield Ramp(first.y, first.x, _stack(pieces, "field"))
        else:
            yield ClassRows(first.y, first.x, _stack(pieces, "logits"), _stack(pieces, "refined"))


def _stack(pieces: Sequence[Rows | Ramp], part: str) -> FloatMaps:
    return np.stack([getattr(piece, part) for piece in pieces])


def finish_class_ramp(ramp: Ramp, logits: FloatMaps, refiner: Refiner, *, strength: float | None = None) -> ClassRows:
    """Refine rows that two sections share, class by class.

    Args:
        ramp: with the field of both, `(C, ramp, w)`; its memory may be taken.
        logits: of its window, `(C, ramp, w)` float32 one-versus-rest, NaN where invalid.
        refiner: as in `refine.finish_ramp`.
        strength: as there.

    Raises:
        PrnError: the network gave numbers that are not finite.
    """
    rows = [
        finish_ramp(Ramp(ramp.y, ramp.x, field), one, refiner, strength=strength)
        for field, one in zip(ramp.field, logits, strict=True)
    ]
    return ClassRows(ramp.y, ramp.x, logits, _stack(rows, "refined"))


def class_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """mIoU, accuracy, and the IoU of every class, by number."""
    everything = slice(0, counting.SUMS)
    of_classes = (
        Metric(f"iou_{name}", f"IoU {name}", everything, partial(counting.class_iou, number=number))
        for number, name in enumerate(names)
    )
    return (
        Metric("miou", "mIoU", everything, counting.mean_iou),
        Metric("accuracy", "Accuracy", everything, counting.accuracy),
        *of_classes,
    )


def classes_of(scores: Iterable[ImageScore]) -> int:
    """One more than the greatest class number that occurs or is predicted."""
    total = sum((score.counts + (0 if score.baseline is None else score.baseline) for score in scores), np.zeros(1))
    there = np.flatnonzero(np.broadcast_to(total, counting.SUMS).reshape(3, IGNORE).any(axis=0))
    return int(there[-1]) + 1 if len(there) else 0


class ClassCounter:
    """Counts what the metrics of classes need of an image that comes in bands of rows.

    Args:
        height: rows of the image.
        width: columns of the image.
    """

    def __init__(self, height: int, width: int) -> None:
        self._height, self._width = height, width
        self._counts: list[FloatArray] = []
        self._pixels = 0

    def add(
        self, prediction: NDArray[np.uint8], label: NDArray[np.uint8], baseline: NDArray[np.uint8] | None = None
    ) -> None:
        """Take the next rows: class numbers, uint8 `(h, W)`, 255 invalid. A pixel counts where all are valid.

        Raises:
            InputError: shapes that differ.
        """
        predictions = [prediction] if baseline is None else [prediction, baseline]
        valid = label != IGNORE
        for prediction in predictions:
            require_same_shape(prediction, label)
            valid &= prediction != IGNORE
        counted = np.where(valid, label, np.uint8(IGNORE))
        self._pixels += int(np.count_nonzero(valid))
        counts = [counting.count_classes(prediction, counted) for prediction in predictions]
        self._counts = [a + b for a, b in zip(self._counts, counts, strict=True)] if self._counts else counts

    def score(self) -> ImageScore:
        """The record of the image, when all its rows have come.

        Raises:
            InputError: no pixel is valid in all there is.
        """
        if not self._pixels:
            raise InputError(
                "no pixel is valid in all of map, label and baseline",
                hint="check --nodata and --label-nodata, or leave it out",
            )
        return ImageScore(self._height, self._width, self._pixels, *self._counts)
