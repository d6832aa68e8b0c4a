"""PNG and JPEG files through Pillow, without its own limit: sizes are checked here, for all formats alike."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prn_cli.rasters.base import DecodedRaster

__all__ = ["Image", "PillowRaster"]

Image.MAX_IMAGE_PIXELS = None
_ORIENTATION = 274  # tag of EXIF
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
"""By EXIF orientation, the quarter turns counterclockwise, then whether left and right change places."""


class PillowRaster(DecodedRaster):
    """A file that Pillow reads. Its EXIF orientation is applied, so that the pixels are upright."""

    format: ClassVar[str]
    """What Pillow calls the format."""
    _turn = 1

    def _image(self) -> Image.Image:
        with self._one_error():
            return Image.open(self.path, formats=[self.format])

    def _take_orientation(self, image: Image.Image) -> None:
        """Take the orientation from an open file; height and width are then those of the upright image."""
        if "exif" not in image.info:
            return
        with suppress(Exception):  # damaged EXIF data, which say nothing
            self._turn = int(image.getexif().get(_ORIENTATION, 1))
        if self._turn in (5, 6, 7, 8):
            self.height, self.width = self.width, self.height

    def _upright(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """`(bands, H, W)` of pixels as stored, `(h, w)` or `(h, w, bands)`."""
        turns, mirrored = _TURNS.get(self._turn, (0, False))
        pixels = np.rot90(np.atleast_3d(pixels), turns).transpose(2, 0, 1)
        return pixels[..., ::-1] if mirrored else pixels
