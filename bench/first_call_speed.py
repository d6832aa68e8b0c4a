"""How fast the threshold without labels is decided: the arithmetic on one core, and with the reading of files.

    python bench/first_call_speed.py [--repeats 15]

Seconds are of the thread, not of the clock; the best of the repeats counts most where others share the cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from common import machine, markdown
from speed import real_logits, seconds

from prn_cli.maps.probabilities import sigmoid
from prn_cli.rasters import Reading, open_map
from prn_cli.thresholding.calibration import expect
from prn_cli.thresholding.decision import decide
from prn_cli.thresholding.logit_statistics import count_logits, measure, measure_steepness
from prn_cli.thresholding.sampling import sample_windows

WINDOWS = 16


def read_and_measure(path: Path, reading: Reading) -> None:
    """As `prn refine` does before the first map."""
    with open_map("scores", path, reading) as scores:
        for window in sample_windows(path.stem, scores.height, scores.width):
            measure(scores.logits(window))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    windows = [np.roll(real_logits(), 32 * number, axis=1) for number in range(WINDOWS)]
    statistics = measure(windows[0])
    calibration = expect(statistics)
    megapixels = sum(window.size for window in windows) / 1e6
    rows = []

    def add(name: str, work: Callable[[], object]) -> None:
        median, least, _ = seconds(work, repeats, time.thread_time)
        rows.append([name, *(f"{megapixels / each:.0f} Mpx/s" for each in (median, least))])

    add("statistics of float32 logits", lambda: [measure(window) for window in windows])
    add("of these, steepness", lambda: [measure_steepness(window) for window in windows])
    add("all pixels counted, as for labels", lambda: [count_logits(window) for window in windows])
    whole = np.nan_to_num(np.concatenate(windows))
    files = {
        "float32 logits": (whole, Reading(kind="logits")),
        "float16 logits": (whole.astype(np.float16), Reading(kind="logits")),
        "int16, logits × 100": (np.rint(100 * whole).astype(np.int16), Reading(kind="logits", scale=100)),
        "bytes": (np.rint(255 * sigmoid(whole)).astype(np.uint8), Reading(kind="byte")),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (values, reading) in files.items():
            path = Path(folder) / "map.npy"
            np.save(path, values)
            work = partial(read_and_measure, path, reading)
            add(f".npy of {name}, read and measured", work)
    median, least, _ = seconds(lambda: decide(statistics.counts, calibration), repeats, time.thread_time)
    rows.append(["the decision, once a set", f"{1e3 * median:.1f} ms", f"{1e3 * least:.1f} ms"])
    print(markdown(["what, on one core", "median", "best"], rows))
    print(f"\n{WINDOWS} windows of 512×512 px; {repeats} repeats; {machine()}.")


if __name__ == "__main__":
    main()
