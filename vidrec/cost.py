"""What a group of trials would take, from shapes alone: nothing is trained and no clip is read."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidrec import check, datasets, steps
from vidrec.config import Config

# Seconds that compiling a group takes beside its training, on the machines it was measured on.
COMPILE = 10.0
# A product of matrices counts twice for its gradient; the rest of a step takes as long again.
REST = 2.0


@dataclass(frozen=True)
class Cost:
    """Of one trial and of what trials share.

    Attributes:
        state: bytes of weights, best weights, optimiser and statistics.
        data: bytes of the clips and of frozen parts, once a device.
        operations: floating-point operations of an epoch's matrix products and convolutions,
            validation included.
    """

    state: int
    data: int
    operations: float


def of(cfg: Config, train: int, val: int, frames: int) -> Cost:
    """The cost of a trial on so many training and validation clips, and frames in all."""
    plan, numbers, data = check.stand_in(cfg, train, val, frames)
    state = jax.eval_shape(partial(steps.init, plan), numbers, data)
    traced = jax.make_jaxpr(partial(steps.epoch, plan))(state, numbers, data)
    return Cost(_bytes(state), _bytes(data), operations(traced.jaxpr))


def seconds(cost: Cost, epochs: int, rate: float) -> float:
    """Of a group whose trials train so many epochs together, at `rate` operations a second."""
    return COMPILE + REST * epochs * cost.operations / rate


def measured_rate(cfg: Config) -> float:
    """Operations a second of this machine in products as large as the recurrence's own."""
    units = max(cfg.scanner.units, 1)
    x = jnp.ones((cfg.train.batch_size, units))
    w = jnp.ones((units, 4 * units))
    many = 64

    @jax.jit
    def work(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, many, lambda _, x: (x @ w)[:, :units] * 1e-3, x)

    work(x, w).block_until_ready()
    began, runs = time.perf_counter(), 0
    while time.perf_counter() - began < 0.05:
        work(x, w).block_until_ready()
        runs += 1
    return runs * many * 8 * units**2 * len(x) / (time.perf_counter() - began)


def operations(jaxpr: Any) -> float:
    """Multiplications and additions of a program's matrix products and convolutions.

    A scan counts once a step, a condition as its dearest branch, an open loop once.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, given = equation.primitive.name, equation.params
        if name == "dot_general":
            (left, _), _ = given["dimension_numbers"]
            shared = math.prod(equation.invars[0].aval.shape[axis] for axis in left)
            total += 2.0 * shared * math.prod(equation.outvars[0].aval.shape)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out = given["dimension_numbers"].rhs_spec[0]
            window = math.prod(kernel) / kernel[out]
            total += 2.0 * window * math.prod(equation.outvars[0].aval.shape)
        else:
            inner = [operations(each) for each in _inside(given)]
            times = given["length"] if name == "scan" else 1
            total += times * (max(inner, default=0.0) if name == "cond" else sum(inner))
    return total


def _inside(params: dict[str, Any]) -> Iterator[Any]:
    """The programs that an equation runs."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            each = getattr(each, "jaxpr", each)
            if hasattr(each, "eqns"):
                yield each


def _bytes(tree: Any) -> int:
    return sum(
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )


def known_size(cfg: Config) -> tuple[int, int, int] | None:
    """Clips to train and to validate on, and frames in all; None without the data set."""
    source = datasets.load_if_there(cfg.data)
    if source is None:
        return None
    split = datasets.splits.make(source, cfg.data)
    return len(split.train), len(split.val), int(np.sum(source.lengths))
