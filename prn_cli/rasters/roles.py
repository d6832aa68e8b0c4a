"""What a file is to its reader, and how the files of a set are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

InputKind = Literal["logits", "probabilities", "percent", "byte", "mask"]
"""Meaning of scores: logits; probabilities 0 to 1; percent 0 to 100; byte: 0 to the maximum of the integer type; a mask
of 0 and 1, or 0 and 255."""

INPUT_KINDS: tuple[InputKind, ...] = get_args(InputKind)

Kind = InputKind | Literal["auto", "numbers"]
"""Meaning of the values of a file: scores or a mask, class numbers; `auto` is resolved from the set (see `resolve`)."""

Role = Literal[
    "scores",
    "class scores",
    "label",
    "grey label",
    "class label",
    "mask",
    "class numbers",
    "prediction",
    "class prediction",
    "image",
]
"""What a file is to its reader.

A prediction is a mask or scores, a class prediction class numbers or class scores, as the kind of the reading says.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the files of a set are read.

    Args:
        kind: meaning of the values of predictions.
        nodata: value of invalid pixels, in addition to NaN and the value that a file declares. NaN overrides the
            declared value: no value is nodata then.
        label_nodata: the same for labels.
        band: band of the class in a multi-band map, counted from 1.
        bands: that every score map of the set must have; None if that is unknown.
        scale: by what logits or probabilities were multiplied, to be stored as integers; None if they were not.
        rgb: bands of images to look at, counted from 1, in this order; all if None.
        key: name of the array in `.npz` files.
        max_pixels: upper limit on the pixels of a map, all bands together; None for what the size of its file makes
            plausible (see `prn_cli.rasters.limits`).
    """

    kind: Kind = "auto"
    nodata: float | None = None
    label_nodata: float | None = None
    band: int | None = None
    bands: int | None = None
    scale: float | None = None
    rgb: tuple[int, ...] | None = None
    key: str | None = None
    max_pixels: int | None = None

    @property
    def is_pair(self) -> bool:
        """Whether score maps are read as a softmax pair, background first."""
        return self.bands == 2 and self.band is None

    def nodata_of(self, role: Role) -> float | None:
        """The nodata value of files of a role; images know only the one they declare."""
        if role == "image":
            return None
        return self.label_nodata if role in LABELS else self.nodata


AS_DECLARED = Reading()
"""How files are read that say themselves what there is to know."""

LABELS: frozenset[Role] = frozenset({"label", "grey label", "class label"})
"""Roles of ground truth."""

MASKS: frozenset[Role] = frozenset({"mask", "class numbers"})
"""Roles of predictions that are no scores."""

SCORES: frozenset[Role] = frozenset({"scores", "class scores"})
"""Roles of score maps."""


def nodata_option(role: Role) -> str:
    """The option that gives the nodata value of a role."""
    return "--label-nodata" if role in LABELS else "--nodata"
