"""Quality on real maps: the base model, what is simple, refiners trained here, the shipped weights, the oracle.

    python bench/quality.py --work /tmp/prn-quality [--set epfl_roads ...] [--seeds 0 1 2] [--data ../shared/data]

Everything runs through the commands that users have, but for two baselines: Platt scaling (scikit-learn) and the
guided filter (OpenCV), whose radius and threshold are tuned on the training split. Refiners learn on the training split
alone; there they choose their strength, by cross-validation over images, or over scenes where a set has scenes. The
single threshold is tuned on the training split. The test split is scored once, at the end.

Rows that are there to compare recipes with learn with the first seed alone. `paper` takes more than a second a crop of
256×256 on one core, so here it learns on crops, and on so many of them only (`--paper-crops`): as published (Adam at
0.0008, a crop a step, no jitter, the whole correction; of its epochs the one with the best IoU on a fifth of the
images, since the least training loss is no measure) and as `prn train --network paper` corrects it, with a crop a step
as well. Of scenes, it is the crops that are held out, too: each map gives as many, drawn at random, before training.

Changes are to the base model cut at 0.5, in points of IoU. Of several seeds, the mean, with the means of the bounds of
their 95 % paired bootstrap intervals over the test images, and the least and most of the seeds.

The last table says of the default, for the README, what of its gain is the threshold's and what the network's: the base
model at 0.5, at the threshold that `prn train` chose for it alone, and refined, as `prn score` shows them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, machine, markdown, prn

SETS = ("epfl_roads", "kvasir_polyp", "nuclei", "dubai_road", "dubai_building")
SCENES = {"dubai_road": "^(tile[0-9]+)", "dubai_building": "^(tile[0-9]+)"}
PATCH = 64
PSEUDO_LABELS = ("--pseudo-weight", "0.7")
PAPER_LOSS = (*PSEUDO_LABELS, "--iou-weight", "0")
PAPER_STEPS = 100  # an epoch
PAPER_SIDE = 256  # of a crop
PAPER = ("--network", "paper", "--batch", "1", "--crop", str(PAPER_SIDE), "--steps", str(PAPER_STEPS), "--folds", "1")
PUBLISHED = (
    *("--iou-weight", "0", "--jitter-scale", "0", "--jitter-shift", "0", "--weight-decay", "0", "--average", "0"),
    *("--rate", "0.0008", "--patience", "300"),
)
CORRECTED = ("--average", "0.98")  # of some hundred steps
_TUNED = "base at the tuned threshold"
_DEFAULT = "`fast` with ground truth only, the default"


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


def refined(split: Path, masks: Path, weights: str, *options: str) -> dict[str, Any]:
    """Refine a split and score it."""
    prn("refine", split / "logits", "-o", masks, "--weights", weights, "-q", "--overwrite", *options)
    return scored(split, masks)


def differences(results: list[Any], way: str, figure: str = "iou") -> dict[str, float]:
    """Mean over seeds of the paired change and of its bounds, and the seeds' extremes, in points."""
    parts = [result[way][figure]["difference"] for result in results]
    found = {key: 100 * float(np.mean([part[key] for part in parts])) for key in ("value", "low", "high")}
    values = [100 * part["value"] for part in parts]
    return found | {"least": min(values), "most": max(values)}


def cells(*results: Any, figure: str = "iou") -> list[str]:
    """Pooled and mean IoU, or mIoU, with their change in points and its interval."""
    out = []
    for way in ("pooled", "mean"):
        found = differences(list(results), way, figure)
        value = float(np.mean([result[way][figure]["value"] for result in results]))
        change = f"{found['value']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"
        if len(results) > 1:
            change += f" ({found['least']:+.2f} to {found['most']:+.2f})"
        out += [f"{value:.4f}", change]
    return out


