"""What maps are of, behind one protocol: masks of one class, soft maps of saliency, several classes.

Commands and workflows ask the task; they never test which one it is. A new task is a subclass of `Task` and a row in
`TASKS`.
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
    from prn_cli.rasters import Kind, LabelMap, Palette, Raster, Reading, ScoreMap
    from prn_cli.refinement.rows import Link, Ramp, Rows

    Mask = NDArray[np.uint8]
    Prediction = LabelMap | ScoreMap
    ReadWindow = Callable[[Window], NDArray[np.float32]]
    Refine = Callable[[ReadWindow, ReadWindow | None, int], Generator[Rows | Ramp]]

TaskName: TypeAlias = Literal["binary", "saliency", "multiclass"]
Cut: TypeAlias = float | tuple[float, ...]
"""Where masks are cut: the threshold of a probability, or offsets taken from the logits of each class."""

TASKS: dict[TaskName, str] = {
    "binary": "prn_cli.tasks.binary:Binary",
    "saliency": "prn_cli.tasks.saliency:Saliency",
    "multiclass": "prn_cli.tasks.multiclass:Multiclass",
}
"""Where each task is; imported on demand."""


def find_task(name: TaskName) -> Task:
    """The task of this name, whose classes are not known yet."""
    module, _, task = TASKS[name].partition(":")
    found: Task = getattr(import_module(module), task)()
    return found


@dataclass(frozen=True)
class Task(ABC):
    """What the maps and labels of a set are of.

    A map consists of binary planes, one per class against the rest; training and pseudo-labels work on these. A map of
    a single foreground is one plane. Methods that open files raise `InputError` for files that cannot be used.

    Attributes:
        names: of the classes, in band order; `("",)` for a single foreground; empty until `with_classes` knows them.
        cuts: whether soft maps are cut at a threshold, which may be chosen.
        several: whether maps have several classes.
        aggregates: of a summary, the more telling one first.
        counts: names of the first counts of an image's record.
        label_role: role of a label, see `prn_cli.rasters.open_map`.
        prediction_role: role of a mask or score map that is scored.
        unused: by flag, why the task does not take an option; `"score --report"` is refused by `score` only.
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
        """Refuse options that this task does not take.

        Args:
            given: flags that were given, as in `Options.given()`.
            workflow: that is to run.

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
        """This task with the class names of a set of maps.

        Args:
            paths: score maps of the set; if empty, the given names are taken without a check.
            reading: how the maps are read.
            given: names, separated by commas.
            palette: may have names.

        Raises:
            InputError: no map can be read.
            UsageError: maps of one band, or names that do not fit.
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
        plane: int | None = None,
        **beside: Any,
    ) -> ScoreMap:
        """Open a score map: all of it, or one plane. It must have the classes of the set.

        `beside` are the validity mask and the georeference, see `prn_cli.rasters.open_map`.
        """
        from prn_cli.rasters import open_map

        return open_map("scores", path, reading, **beside)

    def open_label(
        self, path: Path, reading: Reading, *, like: Raster | None = None, plane: int | None = None
    ) -> LabelMap:
        """Open a label of a map: all of it, or one plane. Its numbers must be those of classes."""
        from prn_cli.rasters import open_map

        return open_map(self.label_role, path, reading, like=like)

    def detect(self, paths: Sequence[Path], reading: Reading) -> Kind:
        """What the numbers of masks or score maps to be scored mean.

        Raises:
            InputError: they are ambiguous.
        """
        from prn_cli.rasters import resolve

        return resolve(reading, paths, self.prediction_role).kind if paths else reading.kind

    def open_prediction(
        self, path: Path, reading: Reading, *, valid_mask: Path | None = None, like: Raster | None = None
    ) -> Prediction:
        """Open a mask or score map to be scored; its kind is known, see `detect`."""
        from prn_cli.rasters import open_map

        return open_map(self.prediction_role, path, reading, valid_mask=valid_mask, like=like)

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
        own_threshold: float | None = None,
        buffer: float = 3.0,
        pool: Executor | None = None,
    ) -> ImageCounter:
        """Counts an image of this size, and its baseline if there is one; at a second threshold, too, if given."""
        from prn_cli.metrics.score import ImageCounter

        counters = (
            self.prediction_counter(height, width, threshold=cut, buffer=buffer, pool=pool)
            for cut in (threshold, baseline_threshold, own_threshold)
            if cut is not None
        )
        return ImageCounter(height, width, *counters)

    def rows(self, opened: Prediction, window: Window) -> NDArray[Any]:
        """Rows of an open prediction, as `counter` takes them: uint8 for masks, float32 for soft maps."""
        from prn_cli.rasters import LabelMap

        return opened.read(window) if isinstance(opened, LabelMap) else opened.probabilities(window)

    def check_same_classes(self, label: LabelMap, predictions: Sequence[Prediction]) -> None:
        """Check that a label and its predictions have the same classes, as far as files tell.

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

    def label_pixels(self, scores: Sequence[ImageScore]) -> dict[str, int]:
        """How many pixels of the labels count, by class; empty if a record does not tell."""
        return {}

    def predicted_pixels(self, scores: Sequence[ImageScore]) -> dict[str, int]:
        """How many pixels of the masks count, by class; empty if it does not matter."""
        return {}

    @abstractmethod
    def metrics(self, scores: Sequence[ImageScore]) -> Sequence[Metric]:
        """The metrics, in table order."""

    def summarise(self, scores: Sequence[ImageScore], *, resamples: int, seed: int) -> Summary:
        """The figures of a set, see `prn_cli.metrics.score.summarise`."""
        from prn_cli.metrics.score import summarise

        return summarise(scores, metrics=self.metrics(scores), resamples=resamples, seed=seed)

    # Refining.

    def refine(self, read: ReadWindow, read_image: ReadWindow | None, refine: Refine) -> Generator[Rows | Ramp]:
        """Refine a map, or a section of it.

        Args:
            read: gives logits of a window of what `open_scores` opened.
            read_image: gives its image, if there is one.
            refine: refines one plane, from readers like these two and its number.
        """
        return refine(read, read_image, 0)

    def finish_ramp(self, ramp: Ramp, logits: NDArray[np.float32], links: Sequence[Link]) -> Rows:
        """Refine rows that two sections share, see `prn_cli.refinement.rows.finish_ramp`."""
        from prn_cli.refinement.rows import finish_ramp

        return finish_ramp(ramp, logits, links)

    def masks(self, rows: Rows, threshold: Cut) -> tuple[Mask, Mask, int]:
        """The refined mask and the base model's, `(h, w)` uint8, 255 invalid; and how many pixels are padding.

        Padding stays as it was, in the rows and in the mask; see `prn_cli.maps.certain.find_padding`.
        """
        from prn_cli.maps.certain import find_padding

        padding = find_padding(rows.logits)
        if padding is None:
            return *self.cut(rows, threshold), 0
        if rows.refined is not rows.logits:
            rows.refined[..., padding] = rows.logits[..., padding]
        mask, base = self.cut(rows, threshold)
        mask[padding] = base[padding]
        return mask, base, int(padding.sum())

    def cut(self, rows: Rows, threshold: Cut) -> tuple[Mask, Mask]:
        """The refined mask and the base model's, as they are."""
        from prn_cli.refinement.rows import cut

        assert not isinstance(threshold, tuple)  # offsets are of several classes
        all_valid = rows.all_valid
        return cut(rows.refined, threshold, all_valid=all_valid), cut(rows.logits, 0.5, all_valid=all_valid)

    @abstractmethod
    def content(self, values: tuple[int, int], palette: NDArray[np.uint8] | None = None) -> dict[str, Any]:
        """What mask files hold, for `prn_cli.rasters.create_raster`.

        Args:
            values: of background and foreground.
            palette: colours of the classes, `(N, 3)`.
        """

    @abstractmethod
    def written(self, mask: Mask, rows: Rows | None, values: tuple[int, int]) -> NDArray[Any]:
        """What a file gets of finished rows and the mask that `masks` made of them."""

    def can_tell_invalid(self, path: Path, values: tuple[int, int]) -> bool:
        """Whether a reader of this mask file can tell which pixels are invalid."""
        return True
