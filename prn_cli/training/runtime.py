"""What torch runs on: device, threads, seed; and its log for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from prn_cli.errors import MissingExtraError, OutputError
from prn_cli.methods.torch_runner import device_of
from prn_cli.training import parallel


def set_up(device: str, *, threads: int, seed: int) -> torch.device:
    """Choose the device, set the threads and the seed of this process, and meet the others if `torchrun` started it.

    Args:
        device: `auto` takes CUDA where it can be had, else the CPU; `cpu`; `cuda`.
        threads: of the CPU.
        seed: of what torch draws, such as a network's first weights.

    Raises:
        DeviceError: `cuda` was asked for and cannot be had.
        PrnError: the other processes cannot be met.
    """
    found = device_of(device)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    if found.type == "cuda":
        found = torch.device("cuda", parallel.local_rank() % torch.cuda.device_count())
        torch.cuda.set_device(found)
    parallel.join(found)
    return found


def use_threads(count: int) -> None:
    """Let each of torch's calls use so many threads."""
    torch.set_num_threads(count)


def reduced_precision(device: torch.device) -> torch.dtype | None:
    """The type in which convolutions are trained where that is faster: float16 on CUDA, bfloat16 on CPUs with it."""
    if device.type == "cuda":
        return torch.float16
    has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # of PyTorch, and not promised by it
    return torch.bfloat16 if has_bfloat16() else None


def tensorboard_log(folder: Path) -> Any:
    """A context manager with `add_scalar(name, value, step)`.

    Raises:
        MissingExtraError: without TensorBoard.
        OutputError: the folder cannot be written to.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train", "--tensorboard") from error
    try:
        return SummaryWriter(str(folder))
    except OSError as error:
        raise OutputError.because(error, folder) from error
