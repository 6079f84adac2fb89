"""ONNX files written byte by byte, so that tests need no package but the one that runs them."""

import struct

import numpy as np

FLOAT, UINT8, FLOAT16, INT64 = 1, 2, 10, 7
TYPES = {np.dtype(np.float32): FLOAT, np.dtype(np.int64): INT64}


def varint(number):
    out = bytearray()
    while True:
        out.append((number & 0x7F) | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(out)


def field(number, value):
    """An integer, or text, bytes or a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, array, external=""):
    array = np.asarray(array)
    head = b"".join(field(1, size) for size in array.shape) + field(2, TYPES[array.dtype])
    if external:
        place = field(1, "location") + field(2, external)
        return head + field(8, name) + field(13, place) + field(14, 1)
    return head + field(8, name) + field(9, array.tobytes())


def attribute(name, value):
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, 2)
    if isinstance(value, float):
        return field(1, name) + varint(2 << 3 | 5) + struct.pack("<f", value) + field(20, 1)
    return field(1, name) + b"".join(field(8, entry) for entry in value) + field(20, 7)


def node(kind, inputs, outputs, domain="", **attributes):
    parts = [field(1, name) for name in inputs] + [field(2, name) for name in outputs]
    parts += [field(4, kind), field(7, domain) if domain else b""]
    parts += [field(5, attribute(name, value)) for name, value in attributes.items()]
    return b"".join(parts)


def value(name, kind, shape):
    """An input or output; sizes that are texts are open."""
    sizes = b"".join(
        field(1, field(1, size) if isinstance(size, int) else field(2, size)) for size in shape
    )
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, sizes)))


def model(nodes, inputs, outputs, tensors=(), metadata=None, domains=()):
    graph = b"".join(field(1, entry) for entry in nodes) + field(2, "graph")
    graph += b"".join(field(5, entry) for entry in tensors)
    graph += b"".join(field(11, entry) for entry in inputs)
    graph += b"".join(field(12, entry) for entry in outputs)
    opsets = [field(8, field(1, "") + field(2, 13))]
    opsets += [field(8, field(1, domain) + field(2, 1)) for domain in domains]
    said = [field(14, field(1, key) + field(2, text)) for key, text in (metadata or {}).items()]
    return field(1, 7) + field(7, graph) + b"".join(opsets + said)


def small_network(shape=("b", 3, "h", "w"), gives="maps", metadata=None, seed=0):
    """A convolution of stride 2 with a ReLU over pictures of this shape, and its kernel.

    Args:
        shape: (B, 3, H, W) or (B, H, W, 3).
        gives: maps, their mean, or tokens (B, N, D).
        metadata: Of the file.
        seed: Of the kernel (5, 3, 3, 3).
    """
    kernel = np.random.default_rng(seed).normal(0, 0.3, (5, 3, 3, 3)).astype(np.float32)
    last = shape[-1] == 3
    tensors = [tensor("kernel", kernel)]
    nodes = [node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2])] if last else []
    source = "planes" if last else "x"
    nodes.append(node("Conv", [source, "kernel"], ["conv"], strides=[2, 2], pads=[1, 1, 1, 1]))
    nodes.append(node("Relu", ["conv"], ["maps"]))
    ends = {"maps": ("maps", (shape[0], 5, "y", "x"))}
    if last:
        nodes.append(node("Transpose", ["maps"], ["rows"], perm=[0, 2, 3, 1]))
        ends["maps"] = ("rows", (shape[0], "y", "x", 5))
    if gives == "mean":
        nodes.append(node("ReduceMean", ["maps"], ["mean"], axes=[2, 3], keepdims=0))
        ends["mean"] = ("mean", (shape[0], 5))
    if gives == "tokens":
        tensors.append(tensor("flat", np.array([0, 5, -1], np.int64)))
        nodes.append(node("Reshape", ["maps", "flat"], ["planes_flat"]))
        nodes.append(node("Transpose", ["planes_flat"], ["tokens"], perm=[0, 2, 1]))
        ends["tokens"] = ("tokens", (shape[0], "n", 5))
    output = value(ends[gives][0], FLOAT, ends[gives][1])
    return model(nodes, [value("x", FLOAT, shape)], [output], tensors, metadata), kernel
