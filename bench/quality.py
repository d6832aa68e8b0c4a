"""Quality on real maps: the base model, its best threshold, refiners trained here, the shipped weights, the oracle.

    python bench/quality.py --work /tmp/prn-quality [--set epfl_roads ...] [--data ../shared/data] [--out table.md]

Everything runs through the commands that users have. For each set: refiners learn on the training split alone (its
own held-out images choose the epoch), the single threshold is tuned on the training split, and the test split is
scored once, at the end. Intervals are 95 % paired bootstrap intervals over the test images.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import DATA, machine, markdown, prn

SETS = ("epfl_roads", "kvasir_polyp", "nuclei", "dubai_road", "dubai_building")
PATCH = 64


def make_logits(data: Path, work: Path, names: list[str]) -> Path:
    """Run the base models over the images, unless that was done before."""
    folder = work / "logits"
    missing = sorted(
        {
            name.split("_")[0] if name.startswith("dubai") else name
            for name in names
            if not (folder / name / "test" / "labels").is_dir()
        }
    )
    if missing:
        tool = data.parent / "tools" / "make_logits.py"
        flags = [flag for name in missing for flag in ("--set", name)]
        subprocess.run([sys.executable, str(tool), "--out", str(folder), *flags], check=True, stdout=sys.stderr)
    return folder


def trained(split: Path, run: Path, *options: str) -> Path:
    """Train on a training split, unless that was done before with this seed; `--work` anew after a change of prn."""
    if not (run / "model.onnx").exists():
        run.parent.mkdir(parents=True, exist_ok=True)
        prn("train", split / "logits", "--labels", split / "labels", "-o", run, "--overwrite", "-q", *options)
    return run


def scored(split: Path, masks: Path, *options: str) -> Any:
    """Figures of masks (or soft maps) on a split, with the paired difference to the base model at 0.5."""
    return prn("score", masks, "--labels", split / "labels", "--baseline", split / "logits", "-q", *options)


def refined(split: Path, masks: Path, weights: str) -> dict[str, Any]:
    """Refine a split and score it."""
    prn("refine", split / "logits", "-o", masks, "--weights", weights, "-q", "--overwrite")
    return scored(split, masks)


def cells(result: dict[str, Any]) -> list[str]:
    """Pooled and mean IoU with their change in points and its interval."""
    out = []
    for way in ("pooled", "mean"):
        difference = result[way]["iou"]["difference"]
        change = f"{100 * difference['value']:+.2f} [{100 * difference['low']:+.2f}, {100 * difference['high']:+.2f}]"
        out += [f"{result[way]['iou']['value']:.4f}", change]
    return out


def headroom(split: Path, out: Path) -> dict[str, Any]:
    """What `prn pseudolabel` says of a split; its pseudo-labels go to `out/labels`."""
    where = (split / "logits", "--labels", split / "labels", "--patch", str(PATCH), "-o", out, "--overwrite", "-q")
    return prn("pseudolabel", *where)  # type: ignore[no-any-return]


def bench_set(name: str, logits: Path, work: Path, seed: int) -> list[list[str]]:
    """One row a method."""
    train, test = logits / name / "train", logits / name / "test"
    threshold = headroom(train, work / "pseudolabels" / name)["best_single"]["threshold"]
    headroom(test, work / "oracle" / name)
    options = ("--seed", str(seed), "--threads", "1")  # one thread, so that the sums do not depend on the cores

    def learned(loss: str, *more: str) -> Any:
        run = trained(train, work / f"runs-{seed}" / name / loss, *options, *more)
        return refined(test, work / "masks" / name / loss, str(run))

    methods: dict[str, Callable[[], Any]] = {
        "base at 0.5": lambda: scored(test, test / "logits"),
        f"base at {threshold:.3g}, tuned on train": lambda: scored(
            test, test / "logits", "--threshold", str(threshold)
        ),
        "`fast`, the paper's loss": lambda: learned("paper-loss", "--iou-weight", "0"),
        "`fast`, ground truth only": lambda: learned("ground-truth", "--ground-truth-only"),
        "`fast`, the default": lambda: learned("default"),
        "shipped weights": lambda: refined(test, work / "masks" / name / "shipped", "fast"),
        f"oracle, {PATCH} px patches": lambda: scored(test, work / "oracle" / name / "labels"),
    }
    rows = []
    for label, method in methods.items():
        began = time.monotonic()
        rows.append([name, label, *cells(method())])
        print(f"{' | '.join(rows[-1])}  ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, required=True, help="folder for logits, runs and masks; reused")
    parser.add_argument("--set", action="append", choices=SETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the table here too")
    arguments = parser.parse_args()
    names = arguments.set or list(SETS)
    logits = make_logits(arguments.data, arguments.work, names)
    rows = []
    for name in names:
        rows += bench_set(name, logits, arguments.work, arguments.seed)
    heading = ["set (test split)", "method", "pooled IoU", "change, points [95 %]", "mean IoU", "change, points [95 %]"]
    table = f"{markdown(heading, rows)}\n\nSeed {arguments.seed}; {machine()}."
    print(table)
    if arguments.out:
        arguments.out.write_text(table + "\n")
        arguments.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
