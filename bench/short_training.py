"""What recipes gain in little time: one network, trained by one thread on a part of a training split.

    python bench/short_training.py --logits DIR [--set epfl_roads ...] [--seconds 40] [--seeds 0] [--row eight ...]

DIR holds a folder a set, with `train/logits` and `train/labels`. A third of the maps, 40 at most, is held out, or,
of a set whose names show scenes, each scene in turn. Gains are of pooled IoU over the base model at 0.5, in points, by
strength of the correction, cut at 0.5; *best cut* is the most that any strength and threshold would have gained there,
and *base, best cut* the most that a threshold alone would.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, markdown
from quality import SETS

from prn_cli.execution import clock
from prn_cli.execution.cores import keep_freed_memory
from prn_cli.maps.blend import strengthen
from prn_cli.methods import refiner_of
from prn_cli.methods.fast.options import FastOptions
from prn_cli.methods.recipe import build
from prn_cli.methods.torch_runner import TorchRunner
from prn_cli.metrics.regions import iou
from prn_cli.rasters import Reading, open_map, read_label
from prn_cli.refinement.rows import refine_map
from prn_cli.training.augment import TrainingMap
from prn_cli.training.choice import STRENGTHS
from prn_cli.training.loop import Settings, fit
from prn_cli.workflows.training.scenes import scenes_by_name

ROWS: dict[str, dict[str, Any]] = {
    "eight": {},
    "four": {"batch": 4},
    "two": {"batch": 2},
    "two, twice the rate": {"batch": 2, "rate": 0.002},
    "four, four times the rate": {"batch": 4, "rate": 0.004},
    "eight of 128 px": {"crop": 128},
    "four, the level kept": {"batch": 4, "rate": 0.002, "options": FastOptions(keep_level=True)},
    "four, twice the rate": {"batch": 4, "rate": 0.002},
}
LEVELS = np.linspace(-3, 3, 61, dtype=np.float32)
MOST_HELD_OUT = 40


def maps_of(split: Path) -> list[TrainingMap]:
    found = []
    for path in sorted((split / "logits").iterdir()):
        with open_map("scores", path, Reading(kind="logits")) as scores:
            logits = scores.logits()
        label = read_label(split / "labels" / f"{path.stem}.png")
        label[np.isnan(logits)] = 255
        found.append(TrainingMap(path.stem, logits, label, label))
    return found


def divided(maps: list[TrainingMap]) -> dict[str, tuple[list[TrainingMap], list[TrainingMap]]]:
    """Those to learn from, and those held out; of each scene, if there are."""
    scenes = scenes_by_name([m.name for m in maps])
    if scenes:
        turns = {each: {n for n, scene in scenes.items() if scene == each} for each in sorted(set(scenes.values()))}
    else:
        count = min(max(len(maps) // 3, 1), MOST_HELD_OUT)
        turns = {"": {maps[index].name for index in np.random.default_rng(7).permutation(len(maps))[:count]}}
    return {
        each: ([m for m in maps if m.name not in held], [m for m in maps if m.name in held])
        for each, held in turns.items()
    }


def gains(
    learn: list[TrainingMap], hold: list[TrainingMap], seconds: float, seed: int, changes: dict[str, Any]
) -> tuple[np.ndarray, int]:
    """`(strengths, levels)` gains in points, and the steps that the time was enough for."""
    settings = Settings(seed=seed, choose_epoch=False, epochs=1 << 20, steps=50, time_budget=seconds, **changes)
    network = build("fast", settings.options, seed=seed)
    *_, (_, state) = fit(network, learn, [], settings)
    network.load_state_dict(state.best)
    refiner = refiner_of(TorchRunner(network))
    counts = np.zeros((len(STRENGTHS), len(LEVELS), 4))
    for one in hold:
        valid = one.label != 255
        truth, base, whole = one.label[valid] == 1, one.logits[valid], refine_map(one.logits, refiner)[valid]
        for row, strength in zip(counts, STRENGTHS, strict=True):
            mixed = strengthen(base, whole, strength)
            for cell, level in zip(row, LEVELS, strict=True):
                above = mixed > level
                tp, found = np.count_nonzero(above & truth), np.count_nonzero(above)
                cell += tp, found - tp, np.count_nonzero(truth) - tp, 0
    scores = iou(counts)
    return 100 * (scores - scores[0, len(LEVELS) // 2]), state.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, required=True)
    parser.add_argument("--set", action="append", choices=SETS)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--row", nargs="+", choices=ROWS, default=list(ROWS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    clock.source = time.process_time
    half, rows = len(LEVELS) // 2, []
    for name in arguments.set or SETS:
        for scene, (learn, hold) in divided(maps_of(arguments.logits / name / "train")).items():
            for row in arguments.row:
                runs = [gains(learn, hold, arguments.seconds, seed, ROWS[row]) for seed in arguments.seeds]
                found, steps = np.mean([gain for gain, _ in runs], axis=0), int(np.mean([s for _, s in runs]))
                by_strength = [f"{gain:+.2f}" for gain in found[1:, half]]
                best = [f"{found.max():+.2f}", f"{found[0].max():+.2f}"]
                rows.append([f"{name} {scene}".strip(), row, str(steps), *by_strength, *best])
                print(rows[-1], flush=True)
    heading = ["set", "crops a step", "steps", *(f"{s:g}" for s in STRENGTHS[1:]), "best cut", "base, best cut"]
    print(markdown(heading, rows))
    seeds = ", ".join(map(str, arguments.seeds))
    print(f"\n{arguments.seconds:g} s of one thread's processor; seeds {seeds}; {machine()}.")


if __name__ == "__main__":
    main()
