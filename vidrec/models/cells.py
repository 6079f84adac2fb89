"""One step of each recurrence, with its conventions (biases, initialisers) as data.

A cell is pure: it names its weights, projects the inputs of all frames at once, and makes one step.
Time, masks, layers and directions are the scanners' business.

Dimension letters: B clips, T frames, H W height and width of feature maps, D features, U units,
G = gates · U.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import initializers

from vidrec.errors import UserError
from vidrec.models import conv

Weights = Mapping[str, Array]
# recur(h, gates): the recurrent product of h with the columns of these gates (None: all)
Recur = Callable[..., Array]
Initialiser = Callable[..., Array]


class LSTMCarry(NamedTuple):
    """Output h and memory c, both (B, U) or (B, H, W, U)."""

    h: Array
    c: Array


class Initialisers(NamedTuple):
    """How input kernels, recurrent kernels and biases begin."""

    kernel: Initialiser
    recurrent: Initialiser
    bias: Initialiser


def initialisers(name: str, fan: int) -> Initialisers:
    """Those of Keras, PyTorch (uniform within 1/sqrt(fan)), or normal(0, 0.1) with zero biases."""

    def uniform(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        bound = 1 / fan**0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    zeros, normal = initializers.zeros, initializers.normal(0.1)
    known = {
        "keras": Initialisers(initializers.glorot_uniform(), initializers.orthogonal(), zeros),
        "torch": Initialisers(uniform, uniform, uniform),
        "normal": Initialisers(normal, normal, zeros),
    }
    if name not in known:
        raise UserError(f"scanner.init: {name!r} is not one of {', '.join(known)}")
    return known[name]


def floats(x: Array) -> Array:
    """At least float32, whatever features are stored or products computed in."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def add_bias(x: Array, bias: Array) -> Array:
    """Add (G,) to the last axis of any rank; ranks are never promoted silently."""
    return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def matmul(x: Array, kernel: Array, dtype: str = "float32") -> Array:
    """Product over the last axis; bfloat16 operands are summed in float32."""
    if dtype == "bfloat16":
        low = jnp.bfloat16
        return jnp.matmul(x.astype(low), kernel.astype(low), preferred_element_type=jnp.float32)
    return jnp.matmul(x, kernel)


def convolve(
    x_BHWD: Array, kernel: Array, dtype: str = "float32", form: conv.Form = "auto"
) -> Array:
    """Convolution that keeps height and width, in the form that this platform is quick at."""
    low = jnp.bfloat16 if dtype == "bfloat16" else x_BHWD.dtype

    # Recomputed in the backward pass: patches, kept for every frame of a scan, would be as many
    # times the input's size as the kernel has places.
    @jax.checkpoint
    def product(x: Array, kernel: Array) -> Array:
        return conv.convolve(x.astype(low), kernel.astype(low), form=form)

    return product(x_BHWD, kernel).astype(x_BHWD.dtype)


