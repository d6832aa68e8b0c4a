"""How long the figures of `prn score` take on a map of four megapixels, and their intervals.

    python bench/metrics.py [--pairs 15]

Each is measured in turn with a histogram of as many pixels by NumPy, so that the ratios hold on any machine and beside
other programs. Ends with exit code 1 if a ratio is surely above its limit.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from common import judge, machine, ratio
from scipy import ndimage

from prn_cli.metrics import intervals, regions
from prn_cli.metrics.boundaries import count_boundaries
from prn_cli.tasks.binary import Binary

SIDE = 2000
LIMITS = {"boundaries": 16, "all metrics of a map": 40, "intervals of 150 maps": 1}


def scores(seed: int) -> np.ndarray:
    """Probabilities, half of them below 0.5, with blobs of some 20 px."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((SIDE, SIDE), np.float32), 8)
    return 1 / (1 + np.exp(-50 * noise))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=15, help="how often each is measured")
    options = parser.parse_args()
    print(f"{machine()}\n")

    probabilities = scores(0)
    mask, label = ((scores(seed) > 0.5).astype(np.uint8) for seed in (1, 2))
    counts = [np.random.default_rng(seed).integers(1, 1000, (150, 4)).astype(np.float64) for seed in (1, 2)]
    levels = (255 * probabilities).astype(np.intp).ravel()
    work = {
        "boundaries": lambda: count_boundaries(mask, label),
        "all metrics of a map": lambda: Binary().score_image(probabilities, label),
        "intervals of 150 maps": lambda: intervals.compare(*counts, regions.iou, pool=True, resamples=1000),
    }
    found = {what: ratio(each, lambda: np.bincount(levels), options.pairs) for what, each in work.items()}
    return judge([(what, each, LIMITS[what]) for what, each in found.items()])


if __name__ == "__main__":
    sys.exit(main())
