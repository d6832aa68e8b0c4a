"""Does `image` help on sets and base models that it has never seen, and does its brake prevent harm?

    python bench/image.py judge --root LOGITS --weights ship.pt --out judged [--sets retina ...]
    python bench/image.py fit   --judged judged [--out brake.json]     the brake, and the table leave-one-set-out
    python bench/image.py speed [--names fast image] [--published]      seconds a megapixel

`judge` counts, for each pair of sets that the network has not learned from, what strengths 0 to 1 give on a few windows
of its training split and of its test split, and what shows without labels (`prn_cli.methods.image.brake`). `fit` learns
the brake from the training splits, and judges each set by a brake that has learned from the other sets alone; test
splits take part in nothing but the table. Intervals are 95 % bootstrap intervals over sets.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import segrefiner_speed
from common import machine, markdown
from image_data import IGNORE, SETS, pairs, read_image, read_logits, read_mask, set_of, stretch_of, stretched
from numpy.typing import NDArray

from prn_cli.maps.tiles import round_up
from prn_cli.methods import load_refiner
from prn_cli.methods.image.brake import FEATURES, Agreement, Brake
from prn_cli.methods.refiner import FloatMap, Windows
from prn_cli.methods.weights import find_weights
from prn_cli.metrics.boundaries import boundary_iou, count_boundaries, mean_boundary_accuracy
from prn_cli.metrics.regions import iou
from prn_cli.refinement.rows import refine_map
from prn_cli.thresholding.sampling import sample_maps, sample_windows

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
MAPS = {"train": 3, "test": 5}
SIDE = 320
FINE = ("clothing", "lungs", "magnetic_tile", "membrane", "plants", "cracks", "camvid", "city", "retina", "nuclei")
"""Sets with labels fine enough to judge boundaries by: on their edges, images are more than 1.2 times as steep."""


# Judging --------------------------------------------------------------------------------------------------------------


class Judge:
    """A network, and the features of the image at hand, which all base models share."""

    def __init__(self, weights: Path) -> None:
        import torch

        from prn_cli.methods.image.network import ImageNetwork

        self.torch, self.network = torch, ImageNetwork().eval()
        state = torch.load(weights, map_location="cpu", weights_only=False)
        self.network.load_state_dict(state["network"], strict=False)  # without a range of the image
        self.learned, self.seen = state["sets"], {}

    def field(self, windows: Windows) -> FloatMap:
        """What is to be added to the logits; images are stretched before."""
        torch, key = self.torch, (windows.view, windows.logits.shape)
        with torch.no_grad():
            image = torch.from_numpy(np.array(windows.image))
            if key not in self.seen:
                self.seen[key] = self.network.encoder(torch.nan_to_num(image))
            logits = torch.from_numpy(np.array(windows.logits))[:, None]
            return self.network.bias(logits, image, self.seen[key])[:, 0].numpy()


def judge(root: Path, weights: Path, sets: Sequence[str], out: Path) -> None:
    network = Judge(weights)
    out.mkdir(parents=True, exist_ok=True)
    groups: dict[str, dict[str, Path]] = defaultdict(dict)
    for name, folder in pairs(root, tuple(sets)).items():
        if set_of(name) in network.learned:
            raise SystemExit(f"{weights} has learned from {set_of(name)}")
        groups[name[:-2] if (folder.parent / f"{name[:-2]}_b").exists() else name][name] = folder
    for group, members in groups.items():
        began = time.monotonic()
        for split, maps in MAPS.items():
            for name, record in judge_group(network, split, members, maps).items():
                (out / f"{name}-{split}.json").write_text(json.dumps(record))
        print(f"{group}: {time.monotonic() - began:.0f} s", flush=True)


def judge_group(network: Judge, split: str, members: dict[str, Path], maps: int) -> dict[str, Any]:
    """Records of pairs that differ in the base model alone."""
    first = next(iter(members.values())) / split
    images = {path.stem: path for path in (first / "images").iterdir()}
    stems = sample_maps(images, most=maps)
    stretch = stretch_of([read_image(images[stem]) for stem in sample_maps(images, most=12)])
    agreement = {name: Agreement() for name in members}
    records: dict[str, Any] = {name: {"maps": [], "seconds": 0.0} for name in members}
    for stem in stems:
        network.seen.clear()
        image = stretched(read_image(images[stem]), stretch)
        label = read_mask(first / "labels" / f"{stem}.png")
        window = sample_windows(stem, *label.shape, most=1)[0]
        cut = np.s_[window.y : window.y + min(SIDE, window.height), window.x : window.x + min(SIDE, window.width)]
        height, width = label[cut].shape
        pad = ((0, round_up(height, 16) - height), (0, round_up(width, 16) - width))
        seen = np.pad(image[:, *cut], ((0, 0), *pad), constant_values=np.nan)[None]
        for name, folder in members.items():
            logits = read_logits(next((folder / split / "logits").glob(f"{stem}.*")))[cut]
            windows = Windows(np.pad(logits, pad, constant_values=np.nan)[None], seen)
            began = time.monotonic()
            field = network.field(windows)[0, :height, :width]
            records[name]["seconds"] += time.monotonic() - began
            records[name]["maps"].append(count(logits, field, label[cut]))
            agreement[name].add(windows, network.field)
    for name, record in records.items():
        record["features"] = agreement[name].features().tolist()
    return records


def count(logits: FloatMap, field: FloatMap, label: NDArray[np.uint8]) -> dict[str, Any]:
    """Counts of one map by strength: regions, boundaries, and pixels repaired and damaged."""
    label = np.where(np.isnan(logits), IGNORE, label).astype(np.uint8)
    valid, truth = label != IGNORE, label == 1
    base = np.nan_to_num(logits, nan=-1) > 0
    regions, boundaries, changed = [], [], []
    for strength in STRENGTHS:
        mask = np.nan_to_num(logits + strength * field, nan=-1) > 0
        right, was = mask == truth, base == truth
        cells = ((mask & truth), (mask & ~truth), (~mask & truth), (~mask & ~truth))
        regions.append([int((cell & valid).sum()) for cell in cells])
        changed.append([int((right & ~was & valid).sum()), int((~right & was & valid).sum())])
        if strength in (0.0, 0.5, 1.0):
            boundaries.append(count_boundaries(np.where(valid, mask, IGNORE).astype(np.uint8), label).tolist())
    return {"regions": regions, "boundaries": boundaries, "changed": changed}


# The brake ------------------------------------------------------------------------------------------------------------


def load(folder: Path, split: str) -> dict[str, dict[str, Any]]:
    """Records of the pairs by name, as arrays."""
    found = {}
    for path in sorted(folder.glob(f"*-{split}.json")):
        record = json.loads(path.read_text())
        parts = {key: np.array([m[key] for m in record["maps"]], np.float64) for key in ("regions", "changed")}
        edges = [np.array([m["boundaries"][k] for m in record["maps"]], np.float64) for k in range(3)]
        found[path.stem.rpartition("-")[0]] = parts | {"edges": edges, "features": np.array(record["features"])}
    return found


def gains(record: dict[str, Any], *, pool: bool = True) -> NDArray[np.float64]:
    """Points of IoU that each strength gains: pooled, or in the mean over windows that have foreground."""
    regions = record["regions"]
    shown = regions[:, 0, 0] + regions[:, 0, 2] > 0
    scores = iou(regions.sum(0)) if pool or not shown.any() else iou(regions[shown]).mean(0)
    return 100 * (scores - scores[0])


def fit(records: dict[str, dict[str, Any]], *, ridge: float, least: float, caution: float) -> Brake:
    """A ridge regression from features to gains; losses weigh more than gains. Sets weigh alike."""
    strengths = (0.5, 1.0)
    features = np.stack([record["features"] for record in records.values()])
    target = np.stack([gains(record)[[STRENGTHS.index(s) for s in strengths]] for record in records.values()])
    target = np.clip(np.where(target < 0, caution * target, target), -20, 12)
    names = [set_of(name) for name in records]
    weight = np.array([1 / names.count(name) for name in names])
    centre, spread = features.mean(0), features.std(0) + 1e-3
    standard = np.clip((features - centre) / spread, -3, 3)
    design = np.concatenate([standard, np.ones((len(standard), 1))], axis=1)
    penalty = ridge * np.diag([*np.ones(len(FEATURES)), 0])
    weights = np.linalg.solve(design.T @ (weight[:, None] * design) + penalty, design.T @ (weight[:, None] * target)).T
    rounded = [np.round(values, 4).tolist() for values in (centre, spread, weights)]
    return Brake(*rounded, strengths, least)


def left_out(
    train: dict[str, dict[str, Any]], judged: dict[str, dict[str, Any]], **settings: float
) -> dict[str, float]:
    """The strength of each pair, by a brake that has learned from the other sets."""
    found = {}
    for held in {set_of(name) for name in judged}:
        brake = fit({name: record for name, record in train.items() if set_of(name) != held}, **settings)
        found |= {name: brake.strength(r["features"]) for name, r in judged.items() if set_of(name) == held}
    return found


def worth(train: dict[str, dict[str, Any]], strengths: dict[str, float]) -> tuple[int, int, float]:
    """What settings of the brake are worth: few pairs that lose more than a point, few more than 0.2, a high mean."""
    found = np.array([gains(record)[STRENGTHS.index(strengths[name])] for name, record in train.items()])
    return -int((found < -1).sum()), -int((found < -0.2).sum()), float(found.mean())


def settle(train: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The settings that are worth most, leave-one-set-out, on the training splits."""
    grid = [
        {"ridge": ridge, "least": least, "caution": caution}
        for ridge in (0.1, 0.3, 1.0, 3.0)
        for least in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
        for caution in (1.0, 2.0, 4.0)
    ]
    return max(grid, key=lambda settings: worth(train, left_out(train, train, **settings)))


