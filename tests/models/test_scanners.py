"""Properties of every scanner: each test fails when the mechanism that it names is broken."""

import dataclasses
import doctest
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vidrec.config import Scanner as Settings
from vidrec.config.rules import GATELESS
from vidrec.errors import UserError
from vidrec.models import attention, cells, norm_dropout, scanners, tcn, transformer
from vidrec.models.attention import Attention
from vidrec.models.inputs import CallOptions, spread
from vidrec.models.lru import LRU
from vidrec.models.scanners import Identity, MeanPool, Recurrent, lengths_to_mask
from vidrec.models.tcn import TCN
from vidrec.models.transformer import Transformer

# Small programs that run a few times each: nearly all their time would go into optimising them.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
B, T, D, U = 3, 6, 4, 3
LENGTHS = jnp.array([6, 2, 4])
MASK_BT = lengths_to_mask(LENGTHS, T)

ONE_WAY = {
    "lstm": Recurrent(cells.LSTM(U), layers=2, batch_norm=True),
    "gru": Recurrent(cells.GRU(U)),
    "gru before": Recurrent(cells.GRU(U, reset_after=False)),
    "mingru": Recurrent(cells.MinGRU(U)),
    "minlstm": Recurrent(cells.MinLSTM(U), layers=2),
    "lru": Recurrent(LRU(U, states=4), layers=2),
    "convlstm": Recurrent(cells.ConvLSTM(U), batch_norm=True),
    "convgru": Recurrent(cells.ConvGRU(U)),
    "mean": MeanPool(),
    "none": Identity(),
    "attention": Attention(units=4, heads=2, batch_norm=True),
    "tcn": TCN(U, layers=2, batch_norm=True),
    "transformer": Transformer(8, layers=2, heads=2, context=4),
}
BOTH_WAYS = {
    "bilstm": Recurrent(cells.LSTM(U), layers=2, bidirectional="concat", batch_norm=True),
    "bigru sum": Recurrent(cells.GRU(U), bidirectional="sum", final_states=True),
    "bilru": Recurrent(LRU(U), bidirectional="concat", final_states=True),
}
WHOLE = {
    "whole tcn": TCN(U, layers=2, causal=False),
    "whole transformer": Transformer(8, layers=2, heads=2, causal=False),
}
ALL = ONE_WAY | BOTH_WAYS | WHOLE
PARALLEL = ("attention", "tcn", "transformer", *WHOLE)
EXACT = ("mean", "none")  # nothing is computed in bfloat16
GATED = tuple(name for name in ONE_WAY if name.split()[0] not in GATELESS)
LINEAR = (cells.MinGRU(U), cells.MinLSTM(U), LRU(U))
every = pytest.mark.parametrize("name", ALL)


def slow(*values):
    """A case that shows what a quicker one shows too."""
    return pytest.param(*values, marks=pytest.mark.slow)


def features(name, seed=0, batch=B, frames=T):
    maps = (3, 2) if "conv" in name else ()
    return jax.random.normal(jax.random.key(seed), (batch, frames, *maps, D))


@cache
def variables(name, scanner=None):
    """Random everywhere, biases and running statistics too: zeros would hide mistakes."""
    shapes = jax.eval_shape((scanner or ALL[name]).init, jax.random.key(0), features(name))
    rng = np.random.default_rng(5)
    # Rectified sums grow from layer to layer.
    low, high = (0.05, 0.2) if "tcn" in name else (0.2, 0.9)
    # NumPy arrays: what is first asked for under jit must not leave a tracer in the cache.
    return jax.tree.map(lambda s: rng.uniform(low, high, s.shape).astype(s.dtype), shapes)


def raw(scanner, train=False):
    """A call that gives ((outputs, carry), changed statistics)."""

    def run(held, x, mask_BT=None, carry=None, **more):
        return scanner.apply(
            held, x, mask_BT, carry=carry, train=train, mutable=["batch_stats"], **more
        )

    return run


@cache
def program(scanner, train=False):
    return jit(raw(scanner, train))


