"""Recurrences for NVIDIA GPUs: cuDNN's LSTM, and one kernel for all frames of an LSTM or a GRU.

A loop over frames launches several small kernels a frame. The kernel here is launched once: its
programs keep to their clips and units, and wait for each other after every frame. Many trials with
weights of their own are one launch, too (an axis N), which cuDNN has no call for.

Dimension letters: N trials, B clips, T frames, D features, G gates, U units.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap
from jax.experimental import pallas as pl

from vidrec.models import cells

# Rows and columns of a matrix unit's smallest tile: clips and units are padded to multiples.
TILE = 16
# A program that waits longer than so many looks gives up, so that a fault cannot hang the device.
PATIENCE = 200_000


class Blocks(NamedTuple):
    """How the kernel cuts its work.

    Attributes:
        clips: rows of a program.
        units: columns of a product.
        inner: terms of a product's sums that are read at once.
        slices: programs that share the units of one tile of clips, and wait for each other.
        warps: of 32 threads, in a program.
        stages: parts of a sum that are on their way from memory at once.
    """

    clips: int
    units: int
    inner: int
    slices: int
    warps: int = 4
    stages: int = 3


class Form(NamedTuple):
    """What is fixed before compiling.

    Attributes:
        cell: 'lstm' or 'gru' (the reset gate behind the product).
        reverse: from the last frame to the first.
        exact: products in float32; otherwise TF32 (bfloat16 where the weights are).
        blocks: None: chosen by `blocks_for`.
        interpret: run on a CPU, for tests; one slice only.
    """

    cell: str
    reverse: bool = False
    exact: bool = False
    blocks: Blocks | None = None
    interpret: bool = False

    @property
    def gates(self) -> int:
        """Blocks of U columns."""
        return {"lstm": 4, "gru": 3}[self.cell]


def blocks_for(trials: int, clips: int, units: int, processors: int, exact: bool = False) -> Blocks:
    """Cut the work so that every multiprocessor has a program, and no more where programs wait.

    Args:
        trials, clips, units: sizes of the group, the batch and the layer.
        processors: multiprocessors of the device.
        exact: products in float32, by scalar units.
    """
    rows = 16 if clips <= 16 else 32 if clips <= 32 or exact else 64
    if rows == 64 and trials * math.ceil(clips / 32) * math.ceil(units / TILE) <= processors:
        rows = 32
    # Parts of a sum lie in shared memory, which is small for tall tiles. Exact products are
    # written out one by one: larger parts would take minutes to compile.
    inner = 32 if exact or rows == 64 or units <= 32 else 64 if units <= 192 else 128
    padded = _up(units, inner)
    most = padded // TILE  # slices that a tile of clips could have
    slices = max(1, min(most, processors // (trials * math.ceil(clips / rows))))
    columns = TILE if exact or slices == most else 2 * TILE
    own = math.ceil(padded / columns / slices)  # products of a program
    return Blocks(rows, columns, inner, math.ceil(padded / columns / own))


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


class Operands(NamedTuple):
    """Arrays of a scan, each with a leading axis of trials.

    Attributes:
        inputs: (N, B, T, G, U) projected inputs, biases included.
        kernel: (N, U, G, U) recurrent weights.
        bias: (N, U) recurrent bias of a GRU's candidate; zeros for an LSTM.
        h, c: (N, B, U) carry before the first frame; a GRU's c is not used.
        mask: (N, B, T) float, 0 in frames that leave the carry alone.
        bound: (N, 1) on the derivative at each gate's pre-activation; 0 is none.
    """

    inputs: Array
    kernel: Array
    bias: Array
    h: Array
    c: Array
    mask: Array
    bound: Array


class Saved(NamedTuple):
    """What the forward pass leaves: states of all frames, and what the backward pass needs.

    States have T + 1 places along time: one before the first frame, and one after each.
    """

    h: Array  # (N, B, T + 1, U)
    c: Array  # (N, B, T + 1, U)
    gates: Array  # (N, B, T, 4, U): i f g o, or z r n and the candidate's recurrent part


class Slopes(NamedTuple):
    """Derivatives that the backward pass leaves."""

    inputs: Array  # (N, B, T, G, U) of the pre-activations, as the inputs add to them
    recurrent: Array  # (N, B, T, G, U) of the recurrent products
    h: Array  # (N, B, U) of the carry before the first frame
    c: Array  # (N, B, U)


def fits(cell: cells.Cell) -> bool:
    """Return True for the cells that the kernel computes."""
    return type(cell) is cells.LSTM or (type(cell) is cells.GRU and cell.reset_after)


def is_exact() -> bool:
    """Return True where float32 products are asked for in float32, not in TF32."""
    return jax.config.jax_default_matmul_precision in ("highest", "float32")


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
    """Run `scanners.scan_time` of a cell that `fits` in one kernel; outputs hold the carry."""
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
    given = Operands(inputs, kernel, bias, h, c, mask, limit)
    h, c = scan(form, jax.tree.map(lambda leaf: leaf[None], given))
    states, last = (h[0, :, :-1], 0) if reverse else (h[0, :, 1:], frames)
    end = h[0, :, last]
    return states, cells.LSTMCarry(end, c[0, :, last]) if form.cell == "lstm" else end


def cudnn(
    weights: cells.Weights, x_BTD: Array, lengths_B: Array, carry: cells.LSTMCarry
) -> tuple[Array, cells.LSTMCarry]:
    """Run an LSTM by cuDNN: valid frames first, one trial, float32 or TF32, forwards only."""
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


def _dot(form: Form, a: Array, b: Array, transposed: bool = False) -> Array:
    """a @ b, or a @ b.T, summed in float32."""
    dims = (((1,), (1 if transposed else 0,)), ((), ()))
    precision = None
    if b.dtype == jnp.float32:
        # TF32 is asked for by HIGH; the exact products by HIGHEST.
        precision = lax.Precision.HIGHEST if form.exact else lax.Precision.HIGH
    return lax.dot_general(
        a.astype(b.dtype), b, dims, precision=precision, preferred_element_type=jnp.float32
    )


def _wait(form: Form, sync: Any, place: tuple, target: Any, slices: int) -> None:
    """Wait until every program of this tile of clips has come so far."""
    if form.interpret:
        return
    from jax.experimental.pallas import triton

    triton.debug_barrier()
    if slices == 1:
        return
    reached = triton.atomic_add(sync, place, 1) + 1

    def far(state: tuple) -> Array:
        return (state[0] < target) & (state[1] < PATIENCE)

    def look(state: tuple) -> tuple:
        return triton.atomic_add(sync, place, 0), state[1] + 1

    lax.while_loop(far, look, (reached, jnp.int32(0)))
    triton.debug_barrier()


def _load(form: Form, ref: Any, *index: Any) -> Array:
    """Read what another program may have written: past the cache that is each processor's own."""
    if form.interpret:
        return ref[index]
    from jax.experimental.pallas import triton

    return triton.load(ref.at[index], volatile=True)


