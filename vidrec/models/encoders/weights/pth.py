"""Read the arrays of a PyTorch file (.pth, .pt) without PyTorch and without unpickling.

A pickle is a program. This module has its own interpreter, which knows how PyTorch writes tensors,
numbers, texts, lists and dictionaries, and refuses every other instruction and name. So nothing in
the file is ever called. Arrays are views of the file's bytes: no memory is allocated for a tensor,
whatever size the file states.
"""

import io
import pickletools
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # comes with jax
import numpy as np

from vidrec.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C  # the first number of a file of PyTorch 0.2 to 1.5
PROTOCOL = 1001  # the number after it
TAR = slice(257, 262)  # the bytes that identify a tar
# Largest pickle, in bytes; one byte of a pickle may take 70 bytes of memory. A tensor takes about
# 200 bytes of a pickle, so 20,000 tensors fit.
PICKLED = 2**22
# Numbers that may be keys of dictionaries: small ones, whose hashes cannot be made to collide.
NUMBERS = range(-(2**31), 2**31)
SIZES, AXES = range(2**63), 32
WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys of saved weights in a file
PARALLEL = "module."  # what DataParallel puts before each name

DTYPES: Mapping[str, Any] = {
    "Double": np.float64,
    "Float": np.float32,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}


class Refused(ValueError):
    """The file contains something that is not supported; the message says what."""


class Foreign(Refused):
    """The file is not damaged, but contains something other than weights."""


@dataclass(frozen=True)
class Storage:
    """A one-dimensional array of numbers in the file, or a part of it that tensors view.

    Attributes:
        dtype: Type of a number.
        key: Name of the array in the file.
        size: Number of numbers in the array.
        first: Index of the first number of the part; offsets of tensors count from there.
        length: Number of numbers in the part.
    """

    dtype: np.dtype
    key: str
    size: int
    first: int
    length: int


@dataclass(frozen=True)
class Tensor:
    """A strided view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Name:
    """A name that the file may use, and the function that is called in its place."""

    text: str
    call: Callable[..., Any]
    dtype: np.dtype | None = None


def is_one(file: Path) -> bool:
    """Return whether a file starts like one of PyTorch's: a pickle, a zip or a tar."""
    with file.open("rb") as handle:
        start = handle.read(TAR.stop)
    if start[8:9] == b"{":  # a .safetensors file, whose first bytes are the length of its header
        return False
    return start[:1] == b"\x80" or start[:2] == b"PK" or start[TAR] == b"ustar"


