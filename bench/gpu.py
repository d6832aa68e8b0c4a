"""What a GPU gives: refining and training on CUDA, by this machine's card, against its CPU and the card's roofline.

    python bench/gpu.py [--device cuda] [--quick] [--only forward refine …] [--out DIR] [--seconds 470] [--sets DIR]

Each part runs in a process of its own, with a limit of its time. What is timed runs alone; `tests`, `ddp` and `paper`
run side by side at the end. `results.json` and `results.md` in DIR hold what has been found so far, and are written
after each part, so nothing is lost if one fails. The same command again does what is missing: parts that failed or had
no time, and of `paper` the trainings that are not there yet. With `--device cpu --quick`, everything runs to its end on
any machine, in small. Networks are compared on the same logits, those of `examples/`.

`--sets` names a folder of sets (`NAME/train/logits`, `NAME/train/labels`, `NAME/test/…`) for the part `paper`, which
trains it as published and as corrected, three seeds each, on whole maps.

All of it takes less than eight minutes on an H100 with 16 cores, by estimate: 330 s for what is timed (see `PARTS`, of
which `refine`, `forward`, `runner`, `memory`, `card` and most of `steps` have been timed on such a card), and 150 s for
the three others, of which `tests` took 75 s alone, and a step of `paper` 82 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import machine, markdown
from roofline import Peaks, network_cost, peaks

ROOT = Path(__file__).resolve().parent.parent
BUILDINGS = ROOT / "examples" / "buildings"
PRN = [sys.executable, "-m", "prn_cli"]
SIDE = 128 if "--quick" in sys.argv else 512
PUBLISHED = (
    *("--iou-weight", "0", "--jitter-scale", "0", "--jitter-shift", "0", "--weight-decay", "0", "--average", "0"),
    *("--rate", "0.0008", "--patience", "300"),
)
CORRECTED = ("--average", "0.98")
WHOLE = "the whole part"


@dataclass(frozen=True)
class Bench:
    """What every part is told.

    Attributes:
        device: `cuda` or `cpu`.
        quick: whether to measure in small.
        work: folder of its files, which the parts share.
        rows: file of what was found, a JSON object a line.
        sets: folder of sets for `paper`.
        seconds: that the part may take.
    """

    device: str
    quick: bool
    work: Path
    rows: Path
    sets: Path | None
    seconds: float

    def row(self, part: str, what: str, **found: Any) -> None:
        """Record a figure, which takes the place of an earlier one of this name."""
        with self.rows.open("a") as file:
            file.write(json.dumps({"part": part, "what": what, **found}) + "\n")
        print(f"  {what}: {found}", file=sys.stderr, flush=True)

    def found(self) -> dict[tuple[str, str], dict[str, Any]]:
        """What has been recorded, by part and name."""
        lines = self.rows.read_text().splitlines() if self.rows.exists() else []
        return {(row["part"], row["what"]): row for row in map(json.loads, lines)}

    def done(self, part: str) -> bool:
        """Whether a part has come to its end, in this call or an earlier one."""
        return "seconds" in self.found().get((part, WHOLE), {})

    @property
    def threads(self) -> int:
        return self.count(os.cpu_count() or 1, 1)

    def count(self, full: int, quick: int) -> int:
        return quick if self.quick else full


# What is measured with.


@cache
def example_maps() -> list[np.ndarray]:
    """Logits of `examples/buildings`, float32, mirrored to 512×512 px and more."""
    from prn_cli.rasters import Reading, open_map

    found = []
    for path in sorted((BUILDINGS / "logits").iterdir()):
        with open_map("scores", path, Reading(kind="logits")) as scores:
            logits = scores.logits()
        grow = [(0, max(SIDE - length, 0)) for length in logits.shape]
        found.append(np.pad(logits, grow, mode="symmetric"))
    return found


def tiles(count: int, side: int = SIDE) -> np.ndarray:
    """`(count, side, side)` float32 logits, each another window of the examples."""
    maps, random = example_maps(), np.random.default_rng(0)
    found = np.empty((count, side, side), np.float32)
    for number, tile in enumerate(found):
        logits = np.rot90(maps[number % len(maps)], random.integers(4))
        repeats = [-(-side // length) for length in logits.shape]
        logits = np.tile(logits, repeats)
        y, x = (int(random.integers(length - side + 1)) for length in logits.shape)
        tile[:] = logits[y : y + side, x : x + side]
    return np.nan_to_num(found)


def write_maps(folder: Path, count: int, dtype: str) -> Path:
    """A folder of .npy maps of 512×512 px."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        some = tiles(min(count, 64)).astype(dtype)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: np.save(folder / f"{n:05}.npy", np.roll(some[n % len(some)], n, 0)), range(count)))
    return folder


