"""Class activation maps: of several bands or a file a class, perhaps at several scales, read on one grid."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.tiles import Window, row_bands
from prn_cli.rasters.base import Closing
from prn_cli.rasters.images import MapImage
from prn_cli.rasters.reading import open_map
from prn_cli.rasters.roles import AS_DECLARED, Reading
from prn_cli.rasters.valid import ValidMap


class Activations(Closing):
    """The activation maps of an image, cut off below 0.

    Args:
        scales: of each scale, a file of all classes, or one file a class, None where a class has none.
        classes: how many there are.
        grid: map on whose grid they are read; None for that of the first file. They cover the same ground, whatever
            their shape, unless georeferences say otherwise.
        reading: how the files are read.

    Attributes:
        height: rows of the grid.
        width: columns of the grid.
        like: the raster that has it.

    Raises:
        InputError: a file cannot be read, or has not as many bands as expected.
    """

    def __init__(
        self,
        scales: Sequence[Sequence[Path | None]],
        classes: int,
        *,
        grid: ValidMap | None = None,
        reading: Reading = AS_DECLARED,
    ) -> None:
        self._classes = classes
        with ExitStack() as stack:
            self._scales: list[list[MapImage | None]] = []
            like = None if grid is None else grid.raster
            for paths in scales:
                opened: list[MapImage | None] = []
                for path in paths:
                    one = None
                    if path is not None:
                        one = stack.enter_context(open_map("image", path, reading, like=like, any_shape=True))
                        like = like or one.raster
                        expected = classes if len(paths) == 1 else 1
                        if one.bands != expected:
                            raise one.raster.error(f"{one.bands} bands, expected {expected}", "give one a class")
                    opened.append(one)
                self._scales.append(opened)
            assert like is not None
            self.height, self.width, self.like = like.height, like.width, like
            self._stack = stack.pop_all()

    def read(self, window: Window, scales: int | None = None) -> NDArray[np.float32]:
        """Read a window: the mean over the first scales, or all; `(C, h, w)` float32, NaN invalid."""
        total = np.zeros((self._classes, window.height, window.width), np.float32)
        chosen = self._scales[:scales]
        for maps in chosen:
            first = 0
            for one in maps:
                if one is None:
                    first += 1
                    continue
                total[first : first + one.bands] += np.maximum(one.read(window), 0)
                first += one.bands
        total[:, np.isnan(total).any(axis=0)] = np.nan
        return total / np.float32(len(chosen))

    def peaks(self, scales: int | None = None) -> NDArray[np.float64]:
        """`(C,)` the greatest activation of every class; 0 where all are invalid."""
        found = np.zeros(self._classes)
        for window in row_bands(self.height, self.width):
            found = np.fmax(found, np.nan_to_num(self.read(window, scales)).max(axis=(1, 2)))
        return found

    def close(self) -> None:
        """Close the files."""
        self._stack.close()
