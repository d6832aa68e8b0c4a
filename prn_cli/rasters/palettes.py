"""Colours and names of classes."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, UsageError, reason
from prn_cli.files.remote import as_path
from prn_cli.rasters.raster import SUFFIXES, open_raster


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours, and perhaps names, of classes.

    Attributes:
        colours: `(N, 3)` uint8, red, green and blue by class number.
        names: by class number, as far as there are any.
    """

    colours: NDArray[np.uint8]
    names: dict[int, str]


def read_palette(path: str | os.PathLike[str], *, max_pixels: int | None = None) -> Palette:
    """Read the palette of a raster, or a text file of lines `NUMBER RED GREEN BLUE [NAME]`.

    Words are separated by blanks or commas; lines that begin with `#` are comments.
    """
    path = as_path(path)
    if path.suffix.lower() in SUFFIXES:
        with open_raster(path, max_pixels=max_pixels) as raster:
            if raster.palette is None:
                raise InputError("has no palette", hint="name a palette PNG or TIFF, or a text file", path=path)
            return Palette(np.ascontiguousarray(raster.palette[:, :3]), {})
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {reason(error)}", hint="check the file", path=path) from error
    colours: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for line in lines:
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        values = [int(word) if word.isdecimal() else -1 for word in words[:4]]
        if len(values) < 4 or min(values) < 0 or max(values) > 255:
            raise InputError(
                f"the line {line.strip()!r}, expected NUMBER RED GREEN BLUE and perhaps a name, numbers 0 to 255",
                hint="as in: 2 128 64 128 road",
                path=path,
            )
        colours[values[0]] = values[1:]
        if words[4:]:
            names[values[0]] = " ".join(words[4:])
    if not colours:
        raise InputError("no class in it", hint="a line a class: NUMBER RED GREEN BLUE NAME", path=path)
    table = [colours.get(number, [0, 0, 0]) for number in range(max(colours) + 1)]
    return Palette(np.array(table, np.uint8), names)


def class_names(classes: int, given: str | None, palette: Palette | None) -> list[str]:
    """The names of the classes: those given, separated by commas, or the palette's, or their numbers.

    Refuses fewer colours than classes, other than one name per class, and names that are equal or cannot name folders.
    """
    if palette is not None and len(palette.colours) < classes:
        raise UsageError(f"a palette of {len(palette.colours)} colours, expected {classes}", hint="give each class one")
    if given is None:
        named = palette.names if palette is not None else {}
        names = [named.get(number, str(number)) for number in range(classes)]
    else:
        names = [name.strip() for name in given.split(",")]
        if len(names) != classes:
            raise UsageError(
                f"--classes names {len(names)} classes, expected {classes}", hint="name each, in the order of the bands"
            )
    if len(set(names)) != classes or not all(names) or any(set(name) & set("/\\.\0") for name in names):
        raise UsageError(
            f"classes named {', '.join(names)}: expected names that differ, without slashes and dots",
            hint="give other --classes",
        )
    return names
