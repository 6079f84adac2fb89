"""Weights that others trained, from Keras' .h5 and from .safetensors; never from pickles.

A file's layout is told from what is in it. Every tensor is accounted for: one that is missing, that
nobody asked for, or that has another shape is named. Files are read, not trusted: no code in them
runs.
"""

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vidrec import config
from vidrec.config import plugins
from vidrec.errors import TransientError, UserError, is_transient
from vidrec.io import files, machine, runs

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
SQUEEZENET_URL = "https://github.com/rcmalli/keras-squeezenet/releases/download/v1.0/"
PARTS = ("kernel", "bias")
SHOWN = 3  # names in a message

Tree = Mapping[str, Any]


class Layer(NamedTuple):
    """One layer: where it stands in our tree, and what Keras and PyTorch (in one or two ways) say.

    `maps` is the number of channels of the maps that a dense layer reads laid out flat: Keras lays
    them out place by place, PyTorch channel by channel.
    """

    path: tuple[str, ...]
    keras: str
    torch: tuple[str, ...]
    top: bool = False
    dense: bool = False
    maps: int = 0

    @property
    def name(self) -> str:
        return "/".join(self.path)


class File(NamedTuple):
    """The original ImageNet weights: name, MD5 of the content, and whether the top is in it."""

    name: str
    md5: str
    top: bool


@dataclass(frozen=True)
class Net:
    """A network's layers in order, and where its original weights lie."""

    layers: tuple[Layer, ...]
    url: str
    files: tuple[File, ...]
    in_keras: str = ""  # its name in keras.applications


class Tensor(NamedTuple):
    """An array with the name that its file gives it."""

    name: str
    array: np.ndarray


class Weights(NamedTuple):
    """Parameters in our structure and layout, float32, and the preprocessing they belong to."""

    params: dict[str, Any]
    normalize: str


def _vgg16() -> Net:
    layers, place = [], 0
    for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        for conv in range(1, convolutions + 1):
            path = (f"block{block}", f"conv{conv}")
            layers.append(Layer(path, f"block{block}_conv{conv}", (f"features.{place}",)))
            place += 2  # a ReLU stands between
        place += 1  # and a pool
    for name, maps, *torch in (
        ("fc1", 512, "classifier.0", "pre_logits.fc1"),
        ("fc2", 0, "classifier.3", "pre_logits.fc2"),
        ("predictions", 0, "classifier.6", "head.fc"),
    ):
        layers.append(Layer((name,), name, tuple(torch), top=True, dense=True, maps=maps))
    stem = "vgg16_weights_tf_dim_ordering_tf_kernels"
    files = (
        File(f"{stem}_notop.h5", "6d6bbae143d832006294945121d1f1fc", top=False),
        File(f"{stem}.h5", "64373286793e3c8b2b4e3219cbf3544b", top=True),
    )
    return Net(tuple(layers), KERAS_URL, files, in_keras="VGG16")


def _squeezenet() -> Net:
    layers = [Layer(("conv1", "conv"), "conv1", ("features.0",))]
    for fire, place in enumerate((3, 4, 6, 7, 9, 10, 11, 12), start=2):
        for part, torch in (("squeeze1x1", "squeeze"), ("expand1x1",) * 2, ("expand3x3",) * 2):
            path = (f"fire{fire}", part)
            layers.append(Layer(path, "/".join(path), (f"features.{place}.{torch}",)))
    layers.append(Layer(("conv10",), "conv10", ("classifier.1",), top=True))
    name = "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5"
    files = (File(name, "80b66c92d79d4310e07fb60a297bf0d1", top=False),)
    return Net(tuple(layers), SQUEEZENET_URL, files)


NETS = {"vgg16": _vgg16(), "squeezenet": _squeezenet()}


