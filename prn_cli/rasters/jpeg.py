"""JPEG files, through Pillow: of images only, since scores and labels do not survive its losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, reason
from prn_cli.maps.tiles import Window
from prn_cli.rasters.limits import check_block
from prn_cli.rasters.pillow import Image
from prn_cli.rasters.raster import Raster


class JpegRaster(Raster):
    """A JPEG: one grey band or three of colour, as stored (a turn in its EXIF data is not applied).

    Decoded whole when it is first read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pixels: NDArray[np.uint8] | None = None
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        with self._open() as image:
            self.width, self.height = image.size
            self.bands = 1 if image.mode == "L" else 3

    def _open(self) -> Image.Image:
        try:
            return Image.open(self.path, formats=["JPEG"])
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises errors of many kinds
            raise _broken(self.path, error) from error

    def _read(self, window: Window) -> NDArray[Any]:
        if self._pixels is None:
            size = 2 * self.height * self.width * self.bands
            check_block(size, stored=self.path.stat().st_size, path=self.path)
            try:
                with self._open() as image:
                    pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
            except (MemoryError, InputError):
                raise
            except Exception as error:
                raise _broken(self.path, error) from error
            self._pixels = pixels.reshape(self.height, self.width, self.bands).transpose(2, 0, 1)
        return np.array(self._pixels[:, *window.slices], order="C")

    def close(self) -> None:
        """Let go of the pixels."""
        self._pixels = None


def _broken(path: Path, error: BaseException) -> InputError:
    return InputError(f"not a JPEG, or damaged: {reason(error)}", hint="write or copy it again", path=path)
