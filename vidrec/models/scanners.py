"""Define scanners: recurrences over frames, stacked, bidirectional or streaming; and controls.

A scanner gives outputs for every frame and a carry. Passing the carry to the next call continues
where the last call stopped: frame by frame (streaming) or window by window. Frames whose mask is
False have no effect on outputs, carry or statistics, and their own outputs are 0.

Dimension letters: B clips, T frames, D features, U units; feature maps are (B, T, H, W, D).
"""

import inspect
import zlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vidrec.config import load_user
from vidrec.errors import UserError
from vidrec.models import cells, fused, recurrence
from vidrec.models.attention import Attention
from vidrec.models.inputs import (
    CallOptions,
    check_inputs,
    ends,
    expect,
    lengths_to_mask,
    spread,
    starts,
    zero_padding,
)
from vidrec.models.lru import LRU
from vidrec.models.norm_dropout import NormDropout
from vidrec.models.scanner import Scanner, checked_carry
from vidrec.models.tcn import TCN
from vidrec.models.transformer import Transformer

__all__ = ["Identity", "MeanPool", "Recurrent", "Scanner", "apply", "build", "lengths_to_mask"]

DIRECTIONS = ("no", "concat", "sum")


class Direction(nn.Module):
    """One cell over time in one direction; its parameters are the cell's weights."""

    cell: cells.Cell
    reverse: bool = False

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        mask_BT: Array | None = None,
        carry: Any = None,
        grad_clip: Array | float | None = None,
    ) -> tuple[Array, Any]:
        """Return states (B, T, …, U) and the last carry."""
        declared = self.cell.weights(x_BTD.shape[-1])
        weights = {name: self.param(name, *weight) for name, weight in declared.items()}
        inputs = self.cell.project(weights, x_BTD)
        dtype = jnp.result_type(*jax.tree.leaves(inputs))
        zeros = self.cell.initialize_carry((x_BTD.shape[0], *x_BTD.shape[2:-1]), dtype)
        carry = zeros if carry is None else checked_carry(carry, zeros)
        if recurrence.form.get() == "cudnn" and self._suits_cudnn(mask_BT, grad_clip):
            # The compiler removes the projection above, since nothing reads it.
            lengths_B = jnp.full(x_BTD.shape[0], x_BTD.shape[1], jnp.int32)
            return fused.cudnn(weights, x_BTD, lengths_B, carry)
        bound = None if grad_clip is None else jnp.asarray(grad_clip, jnp.float32)
        h_BTU, carry = recurrence.scan_time(
            self.cell, weights, inputs, mask_BT, carry, reverse=self.reverse, bound=bound
        )
        return zero_padding(self.cell.readout(weights, h_BTU, x_BTD), mask_BT), carry

    def _suits_cudnn(self, mask_BT: Array | None, grad_clip: Array | float | None) -> bool:
        """Return True if cuDNN computes the same, provided that there is no vmap."""
        plain = type(self.cell) is cells.LSTM and self.cell.dtype == "float32"
        return plain and not self.reverse and mask_BT is None and grad_clip is None


