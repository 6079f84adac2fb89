"""Every cell, mask and direction equals a plain NumPy loop over clips and frames."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrec.models import cells
from vidrec.models.lru import LRU
from vidrec.models.scanners import MeanPool, Recurrent

# Small programs that run a few times each: nearly all their time would go into optimising them.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
B, T, D, U = 3, 5, 4, 3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convolve(x_HWD, kernel):
    """Output pixel by output pixel, with zeros around."""
    H, W, _ = x_HWD.shape
    k = kernel.shape[0] // 2
    y = np.zeros((H, W, kernel.shape[-1]))
    for i in range(H):
        for j in range(W):
            for a in range(-k, k + 1):
                for b in range(-k, k + 1):
                    if 0 <= i + a < H and 0 <= j + b < W:
                        y[i, j] += x_HWD[i + a, j + b] @ kernel[a + k, b + k]
    return y


def lstm(weights, state, x, product=np.matmul):
    h, c = state
    bias = weights["bias"] + weights.get("recurrent_bias", 0)
    gates = product(x, weights["input_kernel"]) + product(h, weights["recurrent_kernel"]) + bias
    i, f, g, o = np.split(gates, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(weights, state, x, reset_after, product=np.matmul):
    (h,) = state
    wz, wr, wn = np.split(weights["input_kernel"], 3, -1)
    uz, ur, un = np.split(weights["recurrent_kernel"], 3, -1)
    bz, br, bn = np.split(weights["bias"], 3)
    vz, vr, vn = np.split(weights.get("recurrent_bias", np.zeros(3 * U)), 3)
    z = sigmoid(product(x, wz) + bz + product(h, uz) + vz)
    r = sigmoid(product(x, wr) + br + product(h, ur) + vr)
    if reset_after:
        n = np.tanh(product(x, wn) + bn + r * (product(h, un) + vn))
    else:
        n = np.tanh(product(x, wn) + bn + product(r * h, un) + vn)
    return (z * h + (1 - z) * n,)


def mingru(weights, state, x):
    (h,) = state
    z, n = np.split(x @ weights["input_kernel"] + weights["bias"], 2, -1)
    z = sigmoid(z)
    return ((1 - z) * h + z * n,)


def minlstm(weights, state, x):
    (h,) = state
    f, i, n = np.split(x @ weights["input_kernel"] + weights["bias"], 3, -1)
    f, i = sigmoid(f), sigmoid(i)
    return (f / (f + i) * h + i / (f + i) * n,)


def lru(weights, state, x):
    """The outputs come first, of which nothing is carried."""
    _, h = state
    keep = np.exp(-np.exp(weights["log_decay"]) + 1j * np.exp(weights["log_phase"]))
    real, imaginary = np.split(x @ weights["input_kernel"], 2)
    h = keep * h + np.sqrt(1 - np.abs(keep) ** 2) * (real + 1j * imaginary)
    kernel = np.split(weights["output_kernel"], 2)
    a = (h @ (kernel[0] - 1j * kernel[1])).real
    a = a * (1 + np.vectorize(math.erf)(a / np.sqrt(2))) / 2
    gate = sigmoid(a @ weights["gate_kernel"] + weights["gate_bias"])
    return a * gate + x @ weights["past_kernel"], h


def convgru(reset_after):
    return partial(gru, reset_after=reset_after, product=convolve)


# name: our cell, its step in NumPy, number of arrays in its state, shape of one frame
TRUTHS = {
    "lstm": (cells.LSTM(U), lstm, 2, (D,)),
    "lstm double": (cells.LSTM(U, bias="double"), lstm, 2, (D,)),
    "gru": (cells.GRU(U), partial(gru, reset_after=True), 1, (D,)),
    "gru before": (cells.GRU(U, reset_after=False), partial(gru, reset_after=False), 1, (D,)),
    "gru before double": (
        cells.GRU(U, bias="double", reset_after=False),
        partial(gru, reset_after=False),
        1,
        (D,),
    ),
    "mingru": (cells.MinGRU(U), mingru, 1, (D,)),
    "minlstm": (cells.MinLSTM(U), minlstm, 1, (D,)),
    "lru": (LRU(U), lru, 2, (D,)),
    "convgru": (cells.ConvGRU(U), convgru(True), 1, (3, 4, D)),
    "convgru before": (cells.ConvGRU(U, reset_after=False), convgru(False), 1, (3, 4, D)),
    "convlstm": (cells.ConvLSTM(U), partial(lstm, product=convolve), 2, (3, 4, D)),
    "convlstm 1x1": (cells.ConvLSTM(U, kernel=1), partial(lstm, product=convolve), 2, (3, 4, D)),
    "convlstm 5x5": (cells.ConvLSTM(U, kernel=5), partial(lstm, product=convolve), 2, (3, 2, D)),
}


def scan_clip(step, count, weights, x_TD, mask_T, reverse):
    """Outputs (0 where invalid) and last state of one clip, frame by frame."""
    state = (np.zeros((*x_TD.shape[1:-1], U)),) * count
    y = np.zeros((len(x_TD), *x_TD.shape[1:-1], U))
    for t in reversed(range(len(x_TD))) if reverse else range(len(x_TD)):
        if mask_T[t]:
            state = step(weights, state, x_TD[t])
            y[t] = state[0]
    return y, state


def stack_clip(step, count, layers, params, x_TD, mask_T, bidirectional):
    """The same through all layers; states of all layers and directions in one list."""
    states = []
    for layer in range(layers):
        weights = params[f"layer_{layer}_forward"]
        y, state = scan_clip(step, count, weights, x_TD, mask_T, False)
        states += state
        if bidirectional != "no":
            weights = params[f"layer_{layer}_backward"]
            back, state = scan_clip(step, count, weights, x_TD, mask_T, True)
            states += state
            y = np.concatenate([y, back], -1) if bidirectional == "concat" else y + back
        x_TD = y
    return x_TD, states


@cache
def program(scanner):
    return jit(lambda params, x, mask: scanner.apply({"params": params}, x, mask))


def cases():
    """Every cell in every direction; joining maps of several kernels shows nothing new."""
    for name, (cell, *_) in TRUTHS.items():
        for direction in ("no", "concat", "sum"):
            repeats = cell.maps and (cell.kernel, direction) not in ((3, "concat"), (5, "no"))
            yield pytest.param(name, direction, marks=[pytest.mark.slow] if repeats else [])


@pytest.mark.parametrize(("name", "bidirectional"), list(cases()))
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_equals_a_loop_in_numpy(name, bidirectional, seed):
    cell, step, count, frame = TRUTHS[name]
    layers = 1 if cell.maps else 2
    scanner = Recurrent(cell, layers, bidirectional)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(B, T, *frame)).astype(np.float32)
    mask_BT = rng.random((B, T)) < 0.7  # gaps too, and clips with no valid frame
    shapes = jax.eval_shape(scanner.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), shapes)
    y, carry = program(scanner)(params, x, mask_BT)
    exact = jax.tree.map(lambda a: a.astype(np.float64), params)
    if getattr(cell, "bias", "") == "double":  # else a loop without it would agree
        assert all("recurrent_bias" in weights for weights in params.values())
    for b in range(B):
        truth, states = stack_clip(
            step, count, layers, exact, x[b].astype(np.float64), mask_BT[b], bidirectional
        )
        np.testing.assert_allclose(y[b], truth, atol=3e-6)
        ours = [leaf[b] for leaf in jax.tree.leaves(carry)]
        if isinstance(cell, LRU):
            states = states[1::2]
        for one, other in zip(ours, states, strict=True):
            np.testing.assert_allclose(one, other, atol=3e-6)


def plainly(cell, weights, x_BTD, mask_BT):
    """States by a Python loop over frames, which JAX differentiates by itself."""
    ops = cells.StepOps(partial(cell.recurrent_matmul, weights), lambda z: z)
    inputs = cell.project(weights, x_BTD)
    carry = cell.initialize_carry((B, *x_BTD.shape[2:-1]), x_BTD.dtype)
    states = []
    for t in range(T):
        new = cell.step(weights, carry, jax.tree.map(lambda leaf: leaf[:, t], inputs), ops)  # noqa: B023
        keep = jnp.asarray(mask_BT[:, t])

        def chosen(a, b, keep=keep):
            return jnp.where(keep.reshape(B, *[1] * (a.ndim - 1)), a, b)

        carry = jax.tree.map(chosen, new, carry)
        output = cell.output(carry)
        states.append(chosen(output, jnp.zeros_like(output)))
    return cell.readout(weights, jnp.stack(states, 1), x_BTD)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if "x" in n else []) for n in TRUTHS]
)
def test_gradients_are_those_of_a_loop_that_jax_differentiates(name):
    """Ours come from one product for all frames; here every frame adds its own."""
    cell, _, _, frame = TRUTHS[name]
    rng = np.random.default_rng(7)
    x = rng.normal(size=(B, T, *frame)).astype(np.float32)
    mask_BT = rng.random((B, T)) < 0.7
    scanner = Recurrent(cell)
    shapes = jax.eval_shape(scanner.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), shapes)
    of_each = rng.normal(size=(B, T, *frame[:-1], U)) * mask_BT.reshape(B, T, *[1] * len(frame))

    def ours(params, x):
        return (scanner.apply({"params": params}, x, mask_BT)[0] * of_each).sum()

    def plain(params, x):
        return (plainly(cell, params["layer_0_forward"], x, mask_BT) * of_each).sum()

    found, truth = (jit(jax.grad(loss, argnums=(0, 1)))(params, x) for loss in (ours, plain))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, truth)


@pytest.mark.parametrize("name", [name for name, (cell, *_) in TRUTHS.items() if not cell.maps])
def test_gradients_are_the_differences_of_a_loop_in_numpy(name):
    """Along a random direction; the loop above shares each cell's `step`, this one nothing."""
    cell, step, count, _ = TRUTHS[name]
    rng = np.random.default_rng(11)
    x = rng.normal(size=(T, D))
    mask_T, of_each = np.array([True, True, False, True, True]), rng.normal(size=(T, U))
    scanner = Recurrent(cell)
    shapes = jax.eval_shape(scanner.init, jax.random.key(0), np.zeros((1, T, D), np.float32))
    weights = jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape), shapes["params"])
    toward = jax.tree.map(lambda a: rng.normal(size=a.shape), (weights, x))

    def truth(far):
        moved, x_TD = jax.tree.map(lambda a, d: a + far * d, (weights, x), toward)
        y, _ = scan_clip(step, count, moved["layer_0_forward"], x_TD, mask_T, False)
        return (y * of_each).sum()

    def ours(params, x_TD):
        return (scanner.apply({"params": params}, x_TD[None], mask_T[None])[0][0] * of_each).sum()

    low = jax.tree.map(np.float32, (weights, x))
    found = jit(jax.grad(ours, argnums=(0, 1)))(*low)
    along = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), found, toward)))
    assert along == pytest.approx((truth(1e-5) - truth(-1e-5)) / 2e-5, rel=1e-4)


def test_mean_equals_a_loop_in_numpy():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(B, T, D)).astype(np.float32)
    mask_BT = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 0]], bool)
    y, (total, count) = MeanPool().apply({}, x, jnp.asarray(mask_BT))
    for b in range(B):
        seen = []
        for t in range(T):
            seen += [x[b, t]] if mask_BT[b, t] else []
            truth = np.mean(seen, 0) if mask_BT[b, t] else np.zeros(D)
            np.testing.assert_allclose(y[b, t], truth, atol=1e-6)
        np.testing.assert_allclose(total[b], np.sum(seen, 0), atol=1e-6)
        assert count[b] == len(seen)
