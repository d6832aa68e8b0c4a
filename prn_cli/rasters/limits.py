"""Limits on what a file may claim to hold, checked before it costs memory or time.

A few kilobytes can declare a map of terabytes, and compression can deliver it. Real maps take space, however large they
are: logits rarely compress tenfold, masks rarely a hundredfold. Small claims pass; large ones must be in proportion to
the bytes stored, unless `--max-pixels` sets a limit.
"""

from __future__ import annotations

import os
from pathlib import Path

from prn_cli.errors import InputError

_SMALL_MAP = 1 << 28  # pixels, counted once per band
_PIXELS_PER_BYTE = 4096  # of a map read by window; as many as in a tile that GDAL leaves out
_SMALL_BLOCK = 1 << 29  # bytes
_BYTES_PER_BYTE = 200  # of what is decoded in one piece, and so costs memory


def check_pixels(
    height: int, width: int, bands: int, *, stored: int, path: Path, max_pixels: int | None = None
) -> None:
    """Refuse a map that is larger than its file of `stored` bytes can plausibly hold, or than `max_pixels` allows.

    The pixels of all bands count.
    """
    pixels = height * width * bands
    what = f"{height}×{width} pixels" + (f" in {bands} bands" if bands > 1 else "")
    if max_pixels and pixels > max_pixels:
        raise InputError(
            f"{what}, expected at most {max_pixels} as --max-pixels says",
            hint="give a greater one if you trust the file",
            path=path,
        )
    if not max_pixels and pixels > max(_SMALL_MAP, stored * _PIXELS_PER_BYTE):
        raise _implausible(what, stored, f"--max-pixels {pixels}", path)


def check_block(size: int, *, stored: int, path: Path, max_pixels: int | None = None) -> None:
    """Refuse a block, decoded in one piece, that does not fit into memory, or is out of proportion to its stored bytes.

    With `max_pixels`, the file is trusted up to there, and proportion is not checked.
    """
    check_memory(size, path)
    if not max_pixels and size > max(_SMALL_BLOCK, stored * _BYTES_PER_BYTE):
        raise _implausible(f"{size / 2**30:.1f} GiB in one piece", stored, "--max-pixels, and how many", path)


def check_memory(size: int, path: Path) -> None:
    """Refuse what needs more bytes than this machine's memory has."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        memory = 64 << 30
    if size > memory:
        raise InputError(
            f"needs {size / 2**30:.1f} GiB of memory at once, and this machine has {memory / 2**30:.1f} GiB",
            hint="save the map as a tiled TIFF or as .npy, which are read by window",
            path=path,
        )


def _implausible(what: str, stored: int, option: str, path: Path) -> InputError:
    return InputError(
        f"{what} out of {stored} bytes: more than real data compress to, as if made to exhaust memory or time",
        hint=f"give {option} if you trust the file",
        path=path,
    )