class Recurrent(Scanner):
    """A cell over time, in stacked layers and one or both directions.

    Batch norm and then dropout follow each layer, including the last one before the head. The carry
    is a tuple with one entry for each layer; with both directions, each entry is a pair. The
    backward direction begins at a clip's last valid frame. With `final_states`, the last layer
    returns both directions' final states at a clip's last valid frame, for a head that reads one
    frame.

    >>> scanner = Recurrent(cells.LSTM(units=8), layers=2)
    >>> features_BTD = jax.random.normal(jax.random.key(0), (2, 5, 3))
    >>> mask_BT = lengths_to_mask(jnp.array([5, 2]), 5)
    >>> variables = scanner.init(jax.random.key(1), features_BTD, mask_BT)
    >>> states_BTU, carry = scanner.apply(variables, features_BTD, mask_BT)

    Attributes:
        cell: The cell that computes a step.
        layers: Number of stacked layers.
        bidirectional: How both directions are joined: concat or sum; no: forward direction only.
        batch_norm: Apply batch normalization after each layer.
        dropout: Dropout rate after each layer, used if a call gives none.
        axis_name: Name of the device axis over which a batch is split; None: one device.
        final_states: See above.
    """

    cell: cells.Cell
    layers: int = 1
    bidirectional: str = "no"  # no, concat or sum
    batch_norm: bool = False
    dropout: float = 0.0
    axis_name: str | None = None
    final_states: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bidirectional not in DIRECTIONS:
            known = ", ".join(DIRECTIONS)
            raise UserError(f"scanner.bidirectional: {self.bidirectional!r} is not one of {known}")

    @property
    def streams(self) -> bool:  # type: ignore[override]
        """Return True if a call can continue from the carry of the previous call."""
        return self.bidirectional == "no"

    @nn.compact
    def scan(
        self, x_BTD: Array, mask_BT: Array | None, carry: Any, options: CallOptions
    ) -> tuple[Array, Any]:
        """Return the last layer's states, and the carries of all layers."""
        before = (None,) * self.layers if carry is None else carry
        after = []
        for index in range(self.layers):
            x_BTD, state = self._layer(index, x_BTD, mask_BT, before[index], options.grad_clip)
            norm_dropout = NormDropout(
                self.batch_norm, self.dropout, self.axis_name, name=f"after_layer_{index}"
            )
            x_BTD = norm_dropout(x_BTD, mask_BT, options)
            after.append(state)
        return x_BTD, tuple(after)

    def _layer(
        self, index: int, x_BTD: Array, mask_BT: Array | None, carry: Any, grad_clip: Any
    ) -> tuple[Array, Any]:
        forward = Direction(self.cell, name=f"layer_{index}_forward")
        y_BTU, state = forward(x_BTD, mask_BT, carry, grad_clip)
        if self.streams:
            return y_BTU, state
        backward = Direction(self.cell, reverse=True, name=f"layer_{index}_backward")
        back_BTU, back = backward(x_BTD, mask_BT, None, grad_clip)
        if self.final_states and index == self.layers - 1:
            back_BTU = self._show_final(back_BTU, mask_BT)
        joined = (
            jnp.concatenate([y_BTU, back_BTU], -1)
            if self.bidirectional == "concat"
            else y_BTU + back_BTU
        )
        return joined, (state, back)

    def _show_final(self, back_BTU: Array, mask_BT: Array | None) -> Array:
        """Return the backward states; the last valid frame gets the state of the first one."""
        mask_BT = jnp.ones(back_BTU.shape[:2], bool) if mask_BT is None else mask_BT
        final_BU = zero_padding(back_BTU, starts(mask_BT)).sum(1)
        return jnp.where(spread(ends(mask_BT), back_BTU), final_BU[:, None], back_BTU)

    def check(self, x_BTD: Array, carry: Any) -> None:
        """Check the rank of features, and the number of layers in a carry."""
        kind = type(self.cell).__name__
        if self.cell.maps:
            expect(f"features of {kind}", x_BTD, "BTHWD")
        else:
            expect(f"features of {kind}", x_BTD, "BTD")
        if carry is None:
            return
        if not self.streams:
            raise UserError(
                f"scanner.bidirectional {self.bidirectional}: a bidirectional scanner needs the "
                "whole clip at once, so it takes no carry (no streaming, chaining or truncation)"
            )
        if not isinstance(carry, tuple) or len(carry) != self.layers:
            raise UserError(f"carry: expected a tuple of {self.layers}, one entry a layer")


