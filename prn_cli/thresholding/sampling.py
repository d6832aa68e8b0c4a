"""A bounded sample of a set of maps that depends on names and sizes alone: the same in any order, on any machine."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from heapq import nsmallest
from unicodedata import normalize

from prn_cli.maps.tiles import Window, cut_windows

MAPS = 256
WINDOWS = 16
SIDE = 512
"""A sample is 256 maps at most, and of each 16 windows of 512×512 px at most: a thousand Mpx."""


def sample_maps(names: Iterable[str], most: int = MAPS) -> list[str]:
    """Draw at most so many maps of a set by a hash of their names, in the order of the hash.

    Names are those by which maps pair with labels: from folders of another place, the same maps are drawn.
    """
    return nsmallest(most, set(names), key=_place)


def sample_windows(name: str, height: int, width: int, most: int = WINDOWS) -> list[Window]:
    """Draw windows of a map from a grid of 512 px, by a hash of its name and their place, in order from the top left.

    All of the grid's if there are no more than `most`.
    """
    windows = cut_windows(height, width, SIDE, SIDE)
    drawn = nsmallest(most, windows, key=lambda window: _place(f"{name} {window.y} {window.x}"))
    return sorted(drawn, key=lambda window: (window.y, window.x))


def _place(text: str) -> bytes:
    composed = normalize("NFC", text)  # some systems take accents in names apart
    return blake2b(composed.encode("utf-8", "surrogatepass"), digest_size=8).digest()
