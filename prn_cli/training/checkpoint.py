"""The state of a run on disk, as safetensors: no pickle, so nothing in it can run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from prn_cli.errors import InputError
from prn_cli.files.temporaries import write_whole
from prn_cli.methods.networks import Network, from_description
from prn_cli.training.loop import Epoch, State

_GROUPS = ("network", "average", "best")


def save_state(path: Path, state: State, *, fingerprint: str, stage: str = "") -> None:
    """Write the state atomically.

    Args:
        path: of the file; replaced only when the new one is whole.
        state: to write.
        fingerprint: of the settings and data, which `load_state` compares.
        stage: of the run, such as a fold.

    Raises:
        OutputError: the disk is full, or the folder cannot be written to.
    """
    tensors: dict[str, Tensor] = {}
    for group in _GROUPS:
        tensors.update({f"{group}/{name}": tensor.contiguous() for name, tensor in getattr(state, group).items()})
    for index, values in state.optimizer.items():
        tensors.update({f"optimizer/{index}/{key}": value.contiguous() for key, value in values.items()})
    record: dict[str, Any] = {
        "epoch": state.epoch,
        "best_epoch": state.best_epoch,
        "best_iou": state.best_iou,
        "seconds": state.seconds,
        "history": [asdict(epoch) for epoch in state.history],
    }
    record["fingerprint"], record["stage"] = fingerprint, stage
    write_whole(path, save(tensors, metadata={"prn": json.dumps(record)}))


def load_state(path: Path, *, fingerprint: str, stage: str = "") -> State | None:
    """Read what `save_state` wrote; nothing if there is no such file, or if another stage of the run wrote it.

    Raises:
        InputError: if the file is damaged, or belongs to a run with other settings or data.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        record = json.loads(metadata["prn"])
        written_for, written_in = record.pop("fingerprint"), record.pop("stage", None)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"not a state of a training run ({error})", hint="start anew with --overwrite", path=path
        ) from error
    if written_for != fingerprint:
        raise InputError(
            "this run was started with other settings or other data",
            hint="give the same ones to go on, or start anew with --overwrite",
            path=path,
        )
    if written_in != stage:
        return None
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in _GROUPS}
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, rest = name.split("/", 1)
        if group == "optimizer":
            index, key = rest.split("/", 1)
            optimizer.setdefault(int(index), {})[key] = tensor
        else:
            groups[group][rest] = tensor
    history = [Epoch(**epoch) for epoch in record.pop("history")]
    return State(
        network=groups["network"],
        average=groups["average"],
        best=groups["best"],
        optimizer=optimizer,
        history=history,
        **record,
    )


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a `model.safetensors` by name, and the description of their network.

    Raises:
        InputError: if the file is not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {}).get("prn", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"not a safetensors file ({error})", path=path) from error
    if not isinstance(description, dict) or not all(isinstance(value, str) for value in description.values()):
        raise InputError("its description of the network is damaged", hint="get the file again", path=path)
    return tensors, description


def load_network(path: Path) -> tuple[Network, dict[str, str]]:
    """The network of a `model.safetensors` with its weights, on the CPU, and its description.

    Raises:
        InputError: if the file is not safetensors, or its tensors are not those of the network that it describes.
    """
    tensors, description = load_weights(path)
    if any(name.startswith("image_path.") for name in tensors):
        raise InputError(
            "weights of an earlier prn, whose network saw images in another way",
            hint="train anew with --images; its model.onnx still refines",
            path=path,
        )
    try:
        network = from_description(description)
        network.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"not weights of a network that prn knows ({str(error).splitlines()[0]})",
            hint="give a model.safetensors that prn train or prn weights import wrote",
            path=path,
        ) from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise InputError("has weights that are not finite", hint="get it again, or train anew", path=path)
    return network, description


def load_published(path: Path) -> dict[str, Tensor]:
    """Tensors of a published `.th`/`.pth` checkpoint, read without running any code that it may hold.

    Raises:
        InputError: if it is not a checkpoint of tensors alone.
    """
    import pickle

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError("no such file", path=path) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(
            f"not a checkpoint of tensors alone ({reason})",
            hint="give the state dictionary of a published PatchRefineNet, saved by torch.save",
            path=path,
        ) from error
    while isinstance(content, dict) and len(content) < 20:
        inner = [
            content[key] for key in ("state_dict", "model", "model_state_dict") if isinstance(content.get(key), dict)
        ]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(
            f"holds {type(content).__name__}, not a dictionary of tensors",
            hint="give the state dictionary of a published PatchRefineNet",
            path=path,
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