def load(kind: str, source: str | Path, like: Tree) -> Weights:
    """Weights of a file, or of ImageNet where `source` is "imagenet".

    Args:
        kind: vgg16 or squeezenet.
        like: the module's parameters, or their shapes. What no such file has (a dense pooling) is
            left out of the result; a top that the file has and the module lacks is skipped.

    Raises:
        UserError: no such file, no layout that is known, or tensors that do not fit.
    """
    if kind not in NETS:
        raise UserError(
            f"encoder.weights = {str(source)!r}: only {' and '.join(NETS)} read weights of others, "
            f"{kind} takes 'random' or a run's folder"
        )
    if str(source) == "imagenet":
        return _imagenet(kind, like)
    return _from_file(NETS[kind], files.expanded(source), like)


def fill(cfg: config.Encoder, variables: Tree) -> dict[str, Any]:
    """The variables, with what the settings' weights hold in place of what was drawn at random.

    A run brings all of its encoder, statistics of pixels included; NAME is the only NAME-ID.

    Raises:
        UserError: the weights do not fit, or belong to another preprocessing.
    """
    path = files.expanded(cfg.weights)
    if cfg.weights != "imagenet" and not path.is_file():
        return _from_run(path, cfg, variables)
    found = load(cfg.kind, cfg.weights, variables["params"])
    _same_preprocessing(cfg, found.normalize)
    params = _nested({**_flat(variables["params"]), **_flat(found.params)})
    return {**variables, "params": params}


def _same_preprocessing(cfg: config.Encoder, normalize: str) -> None:
    if normalize != cfg.normalize:
        raise UserError(
            f"encoder.normalize = {cfg.normalize!r} should be {normalize!r}, to which the "
            f"weights {cfg.weights} belong"
        )


def _same_code(cfg: config.Encoder, about: Mapping[str, Any], folder: Path) -> None:
    """Weights belong to the code that they were trained with; the run's own does not run here."""
    theirs = str(about["config"]["encoder"]["kind"])
    said = (about.get("code") or {}).get(theirs)
    if said is None:
        return
    ours = plugins.code_hash(cfg.kind) if plugins.is_code(cfg.kind) else cfg.kind
    if ours != said["sha256"]:
        raise UserError(
            f"encoder.weights: the encoder of {folder} is {theirs} (SHA-256 {said['sha256']}), "
            f"encoder.kind = {cfg.kind} another one ({ours}): name the code that the run keeps in "
            f"{folder / 'model' / 'code'}"
        )


def digest(variables: Tree) -> str:
    """A hash of all arrays with their names, types and shapes, whatever the order of the dicts."""
    total = hashlib.sha256()
    leaves = jax.tree_util.tree_flatten_with_path(variables)[0]
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    for name in sorted(named):
        array = np.asarray(named[name], order="C")
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _from_file(net: Net, file: Path, like: Tree) -> Weights:
    if not file.is_file():
        raise UserError(f"encoder.weights: there is no file {file}")
    with file.open("rb") as handle:
        start = handle.read(len(HDF5_MAGIC))
    if start[:1] == b"\x80" or start[:2] == b"PK":
        raise UserError(_how_to_convert(file))
    keras = start == HDF5_MAGIC
    with _readable(file):
        found = (_read_keras if keras else _read_torch)(net, file)
    return Weights(_fitted(net, found, file, like), "caffe" if keras else "torch")


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """What the readers of a damaged or foreign file raise, as one line."""
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
            f"{file} is damaged or neither a Keras .h5 nor a .safetensors file ({reason})"
        ) from error


def _how_to_convert(file: Path) -> str:
    if file.suffix == ".keras":
        return f"{file} is an archive: take out its weights with `unzip {file} model.weights.h5`"
    return (
        f"{file} is a pickle or an archive, which may run code and is never read; where you trust "
        "it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'FILE.safetensors')"
    )


def _read_keras(net: Net, file: Path) -> dict[str, Tensor]:
    """By our names; a tensor that belongs to no layer keeps its own."""
    import h5py

    with h5py.File(file, "r") as h5:
        root = h5.get("model_weights", h5)
        names = _attribute(root, "layer_names")
        pairs = _keras_counted(net, h5) if names is None else _keras_named(net, root, names)
        return {ours: Tensor(data.name, data[()]) for ours, data in pairs}


