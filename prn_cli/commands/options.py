"""Every option of the command line, defined once. Names follow rio and GDAL where those have one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from prn_cli.commands import console
from prn_cli.commands.settings import use_settings
from prn_cli.errors import UsageError

if TYPE_CHECKING:
    from prn_cli.rasters import InputKind as InputKindName


def local(path: Path | None) -> Path | None:
    """Callback of every option that names an output: only inputs may be on other machines.

    Raises:
        UsageError: the path is a remote address.
    """
    from prn_cli.files.remote import as_path, gdal_name

    if path is not None and gdal_name(path) is not None:
        hint = "give a folder or file of this machine, and copy it"
        raise UsageError("outputs are local", hint=hint, path=as_path(path))
    return path


class InputKindChoice(StrEnum):
    """What the numbers of an input mean."""

    auto = "auto"
    logits = "logits"
    probabilities = "probabilities"
    percent = "percent"
    byte = "byte"


class GridChoice(StrEnum):
    """Which thresholds a patch may take."""

    paper = "paper"
    exact = "exact"


class DeviceChoice(StrEnum):
    """Where the network runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class TaskChoice(StrEnum):
    """What the maps are of."""

    binary = "binary"
    saliency = "saliency"
    multiclass = "multiclass"


_INPUT = "Input"
_OUTPUT = "Output"
_RUN = "Run"

Logits = Annotated[
    list[str],
    typer.Argument(
        metavar="LOGITS...",
        help="Files, folders or globs of logit maps (.npy .npz .tif .png); '-' reads paths from stdin.",
        show_default=False,
    ),
]
OptionalLogits = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[LOGITS]...",
        help="Files, folders or globs of logit maps; '-' reads paths from stdin. Default: logits/",
        show_default=False,
    ),
]
Masks = Annotated[
    list[str],
    typer.Argument(
        metavar="MASKS...", help="Files, folders or globs of masks or probability maps; '-' reads paths from stdin."
    ),
]
Labels = Annotated[
    Path,
    typer.Option("--labels", "-l", help="Folder of labels, paired with the inputs by stem.", rich_help_panel=_INPUT),
]
Null = Annotated[bool, typer.Option("--null", "-0", help="Paths on stdin end in NUL.", rich_help_panel=_INPUT)]
InputKind = Annotated[
    InputKindChoice,
    typer.Option(
        "--input-kind",
        help="What the numbers mean; auto looks at type and range, and refuses what is ambiguous.",
        rich_help_panel=_INPUT,
    ),
]
Nodata = Annotated[
    float | None,
    typer.Option(
        "--nodata", help="Value of invalid pixels, besides NaN, infinity and the TIFF tag.", rich_help_panel=_INPUT
    ),
]
LabelNodata = Annotated[
    float | None, typer.Option("--label-nodata", help="Label value to ignore.", rich_help_panel=_INPUT)
]
ValidMask = Annotated[
    Path | None,
    typer.Option(
        "--valid-mask",
        help="Folder of validity masks, paired by stem: zero is invalid.",
        rich_help_panel=_INPUT,
        show_default=False,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="DIR",
        help="Folder of the images that the maps were made from, paired by stem: the refiner sees them, too.",
        rich_help_panel=_INPUT,
        show_default=False,
    ),
]
Band = Annotated[
    int | None,
    typer.Option("--bidx", min=1, help="Band (class) of a multi-band map, counted from 1.", rich_help_panel=_INPUT),
]


MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        help="Most pixels of a map, all bands together; trusts files up to there.",
        rich_help_panel=_INPUT,
        show_default="what a file's bytes can honestly hold",
    ),
]
Key = Annotated[str | None, typer.Option("--key", help="Name of the array in .npz files.", rich_help_panel=_INPUT)]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Redo outputs that are current; write over any other file.", rich_help_panel=_OUTPUT
    ),
]
CreationOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--co",
        metavar="KEY=VALUE",
        help="TIFF creation option as in GDAL, such as COMPRESS=ZSTD; may be repeated.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]
