"""Rasters that adjoin on the ground: the tiles of a scene."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.components import find_seams
from prn_cli.rasters.base import Raster

_SLACK = 0.02  # px: georeferences are rounded

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Ground:
    """Where a raster lies: its transform, `(2, 3)` from pixel corners, its system and its size in pixels."""

    transform: NDArray[np.float64]
    system: tuple[tuple[object, ...], ...]
    height: int
    width: int

    @staticmethod
    def of(raster: Raster) -> Ground | None:
        """That of an open raster; None without a transform."""
        affine = None if raster.geo is None else raster.geo.affine()
        if raster.geo is None or affine is None:
            return None
        return Ground(affine, raster.geo.reference_system(), raster.height, raster.width)

    def place_of(self, other: Ground) -> tuple[int, int] | None:
        """Row and column of another on this one's grid; None if it has another grid."""
        if other.system != self.system:
            return None
        inverse = np.linalg.inv(self.transform[:, :2])
        sides = (inverse @ other.transform[:, :2] - np.eye(2)) * (other.width, other.height)
        column, row = inverse @ (other.transform[:, 2] - self.transform[:, 2])
        if np.abs(sides).max() > _SLACK or max(abs(row - round(row)), abs(column - round(column))) > _SLACK:
            return None
        return round(row), round(column)


def find_scenes(grounds: Mapping[K, Ground]) -> list[dict[K, tuple[int, int]]]:
    """Which rasters adjoin, side by side on one grid.

    Returns:
        The scenes, of one raster or more: the row and column of each raster on the scene's grid.
    """
    grids: list[tuple[Ground, dict[K, tuple[int, int]]]] = []
    for key, ground in grounds.items():
        for first, members in grids:
            place = first.place_of(ground)
            if place is not None:
                members[key] = place
                break
        else:
            grids.append((ground, {key: (0, 0)}))
    return [scene for _, members in grids for scene in _scenes(members, grounds)]


def _scenes(places: Mapping[K, tuple[int, int]], grounds: Mapping[K, Ground]) -> Iterable[dict[K, tuple[int, int]]]:
    keys = list(places)
    boxes = [(*places[key], grounds[key].height, grounds[key].width) for key in keys]
    leader = list(range(len(keys)))

    def lead(number: int) -> int:
        while leader[number] != number:
            leader[number] = number = leader[leader[number]]
        return number

    for (one, *_), (other, *_) in find_seams(boxes):
        leader[lead(other)] = lead(one)
    found: dict[int, dict[K, tuple[int, int]]] = {}
    for number, key in enumerate(keys):
        found.setdefault(lead(number), {})[key] = places[key]
    return found.values()