def timed(line: Sequence[Any], limit: float) -> tuple[float, float, str]:
    """Seconds of a command, processor seconds, and what it says to stderr.

    Raises:
        RuntimeError: it failed.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=limit)
    taken, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-1500:]}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return taken, processor, done.stderr


def synchronize(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], device: str, least: float = 0.4) -> float:
    """Seconds of a run: the median of as many as take `least` seconds, five at least, after three that do not count."""
    for _ in range(3):
        work()
    synchronize(device)
    taken: list[float] = []
    while len(taken) < 5 or sum(taken) < least:
        began = time.perf_counter()
        work()
        synchronize(device)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def settings_of(precision: str) -> Any:
    """Set float32's precision; gives the type for autocast, None for float32."""
    import torch

    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def paper_weights(bench: Bench) -> Path:
    """`paper`, trained for a moment on the examples, so that its outputs are no noise."""
    folder = bench.work / "paper"
    if not (folder / "model.json").is_file():
        import torch

        from prn_cli.methods.recipe import build
        from prn_cli.training.export import export
        from prn_cli.training.loop import Settings, fit

        folder.mkdir(parents=True, exist_ok=True)
        network = build("paper", seed=0)
        steps = bench.count(60, 2)
        settings = Settings(
            network="paper",
            epochs=1,
            steps=steps,
            batch=bench.count(4, 1),
            crop=bench.count(128, 64),
            average=0.9,
            choose_epoch=False,
        )
        for _, state in fit(network, training_maps(), [], settings, device=torch.device(bench.device)):
            network.load_state_dict(state.best)
        export(network, folder, card={"network": "paper"})
    return folder


def training_maps() -> list[Any]:
    from prn_cli.rasters import read_label
    from prn_cli.training.augment import TrainingMap

    found = []
    for path, logits in zip(sorted((BUILDINGS / "labels").iterdir()), example_maps(), strict=True):
        label = read_label(path)
        logits = logits[: label.shape[0], : label.shape[1]]
        found.append(TrainingMap(path.stem, logits, label, label))
    return found


# The parts.


def tests(bench: Bench) -> None:
    """Tests marked `cuda`."""
    where = ("-m", "cuda", "-p", "no:cacheprovider", "--durations=5", "tests/methods/test_cuda.py")
    line = [sys.executable, "-m", "pytest", "-q", "-n", "0", *where]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
    lines = done.stdout.strip().splitlines() or ["nothing"]
    bench.row("tests", "tests marked cuda", found=lines[-1], code=done.returncode)
    if done.returncode:
        raise RuntimeError(lines[-1])


def card(bench: Bench) -> None:
    """The card's own speeds, and the network's cost."""
    for precision in ("fp32", "tf32", "bf16", "fp16") if bench.device == "cuda" else ("fp32",):
        found = peaks(bench.device, bench.threads, precision=precision)
        bench.row(
            "card",
            f"peak in {precision}",
            tflops=round(found.operations / 1e12, 4),
            gb_s=round(found.traffic / 1e9, 1),
        )


def _peaks(bench: Bench) -> dict[str, Peaks]:
    rows = bench.found().values()
    return {row["what"].split()[-1]: Peaks(row["tflops"] * 1e12, row["gb_s"] * 1e9) for row in rows if "tflops" in row}


