"""Train the shipped `fast` weights, score them on every test split, and write `weights/`.

    python bench/ship_weights.py --work /tmp/prn-quality [--data ../shared/data]

They learn from the training splits of the sets whose terms allow it, together, and keep the level of the scores: a
level learned on some scenes harms others. The strength of the correction is chosen by leaving out one scene at a time,
roads and buildings of it together, or all microscope images: of all strengths, the weakest with three quarters of the
most that can be expected, since these weights meet data unlike any of these. No test split takes part in any choice.
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

from common import DATA, machine, prn
from quality import SETS, cells, make_logits, refined

SOURCES = {
    "dubai_road": "Semantic segmentation of aerial imagery, Humans in the Loop; open access, elsewhere marked CC0",
    "dubai_building": "Semantic segmentation of aerial imagery, Humans in the Loop; open access, elsewhere marked CC0",
    "nuclei": "Data Science Bowl 2018, stage 1, corrected labels; CC0 1.0",
}
GROUPS = "(tile[0-9]+|nuclei)"
OPTIONS = (
    *("--keep-level", "--jitter-scale", "0.3", "--jitter-shift", "0.6"),
    *("--groups", GROUPS, "--steps", "100", "--seed", "0", "--threads", "1"),
)
WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


def combine(logits: Path, folder: Path) -> None:
    """Link the training splits side by side, their stems prefixed by the set."""
    shutil.rmtree(folder, ignore_errors=True)
    for kind in ("logits", "labels"):
        (folder / kind).mkdir(parents=True)
    for name in SOURCES:
        for file in sorted((logits / name / "train" / "logits").iterdir()):
            label = logits / name / "train" / "labels" / f"{file.stem}.png"
            for kind, path in (("logits", file), ("labels", label)):
                (folder / kind / f"{name}-{path.name}").symlink_to(os.path.relpath(path, folder / kind))


def weakened(run: Path, folder: Path) -> Path:
    """The same weights, with the weakest strength that is expected to gain three quarters of the most."""
    from prn_cli.training.checkpoint import load_network
    from prn_cli.training.export import export

    card = json.loads((run / "model.json").read_text())
    gains = {float(strength): gain for strength, gain in card["choice"]["strengths"].items()}
    strength = min(s for s, gain in gains.items() if gain >= 0.75 * max(gains.values()))
    card["choice"] |= {"strength": strength, "gain": gains[strength], "rule": "the weakest with 3/4 of the most"}
    for other in ("held_out_figures", "verdict"):  # of another strength
        card.pop(other)
    card["choice"].pop("groups")
    network, description = load_network(run / "model.safetensors")
    kept = {key: description[key] for key in ("prn.threshold", "prn.reference")}
    own = {"files", *(key.removeprefix("prn.") for key in description)}  # export says these itself
    more = {key: value for key, value in card.items() if key not in own}
    folder.mkdir(exist_ok=True)
    export(network, folder, card=more, metadata={"prn.strength": f"{strength:g}", **kept})
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, required=True, help="folder for logits, the run and masks")
    parser.add_argument("--run", type=Path, help="a finished run to ship instead of training one")
    arguments = parser.parse_args()
    logits = make_logits(arguments.data, arguments.work, list(SETS))
    together = arguments.work / "together"
    combine(logits, together)
    run, began = arguments.run or arguments.work / "ship", time.monotonic()
    if not arguments.run:
        command = ("train", together / "logits", "--labels", together / "labels")
        prn(*command, "-o", run, "--overwrite", *OPTIONS)
    run = weakened(run, arguments.work / "weakened")
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
        "held_out_how": data["held_out_how"],
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
