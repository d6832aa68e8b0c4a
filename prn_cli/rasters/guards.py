"""Guards: files whose values do not mean what they seem to, refused before they are used.

Each guard stands in one place and holds for every format. `check_stored` looks at what no role can use; `GUARDS` is the
table of the others, by role.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from prn_cli.errors import InputError, UsageError
from prn_cli.maps.classes import MOST_CLASSES
from prn_cli.rasters.base import Raster
from prn_cli.rasters.roles import LABELS, MASKS, SCORES, Reading, Role, nodata_option

GuardedRole = Role | Literal["valid mask"]

_FEW_CHANNELS_LAST, _MOST_CHANNELS_LAST = 4, 32


def check_stored(raster: Raster) -> None:
    """Refuse what no role can use: channels that come last, and rows in another orientation than upright."""
    _, height, width = shape = raster.bands, raster.height, raster.width
    few = (width <= _FEW_CHANNELS_LAST and raster.bands > 2 * width) or width <= _MOST_CHANNELS_LAST < height
    square = raster.bands == height > _MOST_CHANNELS_LAST and width != height
    if raster.bands > width > 1 and (few or square):
        raise raster.error(
            f"shape {shape} looks like (H, W, C), expected (C, H, W)",
            "move the channels first: array.transpose(2, 0, 1)",
        )
    if raster.orientation not in (0, 1):
        raise raster.error(
            f"orientation {raster.orientation}, expected rows from the top and columns from the left: readers differ "
            "in whether they turn it",
            "write it again upright, without the orientation tag",
        )


def check(role: GuardedRole, raster: Raster, reading: Reading) -> None:
    """Refuse a raster that cannot be used in a role, or by these options."""
    for guard, roles in GUARDS:
        if role in roles:
            guard(role, raster, reading)


def check_same_size(raster: Raster, other: Raster) -> None:
    """Refuse a raster whose height and width are not those of another."""
    if (raster.height, raster.width) != (other.height, other.width):
        raise raster.error(
            f"{raster.height}×{raster.width} pixels, expected {other.height}×{other.width} as in {other.path}",
            "make the two the same size",
        )


def _refuse_scale(role: GuardedRole, raster: Raster, reading: Reading) -> None:  # noqa: ARG001
    if raster.scaled:
        raise raster.error(
            "declares a scale or an offset of its numbers, which prn does not apply",
            "write it again (gdal_translate -unscale -ot Float32)",
        )


def _refuse_palette(role: GuardedRole, raster: Raster, reading: Reading) -> None:  # noqa: ARG001
    palette = raster.palette
    if palette is None or raster.bands != 1:
        return
    greys = np.arange(len(palette))[:, np.newaxis]
    if not (palette[:, :3] == greys).all():
        raise raster.error(
            "holds the indices of a palette, expected the scores themselves",
            "write it as grey or float32, without the palette",
        )


def _refuse_white_zero(role: GuardedRole, raster: Raster, reading: Reading) -> None:  # noqa: ARG001
    palette = raster.palette
    if palette is None or raster.bands != 1:
        return
    if palette[0, :3].min() == 255 and (palette[:, :3] == 0).all(axis=1).any():
        raise raster.error(
            "its palette says that 0 is white, so that it is not clear what is valid",
            "write it without a palette, zero where pixels are invalid",
        )


def _check_score_bands(role: GuardedRole, raster: Raster, reading: Reading) -> None:  # noqa: ARG001
    if reading.band is not None and not 1 <= reading.band <= raster.bands:
        raise UsageError(f"band {reading.band} of {raster.bands}", hint="give another --bidx", path=raster.path)
    if reading.bands not in (None, raster.bands):
        found = f"{raster.bands} band{'s' if raster.bands > 1 else ''}"
        raise raster.error(f"{found}, expected {reading.bands} as in the first map", "name maps of one model")
    if raster.bands > 2 and reading.band is None:
        raise UsageError(
            f"{raster.bands} bands, expected 1, or 2 of a softmax",
            hint="choose one class with --bidx, or all with --task multiclass",
            path=raster.path,
        )


def _refuse_more_than_classes(role: GuardedRole, raster: Raster, reading: Reading) -> None:  # noqa: ARG001
    if raster.bands > MOST_CLASSES:
        raise raster.error(
            f"{raster.bands} bands of {raster.height}×{raster.width}, expected at most {MOST_CLASSES} classes: "
            "perhaps (H, W, C)",
            "move the channels first: array.transpose(2, 0, 1)",
        )


def _check_class_bands(role: GuardedRole, raster: Raster, reading: Reading) -> None:  # noqa: ARG001
    if raster.bands < 2:
        raise raster.error(
            f"{raster.bands} band, expected one a class, 2 to {MOST_CLASSES}",
            "save the softmax of all classes as (C, H, W)",
        )


def _check_label_bands(role: GuardedRole, raster: Raster, reading: Reading) -> None:  # noqa: ARG001
    if raster.bands not in (1, 3):  # three may be equal: see `LabelMap`
        raise too_many_bands(raster)


def too_many_bands(raster: Raster) -> InputError:
    """The error of a label with several bands."""
    return raster.error(f"{raster.bands} bands, expected one band", "save a single-band label")


def _refuse_background_as_nodata(role: GuardedRole, raster: Raster, reading: Reading) -> None:
    # Tools that draw labels often declare 0 as nodata. Ignoring it would leave a label without background.
    assert role != "valid mask"
    if raster.nodata == 0 and reading.nodata_of(role) is None:
        option = nodata_option(role)
        raise raster.error(
            "declares 0 as nodata, but 0 is also the background",
            f"say {option} nan to count 0 as background, or {option} 0 to ignore it",
        )


GUARDS: tuple[tuple[Callable[[GuardedRole, Raster, Reading], None], frozenset[GuardedRole]], ...] = (
    # Images are normalised by band, which undoes a scale.
    (_refuse_scale, SCORES | LABELS | MASKS | {"valid mask"}),
    (_refuse_palette, SCORES),
    (_refuse_white_zero, frozenset({"valid mask"})),
    (_refuse_more_than_classes, SCORES),
    (_check_score_bands, frozenset({"scores"})),
    (_check_class_bands, frozenset({"class scores"})),
    (_check_label_bands, LABELS | MASKS),
    # Of class numbers, 0 is often "unlabelled", and other classes are left if it is ignored.
    (_refuse_background_as_nodata, frozenset({"label", "grey label", "mask"})),
)
"""Each guard with the roles that it holds for."""
