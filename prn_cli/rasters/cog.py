"""Cloud-optimised GeoTIFF, by GDAL's COG driver: the map is written as a plain TIFF first, then copied."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import UsageError, reason
from prn_cli.files.gdal import import_rasterio
from prn_cli.rasters.geo import GeoTags
from prn_cli.rasters.libtiff import silence_libtiff
from prn_cli.rasters.tiff_writing import TiffWriter

_CHOICES = {
    "COMPRESS": ("DEFLATE", "LZW", "ZSTD", "NONE"),
    "PREDICTOR": ("YES", "NO", "STANDARD", "FLOATING_POINT"),
    "BIGTIFF": ("YES", "NO", "IF_NEEDED", "IF_SAFER"),
    "OVERVIEWS": ("AUTO", "NONE"),
    "OVERVIEW_RESAMPLING": ("NEAREST", "AVERAGE", "MODE", "BILINEAR", "CUBIC"),
}
_NUMBERS = {"BLOCKSIZE": (128, 4096, 16), "LEVEL": (1, 22, 1)}


class CogWriter(TiffWriter):
    """A cloud-optimised GeoTIFF being written: tiles of 512 px, deflate, overviews down to a tile.

    The values of a mask stay what they are in the overviews (mode); those of soft maps are means.

    Raises:
        UsageError: an unknown creation option.
        MissingExtraError: rasterio is not installed.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        dtype: np.dtype[Any],
        *,
        geo: GeoTags | None,
        nodata: float | None,
        palette: NDArray[np.uint8] | None,
        creation_options: Mapping[str, str],
    ) -> None:
        self._rasterio = import_rasterio("--format cog")
        self._options = cog_options(dtype, creation_options)
        plain = {"BIGTIFF": "IF_SAFER"}
        super().__init__(path, height, width, dtype, geo=geo, nodata=nodata, palette=palette, creation_options=plain)

    def _finish(self) -> None:
        super()._finish()
        copy = self._place.copy
        silence_libtiff()
        try:
            self._rasterio.shutil.copy(self._temporary, copy, driver="COG", **self._options)
            shutil.copyfile(copy, self._temporary)  # into the file that is locked
        except Exception as error:  # GDAL's are of many kinds
            if isinstance(error, OSError) and error.errno:
                raise
            # GDAL names the call that failed and not the cause, and has removed what it could not finish.
            if shutil.disk_usage(copy.parent).free < self._most_bytes():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise OSError(0, reason(error)) from error
        finally:
            for name in (copy, copy.with_name(f"{copy.name}.ovr.tmp")):
                with suppress(OSError):
                    os.unlink(name)  # noqa: PTH108

    def _most_bytes(self) -> int:
        """What the copy may take on the disk, with a temporary file of overviews beside it."""
        return 2 * self.height * self.width * self.dtype.itemsize


def cog_options(dtype: np.dtype[Any], options: Mapping[str, str]) -> dict[str, str]:
    """Creation options of GDAL's COG driver, with those that were asked for.

    Raises:
        UsageError: an unknown option or value.
    """
    soft = dtype.kind == "f"
    chosen = {
        "COMPRESS": "DEFLATE",
        "BLOCKSIZE": "512",
        "PREDICTOR": "YES" if soft else "NO",
        "BIGTIFF": "IF_SAFER",
        "OVERVIEW_RESAMPLING": "AVERAGE" if soft else "MODE",
    }
    for name, text in options.items():
        key, value = name.upper(), text.upper()
        if key in _CHOICES:
            if value not in _CHOICES[key]:
                raise UsageError(f"{key}={text}, expected one of {', '.join(_CHOICES[key])}")
        elif key in _NUMBERS:
            least, most, step = _NUMBERS[key]
            if not value.isdecimal() or not least <= int(value) <= most or int(value) % step:
                steps = f"a multiple of {step}, " if step > 1 else ""
                raise UsageError(f"{key}={text}, expected {steps}{least} to {most}")
        else:
            known = ", ".join(sorted((*_CHOICES, *_NUMBERS)))
            raise UsageError(f"unknown creation option {key} of cloud-optimised GeoTIFF, expected one of {known}")
        chosen[key] = value
    return chosen
