"""libtiff, of which several libraries bring one: what it says on stderr of its own accord."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path


def silence_libtiff() -> None:
    """Let every libtiff that is loaded so far say nothing on stderr. Where it is not found, it does.

    What is wrong is said once, by the error.
    """
    with suppress(OSError):
        mapped = Path("/proc/self/maps").read_text().split()
        for name in {word for word in mapped if Path(word).name.startswith("libtiff")}:
            ctypes.CDLL(name).TIFFSetErrorHandler(None)
