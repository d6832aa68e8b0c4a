"""Networks on CUDA give what they give on the CPU. Skipped where there is no CUDA device."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from prn_cli.errors import PrnError
from prn_cli.methods import load_refiner
from prn_cli.methods.weights import find_tensors, find_weights
from prn_cli.refinement.rows import refine_map

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

MOST_UNLIKE = 1e-4  # of the pixels of a mask


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> Path:
    """A folder of weights of `paper`, drawn at random."""
    pytest.importorskip("onnx")
    from prn_cli.methods.recipe import build
    from prn_cli.training.export import export

    folder = tmp_path_factory.mktemp("paper")
    export(build("paper", seed=0), folder, card={"network": "paper"})
    return folder


def smooth_logits(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blobs with soft edges, float32."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).standard_normal((height, width))
    smooth = gaussian_filter(noise, 8)
    return (4 * smooth / smooth.std() + 0.3 * noise).astype(np.float32)


def prn(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "prn_cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=os.environ | environment, timeout=600)


@pytest.mark.parametrize("tile", [None, 320])
def test_masks_of_fast_are_those_of_the_cpu(tile):
    logits = smooth_logits(1500, 2100)
    logits[:70, :300] = np.nan
    cuda, cpu = (load_refiner(find_weights("fast"), device=device) for device in ("cuda", "cpu"))
    assert cuda.device == "cuda"
    found, expected = (refine_map(logits, each, tile=tile, strength=1) for each in (cuda, cpu))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    assert ((found > 0) != (expected > 0)).mean() <= MOST_UNLIKE
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_probabilities_of_paper_are_those_of_the_cpu(paper):
    logits = smooth_logits(700, 900)
    cuda, cpu = (load_refiner(find_weights(str(paper)), device=device) for device in ("cuda", "cpu"))
    found, expected = (refine_map(logits, each) for each in (cuda, cpu))
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_a_shape_that_comes_again_is_a_recording_and_gives_the_same():
    runner = load_refiner(find_tensors("fast"), device="cuda").runner
    draw = np.random.default_rng(0)
    batches = [draw.normal(0, 3, (n, 1, 64, 96)).astype(np.float32) for n in (1, 2, 1, 1, 2, 2, 1, 1, 1)]
    plain = load_refiner(find_tensors("fast"), device="cpu").runner
    for batch in batches:
        found, expected = (each.run(["bias"], {"logits": batch})[0] for each in (runner, plain))
        np.testing.assert_allclose(found, expected, atol=0.02)
    lane = runner._lanes.get()
    assert any(recording is not None for recording in lane._recordings.values())


def test_many_threads_and_many_shapes_each_get_their_own():
    runner = load_refiner(find_tensors("fast"), device="cuda").runner
    maps = [smooth_logits(16 * (2 + n % 5), 16 * (3 + n % 3), n)[np.newaxis, np.newaxis] for n in range(300)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda each: runner.run(["bias"], {"logits": each})[0], maps))
    plain = load_refiner(find_tensors("fast"), device="cpu").runner
    for each, bias in zip(maps, found, strict=True):
        np.testing.assert_allclose(bias, plain.run(["bias"], {"logits": each})[0], atol=0.02)


def test_a_copy_in_another_process_is_on_cuda_too():
    refiner = load_refiner(find_weights("fast"), device="cuda")
    copy = pickle.loads(pickle.dumps(refiner))
    logits = smooth_logits(128, 128)
    np.testing.assert_allclose(refine_map(logits, copy), refine_map(logits, refiner), atol=1e-5)


def test_too_little_memory_is_one_line(paper):
    refiner = load_refiner(find_tensors(str(paper)), device="cuda")
    refine_map(smooth_logits(64, 64), refiner)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (100 << 20)) / total)
    try:
        with pytest.raises(PrnError, match=r"^not enough memory on cuda for a run on 1×1×.* pixels; use a smaller"):
            refine_map(smooth_logits(2048, 2048), refiner, tile=2048)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    refine_map(smooth_logits(64, 64), refiner)


def test_the_command_says_what_runs_the_network(tmp_path):
    for number in range(20):
        np.save(tmp_path / f"{number}.npy", smooth_logits(200, 300, number))
    for device in ("cuda", "cpu"):
        done = prn("refine", tmp_path, "-o", tmp_path / device, "--device", device, "--input-kind", "logits", "-v")
        assert done.returncode == 0, done.stderr
        assert f"on {device} by " in done.stderr
    from PIL import Image

    unlike = [
        (np.asarray(Image.open(path)) != np.asarray(Image.open(tmp_path / "cpu" / path.name))).mean()
        for path in (tmp_path / "cuda").glob("*.png")
    ]
    assert len(unlike) == 20
    assert np.mean(unlike) <= MOST_UNLIKE


def test_a_mosaic_in_many_windows_is_that_of_the_cpu(tmp_path):
    np.save(tmp_path / "mosaic.npy", np.tile(smooth_logits(1100, 1700), (4, 6)))
    masks = []
    for device in ("cuda", "cpu"):
        out = tmp_path / f"{device}.npy"
        done = prn("refine", tmp_path / "mosaic.npy", "-o", out, "--device", device, "--input-kind", "logits")
        assert done.returncode == 0, done.stderr
        masks.append(np.load(out))
    assert (masks[0] != masks[1]).mean() <= MOST_UNLIKE


@pytest.mark.parametrize("torchrun", [False, True])
def test_training_on_cuda_alone_and_under_torchrun(tmp_path, torchrun):
    for folder in ("logits", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        logits = smooth_logits(200, 200, number)
        np.save(tmp_path / "logits" / f"{number}.npy", logits)
        np.save(tmp_path / "labels" / f"{number}.npy", (logits > 1).astype(np.uint8))
    how = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"] if torchrun else []
    line = [sys.executable, *how, "-m", "prn_cli", "train", tmp_path / "logits", "--labels", tmp_path / "labels"]
    more = ["-o", tmp_path / "run", "--device", "cuda", "--folds", "1", "--epochs", "2", "--steps", "10"]
    done = subprocess.run([*map(str, line), *map(str, more), "--crop", "128"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.onnx").is_file()
