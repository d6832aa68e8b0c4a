"""Maps of several classes: every class refined against the rest, all put together again; and scored."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.maps.classes import FloatMaps, choose, masks_of
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.tiles import Window
from prn_cli.metrics import classes as counting
from prn_cli.metrics.regions import FloatArray
from prn_cli.metrics.score import ImageScore, Metric
from prn_cli.rasters import (
    ClassNumbers,
    ClassScoreMap,
    LabelMap,
    Palette,
    Raster,
    Reading,
    ScoreMap,
    class_names,
    count_classes,
    open_map,
)
from prn_cli.refinement.rows import Link, Ramp, Rows, finish_ramp
from prn_cli.tasks import Cut, Task

if TYPE_CHECKING:
    from pathlib import Path

    from prn_cli.tasks import Refine

ReadWindow = Callable[[Window], FloatMaps]


def hold(read: ReadWindow, times: int) -> ReadWindow:
    """A reader that keeps each window until it was asked for `times` times, once by each class."""
    held: dict[Window, tuple[FloatMaps, int]] = {}

    def read_or_remember(window: Window) -> FloatMaps:
        maps, wanted = held.pop(window) if window in held else (read(window), times)
        if wanted > 1:
            held[window] = maps, wanted - 1
        return maps

    return read_or_remember


def refine_classes(
    read: ReadWindow, classes: int, refine: Callable[[ReadWindow, int], Iterator[Rows | Ramp]]
) -> Generator[Rows | Ramp]:
    """Refine all classes of a map, or of a section of it, side by side, so that each window is read once.

    C bands of rows are in memory.

    Args:
        read: gives the one-versus-rest logits of a window, `(C, h, w)` float32, NaN where invalid.
        classes: how many there are.
        refine: refines one class, given a reader of its logits and its number; see `refine_rows` and `refine_section`.
            It must ask for the same windows, and give the same rows, whatever the logits are.

    Yields:
        What `refine` gives, for all classes.
    """
    held = hold(read, classes)

    def read_class(number: int, window: Window) -> FloatMaps:
        one: FloatMaps = held(window)[number]
        return one

    streams = [refine(partial(read_class, number), number) for number in range(classes)]
    for pieces in zip(*streams, strict=True):
        first = pieces[0]
        if isinstance(first, Ramp):
            base = None if first.base is None else _stack(pieces, "base")
            yield Ramp(first.y, first.x, _stack(pieces, "field"), base)
        else:
            yield Rows(first.y, _stack(pieces, "logits"), _stack(pieces, "refined"), first.x)


def _stack(pieces: Sequence[Rows | Ramp], part: str) -> FloatMaps:
    return np.stack([getattr(piece, part) for piece in pieces])


def finish_class_ramp(ramp: Ramp, logits: FloatMaps, links: Sequence[Link]) -> Rows:
    """Refine rows that two sections share, see `finish_ramp`; arrays are `(C, ramp, w)`."""
    bases = [None] * len(logits) if ramp.base is None else ramp.base
    rows = [
        finish_ramp(Ramp(ramp.y, ramp.x, field, base), one, links)
        for field, base, one in zip(ramp.field, bases, logits, strict=True)
    ]
    return Rows(ramp.y, logits, _stack(rows, "refined"), ramp.x)


def class_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """mIoU, accuracy, and the IoU of every class, by number."""
    everything = slice(0, counting.SUMS)
    of_classes = (
        Metric(f"iou_{name}", f"IoU {name}", everything, partial(counting.class_iou, number=number), of=name)
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
    """A `PredictionCounter` of class numbers."""

    soft = False

    def __init__(self) -> None:
        self._counts: FloatArray = np.zeros(counting.SUMS)

    def add(self, prediction: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
        self._counts = self._counts + counting.count_classes(prediction, label)

    def counts(self, *, soft: bool) -> FloatArray:
        return self._counts


@dataclass(frozen=True)
class Multiclass(Task):
    """Maps of class numbers, and of the scores of a softmax."""

    names: tuple[str, ...] = ()
    name = "multiclass"
    several = True
    aggregates = ("pooled", "mean")
    label_role = "class label"
    prediction_role = "class prediction"
    unused: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ("score --threshold", "--per-image", "--baseline-threshold", "--own-threshold", "--buffer"),
            "the greatest score counts",
        ),
        "--bidx": "all classes are taken",
        "score --bias": "the report shows none of several classes",
        "pseudolabel --report": "it shows one class; report on one at a time, with --bidx and labels of it",
        "refine --values": "masks hold class numbers",
        **dict.fromkeys(("--polygons", "--min-area", "--fill-holes"), "objects are of masks of one class"),
    }

    def settings(self) -> dict[str, Any]:
        return {"task": self.name, "classes": self.names}

    def with_classes(
        self,
        paths: Sequence[Path],
        reading: Reading | None = None,
        *,
        given: str | None = None,
        palette: Palette | None = None,
    ) -> Multiclass:
        if paths:
            return Multiclass(tuple(class_names(count_classes(paths, reading or Reading()), given, palette)))
        return self if given is None else Multiclass(tuple(class_names(given.count(",") + 1, given, palette)))

    def planes(self, values: NDArray[Any]) -> Sequence[NDArray[Any]]:
        return list(values)

    def label_planes(self, label: NDArray[np.uint8]) -> Sequence[NDArray[np.uint8]]:
        return masks_of(label, len(self.names))

    def open_scores(self, path: Path, reading: Reading, *, plane: int | None = None, **beside: Any) -> ScoreMap:
        scores: ScoreMap
        if plane is None:
            scores = open_map("class scores", path, reading, **beside)
        else:
            scores = open_map("scores", path, replace(reading, band=plane + 1), **beside)
        if scores.raster.bands != len(self.names):
            scores.close()
            raise InputError(
                f"{scores.raster.bands} classes, expected {len(self.names)}", hint="name maps of one model", path=path
            )
        return scores

    def open_label(
        self, path: Path, reading: Reading, *, like: Raster | None = None, plane: int | None = None
    ) -> LabelMap:
        label = open_map("class label", path, reading, like=like, one=plane)
        try:
            if self.names:
                label.check_below(len(self.names))
        except InputError:
            label.close()
            raise
        return label

    def prediction_counter(self, height: int, width: int, **options: Any) -> ClassCounter:
        return ClassCounter()

    def rows(self, opened: LabelMap | ScoreMap, window: Window) -> NDArray[Any]:
        return choose(opened.scores(window)) if isinstance(opened, ClassScoreMap) else super().rows(opened, window)

    def check_same_classes(self, label: LabelMap, predictions: Sequence[LabelMap | ScoreMap]) -> None:
        known = [scores.classes for scores in predictions if isinstance(scores, ClassScoreMap)]
        known += [len(self.names)] if self.names else []
        for each in (label, *predictions) if known else ():
            if isinstance(each, ClassNumbers):
                each.check_below(min(known))
            elif isinstance(each, ClassScoreMap) and each.classes != min(known):
                raise InputError(
                    f"{each.classes} classes, expected {min(known)}", hint="check --classes", path=each.path
                )

    def label_pixels(self, scores: Sequence[ImageScore]) -> dict[str, int]:
        right, _, missed = np.sum([score.counts for score in scores], axis=0).reshape(3, IGNORE)
        names = self._names_in(scores)
        return {name: int(right[number] + missed[number]) for number, name in enumerate(names)}

    def metrics(self, scores: Sequence[ImageScore]) -> Sequence[Metric]:
        return class_metrics(self._names_in(scores))

    def _names_in(self, scores: Sequence[ImageScore]) -> Sequence[str]:
        """The names of the classes; their numbers where no names are known."""
        return self.names or [str(number) for number in range(classes_of(scores))]

    def refine(self, read: ReadWindow, read_image: ReadWindow | None, refine: Refine) -> Generator[Rows | Ramp]:
        held = None if read_image is None else hold(read_image, len(self.names))  # all classes ask for the same windows
        return refine_classes(read, len(self.names), lambda plane, number: refine(plane, held, number))

    def finish_ramp(self, ramp: Ramp, logits: FloatMaps, links: Sequence[Link]) -> Rows:
        return finish_class_ramp(ramp, logits, links)

    def cut(self, rows: Rows, threshold: Cut) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return choose(rows.refined, threshold if isinstance(threshold, tuple) else ()), choose(rows.logits)

    def content(self, values: tuple[int, int], palette: NDArray[np.uint8] | None = None) -> dict[str, Any]:
        return {"dtype": "uint8", "nodata": IGNORE, "palette": palette}

    def written(self, mask: NDArray[np.uint8], rows: Rows | None, values: tuple[int, int]) -> NDArray[Any]:
        return mask