class _Place(NamedTuple):
    """Where a program works: its trial, tile, rows, and its products' numbers and width."""

    trial: Any
    tile: Any
    rows: Any
    chunks: tuple
    width: int

    def columns(self, chunk: Any) -> Any:
        """Return the units of one product."""
        return pl.ds(chunk * self.width, self.width)


def _place(blocks: Blocks, units: int) -> _Place:
    """Slices are the grid's quickest axis: those that wait for each other start together."""
    chunks = units // blocks.units
    own = math.ceil(chunks / blocks.slices)
    first = pl.program_id(0) * own
    return _Place(
        trial=pl.program_id(2),
        tile=pl.program_id(1),
        rows=pl.ds(pl.program_id(1) * blocks.clips, blocks.clips),
        chunks=(first, jnp.minimum(first + own, chunks)),
        width=blocks.units,
    )


def _forward_kernel(form: Form, blocks: Blocks, save: bool, *refs: Any) -> None:
    x, kernel, bias, h0, c0, mask, _, h, c, gates, sync = refs
    frames, units = x.shape[2], x.shape[4]
    at = _place(blocks, units)
    n, rows = at.trial, at.rows
    first_slot = frames if form.reverse else 0

    def begin(j: Any, _: Any) -> Any:
        cols = at.columns(j)
        h[n, rows, first_slot, cols] = h0[n, rows, cols]
        if form.cell == "lstm":
            c[n, rows, first_slot, cols] = c0[n, rows, cols]
        return _

    lax.fori_loop(*at.chunks, begin, 0)
    _wait(form, sync, (n, at.tile), blocks.slices, blocks.slices)

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
                h_k = _load(form, h, n, rows, before, inner)
                return tuple(
                    total + _dot(form, h_k, kernel[n, inner, g, cols]) if g < form.gates else total
                    for g, total in enumerate(sums)
                )

            sums = lax.fori_loop(0, units // blocks.inner, add, sums)
            h_old = _load(form, h, n, rows, before, cols)
            if form.cell == "lstm":
                i, f, o = (jax.nn.sigmoid(sums[g]) for g in (0, 1, 3))
                g_ = jnp.tanh(sums[2])
                c_old = c[n, rows, before, cols]
                c_new = f * c_old + i * g_
                h_new = o * jnp.tanh(c_new)
                c[n, rows, after, cols] = jnp.where(valid, c_new, c_old)
                kept = (i, f, g_, o)
            else:
                z, r = jax.nn.sigmoid(sums[0]), jax.nn.sigmoid(sums[1])
                candidate = jnp.tanh(sums[3] + r * sums[2])
                h_new = z * h_old + (1 - z) * candidate
                kept = (z, r, candidate, sums[2])
            h[n, rows, after, cols] = jnp.where(valid, h_new, h_old)
            if save:
                for g, each in enumerate(kept):
                    gates[n, rows, t, g, cols] = each
            return _

        lax.fori_loop(*at.chunks, chunk, 0)
        _wait(form, sync, (n, at.tile), blocks.slices * (step + 2), blocks.slices)
        return _

    lax.fori_loop(0, frames, frame, 0)


def _backward_kernel(form: Form, blocks: Blocks, *refs: Any) -> None:
    kernel, h, c, gates, dh_all, dc_last, bound, mask, _, dx, dr, dh0, dc0, sync = refs
    frames, units = gates.shape[2], gates.shape[4]
    at = _place(blocks, units)
    n, rows = at.trial, at.rows
    limit = jnp.where(bound[n, 0] > 0, bound[n, 0], jnp.inf)
    parts = units // blocks.inner

    def clip(slope: Array) -> Array:
        return jnp.clip(slope, -limit, limit)

    def begin(j: Any, _: Any) -> Any:
        cols = at.columns(j)
        dh0[n, rows, cols] = jnp.zeros((blocks.clips, at.width), jnp.float32)
        dc0[n, rows, cols] = dc_last[n, rows, cols]
        return _

    lax.fori_loop(*at.chunks, begin, 0)
    _wait(form, sync, (n, at.tile), blocks.slices, blocks.slices)

    def through(total: Array, t_next: Any, cols: Any, count: Any) -> Array:
        """Add what the frame after gives through the recurrent product, by so many parts."""

        def add(k: Any, total: Array) -> Array:
            inner = pl.ds(k * blocks.inner, blocks.inner)
            for g in range(form.gates):
                slope = _load(form, dr, n, rows, t_next, g, inner)
                total += _dot(form, slope, kernel[n, cols, g, inner], transposed=True)
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
            kept = [gates[n, rows, t, g, cols] for g in range(4)]
            if form.cell == "lstm":
                i, f, g_, o = kept
                tanh_c = jnp.tanh(c[n, rows, after, cols])
                dc_here = dc + dh * o * (1 - tanh_c * tanh_c)
                slopes = (
                    dc_here * g_ * i * (1 - i),
                    dc_here * c[n, rows, before, cols] * f * (1 - f),
                    dc_here * i * (1 - g_ * g_),
                    dh * tanh_c * o * (1 - o),
                )
                slopes = tuple(jnp.where(valid, clip(each), 0.0) for each in slopes)
                recurrent = slopes
                dc0[n, rows, cols] = jnp.where(valid, dc_here * f, dc)
                passed = jnp.where(valid, 0.0, dh)
            else:
                z, r, candidate, apart = kept
                h_old = h[n, rows, before, cols]
                d_n = clip(dh * (1 - z) * (1 - candidate * candidate))
                d_z = clip(dh * (h_old - candidate) * z * (1 - z))
                d_r = clip(d_n * apart * r * (1 - r))
                d_z, d_r, d_n = (jnp.where(valid, each, 0.0) for each in (d_z, d_r, d_n))
                slopes, recurrent = (d_z, d_r, d_n), (d_z, d_r, d_n * r)
                passed = jnp.where(valid, dh * z, dh)
            dh0[n, rows, cols] = passed
            for g in range(form.gates):
                dx[n, rows, t, g, cols] = slopes[g]
                dr[n, rows, t, g, cols] = recurrent[g]
            return _

        lax.fori_loop(*at.chunks, chunk, 0)
        _wait(form, sync, (n, at.tile), blocks.slices * (step + 2), blocks.slices)
        return _

    lax.fori_loop(0, frames, frame, 0)
    t_first = frames - 1 if form.reverse else 0

    def end(j: Any, _: Any) -> Any:
        cols = at.columns(j)
        dh0[n, rows, cols] = through(dh0[n, rows, cols], t_first, cols, parts)
        return _

    lax.fori_loop(*at.chunks, end, 0)


def _call(form: Form, blocks: Blocks, body: Callable, operands: tuple, shapes: list) -> tuple:
    """Launch a kernel; its last operand and result are the counters that programs wait by."""
    trials, clips = operands[0].shape[0], operands[-1].shape[1]
    tiles = clips // blocks.clips
    counters = jnp.zeros((trials, tiles), jnp.int32)
    more: dict[str, Any] = {"interpret": True}
    if not form.interpret:
        from jax.experimental.pallas import triton

        params = triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages)
        more = {"compiler_params": params}
    made = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    outs = pl.pallas_call(
        body,
        grid=(blocks.slices, tiles, trials),
        out_shape=[*made, jax.ShapeDtypeStruct(counters.shape, counters.dtype)],
        input_output_aliases={len(operands): len(shapes)},
        **more,
    )(*operands, counters)
    return tuple(outs[:-1])


