"""What there is to see of an image of several classes."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.report import colours
from prn_cli.report.glimpses import Prediction, Seen

ClassNumbers = NDArray[np.uint8]

_TURN = (5**0.5 - 1) / 2  # of the hue, from class to class: any number of them are far apart


def class_colours(palette: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """`(256, 3)` uint8, a colour for each class number: the palette's as far as it goes; grey where invalid."""
    wheel = [colorsys.hls_to_rgb(0.08 + number * _TURN, (0.42, 0.66)[number % 2], 0.62) for number in range(256)]
    table = np.round(255 * np.array(wheel)).astype(np.uint8)
    if palette is not None:
        table[: len(palette)] = palette[:, :3]
    table[IGNORE] = np.frombuffer(bytes.fromhex(colours.NOT_COUNTED[0].lstrip("#")), np.uint8)
    return table


def see_classes(
    label: ClassNumbers,
    after: ClassNumbers,
    before: ClassNumbers | None = None,
    image: NDArray[np.float32] | None = None,
) -> Seen:
    """What there is to see of a window of class numbers, 255 invalid: where they are right, whatever they are.

    The label of that view is 1 wherever the true class is known, so that its IoU is the pixel accuracy.
    """

    def right(numbers: ClassNumbers) -> Prediction:
        return Prediction(np.where(numbers == IGNORE, np.uint8(IGNORE), (numbers == label).view(np.uint8)))

    known = np.where(label == IGNORE, np.uint8(IGNORE), np.uint8(1))
    classes = {"label": label, "after": after}
    if before is None:
        return Seen(known, right(after), None, image, classes)
    return Seen(known, right(after), right(before), image, classes | {"before": before})
