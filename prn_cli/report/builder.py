"""From files to a page: maps are looked at while they are open; at the end, those shown first are opened once more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, PrnError
from prn_cli.execution.watch import Watch
from prn_cli.files.manifest import Stamp, check_unchanged, stamp_inputs
from prn_cli.files.temporaries import refuse_strangers, write_whole
from prn_cli.maps.probabilities import binarize, logit
from prn_cli.maps.tiles import Window, row_bands
from prn_cli.metrics.score import Metric, Summary
from prn_cli.rasters import (
    LabelMap,
    MapImage,
    Raster,
    Reading,
    ScoreMap,
    find_images,
    open_map,
    pair_by_stem,
)
from prn_cli.report import colours
from prn_cli.report.class_glimpses import class_colours, see_classes
from prn_cli.report.crops import Crop
from prn_cli.report.gallery import MOST_PICTURED
from prn_cli.report.glimpses import PATCH, Glimpse, Prediction, Seen, Viewer, picture_room, zoom
from prn_cli.report.headroom import HALF, Choice, Searched, headroom_page
from prn_cli.report.page import MARKER
from prn_cli.report.scored import Scored, score_page
from prn_cli.report.totals import Totals
from prn_cli.thresholding.pseudolabels import make_pseudolabels
from prn_cli.thresholding.thresholds import Grid

Opened = Sequence[Any]
"""Of an image, open and of one size: its label, a mask or soft map, and the base's if there is one."""


class _Report:
    """A page in the making. Images may come from several threads.

    Args:
        path: the page.
        inputs: the maps or masks that it is of.
        files: all other files that are read or written.
        images: folder of images.
        watch: hears what is missing, and where the page is.

    Raises:
        OutputError: the page would replace a folder, or a file that is no report.
        UsageError: the page would replace an input.
    """

    def __init__(
        self, path: Path, inputs: Sequence[Path], files: Iterable[Path | None], images: Path | None, watch: Watch
    ) -> None:
        self._images = dict(find_images(inputs, images).found)
        self._watch = watch
        self._note_missing(inputs, self._images, images, "image", "their scores are shown")
        refuse_strangers(
            path,
            [*inputs, *files, *self._images.values()],
            option="--report",
            what="report",
            example="report.html",
            is_ours=lambda head: MARKER.encode() in head,
        )
        self._path = path
        self._room = picture_room(len(inputs), pictured=MOST_PICTURED)
        self._totals = Totals()
        self._lock = threading.Lock()
        self._stamps: dict[Path, dict[str, Stamp]] = {}  # of the images of maps
        self._unseen: list[str] = []  # why an image could not be looked at closely

    def _note_missing(
        self, inputs: Sequence[Path], found: Mapping[Path, Path], folder: Path | None, noun: str, instead: str
    ) -> None:
        missing = [path for path in inputs if path not in found]
        if folder is not None and missing:
            first = f"{missing[0].name} first"
            self._watch.note(f"{len(missing)} of {len(inputs)} have no {noun} in {folder}, {first}: {instead}")

    def _open_image(self, path: Path, raster: Raster) -> AbstractContextManager[MapImage | None]:
        """The image of a map, on the map's grid. If it cannot be used, the map is shown without it."""
        if path not in self._images:
            return nullcontext()
        image = self._images[path]
        try:
            if path in self._stamps:
                check_unchanged(self._stamps[path])
            else:
                self._stamps[path] = stamp_inputs({"image": image}, sampled=False)
            return open_map("image", image, Reading(max_pixels=raster.max_pixels), like=raster)
        except InputError as error:
            self._watch.warning(f"{error}; shown without it")
            del self._images[path]
            return nullcontext()

    def _keep(self, viewer: Viewer, **more: Any) -> None:
        glimpse = replace(viewer.finish(), **more)
        with self._lock:
            self._totals.add(glimpse, viewer.before, viewer.after)

    def _write(self, html: str) -> None:
        if self._unseen:
            self._watch.note(f"{len(self._unseen)} shown without crops: {self._unseen[0]}")
        content = html.encode()
        write_whole(self._path, content)
        self._watch.note(f"report → {self._path}, {len(content) / 1e6:.2g} MB")


