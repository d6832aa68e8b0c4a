"""Does `image` help on sets and base models that it has never seen, and does its brake prevent harm?

    python bench/image_fields.py …                                     what the networks say, once
    python bench/image.py views --fields FIELDS                         which views of a window should decide
    python bench/image.py fit   --fields FIELDS [--out brake.json] [--by-pair]
    python bench/image.py speed [--names fast image] [--published]      seconds a megapixel

`fit` learns the brake from windows of training splits, and judges windows of test splits, each set by a brake that
has learned from the other sets alone. (The features of the brake, and that views must agree, were settled on while
figures of both splits could be seen; which views, by `views`, on training splits.) Changes are against the base model
cut at 0.5, and against the first call without the image: the base model cut at the threshold that is chosen without
labels. Intervals are 95 % bootstrap intervals over sets.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import segrefiner_speed
from common import machine, markdown
from image_data import IGNORE, set_of
from image_fields import Window, load
from numpy.typing import NDArray

from prn_cli.maps.probabilities import logit
from prn_cli.methods import load_refiner
from prn_cli.methods.image.brake import DECIDING, FEATURES, Agreement, Brake, consensus
from prn_cli.methods.weights import find_weights
from prn_cli.metrics.boundaries import boundary_iou, count_boundaries, mean_boundary_accuracy
from prn_cli.metrics.regions import count_regions, iou
from prn_cli.refinement.rows import refine_map

STRENGTHS = (0.0, 0.25, 0.5, 1.0)
"""Of the image, about the threshold of the first call; 0 is that call."""
FINE = ("clothing", "lungs", "magnetic_tile", "membrane", "plants", "cracks", "camvid", "city", "retina", "nuclei")
"""Sets with labels fine enough to judge boundaries by: on their edges, images are more than 1.2 times as steep."""


# Judging --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """Windows of a pair's split, counted.

    Attributes:
        regions: `(windows, 1 + strengths, 4)`, first of the base model at 0.5, then by strength.
        edges: `(windows, 1 + strengths, 16)`, see `prn_cli.metrics.boundaries`; none of training splits.
        features: what shows without labels.
        threshold: of the first call.
    """

    regions: NDArray[np.float64]
    edges: NDArray[np.float64]
    features: NDArray[np.float64]
    threshold: float

    @cached_property
    def added(self) -> NDArray[np.float64]:
        """Points of pooled IoU against the first call, by strength."""
        found = gains(self)
        return found - found[0]


def records(folder: Path, split: str) -> dict[str, Record]:
    """Count the windows of all pairs, unless that was done before."""
    found = {}
    for path in sorted(folder.glob(f"*-{split}.npz")):
        kept = folder / "counted" / path.name
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            np.savez(kept, **vars(counted(*load(path), edges=split == "test")))
        found[path.stem.rpartition("-")[0]] = Record(**np.load(kept))
    return found


def counted(threshold: float, windows: Sequence[Window], *, edges: bool) -> Record:
    """Counts by strength, with boundaries or without; and the features of all windows together.

    With boundaries, which are for judging, of what two views agree on, as in `prn refine`. The brake is fitted to what
    all of them agree on, which makes it more careful: fitted to two, it lets more pairs through that lose.
    """
    agreement, counts = Agreement(), []
    half = float(logit(np.float32(threshold)))
    for window in windows:
        agreement.add(window.logits[None], window.fields[:, None])
        field = consensus(window.fields[DECIDING] if edges else window.fields)
        scores = [window.logits + half, *(window.logits + strength * field for strength in STRENGTHS)]
        counts.append(counted_masks(window, [np.nan_to_num(each, nan=-1) > 0 for each in scores], edges=edges))
    return Record(*map(np.array, zip(*counts, strict=True)), agreement.features(), threshold)


def counted_masks(
    window: Window, masks: Sequence[NDArray[np.bool_]], *, edges: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Regions `(masks, 4)` and boundaries `(masks, 16)`."""
    label = np.where(np.isnan(window.logits), IGNORE, window.label).astype(np.uint8)
    known = [np.where(label == IGNORE, IGNORE, mask).astype(np.uint8) for mask in masks]
    regions = np.array([count_regions(mask, label).array() for mask in known])
    return regions, np.array([count_boundaries(mask, label) for mask in known if edges])


