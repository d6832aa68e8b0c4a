"""Labelled maps read from files: logits, labels, pseudo-labels and perhaps images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, OutputError, PrnError, UsageError
from prn_cli.execution.threads import Progress, run_batch
from prn_cli.execution.watch import Watch
from prn_cli.files.manifest import unchanged
from prn_cli.files.store import Place, Store
from prn_cli.maps.certain import hold
from prn_cli.maps.pixels import IGNORE
from prn_cli.rasters import (
    LabelMap,
    ScoreMap,
    count_reasons,
    find_images,
    find_valid_masks,
    pair_by_stem,
    two_kinds_of_labels,
)
from prn_cli.rasters.pairs import Paths
from prn_cli.rasters.reading import Kind, Reading, open_map
from prn_cli.tasks import Task, find_task
from prn_cli.thresholding.pseudolabels import apply_thresholds, best_thresholds
from prn_cli.training.augment import TrainingMap
from prn_cli.workflows.account import Account, warn_of_absent
from prn_cli.workflows.options import with_kind
from prn_cli.workflows.training.run import Run

Pair: TypeAlias = tuple[Path, Path | None]
"""A score map and its label, if there are labels."""


@dataclass(frozen=True)
class Dataset:
    """The labelled maps of a set.

    Attributes:
        maps: of each class against the rest; those of one image follow each other and share a name, so that they are
            held out together.
        paths: of the score maps, by name.
        classes: names; `("",)` for a single foreground.
        kind: of the numbers in the score maps.
        failures: files that could not be used, with the cause.
        unused: maps that `--shots` did not draw.
        account: of the pixels that do not count.
    """

    maps: list[TrainingMap]
    paths: dict[str, Path]
    classes: Sequence[str] = ("",)
    kind: Kind = "logits"
    failures: Sequence[tuple[str, str]] = ()
    unused: int = 0
    account: Account = field(default_factory=Account)

    @property
    def names(self) -> list[str]:
        """Names of the images, each once."""
        return names_of(self.maps)


def names_of(maps: Sequence[TrainingMap]) -> list[str]:
    """Names of the images of some maps, each once."""
    return list(dict.fromkeys(m.name for m in maps))


def read_dataset(
    run: Run, inputs: Paths, labels: Path | None, images: Path | None, *, shots: int | None = None
) -> Dataset:
    """Read labelled maps. Files that cannot be used are named and left out.

    Args:
        run: the run, which says how to read them.
        inputs: score maps.
        labels: folder of their labels; without one, every valid pixel is labelled 0, see `own_masks.label`.
        images: folder of their images, if any.
        shots: number of maps to draw; all if None.

    Raises:
        InputError: none can be used, or labels differ in the value of the foreground.
        OutputError: the disk is full.
        PrnError: one cannot be used, with `fail_fast`.
        UsageError: fewer maps than are to be drawn.
    """
    options, watch = run.options, run.watch
    matched: Sequence[Pair] = [(path, None) for path in inputs]
    if labels is not None:
        pairs = pair_by_stem(inputs, labels)
        watch.note_files(pairs.unmatched_inputs, f"maps have no label in {labels} and are left out")
        watch.note_files(pairs.passed_over, f"files in {labels} are passed over by their suffix")
        matched = pairs.matched
    paths = [path for path, _ in matched]
    reading = with_kind(options.reading(), paths, watch)
    task = find_task(options.task).with_classes(paths, reading, given=options.classes)
    drawn = matched if shots is None else _drawn(matched, shots, options.seed, watch)
    reader = _Reader(run, task, reading, [path for path, _ in drawn], images)
    batch = run_batch(
        drawn,
        reader.read,
        name=lambda pair: str(pair[0]),
        label="reading",
        watch=watch,
        threads=run.threads,
        fail_fast=options.fail_fast,
        fatal=OutputError,  # of the store: no map's fault, and the next one will find no room either
    )
    if options.fail_fast and batch.failures:
        raise PrnError(batch.verdict)
    if not batch.results:
        raise InputError("none of the maps could be used", hint="see the errors above")
    two_kinds = two_kinds_of_labels(reader.foregrounds)
    if two_kinds is not None:
        raise two_kinds
    account = Account.of(reader.sizes[pair] for pair, _ in batch.results)
    account.tell(watch)
    label_pixels = Counter[str]()
    for pair, _ in batch.results:
        label_pixels.update(reader.label_pixels.get(pair, {}))
    if labels is not None:
        warn_of_absent(label_pixels, watch, ignored=reader.ignored)
    stored = reader.store.mapped()
    return Dataset(
        maps=[
            plane.map_of(path.stem, stored, number)
            for (path, _), planes in batch.results
            for number, plane in enumerate(planes)
        ],
        paths={path.stem: path.resolve() for (path, _), _ in batch.results},
        classes=task.names,
        kind=reading.kind,
        failures=batch.failures,
        unused=len(matched) - len(drawn),
        account=account,
    )


def _drawn(pairs: Sequence[Pair], count: int, seed: int, watch: Watch) -> Sequence[Pair]:
    """Some pairs, in their order. With one seed, a smaller draw is part of a larger one."""
    if count > len(pairs):
        raise UsageError(f"--shots {count}, but there are {len(pairs)} labelled maps")
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:count]
    drawn = [pairs[index] for index in sorted(chosen)]
    watch.note_files([path for path, _ in drawn], f"of {len(pairs)} maps drawn with seed {seed}")
    return drawn


class _Stored(NamedTuple):
    """Where the arrays of a map lie."""

    logits: Place
    label: Place
    pseudo: Place | None
    image: Place | None

    def map_of(self, name: str, stored: NDArray[np.uint8], plane: int) -> TrainingMap:
        """The map; without a pseudo-label, the label stands in for it."""
        label = self.label.view(stored)
        return TrainingMap(
            name,
            self.logits.view(stored),
            label,
            label if self.pseudo is None else self.pseudo.view(stored),
            None if self.image is None else self.image.view(stored),
            plane=plane,
        )


class _Reader:
    def __init__(self, run: Run, task: Task, reading: Reading, paths: Sequence[Path], images: Path | None) -> None:
        self.run, self.task, self.reading = run, task, reading
        self.masks, self.images = find_valid_masks(paths, run.options.valid_mask), find_images(paths, images)
        self.store = Store(run.options.out)
        # Objectives may look at pseudo-labels, too.
        self.with_pseudo = bool(run.options.contrast) or getattr(run.settings.options, "pseudo_weight", 1.0) > 0
        self.foregrounds: dict[Path, int | None] = {}
        self.ignored: set[float] = set()  # values of labels
        self.sizes: dict[Pair, tuple[int, Mapping[str, int]]] = {}  # pixels, and those that do not count
        self.label_pixels: dict[Pair, Counter[str]] = {}  # that count, by class

    def read(self, pair: Pair, _: Progress) -> list[_Stored]:
        """Logits, label, the image if there is one, and the pseudo-label if it has weight, of every plane."""
        (path, label_path), task, reading = pair, self.task, self.reading
        valid_mask, image_path = self.masks.of(path), self.images.of(path)
        image: Place | None = None
        with (
            unchanged(path, label_path, valid_mask, image_path),
            task.open_scores(path, reading, valid_mask=valid_mask) as scores,
        ):
            logits, probabilities = hold(scores.logits()), scores.probabilities()
            if label_path is None:
                label = np.zeros(logits.shape[-2:], np.uint8)
                self.sizes[pair] = label.size, count_reasons(scores.reasons())
            else:
                with task.open_label(label_path, reading, like=scores.raster) as opened:
                    self.foregrounds[label_path] = getattr(opened, "foreground", None)
                    label = opened.read()
                    self.ignored.update(opened.ignored_values)
                    self._count(pair, scores, opened, logits, label)
            if image_path is not None:
                with open_map("image", image_path, reading, like=scores.raster, bands=self.run.bands) as picture:
                    pixels = picture.read()
                    picture.check_valid()
                image = self.store.put(pixels)
        planes = zip(task.planes(logits), task.planes(probabilities), task.label_planes(label), strict=True)
        return [self._plane(path, *plane, image) for plane in planes]

    def _count(
        self, pair: Pair, scores: ScoreMap, opened: LabelMap, logits: NDArray[np.float32], label: NDArray[np.uint8]
    ) -> None:
        """Count pixels that do not count, by reason, and those that do, by class."""
        if label.shape != logits.shape[-2:]:
            return  # it is refused
        counted = label[~np.isnan(logits).reshape(-1, *label.shape).any(axis=0)]
        pixels = np.bincount(counted, minlength=IGNORE + 1)
        whole = pixels[:IGNORE].sum() == label.size
        self.sizes[pair] = label.size, {} if whole else count_reasons(opened.reasons(), scores.reasons())
        names = self.task.names if self.task.several else ("background", "foreground")
        self.label_pixels[pair] = Counter(dict(zip(names, pixels.tolist(), strict=False)))

    def _plane(
        self,
        path: Path,
        logits: NDArray[np.float32],
        probabilities: NDArray[np.float32],
        label: NDArray[np.uint8],
        image: Place | None,
    ) -> _Stored:
        label[np.isnan(logits)] = IGNORE  # the base model scored nothing there
        if np.all(label == IGNORE):
            raise InputError("no pixel is valid in both the logit map and its label", path=path)
        if not self.with_pseudo:
            return _Stored(self.store.put(logits), self.store.put(label), None, image)
        patch = self.run.options.patch
        thresholds = best_thresholds(probabilities, label, patch=patch, grid=self.run.options.grid)
        pseudo = apply_thresholds(probabilities, thresholds, patch=patch)
        pseudo[label == IGNORE] = IGNORE
        return _Stored(self.store.put(logits), self.store.put(label), self.store.put(pseudo), image)
