"""libtiff, which several libraries bundle: its messages on stderr."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path


def silence_libtiff() -> None:
    """Silence every libtiff that is loaded so far, where it is found: what is wrong is said once, by the error."""
    with suppress(OSError):
        mapped = Path("/proc/self/maps").read_text().split()
        for name in {word for word in mapped if Path(word).name.startswith("libtiff")}:
            ctypes.CDLL(name).TIFFSetErrorHandler(None)
