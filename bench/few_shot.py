"""How few labelled maps suffice: gain against their number, from scratch and from the shipped weights, task by task.

    python bench/few_shot.py --logits DIR --work /tmp/prn-few-shot [--set epfl_roads ...] [--shots 1,2,5,10,25]
        [--episodes 3] [--methods scratch,adapted] [--out table.md]

DIR holds a folder a set, with `train/` and `test/`, each with `logits/` and `labels/`, as `bench/quality.py` makes it.

A task has the form of FSS-1000: K support maps, drawn from the training split with the task's seed, and the test split
as queries. Each is one `prn train --shots K`, which sees its K maps only (folds, strength and threshold included), one
`prn refine` and one `prn score`. Two tables: by set, the mean over tasks with their range; over the tasks of all sets,
the mean with a 95 % bootstrap interval over tasks, and how many lose. Finished runs in `--work` are used again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from common import machine, markdown, prn
from quality import PATCH, SETS, scored

from prn_cli.methods.weights import find_weights
from prn_cli.metrics.intervals import bootstrap

METHODS = {"shipped": "shipped, as they are", "scratch": "from scratch", "adapted": "`--from fast`"}


@dataclass(frozen=True)
class Result:
    """What one task gave: change of IoU on the queries, in points; strength of the correction; seconds of training."""

    set: str
    method: str
    shots: int
    seed: int
    pooled: float
    mean: float
    strength: float
    seconds: float


def adapted_from(weights: str) -> tuple[str, ...]:
    """Sets whose training splits these shipped weights have learned from: their support is not new to them."""
    cards = {card["name"]: card["card"] for card in prn("weights", "list")}
    return tuple(cards.get(weights, {}).get("training", {}).get("sets", ()))


def task(logits: Path, work: Path, name: str, method: str, shots: int, seed: int, weights: str) -> Result:
    """Train on the support, refine and score the queries."""
    train, test = logits / name / "train", logits / name / "test"
    of = "" if method == "scratch" else f"-{find_weights(weights).sha256[:8]}"
    label = f"{name}-{method}-{shots}-{seed}{of}"
    run, masks, record = work / "runs" / label, work / "masks" / label, work / f"{label}.json"
    if record.exists():
        return Result(**json.loads(record.read_text()))
    began, strength = time.monotonic(), float("nan")
    if method != "shipped":
        run.parent.mkdir(parents=True, exist_ok=True)
        start = ("--from", weights) if method == "adapted" else ()
        options = ("--shots", str(shots), "--seed", str(seed), "--patch", str(PATCH), "--threads", "1", *start)
        command = ("train", train / "logits", "--labels", train / "labels", "-o", run, "--overwrite", "-q")
        strength = float(prn(*command, *options)["strength"])
    seconds = time.monotonic() - began
    prn("refine", test / "logits", "-o", masks, "--weights", run if run.exists() else weights, "-q", "--overwrite")
    figures = scored(test, masks)
    change = [100 * figures[way]["iou"]["difference"]["value"] for way in ("pooled", "mean")]
    shutil.rmtree(masks)
    result = Result(name, method, shots, seed, *change, strength, round(seconds, 1))
    record.write_text(json.dumps(asdict(result)) + "\n")
    print(result, file=sys.stderr, flush=True)
    return result


def by_set(results: list[Result], sets: list[str], seen: tuple[str, ...]) -> str:
    """Change of pooled IoU: a row a set and method, a column a number of maps."""
    counts = sorted({r.shots for r in results if r.shots})
    rows = []
    for name in sets:
        for method, title in METHODS.items():
            if not any(r.method == method for r in results):
                continue
            cells = []
            for shots in counts:
                changes = [r.pooled for r in results if (r.set, r.method) == (name, method) and r.shots in (shots, 0)]
                spread = f" ({min(changes):+.1f} to {max(changes):+.1f})" if len(changes) > 1 else ""
                cells.append(f"{np.mean(changes):+.2f}{spread}" if changes else "–")
            rows.append([f"{name}{' *' if name in seen else ''}", title, *cells])
    return markdown(["set", "method", *(f"K = {shots}" for shots in counts)], rows)


def over_tasks(results: list[Result]) -> str:
    """Mean over all tasks with its interval, a row a method and number of maps."""
    rows = []
    for method, title in METHODS.items():
        for shots in sorted({r.shots for r in results if r.method == method}):
            tasks = [r for r in results if (r.method, r.shots) == (method, shots)]
            cells = []
            for changes in (np.array([r.pooled for r in tasks]), np.array([r.mean for r in tasks])):
                _, low, high = bootstrap(lambda w, c=changes: w @ c / w.sum(axis=1), len(changes))
                cells.append(f"{changes.mean():+.2f} [{float(low):+.2f}, {float(high):+.2f}]")
            lost = f"{sum(r.pooled < -0.2 for r in tasks)} of {len(tasks)}"
            off = f"{sum(r.strength == 0 for r in tasks)} of {len(tasks)}" if shots else "–"
            seconds = f"{np.median([r.seconds for r in tasks]):.0f}" if shots else "–"
            rows.append([title, str(shots) if shots else "–", *cells, lost, off, seconds])
    return markdown(
        ["method", "K", "pooled IoU, points [95 %]", "mean IoU, points [95 %]", "lose > 0.2", "switched off", "s"], rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs; reused")
    parser.add_argument("--set", action="append", choices=SETS)
    parser.add_argument("--shots", default="1,2,5,10,25")
    parser.add_argument("--episodes", type=int, default=3, help="tasks a set and number of maps")
    parser.add_argument("--methods", default="scratch,adapted")
    parser.add_argument("--weights", default="fast")
    parser.add_argument("--out", type=Path, help="write the tables here too")
    arguments = parser.parse_args()
    sets, counts = arguments.set or list(SETS), [int(word) for word in arguments.shots.split(",")]
    arguments.work.mkdir(parents=True, exist_ok=True)

    def at(name: str, method: str, shots: int, seed: int) -> Result:
        return task(arguments.logits, arguments.work, name, method, shots, seed, arguments.weights)

    results = [at(name, "shipped", 0, 0) for name in sets]
    for seed in range(arguments.episodes):
        for shots in counts:
            for name in sets:
                if shots <= len(list((arguments.logits / name / "train" / "logits").iterdir())):
                    results += [at(name, method, shots, seed) for method in arguments.methods.split(",")]
    seen = adapted_from(arguments.weights)
    text = f"{by_set(results, sets, seen)}\n\n{over_tasks(results)}\n\n{arguments.episodes} tasks; {machine()}."
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