def apply(name, x, mask_BT=None, carry=None, train=False, **more):
    (y, carry), stats = program(ALL[name], train)(variables(name), x, mask_BT, carry, **more)
    return (y, carry, stats) if train else (y, carry)


def close(one, other, atol=2e-6):
    jax.tree.map(partial(np.testing.assert_allclose, atol=atol, rtol=1e-5), one, other)


def lead(mask, like):
    return np.asarray(spread(mask, like))


# --- padding


@every
def test_appended_padding_changes_nothing(name):
    x = features(name)
    padded = jnp.concatenate([x, jnp.full_like(x, jnp.nan)], 1)
    mask = jnp.concatenate([MASK_BT, jnp.zeros_like(MASK_BT)], 1)
    keys = jax.random.split(jax.random.key(1), B)
    more = {"train": True, "dropout": 0.4, "keys_B": keys}
    y, *rest = apply(name, x, MASK_BT, **more)
    y_padded, *rest_padded = apply(name, padded, mask, **more)
    close(y_padded[:, :T], y)
    close(rest_padded, rest)
    assert not y_padded[:, T:].any()
    assert not np.where(lead(MASK_BT, y), 0, y).any()


@pytest.mark.parametrize(
    "name",
    ["lstm", "lru", "bigru sum", *PARALLEL, slow("gru before"), slow("convlstm"), slow("bilstm")],
)
def test_padding_reaches_no_gradient(name):
    x = features(name)

    @jit
    def gradient(x, mask):
        def loss(params):
            held = {**variables(name), "params": params}
            (y, carry), _ = raw(ALL[name], True)(held, x, mask)
            return sum(jnp.sum(jnp.sin(leaf)).real for leaf in jax.tree.leaves((y, carry)))

        return jax.grad(loss)(variables(name)["params"])

    noise = jnp.where(spread(MASK_BT, x), x, jnp.inf)
    close(gradient(noise, MASK_BT), gradient(x, MASK_BT))


@pytest.mark.parametrize("name", ["lstm", "lru", "bigru sum", slow("convlstm"), slow("bilstm")])
def test_gradients_are_those_of_clips_cut_to_their_lengths(name):
    """A mask that the scan ignores would not be seen by clips that are all padded alike."""
    x, held = features(name), variables(name)

    @jit
    def gradient(x, mask):
        def loss(params):
            (y, carry), _ = raw(ALL[name])({**held, "params": params}, x, mask)
            return sum(jnp.sum(jnp.sin(leaf)).real for leaf in jax.tree.leaves((y, carry)))

        return jax.grad(loss)(held["params"])

    cut = [gradient(x[b : b + 1, :n], None) for b, n in enumerate(LENGTHS.tolist())]
    close(gradient(x, MASK_BT), jax.tree.map(lambda *each: sum(each), *cut), atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "bigru sum", "mean", "none", *PARALLEL])
def test_a_mask_of_ones_is_no_mask(name):
    x = features(name)
    close(apply(name, x, jnp.ones((B, T), bool)), apply(name, x))


# --- directions


def flip_valid(x, lengths):
    """The valid frames of each clip in reverse order, the padding where it was."""
    return np.stack(
        [np.concatenate([one[:n][::-1], one[n:]]) for one, n in zip(np.asarray(x), lengths)]  # noqa: B905
    )


@pytest.mark.parametrize("cell", [cells.LSTM(U), cells.GRU(U), *LINEAR], ids=str)
def test_reversed_input_and_reversed_direction_agree(cell):
    x = features("")
    forward, backward = scanners.Direction(cell), scanners.Direction(cell, reverse=True)
    held = variables("direction", forward)
    y, carry = forward.apply(held, flip_valid(x, LENGTHS), MASK_BT)
    y_back, carry_back = backward.apply(held, x, MASK_BT)
    close(flip_valid(y, LENGTHS), y_back)
    close(carry, carry_back)
    assert np.abs(np.asarray(y) - np.asarray(y_back)).max() > 1e-2  # the order does matter


