"""The score of the background: what each constant gives, and what the choice without labels gives.

    python bench/weak_background.py --work DIR [--seeds 3]

DIR is that of `bench/weak.py`, which cuts the tiles and trains the classifiers. mIoU is of the masks of every third
learned tile, with images and tags. The line of `choose_background` is fitted on these tiles, too; "left out" is the
line fitted on the other sets. A set counts many times in a fit: with each choice of its classes, the rest of which are
background then.
"""

from __future__ import annotations

import argparse
import sys
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import machine, markdown
from numpy.typing import NDArray
from PIL import Image
from weak import SETS, SIDES, TILE, tags_of

from prn_cli.maps.bands import band_statistics
from prn_cli.maps.guided import guided
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.tiles import Window
from prn_cli.metrics.classes import count_classes, mean_iou
from prn_cli.rasters import open_map, read_label
from prn_cli.rasters.activations import Activations
from prn_cli.thresholding.weak import USUAL_BACKGROUND, account_for, choose_background, evidence, mean_evidence
from prn_cli.workflows.weak import WeakOptions

STEP = 3  # of the learned tiles
COARSE = 2  # px, of what is compared
SCORES = np.arange(0, 0.71, 0.02)
SHOWN = (0.1, 0.2, 0.3, 0.4, 0.5)
LINES = [
    (nothing, each) for nothing, each in product(np.arange(0.1, 0.7, 0.02), np.arange(0, 0.7, 0.02)) if each < nothing
]


class Tiles(NamedTuple):
    """The learned tiles of a set: evidence `(N, C, h, w)`, its mean in the survey `(N, C)`, tags, true classes."""

    found: NDArray[np.float32]
    means: NDArray[np.float64]
    tags: NDArray[np.bool_]
    truth: NDArray[np.uint8]


def read_tiles(work: Path, name: str, seed: int) -> Tiles:
    """As `prn pseudolabel --weak` reads them, with images and tags."""
    place, edges, classes = work / "train", WeakOptions(), list(SETS[name].classes)[1:]
    tags = tags_of(work, "train", classes)[::STEP] > 0
    truths, maps, raw, peaks = [], [], [], []
    for path in sorted((place / "images").iterdir())[::STEP]:
        sources = [[work / f"seed{seed}" / "train" / f"activations{side}" / f"{path.stem}.npy"] for side in SIDES]
        image = np.asarray(Image.open(path)).transpose(2, 0, 1).astype(np.float32)
        centre, spread = (np.array(values, np.float32)[:, None, None] for values in band_statistics([image]))
        with open_map("image", path) as grid, Activations(sources, len(classes), grid=grid) as laid:
            found = laid.read(Window(0, 0, TILE, TILE))
        with Activations(sources, len(classes)) as own:
            peaks.append(own.peaks())
            raw.append(own.read(Window(0, 0, own.height, own.width)))
        guide = (image - centre) / spread
        full = guided(found, guide, side=edges.edge_box, smoothness=edges.edge_smoothness)
        maps.append(full[:, ::COARSE, ::COARSE])
        truths.append(read_label(place / "labels" / f"{path.stem}.png", role="class label")[::COARSE, ::COARSE])
    usual = np.array([np.quantile(np.array(peaks)[tags[:, number], number], 0.75) for number in range(len(classes))])
    scales = np.sqrt(np.array(peaks) * usual)
    return Tiles(
        np.stack([evidence(one, scale) for one, scale in zip(maps, scales, strict=True)]),
        np.stack([mean_evidence(evidence(one, usual)) for one in raw]),
        tags,
        np.stack(truths),
    )


class Case(NamedTuple):
    """Some classes of a set: what of the images their tags account for, and mIoU at each of `SCORES`."""

    accounted: float
    mious: NDArray[np.float64]

    def at(self, score: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """mIoU, in points, with this score of the background."""
        return np.interp(score, SCORES, self.mious)


def case(tiles: Tiles, classes: tuple[int, ...]) -> Case:
    """A set of which only these classes are known."""
    chosen, tags = list(classes), tiles.tags[:, list(classes)]
    numbers = np.zeros(256, np.uint8)
    numbers[IGNORE] = IGNORE
    numbers[np.array(chosen) + 1] = np.arange(1, len(chosen) + 1)
    truth, found = numbers[tiles.truth], np.where(tags[:, :, None, None], tiles.found[:, chosen], 0)
    best, strongest = found.max(axis=1), found.argmax(axis=1).astype(np.uint8) + 1
    mious = [
        100 * mean_iou(count_classes(np.where(best > cut, strongest, 0).astype(np.uint8), truth)) for cut in SCORES
    ]
    return Case(account_for(tiles.means[:, chosen], tags), np.array(mious, float))


def fit(sets: list[list[Case]]) -> tuple[float, float]:
    """The line, scores where nothing and where all is accounted for, of the greatest mean mIoU over sets."""
    lines = np.array(LINES)
    worth = np.zeros(len(lines))
    for cases in sets:
        for each in cases:
            worth += each.at(lines[:, 0] + (lines[:, 1] - lines[:, 0]) * each.accounted) / len(cases)
    nothing, everything = lines[worth.argmax()]
    return float(nothing), float(everything)


def row(name: str, tiles: dict[str, Tiles], cases: dict[str, list[Case]]) -> tuple[list[str], list[float]]:
    """What a line of the table says of a set, and what `auto` and the line of the other sets change."""
    whole, truth = cases[name][0], tiles[name].truth
    nothing, everything = fit([each for other, each in cases.items() if other != name])
    scores = choose_background(tiles[name].means, tiles[name].tags), nothing + (everything - nothing) * whole.accounted
    shown = [f"{whole.at(score):.1f}" for score in SHOWN]
    for score in scores:
        shown += [f"{whole.at(score):.1f}", f"{score:.2f}"]
    true = (truth == 0).sum() / (truth != IGNORE).sum()
    return [*shown, f"{whole.accounted:.0%}", f"{true:.0%}"], [
        float(whole.at(s) - whole.at(USUAL_BACKGROUND)) for s in scores
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    heading = ["set", "seed", *map(str, SHOWN), "auto", "at", "left out", "at", "accounted for", "true background"]
    rows, gains = [], []
    for seed in range(arguments.seeds):
        tiles = {name: read_tiles(arguments.work / name, name, seed) for name in SETS}
        cases = {}
        for name, each in tiles.items():
            every = range(each.tags.shape[1])
            some = [chosen for count in range(len(every), 0, -1) for chosen in combinations(every, count)]
            cases[name] = [case(each, chosen) for chosen in some]
        for name in SETS:
            shown, gain = row(name, tiles, cases)
            rows.append([name, str(seed), *shown])
            gains.append(gain)
        print(f"seed {seed}: the line of all sets is {fit(list(cases.values()))}", file=sys.stderr)
    print(markdown(heading, rows))
    auto, left_out = np.mean(gains, axis=0)
    print(f"\nmean change against {USUAL_BACKGROUND}: auto {auto:+.2f}, left out {left_out:+.2f}; {machine()}.")


if __name__ == "__main__":
    main()
