"""encoder ∘ dense ∘ scanner ∘ head: from frames or features to class scores.

Dimension letters: B clips, T frames, H W C pixels, D features, U units, K classes; feature maps are
(B, T, H, W, D).
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vidrec.config import Config
from vidrec.errors import UserError
from vidrec.models import encoders, scanners
from vidrec.models.inputs import CallOptions, ends, expect, zero_padding
from vidrec.models.layers import Dense, floats
from vidrec.models.norm_dropout import NormDropout

Taps = dict[str, Array]


class Head(nn.Module):
    """From states to class scores.

    `kind` says what is read: the `last` valid state, the `mean` of valid states, `every` state
    (scores for each frame), or all states `flatten`ed side by side, for clips of `length` frames
    exactly. Hidden layers are rectified. Scores are logits with `softmax`, rectified with `relu`.
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
        x, taps = self._read(x_BTU, mask_BT), {}
        taps["read"] = x
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


class VideoModel(nn.Module):
    """Scores of clips, from frames (with an encoder) or from features (without).

    >>> model = VideoModel(scanners.MeanPool(), Head(classes=4))
    >>> features_BTD = jax.random.normal(jax.random.key(0), (2, 5, 3))
    >>> mask_BT = scanners.lengths_to_mask(jnp.array([5, 2]), 5)
    >>> variables = model.init(jax.random.key(1), features_BTD, mask_BT)
    >>> logits_BK, carry, taps = model.apply(variables, features_BTD, mask_BT)

    Logits are (B, T, K) when the head scores every frame, else (B, K). `taps` holds what every
    stage made. Arguments of a call are those of `scanners.Recurrent`.
    """

    scanner: nn.Module
    head: Head
    encoder: nn.Module | None = None
    frozen: tuple[str, ...] = ()  # blocks of the encoder that do not train
    dense: tuple[int, ...] = ()  # linear layers before the recurrence
    batch_norm: bool = False
    dropout: float = 0.0
    axis_name: str | None = None
    initialiser: str = "keras"
    dtype: str = "float32"

    @property
    def streams(self) -> bool:
        """Whether a carry can go on from one call to the next."""
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
    ) -> tuple[Array, Any, Taps]:
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
        return logits, carry, taps

    def _features(
        self, inputs: Array, mask_BT: Array | None, train: bool
    ) -> tuple[Array, Array | None]:
        """Features and their mask; an encoder of whole clips gives one frame a clip."""
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
            frozen = [(*encoder.path, name) for name in self.frozen]
            with encoders.batch_statistics(mask_N, self.axis_name, frozen):
                x = encoder(flat, train=True)
        else:
            x = encoder(flat, train=False)
        return x if encoder.takes_clips else x.reshape(*frames_BTHWC.shape[:2], *x.shape[1:])


def build(
    cfg: Config, num_classes: int, axis_name: str | None = None, encoder: nn.Module | None = None
) -> VideoModel:
    """The model that a configuration describes; without `encoder` it starts at the features."""
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
        frozen=encoders.frozen_blocks(encoder, cfg.encoder.trainable) if encoder else (),
        dense=scanner.dense,
        batch_norm=scanner.batch_norm,
        dropout=scanner.dropout,
        axis_name=axis_name,
        **common,
    )
    _check_scanner(cfg, built)
    return built


def _check_scanner(cfg: Config, built: VideoModel) -> None:
    """Refuse settings that ask of a user's scanner what it does not do."""
    kind = cfg.scanner.kind
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


def initial_carry(model: VideoModel, inputs: Array | jax.ShapeDtypeStruct) -> Any:
    """The carry before the first frame of such inputs (an array, or its shape and type): zeros."""
    if not model.streams:
        raise UserError("a bidirectional scanner or a flatten head needs the whole clip at once")
    made = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], inputs)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), made[1])


def layers(model: nn.Module, inputs: jax.ShapeDtypeStruct) -> list[dict[str, Any]]:
    """The layers of a model in the order of their calls: what a reader's table shows.

    `inputs` is the shape and type of a batch; nothing is computed. Each entry has `name`, `kind`,
    `input` and `output` (shapes without the batch's axis) and `params` (its own, without those of
    the modules inside it).
    """
    called: list[dict[str, Any]] = []

    def record(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        out = call(*args, **kwargs)
        if context.method_name == "__call__" and args:
            array = next(each for each in jax.tree.leaves(out) if hasattr(each, "shape"))
            entry = {"name": "/".join(context.module.path), "kind": type(context.module).__name__}
            shapes = {"input": list(args[0].shape[1:]), "output": list(array.shape[1:])}
            called.append(entry | shapes)
        return out

    with nn.intercept_methods(record):
        variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    owned = _owned(variables.get("params", {}))
    outer = {name.rpartition("/")[0] for name in (each["name"] for each in called)}
    # What only calls other modules is told by these.
    return [
        each | {"params": owned.get(each["name"], 0)}
        for each in called
        if each["name"] and (each["name"] in owned or each["name"] not in outer)
    ]


def _owned(params: Any, path: str = "") -> dict[str, int]:
    """Numbers that each module itself holds, by its path."""
    own = sum(math.prod(leaf.shape) for leaf in params.values() if hasattr(leaf, "shape"))
    found = {path: own} if own else {}
    for name, branch in params.items():
        if not hasattr(branch, "shape"):
            found |= _owned(branch, f"{path}/{name}".lstrip("/"))
    return found
