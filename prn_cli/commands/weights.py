"""`prn weights`: what there is, published checkpoints brought in, trained ones exported anew or quantised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from prn_cli.commands import console
from prn_cli.commands.from_options import command
from prn_cli.commands.short_help import Command, Group
from prn_cli.options import Options
from prn_cli.workflows import weights as workflow

weights = typer.Typer(
    cls=Group,
    help="List weights, import published checkpoints, export to ONNX, quantize.",
    no_args_is_help=True,
    add_completion=False,
)


def _list(_: Options, *, json: bool) -> None:
    """List the shipped weights: what they were trained on, under which terms, and what they gain."""
    from prn_cli.methods.weights import shipped

    found = shipped()
    if json:
        console.json_line([asdict(entry) for entry in found])
        return
    for entry in found:
        console.tell(f"{entry.name}: {entry.description}", style="bold")
        console.tell(f"  network {entry.network}, sha256 {entry.sha256[:12]}")
        for line in _about(entry.card):
            console.tell(f"  {line}")


_UNSEEN = "test_splits, leave-one-set-out, points"


def _about(card: Mapping[str, Any]) -> Iterator[str]:
    """What a card says of data, terms and figures, line by line."""
    training = card.get("training", {})
    if "sets" in training:
        yield f"learned from {training['maps']} maps:" if "maps" in training else "learned from:"
    for name, terms in training.get("sets", {}).items():
        yield f"  {name}: {terms}"
    if "encoder" in training:
        yield f"  encoder: {training['encoder']}"
    if "test_splits" in card:
        if card.get("learned_without_labels"):
            yield "by default, prn refine takes no correction of them, only a threshold of the set (--threshold auto)"
        strength = card.get("strength", "1")
        yield f"pooled IoU on test splits at strength {strength}, and its change in points [95 % interval]:"
    for name, figures in card.get("test_splits", {}).items():
        seen = ", learned from its training split" if figures.get("learned_from_its_training_split") else ""
        yield f"  {name}: {figures['pooled_iou']}, {figures['change_points']}{seen}"
    unseen = card.get(_UNSEEN, {})
    if unseen:
        yield "change in points over pairs of set and base model, on sets not learned from [95 % interval]:"
    for what, figures in unseen.items():
        change = ", ".join(f"{metric} {figures[metric]}" for metric in ("pooled IoU", "mean IoU", "mBA"))
        yield f"  {what}: {change}; {figures['lose > 0.2']} lose more than 0.2, the worst {figures['worst']}"


def _import(options: workflow.ImportOptions) -> None:
    """Turn a published checkpoint into safetensors and ONNX.

    The only command that reads a pickle, and it reads tensors alone: no code in the file can run.
    """
    _tell(workflow.import_weights(options))


def _export(options: workflow.ExportOptions) -> None:
    """Write model.onnx anew from model.safetensors."""
    _tell(workflow.export_weights(options))


def _quantize(options: workflow.QuantizeOptions) -> None:
    """Write weights of `fast` that run in 8-bit integers: faster on many CPUs, and a little less exact.

    LOGITS are some maps such as the weights will be used on; their range is what the integers cover.
    """
    written, maps = workflow.quantize_weights(options, console.Terminal())
    console.tell(f"{written}  int8, calibrated on {maps} maps")


def _tell(written: tuple[Path, Mapping[str, Any]]) -> None:
    folder, card = written
    patch = f", patch {card['patch']} px" if "patch" in card else ""
    console.tell(f"{folder / 'model.onnx'}  {card['network']}{patch}")


weights.command("list", cls=Command)(command(Options, _list, settings=False))
weights.command("import", cls=Command)(command(workflow.ImportOptions, _import, json=False, settings=False))
weights.command("export", cls=Command)(command(workflow.ExportOptions, _export, json=False, settings=False))
weights.command("quantize", cls=Command)(command(workflow.QuantizeOptions, _quantize, json=False, settings=False))
