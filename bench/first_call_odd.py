"""The threshold without labels on base models unlike those that it was fitted to: scores distorted, or put together.

    python bench/first_call_odd.py --logits DIR [DIR ...] --cache /tmp/first-call [--others DIR] [--split train]

Folders are those of `bench/first_call.py`, and so are the fits, which have seen neither the set nor any distortion.
Each pair's maps, 12 a split at most, are distorted in every way of `DISTORTIONS`; of sets with five kinds of base
models, the scores of all five are put together in every way of `TOGETHER`. Changes are to a threshold of 0.5 on the
same scores, by the statistics that `prn refine` takes: areas of exact zeros are left out, and stay background. Others
are those of `bench/odd_models.py`; where a model comes from another set, the fit has not seen that one either.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from common import machine, markdown
from first_call import (
    Scorer,
    Split,
    by_side,
    cuts_of_images,
    fits_without,
    fitted,
    folders_of,
    labelled,
    over_sets,
    pairs,
    read,
)
from numpy.typing import NDArray

from prn_cli.maps.certain import find_padding
from prn_cli.maps.probabilities import logit, sigmoid
from prn_cli.thresholding.calibration import Fit, expect
from prn_cli.thresholding.decision import cut_of, decide
from prn_cli.thresholding.logit_statistics import LIMIT, LogitStatistics, measure_steepness
from prn_cli.thresholding.sampling import sample_maps

FloatMap = NDArray[np.float32]
Way = Callable[[FloatMap], FloatMap]
MAPS = 12
BLOCK = 16
KINDS = "abcde"


def of_probabilities(change: Way) -> Way:
    """A distortion of probabilities, as one of logits."""
    return lambda logits: logit(change(sigmoid(logits)))


def in_blocks(logits: FloatMap) -> FloatMap:
    """One score for 16×16 px, that of a pixel in the middle."""
    y, x = (np.minimum(np.arange(side) // BLOCK * BLOCK + BLOCK // 2, side - 1) for side in logits.shape)
    return np.where(np.isnan(logits), logits, logits[y][:, x])


def noisy(logits: FloatMap) -> FloatMap:
    """With noise of one logit."""
    return logits + np.random.default_rng(0).standard_normal(logits.shape, np.float32)


DISTORTIONS: dict[str, Way] = {
    "logits / 4": lambda z: z / 4,
    "logits / 2": lambda z: z / 2,
    "logits × 2": lambda z: z * 2,
    "logits × 4": lambda z: z * 4,
    "logits − 1": lambda z: z - 1,
    "logits + 1": lambda z: z + 1,
    "logits held to ±4": lambda z: np.clip(z, -4, 4),
    "logits below 0 are 0": lambda z: np.maximum(z, 0),
    "noise of one logit": noisy,
    "one score for 16×16 px": in_blocks,
    "bytes": of_probabilities(lambda p: np.rint(255 * p) / 255),
    "float16 of σ(logits × 4)": lambda z: logit(sigmoid(4 * z).astype(np.float16).astype(np.float32)),
    "p²": of_probabilities(np.square),
    "√p": of_probabilities(np.sqrt),
    "0.1 + 0.8 p": of_probabilities(lambda p: np.float32(0.1) + np.float32(0.8) * p),
    "p below 0.5 is 0": of_probabilities(lambda p: np.where(p < 0.5, np.float32(0), p)),
}
TOGETHER: dict[str, Way] = {
    "mean logit of five": lambda stack: stack.mean(axis=0),
    "mean probability of five": lambda stack: logit(sigmoid(stack).mean(axis=0)),
    "vote of five": lambda stack: logit(np.where(np.isnan(stack), stack, stack > 0).mean(axis=0, dtype=np.float32)),
}


def distorted(folders: list[Path], ways: dict[str, Way]) -> dict[str, Split]:
    """The maps of a split, in each way; those of several folders put together. Padding counts as the lowest logit."""
    rows: dict[str, list] = {name: [] for name in ways}
    for stem in sorted(sample_maps((path.stem for path in (folders[0] / "logits").iterdir()), MAPS)):
        planes = [read(next((folder / "logits").glob(f"{stem}.*"))) for folder in folders]
        label, whole = labelled(folders[0], stem), planes[0] if len(planes) == 1 else np.stack(planes)
        for name, change in ways.items():
            rows[name].append(measured(np.asarray(change(whole), np.float32), label))
    return {name: Split.of(parts) for name, parts in rows.items()}


def measured(logits: FloatMap, label: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    """What `Split` has of a map, with the number of padded pixels in the place of RankSEG's."""
    padding = find_padding(logits)
    if padding is None:
        return by_side(logits, label), *measure_steepness(logits), np.array([0, 0])
    seen = np.where(padding, np.float32(np.nan), logits)
    counts = by_side(np.where(padding, np.float32(-LIMIT), logits), label)
    return counts, *measure_steepness(seen), np.array([(padding & ~label).sum(), (padding & label).sum()])


