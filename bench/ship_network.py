"""Whether a network that sees logits alone adds to the threshold chosen without labels, on sets that it has not seen.

    python bench/ship_network.py --logits DIR [DIR ...] --cache /tmp/first-call --work /tmp/prn-ship-network

Folders and cache are those of `bench/first_call.py`. The logits of every pair are shifted so that the threshold that
`prn refine` chooses without labels lies at 0. `fast` with `--keep-level` then learns from the labels of the training
splits, of all sets but those of one fold, which it is scored on: the test splits of the pairs of these sets, cut at 0.

It ships if one strength adds 0.3 points of pooled IoU on average over pairs, and no pair loses more than 0.2, those
with lines of 1 to 3 px (cracks, retina) among them. The command prints what every strength gives, and whether it ships.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from common import machine, markdown
from first_call import Pair, fitted, over_sets, pairs, read
from numpy.typing import NDArray
from PIL import Image

from prn_cli.maps.pixels import IGNORE
from prn_cli.methods.fast.network import FastNetwork
from prn_cli.methods.fast.options import FastOptions
from prn_cli.metrics.regions import iou
from prn_cli.thresholding.calibration import expect
from prn_cli.thresholding.decision import decide
from prn_cli.thresholding.sampling import sample_maps
from prn_cli.training.augment import Jitter, TrainingMap
from prn_cli.training.choice import STRENGTHS
from prn_cli.training.loop import Settings, fit, tallies

LEARN, LEARN_SIDE = 5, 256
SCORE, SCORE_SIDE = 8, 512
LINES = ("cracks", "retina")
GAIN, HARM = 0.3, 0.2


def maps(folder: Path, threshold: float, most: int, side: int) -> list[TrainingMap]:
    """The middle of some maps, with the threshold at a logit of 0."""
    shift = np.float32(np.log(threshold) - np.log1p(-threshold))
    paths = {path.stem: path for path in (folder / "logits").iterdir()}
    found = []
    for stem in sample_maps(paths, most):
        logits = read(paths[stem]) - shift
        with Image.open(folder / "labels" / f"{stem}.png") as image:
            label = (np.asarray(image) > 127).astype(np.uint8)
        y, x = (max(length - side, 0) // 2 for length in label.shape)
        part = np.s_[y : y + side, x : x + side]
        label = np.where(np.isnan(logits), np.uint8(IGNORE), label)[part]
        found.append(TrainingMap(f"{folder.parent.name} {stem}", np.ascontiguousarray(logits[part]), label, label))
    return found


def trained(learn: list[TrainingMap], steps: int, seed: int) -> FastNetwork:
    """A network that learned from these maps."""
    torch.manual_seed(seed)
    options = FastOptions(keep_level=True)
    network = FastNetwork(options.width, keep_level=True)
    settings = Settings(
        options=options, crop=128, epochs=1, steps=steps, choose_epoch=False, jitter=Jitter(0.3, 0.3), seed=seed
    )
    *_, (_, state) = fit(network, learn, [], settings)
    network.load_state_dict(state.best)
    return network.eval()


def changes(network: FastNetwork, hold: list[TrainingMap]) -> NDArray[np.float64]:
    """Change of pooled IoU, in points, for every strength `(S,)`."""
    counts = tallies(network, hold)[:, :, 0].sum(axis=0).astype(np.float64)
    found = iou(counts)
    return 100 * (found - found[0])


def report(results: dict[str, NDArray[np.float64]]) -> str:
    """A row a strength, and the verdict."""
    names = sorted(results)
    sets = np.array([name.split("_")[0] for name in names])
    every = np.array([results[name] for name in names])
    lines = np.isin(sets, LINES)
    rows, ships = [], False
    for strength, values in list(zip(STRENGTHS, every.T, strict=True))[1:]:
        good = values.mean() >= GAIN and values.min() >= -HARM
        ships = ships or good
        harmed = f"{(values < -HARM).sum()} of {len(values)}"
        worst = f"{values.min():+.1f} ({names[int(values.argmin())]})"
        rows.append([f"{strength:g}", over_sets(values, sets), harmed, worst, f"{values[lines].min():+.1f}"])
    heading = ["strength", "pooled IoU, points [95 %]", f"lose > {HARM:g}", "worst pair", "worst pair with lines"]
    verdict = "it ships" if ships else "it does not ship"
    return f"{markdown(heading, rows)}\n\n{verdict}: asked are {GAIN:+g} on average and no pair below {-HARM:+g}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, nargs="+", required=True, help="folders of pairs")
    parser.add_argument("--cache", type=Path, required=True, help="folder for what was measured; reused")
    parser.add_argument("--work", type=Path, required=True, help="folder for the results of each fold; reused")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    folders = {folder.name: folder for parent in arguments.logits for folder in parent.iterdir()}
    every = list(pairs(arguments.logits, arguments.cache))
    names = sorted({pair.set for pair in every})
    fits = {name: fitted([pair for pair in every if pair.set != name]) for name in names}

    def of(pair: Pair, split: str, most: int, side: int) -> list[TrainingMap]:
        statistics = getattr(pair, split).statistics()
        threshold = decide(statistics.counts, expect(statistics, fits[pair.set])).threshold
        return maps(folders[pair.name] / split, threshold, most, side)

    results = {}
    for fold in range(arguments.folds):
        held, file = names[fold :: arguments.folds], arguments.work / f"fold{fold}.npz"
        if not file.exists():
            began = time.monotonic()
            learn = [m for pair in every if pair.set not in held for m in of(pair, "train", LEARN, LEARN_SIDE)]
            network = trained(learn, arguments.steps, arguments.seed)
            unseen = [pair for pair in every if pair.set in held]
            found = {pair.name: changes(network, of(pair, "test", SCORE, SCORE_SIDE)) for pair in unseen}
            np.savez(file, **found)
            print(f"without {', '.join(held)}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        results |= dict(np.load(file))
    print(f"{report(results)}\n\n{len(results)} pairs of {len(names)} sets, {arguments.folds} folds of sets, ", end="")
    print(f"{arguments.steps} steps each, seed {arguments.seed}; {machine()}.")


if __name__ == "__main__":
    main()
