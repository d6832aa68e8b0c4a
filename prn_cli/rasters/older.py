"""Openers by name, until their callers take `open_map`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from prn_cli.rasters import kinds
from prn_cli.rasters.images import MapImage
from prn_cli.rasters.kinds import count_classes, resolve
from prn_cli.rasters.labels import BinaryMap, ClassNumbers, GreyLabel
from prn_cli.rasters.reading import open_map
from prn_cli.rasters.roles import LABELS, InputKind, Reading, Role
from prn_cli.rasters.scores import ClassScoreMap, ScoreMap

_NAMES = {field.name for field in fields(Reading)}


def _open(role: Role, path: Any, **options: Any) -> Any:
    if "nodata" in options and (role in LABELS):
        options["label_nodata"] = options.pop("nodata")
    reading = Reading(**{name: options.pop(name) for name in _NAMES & set(options)})
    return open_map(role, path, reading, **options)


def _read(role: Role, path: Any, **options: Any) -> Any:
    with _open(role, path, **options) as opened:
        return opened.read()


open_scores: Callable[..., ScoreMap] = partial(_open, "scores")
open_class_scores: Callable[..., ClassScoreMap] = partial(_open, "class scores")
open_label: Callable[..., BinaryMap] = partial(_open, "label")
open_grey_label: Callable[..., GreyLabel] = partial(_open, "grey label")
open_mask: Callable[..., BinaryMap] = partial(_open, "mask")
open_image: Callable[..., MapImage] = partial(_open, "image")


read_grey_label: Callable[..., NDArray[np.uint8]] = partial(_read, "grey label")


def open_class_numbers(path: Any, *, one: int | None = None, **options: Any) -> ClassNumbers:
    """See `ClassNumbers`."""
    found: ClassNumbers = _open("class numbers", path, one=one, **options)
    return found


def read_mask_or_scores(path: Any, *, valid_mask: Any = None, **options: Any) -> Any:
    """The kind, and probabilities."""
    reading = resolve(Reading(**options), [path], "prediction")
    with open_map("prediction", path, reading, valid_mask=valid_mask) as opened:
        return reading.kind, opened.probabilities()


def detect_kind(paths: Any, *, nodata: float | None = None, key: str | None = None) -> InputKind:
    """See `resolve`."""
    return cast("InputKind", resolve(Reading(nodata=nodata, key=key), paths).kind)


def detect_mask_or_kind(paths: Any, *, nodata: float | None = None, key: str | None = None) -> Any:
    """See `resolve`."""
    return resolve(Reading(nodata=nodata, key=key), paths, "prediction").kind


def count_classes_of_maps(paths: Any, *, key: str | None = None) -> int:
    """See `count_classes`."""
    return count_classes(paths, Reading(key=key))


def count_bands(paths: Any, *, key: str | None = None) -> int:
    """See `prn_cli.rasters.kinds.count_bands`."""
    return kinds.count_bands(paths, Reading(key=key))