def read(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a state dict by their names: views of the file's bytes.

    The state dict may be in a dictionary under "state_dict", "model_state_dict" or "model". If
    every name starts with "module.", this prefix is removed.

    Raises:
        UserError: The file contains something other than tensors, numbers, texts, lists and
            dictionaries, is damaged, or has a layout that is not supported.
    """
    content = file.read_bytes()
    try:
        if content[:2] == b"PK":
            return _named(*_zipped(content))
        if content[TAR] == b"ustar":
            raise Foreign(
                "is a tar, as PyTorch before 0.2 wrote: load and save it with a newer one"
            )
        return _named(*_legacy(content))
    except Foreign as error:
        raise UserError(f"{file} {error}") from None
    except (
        *(ValueError, LookupError, TypeError, AttributeError, NotImplementedError),
        *(zipfile.BadZipFile, struct.error),
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{file} is damaged or no PyTorch file ({reason})") from error


def _named(saved: Any, numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of the state dict that was saved."""
    tensors = _state_dict(saved)
    if all(name.startswith(PARALLEL) for name in tensors):
        tensors = {name.removeprefix(PARALLEL): tensor for name, tensor in tensors.items()}
    return {name: _array(tensor, numbers) for name, tensor in tensors.items()}


def _state_dict(saved: Any) -> dict[str, Tensor]:
    """Return the tensors of a saved dictionary, or of its first entry in WRAPPERS with tensors."""
    if not isinstance(saved, dict):
        raise Foreign("holds no dictionary of tensors: save a model's state_dict()")
    for candidate in (saved, *(saved.get(name) for name in WRAPPERS)):
        found = candidate if isinstance(candidate, dict) else {}
        tensors = {name: each for name, each in found.items() if isinstance(each, Tensor)}
        if tensors:
            return {str(name): each for name, each in tensors.items()}
    there = ", ".join(repr(name)[:40] for name in list(saved)[:5]) or "nothing"
    where = ", ".join(WRAPPERS)
    raise Foreign(f"holds no tensors at its top nor under {where}; it holds: {there}")


def _array(tensor: Tensor, numbers: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a view; NumPy checks that all of its elements are in the storage."""
    storage, sizes = tensor.storage, (*tensor.shape, *tensor.strides, tensor.offset)
    if any(type(size) is not int or size not in SIZES for size in sizes) or len(sizes) > 2 * AXES:
        raise Refused("a tensor's sizes are no whole numbers from 0 on, or too many")
    count = 1
    for size in tensor.shape:
        count *= size
    if count > storage.length:
        raise Refused(f"a tensor of shape {tensor.shape} holds more numbers than its storage")
    if not count:
        return np.zeros(tensor.shape, storage.dtype)
    there = numbers[storage.key][storage.first : storage.first + storage.length]
    width = storage.dtype.itemsize
    steps = [stride * width for stride in tensor.strides]
    return np.ndarray(tensor.shape, storage.dtype, there, tensor.offset * width, steps)


# ------------------------------------------------------------------ layouts


def _legacy(content: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    """Read the layout of PyTorch 0.2 to 1.5: five pickles in sequence, then the storages."""
    stream = io.BytesIO(content)
    if _followed(stream)[0] != MAGIC:
        raise Foreign("is a pickle, and none that PyTorch wrote: it is not read")
    if _followed(stream)[0] != PROTOCOL:
        raise Refused("an unknown protocol")
    _followed(stream)  # about the machine that wrote the file; numbers are always little-endian
    saved, storages = _followed(stream)
    keys, _ = _followed(stream)
    if type(keys) is not list or len(set(map(_key, keys))) < len(keys):
        raise Refused("the storages are not listed")
    numbers, position = {}, stream.tell()
    for key in keys:
        [size] = struct.unpack_from("<q", content, position)
        if size != storages[key].size:
            raise Refused(f"storage {key} has {size} numbers, should have {storages[key].size}")
        numbers[key] = np.frombuffer(content, storages[key].dtype, size, position + 8)
        position += 8 + numbers[key].nbytes
    return saved, numbers


def _zipped(content: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    """Read the layout of PyTorch 1.6 and later: a zip of data.pkl and one file per storage."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    found = [name for name in entries if name.endswith("data.pkl") and name.count("/") < 2]
    if len(found) != 1 or found[0].rpartition("/")[2] != "data.pkl":
        raise Foreign("is a zip, and none that PyTorch wrote: there is no data.pkl in it")
    folder = found[0].removesuffix("data.pkl")
    saved, storages = _followed(io.BytesIO(_stored(content, entries[found[0]])))
    order = entries.get(f"{folder}byteorder")
    swapped = order is not None and bytes(_stored(content, order)) == b"big"
    numbers, total = {}, 0
    for key, storage in storages.items():
        part = _stored(content, entries[f"{folder}data/{key}"])
        total += len(part)
        if total > len(content):
            raise Refused("storages lie over one another")
        if len(part) != storage.size * storage.dtype.itemsize:
            raise Refused(
                f"storage {key} has {len(part)} bytes, should have {storage.size} numbers"
            )
        if swapped:
            raw = np.frombuffer(part, f"u{storage.dtype.itemsize}").byteswap()
            numbers[key] = raw.view(storage.dtype)
        else:
            numbers[key] = np.frombuffer(part, storage.dtype)
    return saved, numbers


def _stored(content: bytes, entry: zipfile.ZipInfo) -> memoryview:
    """Return an uncompressed file in a zip, as a view of the zip's bytes."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise Refused(f"{entry.filename} is compressed or encrypted, which PyTorch never does")
    header = struct.Struct("<4s22xHH")  # before a file's name, extra field and content
    magic, name, extra = header.unpack_from(content, entry.header_offset)
    begin = entry.header_offset + header.size + name + extra
    part = memoryview(content)[begin : begin + entry.file_size]
    if magic != b"PK\3\4" or len(part) != entry.file_size:
        raise Refused(f"{entry.filename} is cut off")
    if zlib.crc32(part) != entry.CRC:
        raise Refused(f"{entry.filename} does not have its checksum")
    return part


# ------------------------------------------------------------------ instructions


def _followed(stream: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """Interpret one pickle to its end; return its result, and the storages that it names."""
    machine = _Machine()
    begin = stream.tell()
    for opcode, argument, position in pickletools.genops(stream):
        if (position or 0) - begin > PICKLED:
            raise Refused(f"its pickle is longer than {PICKLED} bytes")
        machine.step(opcode.name, argument)
    return machine.result, machine.storages


class _Machine:
    """An interpreter of the pickle instructions that tensors and plain values need.

    Attributes:
        result: The value that the pickle creates, set by the instruction STOP.
        storages: The storages that the pickle names, by their keys.
    """

    def __init__(self) -> None:
        self.result: Any = None
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction.

        Raises:
            Refused: The instruction is not supported.
        """
        if name in VALUES:
            self._stack.append(argument)
        elif name in CONSTANTS:
            self._stack.append(CONSTANTS[name]())
        elif name in REMEMBERED:
            self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]
        elif name in RECALLED:
            self._stack.append(self._memo[argument])
        elif name in DONE:
            DONE[name](self, argument)
        elif name not in IGNORED:
            raise Refused(f"a pickle's instruction {name}, which no tensor needs")

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise Refused("a pickle takes what is not there")
        return self._stack.pop()

    def _pop_marked(self) -> list[Any]:
        begin = self._marks.pop()
        items = self._stack[begin:]
        del self._stack[begin:]
        return items

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def tuple_of(self, count: int) -> None:
        self._stack.append(tuple([self._pop() for _ in range(count)][::-1]))

    def tuple_marked(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_marked()))

    def append(self, items: Sequence[Any]) -> None:
        into = self._stack[-1]
        if type(into) is not list:
            raise Refused("a pickle appends to what is no list")
        into.extend(items)

    def put(self, items: Sequence[Any]) -> None:
        into = self._stack[-1]
        if not isinstance(into, dict):
            raise Refused("a pickle puts items into what is no dictionary")
        into.update((_key(key), value) for key, value in _pairs(items))

    def name(self, text: str) -> None:
        if text not in NAMES:
            raise Foreign(
                f"uses the name {text[:100]!r}, which is no tensor, number, text, list or "
                "dictionary, and is not read: save a model's state_dict() alone"
            )
        self._stack.append(NAMES[text])

    def joined_name(self, _: Any) -> None:
        last, module = self._pop(), self._pop()
        self.name(f"{module} {last}")

    def reduce(self, _: Any) -> None:
        arguments, named = self._pop(), self._pop()
        if type(named) is not Name or type(arguments) is not tuple:
            raise Refused("a pickle calls what is no name")
        self._stack.append(named.call(*arguments))

    def build(self, _: Any) -> None:
        self._pop()  # an ordered dictionary's attributes: versions of a state dict's modules
        if type(self._stack[-1]) is not OrderedDict:
            raise Refused("a pickle gives attributes to what has none")

    def storage(self, _: Any) -> None:
        said = self._pop()
        if type(said) is not tuple or len(said) not in (5, 6) or said[0] != "storage":
            raise Refused("a pickle names what is no storage")
        _, named, key, _, size, *view = said
        if type(named) is not Name or named.dtype is None or type(size) is not int or size < 0:
            raise Refused("a storage has no type or size")
        _, first, length = view[0] if view and view[0] is not None else ("", 0, size)
        if any(type(n) is not int for n in (first, length)) or not 0 <= first <= size - length:
            raise Refused("a storage lies outside of another one")
        storage = Storage(named.dtype, str(_key(key)), size, first, length)
        known = self.storages.setdefault(storage.key, storage)
        if (known.dtype, known.size) != (storage.dtype, storage.size):
            raise Refused(f"storage {storage.key} has two types or sizes")
        self._stack.append(storage)

    def stop(self, _: Any) -> None:
        self.result = self._pop()


