"""Recurrences for NVIDIA GPUs: cuDNN's LSTM, and one kernel for all frames of an LSTM or a GRU.

A loop over frames launches several small kernels for each frame. The kernel here is launched once.
Each of its programs computes some clips and units, and programs wait for each other after every
frame. Many trials, each with its own weights, are also one launch; cuDNN has no call for that.
docs/how-to/gpus.md compares the times of the kernel and of the loop.

Dimension letters: B clips, T frames, D features, G gates, U units.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from vidrec.models import cells
from vidrec.models.fused.launch import scan
from vidrec.models.fused.work import Blocks, Form, Operands, blocks_for, is_exact, processors

__all__ = ["Blocks", "blocks_for", "cudnn", "fits", "is_exact", "processors", "scan_cell"]


def fits(cell: cells.Cell) -> bool:
    """Return True for the cells that the kernel computes."""
    return type(cell) is cells.LSTM or (type(cell) is cells.GRU and cell.reset_after)


def scan_cell(
    cell: cells.Cell,
    weights: cells.Weights,
    inputs_BTG: Array,
    mask_BT: Array | None,
    carry: Any,
    *,
    reverse: bool = False,
    bound: Array | None = None,
    blocks: Blocks | None = None,
) -> tuple[Array, Any]:
    """Compute `recurrence.scan_time` in one kernel, for a cell that `fits`.

    Unlike there, the outputs of masked frames are not 0 but repeat the carry.
    """
    form = Form(
        "lstm" if isinstance(cell, cells.LSTM) else "gru",
        reverse,
        is_exact(),
        blocks,
        interpret=jax.default_backend() == "cpu",
    )
    clips, frames, _ = inputs_BTG.shape
    units = cell.units
    inputs = inputs_BTG.reshape(clips, frames, form.gates, units)
    bias = jnp.zeros(units)
    if form.cell == "gru":
        gates, bias = jnp.split(weights["recurrent_bias"], [2 * units])
        gates = jnp.pad(gates.reshape(1, 1, 2, units), ((0, 0), (0, 0), (0, 1), (0, 0)))
        inputs = inputs + gates
    kernel = weights["recurrent_kernel"].reshape(units, form.gates, units)
    if cell.dtype == "bfloat16":
        kernel = kernel.astype(jnp.bfloat16)
    h, c = carry if form.cell == "lstm" else (carry, jnp.zeros_like(carry))
    mask = jnp.ones((clips, frames)) if mask_BT is None else mask_BT.astype(jnp.float32)
    limit = jnp.zeros(1) if bound is None else jnp.asarray(bound, jnp.float32).reshape(1)
    operands = Operands(inputs, kernel, bias, h, c, mask, limit)
    h, c = scan(form, jax.tree.map(lambda leaf: leaf[None], operands))
    states, last = (h[0, :, :-1], 0) if reverse else (h[0, :, 1:], frames)
    end = h[0, :, last]
    return states, cells.LSTMCarry(end, c[0, :, last]) if form.cell == "lstm" else end


def cudnn(
    weights: cells.Weights, x_BTD: Array, lengths_B: Array, carry: cells.LSTMCarry
) -> tuple[Array, cells.LSTMCarry]:
    """Run cuDNN's LSTM forwards in time, for one trial, in float32 or TF32.

    Each clip's valid frames have to come first.
    """
    from jax.experimental import rnn

    kernel, recurrent = weights["input_kernel"], weights["recurrent_kernel"]
    features, units = kernel.shape[0], recurrent.shape[0]
    biases = (weights["bias"], weights.get("recurrent_bias", jnp.zeros_like(weights["bias"])))
    flat = jnp.concatenate([kernel.T.ravel(), recurrent.T.ravel(), *biases])
    precision = lax.Precision.HIGHEST if is_exact() else None
    lengths = jnp.maximum(lengths_B, 1).astype(jnp.int32)
    start = (carry.h[None], carry.c[None])
    sizes = (features, units, 1, 0.0, False)
    y, h, c = rnn.lstm(x_BTD, *start, flat, lengths, *sizes, precision)
    some = (lengths_B > 0)[:, None]
    end = cells.LSTMCarry(jnp.where(some, h[0], carry.h), jnp.where(some, c[0], carry.c))
    return y, end
