"""What the care for awkward inputs costs: `prn refine` against an earlier commit, the hash of inputs, and gaps.

    python bench/care.py [--before f62f4e1] [--files 64] [--pairs 20]

The whole command, on maps of 512×512 px as GeoTIFF and `.npy`, in turn with that of the commit, in seconds of the
processor, so that other programs matter little. f62f4e1 is the last commit before the guards. Ends with exit code 1 if
a command surely takes more than 3 % longer. The other rows have no limit: stamps of inputs with the hash of samples
against stamps without, and boundary metrics of 2048×2048 px with gaps against those without. It needs a
clone with history.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
from common import Ratio, judge, machine, ratio
from rasterio.transform import from_origin

from prn_cli.files.manifest import check_unchanged, stamp_inputs, unchanged
from prn_cli.metrics.boundaries import count_boundaries

ROOT = Path(__file__).resolve().parent.parent
SIDE, LARGE, LIMIT = 512, 2048, 1.03


def processor() -> float:
    """Seconds of the processor that the commands which have ended took."""
    times = os.times()
    return times.children_user + times.children_system


def write_maps(folder: Path, count: int) -> dict[str, Path]:
    """Maps of smooth blobs, by format."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    folders = {name: folder / name for name in ("tif", "npy")}
    for each in folders.values():
        each.mkdir()
    for number in range(count):
        logits = (4 * np.sin((rows + 7 * number) / 19) + 3 * np.cos(columns / (11 + number % 5))).astype(np.float32)
        np.save(folders["npy"] / f"{number:03}.npy", logits)
        shape = {"height": SIDE, "width": SIDE, "count": 1, "dtype": "float32"}
        place = {"crs": "EPSG:32632", "transform": from_origin(500_000 + SIDE * number, 5_000_000, 1, 1)}
        with rasterio.open(folders["tif"] / f"{number:03}.tif", "w", driver="GTiff", **shape, **place) as file:
            file.write(logits, 1)
    return folders


def refine(tree: Path, maps: Path, out: Path, options: tuple[str, ...]) -> None:
    line = [sys.executable, "-m", "prn_cli", "refine", maps, "-o", out, "--overwrite", "-q", "-j", "1", *options]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as in an installed package, Python keeps the compiled modules
    subprocess.run([*map(str, line)], check=True, cwd=tree, env=environment)


def commands(folder: Path, tree: Path, count: int, pairs: int) -> list[tuple[str, Ratio, float]]:
    """The command of this tree against that of another."""
    rows = []
    for name, maps in write_maps(folder, count).items():
        for options in ((), ("--strength", "0.5")):
            new, old = (
                partial(refine, each, maps, folder / out, options) for each, out in ((ROOT, "new"), (tree, "old"))
            )
            what = f"refine, {count} .{name} {' '.join(options)}".rstrip()
            rows.append((what, ratio(new, old, pairs, processor), LIMIT))
    return rows


def stamps(folder: Path) -> tuple[str, Ratio, float]:
    """Stamps with the hash of samples, of all maps of a folder, against stamps without."""
    paths = sorted(folder.iterdir())

    def sampled() -> None:
        for path in paths:
            check_unchanged(stamp_inputs({"logits": path}))

    def plain() -> None:
        for path in paths:
            with unchanged(path):
                pass

    return f"stamps of {len(paths)} files of 1 MB", ratio(sampled, plain, 50), np.inf


def gaps() -> list[tuple[str, Ratio, float]]:
    """Boundary metrics of an image with ignored pixels, against those without."""
    rows, columns = np.mgrid[:LARGE, :LARGE]
    label = (np.sin(rows / 31) + np.cos(columns / 23) > 0).astype(np.uint8)
    mask = np.roll(label, 3, axis=1)

    def count(ignored: np.ndarray) -> None:
        count_boundaries(mask, np.where(ignored, np.uint8(255), label))

    none = np.zeros_like(label, bool)
    holes = {
        "stripes": (columns % 256 < 16),
        "a hole of a quarter": (rows < LARGE // 2) & (columns < LARGE // 2),
        "half": rows < LARGE // 2,
    }
    return [
        (
            f"boundaries, {LARGE}², {name} ignored",
            ratio(lambda where=where: count(where), lambda: count(none), 5),
            np.inf,
        )
        for name, where in holes.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--before", default="f62f4e1", help="commit to compare with")
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=20, help="how often each command is measured")
    options = parser.parse_args()
    print(f"{machine()}, against {options.before}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = folder / "tree"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "-q", "--detach", tree, options.before], check=True)
        try:
            rows = commands(folder, tree, options.files, options.pairs)
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)
        return judge([*rows, stamps(folder / "npy"), *gaps()])


if __name__ == "__main__":
    sys.exit(main())
