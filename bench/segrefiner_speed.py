"""Seconds a megapixel of SegRefiner's published shape: the pass over the whole map, and windows in doubt.

    python bench/segrefiner_speed.py [--width 128 8] [--threads 2] [--side 512]

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
        run: s.
        side: of the map, px.
        windows: of the map.
    """

    parameters: int
    run: float
    side: int
    windows: int

    @property
    def first_pass(self) -> float:
        """The pass over the whole map, s."""
        return (STEPS - 1) * self.run

    @property
    def per_megapixel(self) -> float:
        """Of a map whose windows are all in doubt, s."""
        return (self.first_pass + self.windows * self.run) / (self.side**2 / 1e6)


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
        began = time.perf_counter()
        refiner.runner.run(["logits"], inputs)
        taken.append(time.perf_counter() - began)
    return Speed(parameters, min(taken[1:]), side, count_windows(side, side, [Link(refiner)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, nargs="*", default=[128, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=2048)
    given = parser.parse_args()
    print("| width | parameters | run of 256×256 px, s | first pass, s | windows | s a megapixel, all in doubt |")
    print("|---|---|---|---|---|---|")
    for width in given.width:
        with tempfile.TemporaryDirectory() as folder:
            speed = measure(*published(Path(folder), width=width, threads=given.threads), side=given.side)
        row = f"{width} | {speed.parameters:,} | {speed.run:.2f} | {speed.first_pass:.1f} | {speed.windows}"
        print(f"| {row} | {speed.per_megapixel:.1f} |", flush=True)
    print(f"\n{given.threads} threads, a map of {given.side}×{given.side} px; {machine()}")


if __name__ == "__main__":
    main()
