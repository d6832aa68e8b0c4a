"""Maps refined on a cluster: small ones whole, on one worker each; large ones in sections, on many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prn_cli.commands.batch import Item
from prn_cli.commands.refine_file import Band, Figures, OpenMap, Run, band_of, rasters_of, refine_file
from prn_cli.errors import PrnError
from prn_cli.execution.cluster import Cluster

if TYPE_CHECKING:
    from prn_cli.refinement.rows import Order, Ramp

_READ_BY_WINDOW = (".npy", ".tif", ".tiff")
_SECTION_BYTES = 64e6


@dataclass(frozen=True, slots=True)
class RefineOnCluster:
    """Does what `refine_file` does; workers see the same files, by their absolute paths.

    Args:
        cluster: the workers.
        split: pixels above which a map is refined in sections.
    """

    cluster: Cluster
    split: float

    def __call__(self, item: Item, run: Run, on_written: Callable[[], None]) -> Figures:
        """See `refine_file`."""
        from prn_cli.files.manifest import check_unchanged, stamp_inputs

        there = item.absolute()
        names = {str(path.absolute()): str(path) for path in (*item.inputs.values(), *item.outputs.values())}
        try:
            sections = self._sections(item, run)
            if len(sections) > 1:
                return refine_file(item, run, on_written, partial(self._bands_of, there, sections))
            unchanged = partial(check_unchanged, stamp_inputs(there.inputs))
            on_written()  # here, and before the worker gives the outputs their names
            return self.cluster.call(refine_file, there, run, unchanged)
        except PrnError as error:
            if error.path is not None:
                error.path = names.get(error.path, error.path)
            raise

    def _sections(self, item: Item, run: Run) -> list[slice]:
        """The rows of windows of a map that each call refines; few enough to balance, small enough to send."""
        from prn_cli.refinement.rows import window_rows

        if item.path.suffix.lower() not in _READ_BY_WINDOW:
            return []
        with run.open(item) as opened:
            height, width = opened.scores.height, opened.scores.width
        if height * width <= self.split:
            return []
        count = len(window_rows(height, width, run.links))
        # The logits of each class are worked on; a mask and the floats beside it are sent.
        pixel_bytes = max(len(run.classes), 1) + 4 * (len(rasters_of(item)) - 1)
        at_once = int(_SECTION_BYTES / (height * width * pixel_bytes) * count)
        share = max(min(at_once, count // (4 * max(self.cluster.slots, 1))), 1)
        return [slice(first, first + share) for first in range(0, count, share)]

    def _bands_of(
        self, there: Item, sections: list[slice], item: Item, run: Run, opened: OpenMap, order: Order
    ) -> Iterator[Band]:
        from prn_cli.refinement.rows import join_sections

        calls = ((there, run, order, section) for section in sections)
        results = self.cluster.calls(_refine_section, calls, ahead=2 * max(self.cluster.slots, 1))
        pieces = (piece for result in results for piece in result)
        return join_sections(pieces, lambda ramp: band_of(run.finish(opened, ramp), item, run, opened))


def _refine_section(item: Item, run: Run, order: Order, section: slice) -> list[Band | Ramp]:
    """Refine some rows of windows of a map, on a worker."""
    from prn_cli.refinement.rows import Ramp

    with run.open(item) as opened:
        pieces = run.refine(opened, order, section)
        return [piece if isinstance(piece, Ramp) else band_of(piece, item, run, opened) for piece in pieces]