def _pad(array: Array, axes: dict[int, int]) -> Array:
    """Zeros behind the given axes, up to these sizes."""
    pads = [(0, 0)] * array.ndim
    for axis, size in axes.items():
        pads[axis] = (0, size - array.shape[axis])
    return jnp.pad(array, pads) if any(right for _, right in pads) else array


def _sizes(form: Form, trials: int, clips: int, units: int) -> tuple[Blocks, int, int]:
    """How work is cut, and clips and units with padding."""
    blocks = form.blocks
    if blocks is None:
        cores = 1 if form.interpret else processors()
        blocks = blocks_for(trials, clips, units, cores, form.exact)
    step = max(blocks.units, blocks.inner)  # powers of two
    return blocks, _up(clips, blocks.clips), _up(units, step)


def processors() -> int:
    """Return how many multiprocessors the first device has; 1 where none is told."""
    return int(getattr(jax.local_devices()[0], "core_count", 1))


def _forward(form: Form, save: bool, *arrays: Array) -> tuple[Array, ...]:
    """States of all frames, with what the backward pass needs if `save`: the fields of `Saved`."""
    given = Operands(*arrays)
    trials, clips, frames, _, units = given.inputs.shape
    blocks, rows, cols = _sizes(form, trials, clips, units)
    padded = (
        _pad(given.inputs, {1: rows, 4: cols}),
        _pad(given.kernel, {1: cols, 3: cols}),
        _pad(given.bias, {1: cols}),
        _pad(given.h, {1: rows, 2: cols}),
        _pad(given.c, {1: rows, 2: cols}),
        _pad(given.mask, {1: rows}),
    )
    states = (trials, rows, frames + 1, cols)
    shapes = [
        states,
        states if form.cell == "lstm" else (trials, 1, 1, 1),
        (trials, rows, frames, 4, cols) if save else (trials, 1, 1, 1, 1),
    ]
    body = functools.partial(_forward_kernel, form, blocks, save)
    return _call(form, blocks, body, padded, shapes)


