"""Read an encoder's weights from a file, from the original ImageNet weights, or from a run.

Every tensor is checked: an error names one that is missing, unexpected or of another shape.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vidrec import config
from vidrec.errors import UserError
from vidrec.io import files
from vidrec.models.encoders.weights import finding, formats, imagenet, runs
from vidrec.models.encoders.weights.names import (
    PARTS,
    STATISTICS,
    File,
    Layer,
    Package,
    PretrainedNet,
    Tensor,
)
from vidrec.models.encoders.weights.runs import check_normalize

__all__ = [
    "File",
    "Layer",
    "Package",
    "PretrainedNet",
    "Weights",
    "check_normalize",
    "concrete",
    "digest",
    "fill",
    "load",
    "normalization",
]

SHOWN = 3  # largest number of names in a message

Tree = Mapping[str, Any]


class Weights(NamedTuple):
    """Variables that were read.

    Attributes:
        variables: Collections params and, where there are any, batch_stats, in the encoder's
            structure and layout, float32.
        normalize: Value of `encoder.normalize` that the weights require.
    """

    variables: dict[str, Any]
    normalize: str


def concrete(net: PretrainedNet, cfg: config.Encoder) -> str:
    """Return what `encoder.weights = auto` means on this machine, as NAME@HASH.

    Raises:
        UserError: No weights are available; the message says how to get them.
    """
    top = bool(cfg.args.get("top"))
    if found := finding.find(net, top):
        return found.by_content
    raise UserError(
        f"encoder.weights = auto: no weights of {cfg.kind} are at hand: "
        f"{finding.how_to_get(net, top)} (--encoder.weights random does without)"
    )


def normalization(net: PretrainedNet | None, cfg: config.Encoder) -> str:
    """Return the `encoder.normalize` that the weights require; "" if none is required or known.

    Args:
        net: What the encoder declares as `pretrained`.
        cfg: Its settings.

    Raises:
        UserError: There are no such weights.
    """
    if cfg.weights == "random":
        return ""
    if theirs := of_run(cfg):
        return str(theirs["normalize"])
    if net is None:
        return ""
    if config.is_path(cfg.weights):
        return net.normalize.get(formats.framework(files.expanded(cfg.weights)), "")
    if by_content := config.BY_CONTENT.fullmatch(cfg.weights):
        return net.normalize_of(by_content[1])
    return net.usual_normalize()


def of_run(cfg: config.Encoder) -> dict[str, Any]:
    """Return the encoder settings of the run that the weights are from; {} if they are from none.

    Raises:
        UserError: There is no such run.
    """
    path = files.expanded(cfg.weights)
    if not config.is_path(cfg.weights) or path.is_file():
        return {}
    return runs.settings_of(path)


def load(net: PretrainedNet, source: str | Path, variables: Tree) -> Weights:
    """Read weights from a file, or the original ImageNet weights if `source` is "imagenet".

    Args:
        net: What the encoder declares as `pretrained`.
        source: "imagenet", a file, or NAME@HASH.
        variables: The encoder's variables, or their shapes. Arrays that no such file has (those of
            a dense pooling) are left out of the result; a top that only the file has is skipped.

    Raises:
        UserError: The file is missing, its layout is not known, or its tensors do not fit.
    """
    if str(source) == "imagenet":
        content, file = imagenet.read(net, variables["params"])
    elif config.BY_CONTENT.fullmatch(str(source)):
        path = finding.of_content(net, str(source))
        content, file = formats.read(net, path), str(path)
    else:
        path = Path(files.expanded(source))
        content, file = formats.read(net, path), str(path)
    fitted = _fitted(net, content.tensors, file, variables)
    return Weights(fitted, net.normalize[content.framework])


def fill(module: nn.Module, cfg: config.Encoder, variables: Tree) -> dict[str, Any]:
    """Replace random arrays by those of the weights that the settings name.

    A run replaces all arrays of the encoder, including the statistics of pixels. A run's folder
    NAME-ID may be given as NAME if there is only one.

    Args:
        module: The encoder.
        cfg: Its settings; `weights` is not random.
        variables: The variables that `module.init` returns.

    Raises:
        UserError: The weights do not fit, or require another normalization.
    """
    path = files.expanded(cfg.weights)
    if config.is_path(cfg.weights) and not path.is_file():
        return runs.read(path, cfg, variables)
    net = getattr(module, "pretrained", None)
    if hasattr(module, "read_weights"):  # a library reads the weights of its own network
        return module.read_weights(cfg.weights, variables)
    if not isinstance(net, PretrainedNet):
        raise UserError(
            f"encoder.weights = {cfg.weights!r}: {cfg.kind} reads no weights of others (a class of "
            "your own declares them as 'pretrained'); it takes 'random' or a run's folder"
        )
    weights = load(net, cfg.weights, variables)
    check_normalize(cfg, weights.normalize)
    merged = {**flatten_dict(dict(variables)), **flatten_dict(weights.variables)}
    return unflatten_dict(merged)


def digest(variables: Tree) -> str:
    """Return a hash of all arrays with their names, types and shapes, independent of order."""
    total = hashlib.sha256()
    leaves = jax.tree_util.tree_flatten_with_path(variables)[0]
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    for name in sorted(named):
        array = np.asarray(named[name], order="C")
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _fitted(
    net: PretrainedNet, tensors: dict[str, Tensor], file: str, variables: Tree
) -> dict[str, Any]:
    """Return the tensors that `variables` has, in its structure, if all tensors fit."""
    parts = {layer: [f"{layer.name}/{part}" for part in PARTS[layer.kind]] for layer in net.layers}
    known = set().union(*parts.values())
    places = {"/".join(path[1:]): path for path in flatten_dict(dict(variables))}
    shapes = {name: leaf.shape for name, leaf in _by_name(variables).items() if name in known}
    # Every array of a layer that the encoder has is required; a layer that it lacks is skipped.
    lacked = {name for names in parts.values() if not shapes.keys() & names for name in names}
    common = [name for name in shapes if name in tensors]
    complaints = {
        "missing": [name for name in shapes if name not in tensors],
        "unexpected": [
            tensor.name for name, tensor in tensors.items() if name not in shapes.keys() | lacked
        ],
        "of another shape": [
            f"{tensors[name].name} is {tensors[name].array.shape}, should be {shapes[name]}"
            for name in common
            if tensors[name].array.shape != shapes[name]
        ],
        "not finite": [
            tensors[name].name for name in common if not np.isfinite(tensors[name].array).all()
        ],
    }
    said = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{' …' if names[SHOWN:] else ''}"
        for what, names in complaints.items()
        if names
    ]
    if said:
        raise UserError(f"{file} does not fit the encoder; tensors {'; '.join(said)}")
    return unflatten_dict({places[name]: tensors[name].array.astype(np.float32) for name in common})


def _by_name(variables: Tree) -> dict[str, Any]:
    """Return arrays by their path within params, and statistics by that within batch_stats."""
    flat = flatten_dict(dict(variables))
    return {
        "/".join(path[1:]): leaf
        for path, leaf in flat.items()
        if path[0] == ("batch_stats" if path[-1] in STATISTICS else "params")
    }