class Figures(NamedTuple):
    """What a strength makes of a pair: the base model's IoU, and changes in points."""

    strength: float
    base: float
    unbraked: float
    pooled: float
    mean: float
    mba: float
    boundary: float


def figures_of(record: dict[str, Any], strength: float) -> Figures:
    at, edge = STRENGTHS.index(strength), {0.0: 0, 0.5: 1, 1.0: 2}[strength]
    pooled, mean = gains(record), gains(record, pool=False)
    edges = (_change(record, edge, score) for score in (mean_boundary_accuracy, boundary_iou))
    return Figures(strength, iou(record["regions"].sum(0))[0], pooled[-1], pooled[at], mean[at], *edges)


def row(name: str, record: dict[str, Any], found: Figures) -> list[str]:
    repaired, damaged = record["changed"].sum(0)[STRENGTHS.index(found.strength)]
    return [
        name,
        f"{found.base:.3f}",
        f"{found.unbraked:+.2f}",
        f"{record['features'][:3].mean():.2f}",
        f"{found.strength:g}",
        *(f"{change:+.2f}" for change in (found.pooled, found.mean, found.mba, found.boundary)),
        f"{int(repaired)} / {int(damaged)}",
    ]


def _change(record: dict[str, Any], edge: int, score: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> float:
    """Points of a boundary score, in the mean over maps that have boundaries."""
    change = 100 * (score(record["edges"][edge]) - score(record["edges"][0]))
    return float(np.nanmean(change)) if np.isfinite(change).any() else 0.0


HEADING = (
    "pair (test split)", "base IoU", "strength 1", "agreement", "strength", "pooled IoU", "mean IoU", "mBA",
    "boundary IoU", "repaired / damaged px",
)  # fmt: skip


def by_set(judged: dict[str, Figures]) -> dict[str, list[Figures]]:
    """The figures of the pairs of each set."""
    found: dict[str, list[Figures]] = defaultdict(list)
    for name, figures in judged.items():
        found[set_of(name)].append(figures)
    return found


def summary(judged: dict[str, Figures]) -> dict[str, str]:
    """The figures of all pairs, for people and for the weights' card."""
    sets = {
        name: np.array([(f.pooled, f.mean, f.mba, f.boundary, f.unbraked) for f in found])
        for name, found in by_set(judged).items()
    }
    values, each = np.concatenate(list(sets.values())), list(sets.values())
    draws = np.random.default_rng(0).integers(0, len(each), (2000, len(each)))
    means = [np.concatenate([each[k] for k in draw]).mean(axis=0) for draw in draws]
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    found = {
        what: f"{values[:, place].mean():+.2f} [{low[place]:+.2f}, {high[place]:+.2f}]"
        for place, what in enumerate(("pooled IoU", "mean IoU", "mBA", "boundary IoU", "pooled IoU without the brake"))
    }
    fine = np.array([name in FINE for name, pairs_of in sets.items() for _ in pairs_of])
    found["pairs with fine labels"] = f"pooled IoU {values[fine, 0].mean():+.2f}, mBA {values[fine, 2].mean():+.2f}"
    for what, place in (("pairs", 0), ("pairs without the brake", 4)):
        pooled = values[:, place]
        found[what] = (
            f"{len(pooled)}: {(pooled > 0).sum()} gain, {(pooled == 0).sum()} are left as they are, "
            f"{(pooled < -0.2).sum()} lose more than 0.2, {(pooled < -1).sum()} more than 1; the worst "
            f"{pooled.min():+.2f}"
        )
    return found


def table(judged: dict[str, Figures]) -> str:
    """The means over the base models of each set."""
    lines = []
    for name, found in by_set(judged).items():
        mean, used = Figures(*np.mean(found, axis=0)), sum(f.strength > 0 for f in found)
        changes = [f"{change:+.2f}" for change in (mean.unbraked, mean.pooled, mean.mba)]
        lines.append([name, str(len(found)), f"{mean.base:.3f}", changes[0], str(used), *changes[1:]])
    heading = ["set", "base models", "base IoU", "without the brake", "refined", "pooled IoU", "mBA"]
    return markdown(heading, lines)


# Speed ----------------------------------------------------------------------------------------------------------------


def published_seconds() -> float:
    """CPU seconds a megapixel of SegRefiner's published shape on one thread, all windows in doubt."""
    with tempfile.TemporaryDirectory() as folder:
        found = segrefiner_speed.measure(*segrefiner_speed.published(Path(folder), threads=1))
    return found.work * found.runs_per_megapixel


def speed(names: Sequence[str], side: int, rounds: int, *, published: bool) -> str:
    """CPU seconds a megapixel on one thread, of a map that is sure of nothing: other programs do not count."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(side, side)).astype(np.float32)
    image = random.uniform(0, 255, (3, side, side)).astype(np.float32)
    found: dict[str, list[float]] = {name: [] for name in names}
    refiners = {name: load_refiner(find_weights(name), device="cpu", threads=1) for name in names}
    for number in range(rounds + 1):
        for name, refiner in refiners.items():
            began = time.process_time()
            refine_map(logits, refiner, image=image if refiner.needs.bands else None, strength=1.0)
            if number:
                found[name].append((time.process_time() - began) / side**2 * 1e6)
    rows = [
        [
            name,
            f"{np.median(seconds):.2f}",
            f"{1 / np.median(seconds):.2f}",
            f"{min(seconds):.2f} to {max(seconds):.2f}",
        ]
        for name, seconds in found.items()
    ]
    if published:
        other = published_seconds()
        rows.append(["SegRefiner's published shape, random weights", f"{other:.2f}", f"{1 / other:.4f}", ""])
    return markdown(["weights", "CPU s/Mpx", "Mpx/s and core", "least and most"], rows) + f"\n\n{machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("judge", "fit", "speed"))
    parser.add_argument("--root", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--judged", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--names", nargs="+", default=["fast", "image"], help="weights whose speed is measured")
    parser.add_argument(
        "--published", action="store_true", help="time SegRefiner's published shape, too: 4 GB, minutes"
    )
    given = parser.parse_args()
    if given.action == "speed":
        print(speed(given.names, 1024, 5, published=given.published))
    elif given.action == "judge":
        judge(given.root, given.weights, given.sets, given.out)
    elif given.action == "fit":
        train, test = load(given.judged, "train"), load(given.judged, "test")
        settings = settle(train)
        strengths = left_out(train, test, **settings)
        judged = {name: figures_of(record, strengths[name]) for name, record in test.items()}
        rows = [row(name, test[name], found) for name, found in judged.items()]
        figures = summary(judged)
        print(f"brake: {settings}\n\n{markdown(HEADING, rows)}\n\n{table(judged)}\n")
        print("\n".join([*(f"{what}: {text}" for what, text in figures.items()), "", machine()]))
        if given.out:
            brake = json.loads(fit(train, **settings).to_json())
            given.out.write_text(json.dumps({"brake": brake, "figures": figures}) + "\n")


if __name__ == "__main__":
    main()
