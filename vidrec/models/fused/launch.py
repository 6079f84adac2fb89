"""Launch the fused kernel: padding, batching of trials, and the gradient of the whole scan.

Dimension letters: N trials, B clips, T frames, G gates, U units.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap
from jax.experimental import pallas as pl

from vidrec.models.fused.backward import backward_kernel
from vidrec.models.fused.forward import forward_kernel
from vidrec.models.fused.work import Blocks, Form, Operands, blocks_for, processors, round_up


def _call(form: Form, blocks: Blocks, body: Callable, operands: tuple, shapes: list) -> tuple:
    """Launch a kernel; its last operand and result are counters that synchronize programs."""
    trials, clips = operands[0].shape[0], operands[-1].shape[1]
    tiles = clips // blocks.clips
    counters = jnp.zeros((trials, tiles), jnp.int32)
    more: dict[str, Any] = {"interpret": True}
    if not form.interpret:
        from jax.experimental.pallas import triton

        params = triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages)
        more = {"compiler_params": params}
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    outs = pl.pallas_call(
        body,
        grid=(blocks.slices, tiles, trials),
        out_shape=[*results, jax.ShapeDtypeStruct(counters.shape, counters.dtype)],
        input_output_aliases={len(operands): len(shapes)},
        **more,
    )(*operands, counters)
    return tuple(outs[:-1])


def _pad(array: Array, axes: dict[int, int]) -> Array:
    """Pad axes with zeros at their end; `axes` holds the new size of each padded axis."""
    pads = [(0, 0)] * array.ndim
    for axis, size in axes.items():
        pads[axis] = (0, size - array.shape[axis])
    return jnp.pad(array, pads) if any(right for _, right in pads) else array


def _sizes(form: Form, trials: int, clips: int, units: int) -> tuple[Blocks, int, int]:
    """Return the division of the work, and the padded numbers of clips and units."""
    blocks = form.blocks
    if blocks is None:
        cores = 1 if form.interpret else processors()
        blocks = blocks_for(trials, clips, units, cores, form.exact)
    step = max(blocks.units, blocks.inner)  # powers of two
    return blocks, round_up(clips, blocks.clips), round_up(units, step)


def _forward(form: Form, save: bool, *arrays: Array) -> tuple[Array, ...]:
    """Return the fields of `Saved`; without `save` the gates are a placeholder."""
    operands = Operands(*arrays)
    trials, clips, frames, _, units = operands.inputs.shape
    blocks, rows, cols = _sizes(form, trials, clips, units)
    padded = (
        _pad(operands.inputs, {1: rows, 4: cols}),
        _pad(operands.kernel, {1: cols, 3: cols}),
        _pad(operands.bias, {1: cols}),
        _pad(operands.h, {1: rows, 2: cols}),
        _pad(operands.c, {1: rows, 2: cols}),
        _pad(operands.mask, {1: rows}),
    )
    states = (trials, rows, frames + 1, cols)
    shapes = [
        states,
        states if form.cell == "lstm" else (trials, 1, 1, 1),
        (trials, rows, frames, 4, cols) if save else (trials, 1, 1, 1, 1),
    ]
    body = functools.partial(forward_kernel, form, blocks, save)
    return _call(form, blocks, body, padded, shapes)


def _backward(form: Form, *arrays: Array) -> tuple[Array, ...]:
    """Return the fields of `Derivatives`, padded.

    Args:
        form: Cell, direction and precision.
        arrays: The kernel, the fields of `Saved`, derivatives at the states of all frames and at
            the last memory, the bound and the mask.
    """
    kernel, h, c, gates, dh_all, dc_last, bound, mask = arrays
    trials, clips, frames = mask.shape
    blocks, rows, cols = _sizes(form, trials, clips, kernel.shape[1])
    operands = (
        _pad(kernel, {1: cols, 3: cols}),
        h,
        c,
        gates,
        _pad(dh_all, {1: rows, 3: cols}),
        _pad(dc_last, {1: rows, 2: cols}),
        bound,
        _pad(mask, {1: rows}),
    )
    gates_shape = (trials, rows, frames, form.gates, cols)
    shapes = [gates_shape, gates_shape, (trials, rows, cols), (trials, rows, cols)]
    body = functools.partial(backward_kernel, form, blocks)
    return _call(form, blocks, body, operands, shapes)


@functools.cache
def _over_trials(work: Callable, *static: Any) -> Callable:
    """Return `work` as a function of the arrays; vmap merges its axis into that of the trials."""

    @custom_vmap
    def run(*arrays: Array) -> tuple[Array, ...]:
        return work(*static, *arrays)

    @run.def_vmap
    def rule(size: int, batched: list, *arrays: Array) -> tuple[tuple[Array, ...], tuple]:
        wide = [
            array if is_batched else jnp.broadcast_to(array[None], (size, *array.shape))
            for array, is_batched in zip(arrays, batched, strict=True)
        ]
        outs = run(*(array.reshape(-1, *array.shape[2:]) for array in wide))
        split = tuple(out.reshape(size, -1, *out.shape[1:]) for out in outs)
        return split, (True,) * len(split)

    return run


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan(form: Form, operands: Operands) -> tuple[Array, Array]:
    """Run an LSTM or a GRU over all frames in one kernel.

    Args:
        form: Cell, direction and precision.
        operands: Arrays, see `Operands`; the kernel may be bfloat16, all others are float32.

    Returns:
        States h and c before the first frame and after each frame, (N, B, T + 1, U). In reverse,
        the initial state is the last entry of the axis of frames. A GRU's c is a placeholder.
    """
    return _cut(form, operands, _over_trials(_forward, form, False)(*operands)[:2])


def _cut(form: Form, operands: Operands, states: tuple) -> tuple[Array, Array]:
    _, clips, _, _, units = operands.inputs.shape
    h, c = (state[:, :clips, :, :units] for state in states)
    return h, c


def _scan_forward(form: Form, operands: Operands) -> tuple[tuple[Array, Array], tuple]:
    saved = _over_trials(_forward, form, True)(*operands)
    return _cut(form, operands, saved[:2]), (operands, saved)


def _scan_backward(form: Form, residuals: tuple, gradient: tuple[Array, Array]) -> tuple[Operands]:
    operands, saved = residuals
    dh, dc = gradient
    _, clips, frames, _, units = operands.inputs.shape
    after = slice(0, frames) if form.reverse else slice(1, None)
    before = slice(1, None) if form.reverse else slice(0, frames)
    last, first = (0, frames) if form.reverse else (frames, 0)
    dc_last = dc[:, :, last] if form.cell == "lstm" else jnp.zeros_like(operands.h)
    arrays = (operands.kernel, *saved, dh[:, :, after], dc_last, operands.bound, operands.mask)
    dx, dr, dh0, dc0 = _over_trials(_backward, form)(*arrays)
    dx, dr = (vjp[:, :clips, :, :, :units] for vjp in (dx, dr))
    h_before = saved[0][:, :clips, before, :units]
    low = operands.kernel.dtype
    # The gradient of the recurrent weights is computed once, from all frames together.
    dkernel = jnp.einsum(
        "nbtk,nbtgu->nkgu",
        h_before.astype(low),
        dr.astype(low),
        preferred_element_type=jnp.float32,
    )
    dbias = dr[:, :, :, 2].sum((1, 2)) if form.cell == "gru" else jnp.zeros_like(operands.bias)
    return (
        Operands(
            inputs=dx,
            kernel=dkernel.astype(low),
            bias=dbias,
            h=dh0[:, :clips, :units] + dh[:, :, first],
            c=dc0[:, :clips, :units] if form.cell == "lstm" else jnp.zeros_like(operands.c),
            mask=jnp.zeros_like(operands.mask),
            bound=jnp.zeros_like(operands.bound),
        ),
    )


scan.defvjp(_scan_forward, _scan_backward)
