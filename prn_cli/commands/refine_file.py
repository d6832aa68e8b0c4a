"""One map's work: read, refined and written, band by band, by any process that is told how."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prn_cli.commands.batch import Item, TooLarge
from prn_cli.commands.objects import PART, Objects
from prn_cli.commands.options import TaskChoice
from prn_cli.errors import InputError
from prn_cli.maps.pixels import IGNORE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prn_cli.maps.components import Runs
    from prn_cli.maps.drift import Reference
    from prn_cli.methods.refiner import Refiner
    from prn_cli.rasters import RasterWriter, ScoreMap
    from prn_cli.rasters.images import MapImage
    from prn_cli.refinement.rows import Link, Order, Ramp, Rows
    from prn_cli.tasks.multiclass import ClassRows

# On a GPU a single window leaves most of the machine idle; on a CPU more of them only fall out of the caches.
WINDOWS_IN_A_RUN = {"cpu": 1, "cuda": 4}
# A large map keeps all cores at work and takes memory, so there are few at once: while the network runs on one, the
# next is read and the last one is written.
_MAPS_AT_ONCE = 2
_LARGE_MAP = 1 << 22  # pixels
_BANDS_AHEAD = 2  # of a large map, read before the network wants them, and refined before they are written


@dataclass(frozen=True, slots=True)
class OpenMap:
    """An open map, and its image, if the refiner takes one."""

    scores: ScoreMap
    image: MapImage | None

    @property
    def by_columns(self) -> bool:
        """Whether all that is read can be read some columns at a time."""
        return self.scores.by_columns and (self.image is None or self.image.by_columns)

    def order(self, *, any_order: bool) -> Order:
        """The order that takes the least memory, where outputs are written in any order, or by rows alone."""
        from prn_cli.refinement.rows import Order

        if not self.by_columns:
            return Order.ROWS
        # What waits for the next stretch grows with the height, and what waits for the next windows with the width.
        return Order.DOWN if any_order and self.scores.height <= 2 * self.scores.width else Order.ACROSS


@dataclass(frozen=True, slots=True)
class Run:
    """What is the same for all maps of a run. If `small_only`, a large one raises `TooLarge`."""

    refiner: Refiner
    strength: float
    threshold: float
    tile: int
    tta: bool
    task: TaskChoice
    classes: Sequence[str]
    palette: NDArray[np.uint8] | None
    objects: Objects
    cog: bool
    values: tuple[int, int]
    open: Callable[[Item], AbstractContextManager[OpenMap]]
    options: Mapping[str, str]
    settings: Mapping[str, Any]
    small_only: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    turns: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(_MAPS_AT_ONCE))

    @property
    def nodata(self) -> int:
        """What is written where a mask is invalid."""
        from prn_cli.rasters import mask_nodata

        return mask_nodata(self.values) if self.task is TaskChoice.binary else IGNORE

    def written(self, mask: NDArray[np.uint8], *, all_valid: bool = False) -> NDArray[np.uint8]:
        """What is written of rows of a mask: of classes, the mask itself."""
        import numpy as np

        if self.task is not TaskChoice.binary:
            return mask
        result: NDArray[np.uint8] = mask * np.uint8(self.values[1])  # background is 0 in all MASK_VALUES
        if all_valid:
            return result
        invalid = mask == IGNORE
        if invalid.any():
            result[invalid] = self.nodata
        return result

    def check_stop(self) -> None:
        """Leave a map where it is, if the run has ended."""
        if self.stop.is_set():
            raise CancelledError

    def refine(self, opened: OpenMap, order: Order, section: slice = slice(None)) -> Generator[Rows | ClassRows | Ramp]:
        """Refine an open map, or a section of it."""
        from prn_cli.maps.noise import place_seed
        from prn_cli.rasters import ClassScoreMap
        from prn_cli.refinement.rows import How, refine_section
        from prn_cli.tasks.multiclass import hold, refine_class_rows

        scores = opened.scores
        size = scores.height, scores.width
        how = How(
            tta=self.tta,
            batch=WINDOWS_IN_A_RUN[self.refiner.device],
            seed=place_seed(0, scores.path.stem),
            on_run=self.check_stop,
            order=order,
            read_ahead=0 if isinstance(scores, ClassScoreMap) else _BANDS_AHEAD,
        )
        options: dict[str, Any] = {
            "section": section,
            "read_image": None if opened.image is None else opened.image.read,
        }
        if not isinstance(scores, ClassScoreMap):
            return refine_section(scores.logits, *size, self.links, how, **options)
        if scores.classes != len(self.classes):
            raise InputError(
                f"{scores.classes} classes, expected {len(self.classes)}",
                hint="name maps of one model",
                path=scores.path,
            )
        if opened.image is not None:  # every class asks for the same windows
            options["read_image"] = hold(opened.image.read, scores.classes)
        return refine_class_rows(
            scores.logits, scores.classes, lambda read: refine_section(read, *size, self.links, how, **options)
        )

    def finish(self, opened: OpenMap, ramp: Ramp) -> Rows | ClassRows:
        """Refine rows of an open map that two sections share, from the field of both."""
        from prn_cli.refinement.rows import finish_ramp
        from prn_cli.tasks.multiclass import finish_class_ramp

        logits = opened.scores.logits(ramp.window)
        if logits.ndim == 3:
            return finish_class_ramp(ramp, logits, self.links)
        return finish_ramp(ramp, logits, self.links)

    @property
    def links(self) -> list[Link]:
        """The refiners, one after the other."""
        from prn_cli.refinement.rows import Link

        return [Link(self.refiner, self.strength, self.tile)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle all but the end of this process's run, which no other sees."""
        kept = (getattr(self, part.name) for part in fields(self) if part.name not in ("stop", "turns"))
        return Run, tuple(kept)


