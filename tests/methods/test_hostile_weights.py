"""Weights made to read other files, to exhaust memory, or to be no weights at all."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from prn_cli.errors import PrnError, WeightsError
from prn_cli.methods import load_refiner
from prn_cli.methods.onnx_file import refuse_external_data
from prn_cli.methods.weights import find_weights

FOUND = sorted((Path(__file__).parent / "hostile").iterdir())


def load(path: Path) -> object:
    return load_refiner(find_weights(str(path)), device="cpu", threads=1)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_the_fuzzer_found(path):
    with pytest.raises(WeightsError):
        load(path)


def external(onnx, place: str):
    """A tensor that lies in another file."""
    tensor = onnx.numpy_helper.from_array(np.zeros(40, np.float32), "secret")
    onnx.external_data_helper.set_external_data(tensor, location=place)
    tensor.ClearField("raw_data")
    return tensor


@pytest.mark.parametrize("where", ["initializer", "attribute", "subgraph", "function", "sparse", "location only"])
def test_a_model_that_names_another_file_is_refused(make_onnx, tmp_path, monkeypatch, where):
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    Path("secret.bin").write_bytes(bytes(160))
    path = make_onnx()
    assert load(path)
    model = onnx.load(str(path))
    tensor = external(onnx, "secret.bin")
    constant = onnx.helper.make_node("Constant", [], ["x"], value=tensor)
    if where == "initializer":
        model.graph.initializer.append(tensor)
    elif where == "location only":
        tensor.ClearField("external_data")
        model.graph.initializer.append(tensor)
    elif where == "attribute":
        model.graph.node.append(constant)
    elif where == "subgraph":
        graph = onnx.helper.make_graph([constant], "inner", [], [])
        model.graph.node.append(onnx.helper.make_node("If", ["c"], ["x"], then_branch=graph, else_branch=graph))
    elif where == "function":
        imports = [onnx.helper.make_opsetid("", 18)]
        model.functions.append(onnx.helper.make_function("d", "f", [], ["x"], [constant], imports))
    else:
        sparse = onnx.SparseTensorProto()
        sparse.values.CopyFrom(tensor)
        model.graph.sparse_initializer.append(sparse)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match="keeps tensors in another file"):
        load(path)


def test_shipped_weights_pass():
    for path in (Path(__file__).resolve().parents[2] / "weights").glob("*.onnx"):
        refuse_external_data(path.read_bytes(), path)


@pytest.mark.parametrize(
    "content",
    [b"\x00", b"\x0a\xff", b"\x3a\x05ab", b"\xff" * 20, b"\x0b", b"\x3a" + b"\xff" * 9 + b"\x01", b"\x09abc"],
)
def test_what_is_no_protocol_buffer_is_one_error(tmp_path, content):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(WeightsError, match="not an ONNX model, or a damaged one"):
        load(tmp_path / "a.onnx")


def test_a_deep_model_is_looked_through_without_recursion(tmp_path):
    content = b""
    for _ in range(2000):  # an attribute in a node in a graph in an attribute …
        for tag in (0x0A, 0x2A, 0x32):
            content = bytes([tag]) + length(len(content)) + content
    with pytest.raises(PrnError):
        refuse_external_data(b"\x3a" + length(len(content) + 9) + content, tmp_path)
    refuse_external_data(b"\x3a" + length(len(content)) + content, tmp_path)


def length(number: int) -> bytes:
    result = b""
    while number > 127:
        result += bytes([number & 127 | 128])
        number >>= 7
    return result + bytes([number])


@pytest.mark.parametrize("name", ["tile", "halo", "multiple"])
@pytest.mark.parametrize("value", ["999999999999", "9" * 5000, "-1", "1e9", "0x10"])
def test_absurd_numbers_are_refused(make_onnx, name, value):
    with pytest.raises(WeightsError, match=f"its prn.{name} is .*, expected a whole number"):
        load(make_onnx(**{name: value}))


@pytest.mark.parametrize("card", ["[" * 100_000, "[]", "{", "\x00", '{"files": {"onnx": {"sha256": 7}}}'])
def test_a_hostile_card_is_one_error(make_onnx, card):
    path = make_onnx()
    path.with_suffix(".json").write_text(card)
    with pytest.raises(WeightsError):
        find_weights(str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 90 << 20) + b"{}",
        *(
            struct.pack("<Q", len(header)) + header
            for header in (
                b"[" * 50_000,
                json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}).encode(),
                json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**60]}}).encode(),
                json.dumps({"__metadata__": {"prn": "[" * 50_000}}).encode(),
                json.dumps({"__metadata__": {"prn": "[1]"}}).encode(),
                json.dumps({"__metadata__": {"prn": '{"prn.network": {}}'}}).encode(),
            )
        ),
    ],
)
def test_hostile_safetensors(tmp_path, content):
    pytest.importorskip("torch")
    from prn_cli.methods.torch_runner import load_tensors
    from prn_cli.training.checkpoint import load_state

    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(PrnError):
        load_tensors(path)
    with pytest.raises(PrnError):
        load_state(path, fingerprint="")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from prn_cli.methods.published import load_published

    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, "a.th")
    with pytest.raises(PrnError, match="not a checkpoint of tensors alone"):
        load_published(tmp_path / "a.th")
    assert not Path("it-ran").exists()


class Payload:
    def __reduce__(self):
        import os

        return os.mkdir, ("it-ran",)
