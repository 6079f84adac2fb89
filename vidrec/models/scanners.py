"""A recurrence over a clip's frames: masked, stacked, bidirectional, streaming; and its controls.

Every scanner is called in one way, as `Recurrent` shows, and gives outputs for every frame and a
carry. Handing the carry back goes on where the last call stopped: frame by frame (streaming) or
window by window. Frames whose mask is False are inert: they reach no output, carry or statistic,
and their own outputs are 0.

Dimension letters: B clips, T frames, D features, U units; feature maps are (B, T, H, W, D).
"""

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from vidrec.config import load_user
from vidrec.errors import UserError
from vidrec.models import cells, fused

DIRECTIONS = ("no", "concat", "sum")
FORMS = ("auto", "loop", "unroll4", "unroll8", "cudnn", "kernel")
FORM = os.environ.get("VIDREC_SCAN", "auto")
_form: ContextVar[str] = ContextVar("form", default=FORM)


@contextlib.contextmanager
def scan_form(name: str) -> Iterator[None]:
    """Take this form of the loop over frames wherever a cell allows it, for comparisons.

    `loop`: a scan; `unroll4`, `unroll8`: so many frames a round of it; `cudnn`: an LSTM by cuDNN,
    where no frame is masked; `kernel`: one kernel for all frames (see `fused`); `auto`: four frames
    a round on a GPU, else one. It holds while a function is traced. VIDREC_SCAN names another
    default.

    Raises:
        ValueError: no form has this name.
    """
    if name not in FORMS:
        raise ValueError(f"{name!r} is not one of {', '.join(FORMS)}")
    token = _form.set(name)
    try:
        yield
    finally:
        _form.reset(token)


def expect(name: str, array: Any, *letters: str) -> None:
    """Refuse an array whose rank is none of those that the letters spell."""
    if array.ndim not in {len(each) for each in letters}:
        wanted = " or ".join(f"({', '.join(each)})" for each in letters)
        raise UserError(f"{name}: expected {wanted}, got shape {tuple(array.shape)}")


def lengths_to_mask(lengths_B: Array, frames: int) -> Array:
    """mask_BT that is True on the first `lengths_B[b]` of so many frames."""
    expect("lengths_B", lengths_B, "B")
    return jnp.arange(frames)[None] < lengths_B[:, None]


def ends(mask_BT: Array) -> Array:
    """True on each clip's last valid frame only; nowhere for a clip that has none."""
    later_BT = jnp.flip(jnp.cumsum(jnp.flip(mask_BT, 1), axis=1), 1)
    return mask_BT & (later_BT == 1)


