"""What torch runs on: device, threads, seed; and its log for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from prn_cli.errors import DeviceError, MissingExtraError


def set_up(device: str, *, threads: int, seed: int) -> torch.device:
    """Choose the device, and set the threads and the seed of this process.

    Args:
        device: `auto` takes CUDA where it can be had, else the CPU; `cpu`; `cuda`.
        threads: of the CPU.
        seed: of what torch draws, such as a network's first weights.

    Raises:
        DeviceError: `cuda` was asked for and cannot be had.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda, but this PyTorch sees no CUDA device",
            hint="use --device cpu, or install a CUDA build of torch and a driver",
        )
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def tensorboard_log(folder: Path) -> Any:
    """A context manager with `add_scalar(name, value, step)`.

    Raises:
        MissingExtraError: without TensorBoard.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train", "--tensorboard") from error
    return SummaryWriter(str(folder))
