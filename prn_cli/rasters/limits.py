"""How much a file may claim to hold: what its bytes cannot honestly fill is refused before it costs memory or time.

A few kilobytes can declare a map of terabytes, and compression can make good on it. Honest maps, however large, take
room: logits are seldom packed tenfold, masks seldom a hundredfold. So small claims pass as they are, and large ones by
the bytes that stand behind them, unless `--max-pixels` says how large a map may be.
"""

from __future__ import annotations

import os
from pathlib import Path

from prn_cli.errors import InputError

_SMALL_MAP = 1 << 28  # pixels, counted once a band
_PIXELS_A_BYTE = 4096  # read by window, where the cost is time; as many as a tile has that GDAL leaves out
_SMALL_BLOCK = 1 << 29  # bytes
_BYTES_A_BYTE = 200  # of what is decoded in one piece: what it costs is memory

_most = {"pixels": 0}


def set_max_pixels(pixels: int | None) -> None:
    """Set how many pixels a map may have in this process; None for what its bytes can honestly hold."""
    _most["pixels"] = pixels or 0


def check_pixels(height: int, width: int, bands: int, *, stored: int, path: Path) -> None:
    """Check that a map is not larger than its file's bytes can honestly hold, or than `set_max_pixels` says.

    Args:
        height: rows.
        width: columns.
        bands: each counts.
        stored: bytes of the file.
        path: of the file.

    Raises:
        InputError: it is larger.
    """
    pixels = height * width * bands
    what = f"{height}×{width} pixels" + (f" in {bands} bands" if bands > 1 else "")
    if _most["pixels"]:
        if pixels > _most["pixels"]:
            raise InputError(
                f"{what}, expected at most {_most['pixels']} as --max-pixels says",
                hint="give a greater one if you trust the file",
                path=path,
            )
    elif pixels > max(_SMALL_MAP, stored * _PIXELS_A_BYTE):
        raise _implausible(what, stored, f"--max-pixels {pixels}", path)


def check_block(size: int, *, stored: int, path: Path) -> None:
    """Check that what is decoded in one piece fits the memory, and can honestly come from so many bytes.

    Args:
        size: bytes of the decoded numbers.
        stored: bytes that they are decoded from.
        path: of the file.

    Raises:
        InputError: it does not, or cannot.
    """
    check_memory(size, path)
    if not _most["pixels"] and size > max(_SMALL_BLOCK, stored * _BYTES_A_BYTE):
        raise _implausible(f"{size / 2**30:.1f} GiB in one piece", stored, "--max-pixels, and how many", path)


def check_memory(size: int, path: Path) -> None:
    """Check that so many bytes fit into this machine's memory.

    Raises:
        InputError: they do not.
    """
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
        f"{what} out of {stored} bytes: more than honest data packs to, as if made to exhaust memory or time",
        hint=f"give {option} if you trust the file",
        path=path,
    )