def shares(results: list[Any]) -> list[str]:
    """Pooled IoU of the base at 0.5, at its own threshold, and refined; what the network adds; images better and worse.

    Means over seeds. Without a threshold of its own, the base is cut at 0.5.
    """
    found = [result["pooled"]["iou"] for result in results]
    figures = [{"own": each["baseline"], "added": each["difference"]} | each for each in found]
    values = [np.mean([each[part]["value"] for each in figures]) for part in ("baseline", "own")]
    values.append(np.mean([each["value"] for each in figures]))
    changes = []
    for part in ("difference", "added"):
        value, low, high = (100 * np.mean([each[part][key] for each in figures]) for key in ("value", "low", "high"))
        changes.append(f"{value:+.2f} [{low:+.2f}, {high:+.2f}]")
    images = [result["changed_images"]["baseline"] for result in results]
    counts = ", ".join(f"{np.mean([each[sign] for each in images]):.3g}" for sign in ("better", "worse"))
    return [*(f"{value:.4f}" for value in values), *changes, counts]


def headroom(split: Path, out: Path) -> dict[str, Any]:
    """What `prn pseudolabel` says of a split; its pseudo-labels go to `out/labels`."""
    where = (split / "logits", "--labels", split / "labels", "--patch", str(PATCH), "-o", out, "--overwrite", "-q")
    return prn("pseudolabel", *where)  # type: ignore[no-any-return]


def maps_of(split: Path) -> list[tuple[Path, np.ndarray, np.ndarray, np.ndarray]]:
    """Logits, label and grey image of every map of a split; `(H, W)` each."""
    import cv2

    from prn_cli.rasters import Reading, open_map, read_label

    found = []
    for path in sorted((split / "logits").iterdir()):
        with open_map("scores", path, Reading(kind="logits")) as scores:
            logits = scores.logits()
        image = next((split / "images").glob(f"{path.stem}.*"))
        grey = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2GRAY).astype(np.float32) / 255
        found.append((path, logits, read_label(split / "labels" / f"{path.stem}.png"), grey))
    return found


def best_threshold(probabilities: list[np.ndarray], labels: list[np.ndarray]) -> tuple[float, float]:
    """The threshold with the best pooled IoU, of 99, and that IoU."""
    edges = np.linspace(0.01, 0.99, 99)
    true, all_ = np.zeros(100), np.zeros(100)
    for probability, label in zip(probabilities, labels, strict=True):
        counted = (label != 255) & np.isfinite(probability)
        reached = np.searchsorted(edges, probability[counted], side="left")
        all_ += np.bincount(reached, minlength=100)
        true += np.bincount(reached[label[counted] == 1], minlength=100)
    tp, predicted = true[::-1].cumsum()[::-1], all_[::-1].cumsum()[::-1]
    scores = tp[1:] / (predicted[1:] + tp[0] - tp[1:])
    return float(edges[scores.argmax()]), float(scores.max())


