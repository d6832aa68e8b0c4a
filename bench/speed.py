"""Speed of refine for `fast` and `paper`, of a training step, and of pseudolabel, side by side in one run.

    python bench/speed.py [--repeats 15] [--logits DIR] [--skip-training]

Refine is measured twice: the network on a map in memory, and the whole command on a folder of files, start to exit.
Speed does not depend on the weights, so `paper` has random ones (none may be shipped).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import machine, markdown

SIDE = 512
MEGAPIXELS = SIDE * SIDE / 1e6


def real_logits() -> np.ndarray:
    """A 512×512 window of a logit map that ships with the repository, repeated to size if it is smaller."""
    from prn_cli.rasters import Reading, open_map

    folder = Path(__file__).resolve().parent.parent / "examples"
    path = next(path for path in sorted(folder.glob("*/logits/*")) if path.suffix in (".tif", ".npy"))
    with open_map("scores", path, Reading(kind="logits")) as scores:
        logits = scores.logits()
    rows, columns = (-(-SIDE // n) for n in logits.shape)
    return np.tile(logits, (rows, columns))[:SIDE, :SIDE]


def seconds(
    work: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float, float]:
    """Median, least and most seconds of `repeats` runs after one that does not count."""
    work()
    taken = []
    for _ in range(repeats):
        began = clock()
        work()
        taken.append(clock() - began)
    return float(np.median(taken)), min(taken), max(taken)


def refine_speeds(folder: Path, repeats: int) -> list[list[str]]:
    """Mpx/s of the networks in onnxruntime, and of whole commands."""
    import torch

    from prn_cli.methods import load_refiner
    from prn_cli.methods.recipe import build
    from prn_cli.methods.weights import find_weights
    from prn_cli.refinement.rows import refine_map
    from prn_cli.training.export import export

    torch.manual_seed(0)
    runs = {"fast": "fast"}
    paper = folder / "paper"
    paper.mkdir()
    export(build("paper"), paper, card={})
    runs["paper"] = str(paper)
    logits = real_logits()
    rows, per_map = [], {}
    for name, weights in runs.items():
        refiner = load_refiner(find_weights(weights), device="cpu")
        count = repeats if name == "fast" else max(repeats // 3, 2)
        median, least, most = seconds(lambda refiner=refiner: refine_map(logits, refiner, strength=1), count)
        per_map[name] = median
        rows.append(
            [
                f"refine, {name}, network on {SIDE}×{SIDE}",
                f"{MEGAPIXELS / median:.2f}",
                f"{1e3 * median:.1f} ms a map",
                f"{1e3 * least:.1f} to {1e3 * most:.1f} ms",
            ]
        )
    ratio = per_map["paper"] / per_map["fast"]
    rows.append(
        ["refine, fast over paper", f"{ratio:.0f} times", "target: 200 times", "met" if ratio >= 200 else "missed"]
    )
    for name, maps in (("fast", 64), ("paper", 2)):
        inputs = folder / f"logits_{name}"
        inputs.mkdir()
        for index in range(maps):
            np.save(inputs / f"{index:03}.npy", logits)
        line = [
            sys.executable,
            "-m",
            "prn_cli",
            "refine",
            str(inputs),
            "-o",
            str(folder / "masks"),
            "--overwrite",
            "-q",
            "--weights",
            runs[name],
            "--strength",
            "1",
            "--device",
            "cpu",
        ]
        median, least, most = seconds(lambda line=line: subprocess.run(line, check=True), max(repeats // 3, 2))
        rows.append(
            [
                f"prn refine, {name}, {maps} files",
                f"{maps * MEGAPIXELS / median:.2f}",
                f"{median:.2f} s in all",
                f"{least:.2f} to {most:.2f} s",
            ]
        )
    return rows


def step_speeds(repeats: int) -> list[list[str]]:
    """Seconds of a training step on the CPU."""
    import torch

    from prn_cli.methods import recipe_of
    from prn_cli.methods.objective import JointLoss
    from prn_cli.methods.paper.options import PaperOptions
    from prn_cli.methods.recipe import Batch, build

    rows = []
    for name, batch, side in (("fast", 8, 256), ("fast", 1, 512), ("paper", 1, 512)):
        network = build(name).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        logits = torch.randn(batch, 1, side, side)
        label = (torch.rand(batch, 1, side, side) > 0.8).to(torch.uint8)

        def step(name=name, network=network, optimizer=optimizer, logits=logits, label=label) -> None:  # type: ignore[no-untyped-def]
            batch = Batch(logits, label, label)
            loss = JointLoss(PaperOptions())(recipe_of(name).outputs(network, batch), batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        median, least, most = seconds(step, repeats if name == "fast" else 1)
        rows.append(
            [
                f"training step, {name}, {batch}×{side}×{side}",
                f"{batch * side * side / 1e6 / median:.2f}",
                f"{median:.3f} s a step",
                f"{least:.3f} to {most:.3f} s",
            ]
        )
    return rows


def main() -> None:
    from speed_pseudolabel import EXAMPLES, pseudolabel_speeds

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--logits", type=Path, default=EXAMPLES, help="folder of sets, for pseudolabel")
    parser.add_argument("--skip-training", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = refine_speeds(Path(folder), arguments.repeats)
    if not arguments.skip_training:
        rows += step_speeds(arguments.repeats)
    rows += pseudolabel_speeds(arguments.repeats, folder=arguments.logits.resolve())
    print(markdown(["what", "Mpx/s", "median", "range"], rows))
    print(f"\nSeed 0; {arguments.repeats} repeats after one warm-up, fewer for slow rows; {machine()}.")


if __name__ == "__main__":
    main()
