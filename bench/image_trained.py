"""`image` trained on a set's own maps, beside `fast` with and without the image, and a chain of both methods.

    python bench/image_trained.py --logits LOGITS --work DIR [--set epfl_roads ...] [--rows fast chain ...] [--seeds 1]

LOGITS holds, for each set, train/ and test/ with logits/, labels/ and images/. Everything runs through the commands
that users have: refiners learn on the training split (one fold, one thread), and the test split is refined once.
What is in DIR is not done again, so sets and rows may be run one after the other; each call prints all that is there.
Changes are against the base model cut at 0.5. Intervals are 95 % paired bootstrap intervals over the test images, whose
counts are summed over the seeds.

`--schedule fast=6x100` sets epochs and steps of a network; without it, they are those of `prn train`.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import machine, markdown, prn
from image import counted_masks
from image_data import IGNORE, read_logits, read_mask
from image_fields import Window
from numpy.typing import NDArray
from quality import SCENES, SETS

from prn_cli.metrics.boundaries import boundary_iou, mean_boundary_accuracy
from prn_cli.metrics.intervals import compare
from prn_cli.metrics.regions import iou
from prn_cli.rasters import Reading, open_map


class Row(NamedTuple):
    """A way of refining.

    Attributes:
        title: in the table.
        run: the training that it needs; none if empty.
        weights: that `prn refine` is given; `RUN` stands for that training.
        images: whether it is given the images.
    """

    title: str
    run: str
    weights: Sequence[str] = ("RUN",)
    images: bool = True


ROWS = {
    "shipped": Row("`image`, shipped, no labels", "", ("image",)),
    "fast": Row("`fast`", "fast", images=False),
    "fast-images": Row("`fast --images`", "fast-images"),
    "image": Row("`image`, from the shipped weights", "image"),
    "chain": Row("chain: `fast`, then `image` as shipped", "fast", ("RUN", "image")),
}
TRAININGS = {
    "fast": (),
    "fast-images": ("--network", "fast", "--images", "IMAGES"),
    "image": ("--images", "IMAGES"),
}


class Counts(NamedTuple):
    """Of test images: regions `(n, 2, 4)` and edges `(n, 2, 16)`, of the base model and refined; seconds of the CPU."""

    regions: NDArray[np.float64]
    edges: NDArray[np.float64]
    training: float
    refining: float


def cpu_seconds() -> float:
    """Of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def trained(kind: str, split: Path, run: Path, seed: int, options: Sequence[str]) -> float:
    """Train, unless that was done before; gives the seconds of the CPU that it took."""
    taken = run / "cpu_seconds.txt"
    if not taken.exists():
        flags = [split / "images" if flag == "IMAGES" else flag for flag in TRAININGS[kind]]
        began = cpu_seconds()
        where = ("-o", run, "--seed", str(seed), "--threads", "1", "--folds", "1", "--overwrite", "-q")
        prn("train", split / "logits", "--labels", split / "labels", *where, *flags, *options)
        taken.write_text(f"{cpu_seconds() - began:.1f}\n")
    return float(taken.read_text())


def masks_counted(test: Path, masks: Path) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Regions and edges of each test image, in the order of their names."""
    for path in sorted((test / "logits").iterdir(), key=lambda path: path.stem):
        logits, label = read_logits(path), read_mask(test / "labels" / f"{path.stem}.png")
        with open_map("prediction", next(masks.glob(f"{path.stem}.*")), Reading(kind="mask")) as opened:
            refined = opened.probabilities() > 0.5
        known = np.where(np.isnan(logits), IGNORE, label).astype(np.uint8)
        yield counted_masks(
            Window(logits, known, np.empty(0), np.empty(0)), [np.nan_to_num(logits, nan=-1) > 0, refined]
        )


def counted(name: str, key: str, seed: int, given: argparse.Namespace) -> Counts:
    """Train, refine and count, unless that was done before."""
    kept, row = given.work / f"{name}-{key}-{seed}.npz", ROWS[key]
    if not kept.exists():
        train, test = given.logits / name / "train", given.logits / name / "test"
        run, masks = given.work / "runs" / f"{name}-{row.run}-{seed}", given.work / "masks" / f"{name}-{key}-{seed}"
        run.parent.mkdir(parents=True, exist_ok=True)
        scenes = ("--groups", SCENES[name]) if name in SCENES else ()
        training = trained(row.run, train, run, seed, [*scenes, *schedule(row.run, given)]) if row.run else 0.0
        began = cpu_seconds()
        weights = [flag for each in row.weights for flag in ("--weights", run if each == "RUN" else each)]
        images = ("--images", test / "images") if row.images else ()
        prn("refine", test / "logits", "-o", masks, "--overwrite", "-q", "-j", "1", *weights, *images)
        refining = cpu_seconds() - began
        regions, edges = map(np.array, zip(*masks_counted(test, masks), strict=True))
        np.savez(kept, **Counts(regions, edges, training, refining)._asdict())
    return Counts(**np.load(kept))


def schedule(kind: str, given: argparse.Namespace) -> list[str]:
    """The options of `prn train` for a network's schedule."""
    chosen = dict(each.split("=") for each in given.schedule)
    found = chosen.get(kind.removesuffix("-images"))
    return [] if found is None else ["--epochs", found.split("x")[0], "--steps", found.split("x")[1]]


def table_row(name: str, key: str, given: argparse.Namespace) -> list[str] | None:
    seeds = range(given.seeds)
    if key not in given.rows and not all((given.work / f"{name}-{key}-{seed}.npz").exists() for seed in seeds):
        return None
    every = [counted(name, key, seed, given) for seed in seeds]
    regions, edges = (np.sum([getattr(each, part) for each in every], axis=0) for part in ("regions", "edges"))
    cells = [name, ROWS[key].title]
    for pool in (True, False):
        value, low, high = (100 * each for each in compare(regions[:, 0], regions[:, 1], iou, pool=pool).difference)
        cells.append(f"{value:+.2f} [{low:+.2f}, {high:+.2f}]")
    for score in (mean_boundary_accuracy, boundary_iou):
        found = 100 * score(edges)
        known = np.isfinite(found).all(axis=1)
        cells.append(f"{(found[known, 1] - found[known, 0]).mean():+.2f}")
    megapixels = every[0].regions[:, 0].sum() / 1e6
    training, refining = (np.mean([getattr(each, part) for each in every]) for part in ("training", "refining"))
    return [*cells, f"{training:.0f}" if training else "", f"{refining / megapixels:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of runs, masks and counts; reused")
    parser.add_argument("--set", nargs="+", default=list(SETS))
    parser.add_argument(
        "--rows", nargs="*", choices=ROWS, default=list(ROWS), help="that are made; others if they are there"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--schedule", nargs="*", default=[], metavar="NETWORK=EPOCHSxSTEPS")
    given = parser.parse_args()
    rows = []
    for name in given.set:
        for key in ROWS:
            row = table_row(name, key, given)
            if row is not None:
                rows.append(row)
                print(" | ".join(row), file=sys.stderr, flush=True)
    heading = [
        "set (test split)",
        "refined by",
        "pooled IoU",
        "mean IoU",
        "mBA",
        "boundary IoU",
        "training, CPU s",
        "s/Mpx",
    ]
    print(f"{markdown(heading, rows)}\n\nSeeds 0 to {given.seeds - 1}; {machine()}.")


if __name__ == "__main__":
    main()