def spread(mask: Array, like: Array) -> Array:
    """A mask with trailing axes of 1 up to the rank of `like`."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def valid(x_BTD: Array, mask_BT: Array | None) -> Array:
    """x with zeros in padded frames, whatever stood there (NaN included)."""
    return x_BTD if mask_BT is None else jnp.where(spread(mask_BT, x_BTD), x_BTD, 0)


def check_inputs(x_BTD: Array, mask_BT: Array | None, keys_B: Array | None) -> None:
    """Ranks and common axes of what every scanner takes."""
    expect("features_BTD", x_BTD, "BTD", "BTHWD")
    if mask_BT is not None:
        expect("mask_BT", mask_BT, "BT")
        if mask_BT.shape != x_BTD.shape[:2]:
            raise UserError(f"mask_BT: expected (B, T) = {x_BTD.shape[:2]}, got {mask_BT.shape}")
    if keys_B is not None:
        expect("keys_B", keys_B, "B")


@jax.custom_vjp
def clip_gradient(x: Array, bound: Array) -> Array:
    """x itself, whose derivative is clipped to ±bound element by element; a bound of 0 is none."""
    return x


def _clip_forward(x: Array, bound: Array) -> tuple[Array, Array]:
    return x, bound


def _clip_backward(bound: Array, gradient: Array) -> tuple[Array, Array]:
    limit = jnp.where(bound > 0, bound, jnp.inf).astype(gradient.dtype)
    return jnp.clip(gradient, -limit, limit), jnp.zeros_like(bound)


clip_gradient.defvjp(_clip_forward, _clip_backward)


def drop(x_BTU: Array, rate: Array | float, keys_B: Array) -> Array:
    """Drop a share `rate` (traced or not) and scale the rest up; each clip has its own key."""

    def keep(key: Array, x_TU: Array) -> Array:
        return jax.random.bernoulli(key, 1 - rate, x_TU.shape)

    kept = jax.vmap(keep)(keys_B, x_BTU)
    # At rate 1 nothing is kept; the floor spares its gradient from 0 · inf.
    scale = 1 / jnp.maximum(1 - jnp.asarray(rate, x_BTU.dtype), 1e-6)
    return jnp.where(kept, x_BTU * scale, 0)


class BatchNorm(nn.Module):
    """Normalise each unit by its statistics over all valid (clip, frame) pairs of the batch.

    With `axis_name`, over those of all devices: sums and counts are added up, then divided once.
    The running statistics (collection `batch_stats`) serve when `train` is False.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x_BTU: Array, mask_BT: Array | None, train: bool) -> Array:
        units = x_BTU.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (units,))
        shift = self.param("bias", nn.initializers.zeros, (units,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (units,))
        var = self.variable("batch_stats", "var", jnp.ones, (units,))
        if not train:
            return self._apply(x_BTU, mean.value, var.value, scale, shift)
        count, now_mean, now_var = self._moments(x_BTU, mask_BT)
        if not self.is_initializing():
            # A batch in which nothing is valid leaves the statistics as they were.
            share = jnp.where(count > 0, 1 - self.momentum, 0)
            mean.value = mean.value + share * (now_mean - mean.value)
            var.value = var.value + share * (now_var - var.value)
        return self._apply(x_BTU, now_mean, now_var, scale, shift)

    def _apply(self, x: Array, mean: Array, var: Array, scale: Array, shift: Array) -> Array:
        factor = scale * lax.rsqrt(var + self.epsilon)
        return cells.add_bias((x - self._row(mean, x)) * self._row(factor, x), shift)

    def _moments(self, x_BTU: Array, mask_BT: Array | None) -> tuple[Array, Array, Array]:
        """Count of valid positions, mean and variance of each unit."""
        mask_BT = jnp.ones(x_BTU.shape[:2], bool) if mask_BT is None else mask_BT
        places = tuple(range(x_BTU.ndim - 1))
        weight = jnp.broadcast_to(spread(mask_BT, x_BTU), (*x_BTU.shape[:-1], 1))

        def total(values: Array) -> Array:
            summed = jnp.sum(jnp.where(weight, values, 0), places)
            return lax.psum(summed, self.axis_name) if self.axis_name else summed

        count = total(jnp.ones_like(x_BTU[..., :1]))[0]
        divisor = jnp.maximum(count, 1)
        mean = total(x_BTU) / divisor
        # Squares of deviations, not of values: those cancel in float32.
        var = total((x_BTU - self._row(mean, x_BTU)) ** 2) / divisor
        return count, mean, var

    def _row(self, statistic: Array, x: Array) -> Array:
        return statistic.reshape((1,) * (x.ndim - 1) + (-1,))


class Between(nn.Module):
    """What stands after a layer: batch norm, then dropout; padded frames end at 0.

    Dropout draws for a clip, a layer (by this module's name), a frame and a unit: neither the batch
    around a clip nor its padding changes what it draws.
    """

    batch_norm: bool = False
    dropout: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        x_BTU: Array,
        mask_BT: Array | None = None,
        train: bool = False,
        dropout: Array | float | None = None,
        keys_B: Array | None = None,
    ) -> Array:
        if self.batch_norm:
            x_BTU = BatchNorm(self.axis_name, name="norm")(x_BTU, mask_BT, train)
        rate = self.dropout if dropout is None else dropout
        # A traced rate is never tested by value: trials with and without dropout share a program.
        wanted = not (isinstance(rate, (int, float)) and rate == 0)
        if train and wanted and not self.is_initializing():
            if keys_B is None:
                raise UserError("keys_B: dropout in training needs a PRNG key for each clip")
            layer = zlib.crc32((self.name or "").encode())
            keys_B = jax.vmap(lambda key: jax.random.fold_in(key, layer))(keys_B)
            x_BTU = drop(x_BTU, rate, keys_B)
        return valid(x_BTU, mask_BT)