def test_final_states_stand_on_the_last_valid_frame():
    name = "bigru sum"
    shown, carry = apply(name, features(name), MASK_BT)
    plain = Recurrent(cells.GRU(U), bidirectional="sum")
    (usual, _), _ = program(plain)(variables(name), features(name), MASK_BT)
    ((forward, backward),) = carry
    for b, n in enumerate(LENGTHS):
        close(shown[b, n - 1], forward[b] + backward[b])
        close(shown[b, : n - 1], usual[b, : n - 1])


# --- carry


@pytest.mark.parametrize(
    ("name", "window"), [(name, window) for name in ONE_WAY for window in (1, 3)] + [("lstm", 4)]
)
def test_chained_through_the_carry_equals_one_pass(name, window):
    x = features(name)
    whole, end = apply(name, x, MASK_BT)
    carry = jax.tree.map(jnp.zeros_like, end)
    parts = []
    for start in range(0, T, window):
        cut = slice(start, start + window)
        part, carry = apply(name, x[:, cut], MASK_BT[:, cut], carry)
        parts.append(part)
    close(jnp.concatenate(parts, 1), whole)
    close(carry, end)


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_both_directions_refuse_a_carry_by_name(name):
    x = features(name)
    _, carry = apply(name, x)
    assert not ALL[name].streams
    with pytest.raises(UserError, match=r"scanner.bidirectional (concat|sum): .* no carry"):
        apply(name, x, None, carry)


@pytest.mark.parametrize("name", ["gru", "tcn", "transformer", slow("lstm"), slow("convlstm")])
def test_a_window_edge_stops_the_gradient_and_changes_nothing_within(name):
    x, half = features(name), T // 2

    def second(x_first, x_second, held, stop):
        _, carry = raw(ALL[name])(held, x_first)[0]
        carry = lax.stop_gradient(carry) if stop else carry
        (y, _), _ = raw(ALL[name])(held, x_second, None, carry)
        return jnp.sum(jnp.sin(y))

    gradient = jit(jax.grad(second, argnums=(0, 1, 2)), static_argnums=3)
    held = variables(name)
    across, within, of_weights = gradient(x[:, :half], x[:, half:], held, True)
    assert not np.any(across)
    open_across, open_within, open_weights = gradient(x[:, :half], x[:, half:], held, False)
    assert np.all(np.any(np.asarray(open_across).reshape(B, half, -1), -1))
    close(within, open_within)

    # The window alone, with that carry as a number.
    _, carry = apply(name, x[:, :half])
    alone = jit(jax.grad(lambda held: _second_alone(name, held, x[:, half:], carry)))(held)
    close(of_weights, alone)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), of_weights, open_weights)
    assert max(jax.tree.leaves(moved)) > 1e-3


def _second_alone(name, held, x, carry):
    (y, _), _ = raw(ALL[name])(held, x, None, carry)
    return jnp.sum(jnp.sin(y))


@pytest.mark.parametrize("name", WHOLE)
def test_what_sees_frames_after_refuses_a_carry(name):
    x = features(name)
    y, carry = apply(name, x)
    assert (ALL[name].streams, carry) == (False, ())
    with pytest.raises(UserError, match=r"scanner.causal False: .* no carry"):
        apply(name, x, None, ())
    later = x.at[:, -1].add(1.0)
    moved = np.abs(np.asarray(apply(name, later)[0] - y)).max((0, 2))
    assert moved[-2] > 1e-3  # what comes after reaches back


@pytest.mark.parametrize("name", ONE_WAY)
def test_what_comes_after_reaches_no_earlier_frame(name):
    x = features(name)
    later = x.at[:, 3:].add(1.0)
    close(apply(name, later)[0][:, :3], apply(name, x)[0][:, :3])


def test_a_carry_that_does_not_fit_is_refused():
    x = features("lstm")
    _, carry = apply("lstm", x)
    with pytest.raises(UserError, match="tuple of 2, one entry a layer"):
        apply("lstm", x, None, carry[:1])
    with pytest.raises(UserError, match=r"carry: expected .*\(3, 3\).* got .*\(2, 3\)"):
        apply("lstm", x, None, jax.tree.map(lambda leaf: leaf[:2], carry))
    for name in ("attention", "tcn", "transformer"):
        _, carry = apply(name, x)
        with pytest.raises(UserError, match=r"carry: expected .* got "):
            apply(name, x, None, jax.tree.map(lambda leaf: leaf[:2], carry))
    with pytest.raises(UserError, match=r"carry: expected a tuple of 4, two entries a block"):
        apply("tcn", x, None, apply("tcn", x)[1][1:])


