"""A network loaded into onnxruntime. The only module that imports it, and only when a session is made: it is slow."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import DeviceError, PrnError, WeightsError
from prn_cli.execution.cores import core_count
from prn_cli.methods.loading import Origin
from prn_cli.methods.onnx_file import refuse_external_data
from prn_cli.methods.shared_runs import Arrays, Results, SharedRuns

if TYPE_CHECKING:
    import onnxruntime

# On the CPU, batches pay for small maps only: a run on 32×32 px takes half as long a pixel with others, on 128×128 px
# as long as alone. On a GPU a single window leaves most of the machine idle.
_MOST_SHARED_PIXELS = {"cpu": 1 << 15, "cuda": 1 << 22}
_MOST_RUNS = 4  # at once, on the CPU
_REINSTALL = "pip install --force-reinstall --no-deps"
_SILENT = 4  # onnxruntime's "fatal only": what goes wrong is raised, and said once, by us


class Session:
    """An ONNX model, ready to run; see `prn_cli.methods.refiner.Runner`.

    A run has the device's memory, or an equal part of the cores, to itself.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str = "cpu",
        threads: int = 0,
        side_by_side: bool = False,
        origin: Origin | None = None,
    ) -> None:
        """Load a model.

        Args:
            path: the ONNX file.
            device: `cpu` or `cuda`.
            threads: on the CPU; 0 for as many as cores.
            side_by_side: share the threads out among up to four runs at once, instead of giving all of them to one
                run after another. That is faster wherever several threads call `run`, and takes memory for each run.
            origin: what a copy in another process is loaded from; this file, if None.

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
        sha256 = hashlib.sha256(model).hexdigest()
        self._origin = origin or Origin(path.absolute(), sha256, device, threads, side_by_side)
        self.device, self.library = device, f"onnxruntime {runtime.__version__}"
        threads = threads or core_count()
        if device == "cuda":
            self.runs, self._session = 1, self._on_cuda(runtime, model, threads)
        else:
            self.runs = min(threads, _MOST_RUNS) if side_by_side else 1
            self._session = self._create(runtime, model, ["CPUExecutionProvider"], threads // self.runs)
        self._queue = SharedRuns(self._run_once, at_once=self.runs, most_pixels=_MOST_SHARED_PIXELS[device])
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
        return Origin.again, (self._origin,)

    def _on_cuda(self, runtime: Any, model: bytes, threads: int) -> onnxruntime.InferenceSession:
        cause = _cuda_obstacle(runtime)
        if cause:
            raise DeviceError(cause)
        # Maps differ in size, so an exhaustive search of algorithms for each size would cost more than it gains.
        providers = [("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}), "CPUExecutionProvider"]
        try:
            session = self._create(runtime, model, providers, threads)
        except WeightsError:
            raise
        except Exception as error:
            raise DeviceError(_first_line(error)) from error
        # onnxruntime falls back to the CPU on its own where the libraries of CUDA are missing.
        if session.get_providers()[0] != "CUDAExecutionProvider":
            raise DeviceError("cannot load the libraries of CUDA and cuDNN")
        return session

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

    def _run_once(self, outputs: tuple[str, ...], batches: Sequence[Arrays]) -> Results:
        inputs = batches[0]
        if len(batches) > 1:
            inputs = {name: np.concatenate([batch[name] for batch in batches]) for name in inputs}
        if len(inputs) == len(self._least):
            return list(self._session.run(list(outputs), dict(inputs)))
        options = _runtime().RunOptions()
        options.only_execute_path_to_fetches = True
        return list(self._session.run(list(outputs), self._least | dict(inputs), options))


@cache
def _runtime() -> Any:
    try:
        import onnxruntime

        onnxruntime.set_default_logger_severity(_SILENT)
    except (ImportError, AttributeError) as error:  # no module is left where one of two builds was uninstalled
        build = "onnxruntime-gpu" if _installed("onnxruntime-gpu") else "onnxruntime"
        raise DeviceError(
            f"onnxruntime cannot be imported: {_first_line(error)}", hint=f"{_REINSTALL} {build}"
        ) from error
    return onnxruntime


def _cuda_obstacle(runtime: Any) -> str:
    """Why this onnxruntime cannot use CUDA, as far as that shows without loading CUDA's libraries; empty if it may."""
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        if _installed("onnxruntime-gpu"):  # both builds fill one folder
            return f"its build for the CPU was installed over onnxruntime-gpu ({_REINSTALL} onnxruntime-gpu)"
        return "built without CUDA (onnxruntime-gpu has it, see docs/gpu.md)"
    # CUDA and cuDNN may lie in pip packages, where the loader does not look on its own. It prints what it misses.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        runtime.preload_dlls(directory="")
    return ""


def _installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _first_line(error: BaseException) -> str:
    """The cause that onnxruntime gives, whole, without its preamble: code, source file and C++ signature."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0]) if lines else type(error).__name__
    return re.sub(r"^(.*failed: ?)?/?\S+\.(cc|h|cpp):\d+ .*?\w\(.*?\)( const)? (?=\w)", "", text)
