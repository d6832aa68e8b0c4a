"""Shared fixtures, and what holds for all tests: none is judged by a clock, and none that CI requires is skipped."""

from __future__ import annotations

import gc
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# A machine that is busy with other work is no failure. Tests that draw many maps may write them into one folder.
unchecked = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("patient", deadline=None, suppress_health_check=unchecked)
settings.load_profile("patient")

# What must be tested here, in words of the reasons for skipping: PRN_TEST_REQUIRE="gdalinfo, weights".
REQUIRED = [word.strip().lower() for word in os.environ.get("PRN_TEST_REQUIRE", "").split(",") if word.strip()]


# A shell lets its jobs in the background ignore interrupts, and so would all that tests start and interrupt.
for number in (signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def fail_if_required(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a failure of a skipped test if its reason names something that must be tested here."""
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return
    reason = report.longrepr[2]
    if any(re.search(rf"\b{re.escape(word)}\b", reason.lower()) for word in REQUIRED):
        report.outcome = "failed"
        report.longrepr = f"{reason}; PRN_TEST_REQUIRE does not let this test be skipped"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    fail_if_required(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    fail_if_required(report)
    return report


RADIUS = 6
MULTIPLE = 8
HALO = 24  # the radius after pooling: RADIUS cells of 2 px, rounded up generously


def onnx_bytes(network: str = "fast", *, strength: float = 2.0, **metadata: str) -> bytes:
    """A small network with a known receptive field, behind the interface of a real one.

    `fast` is a bias of two parts: a convolution of the tanh of the valid logits over 13×13 px, and one of their
    means over 2×2 px. So a pixel sees 13 px around it at most, and cells of 2 px must stay in place.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(7)
    side = 2 * RADIUS + 1
    constants = {
        "zero": np.float32(0),
        "strength": np.float32(strength),
        "fine": (draw.standard_normal((1, 1, side, side)) / side).astype(np.float32),
        "coarse": (draw.standard_normal((1, 1, side, side)) / side).astype(np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    pads = [RADIUS] * 4
    body = [
        helper.make_node("Tanh", ["clean"], ["x"]),
        helper.make_node("Conv", ["x", "fine"], ["near"], pads=pads),
        helper.make_node("AveragePool", ["x"], ["cells"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["cells", "coarse"], ["far_cells"], pads=pads),
        helper.make_node(
            "Resize",
            ["far_cells", "", "scales"],
            ["far"],
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        ),
        helper.make_node("Add", ["near", "far"], ["both"]),
        helper.make_node("Mul", ["both", "strength"], ["scaled"]),
    ]
    if network == "fast":
        source, outputs = "logits", ["bias"]
        nodes = [
            helper.make_node("IsNaN", ["logits"], ["invalid"]),
            helper.make_node("Where", ["invalid", "zero", "logits"], ["clean"]),
            *body,
            helper.make_node("Identity", ["scaled"], ["bias"]),
        ]
    else:
        source, outputs = "probabilities", ["global", "local"]
        nodes = [
            helper.make_node("Identity", ["probabilities"], ["clean"]),
            *body,
            helper.make_node("Sigmoid", ["scaled"], ["global"]),
            helper.make_node("Sigmoid", ["near"], ["local"]),
        ]

    def tensor(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, "h", "w"])

    graph = helper.make_graph(
        nodes,
        "test",
        [tensor(source)],
        [tensor(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    properties = {
        "prn.format": "1",
        "prn.network": network,
        "prn.multiple": str(MULTIPLE),
        "prn.halo": str(HALO),
        "prn.patch": "0",
        "prn.tile": "160",
        "prn.threshold": "0.5",
    }
    properties.update({f"prn.{name}": value for name, value in metadata.items()})
    helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture
def make_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Write a model of `onnx_bytes` into the test's folder; returns its path."""
    pytest.importorskip("onnx")

    def make(network: str = "fast", *, name: str = "model.onnx", strength: float = 2.0, **metadata: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(onnx_bytes(network, strength=strength, **metadata))
        return path

    return make


@pytest.fixture
def heard() -> Any:
    """A `Watch` that keeps what it hears, by kind: `notes`, `details`, `warnings`, `failures`."""
    from prn_cli.execution.watch import Watch

    class Heard(Watch):
        def __init__(self) -> None:
            self.notes: list[str] = []
            self.details: list[str] = []
            self.warnings: list[str] = []
            self.failures: list[str] = []

        def note(self, message: str) -> None:
            self.notes.append(message)

        def detail(self, message: str) -> None:
            self.details.append(message)

        def warning(self, message: str) -> None:
            self.warnings.append(message)

        def failure(self, message: str) -> None:
            self.failures.append(message)

        def about(self, words: str) -> list[str]:
            return [message for message in self.notes + self.warnings if words in message]

    return Heard()


@pytest.fixture(scope="session")
def random_logits() -> Callable[..., np.ndarray]:
    """Smooth random logit maps, as a base model gives them: `random_logits(height, width, seed=0)`."""

    def make(height: int, width: int, *, seed: int = 0) -> np.ndarray:
        draw = np.random.default_rng(seed)
        total = np.zeros((height, width))
        for cell, scale in ((40, 3.0), (12, 1.5), (3, 0.5)):
            coarse = draw.standard_normal((height // cell + 2, width // cell + 2))
            total += scale * np.kron(coarse, np.ones((cell, cell)))[:height, :width]
        return total.astype(np.float32)

    return make


@pytest.fixture(scope="session")
def lines_run() -> Callable[[Callable[[], object]], int]:
    """How many lines of Python some work runs, in all threads that it starts. No other program disturbs that."""

    def count(work: Callable[[], object]) -> int:
        lines = itertools.count()

        def trace(frame: FrameType, event: str, _: object) -> Any:
            if event == "line":
                next(lines)
            return trace

        gc.collect()
        gc.disable()  # what it would free in between may run lines of its own
        threading.settrace(trace)
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            gc.enable()
        return next(lines)

    return count


# Runs `prn`, and does something at one moment of it: sends a signal to itself, or tells the test and waits for it. The
# moment is an event that Python audits (PEP 578) with the strings it is about, such as "open … map.npy", or "network"
# when the network is run; perhaps only once a file is there.
AT_A_MOMENT = """
import glob, json, os, re, sys, threading

moment, there, times, number, told, go = json.loads(sys.argv[1])
lock, inside, come = threading.Lock(), threading.local(), 0

def watch(event, arguments):
    global come
    if come >= times or getattr(inside, "watch", False):
        return
    inside.watch = True  # what is done below is audited too
    try:
        words = " ".join([event, *(os.fsdecode(word) for word in arguments if isinstance(word, (str, os.PathLike)))])
        if not re.search(moment, words) or (there and not glob.glob(there)):
            return
        with lock:
            come += 1
            if come != times:
                return
        if number:
            os.kill(os.getpid(), number)
        else:
            os.write(told, b".")
            os.read(go, 1)
    finally:
        inside.watch = False

if moment == "network":
    import onnxruntime
    run = onnxruntime.InferenceSession.run
    onnxruntime.InferenceSession.run = lambda *arguments: (sys.audit("network"), run(*arguments))[1]
sys.addaudithook(watch)
sys.argv[1:] = sys.argv[2:]
from prn_cli.__main__ import main
main()
"""
PATIENCE = 600  # seconds after which a process has surely hung


def at_a_moment(
    moment: str, there: str, times: int, action: tuple[int, int, int], arguments: tuple[Any, ...]
) -> list[str]:
    setting = json.dumps([moment, there, times, *action])
    return [sys.executable, "-c", AT_A_MOMENT, setting, *map(str, arguments)]


@pytest.fixture(scope="session")
def signalled() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a `prn` that a signal reaches at a moment: `signalled(SIGINT, r"open .*map\\.npy", "refine", …)`."""

    def run(
        number: int, moment: str, *arguments: object, there: str = "", times: int = 1, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        line = at_a_moment(moment, there, times, (number, 0, 0), arguments)
        return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, **options)

    return run


class Held:
    """A `prn` that waits at a moment until the test lets it go on.

    Attributes:
        process: it, with pipes.
    """

    def __init__(self, moment: str, *arguments: object, there: str = "", times: int = 1, **options: Any) -> None:
        (self._told, told), (go, self._go) = os.pipe(), os.pipe()
        line = at_a_moment(moment, there, times, (0, told, go), arguments)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "pass_fds": (told, go)}
        self.process: subprocess.Popen[str] = subprocess.Popen(line, **(pipes | options))
        os.close(told)
        os.close(go)

    def wait(self) -> None:
        """Wait until it is there."""
        assert os.read(self._told, 1) == b".", f"it ended before: {self.process.communicate()}"

    def go_on(self) -> None:
        """Let it go on."""
        if self._go >= 0:
            os.close(self._go)
        self._go = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        os.close(self._told)
        if self.process.poll() is None:
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()
        self.process.wait()


@pytest.fixture(scope="session")
def held() -> type[Held]:
    """A `prn` that waits at a moment: `with held(r"open .*map\\.npy", "refine", …) as run: run.wait()`."""
    return Held