# The brake ------------------------------------------------------------------------------------------------------------


def gains(record: Record, *, pool: bool = True) -> NDArray[np.float64]:
    """Points of IoU against the base model at 0.5, by strength: pooled, or in the mean over windows with foreground."""
    shown = record.regions[:, 0, 0] + record.regions[:, 0, 2] > 0
    scores = iou(record.regions.sum(0)) if pool or not shown.any() else iou(record.regions[shown]).mean(0)
    return 100 * (scores[1:] - scores[0])


class Settings(NamedTuple):
    """Of the brake: strengths to choose from, the penalty, how much more losses weigh, the least expected gain."""

    strengths: tuple[float, ...]
    ridge: float
    caution: float
    least: float


def fit(found: dict[str, Record], settings: Settings) -> Brake:
    """A ridge regression from features to gains; losses weigh more than gains. Sets weigh alike."""
    at = [STRENGTHS.index(strength) for strength in settings.strengths]
    features = np.stack([record.features for record in found.values()])
    target = np.stack([record.added[at] for record in found.values()])
    target = np.clip(np.where(target < 0, settings.caution * target, target), *_TARGETS)
    names = [set_of(name) for name in found]
    weight = np.array([1 / names.count(name) for name in names])
    centre, spread = features.mean(0), features.std(0) + 1e-3
    standard = np.clip((features - centre) / spread, -3, 3)
    design = np.concatenate([standard, np.ones((len(standard), 1))], axis=1)
    penalty = settings.ridge * np.diag([*np.ones(len(FEATURES)), 0])
    weights = np.linalg.solve(design.T @ (weight[:, None] * design) + penalty, design.T @ (weight[:, None] * target)).T
    rounded = [np.round(values, 4).tolist() for values in (centre, spread, weights)]
    return Brake(*rounded, settings.strengths, settings.least)


_TARGETS = (-20, 12)


def left_out(train: dict[str, Record], judged: dict[str, Record], settings: Settings) -> dict[str, float]:
    """The strength of each pair, by a brake that has learned from the other sets."""
    found = {}
    for held in {set_of(name) for name in judged}:
        brake = fit({name: record for name, record in train.items() if set_of(name) != held}, settings)
        found |= {name: brake.strength(r.features) for name, r in judged.items() if set_of(name) == held}
    return found


def worth(train: dict[str, Record], strengths: dict[str, float]) -> tuple[int, float, float]:
    """What settings are worth: none may lose more than a point, one in twenty more than 0.2; then a high mean."""
    found = np.array([record.added[STRENGTHS.index(strengths[name])] for name, record in train.items()])
    return -int((found < -1).sum()), -max(float((found < -0.2).mean()) - _LOSERS, 0.0), float(found.mean())


_LOSERS = 0.05
"""Half of the pairs that may lose: other windows of a set lose more."""


