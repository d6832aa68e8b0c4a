"""A network loaded into onnxruntime. The only module that imports it, and only when a session is made: it is slow."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import platform
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import DeviceError, PrnError, WeightsError
from prn_cli.execution.cores import core_count
from prn_cli.methods.onnx_file import refuse_external_data
from prn_cli.methods.weights import sha256_of, shipped

if TYPE_CHECKING:
    import onnxruntime

# On the CPU, batches pay for small maps only: a run on 32×32 px takes half as long a pixel with others, on 128×128 px
# as long as alone. On a GPU a single window leaves most of the machine idle.
_MOST_SHARED_PIXELS = {"cpu": 1 << 15, "cuda": 1 << 22}
_MOST_RUNS = 4  # at once, on the CPU
_SILENT = 4  # onnxruntime's "fatal only": what goes wrong is raised, and said once, by us


class Session:
    """An ONNX model, ready to run; see `prn_cli.methods.refiner.Runner`.

    A run has the device's memory, or an equal part of the cores, to itself.
    """

    def __init__(self, path: Path, *, device: str = "auto", threads: int = 0, side_by_side: bool = False) -> None:
        """Load a model.

        Args:
            path: the ONNX file.
            device: `cpu`, `cuda`, or `auto`: CUDA where it works, else the CPU.
            threads: on the CPU; 0 for as many as cores.
            side_by_side: share the threads out among up to four runs at once, instead of giving all of them to one
                run after another. That is faster wherever several threads call `run`, and takes memory for each run.

        Raises:
            DeviceError: `cuda` was asked for and cannot be had.
            WeightsError: not an ONNX model, or a damaged one.
        """
        runtime = _runtime()
        self.path = path
        try:
            model = path.read_bytes()
        except OSError as error:
            raise WeightsError(f"cannot be read: {error.strerror}", hint="check the file", path=path) from error
        refuse_external_data(model, path)
        self._origin = (path.absolute(), hashlib.sha256(model).hexdigest(), device, threads, side_by_side)
        cause = "" if device == "cpu" else _cuda_obstacle(runtime)
        session = None
        threads = threads or core_count()
        if device != "cpu" and not cause:
            session, cause = self._on_cuda(runtime, model, threads)
        if session is None and device == "cuda":
            raise DeviceError(f"CUDA cannot be used: {cause}", hint="check the driver, or use --device cpu")
        self.device = "cpu" if session is None else "cuda"
        self.runs = min(threads, _MOST_RUNS) if side_by_side and session is None else 1
        self._session = session or self._create(runtime, model, ["CPUExecutionProvider"], threads // self.runs)
        self._queue = SharedRuns(self._run_once, self.runs, _MOST_SHARED_PIXELS[self.device])
        try:
            self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
            # An input that a run does not need is given in the smallest shape.
            self._least = {
                node.name: np.zeros([side if isinstance(side, int) else 1 for side in node.shape], np.float32)
                for node in self._session.get_inputs()
            }
            self.inputs = list(self._least)
            self.outputs = [node.name for node in self._session.get_outputs()]
        except UnicodeDecodeError as error:
            raise self._damaged(error) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the session was made from: another process loads the file itself, and checks that it is the same.

        The device and the threads are as they were asked for, so `auto` and 0 are those of the other process.
        """
        return _same_session, self._origin

    def _on_cuda(self, runtime: Any, model: bytes, threads: int) -> tuple[onnxruntime.InferenceSession | None, str]:
        # Maps differ in size, so an exhaustive search of algorithms for each size would cost more than it gains.
        providers = [("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}), "CPUExecutionProvider"]
        try:
            session = self._create(runtime, model, providers, threads)
        except WeightsError:
            raise
        except Exception as error:
            return None, _first_line(error)
        # onnxruntime falls back to the CPU on its own where the libraries of CUDA are missing.
        if session.get_providers()[0] != "CUDAExecutionProvider":
            return None, "onnxruntime could not load the CUDA and cuDNN libraries"
        return session, ""

    def _create(self, runtime: Any, model: bytes, providers: list[Any], threads: int) -> onnxruntime.InferenceSession:
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # no faster for maps of many sizes, and nearly twice the memory
        state = runtime.capi.onnxruntime_pybind11_state
        try:
            # The fallback of the Python layer prints to stdout, which belongs to results.
            with contextlib.redirect_stdout(io.StringIO()):
                return runtime.InferenceSession(model, options, providers=providers)
        except (
            state.InvalidProtobuf,
            state.InvalidGraph,
            state.InvalidArgument,
            state.NoModel,
            UnicodeDecodeError,
        ) as error:
            raise self._damaged(error) from error
        except (state.Fail, state.RuntimeException, state.NotImplemented, state.EPFail) as error:
            if providers != ["CPUExecutionProvider"]:
                raise
            raise WeightsError(
                f"onnxruntime {runtime.__version__} cannot run it: {_first_line(error)}",
                hint="update onnxruntime, or export the model again",
                path=self.path,
            ) from error

    def _damaged(self, error: BaseException) -> WeightsError:
        return WeightsError(
            f"not an ONNX model, or a damaged one: {_first_line(error)}", hint="get it again", path=self.path
        )

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Run what the outputs need of the network. Small batches of several threads may share a run.

        Raises:
            PrnError: the network failed, or there is not enough memory.
        """
        try:
            return self._queue.run(tuple(outputs), inputs)
        except Exception as error:
            shape = "×".join(str(side) for side in next(iter(inputs.values())).shape)
            text = str(error).lower()
            if "allocate" in text or "out of memory" in text or "bad_alloc" in text:
                raise PrnError(
                    f"not enough memory on {self.device} for a run on {shape} pixels", hint="use a smaller --tile"
                ) from error
            raise PrnError(f"the network {self.path.name} failed on {shape} pixels: {_first_line(error)}") from error

    def _run_once(
        self, outputs: tuple[str, ...], inputs: Mapping[str, NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        if len(inputs) == len(self._least):
            return list(self._session.run(list(outputs), dict(inputs)))
        options = _runtime().RunOptions()
        options.only_execute_path_to_fetches = True
        return list(self._session.run(list(outputs), self._least | dict(inputs), options))


class SharedRuns:
    """Lets so many runs go on at once; batches of the same shape that wait meanwhile share the next one.

    Args:
        run: from names of outputs and inputs, whose first axis is the batch's, to outputs.
        at_once: how many may go on.
        most_pixels: how many pixels of several batches may share a run.
    """

    def __init__(
        self,
        run: Callable[[tuple[str, ...], Mapping[str, NDArray[np.float32]]], list[NDArray[np.float32]]],
        at_once: int,
        most_pixels: int,
    ) -> None:
        self._run = run
        self._most_pixels = most_pixels
        self._slots = threading.BoundedSemaphore(at_once)
        self._lock = threading.Lock()
        self._waiting: list[_Request] = []

    def run(self, outputs: tuple[str, ...], inputs: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Run a batch, alone or with others."""
        own = _Request(outputs, inputs)
        with self._lock:
            self._waiting.append(own)
        with self._slots:
            with self._lock:
                taken = self._take(own)
            if taken:
                self._run_all(taken)
        return own.results.result()  # whoever took this batch along may not be through with it

    def _take(self, own: _Request) -> list[_Request]:
        """The batches of the next run; none if another run has taken this one along."""
        if own not in self._waiting:
            return []
        most = max(self._most_pixels // own.pixels, 1)
        taken = [own, *[other for other in self._waiting if other is not own and other.kind == own.kind][: most - 1]]
        self._waiting = [other for other in self._waiting if other not in taken]
        return taken

    def _run_all(self, requests: list[_Request]) -> None:
        first = requests[0]
        try:
            if len(requests) == 1:
                first.results.set_result(self._run(first.outputs, first.inputs))
                return
            joined = {name: np.concatenate([each.inputs[name] for each in requests]) for name in first.inputs}
            results = self._run(first.outputs, joined)
            cuts = np.cumsum([each.count for each in requests])[:-1]
            for each, *parts in zip(requests, *(np.split(result, cuts) for result in results), strict=True):
                each.results.set_result(parts)
        except BaseException as error:
            for each in requests:
                each.results.set_exception(error)


class _Request:
    """A batch that waits for its run."""

    def __init__(self, outputs: tuple[str, ...], inputs: Mapping[str, NDArray[np.float32]]) -> None:
        self.outputs, self.inputs = outputs, inputs
        first = next(iter(inputs.values()))
        self.count, self.pixels = len(first), first.size
        self.kind = outputs, tuple((name, array.shape) for name, array in inputs.items())
        self.results: Future[list[NDArray[np.float32]]] = Future()


_loading = threading.Lock()


def _same_session(path: Path, sha256: str, device: str, threads: int, side_by_side: bool) -> Session:
    """The session that was pickled, one a process.

    Raises:
        WeightsError: neither this path nor the weights shipped with prn have that sha256 here.
    """
    with _loading:
        return _load_same(path, sha256, device, threads, side_by_side)


@lru_cache(maxsize=4)
def _load_same(path: Path, sha256: str, device: str, threads: int, side_by_side: bool) -> Session:
    here = [weights.path for weights in shipped() if weights.sha256 == sha256]
    for place in (path, *here):
        if place.is_file() and sha256_of(place) == sha256:
            return Session(place, device=device, threads=threads, side_by_side=side_by_side)
    found = f"sha256 is {sha256_of(path)}" if path.is_file() else "no such file"
    raise WeightsError(
        f"{found} on {platform.node()}, expected sha256 {sha256}",
        hint="put the weights on a file system that all machines share",
        path=path,
    )


@cache
def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"onnxruntime cannot be imported: {_first_line(error)}", hint="pip install --force-reinstall onnxruntime"
        ) from error
    onnxruntime.set_default_logger_severity(_SILENT)
    return onnxruntime


def _cuda_obstacle(runtime: Any) -> str:
    """Why CUDA cannot be used, as far as that shows without loading its libraries; empty if nothing does."""
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        return "this onnxruntime has no CUDA support (the package onnxruntime-gpu has)"
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(driver)
        count = ctypes.c_int(0)
        if library.cuInit(0) != 0 or library.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
            return "the NVIDIA driver finds no device"
    except OSError:
        return f"no NVIDIA driver ({driver})"
    # CUDA and cuDNN may lie in pip packages, where the loader does not look on its own. It prints what it misses.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        runtime.preload_dlls(directory="")
    return ""


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Without onnxruntime's own preamble, "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : ".
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0])[:300] if lines else type(error).__name__
