from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from prn_cli.errors import DeviceError, PrnError, WeightsError
from prn_cli.methods import load_refiner, loading, session, weights
from prn_cli.methods.session import Session
from prn_cli.methods.weights import Weights, find_weights


def load(path):
    return load_refiner(find_weights(str(path)), device="cpu", threads=1)


def test_metadata_becomes_what_the_tiler_must_know(make_onnx):
    refiner = load(make_onnx(threshold="0.4"))
    needs = refiner.needs
    assert (refiner.name, needs.multiple, needs.halo, needs.tile, refiner.threshold) == ("fast", 8, 24, 160, 0.4)
    assert refiner.device == "cpu"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "2"}, "prn.format is 2, expected 1"),
        ({"network": "slow"}, "network 'slow', expected fast or paper"),
        ({"network": "paper"}, "maps logits to bias, expected probabilities to global"),
        ({"multiple": "0"}, "prn.multiple is 0, expected a whole number from 1"),
        ({"halo": "wide"}, "prn.halo is wide"),
        ({"threshold": "1.5"}, "prn.threshold is 1.5, expected 0 to 1"),
    ],
)
def test_metadata_that_cannot_be_is_one_plain_error(make_onnx, metadata, message):
    wrong = dict(metadata)
    network = wrong.pop("network", None)
    path = make_onnx(**wrong)
    if network:
        onnx = pytest.importorskip("onnx")
        model = onnx.load(path)
        for entry in model.metadata_props:
            if entry.key == "prn.network":
                entry.value = network
        onnx.save(model, path)
    with pytest.raises(WeightsError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_an_onnx_model_of_somebody_else_is_named_as_such(make_onnx):
    onnx = pytest.importorskip("onnx")
    path = make_onnx()
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(WeightsError, match=r"prn\.format is nothing"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x09"])
def test_what_is_not_onnx_is_one_plain_error(tmp_path, content, capfd):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"x\.onnx"):
        load(path)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_model_is_one_plain_error(make_onnx, capfd):
    path = make_onnx()
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(WeightsError, match=r"model\.onnx"):
        load(path)
    assert capfd.readouterr() == ("", "")


def test_a_run_on_what_the_network_cannot_take_is_one_plain_error(make_onnx):
    session = Session(make_onnx(), device="cpu", threads=1)
    with pytest.raises(PrnError, match="failed on 1×2×8×8"):
        session.run(["bias"], {"logits": np.zeros((1, 2, 8, 8), np.float32)})


def test_onnxruntime_is_imported_only_when_a_session_is_made():
    code = "import sys, prn_cli.refinement.rows, prn_cli.methods.session; print('onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads by /proc")