def settle(train: dict[str, Record]) -> Settings:
    """The settings that are worth most, leave-one-set-out, on the training splits."""
    grid = product(
        [STRENGTHS[1:], *((strength,) for strength in STRENGTHS[1:])],
        (0.1, 0.3, 1.0, 3.0, 10.0),
        (1.0, 2.0, 4.0),
        (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    )
    return max((Settings(*each) for each in grid), key=lambda settings: worth(train, left_out(train, train, settings)))


# Figures --------------------------------------------------------------------------------------------------------------

MEASURES = ("pooled IoU", "mean IoU", "mBA", "boundary IoU")


class Figures(NamedTuple):
    """Of a pair: the base model's IoU, and changes of `MEASURES` against it, in points, `(4,)` each.

    Attributes:
        strength: that the brake gives.
        base: IoU at 0.5.
        first: changes by the first call.
        refined: changes by the first call with the image, with the brake.
        unbraked: the same at strength 1.
    """

    strength: float
    base: float
    first: NDArray[np.float64]
    refined: NDArray[np.float64]
    unbraked: NDArray[np.float64]


def figures_of(record: Record, strength: float) -> Figures:
    scores = [gains(record), gains(record, pool=False)]
    for score in (mean_boundary_accuracy, boundary_iou):
        found = 100 * score(record.edges)
        known = np.isfinite(found).all(axis=1)
        scores.append((found[known, 1:] - found[known, :1]).mean(axis=0) if known.any() else np.zeros(len(STRENGTHS)))
    changes = np.stack(scores, axis=1)
    base = float(iou(record.regions.sum(0))[0])
    return Figures(strength, base, changes[0], changes[STRENGTHS.index(strength)], changes[-1])


def by_set(judged: dict[str, Figures]) -> dict[str, list[Figures]]:
    """The figures of the pairs of each set."""
    found: dict[str, list[Figures]] = defaultdict(list)
    for name, figures in judged.items():
        found[set_of(name)].append(figures)
    return found


def over_sets(values: dict[str, NDArray[np.float64]]) -> str:
    """The mean over pairs, with an interval over sets."""
    each = list(values.values())
    draws = np.random.default_rng(0).integers(0, len(each), (2000, len(each)))
    means = [np.concatenate([each[k] for k in draw]).mean() for draw in draws]
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{np.concatenate(each).mean():+.2f} [{low:+.2f}, {high:+.2f}]"


ROWS: dict[str, Callable[[Figures], NDArray[np.float64]]] = {
    "first call, without the image": lambda f: f.first,
    "with the image": lambda f: f.refined,
    "what the image adds": lambda f: f.refined - f.first,
    "with the image, without the brake": lambda f: f.unbraked,
    "what it adds without the brake": lambda f: f.unbraked - f.first,
}


def summary(judged: dict[str, Figures]) -> list[list[str]]:
    """A row a way of refining: means over pairs, how many lose pooled IoU, the worst."""
    lines = []
    for name, change in ROWS.items():
        sets = {key: np.array([change(f) for f in found]) for key, found in by_set(judged).items()}
        fine = {key: values for key, values in sets.items() if key in FINE}
        pooled = np.concatenate(list(sets.values()))[:, 0]
        lines.append(
            [
                name,
                *(over_sets({key: values[:, place] for key, values in sets.items()}) for place in range(4)),
                *(over_sets({key: values[:, place] for key, values in fine.items()}) for place in (0, 2)),
                f"{(pooled > 0).sum()}",
                f"{(pooled < -0.2).sum()}",
                f"{(pooled < -1).sum()}",
                f"{pooled.min():+.2f}",
            ]
        )
    return lines


SUMMARY = (
    *MEASURES, "fine labels: pooled IoU", "fine labels: mBA", "gain", "lose > 0.2", "lose > 1", "worst",
)  # fmt: skip


def table(judged: dict[str, Figures]) -> str:
    """The means over the base models of each set."""
    lines = []
    for name, found in by_set(judged).items():
        first, refined, unbraked = (np.mean([f[place] for f in found], axis=0) for place in (2, 3, 4))
        changes = (first[0], unbraked[0], refined[0], first[2], refined[2])
        used = f"{sum(f.strength > 0 for f in found)} of {len(found)}"
        lines.append([name, f"{np.mean([f.base for f in found]):.3f}", used, *(f"{c:+.2f}" for c in changes)])
    heading = ["set", "base IoU", "refined", "first call", "without the brake", "with it", "mBA, first call", "with it"]
    return markdown(heading, lines)


def by_pair(judged: dict[str, Figures], found: dict[str, Record]) -> str:
    lines = []
    for name, f in judged.items():
        cells = (f.first[0], f.unbraked[0], f.refined[0], f.first[2], f.unbraked[2], f.refined[2])
        head = [name, f"{f.base:.3f}", f"{found[name].threshold:g}", f"{found[name].features[0]:.2f}"]
        lines.append([*head, f"{f.strength:g}", *(f"{cell:+.2f}" for cell in cells)])
    heading = ["pair (test split)", "base IoU", "cut at", "agreement", "strength", "IoU, first call", "strength 1"]
    return markdown([*heading, "with the brake", "mBA, first call", "strength 1", "with the brake"], lines)


# Views ----------------------------------------------------------------------------------------------------------------

VIEWS = ("as it is", "mirrored", "turned", "at half scale")
CHOICES = ((0,), (0, 1), (0, 2), (0, 3), (1, 3), (2, 3), (0, 2, 3), (0, 1, 2, 3))


def views(folder: Path, split: str) -> str:
    """What the agreement of some views adds to the first call without a brake, and what a window of them costs."""
    at = (STRENGTHS[1], STRENGTHS[-1])
    found = []
    for path in sorted(folder.glob(f"*-{split}.npz")):
        rows = []
        for window in load(path)[1]:
            fields = [consensus(window.fields[list(choice)]) for choice in CHOICES]
            scores = [window.logits, *(window.logits + strength * field for field in fields for strength in at)]
            rows.append(counted_masks(window, [np.nan_to_num(each, nan=-1) > 0 for each in scores], edges=False)[0])
        first, *others = 100 * iou(np.sum(rows, axis=0))
        found.append((np.array(others) - first).reshape(len(CHOICES), len(at)))
    gained, lines = np.array(found), []
    for number, choice in enumerate(CHOICES):
        cost = sum(0.25 if view == 3 else 1 for view in choice)
        lines.append([", ".join(VIEWS[view] for view in choice), f"{cost:g}"])
        for added in gained[:, number].T:
            lines[-1] += [
                f"{added.mean():+.2f}",
                f"{(added < -0.2).sum()}",
                f"{(added < -1).sum()}",
                f"{added.min():+.2f}",
            ]
    heading = [f"of {len(gained)} pairs ({split})", "cost"]
    for strength in at:
        heading += [f"pooled IoU at {strength:g}", "lose > 0.2", "lose > 1", "worst"]
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
    parser.add_argument("action", choices=("views", "fit", "speed"))
    parser.add_argument("--fields", type=Path, help="that bench/image_fields.py has written")
    parser.add_argument("--out", type=Path, help="write the brake and the figures here")
    parser.add_argument("--by-pair", action="store_true", help="print a row a pair, too")
    parser.add_argument("--names", nargs="+", default=["fast", "image"], help="weights whose speed is measured")
    parser.add_argument(
        "--published", action="store_true", help="time SegRefiner's published shape, too: 4 GB, minutes"
    )
    given = parser.parse_args()
    if given.action == "speed":
        print(speed(given.names, 1024, 5, published=given.published))
        return
    if given.action == "views":
        print("\n\n".join(views(given.fields, split) for split in ("train", "test")))
        return
    train, test = records(given.fields, "train"), records(given.fields, "test")
    settings = settle(train)
    strengths = left_out(train, test, settings)
    judged = {name: figures_of(record, strengths[name]) for name, record in test.items()}
    lines = summary(judged)
    print(f"{settings}\n\n{markdown([f'{len(judged)} pairs', *SUMMARY], lines)}\n\n{table(judged)}\n")
    if given.by_pair:
        print(by_pair(judged, test), "\n")
    print(machine())
    if given.out:
        brake = json.loads(fit(train, settings).to_json())
        figures = {line[0]: dict(zip(SUMMARY, line[1:], strict=True)) for line in lines[:3]}
        given.out.write_text(json.dumps({"brake": brake, "figures": figures}) + "\n")


if __name__ == "__main__":
    main()