class MeanPool(Scanner):
    """A control that ignores order: each frame's output is the mean of the valid frames so far.

    It counts as one layer, followed by batch norm and dropout. Feature maps are averaged position
    by position. The carry is (sum, count).

    >>> scanner = MeanPool()
    >>> features_BTD = jax.random.normal(jax.random.key(0), (2, 5, 3))
    >>> mask_BT = lengths_to_mask(jnp.array([5, 2]), 5)
    >>> variables = scanner.init(jax.random.key(1), features_BTD, mask_BT)
    >>> means_BTD, carry = scanner.apply(variables, features_BTD, mask_BT)
    """

    batch_norm: bool = False
    dropout: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def scan(
        self, x_BTD: Array, mask_BT: Array | None, carry: Any, options: CallOptions
    ) -> tuple[Array, Any]:
        """Return running means, and the sum and count so far."""
        zeros = (jnp.zeros_like(x_BTD[:, 0]), jnp.zeros(x_BTD.shape[0], x_BTD.dtype))
        total, count = zeros if carry is None else checked_carry(carry, zeros)
        mask_BT = jnp.ones(x_BTD.shape[:2], bool) if mask_BT is None else mask_BT
        sums_BTD = total[:, None] + jnp.cumsum(x_BTD, 1)
        counts_BT = count[:, None] + jnp.cumsum(mask_BT.astype(x_BTD.dtype), 1)
        y_BTD = zero_padding(sums_BTD / spread(jnp.maximum(counts_BT, 1), sums_BTD), mask_BT)
        norm_dropout = NormDropout(
            self.batch_norm, self.dropout, self.axis_name, name="after_layer_0"
        )
        y_BTD = norm_dropout(y_BTD, mask_BT, options)
        return y_BTD, (sums_BTD[:, -1], counts_BT[:, -1])


class Identity(Scanner):
    """No recurrence: the head reads the features of each frame. The carry is empty.

    >>> scanner = Identity()
    >>> features_BTD = jax.random.normal(jax.random.key(0), (2, 5, 3))
    >>> mask_BT = lengths_to_mask(jnp.array([5, 2]), 5)
    >>> variables = scanner.init(jax.random.key(1), features_BTD, mask_BT)
    >>> same_BTD, carry = scanner.apply(variables, features_BTD, mask_BT)
    """

    def scan(
        self, x_BTD: Array, mask_BT: Array | None, carry: Any, options: CallOptions
    ) -> tuple[Array, Any]:
        """Return the features themselves."""
        del mask_BT, carry, options  # nothing is learnt, dropped or carried
        return x_BTD, ()


def apply(
    module: nn.Module, x_BTD: Array, mask_BT: Array | None, carry: Any, options: CallOptions
) -> tuple[Array, Any]:
    """Call a scanner, a `Scanner` or any other Flax module, inside the model that contains it.

    A module that is not a `Scanner` is called as `module(x_BTD, mask_BT)`, where the mask is always
    an array. If its call has arguments named `train`, `dropout`, `keys_B` or `grad_clip`, it gets
    these as well. It returns outputs (B, T, U); those of padded frames are ignored. Two attributes
    of its class are optional:

    - `streams = True`: it takes an argument `carry` and returns (outputs, carry). The carry is a
      tree of arrays (B, …); None, before the first frame, means zeros.
    - `rngs = ("dropout",)`: it draws random numbers from the Flax streams of these names. In
      training it is then applied to each clip separately, under `jax.vmap`, with keys folded from
      seed, epoch, clip and window. So its random choices do not depend on the batch or the devices.

    Raises:
        UserError: The module gets a carry but does not stream, or its outputs have the wrong shape.
    """
    if isinstance(module, Scanner):
        return module(x_BTD, mask_BT, carry=carry, **options._asdict())
    check_inputs(x_BTD, mask_BT, options.keys_B)
    kind, streams = type(module).__name__, getattr(module, "streams", False)
    if carry is not None and not streams:
        raise UserError(f"{kind} does not say that it streams, so it takes no carry")
    mask_BT = jnp.ones(x_BTD.shape[:2], bool) if mask_BT is None else mask_BT
    named = {name: value for name, value in options._asdict().items() if takes(module, name)}
    if streams:
        named["carry"] = carry
    drawn = getattr(module, "rngs", ()) and options.train and not module.is_initializing()
    if drawn:
        out = _clip_by_clip(module, x_BTD, mask_BT, named, options.keys_B)
    else:
        out = module(x_BTD, mask_BT, **named)
    y_BTU, after = out if isinstance(out, tuple) else (out, ())
    if y_BTU.ndim not in (3, 5) or y_BTU.shape[:2] != x_BTD.shape[:2]:
        shape = (*x_BTD.shape[:2], "U")
        raise UserError(f"{kind}: expected outputs {shape}, got shape {tuple(y_BTU.shape)}")
    return zero_padding(y_BTU, mask_BT), after if streams else ()


