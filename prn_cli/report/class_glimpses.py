"""What a page keeps of an image of several classes."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.tiles import Window
from prn_cli.rasters.pictures import encode_picture
from prn_cli.report import colours
from prn_cli.report.glimpses import PICTURE_SIDE, Glimpse, Prediction, Seen, Viewer
from prn_cli.report.shrinking import Cells, Picked

ClassNumbers = NDArray[np.uint8]

_TURN = (5**0.5 - 1) / 2  # of the hue, from class to class: any number of them are far apart
_PICTURE_ROOM = 12_000  # bytes


def class_colours(palette: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """`(256, 3)` uint8, a colour for each class number: the palette's as far as it goes; grey where invalid."""
    wheel = [colorsys.hls_to_rgb(0.08 + number * _TURN, (0.42, 0.66)[number % 2], 0.62) for number in range(256)]
    table = np.round(255 * np.array(wheel)).astype(np.uint8)
    if palette is not None:
        table[: len(palette)] = palette[:, :3]
    table[IGNORE] = np.frombuffer(bytes.fromhex(colours.NOT_COUNTED[0].lstrip("#")), np.uint8)
    return table


class SeenClasses(NamedTuple):
    """What there is to see of a window, as `Seen`, in class numbers."""

    label: ClassNumbers
    after: ClassNumbers
    before: ClassNumbers | None = None
    image: NDArray[np.float32] | None = None

    def right(self) -> Seen:
        """Where its classes are right."""

        def of(numbers: ClassNumbers) -> Prediction:
            return Prediction(np.where(numbers == IGNORE, np.uint8(IGNORE), (numbers == self.label).view(np.uint8)))

        known = np.where(self.label == IGNORE, np.uint8(IGNORE), np.uint8(1))
        return Seen(known, of(self.after), None if self.before is None else of(self.before), self.image)


class ClassViewer:
    """Looks at an image band by band: `Viewer` sees where its classes are right, whatever they are.

    The label of that view is 1 wherever the true class is known, so that its IoU is the pixel accuracy.

    Args:
        name: of the image.
        height: rows.
        width: columns.
        table: `(256, 3)` uint8, the colours of the classes.
        paired: whether there is a base besides what is scored.
        room: bytes for the pictures of `Viewer`.
    """

    before = after = None
    """Counts of soft maps, which there are none of."""

    def __init__(
        self, name: str, height: int, width: int, *, table: NDArray[np.uint8], paired: bool, room: int
    ) -> None:
        self._right = Viewer(name, height, width, paired=paired, room=room)
        self._table = table
        keys = ("label", "after", "before") if paired else ("label", "after")
        self._picked = {key: Picked(Cells(height, width, PICTURE_SIDE)) for key in keys}

    def add(
        self,
        first: int,
        label: ClassNumbers,
        after: ClassNumbers,
        before: ClassNumbers | None = None,
        *,
        image: NDArray[np.float32] | None = None,
    ) -> None:
        """Add a band of whole rows, from row `first` on: `(h, W)` uint8 class numbers, 255 invalid."""
        seen = SeenClasses(label, after, before).right()
        self._right.add(first, seen.label, seen.after, seen.before, image=image)
        for picked, numbers in zip(self._picked.values(), (label, after, before), strict=False):
            if numbers is not None:
                picked.add(first, numbers)

    def zoom(self, look: Callable[[Window], SeenClasses]) -> None:
        """As `Viewer.zoom` does."""
        self._right.zoom(lambda window: look(window).right())
        for crop in self._right.crops:
            seen = look(crop.window)
            crop.pictures["after"] = self._coloured(seen.after)
            if seen.before is not None:
                crop.pictures["before"] = self._coloured(seen.before)

    def finish(self) -> Glimpse:
        """The glimpse, once all bands were added."""
        glimpse = self._right.finish()
        pictures = {key: self._coloured(picked.result()) for key, picked in self._picked.items()}
        return replace(glimpse, pictures=glimpse.pictures | pictures)

    def _coloured(self, numbers: ClassNumbers) -> bytes:
        return encode_picture(self._table[numbers], most=_PICTURE_ROOM)
