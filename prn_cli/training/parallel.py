"""Several processes that train one network, as `torchrun` starts them: each has its share of every batch.

The run is that of one process, but for the order in which floats are added. All processes draw the same batches from
the same seed and take their rows of them; batch normalisation sees the whole batch; the loss is that of the whole
batch, on every process; gradients are averaged; held-out maps are shared out and their counts put together. What is
not shared out is computed by each process alike. Without `torchrun`, nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prn_cli.errors import InputError, PrnError, reason

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S", bound=Any)


def launched() -> bool:
    """Whether `torchrun` started this process: as one of several, or alone, which tries the same on one device."""
    count = os.environ.get("WORLD_SIZE", "")
    several = count.isdecimal() and int(count) > 1
    return dist.is_available() and (several or "TORCHELASTIC_RUN_ID" in os.environ)


def local_rank() -> int:
    """Number of this process among those on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_size() -> int:
    """How many processes there are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def join(device: torch.device) -> None:
    """Meet the other processes.

    Args:
        device: where this process trains: NCCL for CUDA, else gloo.

    Raises:
        PrnError: they cannot be met.
    """
    if not launched() or dist.is_initialized():
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise PrnError(
            f"the other processes cannot be met: {reason(error, lines=1)}",
            hint="start all of them with one torchrun line",
        ) from error


def leave() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0. Process 0 alone writes and speaks."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(items: S) -> S:
    """This process's share of a sequence, or of the rows of an array: every `size()`-th."""
    return items[rank() :: size()]  # type: ignore[no-any-return]


def spread(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The results of some work on every item, each done by one process, in the order of the items; the same everywhere.

    Raises:
        PrnError: what one process met, on all of them.
    """
    done: list[R] = []
    failure: PrnError | None = None
    try:
        done = [work(item) for item in share(items)]
    except PrnError as error:
        failure = error
    parts: list[Any] = [(done, failure)]
    if size() > 1:
        parts = [None] * size()
        dist.all_gather_object(parts, (done, failure))
    for _, failure in parts:
        if failure is not None:
            raise failure
    return [parts[index % size()][0][index // size()] for index in range(len(items))]


def agreed(value: T) -> T:
    """The value that process 0 has."""
    if size() == 1:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[no-any-return]


def check_same(value: str, what: str) -> None:
    """Check that all processes have one value.

    Raises:
        InputError: on every process, if they have not.
    """
    values: list[Any] = [value]
    if size() > 1:
        values = [None] * size()
        dist.all_gather_object(values, value)
    others = [number for number, found in enumerate(values) if found != values[0]]
    if others:
        raise InputError(
            f"process {others[0]} of {size()} has {what} other than those of process 0",
            hint="give all machines the same files and the same options",
        )


def lost(error: RuntimeError) -> bool:
    """Whether an error says that another process has ended, or cannot be reached."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def average_gradients(module: nn.Module) -> None:
    """Give the parameters of a module that each process runs on the whole batch one gradient everywhere."""
    for parameter in module.parameters():
        if size() > 1 and parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= size()


class _WholeBatchNorm(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all processes' rows; torch has this for GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        count = x.numel() // x.shape[1] * size()
        values = x.float()
        mean = _sum_over(values) / count
        centred = values - mean[:, None, None]
        variance = _sum_over(centred * centred) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / max(count - 1, 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def _sum_over(values: Tensor) -> Tensor:
    from torch.distributed.nn.functional import all_reduce  # which torch is not always built with

    return all_reduce(values.sum((0, 2, 3)))  # type: ignore[no-any-return, no-untyped-call]


class _Loss(nn.Module):
    def __init__(self, network: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, *batch: Tensor) -> Tensor:
        return self.loss(*batch)


def data_parallel(network: nn.Module, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss whose gradients are averaged over all processes.

    Args:
        network: that `loss` runs; changed in place, so that its batch normalisation sees the whole batch.
        loss: of tensors, through `network`. It must give the same value on every process: its predictions have
            passed through `whole`.

    Returns:
        `loss` itself without `torchrun`.
    """
    if not dist.is_initialized():
        return loss
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _WholeBatchNorm
    return nn.parallel.DistributedDataParallel(_Loss(network, loss))


def whole(rows: Tensor) -> Tensor:
    """The rows (N, …) of all processes, in the order of the batch from which `share` took them."""
    if not dist.is_initialized():
        return rows
    from torch.distributed.nn.functional import all_gather

    # Its gradient is the sum over the processes, by whose number those of the weights will be divided.
    return torch.stack(all_gather(rows.contiguous()), 1).flatten(0, 1)  # type: ignore[no-untyped-call]