def forward(bench: Bench, compiled: bool = False) -> None:
    """The networks by themselves, on the device's memory: precision by precision, eager and as a CUDA graph."""
    import torch

    from prn_cli.methods import load_refiner, recipe_of
    from prn_cli.methods.cuda_runner import fold_norms
    from prn_cli.methods.recipe import Network
    from prn_cli.methods.torch_runner import load_network
    from prn_cli.methods.weights import find_tensors, find_weights

    cuda, known = bench.device == "cuda", _peaks(bench)
    windows = tiles(bench.count(16, 1))
    networks = {"fast": "fast"} if compiled else {"paper": str(paper_weights(bench)), "fast": "fast", "image": "image"}
    for name, weights in networks.items():
        found = find_weights(weights)
        cost = network_cost(found.path, SIDE, SIDE)
        refiner = load_refiner(found, device="cpu")
        some = windows[: bench.count(4, 1)]
        given = _given(name, windows)
        expected = _masks(refiner, some, given)
        network: Network = load_network(find_tensors(weights).path)[0]
        fold_norms(network.eval())  # type: ignore[attr-defined]
        module = recipe_of(name).graphs(network)[0].module.to(bench.device, memory_format=torch.channels_last).eval()
        inputs = [torch.from_numpy(each).to(bench.device) for each in given.values()]
        for precision in (("tf32", "fp16") if compiled else ("fp32", "tf32", "bf16", "fp16")) if cuda else ("fp32",):
            dtype = settings_of(precision)

            def run(module: Any = module, dtype: Any = dtype, inputs: Any = inputs) -> Any:
                with torch.no_grad(), torch.autocast(bench.device, dtype=dtype, enabled=dtype is not None):
                    return module(*inputs)

            work = {"eager": run}
            if compiled:
                began = time.perf_counter()
                built = torch.compile(module, dynamic=False)
                work = {"torch.compile": partial(run, module=built)}
                work["torch.compile"]()
                synchronize(bench.device)
                bench.row("compile", f"{name}, {precision}: first run", seconds=round(time.perf_counter() - began, 1))
            elif cuda:
                work["CUDA graph"] = _graph(run)
            for how, each in work.items():
                taken = seconds_of(each, bench.device, least=0.3 if cuda else 0)
                size = 0.5 if dtype else 1
                ideal = known[precision].pixels(type(cost)(cost.operations, size * cost.traffic)) if known else 0
                speed = windows.size / taken
                bench.row(
                    "compile" if compiled else "forward",
                    f"{name}, {precision}, {how}",
                    ms=round(1e3 * taken, 3),
                    mpx_s=round(speed / 1e6, 1),
                    of_roofline=round(speed / ideal, 3) if ideal else None,
                )
            if compiled:
                continue
            refiner.runner = _Given(refiner.runner, work["CUDA graph"] if cuda else run, len(some))
            differ = (_masks(refiner, some, given) != expected).mean()
            refiner.runner = refiner.runner.real
            bench.row(
                "forward", f"{name}, {precision}: pixels unlike the CPU", per_million=round(1e6 * float(differ), 1)
            )


class _Given:
    """A runner whose outputs were computed beforehand, for the first maps of a batch."""

    def __init__(self, real: Any, run: Callable[[], Any], count: int) -> None:
        self.real, self.outputs = real, real.outputs
        outputs = run()
        arrays = [each[:count].float().cpu().numpy() for each in ([outputs] if hasattr(outputs, "cpu") else outputs)]
        self.found = dict(zip(real.outputs, arrays, strict=True))

    def run(self, outputs: Sequence[str], _: Any) -> list[np.ndarray]:
        return [self.found[name].copy() for name in outputs]


def _given(name: str, windows: np.ndarray) -> dict[str, np.ndarray]:
    """What the network takes; of an image, the logits as three bands stand for one."""
    maps = windows[:, np.newaxis]
    if name == "paper":
        return {"probabilities": 1 / (1 + np.exp(-maps))}
    image = {"image": np.repeat(np.tanh(maps / 4), 3, axis=1)} if name == "image" else {}
    return {"logits": maps} | image