class ScoreReport(_Report):
    """The report of `prn score`.

    Args:
        bias: folder of bias maps.
        threshold: where soft maps are cut.
        baseline_threshold: where soft maps of the base are cut; None without a base.
        rows: gives the class numbers of a window of a mask or soft map, where there are several classes.

    Attributes:
        cut: where the base is cut; without a base, what is scored.
    """

    def __init__(
        self,
        path: Path,
        inputs: Sequence[Path],
        files: Iterable[Path | None],
        *,
        images: Path | None,
        bias: Path | None,
        threshold: float,
        baseline_threshold: float | None,
        rows: Callable[[Any, Window], NDArray[np.uint8]] | None,
        watch: Watch,
    ) -> None:
        self._bias = {} if bias is None else dict(pair_by_stem(inputs, bias).matched)
        super().__init__(path, inputs, [*files, *self._bias.values()], images, watch)
        self._note_missing(inputs, self._bias, bias, "bias map", "it is not shown")
        self._thresholds = [threshold] if baseline_threshold is None else [threshold, baseline_threshold]
        self.cut = self._thresholds[-1]
        self._rows = rows
        self._table = None if rows is None else class_colours()

    def look(
        self,
        path: Path,
        opened: Opened,
        again: Callable[[], AbstractContextManager[Opened]],
        stop: threading.Event,
    ) -> None:
        """Look at an image.

        Args:
            path: what is scored.
            opened: its maps.
            again: opens them again, and checks that they are the same.
            stop: ends it early.

        Raises:
            InputError: a file cannot be read, or its bias map has another size.
            CancelledError: `stop` is set.
        """
        label, *predictions = opened
        palettes = [each.raster.palette for each in opened if each.raster.palette is not None]
        if self._table is not None and palettes:
            self._table = class_colours(palettes[0])
        viewer = Viewer(
            path.stem,
            label.height,
            label.width,
            cut=self.cut,
            paired=len(predictions) > 1,
            table=self._table,
            room=self._room,
        )
        bias_map = _open_bias(self._bias[path], label) if path in self._bias else nullcontext()
        with self._open_image(path, predictions[-1].raster) as image, bias_map as bias:
            for window in _bands(label.height, label.width, PATCH, stop):
                seen = self._see(window, opened, image)
                viewer.add(window.y, seen, bias=_added(seen) if bias is None else bias.logits(window))
        self._keep(viewer, closer=partial(self._look_closer, path, again))

    def _look_closer(
        self, path: Path, again: Callable[[], AbstractContextManager[Opened]], glimpse: Glimpse
    ) -> Sequence[Crop]:
        """Open an image again, and cut the crops; none if it is no longer what it was."""
        try:
            with again() as opened, self._open_image(path, opened[-1].raster) as image:
                return zoom(glimpse, lambda window: self._see(window, opened, image))
        except (PrnError, OSError) as error:
            self._unseen.append(str(error))
            return ()

    def _see(self, window: Window, opened: Opened, image: MapImage | None) -> Seen:
        label, *predictions = opened
        truth, pixels = label.read(window), None if image is None else image.read(window)
        if self._rows is None:
            after, *before = (_read(each, window, at) for each, at in zip(predictions, self._thresholds, strict=True))
            return Seen(truth, after, before[0] if before else None, pixels)
        numbers, *base = (self._rows(each, window) for each in predictions)
        return see_classes(truth, numbers, base[0] if base else None, pixels)

    def finish(
        self, summary: Summary, what: Scored, failures: Sequence[tuple[str, str]], metrics: Sequence[Metric]
    ) -> None:
        """Look closer at the images that are shown at first, and write the page."""
        classes = []
        if self._table is not None:
            names = [metric.of for metric in metrics if metric.of]
            classes = [(name, colours.hexadecimal(self._table[number])) for number, name in enumerate(names)]
        page = score_page(summary, self._totals, what, failures=failures, metrics=metrics, classes=classes)
        self._write(page)


class HeadroomReport(_Report):
    """The report of `prn pseudolabel`: patches of `patch` px may take the thresholds of `grid`."""

    def __init__(
        self,
        path: Path,
        inputs: Sequence[Path],
        files: Iterable[Path | None],
        *,
        images: Path | None,
        patch: int,
        grid: Grid,
        watch: Watch,
    ) -> None:
        super().__init__(path, inputs, files, images, watch)
        self._patch, self._grid = patch, grid
        self._choices: dict[str, Choice] = {}

    def look(self, scores: ScoreMap, label: LabelMap, stop: threading.Event) -> None:
        """Look at an image: a score map and its label, both open and of one size.

        Raises:
            InputError: a file cannot be read.
            CancelledError: `stop` is set.
        """
        name = scores.path.stem
        choice = Choice.start(self._patch)
        viewer = Viewer(name, label.height, label.width, cut=HALF, patch=self._patch, grid=self._grid, room=self._room)
        with self._open_image(scores.path, scores.raster) as image:
            for window in _bands(label.height, label.width, max(choice.oracles), stop):
                probabilities, truth = scores.probabilities(window), label.read(window)
                choice.add(probabilities, truth, grid=self._grid)
                oracle = make_pseudolabels(probabilities, truth, patch=self._patch, grid=self._grid)
                base = Prediction(binarize(probabilities, HALF), probabilities)
                pixels = None if image is None else image.read(window)
                viewer.add(window.y, Seen(truth, Prediction(oracle.mask), base, pixels))
        self._keep(viewer)
        self._choices[name] = choice

    def finish(self, what: Searched, failures: Sequence[tuple[str, str]]) -> None:
        """Write the page, if any image was searched."""
        if self._choices:
            choices = [self._choices[name] for name in sorted(self._choices)]
            self._write(headroom_page(choices, self._totals, what, failures=failures))


def _read(opened: LabelMap | ScoreMap, window: Window, threshold: float) -> Prediction:
    if not isinstance(opened, ScoreMap):
        return Prediction(opened.read(window))
    probabilities = opened.probabilities(window)
    return Prediction(binarize(probabilities, threshold), probabilities)


def _added(seen: Seen) -> NDArray[np.float32] | None:
    """What was added to the base's logits, where both maps are soft."""
    if seen.before is None or seen.before.probabilities is None or seen.after.probabilities is None:
        return None
    return logit(seen.after.probabilities) - logit(seen.before.probabilities)


def _open_bias(path: Path, label: LabelMap) -> ScoreMap:
    return open_map("scores", path, Reading(kind="logits", max_pixels=label.raster.max_pixels), like=label.raster)


def _bands(height: int, width: int, multiple: int, stop: threading.Event) -> Iterator[Window]:
    """Bands of whole patches."""
    for window in row_bands(height, width, block=multiple):
        if stop.is_set():
            raise CancelledError
        yield window
