"""`prn pseudolabel`: the table or JSON of what a set of maps could gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from prn_cli.commands import console
from prn_cli.commands.from_options import command
from prn_cli.errors import percent
from prn_cli.workflows.pseudolabel import PseudolabelOptions, PseudolabelResult
from prn_cli.workflows.pseudolabel import pseudolabel as run
from prn_cli.workflows.weak import WeakResult

if TYPE_CHECKING:
    from prn_cli.thresholding.pseudolabels import Headroom


def _pseudolabel(options: PseudolabelOptions, *, json: bool) -> None:
    """Find the best threshold of every patch, and what a set of maps could gain by them.

    In a folder that holds logits/ and labels/, no argument is needed. Writes each map cut at the thresholds of its
    patches, and a map of these thresholds; prints the IoU at 0.5, at the best single threshold, and of the
    pseudo-labels (the oracle). The difference between the last two is the headroom for a refiner.

    With --weak, makes masks from class activation maps and tags instead: labels/ to train on, their confidence/, and
    the scores/ that `prn train` and `prn refine` take.
    """
    result = run(options, console.Terminal())
    if options.dry_run:
        console.show_plan(result.plan, result.summary, json=json)
        return
    if json:
        console.json_line(result.document())
    elif result.maps:
        _show_weak(result) if isinstance(result, WeakResult) else _show(result)
    console.end(result.verdict)


pseudolabel = command(PseudolabelOptions, _pseudolabel)


def _show_weak(result: WeakResult) -> None:
    """Print how much was decided, and how well where there are true masks."""
    document = result.document()
    names = ", ".join(result.classes)
    decided = f"{percent(document['decided'])} of the pixels decided"
    console.tell(f"{len(result.maps)} maps of {names}; {decided}", style="bold")
    ious = result.ious()
    if ious:
        table = console.table(f"mIoU, {document['true_masks']} true masks", "")
        rows = ("before", "Activations alone, background 0.1"), ("after", "Masks"), ("decided", "Masks where decided")
        for key, name in rows:
            table.add_row(name, f"{ious[key]:.4f}")
        console.show(table)


def _show(result: PseudolabelResult) -> None:
    """Print the table for people."""
    images = max(headroom.images for headroom in result.headrooms.values())
    head = f"{images} image{'s' if images > 1 else ''}"
    alone = result.headrooms.get("")
    if alone is not None:
        head += f", {alone.pixels / 1e6:.4g} Mpx counted"
    console.tell(f"{head}; patches of {result.options.patch} px, {result.options.grid} grid", style="bold")
    if alone is not None:
        _show_one(alone)
    else:
        _show_classes(result.headrooms)


def _show_one(headroom: Headroom) -> None:
    some = headroom.with_foreground < headroom.images
    mean = f"Mean of {headroom.with_foreground} with foreground" if some else "Mean per image"
    table = console.table("IoU", "Threshold", "Pooled", mean)
    for name, cut in (
        ("Base model", headroom.at(0.5)),
        ("Best single threshold", headroom.best_single()),
        ("Oracle: best of every patch", headroom.oracle()),
    ):
        threshold = "by patch" if cut.threshold is None else f"{cut.threshold:g}"
        table.add_row(name, threshold, f"{cut.pooled:.4f}", f"{cut.mean:.4f}")
    table.add_section()
    gain = headroom.gain()
    table.add_row("[bold]Headroom[/bold] over the best single", "", f"{gain.pooled:+.4f}", f"{gain.mean:+.4f}")
    console.show(table)


def _show_classes(headrooms: Mapping[str, Headroom]) -> None:
    """Every class against the rest, pooled over the images."""
    table = console.table("Pooled IoU against the rest", "At 0.5", "Best single", "at", "Oracle", "Headroom")

    def add_row(name: str, values: Sequence[float], threshold: str) -> None:
        half, single, oracle, gain = values
        table.add_row(name, f"{half:.4f}", f"{single:.4f}", threshold, f"{oracle:.4f}", f"{gain:+.4f}")

    rows = []
    for name, headroom in headrooms.items():
        if headroom.images:
            single = headroom.best_single()
            rows.append([cut.pooled for cut in (headroom.at(0.5), single, headroom.oracle(), headroom.gain())])
            add_row(name, rows[-1], f"{single.threshold:g}")
    table.add_section()
    add_row("[bold]Mean[/bold]", [sum(column) / len(rows) for column in zip(*rows, strict=True)], "")
    console.show(table)
