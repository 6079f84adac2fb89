"""Check an ONNX file before a runtime opens it.

An ONNX file is a message of Protocol Buffers. Its tensors may be in other files, which it names by
path. An ONNX file with tensors in other files is refused: its hash would not cover the tensors, and
an untrusted file could name any path.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vidrec.errors import UserError
from vidrec.io.files import read_bytes

# Fields that may contain tensors: for each kind of message, the kinds of the messages in its
# fields, by the number of the field.
FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
DEEPEST = 100  # largest depth of nested messages


def read(path: Path) -> bytes:
    """Return the content of a file that is complete in itself.

    Raises:
        UserError: There is no such file, it is not ONNX, or its tensors are in other files.
    """
    content = read_bytes(path)
    check(content, str(path))
    return content


def check(content: bytes, name: str) -> None:
    """Refuse a file that is not ONNX, is damaged, or has tensors in other files.

    Args:
        content: Content of the file.
        name: Name of the file, for messages.

    Raises:
        UserError: The file is refused.
    """
    try:
        has_external = "external" in set(_messages(memoryview(content), "model", 0))
        has_graph = any(number == 7 for number, _ in _fields(memoryview(content)))
    except (IndexError, ValueError) as error:
        raise UserError(f"{name} is damaged or no ONNX file") from error
    if not has_graph:
        raise UserError(f"{name} is damaged or no ONNX file: it holds no graph")
    if has_external:
        raise UserError(
            f"{name} keeps its weights in another file; save it with all of them inside: "
            "torch.onnx.export(…, external_data=False), or "
            "onnx.save(onnx.load(FILE), NEW, save_as_external_data=False)"
        )


def _messages(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    """Yield the kinds of all messages inside a message of this kind."""
    if depth > DEEPEST:
        raise ValueError("too deep")
    for number, value in _fields(message):
        inner = FIELDS[kind].get(number)
        if inner is None:
            continue
        if not isinstance(value, memoryview):
            raise ValueError("not a message")
        yield inner
        if inner in FIELDS:
            yield from _messages(value, inner, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field; messages, texts and bytes are views."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        value: Any
        if wire == 0:
            value, position = _varint(message, position)
        elif wire in (1, 2, 5):
            size = 8 if wire == 1 else 4
            if wire == 2:
                size, position = _varint(message, position)
            value, position = message[position : position + size], position + size
        else:
            raise ValueError("no such type of field")
        if position > len(message) or not number:
            raise ValueError("cut off")
        yield number, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the number that begins at a position, and the position after it."""
    number = shift = 0
    while True:
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
        if shift > 63:
            raise ValueError("too long a number")
