"""A look through an ONNX file before it is loaded: does it name other files?

ONNX may keep tensors outside the model, in files that it names by path. Whoever wrote the model would then choose what
is read. Weights of prn are one file, so a model that names another is refused. Needs no library: ONNX is protocol
buffers (`onnx.proto`), of which only the fields that lead to a tensor are followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from prn_cli.errors import WeightsError

# Message → the numbers of its fields that hold messages on the way to a tensor, and which.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def refuse_external_data(model: bytes, path: Path) -> None:
    """Check that a model holds all of its tensors itself.

    Args:
        model: the file's content.
        path: of the file.

    Raises:
        WeightsError: a tensor lies in another file, or this is no protocol buffer.
    """
    content = memoryview(model)
    waiting = [("model", 0, len(content))]
    try:
        while waiting:
            kind, start, end = waiting.pop()
            for field, wire, first, last in _fields(content, start, end):
                if kind == "tensor":
                    if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and (wire != _VARINT or first)):
                        raise WeightsError(
                            "keeps tensors in another file, expected all of them in this one",
                            hint="export it again without external data",
                            path=path,
                        )
                elif wire == _LENGTH and field in _FIELDS[kind]:
                    waiting.append((_FIELDS[kind][field], first, last))
    except (IndexError, ValueError) as error:
        raise WeightsError(f"not an ONNX model, or a damaged one: {error}", hint="get it again", path=path) from error


def _fields(content: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number and wire type of each field of a message; and where its bytes are, or its value if it is a varint."""
    at = start
    while at < end:
        tag, at = _varint(content, at)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(content, at)
            yield field, wire, value, at
            continue
        if wire == _LENGTH:
            length, at = _varint(content, at)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > end:
            raise ValueError("cut short")
        yield field, wire, at, at + length
        at += length


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number without end")
