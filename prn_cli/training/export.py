"""A trained network as files: `model.safetensors`, `model.onnx`, and the card `model.json` that seals both."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.torch import save
from torch import Tensor

from prn_cli.errors import OutputError
from prn_cli.files.temporaries import write_whole
from prn_cli.methods import recipe_of
from prn_cli.methods.recipe import Graph, describe

OPSET = 18
_AXES = {0: "n", 2: "h", 3: "w"}  # that are free
LEARNED = ("prn.strength", "prn.threshold", "prn.level", "prn.reference", "prn.evidence")
"""Metadata that come from training and not from the network."""


def export(
    network: Any,
    folder: Path,
    *,
    stem: str = "model",
    card: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write the network's three files into `folder`, each atomically.

    Args:
        network: of any method, in any mode; it is exported in eval mode, on the CPU.
        folder: exists.
        stem: of the files' names.
        card: what to say of the weights: data, settings, figures.
        metadata: what a refiner must know beyond the network, such as `prn.strength`; in place of the defaults.

    Returns:
        The card as written, with the files' names and sha256.
    """
    network = network.cpu().eval()
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    if recipe_of(network.name).half_precision:
        tensors = {name: tensor.half() if _is_large(tensor) else tensor for name, tensor in tensors.items()}
        network.load_state_dict(tensors)  # both files hold the same numbers
    description = describe(network) | dict(metadata or {})
    files = {}
    # One entry of metadata: the library writes several in an order that changes from run to run.
    contents = {
        "safetensors": save(tensors, metadata={"prn": json.dumps(description)}),
        "onnx": to_onnx(network, description),
    }
    for suffix, content in contents.items():
        path = folder / f"{stem}.{suffix}"
        files[suffix] = {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
        write_whole(path, content)
    written = {"files": files, **{key.removeprefix("prn."): value for key, value in description.items()}, **card}
    write_whole(folder / f"{stem}.json", f"{json.dumps(written, indent=2)}\n".encode())
    return written


def to_onnx(network: Any, description: Mapping[str, str] | None = None) -> bytes:
    """The network as ONNX, for any batch and any size that is a multiple of `network.multiple`.

    Args:
        network: of any method, on the CPU.
        description: its metadata; `describe(network)` if None.

    Raises:
        OutputError: there is no room for a temporary file.
    """
    first, *others = (_graph_to_onnx(graph) for graph in recipe_of(network.name).graphs(network))
    for number, other in enumerate(others, 1):
        _join(first.graph, onnx.compose.add_prefix(other, f"{number}/", rename_inputs=False, rename_outputs=False))
    if recipe_of(network.name).half_precision:
        _halve(first.graph)
    onnx.helper.set_model_props(first, dict(description or describe(network)))
    onnx.checker.check_model(first)
    return bytes(first.SerializeToString())


def _graph_to_onnx(graph: Graph) -> Any:
    module = graph.module.eval()
    with torch.no_grad():
        found = module(*graph.examples)
    tensors = (*graph.examples, *((found,) if isinstance(found, Tensor) else found))
    names = (*graph.inputs, *graph.outputs)
    axes = {name: _AXES if tensor.ndim == 4 else {0: "n"} for name, tensor in zip(names, tensors, strict=True)}
    with _silence(), _temporary_folder() as folder:
        path = folder / "network.onnx"
        torch.onnx.export(
            module,
            graph.examples,
            path,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        return onnx.load(path)


def _is_large(tensor: Tensor) -> bool:
    """Whether a tensor is one whose digits matter less than its size: the weights of a convolution."""
    return tensor.is_floating_point() and tensor.ndim == 4


def _halve(graph: Any) -> None:
    """Hold the weights of convolutions in float16, and make float32 of them when the file is loaded."""
    casts = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim != 4:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}/half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}/half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _join(graph: Any, other: Any) -> None:
    """Put another graph, whose names are its own, beside a graph."""
    for part in ("node", "initializer", "input", "output", "value_info"):
        getattr(graph, part).extend(getattr(other.graph, part))


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    except OSError as error:
        raise OutputError(
            f"the export to ONNX failed: {error.strerror or error}", hint="check the free space, or set TMPDIR"
        ) from error


@contextlib.contextmanager
def _silence() -> Any:
    """The exporter talks of itself on stdout, in warnings and in logs; none of it is about the user's data."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        level = logging.getLogger("torch.onnx").level
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
