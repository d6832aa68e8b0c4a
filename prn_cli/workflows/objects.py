"""Objects of masks: small ones dropped, small holes filled, and polygons of them in a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prn_cli.errors import InputError
from prn_cli.workflows.items import PART

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prn_cli.files.manifest import Manifest
    from prn_cli.maps.components import Runs
    from prn_cli.rasters import GeoTags
    from prn_cli.rasters.grid import Grid

_PARTS = ".polygons"


@dataclass(frozen=True, slots=True)
class Objects:
    """What is done with the objects of the masks.

    Attributes:
        layer: the file of polygons; None if there is none.
        min_area: area below which objects are dropped.
        fill_holes: area below which holes are filled.
    """

    layer: Path | None = None
    min_area: float = 0
    fill_holes: float = 0

    def __post_init__(self) -> None:
        if self.layer is not None:
            from prn_cli.rasters.polygons import check_layer

            check_layer(self.layer)

    def __bool__(self) -> bool:
        return self.layer is not None or self.min_area > 0 or self.fill_holes > 0

    def settings(self) -> dict[str, Any]:
        """What the masks depend on, for the manifest."""
        areas = {"min_area": self.min_area, "fill_holes": self.fill_holes}
        return {name: area for name, area in areas.items() if area > 0}

    def part(self, mask: Path) -> dict[str, Path]:
        """By role, the file of a map's polygons, beside its mask; none if there is no layer."""
        if self.layer is None:
            return {}
        # In the folder of the masks, whatever the layer is called: the tasks of an array share it.
        return {PART: mask.parent / _PARTS / f"{mask.name}.npz"}

    def grid(self, geo: GeoTags | None, source: Path) -> Grid | None:
        """The grid of a map, before the work on it begins; None if nothing is to be done.

        Raises:
            InputError: the map has a georeference that gives no areas, or no polygons.
        """
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

    def clean(self, parts: Sequence[Runs], grid: Grid) -> tuple[Runs, NDArray[np.float64]]:
        """Drop and fill what is too small in a mask that came in parts; gives it, and the area of each of its runs."""
        from prn_cli.maps.components import join

        runs = join(parts)
        middle = runs.starts % runs.width + runs.lengths / 2
        areas = grid.areas(middle, runs.starts // runs.width + 0.5, runs.lengths)
        return runs.cleaned(areas, min_area=self.min_area, fill_holes=self.fill_holes), areas

    def write_layer(self, parts: Mapping[str, Path], manifest: Manifest) -> int:
        """Write the layer from the files of the maps that are done; gives the number of polygons.

        Raises:
            PrnError: the layer cannot be made.
        """
        from prn_cli.rasters.polygons import write_layer

        if self.layer is None:
            return 0
        manifest.begin(manifest.job(inputs={}, settings={}, outputs={"layer": self.layer}))
        return write_layer(self.layer, parts)
