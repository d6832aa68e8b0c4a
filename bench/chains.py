"""What trained networks bring one after the other: `prn refine --weights fast-run --weights image-run`, and twice.

    python bench/chains.py --logits DIR [DIR ...] --work DIR [--pair NAME ...]
        [--seconds 120] [--seed 0] [--out table.md]

Each DIR of logits holds a folder a pair of set and base model, as for `bench/time_to_gain.py --cpu`, which trains the
networks: `fast` on the scores, `image` on scores and images, for so many seconds of two cores each, by the processor's
clock. Finished runs of it in `--work` are used again. Each network has learned from the base model's scores, not from
those of the network before it. Changes of pooled IoU are to the base model at 0.5, on the test split, which chooses
nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import machine, markdown
from first_call import over_sets
from quality import SETS, scored
from time_to_gain import measure, name_of

import prn_cli as prn

CHAINS = {
    "`fast`": ("fast",),
    "`image`": ("image",),
    "`image`, twice": ("image", "image"),
    "`fast`, then `image`": ("fast", "image"),
    "`image`, then `fast`": ("image", "fast"),
}


def gain(place: Path, work: Path, chain: tuple[str, ...], seconds: float, seed: int) -> float:
    """Points of pooled IoU on the test split."""
    weights = []
    for images in (method == "image" for method in chain):
        measure(place, work, seconds, seed, cpu=True, images=images)  # unless that was done
        weights.append(work / "runs" / name_of(place.name, seconds, seed, cpu=True, images=images))
    masks = work / "chains" / f"{place.name}-{seconds:g}-{seed}-{'-'.join(chain)}"
    seen = {"images": place / "test" / "images"} if "image" in chain else {}
    prn.refine(place / "test" / "logits", out=masks, weights=[*map(str, weights)], overwrite=True, threads=1, **seen)
    return float(100 * scored(place / "test", masks)["pooled"]["iou"]["difference"]["value"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, nargs="+", required=True, help="folders of pairs")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and masks; reused")
    parser.add_argument("--pair", nargs="+", default=list(SETS))
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the table here too")
    given = parser.parse_args()
    (given.work / "runs").mkdir(parents=True, exist_ok=True)
    places = [next(d / name for d in given.logits if (d / name).is_dir()) for name in given.pair]
    found = {
        title: np.array([gain(place, given.work, chain, given.seconds, given.seed) for place in places])
        for title, chain in CHAINS.items()
    }
    sets, rows = np.array([name.split("_")[0] for name in given.pair]), []
    for title, gains in found.items():
        against = "" if title == "`image`" else over_sets(gains - found["`image`"], sets)
        rows.append([title, *(f"{each:+.2f}" for each in gains), f"{gains.mean():+.2f}", against])
    table = markdown(["pooled IoU, points", *given.pair, "mean", "against `image` [95 %]"], rows)
    text = f"{table}\n\nSeed {given.seed}; {given.seconds:g} s of two cores for each network; {machine()}."
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
