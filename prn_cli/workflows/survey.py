"""What refiners make of a whole set before its first map: a bounded sample of it, read and shown to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prn_cli import rasters
from prn_cli.errors import PrnError
from prn_cli.execution.watch import Watch
from prn_cli.maps.certain import hold
from prn_cli.maps.tiles import Window, round_up
from prn_cli.methods.refiner import FloatMap, Needs, Windows
from prn_cli.rasters import Reading, open_map
from prn_cli.rasters.pairs import Paths
from prn_cli.refinement.rows import How, Link, refine_rows
from prn_cli.refinement.windows import pad
from prn_cli.tasks import Cut, Task
from prn_cli.thresholding.sampling import MAPS, SIDE, sample_maps, sample_windows

_WINDOWS_OF_A_MAP = 2
_SMALL_MAPS = 4  # so many times as many maps as of full windows, where maps are small


Sample = Callable[[Needs], Iterable[tuple[FloatMap, FloatMap, int]]]
"""Gives logits `(h, w)`, images `(bands, h, w)` and the number of the class of windows, for what a refiner needs."""


def cut_at(links: Sequence[Link], threshold: Cut) -> tuple[Link, ...]:
    """Links for masks that are cut at a threshold; offsets of classes make no difference to them."""
    if isinstance(threshold, tuple):
        return tuple(links)
    return tuple(replace(link, refiner=link.refiner.cut_at(threshold)) for link in links)


def survey(links: Sequence[Link], sample: Sample, watch: Watch) -> tuple[tuple[Link, ...], dict[str, Any]]:
    """Show each refiner that wants it a sample of its set: maps as the links before it hand them on, and their images.

    Returns:
        The links as they suit the set, and what the outputs depend on by that, for the manifest.
    """
    found: list[Link] = []
    settings = []
    for link in links:
        needs = link.refiner.needs
        if not needs.survey or link.strength == 0:
            found.append(link)
            continue
        windows = [
            _windows(refine_window(logits, image, found, plane), image, needs, plane)
            for logits, image, plane in sample(needs)
        ]
        made = link.refiner.survey(windows)
        strength = made.strength if link.strength is None else link.strength
        found.append(replace(link, refiner=made.refiner, strength=strength))
        settings.append(dict(made.settings))
        if made.said and link.strength is None:
            watch.note(made.said)
    return tuple(found), {"survey": settings} if settings else {}


def warn_of_images(links: Sequence[Link], sample: Sample, watch: Watch) -> None:
    """Warn of images that are others than those that a refiner has learned from, by one map of the set."""
    for link in links:
        needs = link.refiner.needs
        if needs.bands and not needs.survey and link.applied:
            drawn = sample(replace(needs, survey=1))
            windows = [_windows(logits, image, needs, plane) for logits, image, plane in drawn]
            said = link.refiner.doubt(windows)
            if said:
                watch.warning(f"{said}: store them alike")


def sample_of_map(logits: FloatMap, image: FloatMap | None, needs: Needs) -> Iterator[tuple[FloatMap, FloatMap, int]]:
    """A sample of a map in memory: logits `(H, W)`, or `(C, H, W)` of several classes, and its image."""
    height, width = logits.shape[-2:]
    for window in sample_windows("", height, width, most=max(needs.survey // SIDE**2, 1)):
        seen = np.empty((0, window.height, window.width), np.float32) if image is None else image[:, *window.slices]
        for number, plane in enumerate(logits.reshape(-1, height, width)):
            yield plane[window.slices], seen, number


class Drawn(NamedTuple):
    """A map of a sample. Its image and its validity mask are found when they are asked for, which may raise."""

    stem: str
    path: Path
    image: Callable[[], Path | None]
    valid_mask: Callable[[], Path | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSet:
    """All maps of a run, those of other parts of a job array among them, and how they are read."""

    inputs: Paths
    images: Path | None
    valid_mask: Path | None
    task: Task
    reading: Reading
    watch: Watch

    def drawn(self, most: int = MAPS, *, bands: int = 0) -> list[Drawn]:
        """Maps drawn by their stems, in the order of `sample_maps`; of files with one stem, the last."""
        numbers = {stem: number for number, stem in enumerate(self.inputs.stems())}
        paths = {stem: self.inputs[numbers[stem]] for stem in sample_maps(numbers, most)}
        images = rasters.find_images(list(paths.values()), self.images if bands else None)
        masks = rasters.find_valid_masks(list(paths.values()), self.valid_mask)
        return [Drawn(stem, path, partial(images.of, path), partial(masks.of, path)) for stem, path in paths.items()]

    def sample(self, needs: Needs) -> Iterator[tuple[FloatMap, FloatMap, int]]:
        """Windows drawn by the names of the maps, until there are enough pixels."""
        seen = 0
        for one in self.drawn(_SMALL_MAPS * max(needs.survey // SIDE**2, 1), bands=needs.bands):
            try:
                for scores, image in self.windows(one, bands=needs.bands, most=_WINDOWS_OF_A_MAP):
                    for number, plane in enumerate(self.task.planes(scores)):
                        yield plane, image, number
                    seen += scores.size
            except (PrnError, OSError) as error:  # it fails when its turn comes
                message = error.message if isinstance(error, PrnError) else error
                self.watch.detail(f"{one.path}: no part of the sample: {message}")
            if seen >= needs.survey:
                return

    def windows(self, one: Drawn, *, bands: int, most: int) -> Iterator[tuple[FloatMap, FloatMap]]:
        """Windows of a map, `(h, w)` or `(C, h, w)` logits, and of its image, `(bands, h, w)`."""
        image = one.image() if bands else None
        with ExitStack() as stack:
            scores = stack.enter_context(self.task.open_scores(one.path, self.reading, valid_mask=one.valid_mask()))
            opened = None
            if image is not None:
                opened = stack.enter_context(open_map("image", image, self.reading, like=scores.raster, bands=bands))
            for window in sample_windows(one.stem, scores.height, scores.width, most=most):
                empty = np.empty((0, window.height, window.width), np.float32)
                seen = empty if opened is None else opened.read(window)
                yield np.asarray(scores.logits(window), np.float32), seen


def _windows(logits: FloatMap, image: FloatMap, needs: Needs, plane: int) -> Windows:
    sides = [round_up(size, needs.multiple) for size in logits.shape]
    planes = pad(np.concatenate([logits[np.newaxis], image]), *sides, mode=needs.padding)
    image = planes[np.newaxis, 1:]
    size = (logits.shape[0], logits.shape[1])
    return Windows(hold(planes[:1]), image if needs.bands else None, size=size, plane=plane)


def refine_window(logits: FloatMap, image: FloatMap, links: Sequence[Link], plane: int) -> FloatMap:
    """The window of this class as the links before have refined it."""
    if not any(link.applied for link in links):
        return logits

    def read_logits(window: Window) -> FloatMap:
        return logits[window.slices]

    def read_image(window: Window) -> FloatMap:
        return image[:, *window.slices]

    height, width = logits.shape
    takes = any(link.refiner.needs.bands for link in links)
    how = How(plane=plane)
    rows = refine_rows(read_logits, height, width, links, how, read_image=read_image if takes else None)
    return np.concatenate([each.refined for each in rows])