def test_nothing_is_reported_and_no_thread_is_left_behind(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    environment |= {"HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"}
    code = (
        "import os; from prn_cli.methods import load_refiner; from prn_cli.methods.weights import find_weights; "
        "load_refiner(find_weights('fast'), device='cpu', threads=1); print(len(os.listdir('/proc/self/task')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "1"
    assert not list(tmp_path.iterdir())


@pytest.fixture
def gpu_build(monkeypatch, tmp_path):
    """What pip knows of an installed onnxruntime-gpu, whatever files lie there."""
    record = tmp_path / "onnxruntime_gpu-1.31.1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n")
    monkeypatch.syspath_prepend(tmp_path)


class CpuBuild:
    @staticmethod
    def get_available_providers():
        return ["CPUExecutionProvider"]


def test_a_build_without_cuda_says_where_it_is_to_be_had(monkeypatch):
    monkeypatch.setattr(session, "_installed", lambda package: False)
    assert session._cuda_obstacle(CpuBuild) == "built without CUDA (onnxruntime-gpu has it, see docs/gpu.md)"


def test_a_build_for_the_cpu_over_that_for_gpus_is_named(gpu_build):
    assert session._cuda_obstacle(CpuBuild) == (
        "its build for the CPU was installed over onnxruntime-gpu "
        "(pip install --force-reinstall --no-deps onnxruntime-gpu)"
    )


@pytest.mark.parametrize("left", [None, ModuleType("onnxruntime")], ids=["no module", "an empty folder"])
def test_what_is_left_where_one_of_two_builds_was_uninstalled_is_one_plain_error(monkeypatch, gpu_build, left):
    monkeypatch.setitem(sys.modules, "onnxruntime", left)
    session._runtime.cache_clear()
    with pytest.raises(DeviceError, match=r"cannot be imported: .*; pip install .* onnxruntime-gpu$"):
        session._runtime()


def test_a_pickled_refiner_has_the_cores_of_the_process_that_unpickles_it(make_onnx, monkeypatch):
    monkeypatch.setattr(sys.modules[Session.__module__], "core_count", lambda: 2)
    refiner = load_refiner(find_weights(str(make_onnx())), device="cpu", side_by_side=True)
    packed = pickle.dumps(refiner)
    assert refiner.runs == 2
    monkeypatch.setattr(sys.modules[Session.__module__], "core_count", lambda: 1)
    assert pickle.loads(packed).runs == 1
    loading._load_again.cache_clear()


def test_a_pickled_refiner_has_the_strength_that_its_card_allows():
    """Shipped weights that learned without labels correct nothing, in the workers of a cluster either."""
    refiner = load_refiner(find_weights("fast"), device="cpu", threads=1)
    assert float(refiner.runner.metadata["prn.strength"]) > 0
    assert (refiner.strength, pickle.loads(pickle.dumps(refiner)).strength) == (0, 0)
    loading._load_again.cache_clear()


def test_a_pickled_session_is_the_same_in_another_place_or_an_error(make_onnx, monkeypatch):
    path = make_onnx()
    windows = np.linspace(-3, 3, 64 * 64, dtype=np.float32).reshape(1, 1, 64, 64)
    session = Session(path, device="cpu", threads=1)
    copy = pickle.loads(pickle.dumps(session))
    assert (copy.path, copy.metadata) == (path, session.metadata)
    np.testing.assert_array_equal(*(each.run(["bias"], {"logits": windows})[0] for each in (session, copy)))
    assert pickle.loads(pickle.dumps(session)) is copy  # loaded once a process

    packed = pickle.dumps(session)
    loading._load_again.cache_clear()
    elsewhere = path.rename(path.with_name("shipped.onnx"))
    known = Weights("shipped", elsewhere, hashlib.sha256(elsewhere.read_bytes()).hexdigest())
    with pytest.raises(WeightsError, match=r"no such file on .*, expected sha256"):
        pickle.loads(packed)
    monkeypatch.setattr(weights, "shipped", lambda: [known])
    assert pickle.loads(packed).path == elsewhere
    loading._load_again.cache_clear()
    make_onnx(strength=3.0)
    elsewhere.unlink()
    with pytest.raises(WeightsError, match=r"sha256 is .*, expected sha256"):
        pickle.loads(packed)


@pytest.mark.parametrize(
    "before",
    [
        "",
        "[ONNXRuntimeError] : 1 : FAIL : ",
        "[ONNXRuntimeError] : 1 : FAIL : /src/core/graph/model.cc:181 onnxruntime::Model::Model(onnx::ModelProto&&, "
        "const PathString&, const ModelOptions&) ",
        "[ONNXRuntimeError] : 1 : FAIL : Load model from a.onnx failed:/src/core/graph/model.cc:46 void "
        "onnxruntime::CheckOpset(const std::unordered_map<std::string, int>&, int) const ",
    ],
)
def test_the_cause_comes_first_and_whole(before: str) -> None:
    cause = "Unsupported model IR version: 99, max supported IR version: 13" + " and so on" * 50
    assert session._first_line(RuntimeError(before + cause + "\nmore")) == cause
