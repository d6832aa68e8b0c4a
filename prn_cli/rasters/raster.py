"""The table of formats by suffix, and what opens and creates files by it.

A format is imported when a file needs it, since each brings its own libraries.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from prn_cli.errors import InputError, PrnError, UsageError, reason
from prn_cli.files.remote import as_path, gdal_name
from prn_cli.maps.tiles import row_bands
from prn_cli.rasters.base import TIFF_SUFFIXES, Raster, holds
from prn_cli.rasters.geo import GEO_KEYS
from prn_cli.rasters.guards import check_stored
from prn_cli.rasters.roles import AS_DECLARED, Reading
from prn_cli.rasters.sidecars import read_sidecars
from prn_cli.rasters.writing import RasterWriter, Target

T = TypeVar("T")

_JPEG = (".jpg", ".jpeg")
_READERS = {
    ".npy": "npy:NpyRaster",
    ".npz": "npy:NpzRaster",
    **dict.fromkeys(TIFF_SUFFIXES, "tiff:TiffRaster"),
    ".png": "png:PngRaster",
    **dict.fromkeys(_JPEG, "jpeg:JpegRaster"),
}
_WRITERS = {
    **dict.fromkeys(TIFF_SUFFIXES, "tiff_writing:TiffWriter"),
    ".png": "png_writing:PngWriter",
    ".npy": "writing:NpyWriter",
}
VRT = ".vrt"
"""Of files that name others: read if it is named itself, never because it lies in a folder."""

_REMOTE, _COG, _SOFT_PNG = "remote:RemoteRaster", "cog:CogWriter", "png_writing:SoftPngWriter"

IMAGE_SUFFIXES = tuple(_READERS)  # without VRT, which is read if it is named itself
"""Suffixes of images, in lower case."""

SUFFIXES = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix not in _JPEG)
"""Suffixes of maps and labels, in lower case: JPEG is lossy, which scores and labels do not survive."""

WRITTEN_SUFFIXES = tuple(_WRITERS)
"""Suffixes of the files that `create_raster` writes, in lower case."""

_END_OF_PNG = b"IEND\xaeB`\x82"


def open_raster(
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    max_pixels: int | None = None,
    suffixes: Sequence[str] = SUFFIXES,
) -> Raster:
    """Open a raster file by the format that its suffix names.

    Args:
        path: the file, or the address of a remote `.tif` or `.tiff`. A `.vrt` may be given whatever the suffixes.
        key: name of the array in an `.npz` file; other formats ignore it.
        max_pixels: see `prn_cli.rasters.roles.Reading`.
        suffixes: the formats that are accepted.

    Returns:
        The open raster; use it in a `with` statement.

    Raises:
        InputError: the file is missing, empty, damaged, of an unknown format or of an unsupported shape or type,
            claims more pixels than its limit, or is refused by `prn_cli.rasters.guards.check_stored`.
        MissingExtraError: a remote file or a VRT, and rasterio is not installed.
    """
    path = as_path(path)
    check_file(path)
    suffix = path.suffix.lower()
    remote = gdal_name(path) is not None
    if remote and suffix not in TIFF_SUFFIXES:
        found, hint = f"a remote file that ends in '{path.suffix}'", "download it first"
        if not suffix:
            found, hint = "a remote name without a suffix", "name each file: folders are for this machine"
        raise InputError(f"{found}, expected .tif or .tiff", hint=hint, path=path)
    if suffix not in (*suffixes, VRT):
        raise InputError(
            f"unknown format '{path.suffix}', expected one of {' '.join(suffixes)}",
            hint="JPEG blurs numbers: save it without loss"
            if suffix in _JPEG
            else "convert the file, or rename it if its suffix is wrong",
            path=path,
        )
    reader = _REMOTE if remote else "remote:VirtualRaster" if suffix == VRT else _READERS[suffix]
    try:
        raster: Raster = _load(reader)(path, key=key, max_pixels=max_pixels)
    except OSError as error:
        raise InputError(f"cannot be read: {reason(error)}", hint="check the file", path=path) from error
    try:
        read_sidecars(raster)
        check_stored(raster)
    except BaseException:
        raster.close()
        raise
    return raster


def read_each(
    paths: Iterable[str | os.PathLike[str]],
    read: Callable[[Raster], T],
    reading: Reading = AS_DECLARED,
    *,
    none: str,
    suffixes: Sequence[str] = SUFFIXES,
) -> Iterator[T]:
    """What is read of each file. Those that cannot be read are skipped: they fail on their own when their turn comes.

    Raises:
        InputError: none can be read; with the message `none` where there are no files.
        UsageError: none can with these options: several arrays in an archive, an extra that is missing.
    """
    failure: InputError | UsageError | None = None
    some = False
    for path in paths:
        try:
            with open_raster(path, key=reading.key, max_pixels=reading.max_pixels, suffixes=suffixes) as raster:
                found = read(raster)
        except (InputError, UsageError) as error:
            failure = failure or error
            continue
        some = True
        yield found
    if not some:
        raise failure or InputError(none, hint="name files or folders")


def tiff_suffix(path: Path) -> str:
    """The suffix of a TIFF made of this file: its own, `.tif` of a VRT; empty if it is neither."""
    suffix = path.suffix.lower()
    return suffix if suffix in TIFF_SUFFIXES else ".tif" if suffix == VRT else ""


def check_file(path: Path) -> None:
    """Check that a path names a regular file that is not empty. Remote files are checked when they are opened."""
    if gdal_name(path) is not None:
        return
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError("no such file", hint="check the path", path=path) from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {reason(error)}", hint="check the path", path=path) from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError("is a folder, expected a file", hint="name a file in it", path=path)
    if not stat.S_ISREG(status.st_mode):
        raise InputError("is not a regular file", hint="save the data to a file first", path=path)
    if status.st_size == 0:
        raise InputError("empty file (0 bytes)", hint="write it again", path=path)


def is_whole(path: Path) -> bool:
    """Whether a file is a raster that can be read to its end."""
    try:
        if path.suffix.lower() == ".png" and not path.read_bytes().endswith(_END_OF_PNG):  # Pillow does without
            return False
        with open_raster(path) as raster:
            for band in row_bands(raster.height, raster.width):
                raster.read(band)
    except (PrnError, OSError):
        return False
    return True


def create_raster(
    path: str | os.PathLike[str],
    *,
    height: int,
    width: int,
    dtype: DTypeLike,
    like: Raster | None = None,
    bands: int = 1,
    downscale: int = 1,
    nodata: float | None = None,
    soft: bool = False,
    palette: NDArray[np.uint8] | None = None,
    cog: bool = False,
    creation_options: Mapping[str, str] | None = None,
) -> RasterWriter:
    """Create a raster of one band, or of several in npy, in the format that the suffix of its path names.

    Memory holds a few rows only, except for PNG of probabilities, which is held whole: a byte a pixel, two if some are
    invalid.

    Args:
        path: a `.tif`, `.tiff`, `.png` or `.npy` file. Its folder is made if need be.
        height: rows.
        width: columns.
        dtype: type of the values; PNG takes uint8 and uint16.
        like: raster whose georeferencing a TIFF gets, and of PNG what a file beside it can hold.
        bands: for npy; the file is `(bands, height / bands, width)`, and its rows are those of the first band, then of
            the second, and so on.
        downscale: side of one pixel in pixels of `like`, for maps with a value per patch.
        nodata: value of invalid pixels: tag 42113 in TIFF, the transparent grey value in PNG; npy cannot hold it.
        soft: the values are float32 probabilities, NaN invalid, and may be rounded as the format requires: PNG gets
            8-bit grey, 255 for 1, with an alpha channel if there are invalid pixels.
        palette: `(N, 3)` uint8, the colours of the numbers 0 to N - 1, for uint8 maps of classes. npy cannot hold it.
        cog: TIFF is cloud-optimised; needs rasterio, and its creation options are those of GDAL's COG driver.
        creation_options: for TIFF, as in GDAL: COMPRESS (DEFLATE, LZW, ZSTD, NONE), TILED (YES, NO), BLOCKXSIZE,
            BLOCKYSIZE, PREDICTOR (1, 2, 3), BIGTIFF (YES, NO, IF_NEEDED, IF_SAFER). Other formats ignore them.

    Returns:
        The writer; use it in a `with` statement.

    Raises:
        UsageError: an unknown format or creation option, or a type that the format cannot hold.
        MissingExtraError: `cog`, and rasterio is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    kind = np.dtype(dtype)
    if nodata is not None and kind.kind != "f" and not holds(kind, nodata):
        raise ValueError(f"nodata {nodata} is not a number of type {kind}")
    if suffix not in _WRITERS:
        raise UsageError(
            f"cannot write '{path.suffix}', expected one of {' '.join(WRITTEN_SUFFIXES)}",
            hint="give another name",
            path=path,
        )
    tiff, png = suffix in TIFF_SUFFIXES, suffix == ".png"
    if png and not soft and kind not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise UsageError(f"PNG cannot hold {kind}, only uint8 and uint16", hint="write .tif or .npy", path=path)
    if bands > 1 and suffix != ".npy":
        raise ValueError(f"{bands} bands in '{suffix}'")
    geo = None if like is None or like.geo is None else like.geo.downscaled(downscale)
    if geo is not None and not tiff and GEO_KEYS in geo.tags:  # which only TIFF holds
        geo = None
    name = _COG if tiff and cog else _SOFT_PNG if png and soft else _WRITERS[suffix]
    target = Target(path, height, width, kind, bands, nodata, palette, geo, creation_options or {})
    writer: RasterWriter = _load(name)(target)
    return writer


def _load(name: str) -> Any:
    module, _, kind = name.partition(":")
    return getattr(import_module(f"prn_cli.rasters.{module}"), kind)
