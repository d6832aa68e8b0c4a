"""What others make of the windows that `bench/image.py` judges `image` on, without labels of the set.

    python bench/image_rivals.py --fields FIELDS [--rows guided crf fast]

Every row refines the base model about the threshold of the first call, as `image` does. Settings of the guided filter
and of the dense CRF (Krähenbühl and Koltun, NIPS 2011; PyPI `pydensecrf2`) are those that gain most on windows
of the training splits of the other sets. Seconds are of the CPU, on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
from common import machine, markdown
from image import FINE, MEASURES, counted_masks, over_sets
from image_data import set_of
from image_fields import Window, load
from numpy.typing import NDArray
from scipy import ndimage

from prn_cli.maps.probabilities import sigmoid
from prn_cli.methods import load_refiner
from prn_cli.methods.weights import find_weights
from prn_cli.metrics.boundaries import mean_boundary_accuracy
from prn_cli.metrics.regions import iou
from prn_cli.refinement.rows import refine_map

Mask = NDArray[np.bool_]
Settings = tuple[float, ...]


def guided(window: Window, radius: float, smooth: float) -> Mask:
    """The guided filter (He, Sun and Tang, TPAMI 2013) of the probabilities by the grey image."""
    mean = partial(ndimage.uniform_filter, size=2 * int(radius) + 1, mode="nearest")
    grey = (window.image.mean(axis=0) / 255).astype(np.float64)
    probability = sigmoid(np.nan_to_num(window.logits)).astype(np.float64)
    about, level = mean(grey), mean(probability)
    slope = (mean(grey * probability) - about * level) / (mean(grey * grey) - about * about + smooth)
    return mean(slope) * grey + mean(level - slope * about) > 0.5


def crf(window: Window, reach: float, colour: float, weight: float) -> Mask:
    """Five steps of mean-field inference; a Gaussian kernel of 3 px, and a bilateral one."""
    from pydensecrf.densecrf import DenseCRF2D

    height, width = window.logits.shape
    probability = np.clip(sigmoid(np.nan_to_num(window.logits)), 1e-4, 1 - 1e-4).ravel()
    field = DenseCRF2D(width, height, 2)
    field.setUnaryEnergy(-np.log(np.stack([1 - probability, probability])).astype(np.float32))
    field.addPairwiseGaussian(sxy=3, compat=3)
    rgb = np.ascontiguousarray(window.image.transpose(1, 2, 0).astype(np.uint8))
    field.addPairwiseBilateral(sxy=reach, srgb=colour, rgbim=rgb, compat=weight)
    after = np.array(field.inference(5)).reshape(2, height, width)
    return after[1] > after[0]


def fast(window: Window, strength: float) -> Mask:
    """The shipped `fast`, which sees no image."""
    return np.nan_to_num(refine_map(window.logits, _fast(), strength=strength), nan=-1) > 0


@cache
def _fast() -> object:
    return load_refiner(find_weights("fast"), device="cpu", threads=1)


RIVALS: Mapping[str, tuple[str, Callable[..., Mask], Sequence[Settings]]] = {
    "guided": ("guided filter", guided, [(r, e) for r in (2, 4, 8, 16) for e in (1e-3, 1e-2)]),
    "crf": ("dense CRF", crf, [(80, 13, 10), (40, 13, 4), (15, 8, 2)]),
    "fast": ("`fast`, shipped, strength 1", fast, [(1.0,)]),
}


def changes(windows: Sequence[Window], refine: Callable[[Window], Mask]) -> NDArray[np.float64]:
    """Changes of pooled IoU, mean IoU and mBA against the first call, in points, `(3,)`."""
    regions, edges = zip(
        *(counted_masks(window, [np.nan_to_num(window.logits, nan=-1) > 0, refine(window)]) for window in windows),
        strict=True,
    )
    return compared(np.array(regions), np.array(edges))


def compared(regions: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    pooled = iou(regions.sum(0))
    shown = regions[:, 0, 0] + regions[:, 0, 2] > 0
    mean = iou(regions[shown]).mean(0) if shown.any() else pooled
    borders = mean_boundary_accuracy(edges)
    known = np.isfinite(borders).all(axis=1)
    mba = borders[known].mean(0) if known.any() else np.zeros(2)
    return 100 * np.array([pooled[1] - pooled[0], mean[1] - mean[0], mba[1] - mba[0]])


def gain(windows: Sequence[Window], refine: Callable[[Window], Mask]) -> float:
    """Points of pooled IoU against the first call, held to what a single pair may say."""
    counts = [
        counted_masks(window, [np.nan_to_num(window.logits, nan=-1) > 0, refine(window)], edges=False)[0]
        for window in windows
    ]
    before, after = 100 * iou(np.sum(counts, axis=0))
    return float(np.clip(after - before, -20, 12))


def tuned(folder: Path, refine: Callable[..., Mask], tried: Sequence[Settings], few: int) -> dict[str, Settings]:
    """For each set, the settings that gain most on the training splits of the others; sets weigh alike."""
    gains: dict[str, list[list[float]]] = {}
    for path in sorted(folder.glob("*-train.npz")):
        windows = load(path)[1][:few]
        row = [gain(windows, lambda w, s=s: refine(w, *s)) for s in tried]
        gains.setdefault(set_of(path.stem.rpartition("-")[0]), []).append(row)
    means = {name: np.mean(rows, axis=0) for name, rows in gains.items()}
    others = {name: np.mean([m for other, m in means.items() if other != name], axis=0) for name in means}
    return {name: tried[int(mean.argmax())] for name, mean in others.items()}


def row(folder: Path, key: str, few: int) -> list[str]:
    title, refine, tried = RIVALS[key]
    paths = sorted(folder.glob("*-test.npz"))
    names = [path.stem.rpartition("-")[0] for path in paths]
    chosen = tuned(folder, refine, tried, few) if len(tried) > 1 else {set_of(name): tried[0] for name in names}
    values: dict[str, list[NDArray[np.float64]]] = {}
    spent = pixels = 0.0
    for name, path in zip(names, paths, strict=True):
        windows, settings = load(path)[1], chosen[set_of(name)]
        began = time.process_time()
        masks = [refine(window, *settings) for window in windows]
        spent += time.process_time() - began
        pixels += sum(mask.size for mask in masks)
        given = iter(masks)
        values.setdefault(set_of(name), []).append(changes(windows, lambda _, given=given: next(given)))
    sets = {name: np.array(found) for name, found in values.items()}
    fine = {name: found for name, found in sets.items() if name in FINE}
    pooled = np.concatenate(list(sets.values()))[:, 0]
    return [
        title,
        *(over_sets({name: found[:, place] for name, found in sets.items()}) for place in range(3)),
        over_sets({name: found[:, 2] for name, found in fine.items()}),
        *(f"{(pooled < least).sum()}" for least in (-0.2, -1)),
        f"{pooled.min():+.2f}",
        f"{1e6 * spent / pixels:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=Path, required=True, help="that bench/image_fields.py has written")
    parser.add_argument("--rows", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--few", type=int, default=3, help="windows of a training split that settings are chosen on")
    given = parser.parse_args()
    heading = ["against the first call", *MEASURES[:3], "mBA, fine labels", "lose > 0.2", "lose > 1", "worst", "s/Mpx"]
    print(markdown(heading, [row(given.fields, key, given.few) for key in given.rows]))
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
