"""The fused kernel's forward pass."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from vidrec.models.fused.device import dot, load, place_of, wait
from vidrec.models.fused.work import Blocks, Form


def _lstm(sums: tuple[Array, ...], c_old: Array) -> tuple[Array, Array, tuple[Array, ...]]:
    """Return h, c and what the backward pass needs, from pre-activations."""
    i, f, o = (jax.nn.sigmoid(sums[gate]) for gate in (0, 1, 3))
    g = jnp.tanh(sums[2])
    c_new = f * c_old + i * g
    return o * jnp.tanh(c_new), c_new, (i, f, g, o)


def _gru(sums: tuple[Array, ...], h_old: Array) -> tuple[Array, tuple[Array, ...]]:
    """Return h and what the backward pass needs, from pre-activations."""
    z, r = jax.nn.sigmoid(sums[0]), jax.nn.sigmoid(sums[1])
    candidate = jnp.tanh(sums[3] + r * sums[2])
    return z * h_old + (1 - z) * candidate, (z, r, candidate, sums[2])


def forward_kernel(form: Form, blocks: Blocks, save: bool, *refs: Any) -> None:
    """Run a cell over all frames, for the clips and units of one program."""
    x, kernel, bias, h0, c0, mask, _, h, c, gates, sync = refs
    frames, units = x.shape[2], x.shape[4]
    at = place_of(blocks, units)
    n, rows = at.trial, at.rows
    first_slot = frames if form.reverse else 0

    def begin(j: Any, _: Any) -> Any:
        cols = at.columns(j)
        h[n, rows, first_slot, cols] = h0[n, rows, cols]
        if form.cell == "lstm":
            c[n, rows, first_slot, cols] = c0[n, rows, cols]
        return _

    lax.fori_loop(at.first, at.stop, begin, 0)
    wait(form, sync, (n, at.tile), blocks.slices, blocks.slices)

    def frame(step: Any, _: Any) -> Any:
        t = frames - 1 - step if form.reverse else step
        before, after = (t + 1, t) if form.reverse else (t, t + 1)
        valid = mask[n, rows, t][:, None] > 0

        def chunk(j: Any, _: Any) -> Any:
            cols = at.columns(j)
            sums = tuple(x[n, rows, t, g, cols] for g in range(form.gates))
            if form.cell == "gru":
                apart = jnp.broadcast_to(bias[n, cols][None], sums[2].shape)
                sums = (sums[0], sums[1], apart, sums[2])

            def add(k: Any, sums: tuple) -> tuple:
                inner = pl.ds(k * blocks.inner, blocks.inner)
                h_k = load(form, h, n, rows, before, inner)
                return tuple(
                    total + dot(form, h_k, kernel[n, inner, g, cols]) if g < form.gates else total
                    for g, total in enumerate(sums)
                )

            sums = lax.fori_loop(0, units // blocks.inner, add, sums)
            h_old = load(form, h, n, rows, before, cols)
            if form.cell == "lstm":
                c_old = c[n, rows, before, cols]
                h_new, c_new, residuals = _lstm(sums, c_old)
                c[n, rows, after, cols] = jnp.where(valid, c_new, c_old)
            else:
                h_new, residuals = _gru(sums, h_old)
            h[n, rows, after, cols] = jnp.where(valid, h_new, h_old)
            if save:
                for g, gate in enumerate(residuals):
                    gates[n, rows, t, g, cols] = gate
            return _

        lax.fori_loop(at.first, at.stop, chunk, 0)
        wait(form, sync, (n, at.tile), blocks.slices * (step + 2), blocks.slices)
        return _

    lax.fori_loop(0, frames, frame, 0)
