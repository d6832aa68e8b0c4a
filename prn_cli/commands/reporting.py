"""`--report`: files to the page that a browser shows. What `prn score` and `prn pseudolabel` share of it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prn_cli.commands import console
from prn_cli.commands.options import local, refuse_strangers
from prn_cli.errors import InputError

if TYPE_CHECKING:
    from prn_cli.maps.tiles import Window
    from prn_cli.metrics.score import Summary
    from prn_cli.rasters import LabelMap, MapImage, Raster, ScoreMap
    from prn_cli.report import Choice, Scored, Searched
    from prn_cli.thresholding.pseudolabels import Grid

_BAND_PIXELS = 1 << 22  # looked at at once

Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        callback=local,
        metavar="FILE",
        help="Write one HTML page: figures, pictures of the images, maps and curves. Readable offline.",
        rich_help_panel="Output",
        show_default=False,
    ),
]
PageImages = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="DIR",
        help="Folder of the images, shown in the report, paired by stem.",
        rich_help_panel="Output",
        show_default=False,
    ),
]
PageBias = Annotated[
    Path | None,
    typer.Option(
        "--bias",
        metavar="DIR",
        help="Folder of bias maps, shown in the report, as prn refine --bias writes them.",
        rich_help_panel="Output",
        show_default=False,
    ),
]


class _Page:
    """A report in the making: images come from several threads, the page is written at the end."""

    def __init__(
        self, path: Path, inputs: Sequence[Path], files: Iterable[Path | None], *, images: Path | None
    ) -> None:
        from prn_cli.rasters import find_images
        from prn_cli.report import Totals
        from prn_cli.report.gallery import MOST_PICTURED
        from prn_cli.report.glimpses import picture_room
        from prn_cli.report.page import MARKER

        self._images = find_images(inputs, images).found
        _name_missing(inputs, self._images, images, "image", "their scores are shown")
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

    def _open_image(self, path: Path, raster: Raster) -> AbstractContextManager[MapImage | None]:
        """The image of a map on the map's grid; one that cannot be used costs the picture, not the figures."""
        from prn_cli.rasters import open_image

        if path not in self._images:
            return nullcontext()
        try:
            return open_image(self._images[path], like=raster)
        except InputError as error:
            console.warning(f"{error}; shown without it")
            return nullcontext()

    def _write(self, html: str) -> None:
        from prn_cli.files.temporaries import write_whole

        content = html.encode()
        write_whole(self._path, content)
        console.note(f"report → {self._path}, {len(content) / 1e6:.2g} MB")


