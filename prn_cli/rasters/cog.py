"""Cloud-optimised GeoTIFF, by GDAL's COG driver: the map is written as a plain TIFF first, then copied."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from prn_cli.errors import reason
from prn_cli.files.gdal import import_rasterio
from prn_cli.rasters.libtiff import silence_libtiff
from prn_cli.rasters.tiff_writing import TiffWriter, checked_options
from prn_cli.rasters.writing import Target

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

    Overviews of a mask hold its values (mode), those of soft maps means.
    """

    def __init__(self, target: Target) -> None:
        self._rasterio = import_rasterio("--format cog")
        self._options = cog_options(target.dtype, target.creation_options)
        super().__init__(replace(target, creation_options={"BIGTIFF": "IF_SAFER"}))

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
            most = 2 * self.height * self.width * self.dtype.itemsize  # with a temporary file of overviews
            if shutil.disk_usage(copy.parent).free < most:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise OSError(0, reason(error)) from error
        finally:
            for name in (copy, copy.with_name(f"{copy.name}.ovr.tmp")):
                with suppress(OSError):
                    os.unlink(name)  # noqa: PTH108


def cog_options(dtype: np.dtype[Any], options: Mapping[str, str]) -> dict[str, str]:
    """Creation options of GDAL's COG driver: those given, and defaults."""
    soft = dtype.kind == "f"
    defaults = {
        "COMPRESS": "DEFLATE",
        "BLOCKSIZE": "512",
        "PREDICTOR": "YES" if soft else "NO",
        "BIGTIFF": "IF_SAFER",
        "OVERVIEW_RESAMPLING": "AVERAGE" if soft else "MODE",
    }
    return defaults | checked_options(options, _CHOICES, _NUMBERS, " of cloud-optimised GeoTIFF")