@every
def test_a_batch_equals_its_clips_alone(name):
    x = features(name)
    y, carry = apply(name, x, MASK_BT)
    for b in (0, 1):
        alone, carry_alone = apply(name, x[b : b + 1], MASK_BT[b : b + 1])
        close(alone[0], y[b])
        close(carry_alone, jax.tree.map(lambda leaf: leaf[b : b + 1], carry))  # noqa: B023


# --- batch norm


def test_batch_norm_counts_valid_frames_only():
    x = features("") * 3 + 1
    norm = norm_dropout.BatchNorm()
    held = variables("norm", _WithMask(norm))
    y, changed = norm.apply(held, x, MASK_BT, True, mutable=["batch_stats"])
    flat = np.asarray(x)[np.asarray(MASK_BT)]
    scale, shift = np.asarray(held["params"]["scale"]), np.asarray(held["params"]["bias"])
    truth = (np.asarray(x) - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) * scale + shift
    close(y, truth, 1e-5)
    before = jax.tree.map(np.asarray, held["batch_stats"])
    after = changed["batch_stats"]
    close(after["mean"], 0.9 * before["mean"] + 0.1 * flat.mean(0))
    close(after["var"], 0.9 * before["var"] + 0.1 * flat.var(0))
    at_test = norm.apply(held, x, MASK_BT, False)
    close(
        at_test,
        (np.asarray(x) - before["mean"]) / np.sqrt(before["var"] + 1e-5) * scale + shift,
        1e-5,
    )


class _WithMask:
    """Gives `variables` a module that takes features alone."""

    def __init__(self, norm):
        self.norm = norm

    def init(self, key, x):
        return self.norm.init(key, x, None, True)


def test_batch_norm_of_nothing_valid_changes_nothing():
    x, norm = features(""), norm_dropout.BatchNorm()
    held = variables("norm", _WithMask(norm))
    y, changed = norm.apply(held, x, jnp.zeros((B, T), bool), True, mutable=["batch_stats"])
    assert np.isfinite(y).all()
    close(changed["batch_stats"], held["batch_stats"])


def test_batch_norm_over_devices_is_that_of_the_whole_batch():
    """Ragged: one device's clips have few valid frames, another's none at all."""
    x = features("lstm", batch=6)
    mask = lengths_to_mask(jnp.array([6, 5, 1, 1, 0, 0]), T)
    over = Recurrent(cells.LSTM(U), layers=2, batch_norm=True, axis_name="batch")
    held = variables("lstm")
    (whole, _), stats = program(ALL["lstm"], True)(held, x, mask)

    def one(x, mask):
        return over.apply(held, x, mask, train=True, mutable=["batch_stats"])

    split = lambda leaf: leaf.reshape(3, 2, *leaf.shape[1:])  # noqa: E731
    (parts, _), stats_parts = jax.pmap(one, axis_name="batch")(split(x), split(mask))
    close(parts.reshape(whole.shape), whole, 1e-5)
    close(jax.tree.map(lambda leaf: leaf[2], stats_parts), stats, 1e-5)


# --- dropout


def test_dropout_drops_its_share_and_keeps_the_mean():
    x = jnp.ones((4, 500, 5))
    keys = jax.random.split(jax.random.key(0), 4)
    y = jit(norm_dropout.drop)(x, jnp.float32(0.3), keys)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    assert abs(float((y == 0).mean()) - 0.3) < 0.02
    close(norm_dropout.drop(x, 0.0, keys), x)
    gradient = jax.grad(lambda x: norm_dropout.drop(x, jnp.float32(1), keys).sum())(x)
    assert not gradient.any()