@dataclass(frozen=True)
class Cell:
    """What a recurrence says of itself; a new one is a subclass with `gates` and `step`.

    Its fields are filled from the settings of the same names (`scanner.units`, `scanner.bias` …).
    """

    units: int
    bias: str = "single"  # double: a second vector for the recurrent product
    init: str = "keras"
    dtype: str = "float32"  # bfloat16: operands of products, and what a ConvLSTM's give

    gates: ClassVar[int]  # blocks of U columns in the kernels
    maps: ClassVar[bool] = False  # inputs are feature maps (B, T, H, W, D)

    def weights(self, features: int) -> dict[str, tuple[Initialiser, tuple[int, ...]]]:
        """Initialiser and shape of every weight, for inputs of D features."""
        begin, window = self.initialisers(features), self.window()
        width = self.gates * self.units
        named = {
            "input_kernel": (begin.kernel, (*window, features, width)),
            "recurrent_kernel": (begin.recurrent, (*window, self.units, width)),
            "bias": (begin.bias, (width,)),
        }
        if self.double():
            named["recurrent_bias"] = (begin.bias, (width,))
        return named

    def initialisers(self, features: int) -> Initialisers:
        """Of the convention `init`; PyTorch's bound is 1/sqrt(U) for every recurrent weight."""
        return initialisers(self.init, self.units)

    def window(self) -> tuple[int, ...]:
        """Leading axes of the kernels."""
        return ()

    def double(self) -> bool:
        """Whether the recurrent product has a bias of its own."""
        return self.bias == "double"

    def product(self, x: Array, kernel: Array) -> Array:
        """Inputs (…, D) or state (…, U) times a kernel."""
        return matmul(x, kernel, self.dtype)

    def project(self, weights: Weights, x_BTD: Array) -> Array:
        """All that the inputs give to the gates, for all frames at once: (B, T, …, G)."""
        inputs = add_bias(self.product(x_BTD, weights["input_kernel"]), weights["bias"])
        if "recurrent_bias" in weights:
            inputs = add_bias(inputs, weights["recurrent_bias"])
        return inputs

    def recur(self, weights: Weights, h_BU: Array, gates: slice | None = None) -> Array:
        """The recurrent product, with the columns of some gates only if asked; each clip alone."""
        return self.product(h_BU, self.columns(weights["recurrent_kernel"], gates))

    def columns(self, array: Array, gates: slice | None) -> Array:
        """The blocks of U columns that belong to these gates."""
        if gates is None:
            return array
        start, stop, _ = gates.indices(self.gates)
        return array[..., start * self.units : stop * self.units]

    def begin(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Carry before the first frame: zeros; `shape` is (B, …) without the units."""
        return jnp.zeros((*shape, self.units), dtype)

    def output(self, carry: Any) -> Array:
        """The state that a carry shows to the next layer."""
        return carry

    def step(self, recur: Recur, carry: Any, inputs_BG: Array, clip: Callable) -> Any:
        """Next carry; `recur(h, gates)` is the recurrent product, `clip` wraps pre-activations."""
        raise NotImplementedError


@dataclass(frozen=True)
class Linear(Cell):
    """A recurrence that is linear in its state, with factors that see the inputs alone.

    No frame then has to wait for the one before: a scanner may take all of them at once.
    """

    def weights(self, features: int) -> dict[str, tuple[Initialiser, tuple[int, ...]]]:
        named = super().weights(features)
        return {name: named[name] for name in ("input_kernel", "bias")}

    def factors(self, inputs: Array, clip: Callable) -> tuple[Array, Array]:
        """(keep, add) of h' = keep · h + add, for inputs (…, G) of one frame or of all."""
        raise NotImplementedError

    def step(self, recur: Recur, carry: Array, inputs_BG: Array, clip: Callable) -> Array:
        keep, add = self.factors(inputs_BG, clip)
        return keep * carry + add


@dataclass(frozen=True)
class LSTM(Cell):
    """Long short-term memory; gate order i, f, g, o."""

    forget_bias: float | None = None  # added to f at the start; None: the convention's own

    gates: ClassVar[int] = 4

    def weights(self, features: int) -> dict[str, tuple[Initialiser, tuple[int, ...]]]:
        named = super().weights(features)
        extra = self.forget_bias
        if extra is None:
            extra = 1.0 if self.init == "keras" else 0.0
        bias, shape = named["bias"]
        forget = slice(self.units, 2 * self.units)

        def begin(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
            return bias(key, shape, dtype).at[forget].add(extra)

        return named | {"bias": (begin, shape)}

    def begin(self, shape: tuple[int, ...], dtype: Any) -> LSTMCarry:
        zeros = super().begin(shape, dtype)
        return LSTMCarry(zeros, zeros)

    def output(self, carry: LSTMCarry) -> Array:
        return carry.h

    def step(self, recur: Recur, carry: LSTMCarry, inputs_BG: Array, clip: Callable) -> LSTMCarry:
        i, f, g, o = jnp.split(clip(inputs_BG + recur(carry.h)), 4, axis=-1)
        c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return LSTMCarry(jax.nn.sigmoid(o) * jnp.tanh(c), c)


@dataclass(frozen=True)
class GRU(Cell):
    """Gated recurrent unit; gate order z, r, n, and z keeps the old state.

    `reset_after`: r acts on the recurrent product (PyTorch, Keras by default), which then always
    has its own bias; otherwise r acts on the state before the product.
    """

    reset_after: bool = True

    gates: ClassVar[int] = 3

    def double(self) -> bool:
        return self.reset_after or super().double()

    def project(self, weights: Weights, x_BTD: Array) -> Array:
        if not self.reset_after:
            return super().project(weights, x_BTD)
        return add_bias(self.product(x_BTD, weights["input_kernel"]), weights["bias"])

    def recur(self, weights: Weights, h_BU: Array, gates: slice | None = None) -> Array:
        product = super().recur(weights, h_BU, gates)
        if not self.reset_after:
            return product
        return add_bias(product, self.columns(weights["recurrent_bias"], gates))

    def step(self, recur: Recur, carry: Array, inputs_BG: Array, clip: Callable) -> Array:
        gates = self._gates_after if self.reset_after else self._gates_before
        z, n = gates(recur, carry, inputs_BG, clip)
        return z * carry + (1 - z) * n

    def _gates_after(self, recur: Recur, h: Array, inputs_BG: Array, clip: Callable) -> Any:
        recurrent = recur(h)
        gates, candidate = self._split(inputs_BG)
        gates_h, candidate_h = self._split(recurrent)
        z, r = jnp.split(jax.nn.sigmoid(clip(gates + gates_h)), 2, axis=-1)
        return z, jnp.tanh(clip(candidate + r * candidate_h))

    def _gates_before(self, recur: Recur, h: Array, inputs_BG: Array, clip: Callable) -> Any:
        gates, candidate = self._split(inputs_BG)
        z, r = jnp.split(jax.nn.sigmoid(clip(gates + recur(h, slice(0, 2)))), 2, axis=-1)
        return z, jnp.tanh(clip(candidate + recur(r * h, slice(2, 3))))

    def _split(self, x: Array) -> tuple[Array, Array]:
        return x[..., : 2 * self.units], x[..., 2 * self.units :]


@dataclass(frozen=True)
class ConvLSTM(LSTM):
    """LSTM whose products are convolutions over feature maps; gate order i, f, g, o."""

    kernel: int = 3  # odd, so that height and width stay
    form: conv.Form = "auto"  # patches and a product on a CPU, a true convolution elsewhere

    maps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise UserError(f"scanner.kernel: {self.kernel} is even; odd ones keep the map's size")

    def window(self) -> tuple[int, ...]:
        return (self.kernel, self.kernel)

    def initialisers(self, features: int) -> Initialisers:
        # PyTorch has no ConvLSTM: its convolutions' bound, over inputs and state side by side.
        return initialisers(self.init, self.kernel**2 * (features + self.units))

    def product(self, x: Array, kernel: Array) -> Array:
        flat = x.reshape(-1, *x.shape[-3:])
        y = convolve(flat, kernel, self.dtype, self.form)
        return y.reshape(*x.shape[:-1], kernel.shape[-1])


@dataclass(frozen=True)
class MinGRU(Linear):
    """GRU whose gate and candidate see the inputs alone (Feng et al. 2024); gate order z, n.

    h' = (1 - z) · h + z · n, without a recurrent product or an activation of n.
    """

    gates: ClassVar[int] = 2

    def factors(self, inputs: Array, clip: Callable) -> tuple[Array, Array]:
        z, n = jnp.split(clip(inputs), 2, axis=-1)
        z = jax.nn.sigmoid(z)
        return 1 - z, z * n


CELLS: dict[str, type[Cell]] = {"lstm": LSTM, "gru": GRU, "mingru": MinGRU, "convlstm": ConvLSTM}


def fill(made: type, settings: Any, **more: Any) -> Any:
    """An instance of a dataclass whose fields are taken from settings of the same names."""
    names = {field.name for field in dataclasses.fields(made)} - {"name", "parent"}
    taken = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
    return made(**(taken | {name: value for name, value in more.items() if name in names}))