def scan_time(
    cell: cells.Cell,
    weights: cells.Weights,
    inputs_BTG: Array,
    mask_BT: Array | None,
    carry: Any,
    *,
    reverse: bool = False,
    bound: Array | None = None,
) -> tuple[Array, Any]:
    """The cell's states (B, T, …, U) and last carry, from projected inputs.

    Invalid frames hold the carry, so in reverse a clip begins at its own last valid frame. A linear
    cell's frames are taken all at once, but for a CPU, where one after another is quicker.

    Args:
        bound: on the derivative at each gate's pre-activation; None: no clipping.
    """
    if isinstance(cell, cells.Linear) and jax.default_backend() != "cpu":
        factors = cell.factors(inputs_BTG, _clipper(bound))
        return scan_linear(*factors, mask_BT, carry, reverse=reverse)
    if _form.get() == "kernel" and fused.fits(cell):
        h_BTU, carry = fused.scan_cell(
            cell, weights, inputs_BTG, mask_BT, carry, reverse=reverse, bound=bound
        )
        return valid(h_BTU, mask_BT), carry
    given = _Given(weights, inputs_BTG, mask_BT, carry, bound)
    h_BTU, carry = _scanned(cell, reverse, given)
    return valid(h_BTU, mask_BT), carry


class _Given(NamedTuple):
    """The arrays of a scan, as `scan_time` takes them."""

    weights: cells.Weights
    inputs_BTG: Array
    mask_BT: Array | None
    carry: Any
    bound: Array | None


def _clipper(bound: Array | None) -> Callable[[Array], Array]:
    return (lambda z: z) if bound is None else (lambda z: clip_gradient(z, bound))


def _unroll() -> int:
    """Return the frames a round of the loop.

    On a GPU a round waits for the host, which costs a third of an LSTM's step; four frames a round
    were as quick there as one kernel for all frames (docs/gpu.md). A CPU gains nothing by it.
    """
    form = _form.get()
    if form.startswith("unroll"):
        return int(form.removeprefix("unroll"))
    return 4 if form == "auto" and jax.default_backend() == "gpu" else 1


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scanned(cell: cells.Cell, reverse: bool, given: _Given) -> tuple[Array, Any]:
    """Frame after frame.

    The gradient of the recurrent weights is taken once, from all frames' products together. Left
    to itself, it would be added up frame by frame: a small product each, and all weights written.
    """
    return _loop(cell, reverse, given, None)[0]


def _loop(
    cell: cells.Cell, reverse: bool, given: _Given, notes: Any
) -> tuple[tuple[Array, Any], Any]:
    """States and last carry; and, with `notes`, what stood left in each recurrent product.

    Args:
        notes: an array (T, …) in the shape of each recurrent product, whose gradient is that
            product's.
    """
    weights, inputs_BTG, mask_BT, carry, bound = given

    def step(carry: Any, frame: tuple) -> tuple[Any, tuple[Array, list]]:
        inputs_BG, mask_B, notes = frame
        operands: list[Array] = []

        def recur(h: Array, gates: slice | None = None) -> Array:
            product = cell.recur(weights, h, gates)
            if notes is not None:
                product = _noted(product, notes[len(operands)])
                operands.append(h)
            return product

        new = cell.step(recur, carry, inputs_BG, _clipper(bound))
        if mask_B is not None:
            new = jax.tree.map(lambda a, b: jnp.where(spread(mask_B, a), a, b), new, carry)
        return new, (cell.output(new), operands)

    frames = (inputs_BTG.swapaxes(0, 1), None if mask_BT is None else mask_BT.swapaxes(0, 1), notes)
    carry, (h_TBU, operands) = lax.scan(step, carry, frames, reverse=reverse, unroll=_unroll())
    return (h_TBU.swapaxes(0, 1), carry), operands


