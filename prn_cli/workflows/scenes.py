"""Maps that adjoin by their georeference: small objects and holes are those of the scene, not of its tiles.

What is refined of such a map is kept beside the masks, as a draft: the mask before anything is dropped or filled. When
all maps are drafted, each scene is cleaned as a whole. So a stopped run refines no map twice, and neither does one with
other areas.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prn_cli.errors import PrnError
from prn_cli.files.arrays import load_arrays, save_arrays
from prn_cli.maps.components import Runs
from prn_cli.rasters.adjoining import Ground, find_scenes
from prn_cli.rasters.raster import open_raster
from prn_cli.rasters.reading import Reading, lay_like
from prn_cli.workflows.items import DRAFT, Item
from prn_cli.workflows.objects import Objects
from prn_cli.workflows.work import Work

_DRAFTS = ".drafts"
_NEVER_PLACED = (".npy", ".npz")
_ARRAYS = ("starts", "values", "base", "probability")


@dataclass(frozen=True, eq=False)
class Scene:
    """Maps that adjoin.

    Attributes:
        places: row and column of each map on the scene's grid.
        drafts: what is made of each map first.
    """

    places: Mapping[Path, tuple[int, int]]
    drafts: Mapping[Path, Item]

    def digest(self, work: Work) -> str:
        """Of all files that the drafts are made from: each mask depends on all of them."""
        known = []
        for path, draft in sorted(self.drafts.items()):
            try:
                known.append(work.job(draft).inputs())
            except PrnError as error:  # it fails when its turn comes
                known.append({str(path): {"error": error.message}})
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def scenes_of(items: Sequence[Item], objects: Objects, reading: Reading) -> dict[Path, Scene]:
    """The scene of each map that has a place, if areas are asked for. Only the headers of the maps are read.

    A map that adjoins none is a scene, too: in another part of a job array it may have neighbours.
    """
    if not objects.settings():
        return {}
    by_path = {item.path: item for item in items}
    grounds = {path: ground for path, item in by_path.items() if (ground := _ground(item, reading)) is not None}
    scenes = (Scene(places, {path: _draft(by_path[path]) for path in places}) for places in find_scenes(grounds))
    return {path: scene for scene in scenes for path in scene.places}


def _ground(item: Item, reading: Reading) -> Ground | None:
    like = item.inputs.get("like")
    if item.path.suffix.lower() in _NEVER_PLACED and like is None:
        return None
    try:
        with open_raster(item.path, key=reading.key, max_pixels=reading.max_pixels) as raster:
            if like is not None:
                lay_like(raster, like)
            return Ground.of(raster)
    except (PrnError, OSError):  # it fails when its turn comes
        return None


def _draft(item: Item) -> Item:
    """What is made first: all but the mask and its polygons."""
    mask = item.outputs["mask"]
    floats = {role: path for role, path in item.rasters.items() if role != "mask"}
    return Item(item.path, item.inputs, {DRAFT: mask.parent / _DRAFTS / f"{mask.name}.npz", **floats})


def without_drafts(items: Sequence[Item], scenes: Mapping[Path, Scene]) -> list[Item]:
    """The maps, with what is made of the drafts of those in scenes."""
    made = {path: scene.drafts[path].outputs for path, scene in scenes.items()}
    return [
        Item(item.path, item.inputs, {role: path for role, path in item.outputs.items() if role not in made[item.path]})
        if item.path in made
        else item
        for item in items
    ]


def save_draft(path: Path, runs: Runs) -> None:
    """Keep the mask of a map before it is cleaned."""
    size = np.array([runs.height, runs.width])
    save_arrays(path, {"size": size, **{name: getattr(runs, name) for name in _ARRAYS}})


def load_draft(path: Path) -> Runs:
    """Read what `save_draft` wrote."""
    return load_arrays(path, lambda arrays: Runs(*arrays["size"].tolist(), *(arrays[name] for name in _ARRAYS)))
