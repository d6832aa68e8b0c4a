"""Logit maps to better masks, with one set of weights or several in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from prn_cli.execution.watch import SILENT, Watch
from prn_cli.options import Option
from prn_cli.workflows.items import WrittenResult
from prn_cli.workflows.options import (
    Device,
    DryRun,
    Logits,
    MapOptions,
    MaskOptions,
    Overwrite,
    Rgb,
    RunOptions,
    TaskOptions,
    shipped_names,
)

_read = partial(Option, panel="Input")
_output = partial(Option, panel="Output")
_written = partial(_output, output=True)
_objects = partial(Option, panel="Objects")
_method = partial(Option, panel="Method")
_by_weights = partial(_method, default="as the weights say")
_parts = partial(Option, panel="Run")
_cluster = partial(Option, panel="Cluster")


@dataclass(frozen=True, kw_only=True)
class RefineOptions(MapOptions, TaskOptions, MaskOptions, RunOptions):
    """Options of `refine`."""

    logits: Logits = field(kw_only=False)
    images: Annotated[
        Path | None,
        _read("Folder of the images that the maps were made from, paired by stem.", metavar="DIR", common=True),
    ] = None
    rgb: Rgb = None
    out: Annotated[
        Path,
        _written(
            "Folder of the masks, named by the inputs' stems; or a file, for a single input.",
            flags=("--out", "-o"),
            aliases=("--output",),
            metavar="MASKS",
            common=True,
        ),
    ]
    probabilities: Annotated[
        Path | None, _written("Write the refined probabilities too, as float32.", metavar="DIR", common=True)
    ] = None
    bias: Annotated[Path | None, _written("Write what was added to the logits too, as float32.", metavar="DIR")] = None
    format: Annotated[
        Literal["auto", "tif", "png", "npy", "cog"],
        _output("Format of the masks; auto: TIFF for TIFF and with --like, else PNG; cog: cloud-optimised GeoTIFF."),
    ] = "auto"
    like: Annotated[
        Path | None,
        _output("GeoTIFF that gives the georeference, or a folder of them, paired by stem.", metavar="FILE|DIR"),
    ] = None
    palette_file: Annotated[
        Path | None,
        _output(
            "Colours of the classes: a PNG or TIFF with a palette, or a text file of NUMBER RED GREEN BLUE NAME.",
            flags=("--palette",),
            metavar="FILE",
        ),
    ] = None
    overwrite: Overwrite = False
    min_area: Annotated[
        float, _objects("Drop objects below this area: m² on georeferenced maps, pixels on others.", least=0)
    ] = 0
    fill_holes: Annotated[float, _objects("Fill holes below this area, in the same unit.", least=0)] = 0
    polygons: Annotated[
        Path | None,
        _objects(
            "Write the masks of all maps as polygons too: .gpkg, .geojson or .fgb.",
            metavar="FILE",
            common=True,
            output=True,
        ),
    ] = None
    simplify: Annotated[
        float,
        _objects("Simplify the outlines of polygons by at most this many pixels: 1 takes the stairs out.", least=0),
    ] = 0
    weights: Annotated[
        tuple[Path, ...],
        _method(
            "Shipped weights by name (see 'prn weights list'), an .onnx file, or a folder of 'prn train'. Several are "
            "applied one after the other.",
            flags=("--weights", "-w"),
            aliases=("--model",),
            metavar="NAME|PATH",
            common=True,
            complete=shipped_names,
        ),
    ] = (Path("fast"),)
    strength: Annotated[
        tuple[float, ...] | None,
        _by_weights(
            "0 leaves the base model's masks, 1 applies all of the correction. One for all weights, or one each.",
            common=True,
            least=0,
            most=1,
        ),
    ] = None
    threshold: Annotated[
        float | Literal["auto"] | None,
        _method(
            "Probability above which a refined pixel is foreground; auto: chosen without labels, for the best expected "
            "score of the set; of several classes, offsets of their logits.",
            flags=("--threshold", "-t"),
            metavar="auto|0..1",
            common=True,
            least=0,
            most=1,
            default="what the weights have learned from labels, else auto",
        ),
    ] = None
    score: Annotated[
        Literal["iou", "dice"], _method("The score that an automatic threshold is chosen for.", flags=("--for",))
    ] = "iou"
    per_image: Annotated[bool, _method("Choose an automatic threshold for each map, not for the set.")] = False
    tile: Annotated[int | None, _by_weights("Side of the windows that larger maps are cut into, px.", least=1)] = None
    tta: Annotated[bool, _method("Average over the eight flips and quarter turns: eight times slower.")] = False
    device: Device = "auto"
    num_parts: Annotated[
        int | None, _parts("Split the inputs into this many parts, and work on one: for job arrays.", least=1)
    ] = None
    part_id: Annotated[int | None, _parts("The part to work on, counted from 0.", least=0)] = None
    dry_run: DryRun = False
    dask: Annotated[
        str | None,
        _cluster(
            "Refine on a Dask cluster: local, a worker a core; local:N, N workers; or a scheduler's tcp://host:8786.",
            metavar="local|local:N|ADDRESS",
        ),
    ] = None
    dask_split: Annotated[
        float, _cluster("Refine maps of more megapixels in sections, on many workers.", metavar="MPX", least=0)
    ] = 100


@dataclass(frozen=True, slots=True)
class RefinedMap:
    """A map that was refined or kept.

    Attributes:
        input: the map.
        outputs: the files written, by role: `mask`, `probabilities`, `bias`.
        status: `refined`, or `kept` if an earlier run refined it.
        figures: counts of pixels, as in the manifest.
        seconds: spent on it.
    """

    input: Path
    outputs: Mapping[str, Path]
    status: Literal["refined", "kept"]
    figures: Mapping[str, Any]
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """For JSON."""
        outputs = {role: str(path) for role, path in self.outputs.items()}
        head = {"input": str(self.input), "status": self.status, **outputs}
        return {**head, **self.figures, "seconds": round(self.seconds, 4)}


@dataclass(frozen=True, kw_only=True)
class RefineResult(WrittenResult):
    """What became of a run; `maps` are in input order."""

    maps: Sequence[RefinedMap] = ()


def refine(options: RefineOptions, watch: Watch = SILENT) -> RefineResult:
    """Refine logit maps into masks.

    A map whose outputs are current is kept: they were made from the same inputs with the same settings. A map that
    fails does not stop the others; the result names it.

    Raises:
        PrnError: nothing could be started.
    """
    from prn_cli.workflows import refine_maps

    return refine_maps.run(options, watch)
