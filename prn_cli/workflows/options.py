"""Options that several workflows share: each is declared once, with one name everywhere.

Single options are annotations (`labels: Labels`); those that belong together are classes to derive from.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from prn_cli.errors import UsageError
from prn_cli.execution.cores import free_cores
from prn_cli.execution.watch import Watch
from prn_cli.options import Option, Options
from prn_cli.tasks import Task, TaskName, find_task

if TYPE_CHECKING:
    from prn_cli.rasters import Reading
    from prn_cli.rasters.pairs import Paths

_input, _output, _method, _run = (partial(Option, panel=name) for name in ("Input", "Output", "Method", "Run"))

ScoreKind: TypeAlias = Literal["auto", "logits", "probabilities", "percent", "byte", "mask"]

Logits: TypeAlias = Annotated[
    tuple[str, ...],
    Option(
        "Files, folders or globs of logit maps (.npy .npz .tif .png); '-' reads paths from stdin.",
        metavar="LOGITS",
        argument=True,
    ),
]
LogitsHere: TypeAlias = Annotated[
    tuple[str, ...],
    Option(
        "Files, folders or globs of logit maps; '-' reads paths from stdin. Default: logits/",
        metavar="LOGITS",
        default="",
        argument=True,
    ),
]
Labels: TypeAlias = Annotated[
    Path, _input("Folder of labels, paired with the inputs by stem.", flags=("-l",), common=True)
]
Overwrite: TypeAlias = Annotated[bool, _output("Redo outputs that are current, and replace other files.", common=True)]
Device: TypeAlias = Annotated[Literal["auto", "cpu", "cuda"], _run("Where the network runs.")]
DryRun: TypeAlias = Annotated[bool, _run("List what would be done, and why; write nothing.", common=True)]
Seed: TypeAlias = Annotated[int, _run("Random seed.", least=0)]
PatchSide: TypeAlias = Annotated[int, _method("Side of a patch, px.", flags=("-p",), common=True, least=16, most=1024)]
Rgb: TypeAlias = Annotated[
    str | None,
    _input(
        "Bands of the images to look at, counted from 1, such as 4,3,2 for red, green and blue of Landsat.",
        metavar="BANDS",
        default="all of them",
    ),
]
GridName: TypeAlias = Annotated[
    Literal["paper", "exact"], _method("Thresholds a patch may take: the paper's 20, or all its values.")
]


def shipped_names(incomplete: str) -> list[str]:
    """The names of the shipped weights that begin so, for the completion of a shell."""
    from prn_cli.methods.weights import shipped

    return [weights.name for weights in shipped() if weights.name.startswith(incomplete)]


@dataclass(frozen=True, kw_only=True)
class MapOptions(Options):
    """How score maps are read."""

    null: Annotated[bool, _input("Paths on stdin end in NUL.", flags=("-0",))] = False
    recursive: Annotated[bool, _input("Take the maps in subfolders, too.", flags=("-r",))] = False
    input_kind: Annotated[
        ScoreKind,
        _input(
            "What the values mean; auto goes by their type and range, and refuses what is ambiguous; mask: hard masks "
            "instead of scores.",
            common=True,
        ),
    ] = "auto"
    scale: Annotated[
        float | None,
        _input("Factor by which stored logits or probabilities were multiplied, such as 10000.", least=1e-6),
    ] = None
    nodata: Annotated[float | None, _input("Value of invalid pixels, besides NaN and the TIFF tag.")] = None
    valid_mask: Annotated[Path | None, _input("Folder of validity masks, paired by stem: zero is invalid.")] = None
    band: Annotated[
        int | None,
        _input("Band (class) of a multi-band map, counted from 1.", flags=("--bidx",), aliases=("--band",), least=1),
    ] = None
    key: Annotated[str | None, _input("Name of the array in .npz files.")] = None
    max_pixels: Annotated[
        int | None,
        _input(
            "Largest map to accept, in pixels of all bands together; files up to this size are trusted.",
            least=1,
            default="what a file's bytes can plausibly hold",
        ),
    ] = None

    def find_inputs(self, names: Sequence[str], watch: Watch, *, inside: str = "logits") -> Paths:
        """The files behind names, folders and globs; `-` reads paths from stdin. A note counts files of other formats.

        `inside` is the subfolder that stands for a folder without files of its own.
        """
        from prn_cli.rasters import find_inputs
        from prn_cli.rasters.pairs import count_suffixes

        found = find_inputs(names, stdin=sys.stdin, null=self.null, recursive=self.recursive, inside=inside)
        if found.passed_over:
            watch.note(f"files passed over by their suffix: {count_suffixes(found.passed_over)}")
        return found

    def reading(self) -> Reading:
        """How files are read, for openers. Refuses a scale beside a kind that has its own."""
        from prn_cli.rasters import Reading

        if self.scale is not None and self.input_kind in ("percent", "byte"):
            raise UsageError(f"--scale with --input-kind {self.input_kind}", hint="leave one of them out")
        names = ("nodata", "band", "scale", "key", "max_pixels", "label_nodata")
        given = {name: getattr(self, name, None) for name in names}
        return Reading(kind=self.input_kind, rgb=_bands_of(getattr(self, "rgb", None)), **given)


def _bands_of(text: str | None) -> tuple[int, ...] | None:
    """The bands that `--rgb` names."""
    if text is None:
        return None
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"--rgb {text}, expected numbers of bands, counted from 1", hint="as in --rgb 4,3,2")
    return tuple(map(int, words))


@dataclass(frozen=True, kw_only=True)
class ReadOptions(MapOptions):
    """How score maps and labels are read."""

    label_nodata: Annotated[float | None, _input("Label value to ignore.")] = None


def labels_beside(labels: Path, logits: Sequence[str]) -> Path:
    """The folder of the labels: if it was not named, the one in the folder of the logits, or beside it."""
    if labels != Path("labels") or labels.exists() or len(logits) != 1:
        return labels
    return folder_beside(logits[0], labels.name) or labels


def folder_beside(logits: str, name: str) -> Path | None:
    """The folder of this name in the folder of the logits, or beside it; None if there is none."""
    places = (Path(logits) / name, Path(logits).parent / name)
    return next((place for place in places if place.is_dir()), None)


@dataclass(frozen=True, kw_only=True)
class TaskOptions(Options):
    """What the maps segment."""

    task: Annotated[
        TaskName,
        _method(
            "binary: masks; saliency: soft maps, and labels that may be grey; multiclass: maps of class numbers.",
            common=True,
        ),
    ] = "binary"
    classes: Annotated[
        str | None,
        _method("Class names of --task multiclass, separated by commas.", metavar="NAMES", default="their numbers"),
    ] = None

    def find_task(self, workflow: str) -> Task:
        """The task, whose classes are not known yet. Refuses options that it does not take in this workflow."""
        task = find_task(self.task)
        task.refuse(self.given(), workflow)
        return task


@dataclass(frozen=True, kw_only=True)
class MaskOptions(Options):
    """How masks are written."""

    values: Annotated[str, _output("Values of the masks written: 0,255 or 0,1.", metavar="BG,FG")] = "0,255"
    co: Annotated[
        tuple[str, ...] | None,
        _output("TIFF creation option as in GDAL, such as COMPRESS=ZSTD; may be repeated.", metavar="KEY=VALUE"),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mask_values()
        self.creation_options()

    def mask_values(self) -> tuple[int, int]:
        """The values of background and foreground."""
        expected = {"0,255": (0, 255), "0,1": (0, 1)}
        found = expected.get(self.values.replace(" ", ""))
        if found is None:
            raise UsageError(f"--values {self.values}, expected 0,255 or 0,1", hint="give one of the two")
        return found

    def creation_options(self) -> dict[str, str]:
        """The values of `--co` as a mapping."""
        found = {}
        for word in self.co or ():
            key, separator, value = word.partition("=")
            if not key or not separator:
                raise UsageError(f"--co {word}, expected KEY=VALUE", hint="as in --co COMPRESS=ZSTD")
            found[key] = value
        return found


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """A page that shows the run."""

    report: Annotated[
        Path | None,
        _output(
            "Write one HTML page, readable offline: figures, pictures, maps, curves.",
            metavar="FILE",
            common=True,
            output=True,
        ),
    ] = None
    images: Annotated[
        Path | None,
        _output("Folder of the images, shown in the report, paired by stem.", metavar="DIR", common=True),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """How a run uses the machine."""

    threads: Annotated[
        int,
        _run("Threads to use; 0: as many as there are free cores, and at least half of all.", flags=("-j",), least=0),
    ] = 0
    fail_fast: Annotated[bool, _run("Stop at the first failure.")] = False

    def thread_count(self) -> int:
        """How many threads to use: as many as were asked for, else as many as there are free cores."""
        return self.threads or free_cores()


def with_kind(reading: Reading, paths: Sequence[Path], watch: Watch) -> Reading:
    """The reading of a set of score maps, with its kind resolved, and noted, if it is `auto`."""
    from prn_cli.rasters import resolve, with_bands

    found = with_bands(resolve(reading, paths), paths)
    pair = "2 bands: a softmax pair, background first" if found.is_pair else ""
    kind = f"inputs read as {found.kind}" if reading.kind == "auto" else ""
    if kind or pair:
        watch.note("; ".join(filter(None, (kind, pair))))
    return found


def recorded(reading: Reading) -> dict[str, Any]:
    """What a reading of score maps adds to the settings in a manifest."""
    nodata = as_json(reading.nodata)
    known = {"input_kind": reading.kind, "nodata": nodata, "bidx": reading.band, "key": reading.key}
    return known if reading.scale is None else known | {"scale": reading.scale}


def as_json(number: float | None) -> str | None:
    """A number for the settings in a manifest: as text, since JSON has no NaN."""
    return None if number is None else str(number)
