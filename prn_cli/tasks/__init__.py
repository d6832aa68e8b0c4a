"""What maps are of, behind one protocol: masks of one class, soft maps of saliency, several classes.

Commands and workflows ask a task, and never which one it is. A new task is a subclass of `Task` and a row in `TASKS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from prn_cli.errors import UsageError

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from prn_cli.maps.tiles import Window
    from prn_cli.metrics.score import ImageCounter, ImageScore, Metric, PredictionCounter, Summary
    from prn_cli.rasters import Kind, LabelMap, Palette, Reading, ScoreMap
    from prn_cli.refinement.rows import Link, Ramp, Rows
    from prn_cli.tasks.multiclass import ClassRows

    Mask = NDArray[np.uint8]
    Prediction = LabelMap | ScoreMap
    ReadWindow = Callable[[Window], NDArray[np.float32]]
    Refine = Callable[[ReadWindow, ReadWindow | None], Generator[Rows | Ramp]]

TaskName: TypeAlias = Literal["binary", "saliency", "multiclass"]

TASKS: dict[TaskName, str] = {
    "binary": "prn_cli.tasks.binary:Binary",
    "saliency": "prn_cli.tasks.saliency:Saliency",
    "multiclass": "prn_cli.tasks.multiclass:Multiclass",
}
"""Where each task is; imported when it is asked for."""


def find_task(name: TaskName) -> Task:
    """The task of this name, whose classes are not known yet."""
    module, _, task = TASKS[name].partition(":")
    found: Task = getattr(import_module(module), task)()
    return found


@dataclass(frozen=True)
class Task(ABC):
    """What maps and labels of a set are of.

    A map falls into binary planes, one a class against the rest; training and pseudo-labels work on these. What has one
    foreground is one plane.

    Attributes:
        names: of the classes, in the order of the bands; one, which is empty, of a single foreground; none as long as
            they are not known, see `with_classes`.
        name: of the task.
        cuts: whether soft maps are cut at a threshold, which may be chosen.
        several: whether maps have several classes.
        aggregates: of a summary that there are, the more telling one first.
        counts: names of the first counts of an image's record, for people to add up.
        label_role: what a label is to its reader.
        prediction_role: what a mask or score map is that is scored.
        unused: by flag, why an option has no part in this task; a word before the flag names the one workflow of which
            this is true.
    """

    names: tuple[str, ...] = ("",)
    name: ClassVar[TaskName]
    cuts: ClassVar[bool] = False
    several: ClassVar[bool] = False
    aggregates: ClassVar[Sequence[Literal["mean", "pooled"]]] = ("mean", "pooled")
    counts: ClassVar[Sequence[str]] = ()
    label_role: ClassVar[Literal["label", "grey label", "class label"]] = "label"
    prediction_role: ClassVar[Literal["prediction", "class prediction"]] = "prediction"
    unused: ClassVar[Mapping[str, str]]

    def refuse(self, given: Iterable[str], workflow: str) -> None:
        """Refuse options that have no part in this task.

        Args:
            given: flags of the options that were given, such as `Options.given()`.
            workflow: in which they were.

        Raises:
            UsageError: naming the first of them.
        """
        for flag in given:
            why = self.unused.get(flag) or self.unused.get(f"{workflow} {flag}")
            if why is not None:
                raise UsageError(f"{flag} with --task {self.name}: {why}", hint=f"leave {flag} out")
            if flag in ("--classes", "--palette") and not self.several:
                raise UsageError(f"{flag} is for --task multiclass", hint=f"add it, or leave {flag} out")

    def settings(self) -> dict[str, Any]:
        """What results depend on, for manifests."""
        return {"task": self.name}

    # Classes and planes.

    def with_classes(
        self,
        paths: Sequence[Path],
        reading: Reading | None = None,
        *,
        given: str | None = None,
        palette: Palette | None = None,
    ) -> Task:
        """This task with the names of the classes of a set of maps.

        Args:
            paths: score maps of the set; without any, the names given are believed.
            reading: how the maps are read.
            given: names, separated by commas.
            palette: that may have names.

        Raises:
            InputError: no map can be read.
            UsageError: maps of one band, or names that do not suit.
        """
        return self

    def planes(self, values: NDArray[Any]) -> Sequence[NDArray[Any]]:
        """The planes of what `open_scores` reads: `(H, W)` each."""
        return [values]

    def label_planes(self, label: Mask) -> Sequence[Mask]:
        """The planes of what `open_label` reads: `(H, W)` uint8 each, 0, 1, 255 ignore."""
        return [label]

    # Files.

    def open_scores(
        self,
        path: Path,
        reading: Reading,
        *,
        valid_mask: Path | None = None,
        plane: int | None = None,
    ) -> ScoreMap:
        """Open a score map: all of it, or one plane.

        Raises:
            InputError: the file cannot be used, or has other classes than the set.
        """
        from prn_cli.rasters import open_map

        return open_map("scores", path, reading, valid_mask=valid_mask)

    def open_label(self, path: Path, reading: Reading, *, plane: int | None = None) -> LabelMap:
        """Open a label: all of it, or one plane.

        Raises:
            InputError: the file cannot be used, or has numbers that are no class's.
        """
        from prn_cli.rasters import open_map

        return open_map(self.label_role, path, reading)

    def detect(self, paths: Sequence[Path], reading: Reading) -> Kind:
        """What the numbers of masks or score maps mean that are to be scored.

        Raises:
            InputError: that cannot be told.
        """
        from prn_cli.rasters import resolve

        return resolve(reading, paths, self.prediction_role).kind if paths else reading.kind

    def open_prediction(self, path: Path, reading: Reading, *, valid_mask: Path | None = None) -> Prediction:
        """Open a mask or score map that is to be scored; its kind is known, see `detect`.

        Raises:
            InputError: the file cannot be used.
        """
        from prn_cli.rasters import open_map

        return open_map(self.prediction_role, path, reading, valid_mask=valid_mask)

    # Scoring.

    @abstractmethod
    def prediction_counter(self, height: int, width: int, **options: Any) -> PredictionCounter:
        """Counts one prediction of this size; see `prn_cli.metrics.score.MaskCounter` for the options."""

    def counter(
        self,
        height: int,
        width: int,
        *,
        threshold: float = 0.5,
        baseline_threshold: float = 0.5,
        buffer: float = 3.0,
        pool: Executor | None = None,
    ) -> ImageCounter:
        """Counts an image of this size, and perhaps a baseline."""
        from prn_cli.metrics.score import ImageCounter

        own, other = (
            self.prediction_counter(height, width, threshold=cut, buffer=buffer, pool=pool)
            for cut in (threshold, baseline_threshold)
        )
        return ImageCounter(height, width, own, other)

    def rows(self, opened: Prediction, window: Window) -> NDArray[Any]:
        """Rows of what `open_prediction` gave, as `counter` takes them: uint8 of masks, float32 of soft maps."""
        from prn_cli.rasters import LabelMap

        return opened.read(window) if isinstance(opened, LabelMap) else opened.probabilities(window)

    def check_same_classes(self, label: LabelMap, predictions: Sequence[Prediction]) -> None:
        """Check that a label and its predictions have the same classes, as far as they tell.

        Raises:
            InputError: they do not.
        """
        del label, predictions

    def score_image(
        self, prediction: NDArray[Any], label: Mask, *, baseline: NDArray[Any] | None = None, **options: Any
    ) -> ImageScore:
        """The record of an image in memory; see `counter` and `prn_cli.metrics.score.ImageCounter.add`."""
        height, width = label.shape
        counter = self.counter(height, width, **options)
        counter.add(prediction, label, baseline)
        return counter.score()

    @abstractmethod
    def metrics(self, scores: Sequence[ImageScore]) -> Sequence[Metric]:
        """The figures, in the order of tables."""

    def summarise(self, scores: Sequence[ImageScore], *, resamples: int, seed: int) -> Summary:
        """From the records of a set to its figures, see `prn_cli.metrics.score.summarise`."""
        from prn_cli.metrics.score import summarise

        return summarise(scores, metrics=self.metrics(scores), resamples=resamples, seed=seed)

    # Refining.

    def refine(
        self, read: ReadWindow, read_image: ReadWindow | None, refine: Refine
    ) -> Generator[Rows | ClassRows | Ramp]:
        """Refine a map, or a section of it.

        Args:
            read: gives logits of a window of what `open_scores` opened.
            read_image: gives its image, if there is one.
            refine: refines one plane, from readers like these two.
        """
        return refine(read, read_image)

    def finish_ramp(self, ramp: Ramp, logits: NDArray[np.float32], links: Sequence[Link]) -> Rows | ClassRows:
        """Refine rows that two sections share, see `prn_cli.refinement.rows.finish_ramp`."""
        from prn_cli.refinement.rows import finish_ramp

        return finish_ramp(ramp, logits, links)

    def masks(self, rows: Any, threshold: float) -> tuple[Mask, Mask]:
        """The masks of finished rows and of the base model, `(h, w)` uint8, 255 invalid."""
        from prn_cli.refinement.rows import cut

        all_valid = rows.all_valid
        return cut(rows.refined, threshold, all_valid=all_valid), cut(rows.logits, 0.5, all_valid=all_valid)

    @abstractmethod
    def content(self, values: tuple[int, int], palette: NDArray[np.uint8] | None = None) -> dict[str, Any]:
        """What the files of masks hold, for `prn_cli.rasters.create_raster`.

        Args:
            values: of background and foreground.
            palette: colours of the classes, `(N, 3)`.
        """

    @abstractmethod
    def written(self, mask: Mask, rows: Any, values: tuple[int, int]) -> NDArray[Any]:
        """What is written of finished rows, and of the mask that `masks` made of them."""

    def can_tell_invalid(self, path: Path, values: tuple[int, int]) -> bool:
        """Whether a reader can tell the invalid pixels of a mask in this file."""
        return True
