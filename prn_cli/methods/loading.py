"""Weights to a runner: which library runs them, and where. Each library is imported only when it is its turn."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from prn_cli.errors import DeviceError, PrnError, WeightsError, reason
from prn_cli.execution.watch import SILENT, Watch
from prn_cli.methods.weights import Weights, described, sha256_of, shipped_with, tensors_beside

if TYPE_CHECKING:
    from prn_cli.methods.refiner import Runner

_HINT = "see docs/gpu.md, or use --device cpu"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a runner was loaded from, and how it was asked for: enough to load the same in another process.

    Attributes:
        path: of the weights.
        sha256: of that file.
        device: `auto`, `cpu` or `cuda`.
        threads: on the CPU; 0 for as many as cores.
        side_by_side: whether several runs go on at once on the CPU.
    """

    path: Path
    sha256: str
    device: str
    threads: int = 0
    side_by_side: bool = False

    def again(self) -> Runner:
        """The runner of this origin, one a process. `auto` and 0 threads are those of this process.

        Raises:
            WeightsError: neither this path nor the weights shipped with prn have that sha256 here.
        """
        with _loading:
            return _load_again(self)


_loading = threading.Lock()


@lru_cache(maxsize=4)
def _load_again(origin: Origin) -> Runner:
    path, sha256 = origin.path, origin.sha256
    for weights in (*shipped_with(sha256), described(path)):
        if weights.path.is_file() and sha256_of(weights.path) == sha256:
            return load_runner(
                replace(weights, sha256=sha256),
                device=origin.device,
                threads=origin.threads,
                side_by_side=origin.side_by_side,
            )
    found = f"sha256 is {sha256_of(path)}" if path.is_file() else "no such file"
    raise WeightsError(
        f"{found} on {platform.node()}, expected sha256 {sha256}",
        hint="put the weights on a file system that all machines share",
        path=path,
    )


def load_runner(
    weights: Weights, *, device: str = "auto", threads: int = 0, side_by_side: bool = False, watch: Watch = SILENT
) -> Runner:
    """Load weights to be run: ONNX by onnxruntime, or by PyTorch where it alone has CUDA; tensors by PyTorch.

    Args:
        weights: found and verified.
        device: `cpu`, `cuda`, or `auto`: CUDA where one of the libraries has it, else the CPU.
        threads: on the CPU; 0 for as many as cores.
        side_by_side: several runs at once on the CPU, see `Session`.
        watch: hears why `auto` takes the CPU.

    Raises:
        DeviceError: `cuda` was asked for and cannot be had.
        WeightsError: not a model, or a damaged one.
    """
    origin = Origin(weights.path.absolute(), weights.sha256, device, threads, side_by_side)
    if weights.path.suffix.lower() == ".safetensors":
        return _by_torch(weights.path, origin)
    from prn_cli.methods.session import Session

    session = partial(Session, weights.path, threads=threads, side_by_side=side_by_side, origin=origin)
    if device == "cpu":
        return session(device="cpu")
    obstacles = []
    cause = driver_obstacle()
    if cause:
        obstacles.append(cause)
    else:
        for library, load in (
            ("onnxruntime", partial(session, device="cuda")),
            ("PyTorch", partial(_cuda_by_torch, weights, origin)),
        ):
            try:
                return load()
            except DeviceError as error:
                obstacles.append(f"{library}: {error.message}")
    if device == "cuda":
        raise DeviceError(f"CUDA cannot be used: {'; '.join(obstacles)}", hint=_HINT)
    watch.detail(f"not on CUDA: {'; '.join(obstacles)}")
    return session(device="cpu")


def _cuda_by_torch(weights: Weights, origin: Origin) -> Runner:
    """The runner of the tensors beside ONNX weights, on CUDA.

    Raises:
        DeviceError: PyTorch is not there or has no CUDA, or the weights have no tensors.
    """
    if find_spec("torch") is None:
        raise DeviceError("not installed (the extra 'train' has it)")
    try:
        tensors = tensors_beside(weights)
        return _by_torch(tensors.path, origin, device="cuda")
    except (ImportError, OSError) as error:
        raise DeviceError(f"cannot be imported ({reason(error, lines=1)})") from error
    except PrnError as error:
        raise DeviceError(error.message) from error
    except RuntimeError as error:  # no memory left for the network, or a card that this build has no kernels for
        raise DeviceError(reason(error, lines=1)) from error


def _by_torch(path: Path, origin: Origin, device: str = "") -> Runner:
    # By name: refining needs no torch, unless it is asked for.
    module = import_module("prn_cli.methods.torch_runner")
    return cast("Runner", module.load_runner(path, device or origin.device, origin=origin))


def driver_obstacle() -> str:
    """Why no library can use CUDA here, as far as the driver knows; empty if nothing stands in the way."""
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(driver)
        count = ctypes.c_int(0)
        if library.cuInit(0) != 0 or library.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
            chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
            among = "" if chosen is None else f" among CUDA_VISIBLE_DEVICES={chosen!r}"
            return f"the NVIDIA driver finds no device{among}"
    except OSError:
        return f"no NVIDIA driver ({driver})"
    return ""