def _masks(refiner: Any, windows: np.ndarray, given: dict[str, np.ndarray]) -> np.ndarray:
    from prn_cli.methods.refiner import Windows

    if "image" in given:  # its refiner computes parts of windows only
        inputs = {name: each[: len(windows)] for name, each in given.items()}
        return windows + refiner.runner.run(["bias"], inputs)[0][:, 0] > 0
    fields = refiner.field(Windows(windows.copy()))
    return np.stack([refiner.refined(z, field, 1.0) > 0 for z, field in zip(windows, fields, strict=True)])


def _graph(run: Callable[[], Any]) -> Callable[[], Any]:
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        outputs = run()

    def replay() -> Any:
        recorded.replay()
        return outputs

    return replay


def compiled(bench: Bench) -> None:
    """The same by torch.compile."""
    forward(bench, compiled=True)


def runner(bench: Bench) -> None:
    """The runner of `prn refine`, from NumPy to NumPy: threads that ask for a map each, and large windows."""
    for name, weights in (("fast", "fast"), ("paper", str(paper_weights(bench)))):
        for how, make in _runners(bench, weights).items():
            one = make()
            for what, shape, threads in (
                ("1×512×512 from 16 threads", (1, 1, SIDE, SIDE), bench.count(16, 2)),
                ("4×1024×2048 from 2", bench.count(1, 0) * (4, 1, 1024, 2048) or (1, 1, 2 * SIDE, SIDE), 2),
            ):
                if name == "paper" and "from 2" in what:
                    continue
                batch = np.resize(tiles(8), shape)
                speed = _throughput(one, batch, threads, bench.count(3, 1) / 2)
                bench.row("runner", f"{name}, {how}, {what}", mpx_s=round(speed / 1e6, 1))


def _runners(bench: Bench, weights: str) -> dict[str, Callable[[], Any]]:
    import torch

    from prn_cli.methods.loading import load_runner
    from prn_cli.methods.torch_runner import load_network
    from prn_cli.methods.weights import find_tensors, find_weights

    found = find_weights(weights)
    if bench.device == "cpu":
        return {"onnxruntime": lambda: load_runner(found, device="cpu", side_by_side=True)}
    from prn_cli.methods.cuda_runner import CudaRunner

    def make(**how: Any) -> Any:
        settings_of("tf32")
        network, description = load_network(find_tensors(weights).path)
        return CudaRunner(network.cuda(), metadata=description, **how)

    return {
        "float32, CUDA graphs": make,
        "float32, eager": partial(make, graphs=False),
        "float16, CUDA graphs": partial(make, precision=torch.float16),
    }


def _throughput(one: Any, batch: np.ndarray, threads: int, least: float) -> float:
    """Pixels a second of threads that run one batch after the other."""
    name, outputs = one.inputs[0], one.outputs

    def work(until: float) -> int:
        count = 0
        while time.perf_counter() < until or count < 1:
            one.run(outputs, {name: batch})
            count += 1
        return count

    with ThreadPoolExecutor(threads) as pool:
        for seconds in (least / 2, least):  # the first does not count
            began = time.perf_counter()
            count = sum(pool.map(work, [began + seconds] * threads))
            taken = time.perf_counter() - began
    return count * batch.size / taken


def refine(bench: Bench) -> None:
    """The whole command on many small maps, what it could do without a network, and whether masks are the CPU's."""
    count, few = bench.count(2000, 6), bench.count(400, 2)
    maps, pixels = write_maps(bench.work / "float16", count, "float16"), count * SIDE**2
    what = f"fast, {count} × {SIDE}², float16"
    masks = _command(bench, what, maps, pixels, "fast", bench.device)
    _command(bench, f"without a network, {count} × {SIDE}²", maps, pixels, "fast", "cpu", strength=0)
    if bench.device == "cuda":
        expected = _command(bench, what, maps, pixels, "fast", "cpu")
        _compare(bench, "masks of 'fast' by the command", masks, expected)
        _in_parts(bench, maps, count, 4)
    some = write_maps(bench.work / "few", few, "float16")
    weights = str(paper_weights(bench))
    masks = _command(bench, f"paper, {few} × {SIDE}², float16", some, few * SIDE**2, weights, bench.device)
    if bench.device == "cuda":
        some = write_maps(bench.work / "fewer", 16, "float16")
        _compare(
            bench,
            "masks of 'paper' by the command",
            masks,
            _command(bench, f"paper, 16 × {SIDE}², float16", some, 16 * SIDE**2, weights, "cpu"),
        )


