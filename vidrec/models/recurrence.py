"""Run a cell over the frames of clips: the scan, its gradient, and its forms.

Frames whose mask is False leave the carry as it is, and their outputs are 0.

Dimension letters: B clips, T frames, G = gates · units, U units.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vidrec.errors import UserError
from vidrec.models import cells, fused
from vidrec.models.inputs import spread, zero_padding

FORMS = ("auto", "loop", "unroll4", "unroll8", "cudnn", "kernel")
FORM = os.environ.get("VIDREC_SCAN", "auto")
form: ContextVar[str] = ContextVar("form", default=FORM)


@contextlib.contextmanager
def scan_form(name: str) -> Iterator[None]:
    """Use this form of the loop over frames for all cells that allow it, for comparisons.

    The form is read while a function is traced. The environment variable VIDREC_SCAN sets the
    default form.

    Args:
        name: `loop` is a scan, `unroll4` and `unroll8` are scans with four and eight frames in each
            round, and `cudnn` is cuDNN's LSTM, for clips without masked frames. `kernel` is one
            kernel for all frames (see `fused`). `auto` is four frames a round on a GPU, else one.

    Raises:
        ValueError: No form has this name.
    """
    if name not in FORMS:
        raise ValueError(f"{name!r} is not one of {', '.join(FORMS)}")
    token = form.set(name)
    try:
        yield
    finally:
        form.reset(token)


@jax.custom_vjp
def clip_gradient(x: Array, bound: Array) -> Array:
    """Return x; its gradient is clipped to ±bound element by element, unless the bound is 0."""
    return x


def _clip_forward(x: Array, bound: Array) -> tuple[Array, Array]:
    return x, bound


def _clip_backward(bound: Array, gradient: Array) -> tuple[Array, Array]:
    limit = jnp.where(bound > 0, bound, jnp.inf).astype(gradient.dtype)
    return jnp.clip(gradient, -limit, limit), jnp.zeros_like(bound)


clip_gradient.defvjp(_clip_forward, _clip_backward)


def _clipper(bound: Array | None) -> Callable[[Array], Array]:
    return (lambda z: z) if bound is None else (lambda z: clip_gradient(z, bound))


def scan_time(
    cell: cells.Cell,
    weights: cells.Weights,
    inputs: Any,
    mask_BT: Array | None,
    carry: Any,
    *,
    reverse: bool = False,
    bound: Array | None = None,
) -> tuple[Array, Any]:
    """Run a cell over all frames.

    All frames of a linear cell are computed in parallel, except on a CPU, where a loop is faster.

    Args:
        cell: The cell that computes a step.
        weights: All weights that the cell declares.
        inputs: The result of the cell's `project`: (B, T, …, G), or a tree of such arrays.
        mask_BT: False on frames that do not change the carry; None: all are valid.
        carry: State before the first frame.
        reverse: Run from the last frame to the first; a clip then begins at its last valid frame.
        bound: Bound on the gradient at each gate's pre-activation; None: no clipping.

    Returns:
        States (B, T, …, U), 0 where the mask is False, and the last carry.
    """
    if isinstance(cell, cells.Linear) and jax.default_backend() != "cpu":
        ops = cells.StepOps(partial(cell.recurrent_matmul, weights), _clipper(bound))
        factors = cell.factors(weights, inputs, ops)
        return scan_linear(factors, mask_BT, carry, reverse=reverse)
    if form.get() == "kernel" and fused.fits(cell):
        h_BTU, carry = fused.scan_cell(
            cell, weights, inputs, mask_BT, carry, reverse=reverse, bound=bound
        )
    else:
        h_BTU, carry = _scan(cell, reverse, _Operands(weights, inputs, mask_BT, carry, bound))
    return zero_padding(h_BTU, mask_BT), carry


def scan_linear(
    factors: cells.LinearFactors, mask_BT: Array | None, carry_BU: Array, *, reverse: bool = False
) -> tuple[Array, Array]:
    """Run h' = keep · h + add over all frames like `scan_time`, in log T parallel steps."""

    def join(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] * second[0], first[1] * second[0] + second[1]

    keep_BTU, add_BTU = factors
    if mask_BT is not None:
        keep_BTU = jnp.where(spread(mask_BT, keep_BTU), keep_BTU, 1)
    joined = (keep_BTU, zero_padding(add_BTU, mask_BT))
    keep_BTU, add_BTU = lax.associative_scan(join, joined, reverse=reverse, axis=1)
    h_BTU = keep_BTU * carry_BU[:, None] + add_BTU
    return zero_padding(h_BTU, mask_BT), h_BTU[:, 0 if reverse else -1]


