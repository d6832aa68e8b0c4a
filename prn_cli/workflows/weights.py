"""Weights: import published checkpoints, export trained ones, quantise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from prn_cli.errors import UsageError
from prn_cli.execution.extras import needs_extra
from prn_cli.execution.watch import SILENT, Watch
from prn_cli.options import Option, Options
from prn_cli.workflows.options import Logits, MapOptions, with_kind


@dataclass(frozen=True, kw_only=True)
class _Written(Options):
    out: Annotated[
        Path | None,
        Option(
            "Folder to write into. Default: beside the file, by its name.",
            flags=("-o",),
            aliases=("--output",),
            output=True,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ImportOptions(_Written):
    """Options of `import_weights`."""

    checkpoint: Annotated[Path, Option("A published PatchRefineNet checkpoint: .th, .pth or .pt.", argument=True)] = (
        field(kw_only=False)
    )
    patch: Annotated[
        int | None, Option("Side of a patch, px. Default: 128 for p4, 64 for p64.", least=16, most=1024)
    ] = None


@dataclass(frozen=True, kw_only=True)
class ExportOptions(_Written):
    """Options of `export_weights`."""

    file: Annotated[Path, Option("A run's folder, or a model.safetensors that prn wrote.", argument=True)] = field(
        kw_only=False
    )


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions(MapOptions):
    """Options of `quantize_weights`."""

    name: Annotated[str, Option("Shipped weights, an .onnx file, or a run.", argument=True, metavar="NAME|PATH")] = (
        field(kw_only=False)
    )
    logits: Logits = field(kw_only=False)
    out: Annotated[Path, Option("Folder to write into.", flags=("-o",), aliases=("--output",), output=True)]


def import_weights(options: ImportOptions) -> tuple[Path, dict[str, Any]]:
    """Convert a published checkpoint to safetensors and ONNX; returns the folder and the card.

    The only workflow that reads a pickle. It reads only tensors: no code in the file can run.

    Raises:
        InputError: not a checkpoint that prn knows.
        UsageError: the folder holds weights already.
    """
    with needs_extra("prn weights import and export"):
        from prn_cli.methods.published import import_published

    network = import_published(options.checkpoint, patch=options.patch)
    out = options.out or options.checkpoint.with_suffix("")
    return _export(network, out, {"imported_from": options.checkpoint.name})


def export_weights(options: ExportOptions) -> tuple[Path, dict[str, Any]]:
    """Write model.onnx again from model.safetensors; returns the folder and the card.

    Raises:
        InputError: not weights of a network that prn knows.
        UsageError: the folder holds weights already.
        WeightsError: there are none.
    """
    with needs_extra("prn weights import and export"):
        from prn_cli.methods.torch_runner import load_network
        from prn_cli.training.export import LEARNED
    from prn_cli.methods.weights import find_tensors

    found = find_tensors(str(options.file), "FILE")
    network, description = load_network(found.path)
    learned = {key: value for key, value in description.items() if key in LEARNED}
    beside = options.file if options.file.is_dir() else options.file.parent  # not where shipped weights are
    out = options.out or beside / f"{found.path.stem}-export"
    card = {name: value for name, value in found.card.items() if name != "files"}
    return _export(network, out, {**card, "exported_from": found.path.name}, learned)


def quantize_weights(options: QuantizeOptions, watch: Watch = SILENT) -> tuple[Path, int]:
    """Write weights of `fast` with 8-bit convolutions; returns the ONNX file and the number of calibration maps.

    Raises:
        InputError: a map cannot be used.
        UsageError: weights of another network, maps that are too small, or a folder that holds weights already.
        WeightsError: the weights cannot be found, or cannot be quantised.
    """
    with needs_extra("prn weights quantize", package="onnx"):
        from prn_cli.training.quantize import LARGEST_SIDE, MOST_MAPS, quantize
    from prn_cli.maps.tiles import Window
    from prn_cli.methods import load_refiner
    from prn_cli.methods.weights import find_weights
    from prn_cli.rasters import find_valid_masks, open_map

    found = find_weights(options.name)
    multiple = load_refiner(found, device="cpu").needs.multiple
    _make_folder(options.out, ("model.json", "model.onnx"))
    paths = options.find_inputs(options.logits, watch)
    reading = with_kind(options.reading(), paths, watch)
    chosen = paths[:: max(len(paths) // MOST_MAPS, 1)][:MOST_MAPS]
    masks = find_valid_masks(chosen, options.valid_mask)
    maps = []
    for path in chosen:
        with open_map("scores", path, reading, valid_mask=masks.of(path)) as scores:
            sides = min(scores.height, LARGEST_SIDE), min(scores.width, LARGEST_SIDE)
            maps.append(scores.logits(Window(0, 0, *sides)))
    return quantize(found, maps, options.out, multiple=multiple), len(maps)


def _export(
    network: Any, folder: Path, card: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> tuple[Path, dict[str, Any]]:
    with needs_extra("prn weights import and export"):
        from prn_cli.training.export import export

    _make_folder(folder, ("model.json", "model.onnx", "model.safetensors"))
    return folder, export(network, folder, card=card, metadata=metadata)


def _make_folder(folder: Path, names: Sequence[str]) -> None:
    """Make a folder for files of these names, none of which may be there."""
    found = [name for name in names if (folder / name).exists()]
    if found:
        raise UsageError(f"holds {found[0]} already", hint="choose another folder with --out", path=folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder ({error.strerror})", path=folder) from error
