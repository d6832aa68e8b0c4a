"""Does the image pay? Refiners with and without it, trained alike, side by side on the test split.

    python bench/guided.py --logits LOGITS [--set epfl_roads ...] [--seeds 3] [--work DIR] [--out table.md]

LOGITS holds, for each set, train/ and test/ with logits/, labels/ and images/. Everything runs through the commands
that users have. For each set and seed, two refiners learn on the training split, one of them with `--images`; nothing
else differs; of sets that have scenes, scenes are held out. The test split is refined and scored once. Counts of a test
image are summed over the seeds; intervals are 95 % paired bootstrap intervals over the test images.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, markdown, prn
from numpy.typing import NDArray
from quality import SCENES, SETS

from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics.intervals import compare
from prn_cli.metrics.regions import count_regions, iou
from prn_cli.rasters import Reading, open_map, pair_by_stem, read_label

BASE, PLAIN, GUIDED = "base at 0.5", "logits alone", "logits and images"


def refined(train: Path, test: Path, work: Path, seed: int, *, images: bool, options: list[str]) -> tuple[Path, Any]:
    """Masks of the test split by a refiner that learned on the training split, and what training says of it."""
    run, masks = work / "run", work / "masks"
    see_train = ("--network", "fast", "--images", train / "images") if images else ()
    see_test = ("--images", test / "images") if images else ()
    card = run / "model.json"
    if not card.exists():
        run.mkdir(parents=True, exist_ok=True)
        # One thread, so that sums do not depend on the cores.
        where = ("-o", run, "--seed", str(seed), "--threads", "1", "--overwrite", "-q")
        prn("train", train / "logits", "--labels", train / "labels", *where, *see_train, *options)
    prn("refine", test / "logits", "-o", masks, "--weights", run, "--overwrite", "-q", *see_test)
    return masks, json.loads(card.read_text())


def counts(masks: Path, labels: Path, kind: Any = "mask") -> NDArray[np.float64]:
    """(images, 4) pixels of the masks (or of logits, cut at 0.5), in the order of the names."""
    files = sorted(path for path in masks.iterdir() if path.suffix in (".png", ".tif", ".npy"))
    rows = []
    for path, label in sorted(pair_by_stem(files, labels).matched, key=lambda pair: pair[0].stem):
        with open_map("prediction", path, Reading(kind=kind)) as opened:
            scores = opened.probabilities()
        mask = (scores > 0.5).astype(np.uint8)
        mask[np.isnan(scores)] = IGNORE
        rows.append(count_regions(mask, read_label(label)).array())
    return np.stack(rows)


def bench_set(name: str, logits: Path, work: Path, seeds: int, options: list[str]) -> list[list[str]]:
    train, test = logits / name / "train", logits / name / "test"
    found = {BASE: seeds * counts(test / "logits", test / "labels", "logits"), PLAIN: 0, GUIDED: 0}
    seconds = dict.fromkeys((PLAIN, GUIDED), 0.0)
    for seed in range(seeds):
        for method in (PLAIN, GUIDED):
            began = time.monotonic()
            place = work / f"{name}-{seed}-{'images' if method == GUIDED else 'logits'}"
            scenes = ["--groups", SCENES[name]] if name in SCENES else []
            masks, card = refined(train, test, place, seed, images=method == GUIDED, options=[*scenes, *options])
            found[method] = found[method] + counts(masks, test / "labels")
            seconds[method] += float(card.get("seconds", np.nan))
            print(f"{name}, seed {seed}, {method}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    rows = []
    for method, against in ((BASE, BASE), (PLAIN, BASE), (GUIDED, BASE), ("the images' share", PLAIN)):
        after = found[GUIDED if against == PLAIN else method]
        row = [name, method]
        for pool in (True, False):
            comparison = compare(found[against], after, iou, pool=pool)
            value, low, high = (100 * figure for figure in comparison.difference)
            row += ["" if against == PLAIN else f"{comparison.after[0]:.4f}", f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"]
        row.append(f"{seconds[method] / seeds:.0f} s" if method in seconds else "")
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, required=True)
    parser.add_argument("--set", action="append", choices=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder of runs and masks; runs in it are reused")
    parser.add_argument("--out", type=Path, help="write the table here too")
    parser.add_argument("options", nargs="*", help="after --: more options of prn train, for both refiners")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        for name in arguments.set or SETS:
            rows += bench_set(name, arguments.logits, work, arguments.seeds, arguments.options)
    difference = "change, points [95 %]"
    heading = ["set (test split)", "method", "pooled IoU", difference, "mean IoU", difference, "training"]
    more = f"; prn train {' '.join(arguments.options)}" if arguments.options else ""
    table = f"{markdown(heading, rows)}\n\nSeeds 0 to {arguments.seeds - 1}{more}; {machine()}."
    print(table)
    if arguments.out:
        arguments.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