def seen(split: Split) -> LogitStatistics:
    """What `prn refine` sees of it: without padding."""
    found = split.statistics()
    found.counts[0] -= split.ranked.sum()
    return found


def odd_pairs(folders: list[Path], split: str, cache: Path) -> Iterator[tuple[str, str, Split]]:
    """Way, pair and what was measured, unless that was done before."""
    cache.mkdir(parents=True, exist_ok=True)
    every = {folder.name: folder for folder in folders_of(folders)}
    for name, folder in every.items():
        yield from _cached(name, [folder / split], DISTORTIONS, cache / f"{name}.{split}.npz")
    for name in [name[:-2] for name in every if name.endswith("_a")]:
        kinds = [every[f"{name}_{kind}"] / split for kind in KINDS if f"{name}_{kind}" in every]
        if len(kinds) == len(KINDS):
            yield from _cached(name, kinds, TOGETHER, cache / f"{name}.together.{split}.npz")


def _cached(name: str, folders: list[Path], ways: dict[str, Way], file: Path) -> Iterator[tuple[str, str, Split]]:
    if not file.exists():
        print(file.stem, file=sys.stderr, flush=True)
        arrays = {
            f"{number} {part}": values
            for number, split in enumerate(distorted(folders, ways).values())
            for part, values in vars(split).items()
        }
        np.savez_compressed(file, **arrays)
    with np.load(file) as arrays:
        for number, way in enumerate(ways):
            parts = ("counts", "cells", "steepness", "ranked")
            yield way, name, Split(*(arrays[f"{number} {part}"] for part in parts))


def change_of(split: Split, fit: Fit) -> NDArray[np.float64]:
    """`(2, 2)`: change of pooled and mean IoU, in points, with one threshold for the set, and with one an image."""
    statistics = seen(split)
    if not statistics.pixels:
        return np.zeros((2, 2))
    scorer, prior = Scorer(split), expect(statistics, fit)
    of_set = cut_of(decide(statistics.counts, prior).threshold)
    images = split.counts.sum(axis=1)
    images[:, 0] -= split.ranked.sum(axis=1)
    return np.stack([scorer.change(of_set), scorer.change(cuts_of_images(images, statistics, prior))])


def origin(name: str) -> tuple[str, set[str]]:
    """What kind of model a folder of `bench/odd_models.py` is of, and the sets that it knows."""
    images, _, model = name.partition("_by-")
    if model:
        return "a model of another set", {images.split("_")[0], model.split("_")[0]}
    return f"{name.rpartition('_')[2]} loss", {name.split("_")[0]}


def row(name: str, of_pairs: dict[str, NDArray[np.float64]]) -> list[str]:
    """Of one way, or of all: means over pairs, how many lose, the worst."""
    sets = np.array([pair.split("_")[0] for pair in of_pairs])
    values = np.array(list(of_pairs.values()))
    cells = [name, str(len(values)), *(over_sets(values[:, 0, part], sets) for part in (0, 1))]
    for which in (0, 1):
        least = values[:, which].min(axis=1)
        lost = [str(int((least < -limit).sum())) for limit in (0.2, 1.0)]
        worst = f"{least.min():+.1f}" + (f" ({list(of_pairs)[int(least.argmin())]})" if least.min() < -0.2 else "")
        cells += [*lost, worst]
    return cells


HEADING = ["scores", "pairs", "pooled IoU [95 %]", "mean IoU [95 %]", "lose > 0.2", "> 1", "worst"]
HEADING += ["an image: lose > 0.2", "> 1", "worst"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, nargs="+", required=True, help="folders of pairs")
    parser.add_argument("--cache", type=Path, required=True, help="folder for what was measured; reused")
    parser.add_argument("--others", type=Path, help="folder of bench/odd_models.py")
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--by-pair", action="store_true", help="print each pair that loses more than 0.2, too")
    arguments = parser.parse_args()
    every_pair = list(pairs(arguments.logits, arguments.cache))
    fits = fits_without(every_pair)
    results: dict[str, dict[str, NDArray[np.float64]]] = {}
    for way, name, split in odd_pairs(arguments.logits, arguments.split, arguments.cache / "odd"):
        results.setdefault(way, {})[name] = change_of(split, fits[name.split("_")[0]])
    for folder in sorted(arguments.others.iterdir()) if arguments.others else ():
        way, sets = origin(folder.name)
        fit = fitted([pair for pair in every_pair if pair.set not in sets])
        split = distorted([folder / arguments.split], {way: lambda z: z})[way]
        results.setdefault(way, {})[folder.name] = change_of(split, fit)
    every = {f"{name} {way}": change for way, of_pairs in results.items() for name, change in of_pairs.items()}
    rows = [row(way, of_pairs) for way, of_pairs in results.items()]
    print(markdown(HEADING, [*rows, row("all", every)]))
    print(f"\n{arguments.split} split, {MAPS} maps of each at most; {machine()}.")
    if arguments.by_pair:
        for name, change in sorted(every.items(), key=lambda item: item[1].min()):
            if change.min() < -0.2:
                print(name, change.round(1).tolist())


if __name__ == "__main__":
    main()