class _Operands(NamedTuple):
    """The arrays of a scan, as `scan_time` takes them."""

    weights: cells.Weights
    inputs: Any
    mask_BT: Array | None
    carry: Any
    bound: Array | None


class _Product(NamedTuple):
    """One recurrent product of a step: its gates, and the result's shape and type."""

    gates: slice | None
    result: jax.ShapeDtypeStruct


def _unroll() -> int:
    """Return the number of frames in each round of the loop.

    On a GPU each round waits for the host, which costs a third of an LSTM's step. Four frames in
    each round were as fast there as one kernel for all frames (docs/how-to/gpus.md). On a CPU more
    frames in a round are not faster.
    """
    name = form.get()
    if name.startswith("unroll"):
        return int(name.removeprefix("unroll"))
    return 4 if name == "auto" and jax.default_backend() == "gpu" else 1


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(cell: cells.Cell, reverse: bool, operands: _Operands) -> tuple[Array, Any]:
    """Run a cell step by step, with a gradient of the recurrent weights that is computed once.

    By default JAX adds up the gradient of the recurrent weights frame by frame: each time it
    computes a small product, and reads and writes all weights. Here the gradient is computed once,
    from the recurrent products of all frames together. The weights that a step reads directly
    (peepholes, gains) are differentiated by JAX.
    """
    return _loop(cell, reverse, operands, None, {})[0]


def _loop(
    cell: cells.Cell,
    reverse: bool,
    operands: _Operands,
    perturbations: list[Array] | None,
    direct: cells.Weights,
) -> tuple[tuple[Array, Any], Any]:
    """Return (states, last carry), and the left operands of each recurrent product.

    Args:
        cell: The cell that computes a step.
        reverse: Run from the last frame to the first.
        operands: Arrays of the scan.
        perturbations: For each recurrent product an array (T, …) in the product's shape, which gets
            the product's gradient; None: no left operands are returned.
        direct: Weights that the step reads directly; they replace those in `operands`.
    """
    weights, inputs, mask_BT, carry, bound = operands
    seen = {**weights, **direct}

    def step(carry: Any, frame: tuple) -> tuple[Any, tuple[Array, list]]:
        inputs, mask_B, perturbations = frame
        states: list[Array] = []

        def recurrent_matmul(h: Array, gates: slice | None = None) -> Array:
            product = cell.recurrent_matmul(weights, h, gates)
            if perturbations is not None:
                product = _perturbed(product, perturbations[len(states)])
                states.append(h)
            return product

        new = cell.step(seen, carry, inputs, cells.StepOps(recurrent_matmul, _clipper(bound)))
        _check_carry(cell, new, carry)
        if mask_B is not None:
            new = jax.tree.map(lambda a, b: jnp.where(spread(mask_B, a), a, b), new, carry)
        return new, (cell.output(new), states)

    frames = (*jax.tree.map(_time_first, (inputs, mask_BT)), perturbations)
    carry, (h_TBU, states) = lax.scan(step, carry, frames, reverse=reverse, unroll=_unroll())
    return (_time_first(h_TBU), carry), states


