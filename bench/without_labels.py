"""What the images are worth without a single label: `prn train --labels none --images`, then `prn refine`.

    python bench/without_labels.py --logits DIR [DIR ...] --work DIR --pair NAME ... [--seconds 120] [--seeds 0]
        [--task multiclass] [--apart] [--shots 5] [--out table.md]

Each DIR of logits holds a folder a pair of set and base model, with `train/` and `test/`, each with `logits/`,
`labels/` and `images/`. The maps and images of both splits are learned from, as a user would who has no labels at
all; the labels of the test split measure, and nothing else looks at labels. With `--apart`, the maps of the training
split alone are learned from: how good the weights are on new maps. Beside the base model at 0.5 and what was trained
stands the first call, `prn refine` without weights: the threshold alone. Seconds are of one thread's processor, twice
as many as are given, so that other programs make no difference; a machine of two cores takes about as long as given.
With `--shots 5`, so many labelled maps of the training split are learned first, as `prn train --images --shots 5` does,
and it is the masks that these weights make of all maps that are learned without labels; beside it stand these weights
alone. With `--task multiclass`, pairs are of base models of several classes (`bench/class_models.py`), the first call
shifts their logits, and figures are mIoU and accuracy. `seen` marks pairs whose figures were looked at while the method
was made. Finished runs in `--work` are used again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, markdown, prn
from first_call import over_sets
from image_data import set_of

import prn_cli
from prn_cli.execution import clock

HARM = -0.2
SEEN = {"kvasir_polyp", "epfl_roads", "nuclei", "dubai_building", "dubai_road", "camvid_road_a", "camvid_tree_c"}
SEEN |= {"camvid_building_d", "flood_a", "flood_c", "cracks_c", "plants_a", "pets_d", "vegas_roads_a", "retina_b"}
SEEN |= {"city_roads_b", "city_blocks_a", "dubai_multiclass"}
FIGURES = {
    "binary": {
        "pooled IoU": ("pooled", "iou"),
        "mean IoU": ("mean", "iou"),
        "mBA": ("mean", "mba"),
        "boundary IoU": ("mean", "boundary_iou"),
    },
    "multiclass": {
        "pooled mIoU": ("pooled", "miou"),
        "mean mIoU": ("mean", "miou"),
        "pooled accuracy": ("pooled", "accuracy"),
    },
}


def one_folder(place: Path, folder: Path, splits: Sequence[str]) -> Path:
    """Logits and images of some splits, as links in one folder."""
    for kind in ("logits", "images"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for split in splits:
            for path in (place / split / kind).iterdir():
                link = folder / kind / path.name
                if not link.exists():
                    link.symlink_to(path.resolve())
    return folder


def figures_of(test: Path, masks: Path, base: Path, task: str) -> list[tuple[float, float]]:
    """Of each figure, its value and its change against a base, in points."""
    found = prn("score", masks, "--labels", test / "labels", "--baseline", base, "--task", task, "-q")
    cells = [found[way][name] for way, name in FIGURES[task].values()]
    return [(100 * cell["value"], 100 * cell["difference"]["value"]) for cell in cells]


def refined_by_few(place: Path, whole: Path, work: Path, name: str, shots: int, seed: int, task: str) -> Path:
    """Learn a few labelled maps, and refine all maps of a set: a folder of probabilities, images, and masks."""
    train, folder, run = place / "train", work / "few" / name, work / "runs" / f"{name}-few"
    same: dict[str, Any] = {"task": task, "overwrite": True, "threads": 1}
    learn = {"labels": train / "labels", "images": train / "images", "shots": shots, "seed": seed, "out": run}
    prn_cli.train(train / "logits", **learn, **same)
    made = {"out": folder / "masks", "probabilities": folder / "logits", "images": whole / "images", "weights": run}
    prn_cli.refine(whole / "logits", **made, **same)
    if not (folder / "images").exists():
        (folder / "images").symlink_to((whole / "images").resolve())
    return folder


def of_split(folder: Path, split: Path, to: Path) -> Path:
    """The files of a folder that are of a split, as links in a folder of their own."""
    to.mkdir(parents=True, exist_ok=True)
    stems = {path.stem for path in (split / "logits").iterdir()}
    for path in folder.iterdir():
        if path.stem in stems and not (to / path.name).exists():
            (to / path.name).symlink_to(path.resolve())
    return to


def measure(
    place: Path, work: Path, seconds: float, seed: int, task: str, *, apart: bool, shots: int | None
) -> dict[str, Any]:
    """Train without labels, refine the test split with and without, and score both."""
    name = f"{place.name}-{seconds:g}-{seed}{'-apart' if apart else ''}{f'-{shots}' if shots else ''}"
    record, run = work / f"{name}.json", work / "runs" / name
    if record.exists():
        return dict(json.loads(record.read_text()))
    splits = ["train"] if apart else ["train", "test"]
    whole, test = one_folder(place, work / "sets" / "-".join([place.name, *splits]), splits), place / "test"
    same: dict[str, Any] = {"task": task, "overwrite": True, "threads": 1}
    masks = {way: work / "masks" / f"{name}-{way}" for way in ("first", "refined")}
    scores = test / "logits"
    if shots:
        whole = refined_by_few(place, whole, work, name, shots, seed, task)
        scores = of_split(whole / "logits", test, whole / "test")
        masks["first"] = of_split(whole / "masks", test, whole / "test-masks")
        same["input_kind"] = "probabilities"
    clock.source = time.process_time
    if not (run / "model.json").exists():
        prn_cli.train(
            whole / "logits",
            labels="none",
            images=whole / "images",
            time_budget=f"{2 * seconds}s",
            seed=seed,
            out=run,
            **same,
        )
    card = json.loads((run / "model.json").read_text())
    clock.source = time.monotonic
    if not shots:
        prn_cli.refine(scores, out=masks["first"], **same)
    prn_cli.refine(scores, out=masks["refined"], images=test / "images", weights=run, **same)
    result = {
        "pair": place.name,
        "took": card["seconds"] / 2,
        "steps": card["steps"],
        "agreement": card["transfer"]["agreement"],
        "strength": card["choice"]["strength"],
        "first": figures_of(test, masks["first"], test / "logits", task),
        "refined": figures_of(test, masks["refined"], test / "logits", task),
        "added": figures_of(test, masks["refined"], masks["first"], task),
    }
    record.write_text(json.dumps(result) + "\n")
    print(name, result, file=sys.stderr, flush=True)
    return result


def tables(results: Sequence[dict[str, Any]], task: str, shots: int | None) -> str:
    """By pair, and the means."""
    names = tuple(FIGURES[task])
    rows = []
    for r in results:
        first, refined, added = (np.array(r[way]) for way in ("first", "refined", "added"))
        base = first[0, 0] - first[0, 1]
        gains = [f"{change:+.2f}" for change in added[:, 1]]
        rows.append(
            [
                r["pair"] + (" (seen)" if r["pair"] in SEEN else ""),
                f"{base:.1f}",
                f"{first[0, 1]:+.2f}",
                f"{refined[0, 1]:+.2f}",
                *gains,
                f"{r['agreement']:.2f}",
                str(r["steps"]),
            ]
        )
    heading = ["pair", "base at 0.5", "so many labels" if shots else "first call", "with the images"]
    by_pair = markdown([*heading, *(f"added: {name}" for name in names), "agreement", "steps"], rows)
    over = []
    groups = {"all": results, "not seen": [r for r in results if r["pair"] not in SEEN]}
    for said, group in groups.items():
        if not group:
            continue
        sets = np.array([set_of(r["pair"]) for r in group])
        added = np.array([[change for _, change in r["added"]] for r in group])
        total = np.array([r["refined"][0][1] for r in group])
        pooled = added[:, 0]
        over.append(
            [
                said,
                str(len(group)),
                over_sets(total, sets),
                *(over_sets(added[:, n], sets) for n in range(len(names))),
                f"{(pooled < HARM).sum()}",
                f"{(pooled < -1).sum()}",
                f"{pooled.min():+.2f}",
            ]
        )
    heading = ["", "pairs", "with the images, pooled", *(f"added: {name}" for name in names)]
    return f"{by_pair}\n\n{markdown([*heading, 'lose > 0.2', 'lose > 1', 'worst'], over)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, nargs="+", required=True, help="folders of pairs")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and masks; reused")
    parser.add_argument("--pair", nargs="+", required=True)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--task", choices=FIGURES, default="binary")
    parser.add_argument("--apart", action="store_true", help="learn from the training split alone")
    parser.add_argument("--shots", type=int, help="learn so many labelled maps first")
    parser.add_argument("--out", type=Path, help="write the tables here too")
    given = parser.parse_args()
    for kind in ("runs", "masks", "sets"):
        (given.work / kind).mkdir(parents=True, exist_ok=True)
    places = [next(d / name for d in given.logits if (d / name).is_dir()) for name in given.pair]
    results = [
        measure(place, given.work, given.seconds, seed, given.task, apart=given.apart, shots=given.shots)
        for seed in given.seeds
        for place in places
    ]
    seeds = ", ".join(map(str, given.seeds))
    text = (
        f"{tables(results, given.task, given.shots)}\n\nSeeds {seeds}; {given.seconds:g} s of two cores; {machine()}."
    )
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