class ScoreReport(_Page):
    """The report of `prn score`.

    Args:
        path: the page.
        inputs: what is scored.
        files: every other file that is read.
        images: folder of images.
        bias: folder of bias maps.
        threshold: where soft maps are cut.
        baseline_threshold: where soft maps of the base are cut; None without a base.
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
    ) -> None:
        from prn_cli.rasters import pair_by_stem

        self._bias = {} if bias is None else dict(pair_by_stem(inputs, bias).matched)
        _name_missing(inputs, self._bias, bias, "bias map", "it is not shown")
        super().__init__(path, inputs, [*files, *self._bias.values()], images=images)
        self._thresholds = [threshold] if baseline_threshold is None else [threshold, baseline_threshold]

    @property
    def cut(self) -> float:
        """Where the base is cut; without one, what is scored."""
        return self._thresholds[-1]

    def look(
        self, path: Path, label: LabelMap, predictions: Sequence[LabelMap | ScoreMap], stop: threading.Event
    ) -> None:
        """Look at an image: a mask or soft map and the base's, if there is one, all open and of the label's size."""
        from prn_cli.maps.probabilities import binarize
        from prn_cli.rasters import ScoreMap, logit, open_scores
        from prn_cli.report import Prediction, Viewer
        from prn_cli.report.glimpses import PATCH

        def read(opened: LabelMap | ScoreMap, window: Window, threshold: float) -> Prediction:
            if not isinstance(opened, ScoreMap):
                return Prediction(opened.read(window))
            probabilities = opened.probabilities(window)
            return Prediction(binarize(probabilities, threshold), probabilities)

        viewer = Viewer(
            path.stem, label.height, label.width, cut=self.cut, paired=len(predictions) > 1, room=self._room
        )
        with ExitStack() as stack:
            image = stack.enter_context(self._open_image(path, predictions[-1].raster))
            bias = None
            if path in self._bias:
                bias = stack.enter_context(open_scores(self._bias[path], kind="logits"))
                if (bias.height, bias.width) != (label.height, label.width):
                    raise InputError(
                        f"{bias.height}×{bias.width} pixels, expected {label.height}×{label.width} as in {path}",
                        hint="make the two the same size",
                        path=bias.path,
                    )
            for window in _bands(label.height, label.width, PATCH, stop):
                parts = [read(o, window, t) for o, t in zip(predictions, self._thresholds, strict=True)]
                soft = [part.probabilities for part in parts]
                added = None
                if bias is not None:
                    added = bias.logits(window)
                elif len(soft) == 2 and soft[0] is not None and soft[1] is not None:
                    added = logit(soft[0]) - logit(soft[1])
                pixels = None if image is None else image.read(window)
                before = parts[1] if len(parts) > 1 else None
                viewer.add(window.y, label.read(window), parts[0], before, bias=added, image=pixels)
        glimpse = viewer.finish()
        with self._lock:
            self._totals.add(glimpse, viewer.before, viewer.after)

    def finish(self, summary: Summary, what: Scored, failures: Sequence[tuple[str, str]]) -> None:
        """Write the page."""
        from prn_cli.report import score_page

        self._write(score_page(summary, self._totals, what, failures=failures))


class HeadroomReport(_Page):
    """The report of `prn pseudolabel`.

    Args:
        path: the page.
        inputs: the maps.
        files: every other file that is read or written.
        images: folder of images.
        patch: side of a patch, px.
        grid: the thresholds that a patch may take.
    """

    def __init__(
        self,
        path: Path,
        inputs: Sequence[Path],
        files: Iterable[Path | None],
        *,
        images: Path | None,
        patch: int,
        grid: Grid,
    ) -> None:
        super().__init__(path, inputs, files, images=images)
        self._patch, self._grid = patch, grid
        self._choices: dict[str, Choice] = {}

    def look(self, scores: ScoreMap, label: LabelMap, stop: threading.Event) -> None:
        """Look at an image: a score map and its label, both open and of one size."""
        from prn_cli.maps.probabilities import binarize
        from prn_cli.report import Choice, Prediction, Viewer
        from prn_cli.report.headroom import HALF
        from prn_cli.thresholding.pseudolabels import make_pseudolabels

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
                viewer.add(window.y, truth, Prediction(oracle.mask), base, image=pixels)
        glimpse = viewer.finish()
        with self._lock:
            self._totals.add(glimpse, viewer.before, viewer.after)
            self._choices[name] = choice

    def finish(self, what: Searched, failures: Sequence[tuple[str, str]]) -> None:
        """Write the page, if any image was searched."""
        from prn_cli.report import headroom_page

        if self._choices:
            choices = [self._choices[name] for name in sorted(self._choices)]
            self._write(headroom_page(choices, self._totals, what, failures=failures))


def _bands(height: int, width: int, multiple: int, stop: threading.Event) -> Iterator[Window]:
    """Bands of whole patches."""
    from prn_cli.maps.tiles import Window

    rows = max(_BAND_PIXELS // (width * multiple), 1) * multiple
    for y in range(0, height, rows):
        if stop.is_set():
            raise CancelledError
        yield Window(y, 0, min(rows, height - y), width)


def _name_missing(
    inputs: Sequence[Path], found: Mapping[Path, Path], folder: Path | None, noun: str, instead: str
) -> None:
    missing = [path for path in inputs if path not in found]
    if folder is not None and missing:
        console.note(f"{len(missing)} of {len(inputs)} have no {noun} in {folder}, {missing[0].name} first: {instead}")
