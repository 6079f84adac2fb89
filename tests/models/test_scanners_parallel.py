"""The transformer, the TCN and attention equal plain NumPy loops over clips and frames."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrec.config import Config, Scanner, override
from vidrec.errors import UserError
from vidrec.models import model, scanners, transformer
from vidrec.models.attention import Attention
from vidrec.models.tcn import TCN
from vidrec.models.transformer import Transformer

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
B, T, D = 3, 7, 4
erf = np.vectorize(math.erf)


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def layer_norm(layer, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * layer["scale"] + layer["bias"]


def turned(x, place):
    """Each pair (i, i + half) turned by place / 10000 ** (i / half), as complex numbers."""
    half = len(x) // 2
    pair = (x[:half] + 1j * x[half:]) * np.exp(1j * place / 1e4 ** (np.arange(half) / half))
    return np.concatenate([pair.real, pair.imag])


def transformer_clip(made, params, x_TD):
    """The states of one clip, all of whose frames are valid, query by query."""
    x_TU = dense(params["embed"], x_TD)
    for i in range(made.layers):
        q, k, v = np.split(
            dense(params[f"qkv_{i}"], layer_norm(params[f"norm_attention_{i}"], x_TU)), 3, -1
        )
        heard = np.zeros_like(x_TU)
        for t in range(len(x_TU)):
            for part in np.split(np.arange(made.units), made.heads):
                seen = [
                    s for s in range(len(x_TU)) if not made.causal or 0 <= t - s <= made.context
                ]
                scores = [turned(q[t, part], t) @ turned(k[s, part], s) for s in seen]
                shares = np.exp(np.array(scores) / np.sqrt(len(part)))
                heard[t, part] = shares / shares.sum() @ v[seen][:, part]
        x_TU = x_TU + dense(params[f"out_{i}"], heard)
        hidden = dense(params[f"hidden_{i}"], layer_norm(params[f"norm_network_{i}"], x_TU))
        x_TU = x_TU + dense(params[f"shrink_{i}"], hidden * (1 + erf(hidden / np.sqrt(2))) / 2)
    return layer_norm(params["norm"], x_TU)


def tcn_clip(made, params, x_TD):
    """The states of one clip, all of whose frames are valid, tap by tap."""
    for i in range(made.layers):
        step, y_TU = made.dilation**i, x_TD
        for name in ("first", "second"):
            layer = params[f"layer_{i}_{name}"]
            z_TU = np.tile(layer["bias"], (len(x_TD), 1))
            for t in range(len(x_TD)):
                for tap in range(made.kernel):
                    back = made.kernel - 1 - tap if made.causal else (made.kernel // 2) - tap
                    if 0 <= t - back * step < len(x_TD):
                        z_TU[t] += y_TU[t - back * step] @ layer["kernel"][tap]
            y_TU = np.maximum(z_TU, 0)
        short = params.get(f"layer_{i}_shortcut")
        x_TD = np.maximum(y_TU + (x_TD if short is None else dense(short, x_TD)), 0)
    return x_TD


def attention_clip(made, params, x_TD):
    """The states of one clip, all of whose frames are valid, mean by mean."""
    scores_TH = np.tanh(dense(params["hidden"], x_TD)) @ params["scores"]
    values_TU = dense(params["values"], x_TD)
    y_TU = np.zeros_like(values_TU)
    for t in range(len(x_TD)):
        for head, part in enumerate(np.split(np.arange(made.units), made.heads)):
            shares = np.exp(scores_TH[: t + 1, head])
            y_TU[t, part] = shares / shares.sum() @ values_TU[: t + 1, part]
    return y_TU


CASES = {
    "transformer": (Transformer(8, layers=2, heads=2, context=3), transformer_clip),
    "transformer, one head": (Transformer(6, heads=1, expansion=1), transformer_clip),
    "whole transformer": (Transformer(8, layers=2, heads=2, causal=False), transformer_clip),
    "tcn": (TCN(5, layers=2), tcn_clip),
    "tcn, equal widths": (TCN(D, layers=2, kernel=2, dilation=3), tcn_clip),
    "whole tcn": (TCN(5, layers=3, causal=False), tcn_clip),
    "attention": (Attention(6, heads=3), attention_clip),
    "attention, one head": (Attention(5), attention_clip),
}
CAUSAL = [name for name, (made, _) in CASES.items() if made.streams]


def run(params, x, mask, carry=None, *, made):
    return made.apply({"params": params}, x, mask, carry=carry)


programs = {name: jit(partial(run, made=made)) for name, (made, _) in CASES.items()}


def drawn(made, rng, frames=T):
    shapes = jax.eval_shape(made.init, jax.random.key(0), jnp.zeros((1, frames, D)))["params"]
    return jax.tree.map(lambda s: rng.normal(0, 0.6, s.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_equals_a_loop_in_numpy(name, seed):
    """Gaps are as if they were not there, whatever stands in them."""
    made, truth = CASES[name]
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(B, T, D)).astype(np.float32)
    mask_BT = rng.random((B, T)) < 0.7
    params = drawn(made, rng)
    held = np.where(mask_BT[..., None], x, np.nan)
    y, _ = programs[name](params, held, mask_BT)
    exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    for b in range(B):
        valid = mask_BT[b]
        expected = np.zeros(y.shape[1:])
        if valid.any():
            expected[valid] = truth(made, exact, x[b, valid].astype(np.float64))
        np.testing.assert_allclose(y[b], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_stream_with_gaps_is_the_whole_clip(name):
    """In windows of unlike lengths, for longer than the carry reaches back."""
    made, _ = CASES[name]
    rng = np.random.default_rng(7)
    params, x = drawn(made, rng), rng.normal(size=(B, 24, D)).astype(np.float32)
    mask_BT = rng.random((B, 24)) < 0.7
    whole, end = programs[name](params, x, mask_BT)
    carry = jax.tree.map(np.zeros_like, end)
    parts, cuts = [], [0, 1, 2, 5, 14, 15, 24]
    for start, stop in itertools.pairwise(cuts):
        cut = slice(start, stop)
        part, carry = programs[name](params, x[:, cut], mask_BT[:, cut], carry)
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=2e-5, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-5, rtol=1e-5), carry, end)


IN_BLOCKS = {
    "near": (Transformer(8, heads=2, context=4), False),
    "far": (Transformer(8, heads=2, context=40), False),
    "after others": (Transformer(8, heads=2, context=9), True),
    "whole": (Transformer(8, heads=2, causal=False), False),
}


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_attention_over_many_frames_is_taken_in_blocks(name, monkeypatch):
    """Blocks change no output, carry or gradient: with a context, without, and after a carry."""
    made, after_others = IN_BLOCKS[name]
    rng = np.random.default_rng(2)
    x, mask_BT = rng.normal(size=(B, 23, D)).astype(np.float32), rng.random((B, 23)) < 0.8
    params = drawn(made, rng)
    carry = None
    if after_others:
        _, carry = run(params, x[:, :6] + 1, mask_BT[:, :6], made=made)

    def both(params):
        def total(params):
            y, end = run(params, x, mask_BT, carry, made=made)
            return jnp.sum(jnp.sin(y)), (y, end)

        return jax.value_and_grad(total, has_aux=True)(params)

    at_once = jit(both)(params)
    monkeypatch.setattr(transformer, "QUERIES", 5)
    in_blocks = jit(lambda params: both(params))(params)
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-5, rtol=1e-5), in_blocks, at_once)


@pytest.mark.parametrize("causal", [True, False])
def test_memory_of_attention_grows_as_the_frames(causal, monkeypatch):
    """Four times the frames take about four times the memory of a step; all pairs take sixteen."""
    made = Transformer(8, heads=2, context=32, causal=causal)
    params = drawn(made, np.random.default_rng(0))

    def needed(frames):
        x = jax.ShapeDtypeStruct((2, frames, D), jnp.float32)
        gradient = jax.grad(lambda params, x: run(params, x, None, made=made)[0].sum())
        compiled = jax.jit(gradient).lower(params, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    monkeypatch.setattr(transformer, "QUERIES", 16)
    assert needed(2048) <= 4.5 * needed(512)


def test_positions_count_apart_alone_and_far_ones_stay_exact():
    """Scores depend on how far frames lie apart, at place 100,000 as at 0."""
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 9, 1, 16)).astype(np.float32)
    truth = [
        [turned(q[0, t, 0], t) @ turned(k[0, s, 0], s + 3) for s in range(9)] for t in range(9)
    ]
    for place in (0, 100_000):
        pair = transformer.rotate(q, place), transformer.rotate(k, place + 3)
        np.testing.assert_allclose(jnp.einsum("bthe,bshe->ts", *pair), truth, atol=1e-5)


def test_large_scores_neither_overflow_nor_vanish():
    """Scores of a thousand and more, of either sign, and a frame that comes after all others."""
    rng = np.random.default_rng(1)
    made = Attention(2)
    params = drawn(made, rng)
    x = rng.normal(size=(2, 6, D)).astype(np.float32)

    @jit
    def both(params):
        def total(params):
            y, _ = made.apply({"params": params}, x)
            return y.sum(), y

        return jax.value_and_grad(total, has_aux=True)(params)

    for size in (3000.0, -3000.0):
        held = {**params, "scores": np.full_like(params["scores"], size)}
        (_, states), slopes = both(held)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
        exact = jax.tree.map(lambda leaf: leaf.astype(np.longdouble), held)
        for b in range(2):
            truth = attention_clip(made, exact, x[b].astype(np.longdouble))
            np.testing.assert_allclose(states[b], truth.astype(float), atol=2e-3)


@pytest.mark.parametrize("name", CASES)
def test_a_group_of_trials_equals_each_alone(name):
    made, _ = CASES[name]
    rng = np.random.default_rng(4)
    x, mask_BT = rng.normal(size=(B, T, D)).astype(np.float32), rng.random((B, T)) < 0.8
    each = [drawn(made, rng) for _ in range(3)]

    def gradient(params):
        def total(params):
            y, _ = made.apply({"params": params}, x, mask_BT)
            return jnp.sum(jnp.sin(y)), y

        return jax.value_and_grad(total, has_aux=True)(params)

    together = jit(jax.vmap(gradient))(jax.tree.map(lambda *leaves: np.stack(leaves), *each))
    alone = jit(gradient)
    for n, params in enumerate(each):
        ours = jax.tree.map(lambda leaf: leaf[n], together)  # noqa: B023
        close = partial(np.testing.assert_allclose, atol=2e-5, rtol=1e-4)
        jax.tree.map(close, ours, alone(params))


U, H = 12, 3
COUNTS = {
    # D·U + U, then a layer: two norms, U·3U + 3U, U·U + U, U·4U + 4U, 4U·U + U; and the last norm
    "transformer": (D + 1) * U + 2 * (12 * U * U + 13 * U) + 2 * U,
    # A block: k·D·U + U, k·U·U + U, and where widths differ D·U + U
    "tcn": (3 * D * U + U) + (3 * U * U + U) + (D + 1) * U + 2 * (3 * U * U + U),
    "attention": 2 * (D + 1) * U + U * H,
}


@pytest.mark.parametrize("kind", COUNTS)
def test_weights_count_as_the_papers_say(kind):
    args = {"transformer": {"heads": 2}, "tcn": {}, "attention": {"heads": H}}[kind]
    chosen = Scanner(kind=kind, units=U, layers=1 if kind == "attention" else 2)
    made = scanners.build(override(Config(scanner=chosen), {"scanner.args": args}).scanner)
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(drawn(made, np.random.default_rng(0))))
        == (COUNTS[kind])
    )


@pytest.mark.parametrize("name", ["transformer", "tcn", "attention"])
def test_dropout_drops_in_training_only(name):
    made, _ = CASES[name]
    keys, x = jax.random.split(jax.random.key(1), B), jnp.ones((B, T, D))
    params = {"params": drawn(made, np.random.default_rng(0))}

    @partial(jit, static_argnums=1)
    def states(rate, train):
        return made.apply(params, x, train=train, dropout=rate, keys_B=keys)[0]

    kept = states(0.0, True)
    assert np.abs(states(0.5, True) - kept).max() > 1e-2
    np.testing.assert_allclose(kept, states(0.5, False), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "transformer", "units": 20}, "scanner.units = 20 should be a multiple of 8"),
        ({"kind": "transformer", "args": {"context": 0}}, "context = 0 should be at least 1"),
        ({"kind": "transformer", "args": {"head": 2}}, "head"),
        ({"kind": "tcn", "args": {"dilation": 0}}, "dilation = 0 should be at least 1"),
        ({"kind": "tcn", "causal": False, "kernel": 4}, "scanner.kernel: 4 is even"),
        ({"kind": "attention", "args": {"heads": 7}}, "heads = 7 should be at least 1 and divide"),
    ],
)
def test_what_does_not_fit_is_one_line(changes, words):
    cfg = override(Config(), {f"scanner.{name}": value for name, value in changes.items()})
    with pytest.raises(UserError) as error:
        model.build(cfg, 2)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scanner.kind": "tcn", "scanner.bidirectional": "sum"}, "take scanner.causal = False"),
        ({"scanner.kind": "attention", "scanner.bidirectional": "concat"}, "has none"),
        ({"scanner.kind": "gru", "scanner.causal": False}, "tcn or transformer, not 'gru'"),
        ({"scanner.kind": "attention", "scanner.layers": 2}, "'attention' is one layer"),
        ({"scanner.kind": "transformer", "scanner.batch_norm": True}, "layer norm"),
        ({"scanner.kind": "tcn", "optim.clip_mode": "preactivation"}, "no gates"),
        (
            {"scanner.kind": "tcn", "train.tbptt_every": 5, "head.kind": "per_frame"},
            "train.tbptt_every = 5 cuts the gradient of a recurrence",
        ),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(changes, words):
    with pytest.raises(UserError) as error:
        override(Config(), changes)
    assert words in str(error.value)


def test_settings_that_no_longer_fit_another_kind_go_back():
    before = override(Config(), {"scanner.bidirectional": "sum", "scanner.layers": 2})
    assert override(before, {"scanner.kind": "attention"}).scanner == Scanner(kind="attention")
    whole = override(Config(), {"scanner.kind": "tcn", "scanner.causal": False})
    assert not override(whole, {"scanner.kind": "transformer"}).scanner.causal
    assert override(whole, {"scanner.kind": "lstm"}).scanner.causal
