"""What GDAL reads by window: remote GeoTIFF (`https://`, `s3://`, `/vsi…`), of which it fetches what is needed; VRT."""

from __future__ import annotations

import threading
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from prn_cli.errors import InputError, reason
from prn_cli.files.gdal import import_rasterio, network_env
from prn_cli.files.remote import gdal_name, sends_parts, state_of, text_without_secrets
from prn_cli.maps.tiles import Window
from prn_cli.rasters.base import Raster
from prn_cli.rasters.geo import GeoTags
from prn_cli.rasters.tiff import geo_tags


class RemoteRaster(Raster):
    """A GeoTIFF that is read through GDAL."""

    noun = "a TIFF"
    driver = "GTiff"
    purpose = "reading remote files"

    def _open(self) -> None:
        self._rasterio = import_rasterio(self.purpose)
        warnings.filterwarnings("ignore", category=self._rasterio.errors.NotGeoreferencedWarning, module="rasterio")
        self._lock = threading.Lock()
        try:
            with network_env(self._rasterio):
                self._file = self._rasterio.open(gdal_name(self.path) or self.path, driver=self.driver)
        except self._rasterio.errors.RasterioError as error:
            if not sends_parts(self.path):  # which GDAL says, and then hides behind what follows from it
                raise self.error(
                    "its server sends files only whole, expected one that knows byte ranges", "download it first"
                ) from error
            raise self._failed(error) from error
        self._describe()

    def _stored_bytes(self) -> int | None:
        return state_of(self.path).size or None

    def _failed(self, error: BaseException) -> InputError:
        said = reason(OSError(text_without_secrets(str(error), self.path)))
        hint = "check the address, the network and the rights"
        if "*" in self.path.name:
            hint = "name each file: globs are for this machine"
        return self.error(f"cannot be read: {said}", hint)

    def _describe(self) -> None:
        file = self._file
        enums = self._rasterio.enums
        if len(set(file.dtypes)) > 1:
            raise InputError(f"bands of {', '.join(file.dtypes)}, expected one type", path=self.path)
        self.dtype = self.native(np.dtype(file.dtypes[0]))
        self.height, self.width, self.nodata = file.height, file.width, file.nodata
        self._alpha = file.count == 2 and file.colorinterp[1] == enums.ColorInterp.alpha
        self._mask = not self._alpha and enums.MaskFlags.per_dataset in file.mask_flag_enums[0]
        self.bands = 1 if self._alpha else file.count
        self.alpha_last = self.bands > 1 and file.colorinterp[-1] == enums.ColorInterp.alpha
        if file.colorinterp[0] == enums.ColorInterp.palette:
            colours = file.colormap(1)
            self.palette = np.array([colours[number] for number in sorted(colours)], np.uint8)
        self.bits = int(file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 0))
        self.scaled = any(scale != 1 for scale in file.scales) or any(file.offsets)
        self.by_columns = all(width < file.width for _, width in file.block_shapes)
        self.geo = self._geo()

    def _geo(self) -> GeoTags | None:
        """The georeference as tags, from a file of one pixel that has it."""
        file = self._file
        where: dict[str, Any] = {}
        if not file.transform.is_identity:
            where = {"transform": file.transform, "crs": file.crs}
        elif file.gcps[0]:
            where = {"gcps": file.gcps[0], "crs": file.gcps[1]}
        if file.rpcs is not None:
            where["rpcs"] = file.rpcs
        if not where:
            return None
        size = {"driver": "GTiff", "height": 1, "width": 1, "count": 1, "dtype": "uint8"}
        with self._rasterio.MemoryFile() as memory:
            with memory.open(**size, **where):
                pass
            with tifffile.TiffFile(BytesIO(memory.read())) as tiff:
                return geo_tags(tiff.pages[0])

    def _read(self, window: Window) -> NDArray[Any]:
        bands = list(range(1, self.bands + 1))
        values: NDArray[Any] = self._through(lambda area: self._file.read(bands, window=area), window)
        return values.astype(self.dtype, copy=False)

    def _valid(self, window: Window) -> NDArray[np.bool_] | None:
        if self._alpha:
            return np.asarray(self._through(lambda area: self._file.read(2, window=area), window) != 0)
        if self._mask:
            return np.asarray(self._through(lambda area: self._file.read_masks(1, window=area), window) != 0)
        return None

    def _through(self, read: Any, window: Window) -> Any:
        area = self._rasterio.windows.Window(window.x, window.y, window.width, window.height)
        try:
            with self._lock, network_env(self._rasterio):  # a file of GDAL's is for one thread at a time
                return read(area)
        except self._rasterio.errors.RasterioError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the file, which is for one thread at a time."""
        if self._file is not None:
            with self._lock:
                super().close()


class VirtualRaster(RemoteRaster):
    """A VRT of GDAL's: a mosaic or a view of other files, which it names. Its formulas in Python are not run."""

    noun = "a VRT"
    driver = "VRT"
    purpose = "reading VRT"

    def _stored_bytes(self) -> int | None:
        return sum(Path(name).stat().st_size for name in self._file.files if Path(name).is_file())

    def _failed(self, error: BaseException) -> InputError:
        return self.error(f"cannot be read: {reason(error)}", "check the files that it names")
