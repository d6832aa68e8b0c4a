"""Small images for reports, in memory."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PICTURE_KIND = "image/webp"
"""The media type of what `encode_picture` makes."""

_QUALITIES = (75, 55, 35)
_SMALLEST_SIDE = 32


def encode_picture(pixels: NDArray[np.uint8], *, most: int, drawing: bool = True) -> bytes:
    """Encode an image as WebP, at the best quality that fits.

    Args:
        pixels: `(H, W, 3)` uint8, RGB.
        most: upper limit in bytes. Quality is reduced first, then the side halved.
        drawing: few flat colours, which are stored lossless if that fits; not for photographs.
    """
    image = Image.fromarray(pixels)
    while True:
        if drawing:
            data = _encoded(image, lossless=True, quality=60)
            if len(data) <= most:
                return data
        for quality in _QUALITIES:
            data = _encoded(image, quality=quality)
            if len(data) <= most:
                return data
        if max(image.size) <= _SMALLEST_SIDE:
            return data
        image = image.resize((max(image.width // 2, 1), max(image.height // 2, 1)), Image.Resampling.BOX)


def _encoded(image: Image.Image, **options: int) -> bytes:
    target = io.BytesIO()
    image.save(target, "WEBP", method=4, **options)
    return target.getvalue()
