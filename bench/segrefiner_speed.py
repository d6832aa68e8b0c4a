"""Seconds a megapixel of SegRefiner's published shape: the pass over the whole map, and windows in doubt.

    python bench/segrefiner_speed.py [--width 128 8] [--threads 2] [--side 2048] [--repeats 3]

The weights are random: the time does not depend on them. Every window is in doubt, as in the worst case; of the best
case, where none is, the first pass alone is left, whatever the size of the map.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import machine

from prn_cli.methods import load_refiner, options_of
from prn_cli.methods.recipe import build
from prn_cli.methods.refiner import Refiner
from prn_cli.methods.weights import find_weights
from prn_cli.refinement.rows import Link, count_windows
from prn_cli.training.export import export

STEPS = 6


@dataclass(frozen=True)
class Speed:
    """What a run of the network on 256×256 px takes, and what that makes of a map.

    Attributes:
        parameters: of the network.
        run: s by the clock.
        work: s of all cores together, which other programs on the machine change little.
        side: of the map, px.
        windows: of the map.
    """

    parameters: int
    run: float
    work: float
    side: int
    windows: int

    @property
    def runs_per_megapixel(self) -> float:
        """Of a map whose windows are all in doubt; the first pass takes all steps but the last."""
        return (STEPS - 1 + self.windows) / (self.side**2 / 1e6)


def published(folder: Path, *, width: int = 128, threads: int = 2) -> tuple[Refiner, int]:
    """A refiner of the published shape with random weights, by onnxruntime; and its number of parameters."""
    network = build("segrefiner", options_of("segrefiner")(width=width), bands=3, seed=0)
    export(network, folder, card={})
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return load_refiner(find_weights(str(folder)), device="cpu", threads=threads), parameters


def measure(refiner: Refiner, parameters: int, *, side: int = 2048, repeats: int = 3) -> Speed:
    """Time runs of the network, the first of which does not count."""
    random = np.random.default_rng(0)
    inputs = {
        "mask": (random.random((1, 1, 256, 256)) < 0.5).astype(np.float32),
        "step": np.zeros((1, 1), np.float32),
        "image": random.random((1, 3, 256, 256), np.float32),
    }
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter(), time.process_time()
        refiner.runner.run(["logits"], inputs)
        taken.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    run, work = (min(times) for times in zip(*taken[1:], strict=True))
    return Speed(parameters, run, work, side, count_windows(side, side, [Link(refiner)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, nargs="*", default=[128, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print("| width | parameters | run of 256×256 px, s | CPU s | windows | s a megapixel, all in doubt | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for width in given.width:
        with tempfile.TemporaryDirectory() as folder:
            refiner, parameters = published(Path(folder), width=width, threads=given.threads)
            speed = measure(refiner, parameters, side=given.side, repeats=given.repeats)
        row = f"{width} | {speed.parameters:,} | {speed.run:.2f} | {speed.work:.2f} | {speed.windows}"
        of_map = " | ".join(f"{seconds * speed.runs_per_megapixel:.1f}" for seconds in (speed.run, speed.work))
        print(f"| {row} | {of_map} |", flush=True)
    print(f"\n{given.threads} threads, a map of {given.side}×{given.side} px; {machine()}")


if __name__ == "__main__":
    main()