def test_dropout_belongs_to_the_clip_the_layer_and_the_key():
    name, x = "gru", features("gru")
    keys = jax.random.split(jax.random.key(1), B)
    y, _, _ = apply(name, x, train=True, dropout=0.5, keys_B=keys)
    turned, _, _ = apply(name, x[::-1], train=True, dropout=0.5, keys_B=keys[::-1])
    close(turned[::-1], y)
    other, _, _ = apply(name, x, train=True, dropout=0.5, keys_B=keys[::-1])
    assert not np.allclose(other, y)
    ones = jnp.ones((B, T, U))
    first, second = (
        _Stage(index).apply({}, ones, keys) for index in ("after_layer_0", "after_layer_1")
    )
    assert not np.array_equal(first, second)


class _Stage(scanners.nn.Module):
    index: str

    @scanners.nn.compact
    def __call__(self, x, keys_B):
        options = CallOptions(train=True, keys_B=keys_B)
        return norm_dropout.NormDropout(dropout=0.5, name=self.index)(x, None, options)


def test_dropout_acts_in_training_only_and_needs_keys():
    dropping = Recurrent(cells.GRU(U), dropout=0.5)
    held, x = variables("gru"), features("gru")
    (plain, _), _ = program(dropping)(held, x)
    close(plain, apply("gru", x)[0])
    keys = jax.random.split(jax.random.key(1), B)
    (dropped, _), _ = program(dropping, True)(held, x, keys_B=keys)
    assert 0.2 < float((dropped == 0).mean()) < 0.8
    # A rate that is given stands above the module's own.
    (kept, _), _ = program(dropping, True)(held, x, keys_B=keys, dropout=0.0)
    close(kept, plain)
    with pytest.raises(UserError, match="keys_B: dropout in training needs"):
        program(dropping, True)(held, x)


# --- clipped derivatives


def clipped_by_hand(weights, x_TD, bound):
    """Gradients of the summed outputs of one clip: back in time step by step, clipping by hand."""
    cell, recurrent = cells.LSTM(U), weights["recurrent_kernel"]
    z_TG = cell.project(weights, x_TD[None])[0]
    carry, pulls = cell.initialize_carry((1,), jnp.float32), []

    def gates(carry, product, z):
        return cell.step(weights, carry, z, cells.StepOps(lambda h: product, lambda z: z))

    for t in range(len(x_TD)):
        held = carry
        carry, pull = jax.vjp(gates, held, held.h @ recurrent, z_TG[None, t])
        pulls.append((held, pull))
    kernel, bias = jnp.zeros_like(recurrent), jnp.zeros(4 * U)
    back = jax.tree.map(jnp.zeros_like, carry)
    for held, pull in reversed(pulls):
        back = back._replace(h=back.h + 1)
        back, _, dz = pull(back)
        dz = jnp.clip(dz, -bound, bound)
        back = back._replace(h=back.h + dz @ recurrent.T)
        kernel, bias = kernel + held.h.T @ dz, bias + dz[0]
    return kernel, bias


def test_derivatives_are_clipped_at_the_pre_activations():
    scanner = Recurrent(cells.LSTM(U))
    held, x = variables("one lstm", scanner), features("lstm", batch=1)

    @jit
    def gradient(bound):
        def total(params):
            y, _ = scanner.apply({"params": params}, x, grad_clip=bound)
            return y.sum()

        return jax.value_and_grad(total)(held["params"])

    free, grads = gradient(None)
    for bound in (0.05, 0.5):
        same, clipped = gradient(bound)
        assert same == free
        ours = clipped["layer_0_forward"]
        kernel, bias = clipped_by_hand(held["params"]["layer_0_forward"], x[0], bound)
        close(ours["recurrent_kernel"], kernel)
        close(ours["bias"], bias)
    assert float(jnp.abs(bias - grads["layer_0_forward"]["bias"]).max()) < 1  # 0.5 clips little
    close(gradient(0.0)[1], grads)  # 0: off
    many = jax.vmap(lambda bound: gradient(bound)[1])(jnp.array([0.0, 0.05]))
    close(jax.tree.map(lambda leaf: leaf[0], many), grads)
    close(jax.tree.map(lambda leaf: leaf[1], many), gradient(0.05)[1])