def written(folder: Path, maps: list[Any], probabilities: list[np.ndarray]) -> Path:
    """Soft maps as files, for `prn score`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for (path, *_), probability in zip(maps, probabilities, strict=True):
        np.save(folder / f"{path.stem}.npy", probability.astype(np.float32))
    return folder


def platt(train: Path, test: Path, out: Path) -> Any:
    """Logistic regression of the label on the logit, cut at 0.5; tuned, it would be the base at its tuned threshold."""
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    xs, ys = [], []
    for _, logits, label, _ in maps_of(train):
        counted = np.flatnonzero((label != 255) & np.isfinite(logits))
        chosen = random.choice(counted, min(len(counted), 20000), replace=False)
        xs.append(logits.ravel()[chosen])
        ys.append(label.ravel()[chosen] == 1)
    model = LogisticRegression().fit(np.concatenate(xs)[:, None], np.concatenate(ys))
    scale, shift = float(model.coef_[0, 0]), float(model.intercept_[0])
    maps = maps_of(test)
    return scored(test, written(out, maps, [1 / (1 + np.exp(-(scale * logits + shift))) for _, logits, *_ in maps]))


def guided(train: Path, test: Path, out: Path) -> Any:
    """The guided filter of the probabilities by the image; radius and threshold tuned on the training split."""
    import cv2

    def filtered(maps: list[Any], radius: int) -> list[np.ndarray]:
        found = []
        for _, logits, _, grey in maps:
            probability = 1 / (1 + np.exp(-np.nan_to_num(logits)))
            smooth = cv2.ximgproc.guidedFilter(grey, probability.astype(np.float32), radius, 1e-3)
            found.append(np.where(np.isnan(logits), np.nan, np.clip(smooth, 0, 1)))
        return found

    learn, maps = maps_of(train), maps_of(test)
    tried = {
        radius: best_threshold(filtered(learn, radius), [label for _, _, label, _ in learn]) for radius in (2, 4, 8, 16)
    }
    radius = max(tried, key=lambda r: tried[r][1])
    return scored(test, written(out, maps, filtered(maps, radius)), "--threshold", f"{tried[radius][0]:.2f}")


def cropped(split: Path, out: Path, count: int) -> Path:
    """A split of crops of `PAPER_SIDE` pixels, at random places, as many of each map: some `count` in all."""
    from PIL import Image

    from prn_cli.maps.pixels import IGNORE
    from prn_cli.rasters import Reading, open_map, read_label

    if out.is_dir():
        return out
    half_done = out.with_name(out.name + ".part")
    shutil.rmtree(half_done, ignore_errors=True)
    for kind in ("logits", "labels"):
        (half_done / kind).mkdir(parents=True)
    random = np.random.default_rng(0)
    paths = sorted((split / "logits").iterdir())
    for path in paths:
        with open_map("scores", path, Reading(kind="logits")) as scores:
            logits = scores.logits()
        label = read_label(split / "labels" / f"{path.stem}.png")
        for number in range(-(-count // len(paths))):
            corner = [int(random.integers(side - PAPER_SIDE + 1)) for side in label.shape]
            where = tuple(slice(start, start + PAPER_SIDE) for start in corner)
            stem = f"{path.stem}_{number}"
            np.save(half_done / "logits" / f"{stem}.npy", np.where(label[where] == IGNORE, np.nan, logits[where]))
            Image.fromarray((label[where] == 1).astype(np.uint8) * 255).save(half_done / "labels" / f"{stem}.png")
    return half_done.rename(out)


def bench_set(
    name: str, logits: Path, work: Path, seeds: list[int], only: list[str] | None, paper_crops: int
) -> list[dict[str, Any]]:
    """One row a method."""
    train, test = logits / name / "train", logits / name / "test"
    threshold = headroom(train, work / "pseudolabels" / name)["best_single"]["threshold"]
    headroom(test, work / "oracle" / name)
    first = seeds[:1]  # of rows that are there to compare with
    scenes = ("--groups", SCENES[name]) if name in SCENES else ()

    def learned(
        kind: str, *more: str, seeds: list[int] = seeds, apply: tuple[str, ...] = (), crops: int = 0
    ) -> list[Any]:
        results = []
        learn = cropped(train, work / "crops" / f"{name}-{crops}", crops) if crops else train
        for seed in seeds:
            options = ("--seed", str(seed), "--threads", "1", *scenes, *more)  # one thread: sums depend on their order
            run = trained(learn, work / f"runs-{seed}" / name / kind, *options)
            masks = work / "masks" / name / "-".join((kind, str(seed), *apply))
            results.append(refined(test, masks, str(run), *apply))
        return results

    paper = (*PAPER, "--epochs", str(-(-paper_crops // PAPER_STEPS)))
    crops = paper_crops if scenes else 0

    methods: dict[str, Callable[[], list[Any]]] = {
        "base at 0.5": lambda: [scored(test, test / "logits")],
        f"base at {threshold:.3g}, tuned on train": lambda: [
            scored(test, test / "logits", "--threshold", str(threshold))
        ],
        "Platt scaling, cut at 0.5": lambda: [platt(train, test, work / "masks" / name / "platt")],
        "guided filter by the image, tuned": lambda: [guided(train, test, work / "masks" / name / "guided")],
        "`paper`, as published, on crops": lambda: learned(
            f"paper-published-{paper_crops}",
            *paper,
            *PUBLISHED,
            seeds=first,
            apply=("--strength", "1", "--threshold", "0.5"),
            crops=crops,
        ),
        "`paper`, corrected, on crops": lambda: learned(
            f"paper-corrected-{paper_crops}", *paper, *CORRECTED, seeds=first, crops=crops
        ),
        "`fast` with the paper's loss": lambda: learned("paper-loss", *PAPER_LOSS, seeds=first),
        "`fast` with pseudo-labels": lambda: learned("pseudo-labels", *PSEUDO_LABELS, seeds=first),
        _DEFAULT: lambda: learned("default"),
        "the default with `--tta`": lambda: learned("default", seeds=first, apply=("--tta",)),
        "shipped weights": lambda: [
            refined(test, work / "masks" / name / "shipped", "fast", "--strength", "0.5", "-t", "0.5")
        ],
        f"oracle, {PATCH} px patches": lambda: [scored(test, work / "oracle" / name / "labels")],
    }
    rows = []
    for label, method in methods.items():
        if only and not any(part in label for part in only):
            continue
        began = time.monotonic()
        results = method()
        rows.append(
            {
                "set": name,
                "method": _TUNED if "tuned on train" in label else label,
                "cells": [name, label, *cells(*results)],
                "shares": [name, *shares(results)] if label == _DEFAULT else [],
                **differences(results, "pooled"),
            }
        )
        print(f"{' | '.join(rows[-1]['cells'])}  ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    return rows


def averages(rows: list[dict[str, Any]]) -> str:
    """Mean change of each method over the sets, and over the tuned threshold, with an interval over sets."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    sets = list(dict.fromkeys(row["set"] for row in rows))
    table = {(row["set"], row["method"]): row["value"] for row in rows}
    drawn = np.random.default_rng(0).integers(len(sets), size=(2000, len(sets)))
    lines = []
    for method in methods:
        if any((name, method) not in table for name in sets):
            continue
        cells_ = [method]
        for other in ("base at 0.5", _TUNED):
            if any((name, other) not in table for name in sets):
                cells_.append("–")
                continue
            gains = np.array([table[name, method] - table[name, other] for name in sets])
            low, high = np.quantile(gains[drawn].mean(axis=1), (0.025, 0.975))
            cells_.append(f"{gains.mean():+.2f} [{low:+.2f}, {high:+.2f}]")
        lines.append(cells_)
    return markdown(["method", f"mean of {len(sets)} sets over the base at 0.5", "over the tuned threshold"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, required=True, help="folder for logits, runs and masks; reused")
    parser.add_argument("--set", action="append", choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="methods with one of these in their name")
    parser.add_argument("--paper-crops", type=int, default=500, help="crops that `paper` learns from, each time")
    parser.add_argument("--out", type=Path, help="write the table here too")
    arguments = parser.parse_args()
    names = arguments.set or list(SETS)
    logits = make_logits(arguments.data, arguments.work, names)
    rows = []
    for name in names:
        rows += bench_set(name, logits, arguments.work, arguments.seeds, arguments.only, arguments.paper_crops)
    heading = ["set (test split)", "method", "pooled IoU", "change, points [95 %]", "mean IoU", "change, points [95 %]"]
    seeds = ", ".join(map(str, arguments.seeds))
    full = markdown(heading, [row["cells"] for row in rows])
    heading = ["set", "base at 0.5", "at its own threshold", "refined", "change [95 %]", "the network's share [95 %]"]
    parts = markdown([*heading, "images better, worse"], [row["shares"] for row in rows if row["shares"]])
    table = f"{full}\n\n{averages(rows)}\n\n{parts}\n\nSeeds {seeds}; {machine()}."
    print(table)
    if arguments.out:
        arguments.out.write_text(table + "\n")
        arguments.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
