"""Refining at scale: speed of the whole command against the network's own, memory, resuming, workers, and a plan.

    python bench/scale.py [--side 5000] [--areas 1 4 16 64] [--files 128] [--repeats 3] [--folder DIR] [--only PART …]
        [--device cpu|cuda] [--load 0]

Parts: `speed`, `roofline` (needs the extra `train`), `memory`, `resume`, `workers` (which the plan is made from). With
64 times the area of the default side the largest map has 40,000×40,000 pixels: 6.4 GB of disk, and minutes. Maps are
mirror-tiled from a real logit map of `examples/`. Peaks of memory are VmHWM of the process: they need Linux. Nothing is
drawn at random. On a GPU, `speed` and `roofline` are of interest. With `--load 0.5`, another program takes half of a
core meanwhile.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from common import machine, markdown
from make_mosaic import EXAMPLES, mirror_rows, write_mosaic
from roofline import Peaks, network_cost, peaks

from prn_cli.methods.refiner import Windows

if TYPE_CHECKING:
    from prn_cli.methods.refiner import Refiner

PARTS = ("speed", "roofline", "memory", "resume", "workers")
SMALL, TILE = 512, 1024
TILES, WORKERS = 1_000_000, 100
NAMES = 20_000
FORMATS = {
    "npy": (".npy", {}),
    "TIFF, uncompressed": (".tif", {"COMPRESS": "NONE"}),
    "TIFF, deflate": (".tif", {"COMPRESS": "DEFLATE", "PREDICTOR": "1"}),
    "TIFF, deflate, float predictor": (".tif", {"COMPRESS": "DEFLATE", "PREDICTOR": "3"}),
}
NETWORK_SECONDS = 2.0
DEVICE = "PRN_REFINE_DEVICE"  # what `prn refine` takes for --device where that is not given

# What the peak of a process is, it alone can tell: getrusage counts what its parent had when it was started.
MEASURED = """
import sys
from pathlib import Path
from prn_cli.commands.app import run
code = run(sys.argv[1:])
peak = next((line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")), "? 0")
print(peak.split()[1])
sys.exit(code)
"""

# A program that takes its share of one core.
OTHER = """
import sys, time
share, turn = float(sys.argv[1]), 0.04
while True:
    until = time.perf_counter() + share * turn
    while time.perf_counter() < until:
        pass
    time.sleep((1 - share) * turn)
"""

Row = list[str]


def real_map() -> tuple[np.ndarray, np.ndarray, Path]:
    """A logit map of the examples, its label, and the file."""
    from prn_cli.rasters import open_raster, read_label

    path = next((EXAMPLES / "buildings_geotiff" / "logits").iterdir())
    label = next((EXAMPLES / "buildings_geotiff" / "labels").glob(f"{path.stem}.*"))
    with open_raster(path) as raster:
        logits = raster.read()[0].astype(np.float32)
    return logits, np.where(read_label(label) == 1, np.uint8(255), np.uint8(0)), path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "prn_cli", *map(str, arguments)]


def refine(inputs: Path, out: Path, *more: object) -> list[str]:
    return command("refine", inputs, "-o", out, "--overwrite", "-q", *more)


def seconds_of(line: Sequence[str], repeats: int) -> float:
    """The least seconds of a command: others on the machine can only make it slower."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - began)
    return min(taken)


def small_maps(folder: Path, count: int, side: int, suffix: str, options: dict[str, str]) -> Path:
    """A folder of maps, each another window of the plane that the real map fills."""
    logits, _, like = real_map()
    folder.mkdir(parents=True)
    for number in range(count):
        tile = mirror_rows(np.roll(logits, 37 * number, axis=(0, 1)), 0, side, side)
        if suffix == ".npy":
            np.save(folder / f"{number:05}.npy", tile)
        else:
            write_mosaic(tile, folder / f"{number:05}{suffix}", side, side, like, options)
    return folder


def device() -> str:
    """The device that all of this runs on."""
    return os.environ.get(DEVICE, "cpu")


def load(cores: int, weights: str = "fast") -> Refiner:
    """The network as `prn refine` loads it."""
    from prn_cli.methods import load_refiner
    from prn_cli.methods.weights import find_weights

    return load_refiner(find_weights(weights), device=device(), threads=cores, side_by_side=True)


def network_speed(height: int, width: int, cores: int, weights: str = "fast") -> float:
    """Mpx/s of the network alone, a run on each core or one after another on a GPU, on windows that are in memory."""
    from prn_cli.workflows.refine_map import WINDOWS_IN_A_RUN

    refiner = load(cores, weights)
    window = mirror_rows(real_map()[0], 0, height, width)
    windows = np.stack([window] * WINDOWS_IN_A_RUN[refiner.device])
    refiner.field(Windows(windows))

    def work(_: int) -> int:
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < NETWORK_SECONDS:
            refiner.field(Windows(windows))
            count += len(windows)
        return count

    with ThreadPoolExecutor(refiner.runs) as pool:
        began = time.perf_counter()
        count = sum(pool.map(work, range(refiner.runs)))
        return count * height * width / 1e6 / (time.perf_counter() - began)


def bare_speed(inputs: Path, out: Path, cores: int) -> float:
    """Mpx/s of a loop that does what a safe command cannot leave out, and nothing else: what there is to reach.

    A map is read, refined, cut, packed as PNG, written, synced and renamed; no checks, no counts, no record.
    """
    from prn_cli.execution.cores import keep_freed_memory
    from prn_cli.rasters.writing import packer

    refiner = load(cores)
    out.mkdir(parents=True)
    keep_freed_memory()

    def work(path: Path) -> int:
        logits = np.load(path)
        mask = logits + refiner.field(Windows(logits[np.newaxis]))[0] > 0
        lines = np.zeros((len(mask), 1 + mask.shape[1]), np.uint8)
        np.multiply(mask, np.uint8(255), out=lines[:, 1:])
        deflate = packer(mask.dtype)
        packed = deflate.compress(lines.data) + deflate.flush()  # nearly all of a PNG
        with (out / f".{path.stem}").open("wb") as file:
            file.write(packed)
            file.flush()
            os.fsync(file.fileno())
        (out / f".{path.stem}").rename(out / f"{path.stem}.png")
        return mask.size

    paths = sorted(inputs.iterdir())
    with ThreadPoolExecutor(cores + 1) as pool:
        work(paths[0])
        began = time.perf_counter()
        pixels = sum(pool.map(work, paths))
        return pixels / 1e6 / (time.perf_counter() - began)


def small_speeds(folder: Path, files: int, side: int, repeats: int, cores: int) -> list[Row]:
    """The whole command against the network and a bare loop, on many small maps that are in the page cache.

    The machine's speed changes from minute to minute, so each run is held against the network as it was just before.
    """
    inputs = {name: small_maps(folder / name.replace(", ", "_"), files, side, *form) for name, form in FORMATS.items()}
    os.sync()  # or the kernel writes them out while the runs are timed
    pixels = files * side**2 / 1e6
    loop = f"a bare loop, {files} × {side}×{side}, npy to PNG"
    commands = {f"prn refine, {files} × {side}×{side}, {name}": maps for name, maps in inputs.items()}
    own: list[float] = []
    speed: dict[str, list[float]] = defaultdict(list)
    share: dict[str, list[float]] = defaultdict(list)
    start: dict[str, list[float]] = defaultdict(list)
    for repeat in range(repeats):
        for number, (what, maps) in enumerate({loop: inputs["npy"], **commands}.items()):
            for path in maps.iterdir():
                path.read_bytes()
            masks = folder / f"masks_{repeat}_{number}"
            own.append(network_speed(side, side, cores))
            if what == loop:
                speed[what].append(bare_speed(maps, masks, cores))
                share[what].append(speed[what][-1] / own[-1])
                continue
            start[what].append(seconds_of(refine(min(maps.iterdir()), masks / "one"), 1))
            whole = seconds_of(refine(maps, masks / "all"), 1)
            speed[what].append(pixels / whole)
            share[what].append(pixels * (1 - 1 / files) / (whole - start[what][-1]) / own[-1])
    rows = [[f"network, {side}×{side}, {load(cores).runs} runs side by side", f"{median(own):.1f}", "", "", ""]]
    for what, shares in share.items():
        found = f"{median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})"
        rows.append([what, f"{median(speed[what]):.1f}", found, "", ""])
        if what in start:
            least = 0.6 if "deflate" in what else 0.8
            rows[-1][3:] = [
                f"{'met' if median(shares) >= least else 'missed'} ({least:.0%})",
                f"{median(start[what]):.2f} s",
            ]
    return rows


def speeds(folder: Path, files: int, side: int, repeats: int, cores: int) -> list[Row]:
    """The whole command against the network, on many small maps and on a large one."""
    rows = [
        row
        for length, count in ((SMALL, files), (TILE, max(files // 2, 2)))
        for row in small_speeds(folder / str(length), count, length, repeats, cores)
    ]
    own = float(rows[0][1])
    logits, _, like = real_map()
    for name in ("TIFF, uncompressed", "TIFF, deflate"):
        path = folder / "large.tif"
        write_mosaic(logits, path, side, side, like, FORMATS[name][1])
        whole = seconds_of(refine(path, folder / "large_mask.tif"), max(repeats // 2, 1))
        rows.append(
            [
                f"prn refine, {side}×{side}, {name}",
                f"{side**2 / 1e6 / whole:.1f}",
                f"{side**2 / 1e6 / whole / own:.0%}",
                "windows overlap",
                "",
            ]
        )
    return rows


def roofline(folder: Path, files: int, repeats: int, cores: int) -> list[Row]:
    """The network and the whole command against what the device could do at best."""
    from prn_cli.methods.weights import find_weights

    cost, best = network_cost(find_weights("fast").path, TILE, TILE), Peaks(0, 0)
    maps = small_maps(folder, files, TILE, ".npy", {})
    one = min(maps.iterdir())
    whole = min(seconds_of(refine(maps, folder.with_name("masks")), 1) for _ in range(repeats))
    start = seconds_of(refine(one, folder.with_name("one")), repeats)
    own = 0.0
    for _ in range(repeats):
        best = best.or_faster(peaks(device(), cores))
        own = max(own, network_speed(TILE, TILE, cores))
    ideal = f"roofline: {cost.operations:.0f} operations and {cost.traffic:.0f} bytes a pixel"
    speed = {
        ideal: best.pixels(cost) / 1e6,
        f"network, {TILE}×{TILE}": own,
        f"prn refine, {files} × {TILE}×{TILE}, npy": (files - 1) * TILE**2 / 1e6 / (whole - start),
    }
    kind = "TF32" if device() == "cuda" else "float32"
    kernel = f"the faster of a matrix product and a convolution of 3×3, {kind} on {device()}"
    rows = [
        [kernel, "", f"{best.operations / 1e9:.0f}", ""],
        [f"a copy in memory, {best.traffic / 1e9:.1f} GB/s", "", "", ""],
    ]
    for what, found in speed.items():
        share = found / speed[ideal]
        rows.append([what, f"{found:.1f}", f"{found * cost.operations / 1e3:.0f}", f"{share:.0%}"])
    return rows


def peak(*arguments: object) -> tuple[float, float]:
    """Peak memory in MB, and seconds, of a command."""
    began = time.perf_counter()
    line = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024, time.perf_counter() - began


def memory(folder: Path, side: int, areas: Sequence[int]) -> list[Row]:
    """Peaks of refine, score and pseudolabel on maps of growing area."""
    logits, label, like = real_map()
    rows = []
    for area in areas:
        length = round(side * area**0.5)
        here = folder / f"area_{area}"
        for name in ("logits", "labels"):
            (here / name).mkdir(parents=True)
        write_mosaic(logits, here / "logits" / "map.tif", length, length, like, {"COMPRESS": "DEFLATE"})
        write_mosaic(label, here / "labels" / "map.tif", length, length, like, {})
        cells = [f"{length}×{length}", f"{length**2 * 4 / 1e6:.0f}"]
        masks = here / "masks"
        for line in (
            ("refine", here / "logits", "-o", masks, "-q"),
            ("pseudolabel", here / "logits", "--labels", here / "labels", "-o", here / "pseudolabels", "-q"),
            ("score", masks, "--labels", here / "labels", "-q"),
        ):
            megabytes, taken = peak(*line)
            cells += [f"{megabytes:.0f}", f"{length**2 / 1e6 / taken:.1f}"]
        rows.append(cells)
        print(f"# {' '.join(cells)}", file=sys.stderr, flush=True)
        subprocess.run(["rm", "-r", str(here)], check=True)
    return rows


def resume(folder: Path, files: int) -> list[Row]:
    """Seconds of a run, of one that is killed half-way, and of the one that ends it."""
    inputs = small_maps(folder / "inputs", files, SMALL, ".npy", {})
    masks = folder / "masks"
    line = [word for word in refine(inputs, masks) if word != "--overwrite"]
    unbroken = seconds_of(line, 1)
    expected = {path.name: path.read_bytes() for path in masks.glob("*.png")}
    subprocess.run(["rm", "-r", str(masks)], check=True)
    began = time.perf_counter()
    process = subprocess.Popen(line)
    while len(list(masks.glob("[0-9]*.png"))) < files // 2:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed = time.perf_counter() - began
    resumed, again = seconds_of(line, 1), seconds_of(line, 1)
    same = {path.name: path.read_bytes() for path in masks.glob("*.png")} == expected
    return [
        [f"{files} maps of {SMALL}×{SMALL} in one run", f"{unbroken:.2f}"],
        ["killed when half of them were done", f"{killed:.2f}"],
        [f"the same line again; the masks are {'the same' if same else 'DIFFERENT'}", f"{resumed:.2f}"],
        ["and again, with nothing left to do", f"{again:.2f}"],
    ]


def workers(folder: Path, files: int, repeats: int) -> tuple[list[Row], dict[str, float]]:
    """Speed of one and of two processes with a core each, once they have started, and what one map costs a worker."""
    inputs = small_maps(folder / "tiles", files, TILE, ".tif", FORMATS["TIFF, deflate"][1])
    tile = TILE**2 / 1e6
    start = seconds_of(refine(inputs / "00000.tif", folder / "one", "-j", 1), repeats)
    taken = {1: float("inf"), 2: float("inf")}
    for _ in range(repeats):
        for count in taken:
            began = time.perf_counter()
            parts = [
                subprocess.Popen(
                    refine(inputs, folder / f"part_{part}", "-j", 1, "--num-parts", count, "--part-id", part)
                )
                for part in range(count)
            ]
            if any(process.wait() for process in parts):
                raise SystemExit("a part failed")
            taken[count] = min(taken[count], time.perf_counter() - began)
    speed = {count: (files - count) * tile / (taken[count] - start) for count in taken}
    rows = [
        [
            f"{count} × prn refine --num-parts {count} -j 1, after {start:.1f} s for one tile",
            f"{speed[count]:.1f}",
            f"{count * speed[1]:.1f}",
            f"{speed[count] / speed[1] / count:.0%}",
        ]
        for count in speed
    ]
    rows += dask_workers(inputs, folder / "dask", files * tile, repeats)
    masks = folder / "part_0"
    subprocess.run(refine(inputs, masks, "-j", 1), check=True)
    megabytes, _ = peak(*refine(inputs, masks, "-j", 1)[3:])
    per_name = task_start(folder / "start", repeats)
    return rows, {
        "start": start,
        "tile": tile / speed[1],
        "efficiency": speed[2] / speed[1] / 2,
        "input": sum(path.stat().st_size for path in inputs.iterdir()) / files,
        "mask": sum(path.stat().st_size for path in masks.glob("*.tif")) / files,
        "manifest": (masks / "prn-manifest.jsonl").stat().st_size / files / 2,  # it was written twice
        "memory": megabytes,
        "name seconds": per_name[0],
        "name memory": per_name[1],
    }


def task_start(folder: Path, repeats: int) -> tuple[float, float]:
    """Seconds and MB that each name of a set, and its entry in the manifest, add to the start of a task.

    A task of some twenty maps, among many names and among few; the manifest says that all of them are done.
    """
    source = small_maps(folder / "source", 1, 16, ".npy", {}) / "00000.npy"
    subprocess.run(refine(source, folder / "done"), check=True)
    lines = (folder / "done" / "prn-manifest.jsonl").read_text()
    costs = []
    for count in (NAMES // 20, NAMES):
        inputs, masks = folder / f"names_{count}", folder / f"masks_{count}"
        for here in (inputs, masks):
            here.mkdir()
        for number in range(count):
            os.link(source, inputs / f"{number:05}.npy")
        with (masks / "prn-manifest.jsonl").open("w") as manifest:
            manifest.writelines(lines.replace("00000", f"{number:05}") for number in range(count))
        line = ("refine", inputs, "-o", masks, "-q", "-j", 1, "--dry-run", "--num-parts", count // 20, "--part-id", 0)
        peaks = [peak(*line) for _ in range(repeats)]
        costs.append((min(seconds for _, seconds in peaks), min(megabytes for megabytes, _ in peaks)))
    (few, small), (many, large) = costs
    more = NAMES - NAMES // 20
    return (many - few) / more, (large - small) / more


def dask_workers(inputs: Path, out: Path, pixels: float, repeats: int) -> list[Row]:
    """Speed of one and of two local Dask workers with a core each, once they have started."""
    rows, speeds = [], {}
    for count in (1, 2):
        more = ("-j", count, "--dask", f"local:{count}")
        start = seconds_of(refine(inputs / "00000.tif", out, *more), repeats)
        whole = seconds_of(refine(inputs, out, *more), repeats)
        speeds[count] = (pixels - TILE**2 / 1e6) / (whole - start)
        rows.append([f"prn refine --dask local:{count}, after {start:.1f} s for one tile", f"{speeds[count]:.1f}"])
        rows[-1] += [f"{count * speeds[1]:.1f}", f"{speeds[count] / speeds[1] / count:.0%}"]
    return rows


def plan(cost: dict[str, float]) -> list[Row]:
    """A million tiles on a hundred workers, from what one tile costs here."""
    share = TILES / WORKERS
    tile = cost["tile"] / cost["efficiency"]
    work = share * tile
    pixels = TILES * TILE**2 / 1e6
    seconds, megabytes = TILES * cost["name seconds"], TILES * cost["name memory"]
    held = cost["memory"] + megabytes
    return [
        ["tiles of 1024×1024, deflate", f"{TILES:,}", f"{pixels / 1e6:.2f} Tpx"],
        ["seconds a tile on one core", f"{cost['tile']:.3f}", f"{TILE**2 / 1e6 / cost['tile']:.1f} Mpx/s"],
        ["tiles a worker", f"{share:,.0f}", f"{work / 3600:.2f} h with the efficiency of two workers here"],
        ["start of a worker", f"{cost['start']:.2f} s", f"{cost['start'] / (work + cost['start']):.2%} of its time"],
        ["to find its part, and what is done", f"{seconds:.1f} s", f"{seconds / work:.2%} of its time"],
        ["one worker dies half-way", "nothing lost", f"its part again: {work / 7200:.2f} h more, or less with --dask"],
        ["read", f"{TILES * cost['input'] / 1e12:.2f} TB", f"{WORKERS * cost['input'] / tile / 1e6:.0f} MB/s"],
        ["written", f"{TILES * cost['mask'] / 1e9:.1f} GB", f"{WORKERS / tile:.0f} files/s, each synced"],
        ["manifests", f"{TILES * cost['manifest'] / 1e6:.0f} MB", f"{share * cost['manifest'] / 1e6:.1f} MB a part"],
        ["memory", f"{WORKERS * held / 1024:.1f} GB", f"{held:.0f} MB a worker, {megabytes:.0f} of it for names"],
    ]


def main() -> None:
    from prn_cli.execution.cores import core_count, keep_freed_memory

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=5000, help="of the smallest large map, px")
    parser.add_argument("--areas", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--files", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one if left out")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--load", type=float, default=0, help="share of a core that another program takes")
    arguments = parser.parse_args()
    os.environ[DEVICE] = arguments.device
    cores = core_count()
    keep_freed_memory()  # as refine does: the network by itself is to be as fast as it can
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder)))
        if arguments.load:
            other = subprocess.Popen([sys.executable, "-c", OTHER, str(arguments.load)])
            stack.callback(other.kill)
        if "speed" in arguments.only:
            rows = speeds(folder / "speed", arguments.files, arguments.side, arguments.repeats, cores)
            print(markdown(["what", "Mpx/s", "of the network", "target", "one map, from start to exit"], rows), "\n")
        if "roofline" in arguments.only:
            rows = roofline(folder / "roofline" / "maps", arguments.files, arguments.repeats, cores)
            print(markdown(["what", "Mpx/s", "GFLOP/s", "of the roofline"], rows), "\n")
        if "memory" in arguments.only:
            rows = memory(folder / "memory", arguments.side, arguments.areas)
            heading = ["map, px", "logits, MB"]
            for command_name in ("refine", "pseudolabel", "score"):
                heading += [f"{command_name}, MB at most", "Mpx/s"]
            print(markdown(heading, rows), "\n")
        if "resume" in arguments.only:
            print(markdown(["run", "seconds"], resume(folder / "resume", 4 * arguments.files)), "\n")
        if "workers" in arguments.only:
            rows, cost = workers(folder / "workers", arguments.files, arguments.repeats)
            print(markdown(["workers", "Mpx/s", "ideal", "efficiency"], rows), "\n")
            print(markdown([f"plan for {WORKERS} workers", "", ""], plan(cost)), "\n")
    repeats = arguments.repeats
    print(f"Small maps: median and range of {repeats} runs; others: the least of as many, or half; {machine()}.")


if __name__ == "__main__":
    main()
