"""Networks in torch: their tensors read from files, and a runner for them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from prn_cli.errors import DeviceError, InputError, PrnError, reason
from prn_cli.methods import recipe_of
from prn_cli.methods.loading import Origin
from prn_cli.methods.recipe import Graph, describe, from_description
from prn_cli.methods.refiner import FloatMap


class TorchRunner:
    """A network in torch, for refiners; see `prn_cli.methods.refiner.Runner`.

    Args:
        network: put into eval mode, and run where its parameters are.
        metadata: of its weights; those of a network without weights if None.
        path: of its file, if there is one.
        origin: what a copy in another process is loaded from; without it, there can be none.
    """

    runs = 1

    def __init__(
        self,
        network: Any,
        *,
        metadata: Mapping[str, str] | None = None,
        path: Path | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.path, self._origin = path, origin
        self.metadata = describe(network) if metadata is None else metadata
        self._where = next(iter(network.parameters())).device
        self.device, self.library = self._where.type, f"torch {torch.__version__}"
        network.eval()
        self._graphs = recipe_of(network.name).graphs(network)
        self.inputs = [name for graph in self._graphs for name in graph.inputs]
        self.outputs = [name for graph in self._graphs for name in graph.outputs]

    def run(self, outputs: Sequence[str], inputs: Mapping[str, FloatMap]) -> list[FloatMap]:
        """Run the graph that gives these outputs.

        Raises:
            PrnError: the network failed, or there is not enough memory.
        """
        shape = "×".join(map(str, next(iter(inputs.values())).shape))
        try:
            return self._run(tuple(outputs), inputs)
        except RuntimeError as error:
            cause = reason(error, lines=1)
            told = cause.lower()  # cuDNN and cuBLAS have their own words for it
            if not isinstance(error, torch.OutOfMemoryError) and not re.search("out of memory|alloc_failed", told):
                raise PrnError(f"the network failed on {self.device} on {shape} pixels: {cause}") from error
            raise PrnError(
                f"not enough memory on {self.device} for a run on {shape} pixels", hint="use a smaller --tile"
            ) from error

    @torch.no_grad()
    def _run(self, outputs: tuple[str, ...], inputs: Mapping[str, FloatMap]) -> list[FloatMap]:
        graph = self.graph_of(outputs)
        # Copies: arrays may be views turned round, or read-only.
        tensors = [torch.from_numpy(np.array(inputs[name], np.float32, order="C")) for name in graph.inputs]
        found = results_of(graph, [tensor.to(self._where) for tensor in tensors])
        return [found[name].float().cpu().numpy() for name in outputs]

    def graph_of(self, outputs: Sequence[str]) -> Graph:
        """The graph that gives these outputs."""
        return next(graph for graph in self._graphs if set(outputs) <= set(graph.outputs))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the origin: another process loads the file itself, and checks that it is the same."""
        if self._origin is None:
            raise TypeError("a network in training cannot be pickled")
        return Origin.again, (self._origin,)


def results_of(graph: Graph, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """The outputs of a graph, by name."""
    found = graph.module(*inputs)
    return dict(zip(graph.outputs, [found] if isinstance(found, Tensor) else found, strict=True))


def load_runner(path: Path, device: str = "auto", *, origin: Origin | None = None) -> TorchRunner:
    """A runner for the network of a `model.safetensors`.

    Args:
        path: of the file.
        device: `auto` takes CUDA where it can be had, else the CPU; `cpu`; `cuda`.
        origin: what a copy in another process is loaded from.

    Raises:
        DeviceError: `cuda` was asked for and cannot be had.
        InputError: see `load_network`.
    """
    where = device_of(device)
    network, description = load_network(path)
    if where.type == "cpu":
        return TorchRunner(network, metadata=description, path=path, origin=origin)
    from prn_cli.methods.cuda_runner import CudaRunner

    return CudaRunner(network.to(where), metadata=description, path=path, origin=origin)


def device_of(name: str) -> torch.device:
    """The device of this name; `auto` is CUDA where it can be had, else the CPU.

    Raises:
        DeviceError: `cuda` was asked for and cannot be had.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"--device cuda, but torch {torch.__version__} sees no CUDA device", hint="see docs/gpu.md")
    return torch.device("cpu" if name == "cpu" or not torch.cuda.is_available() else "cuda")


def load_network(path: Path) -> tuple[Any, dict[str, str]]:
    """The network of a `model.safetensors` with its weights, on the CPU, and its description.

    Raises:
        InputError: the file is not safetensors, or its tensors are not those of the network that it describes.
    """
    tensors, description = load_tensors(path)
    if any(name.startswith("image_path.") for name in tensors):
        raise InputError(
            "weights of an earlier prn, whose network saw images in another way",
            hint="train anew with --images; its model.onnx still refines",
            path=path,
        )
    try:
        network: nn.Module = from_description(description)
        network.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError, PrnError) as error:
        raise InputError(
            f"not weights of a network that prn knows ({reason(error)})",
            hint="give a model.safetensors that prn train or prn weights import wrote",
            path=path,
        ) from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise InputError("has weights that are not finite", hint="get it again, or train anew", path=path)
    return network, description


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a `model.safetensors` by name, and the description of their network.

    Raises:
        InputError: the file is not safetensors, or its description is damaged.
    """
    try:
        tensors, metadata = read_safetensors(path)
        description = json.loads(metadata.get("prn", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"not a safetensors file ({error})", path=path) from error
    if not isinstance(description, dict) or not all(isinstance(value, str) for value in description.values()):
        raise InputError("its description of the network is damaged", hint="get the file again", path=path)
    return tensors, description


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file by name, and its metadata; raises what the library raises."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no mapping)