@dataclass(slots=True)
class Figures:
    """Counts of pixels over the finished rows; `pixels` by class."""

    height: int
    width: int
    classes: Sequence[str]
    changed: int = 0
    pixels: list[int] = field(default_factory=list)
    drift: float | None = None

    @staticmethod
    def of(
        mask: NDArray[np.uint8], base: NDArray[np.uint8], classes: Sequence[str], *, all_valid: bool = False
    ) -> Figures:
        """Counts of rows of a refined and a base mask, uint8, 255 invalid."""
        import numpy as np

        # Comparing is so much faster than numpy.bincount that it is so for two dozen classes, too.
        found = [int(np.count_nonzero(mask == number)) for number in range(1, max(len(classes), 2))]
        valid = mask.size if all_valid else int(np.count_nonzero(mask != IGNORE))
        height, width = mask.shape
        return Figures(height, width, classes, int(np.count_nonzero(mask != base)), [valid - sum(found), *found])

    @property
    def valid(self) -> int:
        """How many pixels are valid."""
        return sum(self.pixels)

    def add(self, more: Figures) -> None:
        """Add the counts of further rows."""
        self.pixels = [a + b for a, b in zip(self.pixels, more.pixels, strict=True)] if self.pixels else more.pixels
        self.changed += more.changed

    def take(self, runs: Runs) -> None:
        """Count a whole mask."""
        self.pixels = [int(runs.lengths[runs.values == value].sum()) for value in (0, 1)]
        self.changed = runs.changed()

    def as_dict(self) -> dict[str, Any]:
        """For the manifest and for JSON."""
        figures: dict[str, Any] = {"height": self.height, "width": self.width, "valid": self.valid}
        if self.classes:
            figures["classes"] = dict(zip(self.classes, self.pixels, strict=True))
        else:
            figures["foreground"] = self.pixels[1]
        return figures | {"changed": self.changed, "drift": self.drift}


