"""Which library runs weights, and where: onnxruntime, or torch where it alone has CUDA."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from prn_cli.errors import DeviceError, WeightsError
from prn_cli.execution.watch import Watch
from prn_cli.methods import load_refiner, loading
from prn_cli.methods.session import Session
from prn_cli.methods.weights import find_weights, tensors_beside, weights_folder

torch_runner = pytest.importorskip("prn_cli.methods.torch_runner")


class Listener(Watch):
    def __init__(self):
        self.heard = []

    def detail(self, message):
        self.heard.append(message)


@pytest.fixture
def card(monkeypatch):
    """A machine with a card that only torch can use: torch runs on the CPU in its place."""
    monkeypatch.setattr(loading, "driver_obstacle", lambda: "")

    def refuse(*arguments):
        raise DeviceError("built without CUDA")

    monkeypatch.setattr(Session, "_on_cuda", refuse)
    monkeypatch.setattr(torch_runner, "device_of", lambda name: torch_runner.torch.device("cpu"))
    yield
    loading._load_again.cache_clear()


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_torch_runs_shipped_weights_where_onnxruntime_has_no_cuda(card, device):
    refiner = load_refiner(find_weights("fast"), device=device)
    assert isinstance(refiner.runner, torch_runner.TorchRunner)
    assert refiner.library.startswith("torch ")
    expected = load_refiner(find_weights("fast"), device="cpu", threads=1)
    assert (refiner.needs, refiner.strength, refiner.threshold) == (
        expected.needs,
        expected.strength,
        expected.threshold,
    )
    logits = np.random.default_rng(0).normal(0, 3, (1, 1, 64, 64)).astype(np.float32)
    found, bias = (each.runner.run(["bias"], {"logits": logits})[0] for each in (refiner, expected))
    np.testing.assert_allclose(found, bias, atol=1e-4)
    copy = pickle.loads(pickle.dumps(refiner))
    np.testing.assert_array_equal(copy.runner.run(["bias"], {"logits": logits})[0], found)


def test_weights_without_tensors_stay_on_the_cpu_and_say_why(card):
    listener = Listener()
    assert load_refiner(find_weights("fast-int8"), watch=listener).device == "cpu"
    assert listener.heard == [
        "not on CUDA: onnxruntime: built without CUDA; PyTorch: no card names the tensors of these weights"
    ]
    with pytest.raises(DeviceError, match="CUDA cannot be used: onnxruntime: built without CUDA; PyTorch: no card"):
        load_refiner(find_weights("fast-int8"), device="cuda")


def test_without_a_driver_nothing_is_imported_and_one_line_says_so(monkeypatch):
    monkeypatch.setattr(loading, "driver_obstacle", lambda: "no NVIDIA driver (libcuda.so.1)")
    monkeypatch.setattr(loading, "import_module", None)
    listener = Listener()
    refiner = load_refiner(find_weights("fast"), watch=listener)
    assert (refiner.device, refiner.library.split()[0]) == ("cpu", "onnxruntime")
    assert listener.heard == ["not on CUDA: no NVIDIA driver (libcuda.so.1)"]
    with pytest.raises(DeviceError, match=r"^CUDA cannot be used: no NVIDIA driver \(libcuda.so.1\); see ") as caught:
        load_refiner(find_weights("fast"), device="cuda")
    assert caught.value.exit_code == 2


def test_cuda_is_had_or_refused_and_auto_always_works(make_onnx, capfd):
    weights = find_weights(str(make_onnx()))
    refiner = load_refiner(weights, threads=1)
    if refiner.device == "cuda":
        assert load_refiner(weights, device="cuda").device == "cuda"
    else:
        with pytest.raises(DeviceError, match="CUDA cannot be used: ") as caught:
            load_refiner(weights, device="cuda")
        assert caught.value.exit_code == 2
    assert capfd.readouterr() == ("", "")
    logits = np.zeros((1, 1, 16, 16), np.float32)
    assert refiner.runner.run(["bias"], {"logits": logits})[0].shape == logits.shape


def test_tensors_are_those_that_the_card_seals(tmp_path):
    card = next(iter(json.loads((weights_folder() / "manifest.json").read_text())["weights"].values()))
    for suffix in ("onnx", "safetensors"):
        shutil.copy(weights_folder() / f"fast.{suffix}", tmp_path / f"model.{suffix}")
        card["files"][suffix]["file"] = f"../model.{suffix}"  # a card may come from anywhere: no other folder is read
    (tmp_path / "model.json").write_text(json.dumps(card))
    tensors = tensors_beside(find_weights(str(tmp_path)))
    assert tensors.path == tmp_path / "model.safetensors"
    tensors.path.write_bytes(tensors.path.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="sha256 is"):
        tensors_beside(find_weights(str(tmp_path)))
    (tmp_path / "model.json").unlink()
    with pytest.raises(WeightsError, match="cannot be read"):  # a copy of shipped weights
        tensors_beside(find_weights(str(tmp_path)))
    network = tmp_path / "model.onnx"
    network.write_bytes(network.read_bytes() + b"x")
    with pytest.raises(WeightsError, match="no card names the tensors"):
        tensors_beside(find_weights(str(tmp_path)))
    assert Path(tmp_path / "model.onnx").exists()
