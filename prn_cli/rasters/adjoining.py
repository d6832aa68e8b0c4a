"""Rasters that adjoin on the ground: the tiles of a scene."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.components import connected, find_seams
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


def find_scenes(grounds: Mapping[K, Ground]) -> list[dict[K, tuple[int, int]]]:
    """The scenes of rasters, one or more side by side on one grid: the row and column of each on the scene's grid."""
    return [scene for members in _grids(grounds) for scene in _scenes(members, grounds)]


def _grids(grounds: Mapping[K, Ground]) -> list[dict[K, tuple[int, int]]]:
    """The rasters of each grid: the row and column of each on the grid of the first."""
    found: list[dict[K, tuple[int, int]]] = []
    systems: dict[tuple[tuple[object, ...], ...], int] = {}
    # Of the first raster of each grid. All are compared at once, since there may be as many grids as rasters.
    inverses, corners = np.empty((len(grounds), 2, 2)), np.empty((len(grounds), 2))
    numbers = np.empty(len(grounds), np.intp)
    for key, ground in grounds.items():
        known, last = slice(len(found)), ground.transform[:, 2]
        number = systems.setdefault(ground.system, len(systems))
        sides = (inverses[known] @ ground.transform[:, :2] - np.eye(2)) * (ground.width, ground.height)
        places = (inverses[known] @ (last - corners[known])[:, :, np.newaxis])[:, :, 0]
        apart = np.maximum(np.abs(sides).max(axis=(1, 2)), np.abs(places - places.round()).max(axis=1))
        same = (numbers[known] == number) & (apart <= _SLACK)
        if same.any():
            grid = int(same.argmax())
            column, row = places[grid].tolist()
            found[grid][key] = round(row), round(column)
            continue
        inverses[len(found)], corners[len(found)] = np.linalg.inv(ground.transform[:, :2]), last
        numbers[len(found)] = number
        found.append({key: (0, 0)})
    return found


def _scenes(places: Mapping[K, tuple[int, int]], grounds: Mapping[K, Ground]) -> Iterable[dict[K, tuple[int, int]]]:
    keys = list(places)
    boxes = [(*places[key], grounds[key].height, grounds[key].width) for key in keys]
    seams = [(one, other) for (one, *_), (other, *_) in find_seams(boxes)]
    first, second = np.array(seams, np.int64).reshape(-1, 2).T
    found: dict[int, dict[K, tuple[int, int]]] = {}
    for key, number in zip(keys, connected(len(keys), first, second).tolist(), strict=True):
        found.setdefault(number, {})[key] = places[key]
    return found.values()