def _backward(form: Form, *arrays: Array) -> tuple[Array, ...]:
    """The fields of `Slopes`, padded; takes kernel, `Saved`, dh of all frames, dc, bound, mask."""
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
    slopes = (trials, rows, frames, form.gates, cols)
    shapes = [slopes, slopes, (trials, rows, cols), (trials, rows, cols)]
    body = functools.partial(_backward_kernel, form, blocks)
    return _call(form, blocks, body, operands, shapes)


@functools.cache
def _over_trials(work: Callable, *static: Any) -> Callable:
    """`work(*static, *arrays)` whose batching joins the leading axis of all arrays (trials)."""

    @custom_vmap
    def run(*arrays: Array) -> tuple[Array, ...]:
        return work(*static, *arrays)

    @run.def_vmap
    def rule(size: int, batched: list, *arrays: Array) -> tuple[tuple[Array, ...], tuple]:
        wide = [
            array if is_batched else jnp.broadcast_to(array[None], (size, *array.shape))
            for array, is_batched in zip(arrays, batched, strict=True)
        ]
        outs = run(*(each.reshape(-1, *each.shape[2:]) for each in wide))
        split = tuple(out.reshape(size, -1, *out.shape[1:]) for out in outs)
        return split, (True,) * len(split)

    return run


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan(form: Form, given: Operands) -> tuple[Array, Array]:
    """Run an LSTM or a GRU over all frames in one kernel.

    Args:
        form: cell, direction and precision.
        given: arrays as `Operands` says; the kernel may be bfloat16, all else is float32.

    Returns:
        States h and c before the first frame and after each, (N, B, T + 1, U); in reverse the one
        before the first frame is the last along time. A GRU's c is empty.
    """
    return _cut(form, given, _over_trials(_forward, form, False)(*given)[:2])


