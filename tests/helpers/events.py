"""Read the event files of TensorBoard."""

import io

import pytest


def scalars(folder):
    """{(name, step): value} of the event files of a folder, read as plainly as can be."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = {}
    for file in folder.glob("events*"):
        content = io.BytesIO(file.read_bytes())
        while head := content.read(12):  # length and its checksum, then record and its checksum
            event = event_pb2.Event.FromString(content.read(int.from_bytes(head[:8], "little")))
            content.read(4)
            found |= {(each.tag, event.step): each.simple_value for each in event.summary.value}
    return found
