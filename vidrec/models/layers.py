"""Dense layers, matrix products, and the initialisers that cells, heads and encoders share."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import initializers

Initialiser = Callable[..., Array]


class Initialisers(NamedTuple):
    """Initialisers of input kernels, recurrent kernels and biases."""

    kernel: Initialiser
    recurrent: Initialiser
    bias: Initialiser


def initialisers(name: str, fan: int) -> Initialisers:
    """Return the initialisers of a convention.

    Args:
        name: keras; torch (uniform within ±1/sqrt(fan)); normal (standard deviation 0.1); he
            (standard deviation sqrt(2 / inputs of a unit), which keeps the size of activations
            after a ReLU).
        fan: Number of inputs of a unit; only torch uses it.

    Raises:
        KeyError: No convention has this name.
    """

    def uniform(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        bound = 1 / fan**0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    zeros, orthogonal = initializers.zeros, initializers.orthogonal()
    return {
        "keras": Initialisers(initializers.glorot_uniform(), orthogonal, zeros),
        "torch": Initialisers(uniform, uniform, uniform),
        "normal": Initialisers(_tenth, _tenth, zeros),
        "he": Initialisers(_he, orthogonal, zeros),
    }[name]


def _tenth(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    # As in report C. If units have thousands of inputs, activations grow from layer to layer.
    return _normal(key, shape, dtype, 0.1)


def _he(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return _normal(key, shape, dtype, math.sqrt(2 / math.prod(shape[:-1])))


def _normal(key: Array, shape: tuple[int, ...], dtype: Any, deviation: float) -> Array:
    # A flat draw gives the same numbers as one in this shape. XLA compiles it in a third of the
    # time.
    return deviation * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def floats(x: Array) -> Array:
    """Return x in float32, or in its own type if that is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def add_bias(x: Array, bias: Array) -> Array:
    """Add a bias (G,) to the last axis of an array of any rank."""
    return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def matmul(x: Array, kernel: Array, dtype: str = "float32") -> Array:
    """Multiply x by a kernel over its last axis; products of bfloat16 are summed in float32."""
    if dtype == "bfloat16":
        low = jnp.bfloat16
        return jnp.matmul(x.astype(low), kernel.astype(low), preferred_element_type=jnp.float32)
    return jnp.matmul(x, kernel)


class Dense(nn.Module):
    """Linear layer over the last axis.

    Attributes:
        width: Number of outputs.
        initialiser: Name of a convention, see `initialisers`.
        dtype: Type of the product's operands; sums and outputs are float32.
    """

    width: int
    initialiser: str = "keras"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return outputs (…, width) for x (…, D)."""
        begin = initialisers(self.initialiser, x.shape[-1])
        kernel = self.param("kernel", begin.kernel, (x.shape[-1], self.width))
        bias = self.param("bias", begin.bias, (self.width,))
        return add_bias(matmul(x, kernel, self.dtype), bias)
