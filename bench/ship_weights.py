"""Train the shipped `fast` weights, score them and their likes on every test split, and write `weights/`.

    python bench/ship_weights.py --work /tmp/prn-quality [--data ../shared/data] [--leave-one-set-out | --int8]

They meet base models and scenes that nobody has labels of. What a network learns from labels does not carry over to
these: trained on four sets, in several ways, it lost on the fifth more often than it gained, level kept or not. What
carries over is that masks are better for less noise. So the shipped network learns, without any label, to take noise
out of logits: to give what a median over 5×5 px and a Gaussian of 1 px make of tanh(logit / 2), whatever the scale and
shift of the logits. Both were chosen among some forty filters on training splits: a gain on all five. The strength is
the weakest with three quarters of the most that is gained on average over the sets learned from, since these weights
meet data unlike any of them. They are where `prn train --from fast` starts, too.

`fast-int8` are the same weights in 8-bit integers, calibrated on maps of the sets learned from; `--int8` makes them
alone, from the `fast` that is there.

With `--leave-one-set-out`, networks that learn from all sets but one are scored on the one that they have not seen.
Test splits take part in no choice but this: the rule of the strength, that of the weights before, was dropped for the
strength with the largest gain, and taken up again when that had been scored.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, machine, markdown, prn
from numpy.typing import NDArray
from quality import SETS, cells, make_logits, maps_of, refined

from prn_cli.training.augment import TrainingMap

SOURCES = {
    "dubai_road": "Semantic segmentation of aerial imagery, Humans in the Loop; open access, elsewhere marked CC0",
    "dubai_building": "Semantic segmentation of aerial imagery, Humans in the Loop; open access, elsewhere marked CC0",
    "nuclei": "Data Science Bowl 2018, stage 1, corrected labels; CC0 1.0",
}
MEDIAN, GAUSSIAN = 5, 1.0  # px
STEPS, BATCH, CROP, RATE, AVERAGE = 2000, 8, 256, 3e-3, 0.995
SCALE, SHIFT = 0.3, 0.6  # spreads of the jitter of logits
WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
MANIFEST = WEIGHTS / "manifest.json"
CALIBRATION = 5  # maps of each set learned from


def without_noise(side: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the network is to learn, from tanh(logit / 2); both `(H, W)` in [-1, 1]."""
    import cv2

    return cv2.GaussianBlur(cv2.medianBlur(side, MEDIAN), (0, 0), GAUSSIAN)  # type: ignore[return-value]