@pytest.mark.parametrize(
    "name", [name for name in set(ONE_WAY) - set(GATED) if hasattr(ONE_WAY[name], "cell")]
)
def test_what_is_said_not_to_clip_does_not(name):
    """A cell in GATELESS by mistake could not be trained with clipping."""
    scanner, x = Recurrent(ALL[name].cell), features(name)
    held = variables("one " + name, scanner)

    @jit
    def gradient(bound):
        def total(params):
            return jnp.sum(scanner.apply({"params": params}, x, grad_clip=bound)[0] * 100)

        return jax.grad(total)(held["params"])

    close(gradient(1e-3), gradient(None))


@pytest.mark.parametrize("name", GATED)
def test_every_cell_clips(name):
    """One frame: a bias' gradient is the clipped derivative itself, clip by clip."""
    scanner = Recurrent(ALL[name].cell)
    held, x = variables("one " + name, scanner), features(name, batch=1, frames=1)

    @jit
    def gradient(bound):
        def total(params):
            return jnp.sum(scanner.apply({"params": params}, x, grad_clip=bound)[0] * 100)

        return jax.grad(total)(held["params"])["layer_0_forward"]["bias"]

    places = 6 if "conv" in name else 1
    assert float(jnp.abs(gradient(None)).max()) > 0.01 * places
    assert float(jnp.abs(gradient(0.01)).max()) <= 0.01 * places * (1 + 1e-6)


# --- precision, building, documentation


@pytest.mark.parametrize("name", [name for name in (*ONE_WAY, *WHOLE) if name not in EXACT])
def test_bfloat16_computes_low_and_keeps_high(name):
    if hasattr(ALL[name], "cell"):
        cell = dataclasses.replace(ALL[name].cell, dtype="bfloat16")
        low = Recurrent(cell, ALL[name].layers, batch_norm=ALL[name].batch_norm)
    else:
        low = dataclasses.replace(ALL[name], dtype="bfloat16", parent=None)
    x = features(name)
    initial = jax.eval_shape(low.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
    (y, carry), _ = program(low)(variables(name), x.astype(jnp.bfloat16), MASK_BT)
    exact, exact_carry = apply(name, x, MASK_BT)
    high = {jnp.dtype("complex64" if "lru" in name else "float32"), jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves((y, carry))} == high
    assert [leaf.dtype for leaf in jax.tree.leaves(carry)] == [
        leaf.dtype for leaf in jax.tree.leaves(exact_carry)
    ]
    gap = float(jnp.abs(y - exact).max())
    assert 1e-5 < gap < 0.02 * float(jnp.abs(exact).max())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", LINEAR, ids=str)
def test_a_linear_cell_may_take_all_frames_at_once(cell, reverse, monkeypatch):
    """As accelerators do, with gaps, from a carry; gradients too."""
    direction, x = scanners.Direction(cell, reverse), features("")
    held = variables(f"linear {cell}", direction)
    mask_BT = MASK_BT.at[0, 2].set(False)
    kind = jnp.complex64 if isinstance(cell, LRU) else jnp.float32
    carry = jax.random.normal(jax.random.key(1), (B, U), kind)

    def run(held, x, carry):
        y, after = direction.apply(held, x, mask_BT, carry)
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.sin(after)).real, (y, after)

    def both():
        return jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True)(held, x, carry)

    one_by_one = both()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    close(both(), one_by_one)


def test_settings_name_the_scanner():
    built = scanners.build(Settings(kind="gru", units=7, layers=2, reset_after=False), "batch")
    assert built.cell == cells.GRU(7, reset_after=False)
    assert (built.layers, built.axis_name) == (2, "batch")
    assert scanners.build(Settings(kind="convlstm", kernel=5)).cell.kernel == 5
    assert isinstance(scanners.build(Settings(kind="none")), Identity)
    mean = scanners.build(Settings(kind="mean", batch_norm=True))
    assert isinstance(mean, MeanPool)
    assert mean.batch_norm
    with pytest.raises(UserError, match=r"scanner.bidirectional: 'both' is not one of no, concat"):
        Recurrent(cells.LSTM(2), bidirectional="both")