Values = Annotated[
    str,
    typer.Option(
        "--values", metavar="BG,FG", help="Values of the masks written: 0,255 or 0,1.", rich_help_panel=_OUTPUT
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.", rich_help_panel=_OUTPUT)]
Threads = Annotated[
    int,
    typer.Option("--threads", "-j", min=0, help="Threads to use; 0: as many as cores.", rich_help_panel=_RUN),
]
NumParts = Annotated[
    int | None,
    typer.Option(
        "--num-parts",
        min=1,
        help="Split the inputs into this many parts, and work on one: for job arrays.",
        rich_help_panel=_RUN,
        show_default=False,
    ),
]
PartId = Annotated[
    int | None,
    typer.Option(
        "--part-id", min=0, help="The part to work on, counted from 0.", rich_help_panel=_RUN, show_default=False
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="List what would be done, and why; write nothing.", rich_help_panel=_RUN)
]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.", rich_help_panel=_RUN)]
Device = Annotated[DeviceChoice, typer.Option("--device", help="Where the network runs.", rich_help_panel=_RUN)]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything that is drawn.", rich_help_panel=_RUN)]
Settings = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        metavar="FILE",
        is_eager=True,
        callback=use_settings,
        help="TOML file of options; the command line and the environment come first.",
        rich_help_panel=_RUN,
        show_default=False,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=console.set_quiet, help="Errors only.", rich_help_panel=_RUN)
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", callback=console.set_verbose, help="Say more, tracebacks too.", rich_help_panel=_RUN
    ),
]
Patch = Annotated[
    int, typer.Option("--patch", "-p", min=16, max=1024, help="Side of a patch, px.", rich_help_panel="Method")
]
Grid = Annotated[
    GridChoice,
    typer.Option(
        "--grid", help="Thresholds a patch may take: the paper's 20, or all its values.", rich_help_panel="Method"
    ),
]

Task = Annotated[
    TaskChoice,
    typer.Option(
        "--task",
        help="binary: masks; saliency: soft maps, and labels that may be grey; multiclass: maps of class numbers.",
        rich_help_panel="Method",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="NAMES",
        help="Names of the classes of --task multiclass, separated by commas.",
        rich_help_panel="Method",
        show_default="their numbers",
    ),
]
PaletteFile = Annotated[
    Path | None,
    typer.Option(
        "--palette",
        metavar="FILE",
        help="Colours of the classes: a PNG or TIFF with a palette, or a text file of NUMBER RED GREEN BLUE NAME.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]


def thread_count(threads: int) -> int:
    """The number of threads that `--threads` asks for: 0 is every core this process may use."""
    from prn_cli.execution.cores import core_count

    return threads or core_count()


def kind_of(kind: str, paths: Sequence[Path], *, nodata: float | None, key: str | None = None) -> InputKindName:
    """What the numbers of a set mean: as `--input-kind` says, or found out, and said.

    Raises:
        InputError: that cannot be told.
    """
    if kind != InputKindChoice.auto:
        return cast("InputKindName", str(kind))
    from prn_cli.rasters import Reading, resolve

    found = cast("InputKindName", resolve(Reading(nodata=nodata, key=key), paths).kind)
    console.note(f"inputs read as {found}")
    return found


def as_json(number: float | None) -> str | None:
    """A number for the settings in a manifest: JSON has no NaN."""
    return None if number is None else str(number)


def refuse_with_task(task: TaskChoice, given: Mapping[str, bool], why: Mapping[TaskChoice, str]) -> None:
    """Refuse options that have no part in a task.

    Args:
        task: the task.
        given: by the name of an option, whether it was given.
        why: by task, why none of them has a part in it. Tasks that are not there take them all.

    Raises:
        UsageError: naming the first that was given.
    """
    for option, is_given in given.items():
        if is_given and task in why:
            raise UsageError(f"{option} with --task {task.value}: {why[task]}", hint=f"leave {option} out")


def check_classes(
    task: TaskChoice, *, classes: str | None, band: int | None = None, palette: Path | None = None
) -> None:
    """Check that `--classes`, `--bidx` and `--palette` suit the task.

    Raises:
        UsageError: they do not.
    """
    refuse_with_task(task, {"--bidx": band is not None}, {TaskChoice.multiclass: "all classes are taken"})
    for option, value in (("--classes", classes), ("--palette", palette)):
        if task is not TaskChoice.multiclass and value is not None:
            raise UsageError(f"{option} is for --task multiclass", hint=f"add it, or leave {option} out")


def creation_options(options: list[str] | None) -> dict[str, str]:
    """The words after `--co` as a mapping; the case of keys and values is kept.

    Raises:
        UsageError: a word without `=`, or without a key.
    """
    found = {}
    for option in options or []:
        key, separator, value = option.partition("=")
        if not key or not separator:
            raise UsageError(f"--co {option}, expected KEY=VALUE", hint="as in --co COMPRESS=ZSTD")
        found[key] = value
    return found


def mask_values(values: str) -> tuple[int, int]:
    """The values of background and foreground that `--values` asks for.

    Raises:
        UsageError: other than 0,255 and 0,1.
    """
    expected = {"0,255": (0, 255), "0,1": (0, 1)}
    found = expected.get(values.replace(" ", ""))
    if found is None:
        raise UsageError(f"--values {values}, expected 0,255 or 0,1", hint="give one of the two")
    return found