def _compare(bench: Bench, what: str, masks: Path, expected: Path) -> None:
    from PIL import Image

    def unlike(path: Path) -> float:
        found, other = (np.asarray(Image.open(folder / path.name)) for folder in (masks, expected))
        return float((found != other).mean())

    with ThreadPoolExecutor(8) as pool:
        shares = list(pool.map(unlike, expected.glob("*.png")))
    bench.row(
        "refine",
        f"{what}: pixels unlike the CPU's",
        per_million=round(1e6 * float(np.mean(shares)), 1),
        worst_map_per_million=round(1e6 * max(shares), 1),
    )


def mosaic(bench: Bench) -> None:
    """The whole command on one large map."""
    from make_mosaic import mirror_rows

    from prn_cli.maps.tiles import row_bands
    from prn_cli.rasters import create_raster

    side = bench.count(20_000, 1500)
    path = bench.work / "mosaic.tif"
    if not path.exists():
        tile = np.concatenate(list(tiles(8)), axis=1)
        with create_raster(
            path, height=side, width=side, dtype="float32", nodata=float("nan"), creation_options={"COMPRESS": "NONE"}
        ) as writer:
            for band in row_bands(side, side):
                writer.write(mirror_rows(tile, band.y, band.height, side))
    what = f"{side}², uncompressed TIFF, float32"
    _command(bench, f"fast, {what}", path, side**2, "fast", bench.device)
    _command(bench, f"without a network, {what}", path, side**2, "fast", "cpu", strength=0)
    if bench.device == "cuda":
        _command(bench, f"fast, {what}", path, side**2, "fast", "cpu")
        _command(bench, f"paper, {what}", path, side**2, str(paper_weights(bench)), "cuda")


def _line(inputs: Path, out: Path, weights: str, device: str, strength: float) -> list[str | Path]:
    shape = ["--strength", str(strength), "--input-kind", "logits", "--overwrite", "-v"]
    return [*PRN, "refine", inputs, "-o", out, "--weights", weights, "--device", device, *shape]


def _command(
    bench: Bench, what: str, inputs: Path, pixels: int, weights: str, device: str, strength: float = 1
) -> Path:
    """Time the command; gives where its masks are."""
    out = bench.work / (f"{what} {device}".replace("/", "-") + (".tif" if inputs.is_file() else ""))
    start = _start(bench, weights, device)
    taken, processor, said = timed(_line(inputs, out, weights, device, strength), bench.seconds)
    told = [line for line in said.splitlines() if " by " in line]
    bench.row(
        "refine" if inputs.is_dir() else "mosaic",
        f"prn refine, {what}, --device {device}",
        seconds=round(taken, 2),
        start=round(start, 2),
        mpx_s=round(pixels / 1e6 / max(taken - start, 1e-3), 1),
        cores=round(processor / taken, 1),
        by=told[0].split(" by ")[1].split(", tile")[0] if told else "",
    )
    return out


def _start(bench: Bench, weights: str, device: str) -> float:
    """Seconds of the command on one map: the less of two, since the first has to read the libraries from disk."""
    key = "start", f"prn refine, a single map, {Path(weights).name}, --device {device}"
    if key not in bench.found():
        line = _line(write_maps(bench.work / "one", 1, "float16"), bench.work / "start", weights, device, 1)
        bench.row(*key, seconds=round(min(timed(line, bench.seconds)[0] for _ in range(2)), 2))
    return float(bench.found()[key]["seconds"])


def _in_parts(bench: Bench, maps: Path, count: int, parts: int) -> None:
    """Several processes that share the card."""
    line = _line(maps, bench.work / "parted", "fast", bench.device, 1)
    began = time.perf_counter()
    lines = [[*map(str, line), "--num-parts", str(parts), "--part-id", str(part), "-j", "6"] for part in range(parts)]
    running = [subprocess.Popen(each, stderr=subprocess.DEVNULL) for each in lines]
    codes = [process.wait(timeout=bench.seconds) for process in running]
    taken = time.perf_counter() - began
    bench.row(
        "refine",
        f"prn refine, the same in {parts} processes (start included), --device {bench.device}",
        seconds=round(taken, 2),
        mpx_s=round(count * SIDE**2 / 1e6 / taken, 1),
        codes=codes,
    )


