"""Labels and masks: two values and what to ignore."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.pixels import IGNORE
from prn_cli.rasters.kinds import InputKind, detect_mask_or_kind, no_valid_pixel, undeclared_nodata, valid_pixels
from prn_cli.rasters.raster import Raster, open_raster
from prn_cli.rasters.scores import check_same_size, open_scores, read_valid_mask


def read_label(
    path: str | os.PathLike[str], *, nodata: float | None = None, key: str | None = None
) -> NDArray[np.uint8]:
    """Read a binary label.

    Foreground is 1 in a file of 0 and 1, and 255 in a file of 0 and 255; a file of one value follows the same rule:
    all 0 is background, all 1 and all 255 are foreground. Ignored are nodata (the file's value or the given one),
    NaN and infinity, and what the file's alpha band or mask excludes.

    Args:
        path: the file: one band, or three equal ones (a grey picture saved as RGB).
        nodata: value of pixels to ignore, besides the one that the file declares; NaN stands for "not that one".
        key: name of the array in an `.npz` file.

    Returns:
        `(H, W)` uint8: 0 background, 1 foreground, 255 ignore.

    Raises:
        InputError: the file cannot be read, has other values, more bands, or no pixel that counts, or declares 0 as
            nodata and `nodata` does not say whether that is so.
    """
    with open_raster(path, key=key) as raster:
        values, valid = _read_single_band(raster, nodata, option="--label-nodata")
    return _binary(values, valid, Path(path), "labels are", option="--label-nodata")


def read_mask_or_scores(
    path: str | os.PathLike[str],
    *,
    kind: InputKind | Literal["mask", "auto"] = "auto",
    nodata: float | None = None,
    valid_mask: str | os.PathLike[str] | None = None,
    band: int | None = None,
    key: str | None = None,
) -> tuple[Literal["mask"] | InputKind, NDArray[np.float32]]:
    """Read a mask, or a map of probabilities or logits.

    Args:
        path: the file.
        kind: `mask` for two values (see `read_label`), or what the numbers of a score map mean; `auto` looks at this
            file alone (for a set, see `detect_mask_or_kind`).
        nodata: value of invalid pixels, besides the one that the file declares.
        valid_mask: a raster of the same size, zero where pixels are invalid.
        band: number of the class's band in a score map, counted from 1.
        key: name of the array in an `.npz` file.

    Returns:
        The kind, and `(H, W)` float32 probabilities (0 and 1 for a mask), NaN where invalid.

    Raises:
        InputError: the file cannot be used.
    """
    if kind == "auto":
        kind = detect_mask_or_kind([path], nodata=nodata, key=key)
    if kind != "mask":
        with open_scores(path, kind=kind, nodata=nodata, valid_mask=valid_mask, band=band, key=key) as scores:
            return kind, scores.probabilities()
    with open_raster(path, key=key) as raster:
        values, valid = _read_single_band(raster, nodata, option="--nodata")
        if valid_mask is not None:
            with open_raster(valid_mask) as validity:
                check_same_size(validity, raster)
                valid &= read_valid_mask(validity)
    undeclared = undeclared_nodata(values[valid])
    if undeclared is not None:
        valid &= values != undeclared
    mask = _binary(values, valid, Path(path), "mask is", option="--nodata")
    result = mask.astype(np.float32)
    result[mask == IGNORE] = np.nan
    return kind, result


def _read_single_band(raster: Raster, nodata: float | None, *, option: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    if raster.bands not in (1, 3):
        raise _too_many_bands(raster)
    if raster.nodata == 0 and nodata is None:
        # Tools that draw labels like to declare 0 as nodata. Ignoring it would leave a label without background.
        raise InputError(
            "declares 0 as nodata, but 0 is also the background",
            hint=f"say {option} nan to count 0 as background, or {option} 0 to ignore it",
            path=raster.path,
        )
    values = raster.read()
    if raster.bands == 3 and not (values[0] == values[1:]).all():
        raise _too_many_bands(raster)
    return values[0], valid_pixels(raster, values[:1], None, nodata, None)


def _too_many_bands(raster: Raster) -> InputError:
    return InputError(
        f"{raster.bands} bands, expected one band of two values", hint="save a single-band label", path=raster.path
    )


def _binary(
    values: NDArray[Any], valid: NDArray[np.bool_], path: Path, subject: str, *, option: str
) -> NDArray[np.uint8]:
    counted = values[valid]
    if not counted.size:
        raise no_valid_pixel(path)
    foreground = 255 if (counted == 255).any() else 1
    others = (counted != 0) & (counted != foreground)
    if others.any():
        found = np.unique(counted)
        listed = ", ".join(f"{value:g}" for value in found[:6].tolist()) + (", …" if len(found) > 6 else "")
        hint = "convert them to 0 and 1"
        if set(found.tolist()) <= {0, 1, 255}:
            hint = f"if 255 means ignore, say so with {option} 255"
        else:
            hint += f", and say with {option} which value to ignore"
        raise InputError(f"{subject} not binary: values {listed}, expected 0 and 1, or 0 and 255", hint=hint, path=path)
    result = np.full(values.shape, IGNORE, np.uint8)
    result[valid] = counted == foreground
    return result
