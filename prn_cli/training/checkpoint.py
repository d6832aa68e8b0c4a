"""The state of a run on disk, as safetensors: no pickle, so nothing in it can run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from prn_cli.errors import InputError
from prn_cli.execution.watch import Epoch
from prn_cli.files.temporaries import write_whole
from prn_cli.methods.torch_runner import read_safetensors
from prn_cli.training.loop import State

_GROUPS = ("network", "average", "best", "objective")


def save_state(path: Path, state: State, *, fingerprint: Mapping[str, str], spent: float = 0.0) -> None:
    """Write the state atomically.

    Args:
        path: of the file; replaced only when the new one is whole.
        state: to write.
        fingerprint: settings and data, by what users call them, which `load_state` compares.
        spent: seconds that the whole run has taken so far.

    Raises:
        OutputError: the disk is full, or the folder cannot be written to.
    """
    tensors: dict[str, Tensor] = {}
    for group in _GROUPS:
        tensors.update({f"{group}/{name}": tensor.contiguous() for name, tensor in getattr(state, group).items()})
    for index, values in state.optimizer.items():
        tensors.update({f"optimizer/{index}/{key}": value.contiguous() for key, value in values.items()})
    if state.counts is not None:
        tensors["counts/counts"] = torch.from_numpy(state.counts)
    record = {
        "fingerprint": dict(fingerprint),
        "spent": spent,
        "epoch": state.epoch,
        "steps": state.steps,
        "total": state.total,
        "late": state.late,
        "best_epoch": state.best_epoch,
        "best_iou": state.best_iou,
        "seconds": state.seconds,
        "history": [asdict(epoch) for epoch in state.history],
    }
    write_whole(path, save(tensors, metadata={"prn": json.dumps(record)}))


def load_state(path: Path, *, fingerprint: Mapping[str, str]) -> tuple[State, float] | None:
    """Read what `save_state` wrote: the state, and the seconds that the run had taken; nothing without such a file.

    Raises:
        InputError: if the file is damaged, or belongs to a run with other settings or data.
    """
    if not path.exists():
        return None
    try:
        tensors, metadata = read_safetensors(path)
        record = json.loads(metadata["prn"])
        written_for, spent = dict(record.pop("fingerprint")), float(record.pop("spent"))
        history = [Epoch(**epoch | {"gain": epoch["gain"] and tuple(epoch["gain"])}) for epoch in record.pop("history")]
        groups: dict[str, dict[str, Tensor]] = {group: {} for group in _GROUPS}
        optimizer: dict[int, dict[str, Tensor]] = {}
        counts = tensors.pop("counts/counts", None)
        for name, tensor in tensors.items():
            group, rest = name.split("/", 1)
            if group == "optimizer":
                index, key = rest.split("/", 1)
                optimizer.setdefault(int(index), {})[key] = tensor
            else:
                groups[group][rest] = tensor
        found = None if counts is None else counts.numpy()
        state = State(**groups, optimizer=optimizer, history=history, counts=found, **record)  # type: ignore[arg-type]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"not a state of a training run ({error})", hint="start anew with --overwrite", path=path
        ) from error
    others = [
        f"{name} {written_for[name]}, not {value}" if name.startswith("--") and name in written_for else name
        for name, value in fingerprint.items()
        if written_for.get(name) != value
    ]
    if others:
        raise InputError(
            f"this run was started with other settings or other data: {'; '.join(others[:3])}",
            hint="give the same ones to go on, or start anew with --overwrite",
            path=path,
        )
    return state, spent