def steps(bench: Bench) -> None:
    """A training step on this device and on the CPU."""
    import torch

    from prn_cli.methods.recipe import build
    from prn_cli.training.loop import Settings, fit

    maps = training_maps()
    for device in dict.fromkeys((bench.device, "cpu")):
        torch.set_num_threads(bench.threads)
        shapes = ("fast", 8, 256), ("fast", 64, 256), ("paper", 1, 256), ("paper", 8, 256)
        for name, batch, crop in shapes if not bench.quick else (("fast", 1, 64), ("paper", 1, 64)):
            if device == "cpu" and (batch > 8 or (name, batch) == ("paper", 8)):
                continue
            count = bench.count(30 if device == "cuda" else 10 if name == "fast" else 3, 2)
            settings = Settings(network=name, epochs=2, steps=count, batch=batch, crop=crop, choose_epoch=False)
            epochs = fit(build(name, seed=0), maps, [], settings, device=torch.device(device))
            times = [epoch.seconds for epoch, _ in epochs]
            taken = (times[1] - times[0]) / count
            bench.row(
                "steps",
                f"{name}, {batch}×{crop}², {device}",
                ms=round(1e3 * taken, 2),
                mpx_s=round(batch * crop**2 / 1e6 / taken, 2),
            )


def train(bench: Bench) -> None:
    """The whole `prn train` on the examples, on this device and on the CPU."""
    for device in dict.fromkeys((bench.device, "cpu")):
        more = ("--epochs", "1", "--steps", "2", "--crop", "64", "--batch", "1") if bench.quick else ("--epochs", "3")
        line = _train(bench, device, f"run-{device}", "--folds", "1", *more)
        taken, processor, _ = timed(line, bench.seconds)
        card = json.loads((bench.work / f"run-{device}" / "model.json").read_text())
        bench.row(
            "train",
            f"prn train, examples/buildings, one fold, {' '.join(more)}, --device {device}",
            seconds=round(taken, 1),
            cores=round(processor / taken, 1),
            gain=card.get("choice", {}).get("gain"),
        )


def _train(bench: Bench, device: str, run: str, *more: str) -> list[Any]:
    where = [BUILDINGS / "logits", "--labels", BUILDINGS / "labels", "-o", bench.work / run]
    return [
        *PRN,
        "train",
        *where,
        "--overwrite",
        "--input-kind",
        "logits",
        "--device",
        device,
        *more,
        "-j",
        bench.threads,
    ]


def memory(bench: Bench) -> None:
    """What is said where the card's memory is too small: most of it is taken by this process."""
    import torch

    path = bench.work / "large.npy"
    side = bench.count(6144, 192)
    np.save(path, np.resize(tiles(8), (side, side)).astype(np.float16))
    held = None
    if bench.device == "cuda":
        torch.zeros(1, device="cuda")
        free, _ = torch.cuda.mem_get_info()
        held = torch.empty(max(free - (4 << 30), 0), dtype=torch.uint8, device="cuda")
    tile = str(bench.count(3072, 128))
    line = _line(path, bench.work / "large.png", str(paper_weights(bench)), bench.device, 1)
    done = subprocess.run([*map(str, line), "--tile", tile], capture_output=True, text=True, timeout=bench.seconds)
    said = [text for text in done.stderr.splitlines() if text.strip()]
    bench.row("memory", f"paper on {side}², --tile {tile}, 4 GiB free", code=done.returncode, said=said[-3:])
    del held