def _keras_named(net: Net, root: Any, layers: list[str]) -> Iterator[tuple[str, Any]]:
    """The legacy layout: groups by layer, each with the list of its weights, kernel first."""
    known = {layer.keras: layer.name for layer in net.layers}
    for layer in layers:
        for i, weight in enumerate(_attribute(root[layer], "weight_names") or []):
            data = root[layer][weight]
            ours = f"{known[layer]}/{PARTS[i]}" if layer in known and i < 2 else data.name
            yield ours, data


def _keras_counted(net: Net, h5: Any) -> Iterator[tuple[str, Any]]:
    """Keras 3: groups conv2d, conv2d_1 …, dense, dense_1 … in the order of the layers."""
    items: list[Any] = []
    h5.visititems(lambda _, item: items.append(item))
    for data in (item for item in items if hasattr(item, "shape")):
        found = re.search(r"/(conv2d|dense)(?:_(\d+))?/vars/([01])$", data.name)
        if data.name.startswith("/optimizer/") or "/seed_generator/" in data.name:
            continue  # of training and of dropout, no weights
        layer = None
        if found:
            same = [layer for layer in net.layers if layer.dense == (found[1] == "dense")]
            layer = dict(enumerate(same)).get(int(found[2] or 0))
        yield f"{layer.name}/{PARTS[int(found[3])]}" if layer else data.name, data


def _attribute(group: Any, name: str) -> list[str] | None:
    """A list of names; a long one is cut up into name0, name1 …"""
    if name in group.attrs:
        found = list(group.attrs[name])
    elif f"{name}0" in group.attrs:
        count = sum(re.fullmatch(rf"{name}\d+", key) is not None for key in group.attrs)
        found = [each for i in range(count) for each in group.attrs[f"{name}{i}"]]
    else:
        return None
    return [each.decode() if isinstance(each, bytes) else str(each) for each in found]


def _read_torch(net: Net, file: Path) -> dict[str, Tensor]:
    """As `_read_keras`, from torchvision's or timm's names, in Keras' layout."""
    from safetensors import safe_open

    known = {torch: layer for layer in net.layers for torch in layer.torch}
    found = {}
    with safe_open(file, framework="flax") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
            owner, _, part = name.rpartition(".")
            array = np.asarray(tensors.get_tensor(name))
            if owner in known and part in ("weight", "bias"):
                layer = known[owner]
                ours = f"{layer.name}/{'kernel' if part == 'weight' else 'bias'}"
                found[ours] = Tensor(name, _from_torch(layer, array))
            else:
                found[name] = Tensor(name, array)
    return found


def _from_torch(layer: Layer, array: np.ndarray) -> np.ndarray:
    """Out, in, height, width to height, width, in, out; for a dense layer all but out in one."""
    if array.ndim == 1:
        return array
    out, inputs = array.shape[0], array[0].size
    if not layer.dense:
        return np.moveaxis(array, (1, 0), (-2, -1))
    channels = layer.maps if layer.maps and inputs % layer.maps == 0 else inputs
    by_channel = array.reshape(out, channels, inputs // channels)
    return np.ascontiguousarray(by_channel.transpose(2, 1, 0)).reshape(inputs, out)


def _fitted(net: Net, found: dict[str, Tensor], file: object, like: Tree) -> dict[str, Any]:
    """The arrays that `like` has a place for, in its structure.

    Raises:
        UserError: one line with the names of tensors missing, unexpected, misshapen or not finite.
    """
    known = {f"{layer.name}/{part}" for layer in net.layers for part in PARTS}
    wanted = {name: leaf.shape for name, leaf in _flat(like).items() if name in known}
    common = [name for name in wanted if name in found]
    shapes = {name: found[name].array.shape for name in common}
    complaints = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [tensor.name for name, tensor in found.items() if name not in known],
        "of another shape": [
            f"{found[name].name} is {shapes[name]}, should be {wanted[name]}"
            for name in common
            if shapes[name] != wanted[name]
        ],
        "not finite": [
            found[name].name for name in common if not np.isfinite(found[name].array).all()
        ],
    }
    said = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{' …' if names[SHOWN:] else ''}"
        for what, names in complaints.items()
        if names
    ]
    if said:
        raise UserError(f"{file} does not fit the encoder; tensors {'; '.join(said)}")
    return _nested({name: found[name].array.astype(np.float32) for name in common})


