"""The fused kernel's backward pass."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from vidrec.models.fused.device import dot, load, place_of, wait
from vidrec.models.fused.work import Blocks, Form

Clip = Callable[[Array], Array]


def _lstm_vjps(
    gates: list[Array], states: tuple[Array, Array], dh: Array, dc: Array, clip: Clip
) -> tuple[tuple[Array, ...], Array]:
    """Return derivatives at the pre-activations i, f, g, o, and at the memory before the frame.

    Args:
        gates: i, f, g and o.
        states: The memory before and after the frame.
        dh: Derivative at h.
        dc: Derivative at c, without the part that flows through h.
        clip: Clips derivatives at pre-activations.
    """
    i, f, g, o = gates
    c_before, c_after = states
    tanh_c = jnp.tanh(c_after)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    vjps = (
        dc * g * i * (1 - i),
        dc * c_before * f * (1 - f),
        dc * i * (1 - g * g),
        dh * tanh_c * o * (1 - o),
    )
    return tuple(clip(vjp) for vjp in vjps), dc * f


def _gru_vjps(
    gates: list[Array], h_before: Array, dh: Array, clip: Clip
) -> tuple[Array, Array, Array]:
    """Return derivatives at the pre-activations z, r, n.

    Args:
        gates: z, r, the candidate, and its recurrent part.
        h_before: State before the frame.
        dh: Derivative at the state after it.
        clip: Clips derivatives at pre-activations.
    """
    z, r, candidate, recurrent = gates
    d_n = clip(dh * (1 - z) * (1 - candidate * candidate))
    d_z = clip(dh * (h_before - candidate) * z * (1 - z))
    return d_z, clip(d_n * recurrent * r * (1 - r)), d_n


def backward_kernel(form: Form, blocks: Blocks, *refs: Any) -> None:
    """Run the backward pass over all frames, for the clips and units of one program."""
    kernel, h, c, gates, dh_all, dc_last, bound, mask, _, dx, dr, dh0, dc0, sync = refs
    frames, units = gates.shape[2], gates.shape[4]
    at = place_of(blocks, units)
    n, rows = at.trial, at.rows
    limit = jnp.where(bound[n, 0] > 0, bound[n, 0], jnp.inf)
    parts = units // blocks.inner

    def clip(vjp: Array) -> Array:
        return jnp.clip(vjp, -limit, limit)

    def begin(j: Any, _: Any) -> Any:
        cols = at.columns(j)
        dh0[n, rows, cols] = jnp.zeros((blocks.clips, at.width), jnp.float32)
        dc0[n, rows, cols] = dc_last[n, rows, cols]
        return _

    lax.fori_loop(at.first, at.stop, begin, 0)
    wait(form, sync, (n, at.tile), blocks.slices, blocks.slices)

    def through(total: Array, t_next: Any, cols: Any, count: Any) -> Array:
        """Add the derivative through the next frame's recurrent product, in `count` parts."""

        def add(k: Any, total: Array) -> Array:
            inner = pl.ds(k * blocks.inner, blocks.inner)
            for g in range(form.gates):
                vjp = load(form, dr, n, rows, t_next, g, inner)
                total += dot(form, vjp, kernel[n, cols, g, inner], transposed=True)
            return total

        return lax.fori_loop(0, count, add, total)

    def frame(step: Any, _: Any) -> Any:
        t = step if form.reverse else frames - 1 - step
        t_next = jnp.clip(t - 1 if form.reverse else t + 1, 0, frames - 1)
        before, after = (t + 1, t) if form.reverse else (t, t + 1)
        valid = mask[n, rows, t][:, None] > 0

        def chunk(j: Any, _: Any) -> Any:
            cols = at.columns(j)
            dh = dh_all[n, rows, t, cols] + dh0[n, rows, cols]
            dh = through(dh, t_next, cols, parts * jnp.minimum(step, 1))
            dc = dc0[n, rows, cols]
            residuals = [gates[n, rows, t, g, cols] for g in range(4)]
            if form.cell == "lstm":
                states = c[n, rows, before, cols], c[n, rows, after, cols]
                vjps, dc_before = _lstm_vjps(residuals, states, dh, dc, clip)
                inputs = recurrent = tuple(jnp.where(valid, vjp, 0.0) for vjp in vjps)
                dc0[n, rows, cols] = jnp.where(valid, dc_before, dc)
                passed = jnp.where(valid, 0.0, dh)
            else:
                vjps = _gru_vjps(residuals, h[n, rows, before, cols], dh, clip)
                d_z, d_r, d_n = (jnp.where(valid, vjp, 0.0) for vjp in vjps)
                inputs, recurrent = (d_z, d_r, d_n), (d_z, d_r, d_n * residuals[1])
                passed = jnp.where(valid, dh * residuals[0], dh)
            dh0[n, rows, cols] = passed
            for g in range(form.gates):
                dx[n, rows, t, g, cols] = inputs[g]
                dr[n, rows, t, g, cols] = recurrent[g]
            return _

        lax.fori_loop(at.first, at.stop, chunk, 0)
        wait(form, sync, (n, at.tile), blocks.slices * (step + 2), blocks.slices)
        return _

    lax.fori_loop(0, frames, frame, 0)
    t_first = frames - 1 if form.reverse else 0

    def end(j: Any, _: Any) -> Any:
        cols = at.columns(j)
        dh0[n, rows, cols] = through(dh0[n, rows, cols], t_first, cols, parts)
        return _

    lax.fori_loop(at.first, at.stop, end, 0)
