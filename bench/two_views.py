"""What it is worth to apply only what two views of a place agree on, of `image` trained on a set's own maps.

    python bench/two_views.py --run RUN --test DIR

RUN is the folder of a training (`prn train --images`), DIR a test split with logits/, labels/ and images/. For each
strength, pooled and mean IoU, cut at 0.5, of the network's bias map as it is, and of what two views of it, turned and
at half the scale, agree on (`--two-views`); and the pooled IoU of each scene that names show.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import machine, markdown
from image_data import read_image
from short_training import maps_of

from prn_cli.methods import load_refiner
from prn_cli.methods.weights import find_weights
from prn_cli.metrics.regions import iou
from prn_cli.refinement.rows import refine_map
from prn_cli.training.augment import TrainingMap
from prn_cli.training.choice import STRENGTHS, tally
from prn_cli.workflows.training.scenes import scenes_by_name


def tallies(run: str, maps: list[TrainingMap], *, two_views: bool) -> np.ndarray:
    """Counts `(maps, S, 4)` at each strength, cut at 0.5."""
    refiner = load_refiner(find_weights(run), device="cpu", threads=1)
    refiner.strength, refiner.agrees = 1.0, two_views
    refiner.needs = replace(refiner.needs, multiple=32)
    return np.array([tally(m.logits, refine_map(m.logits, refiner, image=m.image), m.label)[:, 0] for m in maps])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--test", type=Path, required=True)
    given = parser.parse_args()
    images = {path.stem: path for path in (given.test / "images").iterdir()}
    maps = maps_of(given.test)
    bands = (read_image(images[m.name]).transpose(2, 0, 1) for m in maps)
    maps = [replace(m, image=np.ascontiguousarray(band, np.float32)) for m, band in zip(maps, bands, strict=True)]
    scenes = scenes_by_name([m.name for m in maps])
    names = sorted(set(scenes.values()))
    rows = []
    for two_views in (False, True):
        found = tallies(given.run, maps, two_views=two_views)
        for number, strength in enumerate(STRENGTHS):
            counts = found[:, number]
            by_scene = [counts[[scenes[m.name] == name for m in maps]] for name in names]
            figures = [iou(counts.sum(0)), np.nanmean(iou(counts)), *(iou(each.sum(0)) for each in by_scene)]
            rows.append(["two views" if two_views else "one", f"{strength:g}", *(f"{float(f):.4f}" for f in figures)])
    print(markdown(["views", "strength", "pooled IoU", "mean IoU", *names], rows))
    print(f"\n{given.test}; {machine()}.")


if __name__ == "__main__":
    main()