def takes(module: nn.Module | type[nn.Module], name: str) -> bool:
    """Return True if a module's call takes an argument of this name."""
    parameters = inspect.signature(module.__call__).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def _clip_by_clip(
    module: nn.Module,
    x_BTD: Array,
    mask_BT: Array,
    named: Mapping[str, Any],
    keys_B: Array | None,
) -> Any:
    """Apply a module to each clip separately, with random streams from the clip's key."""
    if keys_B is None:
        raise UserError("keys_B: a scanner that asks for rngs needs a PRNG key for each clip")
    alone, variables = module.unbind()
    if "batch_stats" in variables:
        raise UserError(
            f"{type(module).__name__} asks for rngs, so it is applied clip by clip and cannot take "
            "the statistics of a batch"
        )
    streams = {name: zlib.crc32(f"rngs {name}".encode()) for name in module.rngs}
    by_clip = {name: named[name] for name in ("carry", "keys_B") if named.get(name) is not None}
    shared = {name: value for name, value in named.items() if name not in by_clip}

    def one(x_TD: Array, mask_T: Array, key: Array, by_clip: dict[str, Any]) -> Any:
        rngs = {name: jax.random.fold_in(key, number) for name, number in streams.items()}
        batch = jax.tree.map(lambda leaf: leaf[None], (x_TD, mask_T, by_clip))
        out = alone.apply(variables, *batch[:2], **batch[2], **shared, rngs=rngs)
        return jax.tree.map(lambda leaf: leaf[0], out)

    return jax.vmap(one)(x_BTD, mask_BT, keys_B, by_clip)


CELLS: dict[str, type[cells.Cell]] = cells.CELLS | {"lru": LRU}
OWN: dict[str, type[Scanner]] = {
    "none": Identity,
    "mean": MeanPool,
    "attention": Attention,
    "tcn": TCN,
    "transformer": Transformer,
}


def build(
    settings: Any,
    axis_name: str | None = None,
    final_states: bool = False,
    length: int | None = None,
) -> nn.Module:
    """Build the scanner that the settings section `scanner` describes.

    Args:
        settings: The section `scanner`; `kind` may be a user's cell or scanner, path.py:Name.
        axis_name: Name of the device axis over which a batch is split; None: one device.
        final_states: See `Recurrent`.
        length: Number of frames of a clip in training, for a user's module with a field `length`.

    Raises:
        UserError: `kind` is neither a cell nor a scanner, or `scanner.args` do not fit it.
    """
    kind, args = settings.kind, settings.args
    common: dict[str, Any] = {"axis_name": axis_name, "final_states": final_states}
    if ":" not in kind and kind not in OWN | CELLS:
        raise UserError(f"scanner.kind {kind}: no class has this name, in CELLS or in OWN")
    if kind in OWN:
        return cells.fill(OWN[kind], settings, args, **common, initialiser=settings.init)
    cls = CELLS.get(kind) or load_user(kind)
    if isinstance(cls, type) and issubclass(cls, nn.Module):
        return _module(cls, settings, common | {"length": length})
    if not (isinstance(cls, type) and issubclass(cls, cells.Cell)):
        raise UserError(f"scanner.kind {kind}: neither a vidrec Cell nor a Flax module")
    if cls.weights is cells.Cell.weights and not hasattr(cls, "gates"):
        raise UserError(
            f"scanner.kind {kind}: {cls.__name__} should say how many blocks of columns its "
            "kernels have, in a line `gates = N`"
        )
    return cells.fill(Recurrent, settings, cell=cells.fill(cls, settings, args), **common)


def _module(cls: type[nn.Module], settings: Any, common: dict[str, Any]) -> nn.Module:
    """Build a user's module."""
    own = isinstance(cls, type) and issubclass(cls, Scanner)
    if settings.dropout and not own and not takes(cls, "dropout"):
        raise UserError(
            f"scanner.dropout = {settings.dropout:g}: the call of {cls.__name__} takes no "
            "'dropout', so nothing would be dropped; a rate of its own is a field for scanner.args"
        )
    if own:
        return cells.fill(cls, settings, settings.args, **common)
    # One module is used for all trials of a group, whose dropout rates may differ.
    return cells.fill(cls, settings, settings.args, without=("dropout",), **common)
