"""Estimate the memory and time of a group of trials from array shapes alone; no clip is read."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidrec.config import Config
from vidrec.data import datasets, splits
from vidrec.evaluation import tasks
from vidrec.sweeps import check
from vidrec.training import programs

# Seconds that compiling a group adds to its training, on the machines where this was measured.
COMPILE = 10.0
# Total time divided by that of the products: all other operations (gates, masks, dropout, the
# optimiser) take about as long as the products.
REST = 2.0


@dataclass(frozen=True)
class Cost:
    """The memory and the operations of one trial, and the memory of the data that trials share.

    Attributes:
        state: bytes of weights, best weights, optimiser state and statistics of one trial.
        data: bytes of the clips and of frozen variables, which each device holds once.
        small, large: floating-point operations of an epoch's matrix products and convolutions,
            validation included. `small` counts products as small as those of one recurrent step,
            `large` counts the others.
    """

    state: int
    data: int
    small: float
    large: float


def of(cfg: Config, train: int, val: int, frames: int) -> Cost:
    """Return the cost of a trial for these numbers of training and validation clips and frames."""
    trial = check.stand_in(cfg, train, val, frames)
    state, spec, data = trial.state(), trial.spec, trial.data
    run = partial(programs.train_batches, spec)
    score = partial(programs.score_clips, spec)
    traced = [jax.make_jaxpr(run)(state, trial.inputs, data)]
    if val:
        traced.append(jax.make_jaxpr(score)(state.weights, trial.hyper, trial.scored, data))
    every = sum(operations(program.jaxpr) for program in traced)
    small = sum(operations(program.jaxpr, up_to=4 * _product(cfg)) for program in traced)
    return Cost(_bytes((state, state.weights)), _bytes(data), small, every - small)


def seconds(cost: Cost, epochs: int, small: float, large: float) -> float:
    """Return the estimated seconds of a group of trials.

    Args:
        cost: the cost of one trial of the group.
        epochs: the epochs of all its trials together.
        small: operations per second in small products (see `measured_rates`).
        large: operations per second in large products.
    """
    return COMPILE + REST * epochs * (cost.small / small + cost.large / large)


def measured_rates(cfg: Config) -> tuple[float, float]:
    """Measure operations per second in products of the recurrence's size, and in large products.

    Small products are measured separately, since their time does not depend on arithmetic alone.
    """
    units = cfg.scanner.units
    return _rate(cfg.train.batch_size, units, 4 * units), _rate(512, 512, 512)


def _product(cfg: Config) -> float:
    return 8.0 * cfg.train.batch_size * cfg.scanner.units**2


@partial(jax.jit, static_argnums=2)
def _many(x: jax.Array, w: jax.Array, times: int) -> jax.Array:
    units = x.shape[1]
    return jax.lax.fori_loop(0, times, lambda _, x: (x @ w)[:, :units] * 1e-3, x)


def _rate(rows: int, units: int, width: int, times: int = 16) -> float:
    x, w = jnp.ones((rows, units)), jnp.ones((units, width))
    _many(x, w, times).block_until_ready()
    began, runs = time.perf_counter(), 0
    while time.perf_counter() - began < 0.05:
        _many(x, w, times).block_until_ready()
        runs += 1
    return runs * times * 2 * rows * units * width / (time.perf_counter() - began)


def operations(jaxpr: Any, up_to: float = math.inf) -> float:
    """Count multiplications and additions of a program's matrix products and convolutions.

    The body of a scan counts once for each step, that of a loop of unknown length once. A condition
    counts as its most expensive branch.

    Args:
        jaxpr: the program's jaxpr.
        up_to: products with more operations than this are not counted.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, given = equation.primitive.name, equation.params
        if name == "dot_general":
            (left, _), _ = given["dimension_numbers"]
            shared = math.prod(equation.invars[0].aval.shape[axis] for axis in left)
            one = 2.0 * shared * math.prod(equation.outvars[0].aval.shape)
            total += one if one <= up_to else 0.0
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out = given["dimension_numbers"].rhs_spec[0]
            window = math.prod(kernel) / kernel[out]
            one = 2.0 * window * math.prod(equation.outvars[0].aval.shape)
            total += one if one <= up_to else 0.0
        else:
            inner = [operations(each, up_to) for each in _inside(given)]
            times = given["length"] if name == "scan" else 1
            total += times * (max(inner, default=0.0) if name == "cond" else sum(inner))
    return total


def _inside(params: dict[str, Any]) -> Iterator[Any]:
    """Yield the jaxprs that are nested in an equation's parameters."""
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
    """Return the numbers of training clips, validation clips and all frames.

    The result is None if the data set is not available.
    """
    dataset = datasets.load_if_there(cfg.data, lambda: tasks.of(cfg).load(cfg))
    if dataset is None:
        return None
    split = splits.make(dataset, cfg.data)
    return len(split.train), len(split.val), int(np.sum(dataset.lengths))