def ddp(bench: Bench) -> None:
    """`prn train` under torchrun with one process, by NCCL, and the same without."""
    more = ("--folds", "1", "--epochs", "2", "--steps", str(bench.count(50, 2)))
    more += ("--crop", "64", "--batch", "1") if bench.quick else ()
    found = {}
    for how in ("alone", "torchrun"):
        line = _train(bench, bench.device, f"run-{how}", *more)
        if how == "torchrun":
            line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", *line[1:]]
        taken, _, _ = timed(line, bench.seconds)
        card = json.loads((bench.work / f"run-{how}" / "model.json").read_text())
        found[how] = card.get("choice", {})
        bench.row("ddp", f"prn train, {how}, --device {bench.device}", seconds=round(taken, 1), choice=found[how])


def paper(bench: Bench) -> None:
    """`paper` as published and as corrected, on whole maps, three seeds, several trainings at once."""
    if bench.sets is None or not bench.sets.is_dir():
        bench.row("paper", "left out: no --sets")
        return
    began = time.monotonic()
    # Side by side, since one network leaves most of the card idle.
    known = bench.found()
    jobs = [
        (name, recipe, seed)
        for seed in range(bench.count(3, 1))
        for name in sorted(path.name for path in bench.sets.iterdir() if path.is_dir())
        for recipe in ("published", "corrected")
        if "pooled" not in known.get(("paper", f"{name}, {recipe}, seed {seed}"), {})
    ]

    def work(job: tuple[str, str, int]) -> bool:
        left = bench.seconds - (time.monotonic() - began)
        try:
            if left < bench.count(30, 5):
                raise TimeoutError("no time")
            _paper(bench, *job, left=left)
        except Exception as error:
            told = "no time" if isinstance(error, subprocess.TimeoutExpired) else str(error)[-600:]
            bench.row("paper", "{}, {}, seed {}".format(*job), failed=told)
            return False
        return True

    with ThreadPoolExecutor(bench.count(6, 1)) as pool:
        done = list(pool.map(work, jobs))
    if not all(done):
        raise RuntimeError(f"{done.count(False)} trainings of {len(done)} failed")


def _paper(bench: Bench, name: str, recipe: str, seed: int, left: float) -> None:
    assert bench.sets is not None
    split = bench.sets / name
    run = bench.work / "paper-runs" / f"{name}-{recipe}-{seed}"
    side = _whole(split / "train" / "logits")
    epochs, count = (5, 60) if not bench.quick else (1, 1)
    line = [
        *(*PRN, "train", split / "train" / "logits", "--labels", split / "train" / "labels", "-o", run, "--overwrite"),
        *("-q", "--network", "paper", "--batch", "1", "--crop", str(side), "--folds", "1", "--seed", str(seed)),
        *(
            "--epochs",
            str(epochs),
            "--steps",
            str(count),
            "--device",
            bench.device,
            "--input-kind",
            "logits",
            "-j",
            "2",
        ),
        *(PUBLISHED if recipe == "published" else CORRECTED),
    ]
    taken, _, _ = timed(line, max(left, 5))
    masks = run / "masks"
    shape = ("--strength", "1", "--threshold", "0.5") if recipe == "published" else ()
    test = split / "test"
    more = ("--weights", run, "--device", bench.device, "--input-kind", "logits", "-q", "-j", "2", *shape)
    timed([*PRN, "refine", test / "logits", "-o", masks, *more], 60)
    line = [*PRN, "score", masks, "--labels", test / "labels", "--baseline", test / "logits", "-q", "--json"]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    bench.row(
        "paper",
        f"{name}, {recipe}, seed {seed}",
        learned=f"{epochs} × {count} crops of {side}²",
        seconds=round(taken, 1),
        **{way: found[way]["iou"]["value"] for way in ("pooled", "mean")},
        **{f"{way}_change": found[way]["iou"]["difference"] for way in ("pooled", "mean")},
    )


