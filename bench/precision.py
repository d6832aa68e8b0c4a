"""What 8-bit weights gain in speed and cost in IoU, beside the float32 weights that they are made from.

    python bench/precision.py [--weights fast] [--int8 fast-int8] [SET …]

A set is a folder with `logits/` and `labels/`, or with `train/` and `test/` that hold them; without one, the examples.
The maps of `test/`, or half of the maps, are scored. Without `--int8`, the network is calibrated on the others.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import machine, markdown, prn
from scale import network_speed

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def split(folder: Path) -> tuple[list[Path], list[Path], Path]:
    """Maps to calibrate on, maps to score, and the labels of these."""
    if (folder / "train").is_dir():
        return (
            sorted((folder / "train" / "logits").iterdir()),
            sorted((folder / "test" / "logits").iterdir()),
            (folder / "test" / "labels"),
        )
    maps = sorted((folder / "logits").iterdir())
    return maps[::2], maps[1::2], folder / "labels"


def main() -> None:
    from prn_cli.execution.cores import core_count

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, nargs="*", default=[EXAMPLES / "buildings", EXAMPLES / "nuclei"])
    parser.add_argument("--weights", default="fast")
    parser.add_argument("--int8", help="8-bit weights; without them, they are made for each set")
    arguments = parser.parse_args()
    cores = core_count()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for folder in arguments.sets:
            calibration, scored, labels = split(folder)
            here = Path(name) / folder.name
            quantized = arguments.int8 or str(here / "quantized")
            if not arguments.int8:
                prn("weights", "quantize", arguments.weights, *calibration, "-o", quantized, as_json=False)
            for precision, weights in (("float32", arguments.weights), ("int8", quantized)):
                masks = here / precision
                prn("refine", *scored, "-o", masks, "--weights", weights, "--device", "cpu")
                pooled = prn("score", masks, "--labels", labels)["pooled"]["iou"]["value"]
                speed = network_speed(512, 512, cores, weights)
                rows.append([folder.name, precision, f"{speed:.1f}", f"{pooled:.4f}"])
            gain = float(rows[-1][2]) / float(rows[-2][2])
            loss = 100 * (float(rows[-1][3]) - float(rows[-2][3]))
            rows[-1] += [f"{gain:.2f} times", f"{loss:+.2f} points"]
            rows[-2] += ["", ""]
    print(markdown(["set", "precision", "network, Mpx/s", "pooled IoU", "speed", "IoU"], rows))
    print(f"\n{machine()}.")


if __name__ == "__main__":
    main()
