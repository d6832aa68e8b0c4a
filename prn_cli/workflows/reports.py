"""`--report`: the files of a run to the page that a browser shows. Shared by scoring and pseudo-labels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from prn_cli.errors import InputError, OutputError, UsageError
from prn_cli.execution.threads import Progress
from prn_cli.execution.watch import Watch
from prn_cli.files.remote import without_secrets
from prn_cli.files.temporaries import is_stream, write_whole
from prn_cli.maps.probabilities import binarize, logit
from prn_cli.maps.tiles import Window
from prn_cli.rasters.images import MapImage, open_image
from prn_cli.rasters.labels import LabelMap
from prn_cli.rasters.pairs import find_images, pair_by_stem
from prn_cli.rasters.raster import Raster
from prn_cli.rasters.scores import ScoreMap, check_same_size, open_scores
from prn_cli.report import Choice, Prediction, Scored, Searched, Totals, Viewer, headroom_page, score_page
from prn_cli.report.gallery import MOST_PICTURED
from prn_cli.report.glimpses import PATCH, picture_room
from prn_cli.report.headroom import HALF
from prn_cli.report.page import MARKER
from prn_cli.thresholding.pseudolabels import make_pseudolabels

if TYPE_CHECKING:
    from prn_cli.workflows.pseudolabel import PseudolabelOptions
    from prn_cli.workflows.score import ScoreOptions, ScoreResult

_BAND_PIXELS = 1 << 22  # looked at at once


def check_single_file(
    path: Path,
    inputs: Iterable[Path | None],
    *,
    flag: str,
    noun: str,
    example: str,
    is_ours: Callable[[bytes], bool],
) -> None:
    """Refuse, before the work, to replace a file that prn did not write by a report or table.

    Args:
        path: of the file.
        inputs: what is read.
        flag: of the option that names the file, such as `--report`.
        noun: what the file is, such as `report`.
        example: a name that it could have.
        is_ours: tells prn's own files by their first 1000 bytes.

    Raises:
        OutputError: it is a folder, or a file that prn did not write.
        UsageError: it is one of the inputs.
    """
    if path.is_dir():
        raise OutputError("is a folder, expected a file to write", hint=f"add a name, such as {example}", path=path)
    resolved = path.resolve()
    if any(other is not None and other.resolve() == resolved for other in inputs):
        raise UsageError("is an input, and would be written over", hint=f"choose another {flag}", path=path)
    if is_stream(path) or not path.exists():  # a stream takes what comes, and reading it would wait for its writer
        return
    with path.open("rb") as file:
        head = file.read(1000)
    if not is_ours(head):
        raise OutputError(
            f"is there already and is no {noun} of prn's", hint=f"choose another {flag}, or remove it", path=path
        )


class _Report:
    """A report in the making: images come from several threads, the page is written at the end.

    Args:
        path: the page.
        images: folder of images.
        inputs: the maps that are looked at.
        files: every other file that is read or written.
        watch: is told what is missing, and when the page is written.
    """

    def __init__(
        self, path: Path, images: Path | None, inputs: Sequence[Path], files: Iterable[Path | None], watch: Watch
    ) -> None:
        self._path, self._watch = path, watch
        self._images = find_images(inputs, images).found
        self._note_missing(inputs, self._images, images, "image", "their scores are shown")
        check_single_file(
            path,
            [*inputs, *files, *self._images.values()],
            flag="--report",
            noun="report",
            example="report.html",
            is_ours=lambda head: MARKER.encode() in head,
        )
        self._room = picture_room(len(inputs), pictured=MOST_PICTURED)
        self._totals = Totals()
        self._lock = threading.Lock()
        self._warnings: list[str] = []

    def _note_missing(
        self, inputs: Sequence[Path], found: Mapping[Path, Path], folder: Path | None, noun: str, instead: str
    ) -> None:
        missing = [path for path in inputs if path not in found]
        if folder is not None and missing:
            self._watch.note(
                f"{len(missing)} of {len(inputs)} have no {noun} in {folder}, {missing[0].name} first: {instead}"
            )

    def _open_image(self, path: Path, raster: Raster) -> AbstractContextManager[MapImage | None]:
        """The image of a map on the map's grid; one that cannot be used costs the picture, not the figures."""
        if path not in self._images:
            return nullcontext()
        try:
            return open_image(self._images[path], like=raster)
        except InputError as error:
            with self._lock:
                self._warnings.append(f"{error}; shown without it")
            return nullcontext()

    def _keep(self, viewer: Viewer) -> None:
        glimpse = viewer.finish()
        with self._lock:
            self._totals.add(glimpse, viewer.before, viewer.after)

    def _write(self, html: str) -> None:
        for warning in self._warnings:
            self._watch.warning(warning)
        content = html.encode()
        write_whole(self._path, content)
        self._watch.note(f"report → {self._path}, {len(content) / 1e6:.2g} MB")