def _cut(form: Form, given: Operands, states: tuple) -> tuple[Array, Array]:
    _, clips, _, _, units = given.inputs.shape
    h, c = (each[:, :clips, :, :units] for each in states)
    return h, c


def _scan_forward(form: Form, given: Operands) -> tuple[tuple[Array, Array], tuple]:
    saved = _over_trials(_forward, form, True)(*given)
    return _cut(form, given, saved[:2]), (given, saved)


def _scan_backward(form: Form, kept: tuple, slopes: tuple[Array, Array]) -> tuple[Operands]:
    given, saved = kept
    dh, dc = slopes
    _, clips, frames, _, units = given.inputs.shape
    after = slice(0, frames) if form.reverse else slice(1, None)
    before = slice(1, None) if form.reverse else slice(0, frames)
    last, first = (0, frames) if form.reverse else (frames, 0)
    dc_last = dc[:, :, last] if form.cell == "lstm" else jnp.zeros_like(given.h)
    arrays = (given.kernel, *saved, dh[:, :, after], dc_last, given.bound, given.mask)
    dx, dr, dh0, dc0 = _over_trials(_backward, form)(*arrays)
    dx, dr = (each[:, :clips, :, :, :units] for each in (dx, dr))
    h_before = saved[0][:, :clips, before, :units]
    low = given.kernel.dtype
    # The gradient of the recurrent weights is taken once, from all frames together.
    dkernel = jnp.einsum(
        "nbtk,nbtgu->nkgu",
        h_before.astype(low),
        dr.astype(low),
        preferred_element_type=jnp.float32,
    )
    dbias = dr[:, :, :, 2].sum((1, 2)) if form.cell == "gru" else jnp.zeros_like(given.bias)
    return (
        Operands(
            inputs=dx,
            kernel=dkernel.astype(low),
            bias=dbias,
            h=dh0[:, :clips, :units] + dh[:, :, first],
            c=dc0[:, :clips, :units] if form.cell == "lstm" else jnp.zeros_like(given.c),
            mask=jnp.zeros_like(given.mask),
            bound=jnp.zeros_like(given.bound),
        ),
    )


scan.defvjp(_scan_forward, _scan_backward)