def _whole(folder: Path) -> int:
    """Side of the crop that holds every map of a folder, a multiple of 64 px."""
    from prn_cli.rasters import find_inputs, open_raster

    sides = []
    for path in find_inputs([str(folder)]):
        with open_raster(path) as raster:
            sides += [raster.height, raster.width]
    return -(-max(sides) // 64) * 64


class Part(NamedTuple):
    """What is measured, the most seconds that it may take on an H100 with 16 cores, and whether it must be alone."""

    measure: Callable[[Bench], None]
    most: float
    alone: bool = True


PARTS = {
    "weights": Part(lambda bench: bench.row("weights", str(paper_weights(bench).name)), 30),
    "card": Part(card, 20),
    "mosaic": Part(mosaic, 80),
    "refine": Part(refine, 100),
    "forward": Part(forward, 40),
    "steps": Part(steps, 45),
    "runner": Part(runner, 35),
    "memory": Part(memory, 25),
    "train": Part(train, 90),
    "compile": Part(compiled, 40),
    "tests": Part(tests, 160, alone=False),
    "ddp": Part(ddp, 120, alone=False),
    "paper": Part(paper, 300, alone=False),
}


def one_part(name: str, bench: Bench) -> None:
    """Run a part, in this process."""
    began = time.monotonic()
    try:
        PARTS[name].measure(bench)
    except Exception as error:
        traceback.print_exc()
        bench.row(name, WHOLE, failed=f"{type(error).__name__}: {error}"[-1500:])
    else:
        bench.row(name, WHOLE, seconds=round(time.monotonic() - began, 1))


def side_by_side(names: Sequence[str], bench: Bench, left: float) -> None:
    """Run parts, each in a process of its own, until they end or their time is over."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    began = time.monotonic()
    running = {}
    try:
        for name in names:
            limit = min(PARTS[name].most * (3 if bench.device == "cpu" else 1), left)
            print(f"# {name}, {limit:.0f} s", file=sys.stderr, flush=True)
            part = [*sys.argv, "--part", name, "--seconds", str(limit - 2)]
            running[name] = limit, subprocess.Popen([sys.executable, *part], env=environment, start_new_session=True)
        for name, (limit, process) in running.items():
            try:
                if process.wait(timeout=max(limit - (time.monotonic() - began), 0.1)):
                    bench.row(name, WHOLE, failed=f"exit code {process.returncode}")
            except subprocess.TimeoutExpired:
                bench.row(name, WHOLE, failed=f"stopped after {limit:.0f} s")
                _end(process)
    finally:
        for _, process in running.values():
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a part, and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def write(out: Path, bench: Bench, about: dict[str, Any]) -> str:
    """Write what has been found as JSON and as a table; gives the table."""
    found = list(bench.found().values())
    (out / "results.json").write_text(json.dumps({**about, "rows": found}, indent=1))
    lines = []
    for row in found:
        values = {key: value for key, value in row.items() if key not in ("part", "what")}
        lines.append([row["part"], row["what"], ", ".join(f"{key} {value}" for key, value in values.items())])
    text = f"{markdown(['part', 'what', 'found'], lines)}\n\n{about['card']}; {about['machine']}.\n"
    (out / "results.md").write_text(text)
    return text


def card_name(device: str) -> str:
    if device == "cpu":
        return "no card"
    line = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    return "a card that nvidia-smi does not name"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("gpu-bench"))
    parser.add_argument("--work", type=Path, help="folder of its files; in --out if left out")
    parser.add_argument("--sets", type=Path)
    parser.add_argument("--seconds", type=float, default=470, help="after which no part begins")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out: Path = arguments.out
    kind = f"{arguments.device}{'-quick' if arguments.quick else ''}"
    work = ((arguments.work or out / "work") / kind).resolve()
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.device, arguments.quick, work, work / "rows.jsonl", arguments.sets, arguments.seconds)
    if arguments.part:
        one_part(arguments.part, bench)
        return
    began = time.monotonic()
    about = {"card": card_name(arguments.device), "machine": machine(), "quick": arguments.quick}
    wanted = [name for name in PARTS if name in arguments.only and not bench.done(name)]
    groups = [[name] for name in wanted if PARTS[name].alone]
    groups.append([name for name in wanted if not PARTS[name].alone])
    for names in filter(None, groups):
        left = arguments.seconds - (time.monotonic() - began)
        if left < 10:
            for name in names:
                bench.row(name, WHOLE, failed="no time")
        else:
            side_by_side(names, bench, left)
        write(out, bench, about)
    print(write(out, bench, about))
    missing = [name for name in arguments.only if not bench.done(name)]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}; the same command goes on")


if __name__ == "__main__":
    main()
