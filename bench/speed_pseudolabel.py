"""Speed of pseudolabel against the published loop, on real maps, in one run.

    python bench/speed_pseudolabel.py [--logits DIR] [--patch 64] [--repeats 15]

`--logits` is a folder of sets, each with `logits/` and `labels/` somewhere below it; without it, the maps of
`examples/`. Maps are read first, so that the loop and the library work on the same arrays in memory (thresholds and
masks, as in `prn pseudolabel`); the whole command, files included, is timed on its own. Nothing is drawn at random.
"""

from __future__ import annotations

import argparse
import mmap
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from common import machine, markdown
from speed import seconds

if TYPE_CHECKING:
    from prn_cli.thresholding.thresholds import Grid

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PUBLISHED = 6.2  # Mpx/s of the published implementation's own loop, on 2 AVX-512 cores
LOOP_PIXELS = 6e6  # the loop is slow: some maps, evenly spread, stand for all
CHUNK_PIXELS = 4_000_000  # handed to a worker at once

Map = tuple[np.ndarray, np.ndarray]


def read_sets(folder: Path) -> dict[Path, list[Map]]:
    """Probabilities and labels of every set: a folder with `logits/` and `labels/` below `folder`."""
    from prn_cli.rasters import Reading, find_inputs, open_map, pair_by_stem, read_label

    sets = {}
    for logits in sorted(folder.glob("**/logits")):
        try:
            pairs = pair_by_stem(find_inputs([str(logits)]), logits.parent / "labels").matched
            maps = []
            for path, label in pairs:
                with open_map("scores", path, Reading(kind="logits")) as scores:
                    maps.append((scores.probabilities(), read_label(label)))
        except Exception as error:  # several classes, no labels: not a set for this
            print(f"{logits.parent}: left out ({error})", file=sys.stderr)
            continue
        sets[logits.parent] = maps
    return sets


