"""Train the shipped `fast` weights, score them on every test split, and write `weights/`.

    python bench/ship_weights.py --work /tmp/prn-quality [--data ../shared/data]

They learn from the training splits of the sets whose terms allow it, together, and keep the level of the scores: a
level learned on some scenes harms others. Held out, to choose the epoch: the roads of a whole scene and a quarter of
the microscope images. The buildings of that scene are left out of both: with them among the held-out images, no epoch
beats the base model (-1 point on them), and nothing would be learned. No test split takes part in any choice.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
from common import DATA, machine, prn
from quality import SETS, cells, make_logits, refined

SOURCES = {
    "dubai_road": "Semantic segmentation of aerial imagery, Humans in the Loop; open access, elsewhere marked CC0",
    "dubai_building": "Semantic segmentation of aerial imagery, Humans in the Loop; open access, elsewhere marked CC0",
    "nuclei": "Data Science Bowl 2018, stage 1, corrected labels; CC0 1.0",
}
HELD_SCENE = "tile1"
OPTIONS = ("--ground-truth-only", "--keep-level", "--steps", "50", "--seed", "0", "--threads", "1")
WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


def combine(logits: Path, folder: Path) -> Path:
    """Link the training splits side by side, their stems prefixed by the set, and list the stems held out."""
    shutil.rmtree(folder, ignore_errors=True)
    for kind in ("logits", "labels"):
        (folder / kind).mkdir(parents=True)
    held = []
    for name in SOURCES:
        files = sorted((logits / name / "train" / "logits").iterdir())
        if name == "dubai_building":
            files = [file for file in files if not file.stem.startswith(HELD_SCENE)]
        elif name == "dubai_road":
            held += [f"{name}-{file.stem}" for file in files if file.stem.startswith(HELD_SCENE)]
        else:
            chosen = np.random.default_rng(0).permutation(len(files))[: len(files) // 4]
            held += [f"{name}-{files[index].stem}" for index in chosen]
        for file in files:
            label = logits / name / "train" / "labels" / f"{file.stem}.png"
            for kind, path in (("logits", file), ("labels", label)):
                (folder / kind / f"{name}-{path.name}").symlink_to(os.path.relpath(path, folder / kind))
    stems = folder / "held_out.txt"
    stems.write_text("\n".join(held) + "\n")
    return stems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, required=True, help="folder for logits, the run and masks")
    parser.add_argument("--run", type=Path, help="a finished run to ship instead of training one")
    arguments = parser.parse_args()
    logits = make_logits(arguments.data, arguments.work, list(SETS))
    together = arguments.work / "together"
    stems = combine(logits, together)
    run, began = arguments.run or arguments.work / "ship", time.monotonic()
    if not arguments.run:
        command = ("train", together / "logits", "--labels", together / "labels", "--validation-stems", stems)
        prn(*command, "-o", run, "--overwrite", *OPTIONS)
    card = json.loads((run / "model.json").read_text())
    figures = {}
    for name in SETS:
        result = refined(logits / name / "test", arguments.work / "masks" / name / "shipped", str(run))
        pooled, change, mean, mean_change = cells(result)
        figures[name] = {
            "learned_from_its_training_split": name in SOURCES,
            "pooled_iou": pooled,
            "change_points": change,
            "mean_iou": mean,
            "mean_change_points": mean_change,
        }
        print(name, figures[name], file=sys.stderr)
    data = card.pop("data")
    card["description"] = "roads, buildings and nuclei; keeps the level of the scores"
    card["training"] = {
        "sets": SOURCES,
        "maps": len(data["learned_from"]),
        "held_out": len(data["held_out"]),
        "held_out_how": f"the roads of scene {HELD_SCENE}, a quarter of the nuclei images",
        "pixels": data["pixels"],
        "command": " ".join(["prn train", *OPTIONS]),
        "seconds": card.pop("seconds"),
        "machine": machine(),
        "date": date.today().isoformat(),
    }
    card["test_splits"] = figures
    for suffix, entry in card["files"].items():
        shutil.copyfile(run / entry["file"], WEIGHTS / f"fast.{suffix}")
        entry["file"] = f"fast.{suffix}"
    (WEIGHTS / "manifest.json").write_text(json.dumps({"weights": {"fast": card}}, indent=2) + "\n")
    print(f"shipped after {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