def _check_carry(cell: cells.Cell, new: Any, carry: Any) -> None:
    """Refuse a step's result if its structure, shapes and types differ from the carry's."""
    returned, wanted = (jax.tree.map(lambda x: jax.typeof(x).str_short(), t) for t in (new, carry))
    if returned != wanted:
        raise UserError(
            f"{type(cell).__name__}.step returned {returned}; a step should return a carry like "
            f"the one that it was given, here {wanted}"
        )


def _time_first(x: Array) -> Array:
    return x.swapaxes(0, 1)


@jax.custom_vjp
def _perturbed(product: Array, perturbation: Array) -> Array:
    """Return the product; its gradient goes to the product and to the perturbation."""
    return product


_perturbed.defvjp(lambda product, _: (product, None), lambda _, gradient: (gradient, gradient))


def _scan_forward(
    cell: cells.Cell, reverse: bool, operands: _Operands
) -> tuple[tuple[Array, Any], Any]:
    weights = operands.weights
    products, names = _read_by_step(cell, operands)
    frames = jax.tree.leaves(operands.inputs)[0].shape[1]
    perturbations = [
        jnp.zeros((frames, *product.result.shape), product.result.dtype) for product in products
    ]

    def run(inputs: Any, carry: Any, perturbations: list, direct: dict) -> Any:
        return _loop(
            cell, reverse, operands._replace(inputs=inputs, carry=carry), perturbations, direct
        )

    direct = {name: weights[name] for name in names}
    out, vjp, states = jax.vjp(
        run, operands.inputs, operands.carry, perturbations, direct, has_aux=True
    )
    product_vjps = [
        _product_vjp(cell, weights, _flat(h_TBU), product.gates)
        for h_TBU, product in zip(states, products, strict=True)
    ]
    return out, (vjp, product_vjps, weights)


def _product_vjp(cell: cells.Cell, weights: cells.Weights, h: Array, gates: Any) -> Callable:
    """Return the function from a product's gradient to the gradient of the weights."""
    return jax.vjp(lambda weights: cell.recurrent_matmul(weights, h, gates), weights)[1]


def _scan_backward(cell: cells.Cell, reverse: bool, residuals: Any, gradient: Any) -> tuple:
    vjp, product_vjps, weights = residuals
    inputs, carry, perturbations, direct = vjp(gradient)
    parts = [
        product_vjp(_flat(perturbation))[0]
        for product_vjp, perturbation in zip(product_vjps, perturbations, strict=True)
    ]
    zeros = jax.tree.map(jnp.zeros_like, weights)
    parts.append({**zeros, **direct})
    total = jax.tree.map(lambda *leaves: sum(leaves), zeros, *parts)
    return (_Operands(total, inputs, None, carry, None),)


_scan.defvjp(_scan_forward, _scan_backward)


def _flat(x_TB: Array) -> Array:
    """Merge the axes of frames and clips into one."""
    return x_TB.reshape(-1, *x_TB.shape[2:])


class _Recorder(Mapping[str, Array]):
    """A mapping of weights that records the names of those that were read."""

    def __init__(self, weights: cells.Weights) -> None:
        self.weights = weights
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Array:
        array = self.weights[name]
        self.names.add(name)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def _read_by_step(cell: cells.Cell, operands: _Operands) -> tuple[list[_Product], list[str]]:
    """Return a step's recurrent products, and the names of the weights that it reads directly."""
    products: list[_Product] = []
    names: set[str] = set()

    def step(weights: cells.Weights, inputs: Any, carry: Any) -> Any:
        def recurrent_matmul(h: Array, gates: slice | None = None) -> Array:
            product = cell.recurrent_matmul(weights, h, gates)
            products.append(_Product(gates, jax.ShapeDtypeStruct(product.shape, product.dtype)))
            return product

        recorder = _Recorder(weights)
        new = cell.step(recorder, carry, inputs, cells.StepOps(recurrent_matmul, lambda z: z))
        names.update(recorder.names)
        return new

    first = jax.tree.map(lambda x: x[:, 0], operands.inputs)
    jax.eval_shape(step, dict(operands.weights), first, operands.carry)
    return products, sorted(names)