def published_loop(p: np.ndarray, label: np.ndarray, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """The published rule in a plain loop over patches and thresholds; invalid pixels are left out as in `prn`."""
    grid = np.arange(1, 21, dtype=np.float32) / np.float32(20)
    height, width = p.shape
    thresholds = np.empty((-(-height // patch), -(-width // patch)), np.float32)
    mask = np.empty(p.shape, np.uint8)
    truth = (label == 1) & ~np.isnan(p)
    valid = (label != 255) & ~np.isnan(p)
    for row in range(thresholds.shape[0]):
        for column in range(thresholds.shape[1]):
            area = (slice(row * patch, (row + 1) * patch), slice(column * patch, (column + 1) * patch))
            best = -1.0
            for t in grid:
                cut = (p[area] > t) & valid[area]
                both = (cut & truth[area]).sum()
                score = (both + 1) / (truth[area].sum() + cut.sum() - both + 1)
                if score > best:
                    best, thresholds[row, column] = score, t
            mask[area] = p[area] > thresholds[row, column]
    mask[~valid] = 255
    return thresholds, mask


def check(maps: list[Map], patch: int) -> None:
    """Both must find the same."""
    from prn_cli.thresholding.pseudolabels import make_pseudolabels

    for p, label in maps:
        thresholds, mask = published_loop(p, label, patch)
        found = make_pseudolabels(p, label, patch=patch)
        some = ~np.isnan(found.thresholds)
        assert np.array_equal(found.thresholds[some], thresholds[some])
        assert np.array_equal(found.mask, mask)


class Bench:
    """The maps, and memory for their masks that worker processes share; forked workers find it in `bench`."""

    def __init__(self, maps: list[Map], patch: int) -> None:
        self.maps = maps
        self.patch = patch
        self.masks = []
        for p, _ in maps:
            self.masks.append(np.frombuffer(mmap.mmap(-1, p.size), np.uint8).reshape(p.shape))
        ends = np.cumsum([p.size for p, _ in maps]) // CHUNK_PIXELS
        self.borders = [0, *(np.flatnonzero(np.diff(ends)) + 1).tolist(), len(maps)]

    def work(self, number: int, grid: Grid = "paper", *, curves: bool = False) -> None:
        """One chunk of the maps."""
        from prn_cli.thresholding.pseudolabels import count_curve, make_pseudolabels

        part = slice(self.borders[number], self.borders[number + 1])
        for (p, label), mask in zip(self.maps[part], self.masks[part], strict=True):
            make_pseudolabels(p, label, patch=self.patch, grid=grid, out=mask)
            if curves:
                count_curve(p, label)


bench: Bench


def work_paper(number: int) -> None:
    bench.work(number)


def work_exact(number: int) -> None:
    bench.work(number, "exact")


def work_all(number: int) -> None:
    bench.work(number, curves=True)


def pseudolabel_speeds(repeats: int, *, folder: Path = EXAMPLES, patch: int = 64, workers: int = 2) -> list[list[str]]:
    """Rows of (what, Mpx/s, median, range): the published loop, the library, and the whole command."""
    global bench
    sets = read_sets(folder)
    maps = [one for several in sets.values() for one in several]
    total = sum(p.size for p, _ in maps)
    sample = maps[:: max(round(total / LOOP_PIXELS), 1)]
    check(sample[:3], patch)
    bench = Bench(maps, patch)
    chunks = range(len(bench.borders) - 1)
    few = max(repeats // 5, 3)
    rows = []

    def add(what: str, work: Callable[[], object], count: int, pixels: float = total) -> float:
        median, least, most = (pixels / 1e6 / taken for taken in seconds(work, count))
        rows.append([what, f"{median:.4g}", f"{pixels / 1e6 / median:.3g} s", f"{most:.4g} to {least:.4g} Mpx/s"])
        return median

    def loop() -> None:
        for p, label in sample:
            published_loop(p, label, patch)

    what = f"{len(maps)} maps, {total / 1e6:.1f} Mpx, patch {patch}"
    slow = add(f"published loop, {len(sample)} of {what}", loop, few, sum(p.size for p, _ in sample))
    one = add("paper grid, 1 core", lambda: list(map(work_paper, chunks)), repeats)
    add("paper grid and 1000 single thresholds, 1 core", lambda: list(map(work_all, chunks)), few)
    add("exact grid, 1 core", lambda: list(map(work_exact, chunks)), few)
    # Processes, because the calls are so short that threads would wait for the interpreter's lock most of the time.
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        both = add(f"paper grid, {workers} processes", lambda: pool.map(work_paper, chunks, chunksize=1), repeats)
    verdict = "met" if both >= 100 * PUBLISHED else "missed"
    published = f"over the published {PUBLISHED} Mpx/s"
    rows.append([f"1 core {published}", f"{one / PUBLISHED:.0f} times", "", ""])
    rows.append([f"{workers} processes {published}", f"{both / PUBLISHED:.0f} times", "target: 100", verdict])
    rows.append(["1 core over the loop of this run, also 1 core", f"{one / slow:.0f} times", "", ""])
    with tempfile.TemporaryDirectory() as out:
        largest = max(sets, key=lambda name: sum(p.size for p, _ in sets[name]))
        line = [sys.executable, "-m", "prn_cli", "pseudolabel", largest / "logits", "--labels", largest / "labels"]
        line += ["--patch", patch, "-o", out, "--overwrite", "--json", "-q"]
        words = [str(word) for word in line]
        pixels = sum(p.size for p, _ in sets[largest])
        add(
            f"prn pseudolabel, {largest.relative_to(folder)}: {len(sets[largest])} files, {pixels / 1e6:.1f} Mpx",
            lambda: subprocess.run(words, check=True, stdout=subprocess.DEVNULL),
            few,
            pixels,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, default=EXAMPLES)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    rows = pseudolabel_speeds(
        arguments.repeats, folder=arguments.logits.resolve(), patch=arguments.patch, workers=arguments.workers
    )
    print(markdown(["what", "Mpx/s", "median", "range"], rows))
    print(f"\nReal maps, no seed; {arguments.repeats} repeats after one warm-up (a fifth for slow rows); {machine()}.")


if __name__ == "__main__":
    main()
