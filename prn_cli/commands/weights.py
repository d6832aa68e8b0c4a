"""`prn weights`: what there is, published checkpoints brought in, trained ones exported anew or quantised."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from prn_cli.commands import console, options
from prn_cli.errors import MissingExtraError, UsageError
from prn_cli.execution import interrupts

weights = typer.Typer(
    help="List weights, import published checkpoints, export to ONNX, quantize.",
    no_args_is_help=True,
    add_completion=False,
)

Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Folder to write into. Default: beside the file, by its name.", show_default=False
    ),
]


@weights.command("list")
def list_weights(json: options.Json = False) -> None:
    """List the shipped weights: what they were trained on, under which terms, and what they gain."""
    from rich.table import Table

    from prn_cli.methods.weights import shipped

    found = shipped()
    if json:
        console.json_line([vars(entry) if hasattr(entry, "__dict__") else str(entry) for entry in found])
        return
    table = Table()
    for heading in ("name", "network", "sha256", "description"):
        table.add_column(heading)
    for entry in found:
        table.add_row(entry.name, entry.network, entry.sha256[:12], entry.description)
    console.show(table)


@weights.command("import")
def import_weights(
    checkpoint: Annotated[Path, typer.Argument(help="A published PatchRefineNet checkpoint: .th, .pth or .pt.")],
    out: Out = None,
    patch: Annotated[
        int | None,
        typer.Option("--patch", min=16, max=1024, help="Side of a patch, px. Default: 128 for p4, 64 for p64."),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Turn a published checkpoint into safetensors and ONNX.

    The only command that reads a pickle, and it reads tensors alone: no code in the file can run.
    """
    try:
        with interrupts.held():
            from prn_cli.methods.published import import_published
    except ImportError as error:
        raise _missing(error) from error

    network = import_published(checkpoint, patch=patch)
    _write(network, out or checkpoint.with_suffix(""), {"imported_from": checkpoint.name})


@weights.command("export")
def export_weights(
    file: Annotated[Path, typer.Argument(help="A model.safetensors that prn wrote.")],
    out: Out = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write model.onnx anew from model.safetensors."""
    try:
        with interrupts.held():
            from prn_cli.methods.torch_runner import load_network
            from prn_cli.training.export import LEARNED
    except ImportError as error:
        raise _missing(error) from error

    network, description = load_network(file)
    learned = {key: value for key, value in description.items() if key in LEARNED}
    _write(network, out or file.parent / f"{file.stem}-export", {"exported_from": file.name}, learned)


@weights.command("quantize")
def quantize_weights(
    name: Annotated[str, typer.Argument(metavar="NAME|PATH", help="Shipped weights, an .onnx file, or a run.")],
    logits: options.Logits,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write into.")],
    input_kind: options.InputKind = options.InputKindChoice.auto,
    nodata: options.Nodata = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write weights of `fast` that run in 8-bit integers: faster on many CPUs, and a little less exact.

    LOGITS are some maps such as the weights will be used on; their range is what the integers cover.
    """
    try:
        with interrupts.held():
            from prn_cli.training.quantize import LARGEST_SIDE, MOST_MAPS, quantize
    except ImportError as error:
        raise _missing(error, "prn weights quantize", "onnx") from error
    from prn_cli import rasters
    from prn_cli.maps.tiles import Window
    from prn_cli.methods import load_refiner
    from prn_cli.methods.weights import find_weights

    found = find_weights(name)
    multiple = load_refiner(found, device="cpu").needs.multiple
    _check_folder(out, ("model.json", "model.onnx"))
    paths = rasters.find_inputs(logits, stdin=sys.stdin, null=False)
    kind = options.kind_of(input_kind.value, paths, nodata=nodata)
    step = max(len(paths) // MOST_MAPS, 1)
    maps = []
    for path in paths[::step][:MOST_MAPS]:
        with rasters.open_map("scores", path, rasters.Reading(kind=kind, nodata=nodata)) as scores:
            sides = min(scores.height, LARGEST_SIDE), min(scores.width, LARGEST_SIDE)
            maps.append(scores.logits(Window(0, 0, *sides)))
    written = quantize(found, maps, out, multiple=multiple)
    console.tell(f"{written}  int8, calibrated on {len(maps)} maps")


def _check_folder(folder: Path, names: Sequence[str]) -> None:
    """Make a folder for files of these names, none of which may be there."""
    found = [name for name in names if (folder / name).exists()]
    if found:
        raise UsageError(f"holds {found[0]} already", hint="choose another folder with --out", path=folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder ({error.strerror})", path=folder) from error


def _missing(
    error: ImportError, purpose: str = "prn weights import and export", package: str = "torch"
) -> MissingExtraError:
    return MissingExtraError(error.name or package, "train", purpose)


def _write(network: Any, folder: Path, card: dict[str, str], metadata: dict[str, str] | None = None) -> None:
    try:
        with interrupts.held():
            from prn_cli.training.export import export
    except ImportError as error:
        raise _missing(error) from error

    _check_folder(folder, ("model.json", "model.onnx", "model.safetensors"))
    written = export(network, folder, card=card, metadata=metadata)
    console.tell(f"{folder / 'model.onnx'}  {written['network']}, patch {written.get('patch', 0)} px")
