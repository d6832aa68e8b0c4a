"""Weights of reduced precision: convolutions in 8-bit integers, calibrated on real maps.

Static quantisation as onnxruntime does it: activations uint8 by their range on the calibration maps, weights int8 by
channel. The bias is added to the logits in float32, as ever.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from prn_cli.errors import UsageError, WeightsError, reason
from prn_cli.files.temporaries import write_whole
from prn_cli.methods.weights import Weights, sha256_of

MOST_MAPS = 16
LARGEST_SIDE = 1024  # px of a calibration map


class _Maps:
    """Calibration maps, in the form that onnxruntime's quantiser asks for."""

    def __init__(self, name: str, maps: Sequence[NDArray[np.float32]]) -> None:
        self._maps: Iterator[dict[str, NDArray[np.float32]]] = ({name: one[None, None]} for one in maps)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._maps, None)


def quantize(weights: Weights, maps: Sequence[NDArray[np.float32]], folder: Path, *, multiple: int) -> Path:
    """Write weights whose convolutions run in 8-bit integers: `model.onnx`, and its card `model.json`.

    Args:
        weights: of a network that takes logits alone.
        maps: `(H, W)` float32 logits, NaN invalid, such as the weights will be used on.
        folder: exists, and holds neither file.
        multiple: what the network's sides are multiples of.

    Returns:
        The ONNX file.

    Raises:
        UsageError: the network takes something else, or no map is large enough.
        WeightsError: onnxruntime cannot quantise them.
    """
    original = onnx.load_from_string(weights.path.read_bytes())
    metadata = {entry.key: entry.value for entry in original.metadata_props}
    inputs = [node.name for node in original.graph.input]
    if inputs != ["logits"]:
        found = f"weights of {metadata.get('prn.network', 'another network')} with inputs {', '.join(inputs)}"
        raise UsageError(f"{found}, expected logits alone", path=weights.path)
    if any(node.op_type == "QuantizeLinear" for node in original.graph.node):
        raise UsageError("these weights are of 8-bit integers already", path=weights.path)
    cut = [one[tuple(slice(min(side, LARGEST_SIDE) // multiple * multiple) for side in one.shape)] for one in maps]
    usable = [one for one in cut if one.size and not np.isnan(one).all()]
    if not usable:
        raise UsageError(f"no map has {multiple}×{multiple} valid pixels to calibrate on", hint="give other maps")
    logging.disable(logging.WARNING)  # the quantiser talks through the root logger
    try:
        with tempfile.TemporaryDirectory() as temporary:
            prepared, written = Path(temporary, "prepared.onnx"), Path(temporary, "quantized.onnx")
            quant_pre_process(weights.path, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                written,
                _Maps("logits", usable),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv"],
            )
            model = onnx.load(written)
    except Exception as error:  # it raises whatever its parts raise
        raise WeightsError(
            f"cannot be quantised: {reason(error)}", hint="export them again", path=weights.path
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    onnx.helper.set_model_props(model, metadata | {"prn.precision": "int8"})
    path = folder / "model.onnx"
    write_whole(path, model.SerializeToString())
    card = _card(weights.card, path, weights.sha256, len(usable))
    write_whole(folder / "model.json", f"{json.dumps(card, indent=2)}\n".encode())
    return path


def _card(card: Mapping[str, Any], path: Path, origin: str, maps: int) -> dict[str, Any]:
    """The card of the original without its figures, which are not these weights'."""
    kept = {key: value for key, value in card.items() if key not in ("files", "figures", "held_out_figures")}
    quantized = {"from_sha256": origin, "precision": "int8", "calibration_maps": maps}
    return {"files": {"onnx": {"file": path.name, "sha256": sha256_of(path)}}, **kept, "quantized": quantized}
