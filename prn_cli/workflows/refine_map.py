"""The work on one map: read, refined and written band by band, in any process."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, PrnError
from prn_cli.execution.ahead import ahead
from prn_cli.execution.executor import Executor
from prn_cli.execution.threads import Progress
from prn_cli.maps.components import Runs, Tile, join, join_beside, runs_of
from prn_cli.maps.noise import place_seed
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.tiles import WholeRows, Window, cut_windows
from prn_cli.rasters import TIFF_SUFFIXES, MapImage, Raster, RasterWriter, ScoreMap, count_reasons, create_raster
from prn_cli.rasters.reading import Reading, open_map
from prn_cli.refinement.rows import (
    How,
    Link,
    Order,
    Ramp,
    Rows,
    count_windows,
    join_sections,
    look_over,
    refine_section,
    window_rows,
)
from prn_cli.tasks import Cut, Task
from prn_cli.workflows.figures import Figures, Sample
from prn_cli.workflows.items import DRAFT, PART, Item
from prn_cli.workflows.objects import Objects
from prn_cli.workflows.scenes import save_draft

if TYPE_CHECKING:
    from prn_cli.rasters.grid import Grid
    from prn_cli.tasks import ReadWindow

# On a GPU a single window leaves most of the machine idle; on a CPU more of them only fall out of the caches.
WINDOWS_IN_A_RUN = {"cpu": 1, "cuda": 4}
_LARGE_MAP = 1 << 22  # pixels
# A large map keeps all cores at work and takes memory, so there are few at once: while the network runs on one, the
# next is read and the last one is written.
_TURNS = threading.BoundedSemaphore(2)
_BANDS_AHEAD = 2  # of a large map, read before the network wants them, and refined before they are written
_READ_BY_WINDOW = (".npy", *TIFF_SUFFIXES)
_SECTION_BYTES = 64e6
_BLOCK = 512  # px


OnWritten = Callable[[], None]
"""Called just before the outputs of a map take their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """How masks are written: values of background and foreground, class colours `(N, 3)` uint8, and TIFF options."""

    values: tuple[int, int] = (0, 255)
    palette: NDArray[np.uint8] | None = None
    cog: bool = False
    creation: Mapping[str, str] = field(default_factory=dict)

    def create(
        self, role: str, path: Path, task: Task, size: tuple[int, int], *, like: Raster | None = None
    ) -> RasterWriter:
        """A writer of the output of this role."""
        floats = {"dtype": "float32", "nodata": float("nan")}
        content = task.content(self.values, self.palette) if role == "mask" else floats
        height, width = size
        return create_raster(
            path, height=height, width=width, **content, like=like, cog=self.cog, creation_options=self.creation
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is the same for all maps of a run."""

    links: Sequence[Link]
    threshold: Cut
    tta: bool
    task: Task
    reading: Reading
    masks: Masks
    objects: Objects

    def sample(self, height: int, width: int) -> Sample:
        """An empty sample of the logits of a map of this size."""
        return Sample(self.links[0].refiner.reference, height * width)

    def how(self, scores: ScoreMap, order: Order) -> How:
        """How a map is refined."""
        return How(
            tta=self.tta,
            batch=WINDOWS_IN_A_RUN[self.links[0].refiner.device],
            seed=place_seed(0, scores.path.stem),
            order=order,
            read_ahead=0 if self.task.several else _BANDS_AHEAD,  # classes take turns with what is read
        )

    @property
    def looks_over(self) -> bool:
        """Whether the links need a pass over the whole map first; with several classes, each section makes its own."""
        return not self.task.several and any(link.refiner.needs.overview for link in self.links)

    def windows(self, scores: ScoreMap) -> int:
        """Number of windows of a map, over all links and classes; 1 if nothing is refined."""
        return max(count_windows(scores.height, scores.width, self.links) * len(self.task.names), 1)

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; none of a single foreground."""
        return self.task.names if self.task.several else ()


@dataclass(frozen=True, slots=True)
class OpenMap:
    """An open map, and its image if a refiner takes one."""

    scores: ScoreMap
    image: MapImage | None

    @property
    def read_image(self) -> ReadWindow | None:
        """Reads windows of the image, if there is one."""
        return None if self.image is None else self.image.read

    @property
    def by_columns(self) -> bool:
        """Whether map and image can be read some columns at a time."""
        return self.scores.by_columns and (self.image is None or self.image.by_columns)

    @property
    def is_large(self) -> bool:
        """Whether the map is so large that only few are refined at once."""
        return self.scores.height * self.scores.width > _LARGE_MAP

    def order(self, *, any_order: bool) -> Order:
        """The order that takes the least memory, given whether outputs can be written in any order."""
        if not self.by_columns:
            return Order.ROWS
        # What waits for the next stretch grows with the height, and what waits for the next windows with the width.
        return Order.DOWN if any_order and self.scores.height <= 2 * self.scores.width else Order.ACROSS


@dataclass(frozen=True, slots=True)
class Band:
    """Finished rows of the whole map, or of some of its columns.

    Attributes:
        y: first row.
        x: first column.
        outputs: what is written, by role, `(h, w)`.
        figures: counts of these rows.
        sample: some of their logits.
        runs: with object options, the mask, which is written later.
    """

    y: int
    x: int
    outputs: Mapping[str, NDArray[Any]]
    figures: Figures
    sample: NDArray[np.float32]
    runs: Runs | None


def steps_of(item: Item, *, run: Run) -> int:
    """Number of windows of a large map, for the progress; 1 for a small one, or one that cannot be read."""
    try:
        if item.path.stat().st_size < 4 * _LARGE_MAP:  # of float32
            return 1
        with run.task.open_scores(item.path, run.reading) as scores:
            return run.windows(scores)
    except (PrnError, OSError):  # it fails when its turn comes
        return 1


def refine_item(item: Item, run: Run, executor: Executor, on_written: OnWritten, progress: Progress) -> Figures:
    """Refine a map by calls of an executor: a small one in one call, a large one in sections."""
    sections = _sections(item, run, executor)
    if len(sections) < 2:
        return executor.call(refine_whole, item, run, on_written, progress)

    def bands(opened: OpenMap, order: Order) -> Iterator[Band]:
        known = executor.call(_look_over, item, run) if run.looks_over else None
        pieces = executor.calls(_refine_section, ((item, run, order, section, known) for section in sections))
        for band in join_sections(pieces, lambda ramp: _finish(ramp, item, run, opened)):
            yield band
            progress.done(band.figures.size / (opened.scores.height * opened.scores.width))

    return _refine_map(item, run, bands, on_written, progress)


def refine_whole(item: Item, run: Run, on_written: OnWritten, progress: Progress) -> Figures:
    """Read, refine and write one map in this process, band by band."""

    def bands(opened: OpenMap, order: Order) -> Iterator[Band]:
        windows = run.windows(opened.scores)
        how = replace(
            run.how(opened.scores, order),
            on_run=progress.check,
            on_windows=lambda count: progress.done(count / windows),
        )
        pieces: Generator[Rows | Ramp] = _refine(run, opened, how)
        if opened.is_large:
            # While these rows are cut, counted and written, the next ones are refined.
            pieces = ahead(pieces, _BANDS_AHEAD)
        with closing(pieces):
            for rows in pieces:
                if not isinstance(rows, Ramp):
                    yield _band(rows, item, run, opened)

    return _refine_map(item, run, bands, on_written, progress)


def _sections(item: Item, run: Run, executor: Executor) -> list[slice]:
    """The rows of windows that each call refines: small enough to balance the load, and to send."""
    if executor.split == float("inf") or item.path.suffix.lower() not in _READ_BY_WINDOW:
        return []
    with _open_scores(item, run) as scores:
        height, width = scores.height, scores.width
    if height * width <= executor.split:
        return []
    count = len(window_rows(height, width, run.links))
    # The logits of each class are worked on; a mask and the floats beside it are sent.
    pixel_bytes = max(len(run.classes), 1) + 4 * (len(item.rasters) - 1)
    most = int(_SECTION_BYTES / (height * width * pixel_bytes) * count)
    step = max(min(most, count // (4 * max(executor.slots, 1))), 1)
    return [slice(first, first + step) for first in range(0, count, step)]


def _look_over(item: Item, run: Run) -> Sequence[Any]:
    with _open(item, run) as opened:
        scores, how = opened.scores, run.how(opened.scores, Order.ROWS)
        size = scores.height, scores.width
        return look_over(scores.logits, *size, run.links, how, read_image=opened.read_image)


def _refine_section(
    item: Item, run: Run, order: Order, section: slice, known: Sequence[Any] | None
) -> Iterator[Band | Ramp]:
    with _open(item, run) as opened:
        for piece in _refine(run, opened, run.how(opened.scores, order), section=section, known=known):
            yield piece if isinstance(piece, Ramp) else _band(piece, item, run, opened)


def _open_scores(item: Item, run: Run) -> ScoreMap:
    valid_mask, georeference = map(item.inputs.get, ("valid_mask", "like"))
    return run.task.open_scores(item.path, run.reading, valid_mask=valid_mask, georeference=georeference)


@contextmanager
def _open(item: Item, run: Run) -> Iterator[OpenMap]:
    with ExitStack() as stack:
        scores = stack.enter_context(_open_scores(item, run))
        image = None
        if "image" in item.inputs:
            bands = max(link.refiner.needs.bands for link in run.links)
            image = open_map("image", item.inputs["image"], run.reading, like=scores.raster, bands=bands)
            stack.enter_context(image)
        yield OpenMap(scores, image)


def _refine(
    run: Run, opened: OpenMap, how: How, *, section: slice = slice(None), known: Sequence[Any] | None = None
) -> Generator[Rows | Ramp]:
    size = opened.scores.height, opened.scores.width

    def refine(read: ReadWindow, read_image: ReadWindow | None, plane: int) -> Generator[Rows | Ramp]:
        of_plane = replace(how, plane=plane)
        return refine_section(read, *size, run.links, of_plane, section=section, read_image=read_image, overviews=known)

    return run.task.refine(opened.scores.logits, opened.read_image, refine)


def _finish(ramp: Ramp, item: Item, run: Run, opened: OpenMap) -> Band:
    """Refine rows that two sections share."""
    rows = run.task.finish_ramp(ramp, opened.scores.logits(ramp.window), run.links)
    return _band(rows, item, run, opened)


def _band(rows: Rows, item: Item, run: Run, opened: OpenMap) -> Band:
    mask, base, padding = run.task.masks(rows, run.threshold)
    runs = runs_of(mask, base, rows.probabilities) if run.objects else None
    outputs: dict[str, NDArray[Any]] = {}
    if runs is None:
        outputs["mask"] = run.task.written(mask, rows, run.masks.values)
    for kind in {role.partition("/")[0] for role in item.rasters} - {"mask"}:
        values = getattr(rows, kind)
        if kind in item.outputs:
            outputs[kind] = values
        else:
            outputs |= {f"{kind}/{name}": one for name, one in zip(run.classes, values, strict=True)}
    figures = Figures.of(mask, base, run.classes, all_valid=rows.all_valid)
    if figures.valid < figures.size:
        figures.not_counted = _not_counted(opened.scores, mask == IGNORE, rows.y, rows.x)
    figures.padding, figures.below = padding, padding > 0 and bool((rows.logits < 0).any())
    sample = run.sample(opened.scores.height, opened.scores.width).of(rows.logits, rows.y, rows.x)
    return Band(rows.y, rows.x, outputs, figures, sample, runs)


def _not_counted(scores: ScoreMap, invalid: NDArray[np.bool_], y: int, x: int) -> Counter[str]:
    """Why pixels do not count, of rows that begin at `y` and `x`. Blocks without such pixels are not read again."""
    height, width = invalid.shape
    side = _BLOCK if scores.by_columns else width
    blocks = list(cut_windows(height, width, _BLOCK, side))
    chosen = [block for block in blocks if invalid[block.slices].any()]
    if 2 * len(chosen) > len(blocks):  # many are read faster at once
        chosen = [Window(0, 0, height, width)]
    found = Counter[str]()
    for block in chosen:
        found.update(count_reasons(scores.reasons(replace(block, y=y + block.y, x=x + block.x))))
    return found


def _refine_map(
    item: Item,
    run: Run,
    bands_of: Callable[[OpenMap, Order], Iterator[Band]],
    on_written: OnWritten,
    progress: Progress,
) -> Figures:
    """Write the bands of a map. Outputs take their names when all of it is done. Large maps take turns."""
    with _open(item, run) as opened, ExitStack() as stack:
        scores = opened.scores
        if opened.is_large:
            stack.enter_context(_TURNS)
            progress.check()
        grid = run.objects.grid(scores.raster.geo, item.path)
        size = scores.height, scores.width
        writers = {
            role: stack.enter_context(run.masks.create(role, path, run.task, size, like=scores.raster))
            for role, path in item.rasters.items()
        }
        any_order = grid is None and all(writer.any_order for writer in writers.values())
        figures, parts = _write(
            bands_of(opened, opened.order(any_order=any_order)), item, run, (size, writers), progress
        )
        if not figures.valid:
            scores.check_valid()
        if opened.image is not None and any(link.applied > 0 for link in run.links):  # else it plays no part
            opened.image.check_valid()
        tile = None
        if grid is not None:
            runs = join(parts)
            tile = Tile(0, 0, runs, grid.areas_of(runs))
        if tile is not None and DRAFT not in item.outputs:
            tile = replace(tile, runs=run.objects.clean([tile])[0])
            _write_mask(writers["mask"], run, tile.runs)
            figures.take(tile.runs)
        for writer in writers.values():
            writer.finish()
        on_written()
        if tile is not None and DRAFT in item.outputs:
            save_draft(item.outputs[DRAFT], tile.runs)
        elif tile is not None and grid is not None:
            _save_objects(item, tile, grid, run.objects.simplify)
    return figures


def tile_of(item: Item, run: Run, runs: Runs, place: tuple[int, int]) -> tuple[Tile, Grid]:
    """A drafted map at its place in a scene, and its grid."""
    with _open_scores(item, run) as scores:
        grid = run.objects.grid(scores.raster.geo, item.path)
    assert grid is not None  # of a scene
    return Tile(*place, runs, grid.areas_of(runs)), grid


def write_tile(item: Item, run: Run, tile: Tile, grid: Grid, *, on_written: OnWritten) -> None:
    """Write the mask and the polygons of a map whose scene was cleaned."""
    runs, mask = tile.runs, item.outputs["mask"]
    _check_told(item, run, invalid=bool((runs.values == IGNORE).any()))
    with (
        _open_scores(item, run) as scores,
        run.masks.create("mask", mask, run.task, (runs.height, runs.width), like=scores.raster) as writer,
    ):
        _write_mask(writer, run, runs)
        writer.finish()
        on_written()
    _save_objects(item, tile, grid, run.objects.simplify)


def _write_mask(writer: RasterWriter, run: Run, runs: Runs) -> None:
    for mask in runs.rows():
        writer.write(run.task.written(mask.astype("uint8", copy=False), None, run.masks.values))


def _save_objects(item: Item, tile: Tile, grid: Grid, simplify: float) -> None:
    if PART in item.outputs:
        from prn_cli.rasters.polygons import save_objects, trace_objects

        save_objects(item.outputs[PART], trace_objects(tile.runs, grid, tile.areas, simplify=simplify))


def _check_told(item: Item, run: Run, *, invalid: bool) -> None:
    """Check that a reader of the mask can tell invalid pixels, if there are any."""
    mask = item.outputs.get("mask")
    if invalid and mask is not None and not run.task.can_tell_invalid(mask, run.masks.values):
        raise InputError(
            "has invalid pixels, and in a .npy mask of 0 and 1 nothing tells them from foreground",
            hint="give --values 0,255, or --format tif or png",
            path=item.path,
        )


def _write(
    bands: Iterator[Band],
    item: Item,
    run: Run,
    target: tuple[tuple[int, int], Mapping[str, RasterWriter]],
    progress: Progress,
) -> tuple[Figures, list[Runs]]:
    """Write and count bands; returns the counts and, with object options, the mask, which is not written yet."""
    (height, width), writers = target
    figures, sample = Figures(height, width, run.classes), run.sample(height, width)
    whole: WholeRows[Runs] = WholeRows(width, join_beside)
    parts: list[Runs] = []
    for band in bands:
        progress.check()
        figures.add(band.figures)
        sample.parts.append(band.sample)
        _check_told(item, run, invalid=band.figures.valid < band.figures.size)
        for role, piece in band.outputs.items():
            writers[role].write(piece, band.y, band.x)
        rows = None if band.runs is None else whole.add(band.runs, band.y, band.x, band.figures.width)
        if rows is not None:
            parts.append(rows)
    figures.drift = sample.distance()
    return figures, parts