def _imagenet(kind: str, like: Tree) -> Weights:
    """The original weights: a file in the cache, or through keras.applications."""
    net = NETS[kind]
    with_top = any(layer.path[0] in like for layer in net.layers if layer.top)
    files = [file for file in net.files if file.top or not with_top]
    if not files:
        raise UserError(f"no original weights of {kind} with its top are known: name a file")
    folder = machine.cache_dir() / "weights"
    for file in files:
        if (folder / file.name).is_file():
            return _from_file(net, _undamaged(folder / file.name, file.md5), like)
    fetch = f"fetch {net.url}{files[0].name} into {folder}, or name a file with --encoder.weights"
    if not net.in_keras:
        raise UserError(f"ImageNet weights of {kind} are not at hand: {fetch}")
    try:
        found = _through_keras(net, with_top)
    except Exception as error:  # no keras, no network, a half download: the remedy is the same
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"ImageNet weights of {kind} are not at hand ({reason}): {fetch}") from None
    return Weights(_fitted(net, found, "keras.applications", like), "caffe")


def _undamaged(file: Path, md5: str) -> Path:
    with file.open("rb") as handle:
        content = hashlib.file_digest(handle, "md5").hexdigest()
    if content != md5:
        raise UserError(f"{file} is not the original (MD5 {content}, should be {md5}): fetch again")
    return file


def _through_keras(net: Net, with_top: bool) -> dict[str, Tensor]:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    # Keras tells of its download on stdout, which is for results.
    with contextlib.redirect_stdout(sys.stderr):
        model = getattr(keras.applications, net.in_keras)(weights="imagenet", include_top=with_top)
    known = {layer.keras: layer.name for layer in net.layers}
    found = {}
    for layer in model.layers:
        for part, array in zip(PARTS, layer.get_weights(), strict=False):
            name = f"{layer.name}/{part}"
            found[f"{known.get(layer.name, layer.name)}/{part}"] = Tensor(name, array)
    return found


def _from_run(path: Path, cfg: config.Encoder, variables: Tree) -> dict[str, Any]:
    """The encoder that a run trained or used, which must be this one to the last array."""
    from vidrec.io import checkpoint

    try:
        folder = runs.run_folder(path)
    except UserError as error:
        raise UserError(f"encoder.weights: {error}") from None
    tree, about = checkpoint.read(folder / "model")
    _same_preprocessing(cfg, about["config"]["encoder"]["normalize"])
    _same_code(cfg, about, folder)
    # An encoder that never trained is saved whole; one that did, with the model it was part of.
    parts = [
        *({"params": tree.get(part, {}).get("encoder", {})} for part in ("fixed", "trained")),
        *({name: each.get("encoder", {})} for name, each in tree.get("constants", {}).items()),
        {"batch_stats": tree.get("stats", {}).get("encoder", {})},
        tree.get("encoder", {}),
    ]
    theirs = {name: leaf for part in parts for name, leaf in _flat(part).items()}
    ours = _flat(variables)
    if not theirs:
        raise UserError(f"encoder.weights: the run {folder} has no encoder")
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape:
            raise UserError(
                f"encoder.weights: the encoder of {folder} is another one; they differ in {name}"
            )
    return _nested(theirs)


def _flat(tree: Tree) -> dict[str, Any]:
    return flatten_dict(tree, sep="/")


def _nested(flat: Tree) -> dict[str, Any]:
    return unflatten_dict(flat, sep="/")
