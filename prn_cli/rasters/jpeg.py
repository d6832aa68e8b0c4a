"""JPEG files: of images only, since scores and labels do not survive its losses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.rasters.pillow import PillowRaster


class JpegRaster(PillowRaster):
    """A JPEG: one grey band or three of colour, decoded whole when it is first read."""

    noun, rewrite, format = "a JPEG", "write or copy it again", "JPEG"
    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def _open(self) -> None:
        with self._image() as image:
            self.width, self.height = image.size
            self.bands = 1 if image.mode == "L" else 3
            self._take_orientation(image)
        self.decoded_bytes = 2 * self.height * self.width * self.bands

    def _decode(self) -> NDArray[Any]:
        with self._image() as image:
            return self._upright(np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB")))