def _key(key: Any) -> str | int:
    """Return a dictionary's key, if it is a text or a small number, which are fast to hash."""
    if type(key) is str or (type(key) is int and key in NUMBERS):
        return key
    raise Refused("a key is neither a text nor a number")


def _pairs(items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    if len(items) % 2:
        raise Refused("a key has no value")
    return zip(items[::2], items[1::2], strict=True)


def _ordered(pairs: Sequence[Any] = ()) -> OrderedDict:
    """Replace calls of OrderedDict, which Python 2 calls with a list of pairs."""
    if type(pairs) not in (list, tuple):
        raise Refused("a dictionary is made of no list")
    return OrderedDict((_key(key), value) for key, value in pairs)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """Replace _rebuild_tensor and _rebuild_tensor_v2; v2 also gets gradients and hooks."""
    shapely = type(shape) is tuple and type(strides) is tuple and len(shape) == len(strides)
    if type(storage) is not Storage or not shapely:
        raise Refused("a tensor has no storage or shape")
    return Tensor(storage, offset, shape, strides)


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if type(tensor) is not Tensor:
        raise Refused("a parameter is no tensor")
    return tensor


def _size(shape: Any = ()) -> tuple:
    if type(shape) not in (list, tuple):
        raise Refused("a size is no list")
    return tuple(shape)


def _no_call(*_: Any) -> Any:
    raise Refused("a pickle calls a storage's type")


def _names() -> dict[str, Name]:
    """Return all names that a file may use."""
    calls: dict[str, Callable[..., Any]] = {
        "collections OrderedDict": _ordered,
        "torch._utils _rebuild_tensor": _tensor,
        "torch._utils _rebuild_tensor_v2": _tensor,
        "torch._utils _rebuild_parameter": _parameter,
        "torch.nn.parameter Parameter": _parameter,
        "torch Size": _size,
    }
    types = {
        f"{module} {kind}Storage": Name(kind, _no_call, np.dtype(dtype))
        for module in ("torch", "torch.cuda")
        for kind, dtype in DTYPES.items()
    }
    return {text: Name(text, call) for text, call in calls.items()} | types


NAMES = _names()
# Instructions whose argument is a value; in Python 2's pickles, texts are byte strings.
VALUES = frozenset(
    (
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    )
)
CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
REMEMBERED = frozenset(("BINPUT", "LONG_BINPUT", "MEMOIZE"))
RECALLED = frozenset(("BINGET", "LONG_BINGET"))
IGNORED = frozenset(("PROTO", "FRAME"))
DONE: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "TUPLE": _Machine.tuple_marked,
    "APPEND": lambda machine, _: machine.append([machine._pop()]),
    "APPENDS": lambda machine, _: machine.append(machine._pop_marked()),
    "SETITEM": lambda machine, _: machine.put([machine._pop(), machine._pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.put(machine._pop_marked()),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.joined_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
    "STOP": _Machine.stop,
}
