"""Define the model (encoder, dense layers, scanner, head): frames or features to class scores.

Dimension letters: B clips, T frames, H W C pixels, D features, U units, K classes; feature maps are
(B, T, H, W, D).
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vidrec.config import Config, is_onnx, plugins
from vidrec.errors import UserError
from vidrec.models import cells, encoders, scanners
from vidrec.models.inputs import CallOptions, ends, expect, zero_padding
from vidrec.models.layers import Dense, floats
from vidrec.models.norm_dropout import NormDropout

Taps = dict[str, Array]


class Head(nn.Module):
    """Compute class scores from the scanner's states.

    Attributes:
        classes: Number K of classes.
        kind: What is read: `last` valid state, `mean` of valid states, `per_frame` (each state, for
            scores of each frame), or `flatten` (all states concatenated, for clips of exactly
            `length` frames).
        dense: Widths of hidden layers, each followed by a ReLU.
        activation: `softmax`: scores are logits; `relu`: scores are logits after a ReLU.
        length: Number of frames of a clip; None: `flatten` does not check it.
        initialiser: Convention of the dense layers' initial weights, see `layers.initialisers`.
        dtype: Type of the operands of matrix products: float32 or bfloat16.
    """

    classes: int
    kind: str = "last"
    dense: tuple[int, ...] = ()
    activation: str = "softmax"
    length: int | None = None
    initialiser: str = "keras"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x_BTU: Array, mask_BT: Array | None = None) -> tuple[Array, Taps]:
        """Return scores (B, K), or (B, T, K) of each frame, and the outputs of all layers."""
        x = self._read(x_BTU, mask_BT)
        taps = {"read": x}
        for index, width in enumerate(self.dense):
            dense = Dense(width, self.initialiser, self.dtype, name=f"dense_{index}")
            x = taps[f"dense_{index}"] = nn.relu(dense(x))
        logits = Dense(self.classes, self.initialiser, self.dtype, name="scores")(x)
        if self.activation == "relu":
            logits = nn.relu(logits)
        return logits, taps

    def _read(self, x_BTU: Array, mask_BT: Array | None) -> Array:
        if self.kind == "per_frame":
            return x_BTU
        if self.kind == "flatten":
            return self._flatten(x_BTU)
        mask_BT = jnp.ones(x_BTU.shape[:2], bool) if mask_BT is None else mask_BT
        chosen = ends(mask_BT) if self.kind == "last" else mask_BT
        count_B1 = jnp.maximum(chosen.sum(1, keepdims=True), 1).astype(x_BTU.dtype)
        return zero_padding(x_BTU, chosen).sum(1) / count_B1

    def _flatten(self, x_BTU: Array) -> Array:
        if self.length is not None and x_BTU.shape[1] != self.length:
            raise UserError(
                f"head.kind flatten: expected clips of frames.length = {self.length} frames, got "
                f"{x_BTU.shape[1]}"
            )
        return x_BTU.reshape(x_BTU.shape[0], -1)


class ModelOutput(NamedTuple):
    """The output of a model for a batch of clips.

    Attributes:
        logits: Class scores (B, K), or (B, T, K) if the head scores every frame.
        carry: The scanner's carry after the last frame.
        taps: The outputs of all stages of the model, by name.
    """

    logits: Array
    carry: Any
    taps: Taps


class VideoModel(nn.Module):
    """Compute class scores of clips, from frames (with an encoder) or features (without one).

    >>> model = VideoModel(scanners.MeanPool(), Head(classes=4))
    >>> features_BTD = jax.random.normal(jax.random.key(0), (2, 5, 3))
    >>> mask_BT = scanners.lengths_to_mask(jnp.array([5, 2]), 5)
    >>> variables = model.init(jax.random.key(1), features_BTD, mask_BT)
    >>> logits_BK, carry, taps = model.apply(variables, features_BTD, mask_BT)

    Attributes:
        scanner: A `scanners.Scanner`, or any Flax module; see `scanners.apply`.
        head: Module from states to scores.
        encoder: Module from frames to features; None: inputs are features.
        frozen: Paths of modules in the encoder within which batch normalization keeps its
            statistics.
        dense: Widths of linear layers before the scanner.
        batch_norm: Apply batch normalization after each linear layer.
        dropout: Dropout rate after each linear layer, used if a call gives none.
        axis_name: Name of the device axis over which a batch is split; None: one device.
        initialiser: Convention of the linear layers' initial weights, see `layers.initialisers`.
        dtype: Type of the operands of matrix products: float32 or bfloat16.
    """

    scanner: nn.Module
    head: Head
    encoder: nn.Module | None = None
    frozen: tuple[tuple[str, ...], ...] = ()
    dense: tuple[int, ...] = ()
    batch_norm: bool = False
    dropout: float = 0.0
    axis_name: str | None = None
    initialiser: str = "keras"
    dtype: str = "float32"

    @property
    def streams(self) -> bool:
        """Return True if a call can continue from the carry of the previous call."""
        return getattr(self.scanner, "streams", False) and self.head.kind != "flatten"

    @nn.compact
    def __call__(
        self,
        inputs: Array,
        mask_BT: Array | None = None,
        *,
        carry: Any = None,
        train: bool = False,
        dropout: Array | float | None = None,
        keys_B: Array | None = None,
        grad_clip: Array | float | None = None,
    ) -> ModelOutput:
        """Score clips.

        Args:
            inputs: Frames (B, T, H, W, C) with an encoder, else features (B, T, D…).
            mask_BT: False on padded frames; None: no frame is padded.
            carry: The carry that the previous call returned; None: zeros.
            train: See `CallOptions`, as for the arguments below.
            dropout: Dropout rate.
            keys_B: A PRNG key for each clip.
            grad_clip: Bound on the derivative at each gate's pre-activation.

        Raises:
            UserError: An array has the wrong rank, or there is a carry and the model takes none.
        """
        if carry is not None and self.head.kind == "flatten":
            raise UserError("head.kind flatten needs the whole clip at once, so it takes no carry")
        options = CallOptions(train, dropout, keys_B, grad_clip)
        x, mask_BT = self._features(inputs, mask_BT, train)
        taps = {"features": x}
        for index, width in enumerate(self.dense):
            x = Dense(width, self.initialiser, self.dtype, name=f"dense_{index}")(x)
            norm_dropout = NormDropout(
                self.batch_norm, self.dropout, self.axis_name, name=f"after_dense_{index}"
            )
            x = taps[f"dense_{index}"] = norm_dropout(x, mask_BT, options)
        x, carry = scanners.apply(self.scanner, x, mask_BT, carry, options)
        taps["scanner"] = x
        if x.ndim == 5:
            x = taps["pooled"] = x.mean((2, 3))
        logits, inner = self.head(x, mask_BT)
        taps |= {f"head_{name}": value for name, value in inner.items()} | {"logits": logits}
        return ModelOutput(logits, carry, taps)

    def _features(
        self, inputs: Array, mask_BT: Array | None, train: bool
    ) -> tuple[Array, Array | None]:
        """Return features and their mask; after an encoder of whole clips, T is 1."""
        if self.encoder is None:
            expect("features", inputs, "BTD", "BTHWD")
            x = inputs
        else:
            expect("frames", inputs, "BTHWC")
            x = self._encode(self.encoder, inputs, mask_BT, train)
        if mask_BT is not None and x.shape[1] == 1 and mask_BT.shape[1] != 1:
            mask_BT = mask_BT.any(1, keepdims=True)
        return zero_padding(floats(x), mask_BT), mask_BT

    def _encode(
        self, encoder: Any, frames_BTHWC: Array, mask_BT: Array | None, train: bool
    ) -> Array:
        flat, mask_N = frames_BTHWC, mask_BT
        if not encoder.takes_clips:
            flat = frames_BTHWC.reshape(-1, *frames_BTHWC.shape[2:])
        if mask_BT is not None:
            mask_N = mask_BT.any(1) if encoder.takes_clips else mask_BT.reshape(-1)
        if train:
            frozen = [(*encoder.path, *path) for path in self.frozen]
            with encoders.batch_statistics(mask_N, self.axis_name, frozen):
                x = encoder(flat, train=True)
        else:
            x = encoder(flat, train=False)
        return x if encoder.takes_clips else x.reshape(*frames_BTHWC.shape[:2], *x.shape[1:])


def build(
    cfg: Config, num_classes: int, axis_name: str | None = None, encoder: nn.Module | None = None
) -> VideoModel:
    """Build the model that a configuration describes.

    Args:
        cfg: All settings.
        num_classes: Number K of classes.
        axis_name: Name of the device axis over which a batch is split; None: one device.
        encoder: Module from frames to features; None: the model's inputs are features.

    Raises:
        UserError: Settings require something that a part of the model cannot do.
    """
    scanner, head = cfg.scanner, cfg.head
    if getattr(encoder, "takes_clips", False) and head.kind in ("per_frame", "flatten"):
        raise UserError(
            f"encoder.kind = {cfg.encoder.kind!r} gives a clip one feature: head.kind should be "
            f"last or mean, not {head.kind!r}"
        )
    common: dict[str, Any] = {"initialiser": scanner.init, "dtype": scanner.dtype}
    built = VideoModel(
        scanner=scanners.build(scanner, axis_name, head.kind == "last", cfg.frames.length),
        head=Head(num_classes, head.kind, head.dense, head.activation, cfg.frames.length, **common),
        encoder=encoder,
        frozen=encoders.frozen_norms(encoder, cfg.encoder) if encoder else (),
        dense=scanner.dense,
        batch_norm=scanner.batch_norm,
        dropout=scanner.dropout,
        axis_name=axis_name,
        **common,
    )
    _check_scanner(cfg, built)
    return built


def check_user_classes(cfg: Config) -> None:
    """Build a user's scanner and encoder, so that errors in them are reported before any work.

    Raises:
        UserError: One of them cannot be loaded, or does not fit its settings.
    """
    if plugins.is_code(cfg.encoder.kind) or is_onnx(cfg.encoder.kind) or cfg.encoder.args:
        encoders.build(cfg.encoder)
    if plugins.is_code(cfg.scanner.kind) or cfg.scanner.args:
        build(cfg, num_classes=2)


def _check_scanner(cfg: Config, built: VideoModel) -> None:
    """Refuse settings that a user's scanner does not support."""
    kind = cfg.scanner.kind
    if isinstance(built.scanner, scanners.Recurrent) and not _begins_with_zeros(built.scanner.cell):
        raise UserError(
            f"scanner.kind = {kind!r}: initialize_carry should return zeros, since streams and "
            "windows of training begin with them"
        )
    if cfg.train.tbptt_every and not built.streams:
        raise UserError(
            f"train.tbptt_every = {cfg.train.tbptt_every} cuts clips into windows: scanner.kind = "
            f"{kind!r} does not say that it streams"
        )
    if cfg.optim.clip_mode == "preactivation" and not scanners.takes(built.scanner, "grad_clip"):
        raise UserError(
            f"optim.clip_mode = 'preactivation': the call of scanner.kind = {kind!r} takes no "
            "'grad_clip', so nothing would be clipped"
        )


