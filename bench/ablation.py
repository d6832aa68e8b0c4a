"""What each choice of the recipe is worth: one row a choice, changed alone, on held-out maps of the training splits.

    python bench/ablation.py --work /tmp/prn-quality [--set epfl_roads ...] [--row width ...] [--seeds 0 1] [--folds 1]
        [--data ../shared/data]

Each row is `prn train` with the default options and one other. The gain is that of the whole correction (strength 1,
cut at 0.5) over the base model, in points of IoU, on maps that its network had not seen: three folds of images (or one,
`--folds 1`: a part of the images, and the best of its epochs), or each scene in turn. No test split is read. With
several seeds, the mean and the range of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from common import DATA, machine, markdown
from quality import SCENES, SETS, make_logits, trained

ONE_A_KIND = ("epfl_roads", "kvasir_polyp", "dubai_road")
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
    "crops of 384 px": ("--crop", "384"),
    "half the epochs": ("--epochs", "10"),
    "twice the epochs": ("--epochs", "40"),
}


def in_points(gains: list[float]) -> str:
    """The mean over seeds, and their range."""
    mean = f"{sum(gains) / len(gains):+.2f}"
    return mean if len(gains) == 1 else f"{mean} ({min(gains):+.2f} to {max(gains):+.2f})"


def parser_of(doc: str | None, sets: Sequence[str]) -> argparse.ArgumentParser:
    """What a table of choices is asked for by."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, required=True, help="folder for logits and runs; reused")
    parser.add_argument("--set", action="append", choices=sets)
    parser.add_argument("--row", action="append", help="rows with this in their name; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="write the table here too")
    return parser


def asked_for(labels: Iterable[str], parts: Sequence[str] | None) -> list[str]:
    """The rows that have one of these in their name; all of them if there are none."""
    return [label for label in labels if not parts or any(part in label for part in parts)]


def table(heading: Sequence[str], lines: Sequence[Sequence[str]], seeds: Sequence[int]) -> str:
    """The lines, and what they were measured with."""
    return f"{markdown(heading, lines)}\n\nSeeds {' '.join(map(str, seeds))}; one thread; {machine()}."


def main() -> None:
    parser = parser_of(__doc__, SETS)
    parser.add_argument("--folds", type=int, default=3)
    arguments = parser.parse_args()
    names = arguments.set or list(ONE_A_KIND)
    logits = make_logits(arguments.data, arguments.work, names)
    lines = []
    for label in asked_for(ROWS, arguments.row):
        options = ROWS[label]
        of_sets: list[list[float]] = []  # a row a set, a column a seed
        seconds = 0.0
        for name in names:
            folds = ("--groups", SCENES[name]) if name in SCENES else ("--folds", str(arguments.folds))
            of_sets.append([])
            for seed in arguments.seeds:
                place = arguments.work / f"ablation-{arguments.folds}-{seed}" / name
                run = place / ("-".join(options).replace("--", "") or "default")
                trained(logits / name / "train", run, *folds, "--seed", str(seed), "--threads", "1", *options)
                card = json.loads((run / "model.json").read_text())
                seconds += card["seconds"] / len(arguments.seeds)
                of_sets[-1].append(100 * card["choice"]["strengths"]["1"])
                print(f"{label} | {name} | seed {seed} | {of_sets[-1][-1]:+.2f}", file=sys.stderr, flush=True)
        means = [sum(gains) / len(gains) for gains in zip(*of_sets, strict=True)]
        lines.append([label, *map(in_points, [*of_sets, means]), f"{seconds:.0f} s"])
    text = table(["choice", *names, "mean", "training"], lines, arguments.seeds)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