def train(sets: Sequence[list[TrainingMap]], folder: Path, seed: int, card: dict[str, Any]) -> Path:
    """Learn from sets in turn, a batch each, and write a run's folder."""
    import torch

    from prn_cli.maps.drift import describe, reference
    from prn_cli.methods.fast.network import FastNetwork
    from prn_cli.training.augment import Jitter, draw_batch
    from prn_cli.training.choice import Limits, choose
    from prn_cli.training.export import export
    from prn_cli.training.loop import learning_rate, tallies
    from prn_cli.training.runtime import reduced_precision, set_up

    began = time.monotonic()
    device = set_up("cpu", threads=1, seed=seed)
    network = FastNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE), use_buffers=True
    )
    random = np.random.default_rng(seed)
    network.train()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step / STEPS, RATE)
        logits = draw_batch(sets[step % len(sets)], BATCH, CROP, Jitter(scale=SCALE, shift=SHIFT), random).logits
        target = np.stack([without_noise(np.tanh(np.nan_to_num(crop[0]) / 2)) for crop in logits])[:, None]
        planes = torch.from_numpy(logits)
        with torch.autocast("cpu", dtype=reduced_precision(device), enabled=reduced_precision(device) is not None):
            _, pred, _ = network.supervised(planes)
        error = torch.tanh(torch.nan_to_num(pred.float()) / 2) - torch.from_numpy(target)
        loss = 100 * (error**2 * ~torch.isnan(planes)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
        if (step + 1) % 500 == 0:
            print(f"{folder.name}: step {step + 1}, loss {loss.item():.3f}", file=sys.stderr, flush=True)
    maps = [m for found in sets for m in found]
    names = [str(position) for position, found in enumerate(sets) for _ in found]
    gains = choose(tallies(average.module, maps, device), names, limits=Limits(any_threshold=False)).strengths
    strength = min((s for s, gain in gains.items() if gain >= 0.75 * max(gains.values())), key=float)
    known = reference([describe(m.logits) for m in maps])
    card["training"] |= {
        "maps": len(maps),
        "pixels": sum(m.label.size for m in maps),
        "target": f"a median over {MEDIAN}×{MEDIAN} px, then a Gaussian of {GAUSSIAN:g} px, of tanh(logit / 2)",
        "steps": STEPS,
        "seed": seed,
        "gain_by_strength": gains,
        "seconds": round(time.monotonic() - began),
        "machine": machine(),
        "date": date.today().isoformat(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"prn.reference": known.to_json(), "prn.strength": strength}
    export(average.module, folder, card=card, metadata=metadata)
    return folder


def ship(name: str, run: Path, logits: Path, masks: Path) -> None:
    """Score a run on every test split, and put it among the shipped weights."""
    card = json.loads((run / "model.json").read_text())
    card["test_splits"] = {}
    for split in SETS:
        found = figures(logits / split / "test", masks / split / name, run)
        card["test_splits"][split] = {"learned_from_its_training_split": split in SOURCES, **found}
        print(split, found, file=sys.stderr, flush=True)
    for suffix, entry in card["files"].items():
        shutil.copyfile(run / entry["file"], WEIGHTS / f"{name}.{suffix}")
        entry["file"] = f"{name}.{suffix}"
    cards = json.loads(MANIFEST.read_text())["weights"] if MANIFEST.exists() else {}
    MANIFEST.write_text(json.dumps({"weights": {**cards, name: card}}, indent=2) + "\n")


def quantized(logits: Path, folder: Path) -> Path:
    """The shipped `fast` in 8-bit integers, as a run's folder."""
    shutil.rmtree(folder, ignore_errors=True)
    maps: list[Path] = []
    for name in SOURCES:
        found = sorted((logits / name / "train" / "logits").iterdir())
        maps += [found[number * len(found) // CALIBRATION] for number in range(CALIBRATION)]
    prn("weights", "quantize", "fast", *maps, "-o", folder, "-q", as_json=False)
    card = json.loads((folder / "model.json").read_text())
    card["description"] = "fast in 8-bit integers: nearly the same masks in less time, on CPUs that have VNNI"
    (folder / "model.json").write_text(json.dumps(card))
    return folder


def figures(test: Path, masks: Path, run: Path) -> dict[str, str]:
    """Of one test split."""
    keys = ("pooled_iou", "change_points", "mean_iou", "mean_change_points")
    return dict(zip(keys, cells(refined(test, masks, str(run))), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, required=True, help="folder for logits, runs and masks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leave-one-set-out", action="store_true", help="score what has not seen a set; ship nothing")
    parser.add_argument("--int8", action="store_true", help="make fast-int8 alone")
    arguments = parser.parse_args()
    logits = make_logits(arguments.data, arguments.work, list(SETS))
    if arguments.int8:
        ship("fast-int8", quantized(logits, arguments.work / "int8"), logits, arguments.work / "masks")
        return
    maps = {
        # Labels choose the strength alone.
        name: [
            TrainingMap(path.stem, values, label, label) for path, values, label, _ in maps_of(logits / name / "train")
        ]
        for name in SETS
    }
    if arguments.leave_one_set_out:
        rows = []
        for name in SETS:
            others = [maps[other] for other in SETS if other != name]
            run = train(others, arguments.work / f"without-{name}", arguments.seed, {"training": {}})
            found = figures(logits / name / "test", arguments.work / "masks" / name / "unseen", run)
            rows.append([name, *found.values()])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
        heading = ["set (test split)", "pooled IoU", "change, points [95 %]", "mean IoU", "change, points [95 %]"]
        print(markdown(heading, rows), f"\n\nTrained on the other sets; seed {arguments.seed}; {machine()}.", sep="")
        return
    card: dict[str, Any] = {
        "description": "takes noise out of the logits of any base model; learned without labels",
        "training": {"sets": SOURCES},
    }
    run = train([maps[name] for name in SOURCES], arguments.work / "ship", arguments.seed, card)
    ship("fast", run, logits, arguments.work / "masks")
    ship("fast-int8", quantized(logits, arguments.work / "int8"), logits, arguments.work / "masks")


if __name__ == "__main__":
    main()