@jax.custom_vjp
def _noted(product: Array, note: Array) -> Array:
    """The product itself, whose gradient is also `note`'s."""
    return product


_noted.defvjp(lambda product, note: (product, None), lambda _, gradient: (gradient, gradient))


def _scanned_forward(
    cell: cells.Cell, reverse: bool, given: _Given
) -> tuple[tuple[Array, Any], Any]:
    weights = given.weights
    asked = _products(cell, weights, given.inputs_BTG, given.carry)
    frames = given.inputs_BTG.shape[1]
    notes = [jnp.zeros((frames, *made.shape), made.dtype) for _, made in asked]

    def run(inputs_BTG: Array, carry: Any, notes: list) -> tuple[tuple[Array, Any], list]:
        varied = given._replace(inputs_BTG=inputs_BTG, carry=carry)
        return _loop(cell, reverse, varied, notes)

    out, pull, operands = jax.vjp(run, given.inputs_BTG, given.carry, notes, has_aux=True)
    slopes = [
        _slope(cell, weights, _flat(h), gates)
        for h, (gates, _) in zip(operands, asked, strict=True)
    ]
    return out, (pull, slopes, weights)


def _slope(cell: cells.Cell, weights: cells.Weights, h: Array, gates: slice | None) -> Callable:
    """From a product's gradient to that of the weights."""
    return jax.vjp(lambda weights: cell.recur(weights, h, gates), weights)[1]


def _scanned_backward(cell: cells.Cell, reverse: bool, kept: Any, gradient: Any) -> tuple:
    pull, slopes, weights = kept
    inputs, carry, notes = pull(gradient)
    each = [slope(_flat(note))[0] for slope, note in zip(slopes, notes, strict=True)]
    nothing = jax.tree.map(jnp.zeros_like, weights)
    slope = jax.tree.map(lambda *parts: sum(parts), nothing, *each)
    return (_Given(slope, inputs, None, carry, None),)


_scanned.defvjp(_scanned_forward, _scanned_backward)


def _flat(x_TB: Array) -> Array:
    """All frames of all clips in a row."""
    return x_TB.reshape(-1, *x_TB.shape[2:])


def _products(
    cell: cells.Cell, weights: cells.Weights, inputs_BTG: Array, carry: Any
) -> list[tuple[slice | None, jax.ShapeDtypeStruct]]:
    """The gates and the shape of each recurrent product of a step."""
    asked: list[tuple[slice | None, jax.ShapeDtypeStruct]] = []

    def step(weights: cells.Weights, inputs_BG: Array, carry: Any) -> Any:
        def recur(h: Array, gates: slice | None = None) -> Array:
            product = cell.recur(weights, h, gates)
            asked.append((gates, jax.ShapeDtypeStruct(product.shape, product.dtype)))
            return product

        return cell.step(recur, carry, inputs_BG, lambda z: z)

    jax.eval_shape(step, weights, inputs_BTG[:, 0], carry)
    return asked


def scan_linear(
    keep_BTU: Array, add_BTU: Array, mask_BT: Array | None, carry_BU: Array, reverse: bool = False
) -> tuple[Array, Array]:
    """As `scan_time`, of h' = keep · h + add: log T steps, each over all frames."""

    def join(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] * second[0], first[1] * second[0] + second[1]

    if mask_BT is not None:
        keep_BTU = jnp.where(spread(mask_BT, keep_BTU), keep_BTU, 1)
    factors = (keep_BTU, valid(add_BTU, mask_BT))
    keep_BTU, add_BTU = lax.associative_scan(join, factors, reverse=reverse, axis=1)
    h_BTU = keep_BTU * carry_BU[:, None] + add_BTU
    return valid(h_BTU, mask_BT), h_BTU[:, 0 if reverse else -1]


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
        named = self.cell.weights(x_BTD.shape[-1])
        weights = {name: self.param(name, *begin_shape) for name, begin_shape in named.items()}
        inputs_BTG = self.cell.project(weights, x_BTD)
        zeros = self.cell.begin((x_BTD.shape[0], *x_BTD.shape[2:-1]), inputs_BTG.dtype)
        carry = zeros if carry is None else _checked(carry, zeros)
        if _form.get() == "cudnn" and self._suits_cudnn(mask_BT, grad_clip):
            # The compiler leaves out our own projection, which nothing reads then.
            lengths_B = jnp.full(x_BTD.shape[0], x_BTD.shape[1], jnp.int32)
            return fused.cudnn(weights, x_BTD, lengths_B, carry)
        bound = None if grad_clip is None else jnp.asarray(grad_clip, jnp.float32)
        return scan_time(
            self.cell, weights, inputs_BTG, mask_BT, carry, reverse=self.reverse, bound=bound
        )

    def _suits_cudnn(self, mask_BT: Array | None, grad_clip: Array | float | None) -> bool:
        """Return True where cuDNN computes the same, under no vmap."""
        plain = type(self.cell) is cells.LSTM and self.cell.dtype == "float32"
        return plain and not self.reverse and mask_BT is None and grad_clip is None


