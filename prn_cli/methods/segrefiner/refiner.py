"""`segrefiner`: the whole map at 256 px first, then windows at full resolution where that left doubt."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.probabilities import sigmoid
from prn_cli.maps.tiles import Window
from prn_cli.methods.refiner import FloatMap, Metadata, ProbabilityRefiner, Runner, Windows
from prn_cli.methods.segrefiner.chain import fine_shares, restore

SURE = 0.9
"""A window is looked at where the confidence of the pass over the whole map is below this part of its greatest."""
LARGEST_REDUCTION = 24
"""Maps that 256 px show at a smaller scale than this are mosaics, of which such a pass says nothing."""

T = TypeVar("T", bound=np.generic)
Overview = tuple[FloatMap, NDArray[np.bool_]]
"""Probabilities of the reduced map, `(rows, columns)`, and where they are in doubt."""


class SegrefinerRefiner(ProbabilityRefiner):
    """Field: probabilities of the target.

    Args:
        runner: maps `mask` (N, 1, H, W), `step` (N, 1) and `image` (N, C, H, W), if there is one, to `logits`.
    """

    name = "segrefiner"

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.expect(["mask", "step", "image"] if self.needs.bands else ["mask", "step"], ["logits"])
        known = Metadata(runner.metadata, runner.path)
        self._shares = fine_shares(known.number("prn.chain_steps", least=1, default=6))

    def overview_side(self, height: int, width: int) -> int:
        """256 px, but for mosaics."""
        side = self.needs.overview
        return side if max(height, width) <= LARGEST_REDUCTION * side else 0

    def overview(self, reduced: Windows) -> Overview:
        """All steps but the last, on the reduced map, which is mirrored up to a window's size."""
        rows, columns = reduced.logits.shape[1:]
        side = self.needs.side
        beyond = (0, side - rows), (0, side - columns)
        logits = np.pad(reduced.logits, ((0, 0), *beyond), mode="symmetric")
        image = reduced.image
        if image is not None:
            image = np.pad(image, ((0, 0), (0, 0), *beyond), mode="symmetric")
        windows = replace(reduced, logits=logits, image=image)
        found, fine = self._restore(windows, _coarse(logits), slice(1, None))
        fine = fine[0, :rows, :columns]
        return sigmoid(found[0, :rows, :columns]), fine < np.float32(SURE) * fine.max()

    def field(self, windows: Windows) -> FloatMap:
        """Probabilities of the target.

        After the pass over the whole map, the last step is taken where that is in doubt. Without that pass, as in
        mosaics, all steps are. Windows of one class stay as they are.
        """
        if windows.overview is None:
            coarse, steps = _coarse(windows.logits), slice(0, None)
            field = sigmoid(np.where(np.isnan(windows.logits), -np.inf, windows.logits).astype(np.float32))
            doubt = np.ones(len(coarse), bool)
        else:
            probabilities, unsure = windows.overview
            field = _under(windows, probabilities)
            coarse, steps = (field >= 0.5).astype(np.float32), slice(0, 1)
            doubt = np.asarray(_under(windows, unsure).any(axis=(1, 2)))
        at_work = np.flatnonzero(doubt & (coarse.min(axis=(1, 2)) < coarse.max(axis=(1, 2))))
        if len(at_work):
            found, _ = self._restore(windows.some(at_work), coarse[at_work], steps)
            field[at_work] = sigmoid(found)
        return field

    def _restore(self, windows: Windows, coarse: FloatMap, steps: slice) -> tuple[FloatMap, FloatMap]:
        """Go back from coarse masks by some of the steps, the greatest first; see `restore`."""

        def predict(masks: FloatMap, step: int) -> FloatMap:
            inputs = {"mask": masks[:, np.newaxis], "step": np.full((len(masks), 1), step, np.float32)}
            if windows.image is not None:
                inputs["image"] = windows.image
            return self.runner.run(["logits"], inputs)[0][:, 0]

        chosen = range(len(self._shares))[steps]
        return restore(predict, coarse, reversed(chosen), self._shares, windows.noise)


def _coarse(logits: FloatMap) -> FloatMap:
    return (logits >= 0).astype(np.float32)  # not where they are NaN


def _under(windows: Windows, plane: NDArray[T]) -> NDArray[T]:
    """What the reduced map shows of each window, its cells as large as they are on the map."""
    cells = [_cells(size, count) for size, count in zip(windows.size, plane.shape, strict=True)]

    def cut(window: Window) -> NDArray[T]:
        rows = _mirrored(window.y, window.height, windows.size[0])
        columns = _mirrored(window.x, window.width, windows.size[1])
        return plane[np.ix_(cells[0][rows], cells[1][columns])]

    return windows.of_places(cut)


def _cells(size: int, count: int) -> NDArray[np.intp]:
    """The cell of each pixel along an axis of a map that was reduced to so many cells, see `reduce_map`."""
    return np.arange(size) * count // size


def _mirrored(start: int, length: int, size: int) -> NDArray[np.intp]:
    """Pixels along an axis, those beyond the map mirrored at its border."""
    places = np.arange(start, start + length) % (2 * size)
    return np.minimum(places, 2 * size - 1 - places)
