"""How fast a network's convolutions could run on a device: their arithmetic and memory traffic against its speeds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

_REPEATS = 5
_SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices
_CHANNELS = 64  # as wide as the network is where it is widest, and as many pixels high and wide
_BATCH = {"cpu": 16, "cuda": 1024}
_BYTES = {"cpu": 1 << 28, "cuda": 1 << 32}


@dataclass(frozen=True)
class Cost:
    """Of a pixel: floating-point operations of the convolutions, and bytes that these read and write of maps."""

    operations: float
    traffic: float


@dataclass(frozen=True)
class Peaks:
    """Of a device: operations a second of the fastest known kernel, and bytes a second of a copy, read and written."""

    operations: float
    traffic: float

    def pixels(self, cost: Cost) -> float:
        """Pixels a second at best (the roofline of Williams, Waterman and Patterson, CACM 52(4), 2009)."""
        return min(self.operations / cost.operations, self.traffic / cost.traffic)

    def or_faster(self, other: Peaks) -> Peaks:
        """The better of both."""
        return Peaks(max(self.operations, other.operations), max(self.traffic, other.traffic))


def network_cost(path: Path, height: int, width: int) -> Cost:
    """The cost of a pixel of a map of this size. Weights and all that is no convolution are taken to cost nothing."""
    import numpy as np
    import onnx
    import onnxruntime
    from onnx.numpy_helper import to_array

    model = onnx.load(path)
    graph = model.graph
    kernels = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    kernels |= {
        node.output[0]: to_array(node.attribute[0].t).shape for node in graph.node if node.op_type == "Constant"
    }
    for node in graph.node:  # weights that several convolutions share
        if node.op_type in ("Identity", "Cast") and node.input[0] in kernels:
            kernels[node.output[0]] = kernels[node.input[0]]
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    # Sizes that the network computes are known when it runs.
    maps = {name for node in convolutions for name in (node.input[0], node.output[0])}
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in maps - {output.name for output in graph.output})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {each.name: np.zeros((1, each.shape[1], height, width), np.float32) for each in session.get_inputs()}
    found = session.run(sorted(maps), given)
    sizes = {name: values.shape for name, values in zip(sorted(maps), found, strict=True)}
    operations = sum(2 * prod(kernels[node.input[1]]) * prod(sizes[node.output[0]][2:]) for node in convolutions)
    traffic = sum(4 * prod(sizes[name]) for node in convolutions for name in (node.input[0], node.output[0]))
    return Cost(operations / (height * width), traffic / (height * width))


def peaks(device: str, threads: int, *, precision: str = "tf32") -> Peaks:
    """The device's own speeds in `fp32`, `tf32`, `bf16` or `fp16`; on a CPU, `tf32` is float32.

    The operations are those of a matrix product or of a convolution of 3×3, whichever is faster, the best of some runs.
    """
    import torch

    torch.set_num_threads(threads)
    if device == "cuda":
        torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
        torch.backends.cudnn.allow_tf32 = precision != "fp32"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    side, count = _SIDE[device], _BYTES[device] // 4
    left, right = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    maps = torch.rand(_BATCH[device], _CHANNELS, _CHANNELS, _CHANNELS, device=device, dtype=dtype)
    kernel = torch.rand(_CHANNELS, _CHANNELS, 3, 3, device=device, dtype=dtype)
    if device == "cuda":
        maps, kernel = (tensor.to(memory_format=torch.channels_last) for tensor in (maps, kernel))
    source, target = (torch.zeros(count, device=device) for _ in range(2))

    def best(work: Callable[[], object]) -> float:
        taken = []
        for _ in range(_REPEATS + 1):
            began = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - began)
        return min(taken[1:])

    with torch.inference_mode():
        product = 2 * side**3 / best(lambda: left @ right)
        padded = best(lambda: torch.nn.functional.conv2d(maps, kernel, padding=1))
        convolution = 2 * 9 * _CHANNELS * maps.numel() / padded
        return Peaks(max(product, convolution), 8 * count / best(lambda: target.copy_(source)))
