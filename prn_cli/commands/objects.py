"""Options on the objects of a mask: small ones dropped, small holes filled, and polygons of them in a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prn_cli.commands import console
from prn_cli.commands.options import TaskChoice, local, refuse_with_task
from prn_cli.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prn_cli.files.manifest import Manifest
    from prn_cli.maps.components import Runs
    from prn_cli.rasters import GeoTags
    from prn_cli.rasters.grid import Grid

PART = "polygons"
"""Role of the file of a map's polygons, of which the layer is made."""

_PANEL = "Objects"
_PARTS = ".polygons"

MinArea = Annotated[
    float,
    typer.Option(
        "--min-area",
        min=0,
        help="Drop objects below this area: m² on georeferenced maps, pixels on others.",
        rich_help_panel=_PANEL,
    ),
]
FillHoles = Annotated[
    float,
    typer.Option("--fill-holes", min=0, help="Fill holes below this area, in the same unit.", rich_help_panel=_PANEL),
]
Polygons = Annotated[
    Path | None,
    typer.Option(
        "--polygons",
        callback=local,
        metavar="FILE",
        help="Write the masks of all maps as polygons too: .gpkg, .geojson or .fgb.",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Objects:
    """What is asked for of the objects in the masks.

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

    def check_task(self, task: TaskChoice) -> None:
        """Check that there will be objects.

        Raises:
            UsageError: the task is another than masks of one class.
        """
        refuse_with_task(
            task,
            {
                "--polygons": self.layer is not None,
                "--min-area": self.min_area > 0,
                "--fill-holes": self.fill_holes > 0,
            },
            dict.fromkeys((TaskChoice.saliency, TaskChoice.multiclass), "objects are of masks of one class"),
        )

    def check_place(self) -> None:
        """Check that the layer finds a place, before the work on the maps.

        Raises:
            OutputError: its folder cannot be written to.
        """
        from prn_cli.files.temporaries import check_place

        if self.layer is not None:
            check_place(self.layer)

    def settings(self) -> dict[str, Any]:
        """What the masks depend on, for the manifest."""
        return {
            name: value for name, value in (("min_area", self.min_area), ("fill_holes", self.fill_holes)) if value > 0
        }

    def part(self, mask: Path) -> dict[str, Path]:
        """By role, the file of a map's polygons, beside its mask; none if there is no layer."""
        if self.layer is None:
            return {}
        # In the folder of the masks, whatever the layer is called: the tasks of an array share it.
        return {PART: mask.parent / _PARTS / f"{mask.name}.npz"}

    def grid(self, geo: GeoTags | None, source: Path) -> Grid | None:
        """The grid of a map, before the work on it begins; None if nothing is asked for.

        Raises:
            InputError: the map has a georeference from which areas or polygons cannot be had.
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
        """Drop and fill what is too small in a mask that came in parts. Gives it, and the area of each of its runs."""
        from prn_cli.maps.components import join

        runs = join(parts)
        middle = runs.starts % runs.width + runs.lengths / 2
        areas = grid.areas(middle, runs.starts // runs.width + 0.5, runs.lengths)
        return runs.cleaned(areas, min_area=self.min_area, fill_holes=self.fill_holes), areas

    def save(self, path: Path, runs: Runs, grid: Grid, areas: NDArray[np.float64]) -> None:
        """Write the polygons of a clean mask to the file of one map."""
        from prn_cli.rasters.polygons import save_objects, trace_objects

        save_objects(path, trace_objects(runs, grid, areas))

    def write_layer(self, parts: Mapping[str, Path], manifest: Manifest) -> None:
        """Write the layer of all maps that are done, and say so.

        Raises:
            PrnError: the layer cannot be made.
        """
        from prn_cli.rasters.polygons import write_layer

        if self.layer is None:
            return
        manifest.begin(manifest.job(inputs={}, settings={}, outputs={"layer": self.layer}))
        count = write_layer(self.layer, parts)
        console.note(f"{count} polygons → {self.layer}")
