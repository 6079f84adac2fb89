"""Writes arrays as PyTorch does, without it: to the legacy layout and to the zip."""

import io
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
KINDS = {
    np.dtype(np.float32): "Float",
    np.dtype(np.float64): "Double",
    np.dtype(np.float16): "Half",
    np.dtype(ml_dtypes.bfloat16): "BFloat16",
    np.dtype(np.int64): "Long",
    np.dtype(np.int32): "Int",
    np.dtype(np.uint8): "Byte",
    np.dtype(np.bool_): "Bool",
}


class View(NamedTuple):
    """A tensor: some of an array's numbers, in steps of numbers."""

    storage: np.ndarray
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Global(NamedTuple):
    """A name, called with arguments where there are some."""

    name: str
    arguments: tuple | None = None


def whole(array: np.ndarray) -> View:
    """Return all of an array."""
    flat = np.ascontiguousarray(array).reshape(-1)
    strides = flat.reshape(array.shape).strides
    return View(flat, 0, array.shape, tuple(step // array.itemsize for step in strides))


class Writer:
    """Writes the instructions of one pickle.

    Attributes:
        storages: What it named, by keys.
    """

    def __init__(self, legacy: bool, parameters: bool = False):
        self.storages: dict[str, np.ndarray] = {}
        self._keys: dict[int, str] = {}
        self._legacy, self._parameters = legacy, parameters
        self._puts = 0

    def pickled(self, value: Any) -> bytes:
        """Return the whole pickle."""
        return b"\x80\x02" + self.one(value) + b"."

    def one(self, value: Any) -> bytes:
        """Return the instructions that leave a value on the stack."""
        if isinstance(value, np.ndarray):
            value = whole(value)
        if isinstance(value, View):
            return self._tensor(value)
        if isinstance(value, Global):
            name = f"c{value.name.replace(' ', chr(10))}\n".encode()
            return name if value.arguments is None else name + self.one(value.arguments) + b"R"
        if isinstance(value, OrderedDict):
            made = b"ccollections\nOrderedDict\n" + b")R" + self._put() + self._items(value)
            return made + self.one({"_metadata": {"": {"version": 1}}}) + b"b"
        if isinstance(value, dict):
            return b"}" + self._put() + self._items(value)
        if isinstance(value, list):
            return b"]" + self._put() + b"(" + b"".join(map(self.one, value)) + b"e"
        if type(value) is tuple:
            return b"(" + b"".join(map(self.one, value)) + b"t" + self._put()
        return pickle.dumps(value, 2)[2:-1]  # numbers, texts, None

    def _put(self) -> bytes:
        self._puts += 1
        return b"r" + struct.pack("<I", self._puts)

    def _items(self, value: dict) -> bytes:
        pairs = b"".join(self.one(key) + self.one(item) for key, item in value.items())
        return b"(" + pairs + b"u"

    def _tensor(self, view: View) -> bytes:
        storage = view.storage
        key = self._keys.setdefault(id(storage), str(len(self._keys)))
        self.storages[key] = storage
        kind = Global(f"torch {KINDS[storage.dtype]}Storage")
        said = ("storage", kind, key, "cpu", len(storage), *((None,) if self._legacy else ()))
        before = b"ctorch._utils\n_rebuild_tensor_v2\n("
        rest = (view.offset, view.shape, view.strides, False, OrderedDict())
        made = before + self.one(said) + b"Q" + b"".join(map(self.one, rest)) + b"tR"
        if self._parameters:
            made = b"ctorch._utils\n_rebuild_parameter\n(" + made + b"\x88" + self.one(None) + b"tR"
        return made


def legacy(value: Any, parameters: bool = False) -> bytes:
    """Return a file as PyTorch 1.5 wrote it."""
    writer = Writer(True, parameters)
    saved = writer.pickled(value)
    about = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"int": 4}}
    head = b"".join(pickle.dumps(each, 2) for each in (MAGIC, PROTOCOL, about))
    keys = sorted(writer.storages)
    parts = [
        struct.pack("<q", len(writer.storages[key])) + writer.storages[key].tobytes()
        for key in keys
    ]
    return head + saved + pickle.dumps(keys, 2) + b"".join(parts)


def zipped(
    value: Any, parameters: bool = False, order: str = "little", compression: int = 0
) -> bytes:
    """Return a file as PyTorch 1.6 and later write it."""
    writer = Writer(False, parameters)
    saved = writer.pickled(value)
    swap = (sys.byteorder == "little") == (order == "big")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", saved)
        archive.writestr("archive/byteorder", order)
        for key, array in writer.storages.items():
            raw = array.view(f"u{array.itemsize}")
            archive.writestr(f"archive/data/{key}", (raw.byteswap() if swap else raw).tobytes())
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


LAYOUTS: dict[str, Callable[..., bytes]] = {"legacy": legacy, "zip": zipped}


def save(value: Any, file: Path, layout: str = "zip") -> None:
    """Write a file in one of the layouts."""
    file.write_bytes(LAYOUTS[layout](value))
