"""Maps bigger than memory: what the commands hold of them at once does not grow with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio

from prn_cli.rasters import create_raster
from prn_cli.refinement.rows import Order
from prn_cli.workflows.refine_map import OpenMap

WIDTH = 2048

# The peak of this process alone: getrusage counts what its parent had when it was started.
MEASURED = """
import sys
from pathlib import Path
from prn_cli.commands.app import run
code = run(sys.argv[1:])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(code, peak.split()[1], file=sys.stderr)
"""


def cheap_network(path: Path) -> Path:
    """A tenth of each logit as bias: reading and writing are what is measured."""
    onnx = pytest.importorskip("onnx")
    helper, tensor = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, tensor, ["n", 1, "h", "w"]) for name in ("logits", "bias")]
    tenth = onnx.numpy_helper.from_array(np.float32([0.1]), "tenth")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["logits", "tenth"], ["bias"])], "test", *map(list, zip(ends, strict=True)), [tenth]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    settings = {"format": "1", "network": "fast", "multiple": "8", "halo": "16", "tile": "512", "threshold": "0.5"}
    helper.set_model_props(model, {f"prn.{name}": value for name, value in settings.items()})
    path.write_bytes(model.SerializeToString())
    return path


def write_map(path: Path, height: int, dtype: str, width: int = WIDTH) -> None:
    y, x = np.mgrid[:512, :width].astype(np.float32)
    tile = np.sin(x / 40 + np.cos(y / 30)) * 4
    tile = tile.astype(np.float32) if dtype == "float32" else (tile > 0.5).astype(np.uint8) * 255
    with create_raster(path, height=height, width=width, dtype=dtype) as writer:
        for _ in range(height // 512):
            writer.write(tile)


def megabytes(*arguments: str | Path) -> float:
    """Peak memory of a command."""
    line = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    code, kilobytes = done.stderr.split()[-2:]
    assert code == "0", done.stderr
    return int(kilobytes) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_memory_is_flat_in_the_height_of_a_map(tmp_path, suffix):
    weights = cheap_network(tmp_path / "model.onnx")
    peaks: dict[str, list[float]] = {"refine": [], "pseudolabel": [], "score": []}
    for height in (4096, 12288):  # 34 and 101 MB of logits
        folder = tmp_path / str(height)
        (folder / "logits").mkdir(parents=True)
        (folder / "labels").mkdir()
        write_map(folder / "logits" / f"a{suffix}", height, "float32")
        write_map(folder / "labels" / f"a{suffix}", height, "uint8")
        logits, labels, masks = folder / "logits", folder / "labels", folder / "masks"
        peaks["refine"].append(megabytes("refine", logits, "-o", masks, "--weights", weights, "-q"))
        if suffix == ".tif":
            peaks["pseudolabel"].append(megabytes("pseudolabel", logits, "-l", labels, "-o", folder / "p", "-q"))
            peaks["score"].append(megabytes("score", masks, "-l", labels, "--baseline", logits, "--json"))
    for figures in peaks.values():
        assert not figures or figures[1] - figures[0] < 60, peaks


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
@pytest.mark.parametrize(("options", "most"), [((), 1), (("--probabilities", "p"), 2), (("--format", "png"), 3)])
def test_memory_grows_next_to_nothing_with_the_width_of_a_map(tmp_path, options, most):
    weights = cheap_network(tmp_path / "model.onnx")
    peaks = []
    for width in (8192, 32768):
        write_map(tmp_path / f"{width}.tif", 2048, "float32", width)
        line = ("refine", tmp_path / f"{width}.tif", "-o", tmp_path / "masks", "--weights", weights, "-q")
        peaks.append(megabytes(*line, *(tmp_path / option if option == "p" else option for option in options)))
    # The logits of two rows of windows would be 10 kB a column here; PNG wants whole rows of them.
    assert (peaks[1] - peaks[0]) / (32768 - 8192) < most / 1024, peaks


@pytest.mark.slow
def test_a_mask_of_more_than_4_gib_is_a_tiled_compressed_bigtiff(tmp_path):
    """As what is refined of a map of that size is written."""
    path = tmp_path / "mask.tif"
    side = 65_536
    with create_raster(path, height=side, width=side, dtype=np.uint8, nodata=127) as writer:
        rows = np.zeros((4096, side), np.uint8)
        for _ in range(side // len(rows)):
            writer.write(rows)
    assert path.read_bytes()[:4] == b"II\x2b\x00"
    with rasterio.open(path) as file:
        assert (file.shape, file.nodata) == ((side, side), 127)
        assert (file.profile["tiled"], file.profile["compress"], file.block_shapes[0]) == (True, "deflate", (256, 256))
        assert not file.read(1, window=((side - 9, side), (side - 9, side))).any()


@pytest.mark.parametrize(
    ("height", "width", "by_columns", "any_order", "expected"),
    [
        (4000, 2000, True, True, Order.DOWN),
        (4001, 2000, True, True, Order.ACROSS),  # what waits for the next stretch would be as high
        (2000, 4000, True, False, Order.ACROSS),
        (2000, 4000, False, True, Order.ROWS),
    ],
)
def test_the_order_is_the_one_that_takes_the_least_memory(height, width, by_columns, any_order, expected):
    scores = SimpleNamespace(height=height, width=width, by_columns=by_columns)
    assert OpenMap(scores, None).order(any_order=any_order) is expected  # type: ignore[arg-type]


def test_a_sample_of_rows_does_not_hold_them():
    """Bands of wide maps have fewer rows than the sample's step: what falls into them may be nothing."""
    from prn_cli.workflows.figures import Sample

    sample = Sample(object(), 10**9)  # type: ignore[arg-type]
    logits = np.ones((9, 5000), np.float32)
    parts = [sample.of(logits, y, 0) for y in range(0, 2 * sample.step - 9, 9)]
    assert any(not part.size for part in parts)
    assert sum(part.size for part in parts) == 2 * -(-5000 // sample.step)
    assert all(part.base is None for part in parts)