class _Sample:
    """Some of a map's logits, every so many rows and columns, to hold against those of training."""

    PIXELS = 1 << 12

    def __init__(self, reference: Reference | None, pixels: int) -> None:
        self.reference, self.step = reference, max(1, math.isqrt(pixels // self.PIXELS))
        self.parts: list[NDArray[np.float32]] = []

    def of(self, rows: Rows | ClassRows) -> NDArray[np.float32]:
        """What falls into finished rows."""
        import numpy as np

        if self.reference is None:
            return np.empty(0, np.float32)
        # A copy even where it is empty: an empty view would keep all the rows in memory.
        return rows.logits[..., -rows.y % self.step :: self.step, -rows.x % self.step :: self.step].flatten()

    def distance(self) -> float | None:
        """See `prn_cli.maps.drift.Reference.distance`; None if the weights do not say what they were trained on."""
        import numpy as np

        from prn_cli.maps.drift import describe

        if self.reference is None:
            return None
        return round(self.reference.distance(describe(np.concatenate(self.parts)))[0], 2)


@dataclass(frozen=True, slots=True)
class Band:
    """Finished rows of the whole map or some of its columns, as they are written, by role; and what is known of them.

    Attributes:
        y: first row.
        x: first column.
        outputs: by role, `(h, w)`.
        figures: what the rows count.
        sample: some of their logits.
        runs: where objects are asked for, the mask, which is not written yet.
    """

    y: int
    x: int
    outputs: Mapping[str, NDArray[Any]]
    figures: Figures
    sample: NDArray[np.float32]
    runs: Runs | None


@contextmanager
def open_map(
    item: Item, *, task: TaskChoice, channels: int, max_pixels: int | None, band: int | None, **options: Any
) -> Iterator[OpenMap]:
    """Open a map and its image, by the options of the command line.

    Args:
        item: with its partners by role: `valid_mask`, `like`, `image`.
        task: of the run.
        channels: bands of the image that the refiner takes.
        max_pixels: see `prn_cli.rasters.limits.set_max_pixels`.
        band: see `prn_cli.rasters.open_scores`.
        options: for `open_scores` or `open_class_scores`.
    """
    from prn_cli.rasters import lay_like, open_class_scores, open_image, open_scores
    from prn_cli.rasters.limits import set_max_pixels

    set_max_pixels(max_pixels)  # this may be another process than the one that read the option

    open_map = open_class_scores if task is TaskChoice.multiclass else partial(open_scores, band=band)
    with ExitStack() as stack:
        scores = stack.enter_context(open_map(item.path, valid_mask=item.inputs.get("valid_mask"), **options))
        if "like" in item.inputs:
            lay_like(scores.raster, item.inputs["like"])
        image = None
        if "image" in item.inputs:
            image = stack.enter_context(open_image(item.inputs["image"], like=scores.raster, bands=channels))
        yield OpenMap(scores, image)


def rasters_of(item: Item) -> dict[str, Path]:
    """The outputs of a map that are rasters."""
    return {role: path for role, path in item.outputs.items() if role != PART}


def content_of(
    role: str, task: TaskChoice, *, nodata: int | None, palette: NDArray[np.uint8] | None = None
) -> dict[str, Any]:
    """What an output holds, for `create_raster`."""
    if role != "mask" or task is TaskChoice.saliency:
        return {"dtype": "float32", "nodata": float("nan"), "soft": role == "mask"}
    return {"dtype": "uint8", "nodata": nodata, "palette": palette}


def bands_here(item: Item, run: Run, opened: OpenMap, order: Order) -> Iterator[Band]:
    """Refine a map in this process."""
    from prn_cli.execution.ahead import ahead
    from prn_cli.refinement.rows import Ramp

    pieces = run.refine(opened, order)
    if opened.scores.height * opened.scores.width > _LARGE_MAP:
        # While these rows are cut, counted and written, the next ones are refined.
        pieces = ahead(pieces, _BANDS_AHEAD)
    with closing(pieces):
        for rows in pieces:
            if not isinstance(rows, Ramp):
                yield band_of(rows, item, run, opened)


def band_of(rows: Rows | ClassRows, item: Item, run: Run, opened: OpenMap) -> Band:
    """What is written of finished rows; of several classes, one map each beside the mask."""
    from prn_cli.maps.components import runs_of
    from prn_cli.refinement.rows import Rows, cut

    if isinstance(rows, Rows):
        all_valid = rows.all_valid
        mask = cut(rows.refined, run.threshold, all_valid=all_valid)
        base = cut(rows.logits, 0.5, all_valid=all_valid)
    else:
        all_valid, mask, base = False, rows.mask, rows.base
    runs = runs_of(mask, base, rows.probabilities) if run.objects else None
    outputs: dict[str, NDArray[Any]] = {}
    if runs is None:
        outputs["mask"] = (
            rows.probabilities if run.task is TaskChoice.saliency else run.written(mask, all_valid=all_valid)
        )
    for kind in ("probabilities", "bias"):
        if kind in item.outputs:
            outputs[kind] = getattr(rows, kind)
        elif any(role.startswith(f"{kind}/") for role in item.outputs):
            for name, values in zip(run.classes, getattr(rows, kind), strict=True):
                outputs[f"{kind}/{name}"] = values
    sample = _Sample(run.refiner.reference, opened.scores.height * opened.scores.width)
    figures = Figures.of(mask, base, run.classes, all_valid=all_valid)
    return Band(rows.y, rows.x, outputs, figures, sample.of(rows), runs)


def refine_file(
    item: Item,
    run: Run,
    on_written: Callable[[], None],
    bands_of: Callable[[Item, Run, OpenMap, Order], Iterator[Band]] = bands_here,
) -> Figures:
    """Read, refine and write one map, band by band. Its outputs take their names when all of it is done.

    `on_written` is called just before they do. `bands_of` refines; it is `bands_here` unless others do the work. Large
    maps take turns.

    Raises:
        TooLarge: the map is large, and the run is for small ones.
    """
    from prn_cli.maps.components import join_beside
    from prn_cli.maps.tiles import WholeRows
    from prn_cli.rasters import can_tell_invalid, create_raster

    may_be_invalid = run.task is not TaskChoice.binary or can_tell_invalid(item.outputs["mask"], run.values)
    with run.open(item) as opened, ExitStack() as stack:
        scores = opened.scores
        if scores.height * scores.width > _LARGE_MAP:
            if run.small_only:
                raise TooLarge
            stack.enter_context(run.turns)
            run.check_stop()
        writers: dict[str, RasterWriter] = {}
        for role, path in rasters_of(item).items():
            writer = create_raster(
                path,
                height=scores.height,
                width=scores.width,
                **content_of(role, run.task, nodata=run.nodata, palette=run.palette),
                like=scores.raster,
                cog=run.cog,
                creation_options=run.options,
            )
            writers[role] = stack.enter_context(writer)
        figures = Figures(scores.height, scores.width, run.classes)
        sample = _Sample(run.refiner.reference, scores.height * scores.width)
        grid = run.objects.grid(scores.raster.geo, item.path)
        parts: list[Runs] = []
        whole: WholeRows[Runs] = WholeRows(scores.width, join_beside)
        any_order = not run.objects and all(writer.any_order for writer in writers.values())
        for band in bands_of(item, run, opened, opened.order(any_order=any_order)):
            run.check_stop()
            figures.add(band.figures)
            sample.parts.append(band.sample)
            if not may_be_invalid and band.figures.valid < band.figures.height * band.figures.width:
                raise InputError(
                    "has invalid pixels, and in a .npy mask of 0 and 1 nothing tells them from foreground",
                    hint="give --values 0,255, or --format tif or png",
                    path=item.path,
                )
            for role, piece in band.outputs.items():
                writers[role].write(piece, band.y, band.x)
            rows = None if band.runs is None else whole.add(band.runs, band.y, band.x, band.figures.width)
            if rows is not None:
                parts.append(rows)
        if not figures.valid:
            scores.check_valid()
        if opened.image is not None and run.strength > 0:  # else it has no part in the outputs
            opened.image.check_valid()
        figures.drift = sample.distance()
        if grid is not None:
            runs, areas = run.objects.clean(parts, grid)
            for mask in runs.rows():
                writers["mask"].write(run.written(mask.astype("uint8", copy=False)))
            figures.take(runs)
        for writer in writers.values():
            writer.finish()
        on_written()
        if grid is not None and PART in item.outputs:
            run.objects.save(item.outputs[PART], runs, grid, areas)
    return figures
