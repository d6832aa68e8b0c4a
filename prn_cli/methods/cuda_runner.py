"""A network on CUDA in torch, run so that the card does not wait for Python."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from prn_cli.methods.recipe import Graph
from prn_cli.methods.refiner import FloatMap
from prn_cli.methods.shared_runs import Arrays, SharedRuns
from prn_cli.methods.torch_runner import TorchRunner, results_of

_LANES = 2  # while one computes, the other copies
_MOST_SHARED_PIXELS = 1 << 22
_GRAPHS_OF_A_LANE = 8
_recording = threading.Lock()


class CudaRunner(TorchRunner):
    """A network whose weights no longer change, on CUDA.

    Batches that wait share a run. Runs go on in two lanes, each a stream of its own, by way of pinned memory. Shapes
    that come again run as a CUDA graph: a launch of one kernel after the other would wait for the interpreter, which
    the threads that read and write maps keep busy.

    Args:
        network: on CUDA; changed in place.
        precision: float16 or bfloat16 for convolutions; float32 if None.
        graphs: whether to record CUDA graphs.
        more: see `TorchRunner`.
    """

    runs = _LANES

    def __init__(self, network: Any, *, precision: torch.dtype | None = None, graphs: bool = True, **more: Any) -> None:
        fold_norms(network.eval())
        super().__init__(network.to(memory_format=torch.channels_last), **more)
        self.library += f", {torch.cuda.get_device_name(self._where)}"
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        for _ in range(_LANES):
            self._lanes.put(_Lane(self._where, precision, _GRAPHS_OF_A_LANE if graphs else 0))
        self._queue = SharedRuns(self._run_batches, at_once=_LANES, most_pixels=_MOST_SHARED_PIXELS, few_sizes=graphs)

    def _run(self, outputs: tuple[str, ...], inputs: Mapping[str, FloatMap]) -> list[FloatMap]:
        return self._queue.run(outputs, inputs)

    def _run_batches(self, outputs: tuple[str, ...], batches: Sequence[Arrays]) -> list[FloatMap]:
        lane, graph = self._lanes.get(), self.graph_of(outputs)
        try:
            with suppress(torch.OutOfMemoryError):
                return lane.run(graph, outputs, batches)
            # Out here, since the error holds what had been computed: once more with less, one batch after the other.
            lane.forget()
            parts = [lane.run(graph, outputs, [batch]) for batch in batches]
            return [np.concatenate(each) for each in zip(*parts, strict=True)]
        finally:
            self._lanes.put(lane)


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: dict[str, Tensor]


class _Lane:
    """A stream, and the CUDA graphs that were recorded on it, the least recently used first."""

    def __init__(self, device: torch.device, precision: torch.dtype | None, graphs: int) -> None:
        self._device, self._precision, self._most = device, precision, graphs
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # the waiting thread sleeps
        self._recordings: OrderedDict[Any, _Recording | None] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()  # for all of them: one runs after the other
        self._pinned: dict[str, Tensor] = {}

    @torch.no_grad()
    def run(self, graph: Graph, outputs: Sequence[str], batches: Sequence[Arrays]) -> list[FloatMap]:
        """The outputs of a graph for some batches, one after the other in one run."""
        given = [self._gather(name, [batch[name] for batch in batches]) for name in graph.inputs]
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            recording = self._recording_of(graph, [tensor.shape for tensor in given])
            if recording is None:
                found = self._compute(graph, [tensor.to(self._device, non_blocking=True) for tensor in given])
            else:
                for place, tensor in zip(recording.inputs, given, strict=True):
                    place.copy_(tensor, non_blocking=True)
                recording.graph.replay()
                found = recording.outputs
            results = [self._place(name, found[name].shape).copy_(found[name], non_blocking=True) for name in outputs]
            self._done.record(self._stream)
        self._done.synchronize()
        return [result.numpy().copy() for result in results]

    def _gather(self, name: str, parts: Sequence[FloatMap]) -> Tensor:
        """Arrays, joined along their first axis, in memory that the card reads by itself."""
        joined = self._place(name, (sum(map(len, parts)), *parts[0].shape[1:]))
        np.concatenate(parts, out=joined.numpy())
        return joined

    def _place(self, name: str, shape: Sequence[int]) -> Tensor:
        """The lane's own pinned memory for an input or output.

        Handed out, it would be freed in another thread, and torch would then ask this stream, which may be recording.
        """
        count = math.prod(shape)
        if name not in self._pinned or len(self._pinned[name]) < count:
            with _recording:
                self._pinned[name] = torch.empty(count, pin_memory=True)
        return self._pinned[name][:count].view(*shape)

    def _compute(self, graph: Graph, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        with torch.autocast("cuda", dtype=self._precision, enabled=self._precision is not None, cache_enabled=False):
            return results_of(graph, inputs)

    def _recording_of(self, graph: Graph, shapes: Sequence[torch.Size]) -> _Recording | None:
        """The recording for inputs of these shapes, made when they come for the second time; None without one."""
        key = graph.outputs, tuple(shapes)
        if self._most == 0:
            return None
        if key not in self._recordings:
            self._recordings[key] = None
            if len(self._recordings) > self._most:
                self._recordings.popitem(last=False)
            return None
        self._recordings.move_to_end(key)
        found = self._recordings[key] or self._record(graph, shapes)
        if found is None:
            self.forget()
        else:
            self._recordings[key] = found
        return found

    def _record(self, graph: Graph, shapes: Sequence[torch.Size]) -> _Recording | None:
        # Too little memory for a second copy, or a network that asks the card for a number.
        with suppress(RuntimeError):
            recorded = torch.cuda.CUDAGraph()
            inputs = [torch.zeros(shape, device=self._device) for shape in shapes]
            with _recording:
                self._compute(graph, inputs)  # what libraries set up on first use cannot be recorded
                self._stream.synchronize()
                recorded.capture_begin(self._pool, "thread_local")
                try:
                    outputs = self._compute(graph, inputs)
                finally:
                    recorded.capture_end()
            return _Recording(recorded, inputs, outputs)
        return None

    def forget(self) -> None:
        """Give back the memory of what was recorded, and record nothing any more."""
        self._most = 0
        self._recordings.clear()
        with _recording:  # the other lane, if it records, must not see memory freed
            torch.cuda.empty_cache()


def fold_norms(network: nn.Module) -> None:
    """Fold the normalisation after a convolution into its weights, in place; `network` is in eval mode."""
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for place, (first, second) in enumerate(pairwise(list(module))):
            if type(first) is nn.Conv2d and type(second) is nn.BatchNorm2d:
                module[place], module[place + 1] = fuse_conv_bn_eval(first, second), nn.Identity()
