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

import onnx
import torch
from safetensors.torch import save
from torch import Tensor, nn

from prn_cli.errors import OutputError
from prn_cli.files.temporaries import write_whole
from prn_cli.methods.fast.network import FastNetwork
from prn_cli.methods.networks import Network

OPSET = 18
LEARNED = ("prn.strength", "prn.threshold", "prn.reference")
"""Metadata that come from training and not from the network."""


class _Bias(nn.Module):
    """What `fast` exports: its bias map, so that the addition stays in float32 and the map can be written out."""

    def __init__(self, network: FastNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *planes: Tensor) -> Tensor:
        return self.network.bias(planes[0] if len(planes) == 1 else torch.cat(planes, 1))


class _Probabilities(nn.Module):
    """What `paper` exports: probabilities in, those of each decoder out, as published."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, probabilities: Tensor) -> tuple[Tensor, ...]:
        return self.network.probabilities(probabilities)  # type: ignore[no-any-return,operator]


def export(
    network: Network,
    folder: Path,
    *,
    stem: str = "model",
    card: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write the network's three files into `folder`, each atomically.

    Args:
        network: in any mode; it is exported in eval mode, on the CPU.
        folder: exists.
        stem: of the files' names.
        card: what to say of the weights: data, settings, figures.
        metadata: what a refiner must know beyond the network, such as `prn.strength`; in place of the defaults.

    Returns:
        The card as written, with the files' names and sha256.
    """
    network = network.cpu().eval()
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
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


def describe(network: Network) -> dict[str, str]:
    """What a refiner must know of a network, as the metadata of its files."""
    fast = isinstance(network, FastNetwork)
    described = {
        "prn.format": "1",
        "prn.network": network.name,
        "prn.multiple": str(network.multiple),
        "prn.halo": str(network.halo),
        "prn.tile": str(network.tile),
        "prn.patch": str(0 if fast else network.patch),
        "prn.width": str(network.width if isinstance(network, FastNetwork) else 0),
        "prn.keep_level": str(int(isinstance(network, FastNetwork) and network.keep_level)),
        "prn.strength": "1",
        "prn.threshold": "0.5",
    }
    if isinstance(network, FastNetwork) and network.edge_path is not None:
        described["prn.image_channels"] = str(network.image_channels)
        described["prn.image_mean"] = _numbers(network.edge_path.centre)
        described["prn.image_std"] = _numbers(network.edge_path.spread)
    return described


def _numbers(values: Tensor) -> str:
    return " ".join(f"{value:.9g}" for value in values.flatten().tolist())


def to_onnx(network: Network, description: Mapping[str, str] | None = None) -> bytes:
    """The network as ONNX, for any batch and any size that is a multiple of `network.multiple`.

    Args:
        network: on the CPU.
        description: its metadata; `describe(network)` if None.

    Raises:
        OutputError: there is no room for a temporary file.
    """
    fast = isinstance(network, FastNetwork)
    module = (_Bias(network) if isinstance(network, FastNetwork) else _Probabilities(network)).eval()
    side = 2 * network.multiple
    examples = [torch.zeros(2, 1, side, 2 * side)]
    outputs = ["bias"] if fast else ["global", "local"][: 1 + bool(network.patch)]
    names = ["logits" if fast else "probabilities"]
    if isinstance(network, FastNetwork) and network.image_channels:
        names.append("image")
        examples.append(torch.zeros(2, network.image_channels, side, 2 * side))
    axes = {0: "n", 2: "h", 3: "w"}
    with _silence(), _temporary_folder() as folder:
        path = folder / "network.onnx"
        torch.onnx.export(
            module,
            tuple(examples),
            path,
            input_names=names,
            output_names=outputs,
            dynamic_axes=dict.fromkeys([*names, *outputs], axes),
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(description or describe(network)))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


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
