"""What each choice of the recipe is worth: one row a choice, changed alone, on held-out maps of the training splits.

    python bench/ablation.py --work /tmp/prn-quality [--set epfl_roads ...] [--row width ...] [--data ../shared/data]

Each row is `prn train` with the default options and one other. The gain is that of the whole correction (strength 1,
cut at 0.5) over the base model, in points of IoU, on maps that its network had not seen: three folds of images, or each
scene in turn. No test split is read.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from common import DATA, machine, markdown
from quality import SCENES, make_logits, trained

SETS = ("epfl_roads", "kvasir_polyp", "dubai_road")
ROWS: dict[str, tuple[str, ...]] = {
    "the default": (),
    "pseudo-labels at weight 0.7": ("--pseudo-weight", "0.7"),
    "pseudo-labels at weight 0.3": ("--pseudo-weight", "0.3"),
    "exact pseudo-labels at 0.7": ("--pseudo-weight", "0.7", "--grid", "exact"),
    "without the soft IoU": ("--iou-weight", "0"),
    "without logit jitter": ("--jitter-scale", "0", "--jitter-shift", "0"),
    "twice the logit jitter": ("--jitter-scale", "0.4", "--jitter-shift", "1"),
    "width 32": ("--width", "32"),
    "width 8": ("--width", "8"),
    "without weight decay": ("--weight-decay", "0"),
    "without averaging of weights": ("--average", "0"),
    "level kept": ("--keep-level",),
    "crops of 128 px": ("--crop", "128"),
    "half the epochs": ("--epochs", "10"),
    "twice the epochs": ("--epochs", "40"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, required=True, help="folder for logits and runs; reused")
    parser.add_argument("--set", action="append", choices=SETS)
    parser.add_argument("--row", action="append", help="rows with this in their name; all by default")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names = arguments.set or list(SETS)
    logits = make_logits(arguments.data, arguments.work, names)
    lines = []
    for label, options in ROWS.items():
        if arguments.row and not any(part in label for part in arguments.row):
            continue
        gains, seconds = [], 0.0
        for name in names:
            folds = ("--groups", SCENES[name]) if name in SCENES else ("--folds", "3")
            run = arguments.work / f"ablation-{arguments.seed}" / name / "-".join(options).replace("--", "")
            began = time.monotonic()
            trained(logits / name / "train", run, *folds, "--seed", str(arguments.seed), "--threads", "1", *options)
            card = json.loads((run / "model.json").read_text())
            seconds += card["seconds"]
            gains.append(100 * card["choice"]["strengths"]["1"])
            print(
                f"{label} | {name} | {gains[-1]:+.2f} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True
            )
        mean = sum(gains) / len(gains)
        lines.append([label, *(f"{gain:+.2f}" for gain in gains), f"{mean:+.2f}", f"{seconds:.0f} s"])
    print(markdown(["choice", *names, "mean", "training"], lines))
    print(f"\nSeed {arguments.seed}; one thread; {machine()}.")


if __name__ == "__main__":
    main()