MINE = """
from dataclasses import dataclass
import flax.linen as nn
import jax, jax.numpy as jnp
from vidrec.models.cells import Cell

@dataclass(frozen=True)
class MinGRU(Cell):
    gates = 2
    def weights(self, features):
        named = super().weights(features)
        return {name: named[name] for name in ("input_kernel", "bias")}
    def step(self, weights, carry, inputs_BG, ops):
        z, n = jnp.split(ops.clip_gradient(inputs_BG), 2, -1)
        z = jax.nn.sigmoid(z)
        return (1 - z) * carry + z * n

class Last(nn.Module):
    units: int = 1
    def __call__(self, x_BTD, mask_BT=None, **more):
        return x_BTD[..., : self.units], ()

number = 3
"""


@dataclasses.dataclass(frozen=True)
class Off(cells.GRU):
    """A cell whose step goes wrong as `how` says."""

    how: str = ""

    def step(self, weights, carry, inputs, ops):
        h = super().step(weights, carry, inputs, ops)
        return {
            "": h,
            "narrow": h[:, 1:],
            "one clip": h[0],
            "rounded": h.astype(jnp.bfloat16),
            "a pair": (h, h),
        }[self.how]


@pytest.mark.parametrize("how", ["narrow", "one clip", "rounded", "a pair"])
def test_a_step_that_returns_no_carry_is_one_line(how):
    x = jnp.ones((2, 5, 3))
    Recurrent(Off(U)).init(jax.random.key(0), x)
    with pytest.raises(UserError, match=r"Off\.step returned .*; a step should return a carry"):
        Recurrent(Off(U, how=how)).init(jax.random.key(0), x)


def test_a_user_brings_a_cell_or_a_scanner(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    settings = Settings(kind=f"{path}:MinGRU", units=U, layers=2, bidirectional="concat")
    scanner, x = scanners.build(settings), features("")
    held = variables("own cell", scanner)
    (y, _), _ = program(scanner)(held, x, MASK_BT)
    padded = jnp.concatenate([x, x], 1)
    mask = jnp.concatenate([MASK_BT, jnp.zeros_like(MASK_BT)], 1)
    close(program(scanner)(held, padded, mask)[0][0][:, :T], y)
    own = scanners.build(Settings(kind=f"{path}:Last", units=2))
    assert own.apply({}, x)[0].shape == (B, T, 2)
    with pytest.raises(UserError, match=r"neither a .*Cell nor a Flax module"):
        scanners.build(Settings(kind=f"{path}:number"))


def test_docstrings_show_a_use_that_runs():
    for module in (scanners, attention, tcn, transformer):
        names = {"jax": jax, "jnp": jnp, "lengths_to_mask": lengths_to_mask}
        assert doctest.testmod(module, extraglobs=names).failed == 0
    finder = doctest.DocTestFinder(recurse=False)
    for shown in (Recurrent, MeanPool, Identity, Attention, TCN, Transformer):
        module = sys.modules[shown.__module__]
        (found,) = finder.find(shown, shown.__name__, module=module)
        assert len(found.examples) == 5


def test_the_unit_of_a_clip_at_the_pre_activation_is_the_loss_of_one_clip():
    """A batch of n equal clips is held by the same bound as one: nothing is divided before it."""
    rng = np.random.default_rng(8)
    x_BTD, weights = rng.normal(size=(1, 5, 3)), rng.normal(size=4)
    model = scanners.build(Settings(kind="gru", units=4))
    variables = model.init(jax.random.key(0), jnp.asarray(x_BTD, jnp.float32))

    def gradient(count, bound):
        inputs = jnp.asarray(np.repeat(x_BTD, count, 0), jnp.float32)

        def loss(variables):  # summed over clips, as training does before it divides
            return 50 * (model.apply(variables, inputs, grad_clip=bound)[0] @ weights).sum()

        slope = jax.grad(loss)(variables)
        return jax.tree.map(lambda leaf: leaf / count, slope)

    one, many, free = gradient(1, 0.5), gradient(6, 0.5), gradient(6, 0.0)
    for a, b in zip(*map(jax.tree.leaves, (one, many)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    far = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (many, free)), strict=True)]
    assert max(far) > 0.1