class ScoreReport(_Report):
    """The report of `score`.

    Args:
        options: of the run.
        inputs: the masks.
        files: labels and baselines.
        watch: see `_Report`.
    """

    def __init__(
        self, options: ScoreOptions, inputs: Sequence[Path], files: Iterable[Path | None], watch: Watch
    ) -> None:
        self._bias = {} if options.bias is None else dict(pair_by_stem(inputs, options.bias).matched)
        assert options.report is not None
        super().__init__(options.report, options.images, inputs, [*files, *self._bias.values()], watch)
        self._note_missing(inputs, self._bias, options.bias, "bias map", "it is not shown")
        self._options = options
        self._thresholds = [options.threshold, options.baseline_threshold][: 1 if options.baseline is None else 2]
        self._cut = self._thresholds[-1]  # where the base is cut; without one, what is scored

    def look(self, path: Path, label: LabelMap, predictions: Sequence[LabelMap | ScoreMap], progress: Progress) -> None:
        """Look at an image: a mask or soft map and the base's, if there is one, all open and of the label's size."""
        height, width = label.height, label.width
        viewer = Viewer(path.stem, height, width, cut=self._cut, paired=len(predictions) > 1, room=self._room)
        with ExitStack() as stack:
            image = stack.enter_context(self._open_image(path, predictions[-1].raster))
            bias = None
            if path in self._bias:
                bias = stack.enter_context(open_scores(self._bias[path], kind="logits"))
                check_same_size(bias.raster, label.raster)
            for window in _bands(height, width, PATCH, progress):
                parts = [_predicted(o, window, t) for o, t in zip(predictions, self._thresholds, strict=True)]
                soft = [part.probabilities for part in parts]
                added = None
                if bias is not None:
                    added = bias.logits(window)
                elif len(soft) == 2 and soft[0] is not None and soft[1] is not None:
                    added = logit(soft[0]) - logit(soft[1])
                pixels = None if image is None else image.read(window)
                before = parts[1] if len(parts) > 1 else None
                viewer.add(window.y, label.read(window), parts[0], before, bias=added, image=pixels)
        self._keep(viewer)

    def finish(self, result: ScoreResult) -> None:
        """Write the page, if any image was scored."""
        if result.summary is not None:
            options = self._options
            what = Scored(
                masks=" ".join(map(without_secrets, options.masks)),
                labels=str(options.labels),
                baseline=None if options.baseline is None else str(options.baseline),
                masks_cut=result.masks_read,
                baseline_cut=result.baseline_read,
                cut=self._cut,
            )
            self._write(score_page(result.summary, self._totals, what, failures=result.failures))


class HeadroomReport(_Report):
    """The report of `pseudolabel`.

    Args:
        options: of the run.
        inputs: the maps.
        files: every other file that is read or written.
        watch: see `_Report`.
    """

    def __init__(
        self, options: PseudolabelOptions, inputs: Sequence[Path], files: Iterable[Path | None], watch: Watch
    ) -> None:
        assert options.report is not None
        super().__init__(options.report, options.images, inputs, files, watch)
        self._options = options
        self._choices: dict[str, Choice] = {}

    def look(self, scores: ScoreMap, label: LabelMap, progress: Progress) -> None:
        """Look at an image: a score map and its label, both open and of one size."""
        name, patch, grid = scores.path.stem, self._options.patch, self._options.grid
        choice = Choice.start(patch)
        viewer = Viewer(name, label.height, label.width, cut=HALF, patch=patch, grid=grid, room=self._room)
        with self._open_image(scores.path, scores.raster) as image:
            for window in _bands(label.height, label.width, max(choice.oracles), progress):
                probabilities, truth = scores.probabilities(window), label.read(window)
                choice.add(probabilities, truth, grid=grid)
                oracle = make_pseudolabels(probabilities, truth, patch=patch, grid=grid)
                base = Prediction(binarize(probabilities, HALF), probabilities)
                pixels = None if image is None else image.read(window)
                viewer.add(window.y, truth, Prediction(oracle.mask), base, image=pixels)
        self._keep(viewer)
        self._choices[name] = choice

    def finish(self, failures: Sequence[tuple[str, str]]) -> None:
        """Write the page, if any image was searched."""
        if self._choices:
            options = self._options
            source = " ".join(map(without_secrets, options.logits))
            what = Searched(source, str(options.labels), options.patch, options.grid)
            choices = [self._choices[name] for name in sorted(self._choices)]
            self._write(headroom_page(choices, self._totals, what, failures=failures))


def _predicted(opened: LabelMap | ScoreMap, window: Window, threshold: float) -> Prediction:
    if isinstance(opened, LabelMap):
        return Prediction(opened.read(window))
    probabilities = opened.probabilities(window)
    return Prediction(binarize(probabilities, threshold), probabilities)


def _bands(height: int, width: int, multiple: int, progress: Progress) -> Iterator[Window]:
    """Bands of whole patches."""
    rows = max(_BAND_PIXELS // (width * multiple), 1) * multiple
    for y in range(0, height, rows):
        progress.check()
        progress.at(0.5 + y / height / 2)  # the other half of the work is done
        yield Window(y, 0, min(rows, height - y), width)
