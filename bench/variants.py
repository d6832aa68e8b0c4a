"""What other recipes of `fast` are worth that `prn train` has no option for: one row a choice, changed alone.

    python bench/variants.py --work /tmp/prn-quality [--set kvasir_polyp ...] [--row level ...] [--seeds 0 1]
        [--out table.md] [--data ../shared/data]

Each row trains as `prn train --folds 1 --seed S --threads 1` does, on the same maps, with one thing changed in this
process. The gain is that of the whole correction (strength 1, cut at 0.5) over the base model, in points of pooled IoU,
on the fifth of the maps that was held out, which chooses the best epoch, too. No test split is read. With several
seeds, the mean and the range of them. Times are the processor's, on one thread and against the default's: of a training
step, and of refining a map of 1024×1024 px in PyTorch.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
import variant_parts as parts
from ablation import asked_for, in_points, parser_of, table
from quality import make_logits, maps_of
from torch.nn.utils import parametrize

from prn_cli.maps.pixels import IGNORE
from prn_cli.methods import refiner_of
from prn_cli.methods.fast import network as fast
from prn_cli.methods.fast.options import FastOptions
from prn_cli.methods.fast.recipe import FastRecipe
from prn_cli.methods.objective import JointLoss
from prn_cli.methods.torch_runner import TorchRunner
from prn_cli.metrics.regions import count_regions
from prn_cli.refinement.rows import cut, refine_map
from prn_cli.training import loop
from prn_cli.training.augment import TrainingMap
from prn_cli.training.runtime import set_up

SETS = ("kvasir_polyp", "epfl_roads", "nuclei")  # those without scenes


@dataclass(frozen=True)
class Row:
    """One choice: the network, what becomes of the maps that it learns from, the loss, and the network's constants."""

    network: Callable[[], fast.FastNetwork] = fast.FastNetwork
    prepared: Callable[[TrainingMap], TrainingMap] = lambda m: m
    loss: type[JointLoss] = JointLoss
    pseudo: float = 0.0
    depth: int = fast.DEPTH
    context: tuple[int, ...] = fast.CONTEXT

    @property
    def options(self) -> FastOptions:
        return FastOptions(pseudo_weight=self.pseudo)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Where training and networks look for it."""
        with (
            patch.object(FastRecipe, "objective", lambda _, options, __: self.loss(options)),
            patch.multiple(fast, DEPTH=self.depth, CONTEXT=self.context),
        ):
            yield


NEAR, BETWEEN = (partial(parts.soft_pseudo, interpolation=way) for way in (cv2.INTER_NEAREST, cv2.INTER_LINEAR))
DEFAULT = "the default"
ROWS = {
    DEFAULT: Row(),
    "equal under turns and flips": Row(parts.Equal),
    "one level less": Row(parts.Shallow, depth=2, context=(9, 17, 33)),
    "one level more": Row(parts.Deep, depth=4, context=(3, 5, 9)),
    "ranks beside the logits": Row(parts.Ranked, parts.ranked),
    "soft labels at boundaries": Row(prepared=parts.blurred, loss=parts.SoftLabelLoss),
    "pseudo-labels of three sizes, at 0.7": Row(prepared=parts.of_three_sizes, loss=parts.SoftPseudoLoss, pseudo=0.7),
    "soft pseudo-labels, at 0.7": Row(prepared=NEAR, loss=parts.SoftPseudoLoss, pseudo=0.7),
    "soft, interpolated ones, at 0.7": Row(prepared=BETWEEN, loss=parts.SoftPseudoLoss, pseudo=0.7),
}


@dataclass(frozen=True, eq=False)
class Bench:
    """The runs on one set, of which a seed holds a fifth out; kept in a folder."""

    maps: Sequence[TrainingMap]
    seed: int
    folder: Path

    def split(self, row: Row) -> tuple[list[TrainingMap], list[TrainingMap]]:
        """Maps to learn from, and held-out ones with their own labels, as `prn train --folds 1` draws them."""
        order = np.random.default_rng(self.seed).permutation(len(self.maps))
        held = set(order[: round(len(self.maps) * 0.2)].tolist())
        learn = [row.prepared(m) for number, m in enumerate(self.maps) if number not in held]
        return learn, [replace(row.prepared(self.maps[n]), label=self.maps[n].label) for n in sorted(held)]

    def run(self, label: str, member: int = 0) -> dict[str, Any]:
        """Train, unless that was done: IoU before, at the best and at the last epoch, and weights."""
        path = self.folder / f"{re.sub('[^a-z0-9]+', '-', label)}-{self.seed}-{member}.pt"
        if not path.exists():
            row, seed, patience = ROWS[label], self.seed + member, loop.Settings.patience
            learn, hold = self.split(row)
            base = loop.pooled_iou(loop.base_counts(hold))
            # The default goes on beyond its patience, so that its last epoch is known; what is kept is as without.
            settings = loop.Settings(seed=seed, options=row.options, patience=99 if row == ROWS[DEFAULT] else patience)
            torch.manual_seed(seed)
            kept = None
            for epoch, state in loop.fit(row.network(), learn, hold, settings):
                print(f"  epoch {epoch.number + 1}: {100 * (epoch.iou - base):+.2f}", file=sys.stderr, flush=True)
                if kept is None and state.epoch - 1 - state.best_epoch >= patience:
                    kept = state.best_iou, state.best
            best, weights = kept or (state.best_iou, state.best)
            found = {"base": base, "best": best, "last": epoch.iou, "weights": weights}
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(found, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
        return torch.load(path)  # type: ignore[no-any-return]

    def gain(self, label: str, member: int = 0, epoch: str = "best") -> float:
        """Points of pooled IoU over the base model, held out."""
        run = self.run(label, member)
        return 100 * float(run[epoch] - run["base"])

    def together(self, *members: int, tta: bool = False) -> float:
        """As `gain`, of the mean bias of runs of the default, each in all turns and flips if asked for."""
        _, hold = self.split(ROWS[DEFAULT])
        refined: list[Any] = [0.0] * len(hold)
        for member in members:
            run, network = self.run(DEFAULT, member), fast.FastNetwork()
            network.load_state_dict(run["weights"])
            refiner = refiner_of(TorchRunner(network))
            views = [refine_map(m.logits, refiner, tta=tta) / len(members) for m in hold]
            refined = [a + b for a, b in zip(refined, views, strict=True)]
        counts = [count_regions(cut(z, 0.5), m.label).array() for z, m in zip(refined, hold, strict=True)]
        return 100 * (loop.pooled_iou(np.array(counts)) - run["base"])


def over_three(gain: Callable[[Bench, int], float]) -> Callable[[Bench], float]:
    return lambda bench: float(np.mean([gain(bench, member) for member in range(3)]))


# Of runs of the default alone, that differ by their draws: what they gain, their time in training and in refining.
OF_THE_DEFAULT: dict[str, tuple[Callable[[Bench], float], str, str]] = {
    "three runs of it, on average": (over_three(lambda bench, k: bench.gain(DEFAULT, k)), "1", "1"),
    "… the last epoch, not the best": (over_three(lambda bench, k: bench.gain(DEFAULT, k, "last")), "1", "1"),
    "… turned and flipped (`--tta`)": (over_three(lambda bench, k: bench.together(k, tta=True)), "1", "8"),
    "… the mean of their biases": (lambda bench: bench.together(0, 1, 2), "3", "3"),
}


def least(times: list[float]) -> float:
    """The shortest time between two of these: others may be at work on the machine."""
    return float(np.diff(times).min())


@cache
def refining_time(row: Row) -> float:
    """Seconds of the processor for a map of 1024×1024 px, with what it takes to prepare its planes."""
    logits = np.random.default_rng(0).normal(0, 3, (1024, 1024)).astype(np.float32)
    with row.in_place(), parametrize.cached():
        refiner, times = refiner_of(TorchRunner(row.network())), [time.process_time()]
        for _ in range(40):
            image = parts.ranked(TrainingMap("", logits, None, None)).image if refiner.needs.bands else None
            refine_map(logits, refiner, image=image)
            times.append(time.process_time())
    return least(times)


@cache
def training_time(row: Row, bench: Bench) -> float:
    """Seconds of the processor for four steps."""
    learn = [row.prepared(m) for m in bench.maps[:20]]
    settings = loop.Settings(epochs=20, steps=4, choose_epoch=False, options=row.options)
    with row.in_place():
        return least([time.process_time() for _ in loop.fit(row.network(), learn, [], settings)])


def measured(label: str, benches: list[list[Bench]]) -> list[str]:
    """A line of the table."""
    if label in OF_THE_DEFAULT:
        gain, *times = OF_THE_DEFAULT[label]
        return [label, *(in_points([gain(bench) for bench in of_set]) for of_set in benches), *times]
    row = ROWS[label]
    with row.in_place():
        gains = [in_points([bench.gain(label) for bench in of_set]) for of_set in benches]
    training, refining = training_time(row, benches[0][0]), 1.0
    if row.network is not fast.FastNetwork:
        refining = refining_time(row) / refining_time(ROWS[DEFAULT])
    return [label, *gains, f"{training / training_time(ROWS[DEFAULT], benches[0][0]):.1f}", f"{refining:.1f}"]


def main() -> None:
    arguments = parser_of(__doc__, SETS).parse_args()
    names = arguments.set or list(SETS[:2])
    logits = make_logits(arguments.data, arguments.work, names)
    set_up("cpu", threads=1, seed=0)
    benches = []
    for name in names:
        maps = [TrainingMap(path.stem, z, label, label) for path, z, label, _ in maps_of(logits / name / "train")]
        for m in maps:
            m.label[np.isnan(m.logits)] = IGNORE
        benches.append([Bench(maps, seed, arguments.work / "variants" / name) for seed in arguments.seeds])
    lines: list[list[str]] = []
    text = ""
    for label in asked_for((DEFAULT, *OF_THE_DEFAULT, *list(ROWS)[1:]), arguments.row):
        print(label, file=sys.stderr, flush=True)
        lines.append(measured(label, benches))
        print(" | ".join(lines[-1]), file=sys.stderr, flush=True)
        text = table(["choice", *names, "training time", "refining time"], lines, arguments.seeds)
        if arguments.out:
            arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
