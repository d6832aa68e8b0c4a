"""Shared fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# A machine that is busy with other work is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

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
