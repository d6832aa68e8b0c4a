"""How the files of a set are read: one value that every opener takes, and one opener."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from prn_cli.rasters.classes import ClassNumbers, ClassScoreMap, open_class_numbers, open_class_scores
from prn_cli.rasters.images import MapImage, open_image
from prn_cli.rasters.kinds import InputKind
from prn_cli.rasters.labels import LabelMap, open_label, open_mask
from prn_cli.rasters.limits import set_max_pixels
from prn_cli.rasters.raster import Raster
from prn_cli.rasters.scores import ScoreMap, open_scores
from prn_cli.rasters.truth import open_grey_label

Kind = InputKind | Literal["auto", "mask", "numbers"]
"""What the numbers of a file mean: scores of some kind, a mask, class numbers; `auto` is found out from the set."""

Role = Literal["scores", "class scores", "label", "grey label", "class label", "mask", "class numbers", "image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the files of a set are read.

    Args:
        kind: what the numbers of score maps or masks mean.
        nodata: value of invalid pixels, besides NaN and the one that a file declares.
        label_nodata: value of label pixels to ignore.
        band: number of the class's band in a map of several, counted from 1.
        key: name of the array in `.npz` files.
        max_pixels: see `prn_cli.rasters.limits.set_max_pixels`.
    """

    kind: Kind = "auto"
    nodata: float | None = None
    label_nodata: float | None = None
    band: int | None = None
    key: str | None = None
    max_pixels: int | None = None


@overload
def open_map(role: Literal["scores"], path: Path, reading: Reading, *, valid_mask: Path | None = None) -> ScoreMap: ...
@overload
def open_map(
    role: Literal["class scores"], path: Path, reading: Reading, *, valid_mask: Path | None = None
) -> ClassScoreMap: ...
@overload
def open_map(role: Literal["label", "grey label"], path: Path, reading: Reading) -> LabelMap: ...
@overload
def open_map(role: Literal["class label"], path: Path, reading: Reading, *, one: int | None = None) -> ClassNumbers: ...
@overload
def open_map(role: Literal["mask"], path: Path, reading: Reading, *, valid_mask: Path | None = None) -> LabelMap: ...
@overload
def open_map(
    role: Literal["class numbers"], path: Path, reading: Reading, *, valid_mask: Path | None = None
) -> ClassNumbers: ...
@overload
def open_map(role: Literal["image"], path: Path, reading: Reading, *, like: Raster, bands: int) -> MapImage: ...
def open_map(role: Role, path: Path, reading: Reading, **more: Any) -> Any:
    """Open a file in its role.

    Args:
        role: what the file is to the caller. Labels take `label_nodata`, the others `nodata`.
        path: the file.
        reading: how the files of its set are read.
        more: `valid_mask`, a raster of the same size, zero where pixels are invalid; `one`, a class to read as 1 and
            all others as 0; of images, `like`, the map that they lie under, and how many `bands` are wanted.

    Returns:
        The open map; use it in a `with` statement.

    Raises:
        InputError: the file cannot be used in this role.
    """
    set_max_pixels(reading.max_pixels)  # this may be another process than the one that read the option
    match role:
        case "scores":
            kind: Any = reading.kind
            return open_scores(path, kind=kind, nodata=reading.nodata, band=reading.band, key=reading.key, **more)
        case "class scores":
            kind = reading.kind
            return open_class_scores(path, kind=kind, nodata=reading.nodata, key=reading.key, **more)
        case "mask":
            return open_mask(path, nodata=reading.nodata, key=reading.key, **more)
        case "class numbers":
            return open_class_numbers(path, nodata=reading.nodata, key=reading.key, **more)
        case "label":
            return open_label(path, nodata=reading.label_nodata)
        case "grey label":
            return open_grey_label(path, nodata=reading.label_nodata)
        case "class label":
            return open_class_numbers(path, nodata=reading.label_nodata, **more)
        case "image":
            return open_image(path, **more)
