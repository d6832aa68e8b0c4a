"""The runner for CUDA, with stand-ins on the CPU for what only a card has."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest

from prn_cli.errors import PrnError
from prn_cli.methods.weights import find_tensors

torch = pytest.importorskip("torch")

from prn_cli.methods import cuda_runner  # noqa: E402
from prn_cli.methods.torch_runner import TorchRunner, load_network, results_of  # noqa: E402


class Nothing:
    def __init__(self, *arguments, **more):
        pass

    def synchronize(self):
        pass

    record = capture_begin = capture_end = lambda self, *arguments: None


@pytest.fixture
def runner(monkeypatch):
    for name in ("Stream", "Event", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, Nothing)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "no card")
    monkeypatch.setattr(cuda_runner._Lane, "_compute", lambda self, graph, inputs: results_of(graph, inputs))
    empty, record = torch.empty, cuda_runner._Lane._record
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **more: empty(*shape, **more))

    def recorded(lane, graph, shapes):
        found = record(lane, graph, shapes)

        def replay():
            for name, values in results_of(graph, found.inputs).items():
                found.outputs[name].copy_(values)

        if found is not None:
            found.graph.replay = replay
        return found

    monkeypatch.setattr(cuda_runner._Lane, "_record", recorded)
    network, description = load_network(find_tensors("fast").path)
    return cuda_runner.CudaRunner(network, metadata=description)


def test_batches_of_many_threads_and_shapes_give_what_torch_gives_without_folding(runner):
    draw = np.random.default_rng(0)
    batches = [draw.normal(0, 3, (1 + n % 3, 1, 32 + 16 * (n % 4), 64)).astype(np.float32) for n in range(80)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda batch: runner.run(["bias"], {"logits": batch})[0], batches))
    plain = TorchRunner(load_network(find_tensors("fast").path)[0])
    for batch, bias in zip(batches, found, strict=True):
        np.testing.assert_allclose(bias, plain.run(["bias"], {"logits": batch})[0], atol=1e-4)
    lanes = [runner._lanes.get() for _ in range(runner.runs)]
    assert any(any(lane._recordings.values()) for lane in lanes)
    assert all(len(lane._recordings) <= 8 for lane in lanes)


def test_a_network_that_cannot_be_recorded_runs_all_the_same(runner, monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Nothing, "capture_begin", refuse)
    batch = np.random.default_rng(0).normal(0, 3, (1, 1, 64, 64)).astype(np.float32)
    one, *others = (runner.run(["bias"], {"logits": batch})[0] for _ in range(5))
    for other in others:
        np.testing.assert_array_equal(one, other)


def test_where_memory_is_short_batches_run_one_by_one_and_nothing_is_recorded(runner, monkeypatch):
    compute = cuda_runner._Lane._compute

    def compute_little(lane, graph, inputs):
        if len(inputs[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried …")
        return compute(lane, graph, inputs)

    draw = np.random.default_rng(0)
    batches = [{"logits": draw.normal(0, 3, (1, 1, 64, 64)).astype(np.float32)} for _ in range(3)]
    expected = [runner.run(["bias"], batch)[0] for batch in batches]  # the same shape: recorded
    monkeypatch.setattr(cuda_runner._Lane, "_compute", compute_little)
    for _ in range(runner.runs):  # each lane has its turn
        found = runner._run_batches(("bias",), batches)[0]
        np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-6)
    lanes = [runner._lanes.get() for _ in range(runner.runs)]
    assert not any(recording for lane in lanes for recording in lane._recordings.values())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried …"),
            "not enough memory on cpu for a run on 1×1×64×64 pixels",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "not enough memory on cpu"),
        (
            RuntimeError("CUDA error: an illegal memory access\nmore"),
            "64×64 pixels: CUDA error: an illegal memory access",
        ),
    ],
)
def test_what_the_card_fails_at_is_one_plain_error(runner, monkeypatch, error, message):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(cuda_runner._Lane, "_compute", fail)
    with pytest.raises(PrnError, match=message) as caught:
        runner.run(["bias"], {"logits": np.zeros((1, 1, 64, 64), np.float32)})
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