def _checked(carry: Any, zeros: Any) -> Any:
    """The carry, if it has the structure and shapes of a fresh one."""
    found = jax.tree.map(jnp.shape, carry)
    wanted = jax.tree.map(jnp.shape, zeros)
    if found != wanted:
        raise UserError(f"carry: expected {wanted} for each layer, got {found}")
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), carry, zeros)


class Recurrent(nn.Module):
    """A cell over time: layers, one or both directions, batch norm and dropout between.

    Between layers counts the head: batch norm, then dropout, stand after each layer, the last too.
    The carry is a tuple with one entry a layer, in both directions a pair. In reverse a clip begins
    at its own last valid frame. With `final_states`, the last layer shows both directions' final
    states on a clip's last valid frame, as a head that reads one frame wants them.

    >>> scanner = Recurrent(cells.LSTM(units=8), layers=2)
    >>> features_BTD = jax.random.normal(jax.random.key(0), (2, 5, 3))
    >>> mask_BT = lengths_to_mask(jnp.array([5, 2]), 5)
    >>> variables = scanner.init(jax.random.key(1), features_BTD, mask_BT)
    >>> states_BTU, carry = scanner.apply(variables, features_BTD, mask_BT)

    Arguments of a call: `carry` from the call before (None: zeros); `train`; `dropout`, a rate that
    may be traced (None: the module's own); `keys_B`, a PRNG key a clip, for dropout; `grad_clip`, a
    bound on the derivative at each gate's pre-activation. Raises `UserError` for wrong ranks,
    and for a carry given to both directions at once.
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
    def streams(self) -> bool:
        """Whether a carry can go on from one call to the next."""
        return self.bidirectional == "no"

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        mask_BT: Array | None = None,
        *,
        carry: Any = None,
        train: bool = False,
        dropout: Array | float | None = None,
        keys_B: Array | None = None,
        grad_clip: Array | float | None = None,
    ) -> tuple[Array, Any]:
        self._check(x_BTD, mask_BT, carry, keys_B)
        x_BTD = valid(cells.floats(x_BTD), mask_BT)
        carry = (None,) * self.layers if carry is None else carry
        after = []
        for index in range(self.layers):
            x_BTD, state = self._layer(index, x_BTD, mask_BT, carry[index], grad_clip)
            between = Between(
                self.batch_norm, self.dropout, self.axis_name, name=f"after_layer_{index}"
            )
            x_BTD = between(x_BTD, mask_BT, train, dropout, keys_B)
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
            back_BTU = self._show_final(back_BTU, self.cell.output(back), mask_BT)
        joined = (
            jnp.concatenate([y_BTU, back_BTU], -1)
            if self.bidirectional == "concat"
            else y_BTU + back_BTU
        )
        return joined, (state, back)

    def _show_final(self, back_BTU: Array, final_BU: Array, mask_BT: Array | None) -> Array:
        mask_BT = jnp.ones(back_BTU.shape[:2], bool) if mask_BT is None else mask_BT
        return jnp.where(spread(ends(mask_BT), back_BTU), final_BU[:, None], back_BTU)

    def _check(self, x_BTD: Array, mask_BT: Any, carry: Any, keys_B: Any) -> None:
        check_inputs(x_BTD, mask_BT, keys_B)
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


class Mean(nn.Module):
    """The control without order: each frame's output is the mean of the valid frames so far.

    It counts as one layer: batch norm and dropout stand after it. Feature maps are averaged as they
    are. The carry is (sum, count).

    >>> scanner = Mean()
    >>> features_BTD = jax.random.normal(jax.random.key(0), (2, 5, 3))
    >>> mask_BT = lengths_to_mask(jnp.array([5, 2]), 5)
    >>> variables = scanner.init(jax.random.key(1), features_BTD, mask_BT)
    >>> means_BTD, carry = scanner.apply(variables, features_BTD, mask_BT)
    """

    batch_norm: bool = False
    dropout: float = 0.0
    axis_name: str | None = None

    streams = True

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        mask_BT: Array | None = None,
        *,
        carry: Any = None,
        train: bool = False,
        dropout: Array | float | None = None,
        keys_B: Array | None = None,
        grad_clip: Array | float | None = None,
    ) -> tuple[Array, Any]:
        del grad_clip  # no recurrent weights, no pre-activations
        check_inputs(x_BTD, mask_BT, keys_B)
        x_BTD = valid(cells.floats(x_BTD), mask_BT)
        zeros = (jnp.zeros_like(x_BTD[:, 0]), jnp.zeros(x_BTD.shape[0], x_BTD.dtype))
        total, count = zeros if carry is None else _checked(carry, zeros)
        mask_BT = jnp.ones(x_BTD.shape[:2], bool) if mask_BT is None else mask_BT
        sums_BTD = total[:, None] + jnp.cumsum(x_BTD, 1)
        counts_BT = count[:, None] + jnp.cumsum(mask_BT.astype(x_BTD.dtype), 1)
        y_BTD = sums_BTD / spread(jnp.maximum(counts_BT, 1), sums_BTD)
        between = Between(self.batch_norm, self.dropout, self.axis_name, name="after_layer_0")
        y_BTD = between(valid(y_BTD, mask_BT), mask_BT, train, dropout, keys_B)
        return y_BTD, (sums_BTD[:, -1], counts_BT[:, -1])


class Identity(nn.Module):
    """No recurrence: the head stands straight on the features of each frame. The carry is empty.

    >>> scanner = Identity()
    >>> features_BTD = jax.random.normal(jax.random.key(0), (2, 5, 3))
    >>> mask_BT = lengths_to_mask(jnp.array([5, 2]), 5)
    >>> variables = scanner.init(jax.random.key(1), features_BTD, mask_BT)
    >>> same_BTD, carry = scanner.apply(variables, features_BTD, mask_BT)
    """

    streams = True

    def __call__(
        self,
        x_BTD: Array,
        mask_BT: Array | None = None,
        *,
        carry: Any = None,
        train: bool = False,
        dropout: Array | float | None = None,
        keys_B: Array | None = None,
        grad_clip: Array | float | None = None,
    ) -> tuple[Array, Any]:
        del carry, train, dropout, grad_clip  # nothing is learnt, dropped or carried
        check_inputs(x_BTD, mask_BT, keys_B)
        return valid(cells.floats(x_BTD), mask_BT), ()


def build(settings: Any, axis_name: str | None = None, final_states: bool = False) -> nn.Module:
    """The scanner of `scanner.*` settings; `kind` may be a user's cell or scanner, path.py:Name."""
    kind = settings.kind
    if kind in ("none", "mean"):
        return cells.fill({"none": Identity, "mean": Mean}[kind], settings, axis_name=axis_name)
    made = cells.CELLS.get(kind) or load_user(kind)
    if isinstance(made, type) and issubclass(made, nn.Module):
        return cells.fill(made, settings, axis_name=axis_name, final_states=final_states)
    if not (isinstance(made, type) and issubclass(made, cells.Cell)):
        raise UserError(f"scanner.kind {kind}: neither a vidrec Cell nor a Flax module")
    more = {"axis_name": axis_name, "final_states": final_states}
    return cells.fill(Recurrent, settings, cell=cells.fill(made, settings), **more)
