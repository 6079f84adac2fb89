"""Define recurrent cells: their weights, one time step, and their conventions as fields.

A cell is pure: it declares its weights, projects the inputs of all frames at once, and makes one
step. `recurrence` and `scanners` handle time, masks, layers and directions.

Dimension letters: B clips, T frames, H W height and width of feature maps, D features, U units,
G = gates · U.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from vidrec.config import checked_args
from vidrec.errors import UserError
from vidrec.models import conv, layers
from vidrec.models.layers import Initialiser, Initialisers, add_bias, floats, matmul

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "Cell",
    "ConvGRU",
    "ConvLSTM",
    "LSTMCarry",
    "Linear",
    "LinearFactors",
    "MinGRU",
    "MinLSTM",
    "StepOps",
    "add_bias",
    "floats",
    "matmul",
]

Weights = Mapping[str, Array]
CONVENTIONS = ("keras", "torch", "normal")
# Initialiser and shape of each weight, by name.
Declared = dict[str, tuple[Initialiser, tuple[int, ...]]]
Instance = TypeVar("Instance")


class StepOps(NamedTuple):
    """Functions that a scan passes to a cell's step.

    Attributes:
        recurrent_matmul: `recurrent_matmul(h, gates=None)` multiplies a state h by the recurrent
            kernel's columns of some gates (a slice; None: all). The weight gradient of these
            products is computed once for all frames, which is faster than frame by frame.
            Everything else in a step is differentiated frame by frame.
        clip_gradient: `clip_gradient(z)` returns z, and clips the gradient at z if
            `optim.clip_mode` is preactivation. Apply it to the pre-activations of the gates.
    """

    recurrent_matmul: Callable[..., Array]
    clip_gradient: Callable[[Array], Array]


class LSTMCarry(NamedTuple):
    """Output h and memory c, both (B, U) or (B, H, W, U)."""

    h: Array
    c: Array


def initialisers(name: str, fan: int) -> Initialisers:
    """Return the initialisers that a value of the setting `scanner.init` names.

    Args:
        name: keras, torch (uniform within ±1/sqrt(fan)), or normal (standard deviation 0.1, zero
            biases).
        fan: Number of inputs of a unit; only torch uses it.

    Raises:
        UserError: No convention has this name.
    """
    if name not in CONVENTIONS:
        raise UserError(f"scanner.init: {name!r} is not one of {', '.join(CONVENTIONS)}")
    return layers.initialisers(name, fan)


def convolve(
    x_BHWD: Array, kernel: Array, dtype: str = "float32", form: conv.Form = "auto"
) -> Array:
    """Convolve maps, keeping height and width; `form` is that of `conv.convolve`."""
    low = jnp.bfloat16 if dtype == "bfloat16" else x_BHWD.dtype

    # Recomputed in the backward pass: for a kernel of k x k, storing the patches of all frames of
    # a scan would take k² times the memory of the inputs.
    @jax.checkpoint
    def product(x: Array, kernel: Array) -> Array:
        return conv.convolve(x.astype(low), kernel.astype(low), form=form)

    return product(x_BHWD, kernel).astype(x_BHWD.dtype)


@dataclass(frozen=True)
class Cell:
    """A recurrent cell; a new cell is a subclass that defines `gates` and `step`.

    Fields get their values from the settings of the same names (`scanner.units`, `scanner.bias`
    …). Fields of a subclass that have no setting of their name get them from `scanner.args`.

    Attributes:
        units: Width U of the state.
        bias: single: one bias vector; double: a second one for the recurrent product.
        init: Convention of the initial weights: keras, torch or normal.
        dtype: Type of the operands of products and of the results of convolutions: float32 or
            bfloat16.
        gates: Number of blocks of U columns in the kernels.
        maps: True if inputs are feature maps (B, T, H, W, D).
    """

    units: int
    bias: str = "single"
    init: str = "keras"
    dtype: str = "float32"

    gates: ClassVar[int]
    maps: ClassVar[bool] = False

    def weights(self, features: int) -> Declared:
        """Declare the weights for inputs of D features: initialiser and shape by name.

        A subclass may add more weights (`super().weights(features) | {...}`) and read them in
        `project` and `step`.
        """
        begin, window = self.initialisers(features), self.window()
        width = self.gates * self.units
        declared = {
            "input_kernel": (begin.kernel, (*window, features, width)),
            "recurrent_kernel": (begin.recurrent, (*window, self.units, width)),
            "bias": (begin.bias, (width,)),
        }
        if self.has_recurrent_bias():
            declared["recurrent_bias"] = (begin.bias, (width,))
        return declared

    def initialisers(self, features: int) -> Initialisers:
        """Return the initialisers of `init`; PyTorch's bound is 1/sqrt(U) for every weight."""
        return initialisers(self.init, self.units)

    def window(self) -> tuple[int, ...]:
        """Return the sizes of the kernels' leading (spatial) axes; by default there are none."""
        return ()

    def has_recurrent_bias(self) -> bool:
        """Return True if the recurrent product has a separate bias."""
        return self.bias == "double"

    def product(self, x: Array, kernel: Array) -> Array:
        """Return inputs (…, D) or states (…, U) times a kernel."""
        return matmul(x, kernel, self.dtype)

    def project(self, weights: Weights, x_BTD: Array) -> Any:
        """Project the features of all frames at once; each step gets one frame of the result.

        Returns:
            An array (B, T, …, G), or any tree of arrays (B, T, …). A cell whose inputs cannot be
            projected for all frames at once returns `x_BTD` here and projects in `step`.
        """
        inputs = add_bias(self.product(x_BTD, weights["input_kernel"]), weights["bias"])
        if "recurrent_bias" in weights:
            inputs = add_bias(inputs, weights["recurrent_bias"])
        return inputs

    def recurrent_matmul(self, weights: Weights, h_BU: Array, gates: slice | None = None) -> Array:
        """Return states times the recurrent kernel's columns of some gates (None: all)."""
        return self.product(h_BU, self.columns(weights["recurrent_kernel"], gates))

    def columns(self, array: Array, gates: slice | None) -> Array:
        """Return the blocks of U columns that belong to these gates."""
        if gates is None:
            return array
        start, stop, _ = gates.indices(self.gates)
        return array[..., start * self.units : stop * self.units]

    def initialize_carry(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return the carry before the first frame: zeros, in an override, too.

        Args:
            shape: Shape of the state without the units: (B,), or (B, H, W) for feature maps.
            dtype: Type of the state.
        """
        return jnp.zeros((*shape, self.units), dtype)

    def output(self, carry: Any) -> Array:
        """Return the state in a carry, (B, …, U); `readout` turns it into the layer's output."""
        return carry

    def readout(self, weights: Weights, h_BTU: Array, x_BTD: Array) -> Array:
        """Return the layer's outputs for all frames; by default these are the states."""
        return h_BTU

    def step(self, weights: Weights, carry: Any, inputs: Any, ops: StepOps) -> Any:
        """Return the carry after one more frame.

        Args:
            weights: All weights that the method `weights` declares.
            carry: The carry before the frame, in the structure of `initialize_carry`.
            inputs: One frame of the result of `project`, (B, …, G).
            ops: The recurrent product and the clipping of gradients.
        """
        raise NotImplementedError


class LinearFactors(NamedTuple):
    """Factors of h' = keep · h + add, in the shape of the state."""

    keep: Array
    add: Array


@dataclass(frozen=True)
class Linear(Cell):
    """A recurrence that is linear in its state, with factors that depend on the inputs alone.

    So all frames can be computed in parallel. A subclass defines `factors`.
    """

    def weights(self, features: int) -> Declared:
        """Declare the input kernel and its bias."""
        declared = super().weights(features)
        return {name: declared[name] for name in ("input_kernel", "bias")}

    def factors(self, weights: Weights, inputs: Any, ops: StepOps) -> LinearFactors:
        """Return the factors of h' = keep · h + add, for inputs (…, G) of one frame or of all."""
        raise NotImplementedError

    def step(self, weights: Weights, carry: Array, inputs: Any, ops: StepOps) -> Array:
        """Return keep · h + add."""
        keep, add = self.factors(weights, inputs, ops)
        return keep * carry + add


@dataclass(frozen=True)
class LSTM(Cell):
    """Long short-term memory; gate order i, f, g, o."""

    forget_bias: float | None = None  # added to f's initial bias; None: 1 with init keras, else 0

    gates: ClassVar[int] = 4

    def weights(self, features: int) -> Declared:
        """Declare the weights; `forget_bias` is added to the initial bias of the forget gate."""
        declared = super().weights(features)
        extra = self.forget_bias
        if extra is None:
            extra = 1.0 if self.init == "keras" else 0.0
        bias, shape = declared["bias"]
        forget = slice(self.units, 2 * self.units)

        def begin(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
            return bias(key, shape, dtype).at[forget].add(extra)

        return declared | {"bias": (begin, shape)}

    def initialize_carry(self, shape: tuple[int, ...], dtype: Any) -> LSTMCarry:
        """Return zeros for h and c."""
        zeros = super().initialize_carry(shape, dtype)
        return LSTMCarry(zeros, zeros)

    def output(self, carry: LSTMCarry) -> Array:
        """Return h."""
        return carry.h

    def step(self, weights: Weights, carry: LSTMCarry, inputs_BG: Array, ops: StepOps) -> LSTMCarry:
        """Return h and c after one more frame."""
        z = ops.clip_gradient(inputs_BG + ops.recurrent_matmul(carry.h))
        i, f, g, o = jnp.split(z, 4, axis=-1)
        c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return LSTMCarry(jax.nn.sigmoid(o) * jnp.tanh(c), c)


@dataclass(frozen=True)
class GRU(Cell):
    """Gated recurrent unit; gate order z, r, n; z is the weight of the old state.

    Attributes:
        reset_after: True: r acts on the recurrent product (PyTorch, Keras by default), which then
            always has its own bias; False: r acts on the state before the product.
    """

    reset_after: bool = True

    gates: ClassVar[int] = 3

    def has_recurrent_bias(self) -> bool:
        """Return True also if `reset_after`, since r then multiplies the recurrent bias."""
        return self.reset_after or super().has_recurrent_bias()

    def project(self, weights: Weights, x_BTD: Array) -> Array:
        """Project the features, without the recurrent bias if `reset_after` (r multiplies it)."""
        if not self.reset_after:
            return super().project(weights, x_BTD)
        return add_bias(self.product(x_BTD, weights["input_kernel"]), weights["bias"])

    def recurrent_matmul(self, weights: Weights, h_BU: Array, gates: slice | None = None) -> Array:
        """Return the recurrent product, with the recurrent bias if `reset_after`."""
        product = super().recurrent_matmul(weights, h_BU, gates)
        if not self.reset_after:
            return product
        return add_bias(product, self.columns(weights["recurrent_bias"], gates))

    def step(self, weights: Weights, carry: Array, inputs_BG: Array, ops: StepOps) -> Array:
        """Return the state after one more frame."""
        gates = self._gates_after if self.reset_after else self._gates_before
        z, n = gates(carry, inputs_BG, ops)
        return z * carry + (1 - z) * n

    def _gates_after(self, h: Array, inputs_BG: Array, ops: StepOps) -> tuple[Array, Array]:
        clip = ops.clip_gradient
        recurrent = ops.recurrent_matmul(h)
        gates, candidate = self._split(inputs_BG)
        gates_h, candidate_h = self._split(recurrent)
        z, r = jnp.split(jax.nn.sigmoid(clip(gates + gates_h)), 2, axis=-1)
        return z, jnp.tanh(clip(candidate + r * candidate_h))

    def _gates_before(self, h: Array, inputs_BG: Array, ops: StepOps) -> tuple[Array, Array]:
        clip, matmul = ops.clip_gradient, ops.recurrent_matmul
        gates, candidate = self._split(inputs_BG)
        z, r = jnp.split(jax.nn.sigmoid(clip(gates + matmul(h, slice(0, 2)))), 2, axis=-1)
        return z, jnp.tanh(clip(candidate + matmul(r * h, slice(2, 3))))

    def _split(self, x: Array) -> tuple[Array, Array]:
        return x[..., : 2 * self.units], x[..., 2 * self.units :]


@dataclass(frozen=True)
class OverMaps(Cell):
    """A cell whose products are convolutions that keep the size of the feature maps."""

    kernel: int = 3  # width of the window; odd, so that height and width stay the same
    form: conv.Form = "auto"  # see `conv.convolve`; auto: patches on a CPU, lax.conv elsewhere

    maps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise UserError(f"scanner.kernel: {self.kernel} is even; odd ones keep the map's size")

    def window(self) -> tuple[int, ...]:
        """Return height and width of the kernels."""
        return (self.kernel, self.kernel)

    def initialisers(self, features: int) -> Initialisers:
        """Return the initialisers of `init`, for the number of inputs of a convolution."""
        # PyTorch has no ConvLSTM: its bound for a convolution of the concatenated inputs and state.
        return initialisers(self.init, self.kernel**2 * (features + self.units))

    def product(self, x: Array, kernel: Array) -> Array:
        """Return the convolution of maps (…, H, W, D) with a kernel."""
        flat = x.reshape(-1, *x.shape[-3:])
        y = convolve(flat, kernel, self.dtype, self.form)
        return y.reshape(*x.shape[:-1], kernel.shape[-1])


@dataclass(frozen=True)
class ConvLSTM(OverMaps, LSTM):
    """LSTM over feature maps (Shi et al. 2015, without peepholes); gate order i, f, g, o."""


@dataclass(frozen=True)
class ConvGRU(OverMaps, GRU):
    """GRU over feature maps (Ballas et al. 2016); gate order z, r, n.

    In the paper, the reset gate acts before the product, which is `reset_after` = False.
    """


@dataclass(frozen=True)
class MinGRU(Linear):
    """GRU whose gate and candidate depend only on the inputs (Feng et al. 2024); gate order z, n.

    h' = (1 - z) · h + z · n, without a recurrent product or an activation of n.
    """

    gates: ClassVar[int] = 2

    def factors(self, weights: Weights, inputs: Array, ops: StepOps) -> LinearFactors:
        """Return 1 - z and z · n."""
        z, n = jnp.split(ops.clip_gradient(inputs), 2, axis=-1)
        z = jax.nn.sigmoid(z)
        return LinearFactors(1 - z, z * n)


@dataclass(frozen=True)
class MinLSTM(Linear):
    """LSTM whose gates and candidate depend only on the inputs (Feng et al. 2024); order f, i, n.

    h' = f / (f + i) · h + i / (f + i) · n, without a recurrent product, an output gate or an
    activation of n.
    """

    gates: ClassVar[int] = 3

    def factors(self, weights: Weights, inputs: Array, ops: StepOps) -> LinearFactors:
        """Return f / (f + i) and i / (f + i) · n."""
        f, i, n = jnp.split(ops.clip_gradient(inputs), 3, axis=-1)
        # Computed from logarithms: if both gates are closed, the quotients would be 0 / 0.
        odds = jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i)
        return LinearFactors(jax.nn.sigmoid(odds), jax.nn.sigmoid(-odds) * n)


CELLS: dict[str, type[Cell]] = {
    "lstm": LSTM,
    "gru": GRU,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
    "convlstm": ConvLSTM,
    "convgru": ConvGRU,
}

# Settings of a scanner that are not fields of its class.
NO_FIELDS = ("kind", "args")


def fill(
    cls: type[Instance],
    settings: Any,
    args: Mapping[str, Any] | None = None,
    *,
    without: tuple[str, ...] = (),
    **computed: Any,
) -> Instance:
    """Return an instance of a dataclass whose fields are taken from settings of the same names.

    Args:
        cls: A cell or a Flax module.
        settings: The settings section `scanner`.
        args: Values of fields that neither settings nor `computed` fill.
        without: Names of settings that are not copied into fields.
        computed: More values by name of the field; names that are not fields are ignored.

    Raises:
        UserError: An argument is not a field of the class or has the wrong type.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = {field.name for field in fields if field.init} - {"name", "parent"}
    values = {
        name: getattr(settings, name)
        for name in names
        if name not in (*NO_FIELDS, *without) and hasattr(settings, name)
    }
    values |= {name: value for name, value in computed.items() if name in names}
    values |= checked_args("scanner.args", args or {}, cls, reserved=values)
    return cls(**values)
