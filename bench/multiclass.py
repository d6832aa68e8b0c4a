"""Several classes: the five-class base model of Dubai, before and after, class by class.

    python bench/multiclass.py --work /tmp/prn-multiclass [--data ../shared/data] [--budget 150s] [--out table.md]

Everything runs through the commands that users have. The shipped (binary) weights refine every class against the rest;
so do weights that learned on the training split, its scenes held out in turn. Pooled over the test images, with 95 %
paired bootstrap intervals over them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from common import DATA, machine, markdown, prn
from quality import make_logits

NAME = "dubai_multiclass"
CLASSES = ("land", "building", "road", "vegetation", "water")
TASK = ("--task", "multiclass", "--classes", ",".join(CLASSES))
SCENES = r"^(tile\d+)"


def refined(test: Path, masks: Path, weights: str) -> dict[str, Any]:
    """Refine the test split and score it beside the base model."""
    prn("refine", test / "logits", "-o", masks, "--weights", weights, "--overwrite", "-q", *TASK)
    line = ("score", masks, "--labels", test / "labels", "--baseline", test / "logits", "-q", *TASK)
    return prn(*line)["pooled"]  # type: ignore[no-any-return]


def cells(figure: dict[str, Any]) -> list[str]:
    """The figure after, and its change in points with the interval."""
    change = figure["difference"]
    interval = f"[{100 * change['low']:+.2f}, {100 * change['high']:+.2f}]"
    return [f"{figure['value']:.4f}", f"{100 * change['value']:+.2f} {interval}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, required=True, help="folder for logits, the run and masks; reused")
    parser.add_argument("--budget", default="150s", help="time that training may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the table here too")
    arguments = parser.parse_args()
    work = arguments.work
    train, test = (make_logits(arguments.data, work, [NAME]) / NAME / split for split in ("train", "test"))

    run = work / f"run-{arguments.seed}"
    if not (run / "model.onnx").exists():
        began = time.monotonic()
        options = ("--seed", str(arguments.seed), "--threads", "1", "--time-budget", arguments.budget)
        line = ("train", train / "logits", "--labels", train / "labels", "-o", run, "--overwrite", "-q")
        prn(*line, "--groups", SCENES, *options, *TASK)
        print(f"trained in {time.monotonic() - began:.0f} s", file=sys.stderr)
    strength = json.loads((run / "model.json").read_text())["choice"]["strength"]
    methods = {
        "shipped weights": refined(test, work / "masks" / "shipped", "fast"),
        f"trained, strength {strength:g}": refined(test, work / "masks" / "trained", str(run)),
    }
    first = next(iter(methods.values()))
    figures = {"mIoU": "miou", "accuracy": "accuracy"} | {f"IoU {name}": f"iou_{name}" for name in CLASSES}
    rows = []
    for title, key in figures.items():
        after = [cell for method in methods.values() for cell in cells(method[key])]
        rows.append([title, f"{first[key]['baseline']['value']:.4f}", *after])
    heading = ["test split, pooled", "base"]
    for name in methods:
        heading += [name, "change, points [95 %]"]
    table = f"{markdown(heading, rows)}\n\nSeed {arguments.seed}; {machine()}."
    print(table)
    if arguments.out:
        arguments.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
