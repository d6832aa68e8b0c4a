"""The opener: a file in its role."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, UsageError
from prn_cli.files.remote import as_path
from prn_cli.rasters.alignment import lay_on
from prn_cli.rasters.base import Raster
from prn_cli.rasters.guards import check, check_same_size
from prn_cli.rasters.images import MapImage
from prn_cli.rasters.kinds import resolve
from prn_cli.rasters.labels import BinaryMap, ClassNumbers, GreyLabel
from prn_cli.rasters.raster import IMAGE_SUFFIXES, SUFFIXES, open_raster
from prn_cli.rasters.roles import AS_DECLARED, INPUT_KINDS, LABELS, Kind, Reading, Role
from prn_cli.rasters.scores import ClassScoreMap, MaskScores, ScoreMap
from prn_cli.rasters.valid import ValidMap

__all__ = ["Kind", "Reading", "Role", "lay_like", "open_map", "read_label", "resolve"]

_OPENED: Mapping[Role, type[ValidMap]] = {
    "scores": ScoreMap,
    "class scores": ClassScoreMap,
    "label": BinaryMap,
    "grey label": GreyLabel,
    "class label": ClassNumbers,
    "mask": BinaryMap,
    "class numbers": ClassNumbers,
    "image": MapImage,
}
_PREDICTIONS: Mapping[str, Mapping[Kind, Role]] = {
    "prediction": {**dict.fromkeys(INPUT_KINDS, "scores"), "mask": "mask"},
    "class prediction": {"numbers": "class numbers", **dict.fromkeys(INPUT_KINDS, "class scores")},
}
_Path = str | os.PathLike[str]


class _More(TypedDict, total=False):
    """See `open_map`."""

    valid_mask: _Path | None
    georeference: _Path | None
    like: Raster | None
    one: int | None
    any_shape: bool
    shape: tuple[int, int] | None
    bands: int | None


_Labels = Literal["label", "mask"]
_Classes = Literal["class label", "class numbers"]


@overload
def open_map(role: Literal["scores"], path: _Path, reading: Reading = ..., **more: Unpack[_More]) -> ScoreMap: ...
@overload
def open_map(
    role: Literal["class scores"], path: _Path, reading: Reading = ..., **more: Unpack[_More]
) -> ClassScoreMap: ...
@overload
def open_map(role: _Labels, path: _Path, reading: Reading = ..., **more: Unpack[_More]) -> BinaryMap: ...
@overload
def open_map(role: Literal["grey label"], path: _Path, reading: Reading = ..., **more: Unpack[_More]) -> GreyLabel: ...
@overload
def open_map(role: _Classes, path: _Path, reading: Reading = ..., **more: Unpack[_More]) -> ClassNumbers: ...
@overload
def open_map(
    role: Literal["prediction"], path: _Path, reading: Reading = ..., **more: Unpack[_More]
) -> ScoreMap | BinaryMap: ...
@overload
def open_map(
    role: Literal["class prediction"], path: _Path, reading: Reading = ..., **more: Unpack[_More]
) -> ClassScoreMap | ClassNumbers: ...
@overload
def open_map(role: Literal["image"], path: _Path, reading: Reading = ..., **more: Unpack[_More]) -> MapImage: ...
def open_map(
    role: Role,
    path: _Path,
    reading: Reading = AS_DECLARED,
    *,
    valid_mask: _Path | None = None,
    georeference: _Path | None = None,
    like: Raster | None = None,
    **more: Any,
) -> Any:
    """Open a file in its role.

    Args:
        role: what the file is to the caller.
        path: the file.
        reading: how the files of its set are read. A kind of `auto` is resolved by this file alone; for a set, resolve
            it first.
        valid_mask: a raster that is zero where pixels are invalid. Read as `like` says, on the grid of this file.
        georeference: a raster that says where this file lies, see `lay_like`.
        like: the map that the file belongs to, on whose grid it is read. Where both are georeferenced, the georeference
            says where the file lies, and the nearest pixel counts; but see `MapImage` for images. Otherwise both must
            be of one size.
        more: see `ClassNumbers` and `MapImage`.

    Returns:
        The open map; use it in a `with` statement.

    Raises:
        InputError: the file cannot be used in this role.
        UsageError: the reading does not fit the file.
        MissingExtraError: a library that reads the file is not installed.
    """
    path = as_path(path)
    if role in _PREDICTIONS:
        reading = resolve(reading, [path], role)  # type: ignore[arg-type]
        role = _PREDICTIONS[role].get(reading.kind) or _bad_kind(reading.kind)
    kind: type[ValidMap] = _OPENED[role]
    if reading.kind == "mask" and role == "class scores":
        raise UsageError("--input-kind mask, expected scores with a band a class", path=path)
    if reading.kind == "mask" and role == "scores":
        role, kind = "mask", MaskScores
    image = role == "image"
    with ExitStack() as stack:
        raster = stack.enter_context(
            open_raster(
                path,
                key=None if image or role in LABELS else reading.key,
                max_pixels=reading.max_pixels,
                suffixes=IMAGE_SUFFIXES if image else SUFFIXES,
            )
        )
        check(role, raster, reading)
        if georeference is not None:
            lay_like(raster, georeference)
        if image:
            more["like"] = like
        elif like is not None:
            raster = lay_on(raster, like)
        if role in ("scores", "class scores"):
            reading = resolve(reading, [path])
            if reading.kind not in INPUT_KINDS:
                _bad_kind(reading.kind)
        valid = None
        if valid_mask is not None:
            valid = stack.enter_context(open_raster(valid_mask, max_pixels=reading.max_pixels))
            check("valid mask", valid, reading)
            valid = lay_on(valid, raster)
        opened = kind(raster, role, reading, valid, **more)
        stack.pop_all()
    return opened


def read_label(
    path: _Path, reading: Reading = AS_DECLARED, role: Literal["label", "grey label", "class label"] = "label"
) -> NDArray[np.uint8]:
    """Read a label whole, see `open_map`: `(H, W)` uint8, 0 background, 1 foreground or the class, 255 ignore."""
    with open_map(role, path, reading) as label:
        return label.read()


def lay_like(raster: Raster, path: _Path) -> None:
    """Give an open raster the georeference of another of the same size, unless it has one, which must be the same."""
    with open_raster(path, max_pixels=raster.max_pixels) as reference:
        if reference.geo is None:
            raise InputError("has no georeference", hint="give another --like", path=path)
        if raster.geo is None or not raster.geo.is_placed:
            check_same_size(reference, raster)
            raster.geo = reference.geo
            return
        lay_on(reference, raster)
        place = raster.geo.affine()
        if place is not None and not raster.geo.reference_system():  # of a world file, for example
            raster.geo = reference.geo.placed(place)


def _bad_kind(kind: str) -> Role:
    raise UsageError(f"input kind '{kind}', expected auto, {', '.join(INPUT_KINDS)}")
