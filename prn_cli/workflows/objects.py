"""Objects of masks: drop small ones, fill small holes, and write polygons into a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prn_cli.errors import InputError, UsageError
from prn_cli.workflows.items import PART

if TYPE_CHECKING:
    from prn_cli.files.manifest import Manifest
    from prn_cli.maps.components import Runs, Tile
    from prn_cli.rasters import GeoTags
    from prn_cli.rasters.grid import Grid

_PARTS = ".polygons"


@dataclass(frozen=True, slots=True)
class Objects:
    """What is done with the objects of masks.

    Attributes:
        layer: the file of polygons, if they are written.
        min_area: below which objects are dropped.
        fill_holes: the area below which holes are filled.
        simplify: how far the outlines of polygons may move, px.
    """

    layer: Path | None = None
    min_area: float = 0
    fill_holes: float = 0
    simplify: float = 0

    def __post_init__(self) -> None:
        if self.layer is not None:
            from prn_cli.rasters.polygons import check_layer

            check_layer(self.layer)
        elif self.simplify:
            raise UsageError("--simplify is for polygons, and none are written", hint="add --polygons FILE")

    def __bool__(self) -> bool:
        return self.layer is not None or self.min_area > 0 or self.fill_holes > 0

    def settings(self) -> dict[str, Any]:
        """On what masks depend, for the manifest."""
        given = {name: getattr(self, name) for name in ("min_area", "fill_holes")}
        return {name: value for name, value in given.items() if value > 0}

    def part(self, mask: Path) -> dict[str, Path]:
        """The file of a map's polygons, by role; none without a layer."""
        if self.layer is None:
            return {}
        # In the folder of the masks, which the tasks of a job array share. Other outlines are other files of one mask.
        simplified = f".{self.simplify:g}px" if self.simplify else ""
        return {PART: mask.parent / _PARTS / f"{mask.name}{simplified}.npz"}

    def grid(self, geo: GeoTags | None, source: Path) -> Grid | None:
        """The grid of a map by its georeference, which must allow areas and polygons; None if nothing needs it."""
        from prn_cli.rasters.grid import grid_of
        from prn_cli.rasters.polygons import check_system

        if not self:
            return None
        try:
            grid = grid_of(geo)
        except InputError as error:
            raise InputError(error.message, hint=error.hint, path=source) from error
        if self.layer is not None:
            check_system(self.layer, grid.crs, source)
        return grid

    def clean(self, tiles: Sequence[Tile]) -> list[Runs]:
        """Drop and fill what is too small in a scene; returns the mask of each tile."""
        from prn_cli.maps.components import clean_scene

        return clean_scene(tiles, min_area=self.min_area, fill_holes=self.fill_holes)

    def write_layer(self, parts: Mapping[str, Path], manifest: Manifest) -> int:
        """Write the layer from the files of the maps that are done; returns the number of polygons."""
        from prn_cli.rasters.polygons import write_layer

        if self.layer is None:
            return 0
        manifest.begin(manifest.job(inputs={}, settings={}, outputs={"layer": self.layer}))
        return write_layer(self.layer, parts)