def _begins_with_zeros(cell: cells.Cell) -> bool:
    if type(cell).initialize_carry is cells.Cell.initialize_carry:
        return True
    with jax.ensure_compile_time_eval():
        carry = cell.initialize_carry((1,), jnp.float32)
        return not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(carry))


def initial_carry(model: VideoModel, inputs: Array | jax.ShapeDtypeStruct) -> Any:
    """Return the carry before the first frame: zeros.

    Args:
        model: The model.
        inputs: Clips (B, T, …), or their shape and type.

    Raises:
        UserError: The model needs the whole clip at once.
    """
    if not model.streams:
        raise UserError("this scanner, or a flatten head, needs the whole clip at once")
    output = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], inputs)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), output.carry)


def layers(model: nn.Module, inputs: jax.ShapeDtypeStruct) -> list[dict[str, Any]]:
    """List the layers of a model in the order of their calls, without computing them.

    Args:
        model: Any Flax module.
        inputs: Shape and type of a batch.

    Returns:
        Dictionaries with `name`, `kind`, `input` and `output` (shapes without the batch's axis) and
        `params` (the number of a layer's parameters, without those of modules inside it).
    """
    called: list[dict[str, Any]] = []

    def record(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        out = call(*args, **kwargs)
        if context.method_name == "__call__" and args:
            array = next(leaf for leaf in jax.tree.leaves(out) if hasattr(leaf, "shape"))
            module = context.module
            # One direction of a recurrence is named by its cell, such as GRU.
            kind = type(getattr(module, "cell", module)).__name__
            shapes = {"input": list(args[0].shape[1:]), "output": list(array.shape[1:])}
            called.append({"name": "/".join(module.path), "kind": kind} | shapes)
        return out

    with nn.intercept_methods(record):
        variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    owned = _owned(variables.get("params", {}))
    outer = {entry["name"].rpartition("/")[0] for entry in called}
    # A module that only calls other modules is left out, since those are listed.
    return [
        entry | {"params": owned.get(entry["name"], 0)}
        for entry in called
        if entry["name"] and (entry["name"] in owned or entry["name"] not in outer)
    ]


def _owned(params: Any, path: str = "") -> dict[str, int]:
    """Count each module's parameters, without those of modules inside it, by path."""
    own = sum(math.prod(leaf.shape) for leaf in params.values() if hasattr(leaf, "shape"))
    counts = {path: own} if own else {}
    for name, branch in params.items():
        if not hasattr(branch, "shape"):
            counts |= _owned(branch, f"{path}/{name}".lstrip("/"))
    return counts
