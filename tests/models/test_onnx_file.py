"""ONNX files are looked at before a runtime opens them; no package is needed for that."""

import contextlib
import random

import numpy as np
import pytest
from helpers import onnx_bytes

from vidrec.errors import UserError
from vidrec.models.encoders import onnx_file


def test_a_whole_file_passes():
    content, _ = onnx_bytes.small_network(metadata={"image_mean": "0.5,0.5,0.5"})
    onnx_file.check(content, "net.onnx")


def with_external(place):
    """A network one of whose tensors is in another file: of the graph, a branch, or a node."""
    outside = onnx_bytes.tensor("w", np.zeros((2, 2), np.float32), external="/etc/passwd")
    if place == "initializer":
        return onnx_bytes.model([], [], [], [outside])
    if place == "attribute":
        constant = onnx_bytes.field(1, "value") + onnx_bytes.field(5, outside)
        return onnx_bytes.model(
            [onnx_bytes.node("Constant", [], ["y"]) + onnx_bytes.field(5, constant)], [], []
        )
    if place == "branch":
        graph = onnx_bytes.field(5, outside)
        branch = onnx_bytes.field(1, "then_branch") + onnx_bytes.field(6, graph)
        return onnx_bytes.model(
            [onnx_bytes.node("If", ["x"], ["y"]) + onnx_bytes.field(5, branch)], [], []
        )
    if place == "sparse":
        return onnx_bytes.field(7, onnx_bytes.field(15, onnx_bytes.field(1, outside)))
    constant = onnx_bytes.field(1, "value") + onnx_bytes.field(5, outside)
    function = onnx_bytes.field(
        7, onnx_bytes.node("Constant", [], ["y"]) + onnx_bytes.field(5, constant)
    )
    return onnx_bytes.model([], [], []) + onnx_bytes.field(25, function)


@pytest.mark.parametrize("place", ["initializer", "attribute", "branch", "sparse", "function"])
def test_tensors_in_other_files_are_refused(place):
    with pytest.raises(UserError, match="external_data=False"):
        onnx_file.check(with_external(place), "net.onnx")


def test_damaged_files_are_one_line():
    content, _ = onnx_bytes.small_network()
    draw = random.Random(0)
    for _ in range(500):
        damaged = bytearray(content)
        for _ in range(draw.randrange(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        damaged = damaged[: draw.randrange(len(damaged) + 1)]
        with contextlib.suppress(UserError):  # many are whole still
            onnx_file.check(bytes(damaged), "net.onnx")
    deep = b""
    for _ in range(300):
        deep = onnx_bytes.field(1, onnx_bytes.field(5, onnx_bytes.field(6, deep)))
    for content in (b"", b"\x80\x02}", onnx_bytes.field(7, deep), b"\xff" * 20):
        with pytest.raises(UserError, match="damaged or no ONNX file"):
            onnx_file.check(content, "net.onnx")
