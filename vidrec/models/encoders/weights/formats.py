"""Read Keras' .h5, .safetensors and PyTorch's .pth files into arrays by vidrec's names.

A file's layout is recognised by its content. No code in a file runs.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidrec.errors import TransientError, UserError, is_transient
from vidrec.models.encoders.weights import pth
from vidrec.models.encoders.weights.names import (
    PARTS,
    TORCH_COUNTERS,
    TORCH_PARTS,
    Layer,
    PretrainedNet,
    Tensor,
)

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# The kind of a layer by the name of its group in a Keras 3 file.
KERAS_GROUPS = {"conv2d": "conv", "dense": "dense", "batch_normalization": "norm"}
KERAS_GROUP = re.compile(rf"/({'|'.join(KERAS_GROUPS)})(?:_(\d+))?/vars/(\d)$")


class Content(NamedTuple):
    """Arrays of a file.

    Attributes:
        tensors: Arrays by vidrec's names; an array that belongs to no layer keeps the file's name.
        framework: keras or torch.
    """

    tensors: dict[str, Tensor]
    framework: str


def read(net: PretrainedNet, file: Path) -> Content:
    """Read a file of weights.

    Raises:
        UserError: There is no such file, it is damaged, or its format is not supported.
    """
    if not file.is_file():
        raise UserError(f"encoder.weights: there is no file {file}")
    with file.open("rb") as handle:
        start = handle.read(len(HDF5_MAGIC))
    if file.suffix == ".keras" and start[:2] == b"PK":
        raise UserError(
            f"{file} is an archive: take out its weights with `unzip {file} model.weights.h5`"
        )
    with _one_line_errors(file):
        if start == HDF5_MAGIC:
            return Content(_read_keras(net, file), "keras")
        named = pth.read(file).items() if pth.is_one(file) else _read_safetensors(file)
        return Content(_from_torch(net, named), "torch")


def framework(file: Path) -> str:
    """Return which framework's weights a file holds, keras or torch, by its first bytes.

    Raises:
        UserError: There is no such file.
    """
    if not file.is_file():
        raise UserError(f"encoder.weights: there is no file {file}")
    with file.open("rb") as handle:
        return "keras" if handle.read(len(HDF5_MAGIC)) == HDF5_MAGIC else "torch"


@contextlib.contextmanager
def _one_line_errors(file: Path) -> Iterator[None]:
    """Turn errors from reading a damaged or unknown file into errors of one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (
        *(OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError),
        *(MemoryError, AssertionError, SafetensorError),
    ) as error:
        if is_transient(error):
            raise TransientError.of(file, error) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{file} is damaged or no Keras .h5, .safetensors or .pth file ({reason})"
        ) from error


def _read_keras(net: PretrainedNet, file: Path) -> dict[str, Tensor]:
    import h5py

    with h5py.File(file, "r") as h5:
        root = h5.get("model_weights", h5)
        names = _attribute(root, "layer_names")
        pairs = _keras_counted(net, h5) if names is None else _keras_named(net, root, names)
        return {ours: Tensor(data.name, data[()]) for ours, data in pairs}


def _keras_named(net: PretrainedNet, root: Any, layers: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield arrays of the legacy layout: each layer has a group, which lists its weights."""
    known = {layer.keras: layer for layer in net.layers if layer.keras}
    for layer in layers:
        for index, weight in enumerate(_attribute(root[layer], "weight_names") or []):
            data = root[layer][weight]
            yield _our_name(known.get(layer), index) or data.name, data


def _keras_counted(net: PretrainedNet, h5: Any) -> Iterator[tuple[str, Any]]:
    """Yield arrays of Keras 3's layout: groups conv2d, conv2d_1 … in the order of layers."""
    items: list[Any] = []
    h5.visititems(lambda _, item: items.append(item))
    for data in (item for item in items if hasattr(item, "shape")):
        if data.name.startswith("/optimizer/") or "/seed_generator/" in data.name:
            continue  # states of training and dropout, not weights
        layer, index = None, 0
        if match := KERAS_GROUP.search(data.name):
            same = [layer for layer in net.layers if layer.kind == KERAS_GROUPS[match[1]]]
            layer = dict(enumerate(same)).get(int(match[2] or 0))
            index = int(match[3])
        yield _our_name(layer, index) or data.name, data


def _our_name(layer: Layer | None, index: int) -> str:
    """Return vidrec's name of a layer's array at a Keras index; "" if there is no such array."""
    if layer is None or index >= len(PARTS[layer.kind]):
        return ""
    return f"{layer.name}/{PARTS[layer.kind][index]}"


def _attribute(group: Any, name: str) -> list[str] | None:
    """Return a list of names; Keras splits a long list into attributes name0, name1 …."""
    if name in group.attrs:
        values = list(group.attrs[name])
    elif f"{name}0" in group.attrs:
        count = sum(re.fullmatch(rf"{name}\d+", key) is not None for key in group.attrs)
        values = [value for i in range(count) for value in group.attrs[f"{name}{i}"]]
    else:
        return None
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _read_safetensors(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors import safe_open

    with safe_open(file, framework="flax") as opened:
        for name in opened.keys():  # noqa: SIM118 (it is not a mapping)
            yield name, np.asarray(opened.get_tensor(name))


def _from_torch(net: PretrainedNet, named: Iterable[tuple[str, np.ndarray]]) -> dict[str, Tensor]:
    """Return arrays in Keras' layout, from torchvision's, timm's or a user's own names."""
    known = {name: layer for layer in net.layers for name in layer.torch}
    tensors = {}
    for name, array in named:
        owner, _, part = name.rpartition(".")
        if part in TORCH_COUNTERS and owner in known:
            continue
        layer = known.get(owner)
        if layer is not None and part in TORCH_PARTS[layer.kind]:
            ours = f"{layer.name}/{TORCH_PARTS[layer.kind][part]}"
            tensors[ours] = Tensor(name, _turned(layer, array))
        else:
            tensors[name] = Tensor(name, array)
    return tensors


def _turned(layer: Layer, array: np.ndarray) -> np.ndarray:
    """Transpose a kernel (out, in, h, w) to (h, w, in, out), or a dense kernel to (in, out)."""
    if array.ndim == 1:
        return array
    out, inputs = array.shape[0], array[0].size
    if layer.kind != "dense":
        return np.moveaxis(array, (1, 0), (-2, -1))
    channels = layer.maps if layer.maps and inputs % layer.maps == 0 else inputs
    by_channel = array.reshape(out, channels, inputs // channels)
    return np.ascontiguousarray(by_channel.transpose(2, 1, 0)).reshape(inputs, out)
