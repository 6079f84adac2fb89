"""A frame, or a clip, to features: encoders by name, their weights, and which of them train.

Every encoder is a pure Flax module: `__call__(frames_BHWC, train=False)` takes pixels (uint8, or
any dtype that counts from 0 to 255) and gives features (B,D) or (B,h,w,D) in float32;
normalisation happens inside. Where `takes_clips`, it takes (B,T,H,W,C) and gives (B,1,D).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vidrec import config
from vidrec.errors import UserError
from vidrec.models.encoders import base
from vidrec.models.encoders.base import count, trained_blocks
from vidrec.models.encoders.norm import batch_statistics
from vidrec.models.encoders.preprocess import normalize, statistics

__all__ = [
    "batch_statistics",
    "build",
    "count",
    "extractor",
    "feature_shape",
    "fit_normalisation",
    "frozen_blocks",
    "init",
    "merge",
    "normalize",
    "outside_loops",
    "partition",
    "shapes",
    "statistics",
    "trainable_mask",
    "trained_blocks",
]

Tree = Mapping[str, Any]


def build(cfg: config.Encoder, **fields: Any) -> nn.Module:
    """The module that the settings name.

    `fields` are for what has no setting: `form`, `channels`, `top` …

    Raises:
        UserError: the encoder has no such pooling, or knows nothing of a setting that was changed.
    """
    kind = _kind(cfg.kind)
    if cfg.kind == "none":
        return kind()
    known = {field.name for field in dataclasses.fields(kind)}
    default = config.Encoder()
    for name in ("pooling", "width", "normalize", "trainable", "dtype", "remat"):
        value = getattr(cfg, name)
        if name in known:
            fields.setdefault(name, value)
        # What trains is chosen outside; the field only tells which form convolutions take.
        elif name != "trainable" and value != getattr(default, name):
            raise UserError(f"encoder.{name} = {value!r}: {cfg.kind} has no field '{name}'")
    if cfg.init != "own":
        if "initialiser" not in known:
            raise UserError(f"encoder.init = {cfg.init!r}: {cfg.kind} has no field 'initialiser'")
        fields.setdefault("initialiser", cfg.init)
    poolings = getattr(kind, "POOLINGS", (cfg.pooling,))
    if cfg.pooling not in poolings:
        choices = ", ".join(poolings)
        raise UserError(
            f"encoder.pooling = {cfg.pooling!r} should be one of {choices} for {cfg.kind}"
        )
    return kind(**fields)


def outside_loops(module: nn.Module) -> nn.Module:
    """The module for a place where no scan, map or vmap stands around it: see `conv`."""
    return module.clone(form="alone") if getattr(module, "form", "") == "auto" else module


def fit_normalisation(module: nn.Module, parts: Iterable[np.ndarray]) -> nn.Module:
    """The module with the statistics of these pixels (n, H, W, C), where it normalises by them.

    They are those of the training clips alone.
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
    """Variables: random from `cfg.seed` (or `key`), or from the weights that the settings name.

    What the weights lack (a dense pooling) stays random. `frame_shape` is (H,W,C), or (T,H,W,C)
    where the encoder takes clips; None: by `cfg.size`.
    """
    key = jax.random.key(cfg.seed) if key is None else key
    frames = jnp.zeros((1, *_shape(module, cfg, frame_shape)), jnp.uint8)
    variables = jax.jit(module.init)(key, frames)
    if cfg.weights != "random":
        from vidrec.models.encoders import pretrained

        variables = pretrained.fill(cfg, variables)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables.get("constants", {}))):
        raise ValueError("normalize is 'standard': call fit_normalisation first")
    return variables


def shapes(
    module: nn.Module, frame_shape: tuple[int, ...]
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """A frame's (or clip's) feature shape and the abstract variables; computes nothing."""
    frames = jax.ShapeDtypeStruct((1, *frame_shape), jnp.uint8)
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), frames)
    return out.shape[1:], variables


def feature_shape(
    cfg: config.Encoder, frame_shape: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Shape of one frame's features, or of one clip's where the encoder takes clips."""
    module = build(cfg)
    return shapes(module, _shape(module, cfg, frame_shape))[0]


def extractor(module: nn.Module, variables: Tree, batch: int) -> Callable[[np.ndarray], np.ndarray]:
    """Frames (n,H,W,C), or clips, to features on the host: one program, compiled once a size.

    Any n (0 too) is taken `batch` at a time, and what is left over is padded to a whole batch.
    """
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
    """True for each array that trains, in the structure of `params`; None: as the encoder says."""
    trainable = trainable or getattr(module, "trainable", "none")
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


def frozen_blocks(module: nn.Module, trainable: str) -> tuple[str, ...]:
    """Blocks of an encoder that do not train."""
    blocks = getattr(module, "blocks", ())
    trained = trained_blocks(trainable, blocks)
    return tuple(name for name in blocks if name not in trained)


def partition(params: Tree, mask: Tree) -> tuple[dict[str, Any], dict[str, Any]]:
    """Frozen and trained arrays apart, as nested dicts without empty branches."""
    frozen, trained = {}, {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            halves = partition(value, mask[name])
        else:
            halves = (None, value) if mask[name] else (value, None)
        for tree, half in zip((frozen, trained), halves, strict=True):
            if half is not None and not (isinstance(half, Mapping) and not half):
                tree[name] = half
    return frozen, trained


def merge(fixed: Tree, trained: Tree) -> dict[str, Any]:
    """Undoes `partition`; an array that stands in both is that of `trained`."""
    merged = dict(fixed)
    for name, value in trained.items():
        both = isinstance(value, Mapping) and name in merged
        merged[name] = merge(merged[name], value) if both else value
    return merged


def _kind(name: str) -> type[nn.Module]:
    """The class of an encoder; each is imported when it is asked for."""
    if name == "none":
        return base.Given
    if name == "cnn":
        from vidrec.models.encoders.cnn import Cnn

        return Cnn
    if name == "cnn3":
        from vidrec.models.encoders.cnn3 import CNN3

        return CNN3
    if name == "c3d":
        from vidrec.models.encoders.c3d import C3D

        return C3D
    if name in ("vgg9", "vgg16"):
        from vidrec.models.encoders import vgg

        return vgg.VGG9 if name == "vgg9" else vgg.VGG16
    if name == "squeezenet":
        from vidrec.models.encoders.squeezenet import SqueezeNet

        return SqueezeNet
    made = config.load_user(name)
    is_module = isinstance(made, type) and issubclass(made, nn.Module)
    if not is_module or not hasattr(made, "takes_clips"):
        raise UserError(f"encoder.kind {name}: should be a Flax module that says takes_clips")
    return made


def _shape(
    module: nn.Module, cfg: config.Encoder, frame_shape: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Parameters of a clip's dense layers depend on its length, so that is never guessed."""
    if frame_shape is not None:
        return frame_shape
    if module.takes_clips:
        raise ValueError("an encoder of clips needs frame_shape: (T, H, W, C)")
    return (cfg.size, cfg.size, 3)
