"""Forward and gradients equal PyTorch's and Keras', with weights carried over, both ways round."""

import os
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrec.errors import UserError
from vidrec.models import cells, interop
from vidrec.models.scanners import Recurrent, lengths_to_mask

os.environ["KERAS_BACKEND"] = "jax"

FORWARD, GRADIENT = 1e-5, 1e-4
# Small programs that run a few times each: nearly all their time would go into optimising them.
jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
# B, T, D, U: one a case, so that one compiled program serves all its examples.
SHAPES = ((3, 6, 4, 5), (2, 9, 7, 3))
quick = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 2**31)


def slow(values):
    """Parameters that the quick set leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def _highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


def theirs_may_promote():
    """Keras relies on rank promotion, which our own code never does."""
    return jax.numpy_rank_promotion("allow")


def error(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))


def clips(shape, seed):
    """Random unequal features, lengths (one full, one short) and weights of a loss."""
    B, T, D, _ = shape
    rng = np.random.default_rng(seed)
    x_BTD = rng.normal(size=(B, T, D)).astype(np.float32)
    lengths_B = rng.integers(1, T + 1, B)
    lengths_B[0], lengths_B[-1] = T, rng.integers(1, T)
    return rng, x_BTD, lengths_B


def random_params(scanner, D, rng):
    shapes = jax.eval_shape(scanner.init, jax.random.key(0), jnp.zeros((1, 2, D)))["params"]
    return jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), shapes)


@cache
def ours(scanner):
    """Jitted: outputs, carry, and gradients (parameters, features) of a weighted sum of both."""

    def total(params, x_BTD, mask_BT, weight_BTU):
        y_BTU, carry = scanner.apply({"params": params}, x_BTD, mask_BT)
        states = sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(carry))
        return jnp.sum(y_BTU * weight_BTU) + states, (y_BTU, carry)

    return jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))


def run_ours(scanner, params, x_BTD, lengths_B, weight_BTU):
    mask_BT = lengths_to_mask(jnp.asarray(lengths_B), x_BTD.shape[1])
    (_, (y_BTU, carry)), (grads, grad_x) = ours(scanner)(params, x_BTD, mask_BT, weight_BTU)
    return y_BTU, carry, grads, grad_x


def output_weights(rng, scanner, x_BTD, lengths_B):
    """Random, 0 on padding."""
    width = scanner.cell.units * (2 if scanner.bidirectional == "concat" else 1)
    weight = rng.normal(size=(*x_BTD.shape[:2], *x_BTD.shape[2:-1], width)).astype(np.float32)
    return weight * lengths_mask(lengths_B, weight)


def lengths_mask(lengths_B, like):
    mask = np.arange(like.shape[1])[None] < np.asarray(lengths_B)[:, None]
    return mask.reshape(mask.shape + (1,) * (like.ndim - 2))


# --- PyTorch


def torch_layer(scanner, D):
    torch = pytest.importorskip("torch")
    kind = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}[type(scanner.cell).__name__]
    return kind(
        D, scanner.cell.units, scanner.layers, batch_first=True,
        bidirectional=scanner.bidirectional == "concat",
    )  # fmt: skip


def run_torch(layer, x_BTD, lengths_B, weight_BTU):
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    x = torch.tensor(x_BTD, requires_grad=True)
    packed = pack_padded_sequence(x, torch.tensor(lengths_B), True, enforce_sorted=False)
    y, states = layer(packed)
    y, _ = pad_packed_sequence(y, batch_first=True, total_length=x_BTD.shape[1])
    states = states if isinstance(states, tuple) else (states,)
    ((y * torch.tensor(weight_BTU)).sum() + sum(s.sin().sum() for s in states)).backward()
    grads = {name: p.grad.numpy() for name, p in layer.named_parameters()}
    return y.detach().numpy(), [s.detach().numpy() for s in states], grads, x.grad.numpy()


def torch_states(scanner, carry):
    """Our carry in PyTorch's order: (layers · directions, B, U) for h, and for c of an LSTM."""
    flat = [
        one for layer in carry for one in (layer if scanner.bidirectional != "no" else (layer,))
    ]
    if isinstance(scanner.cell, cells.LSTM):
        return [np.stack([one.h for one in flat]), np.stack([one.c for one in flat])]
    return [np.stack(flat)]


def check_torch(scanner, case):
    torch = pytest.importorskip("torch")
    shape, seed, ours_first = case
    rng, x_BTD, lengths_B = clips(shape, seed)
    layer = torch_layer(scanner, shape[2])
    params = random_params(scanner, shape[2], rng)
    if ours_first:
        state = interop.to_torch(scanner, params)
        layer.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    else:
        for tensor in layer.parameters():
            tensor.data = torch.tensor(rng.normal(0, 0.5, tensor.shape).astype(np.float32))
        params = interop.from_torch(scanner, layer.state_dict())
    weight_BTU = output_weights(rng, scanner, x_BTD, lengths_B)
    y, carry, grads, grad_x = run_ours(scanner, params, x_BTD, lengths_B, weight_BTU)
    y_t, states_t, grads_t, grad_x_t = run_torch(layer, x_BTD, lengths_B, weight_BTU)
    assert error(y, y_t) < FORWARD  # PyTorch's padding is 0, like ours
    for one, other in zip(torch_states(scanner, carry), states_t, strict=True):
        assert error(one, other) < FORWARD
    assert error(grad_x, grad_x_t) < GRADIENT
    named = interop.to_torch(scanner, grads)
    assert named.keys() == grads_t.keys()
    for name in grads_t:
        if scanner.cell.has_recurrent_bias() or not name.startswith("bias_hh"):
            assert error(named[name], grads_t[name]) < GRADIENT, name


TORCH = [
    (SHAPES[0], "lstm", 1, "no", "double"),
    slow((SHAPES[1], "lstm", 3, "concat", "single")),
    slow((SHAPES[1], "gru", 2, "no", "double")),
    (SHAPES[0], "gru", 2, "concat", "double"),
]


@pytest.mark.parametrize(("shape", "kind", "layers", "bidirectional", "bias"), TORCH)
@quick
@given(seed=seeds, ours_first=st.booleans())
def test_equals_pytorch(shape, kind, layers, bidirectional, bias, seed, ours_first):
    cell = cells.CELLS[kind](shape[-1], bias=bias)
    check_torch(Recurrent(cell, layers, bidirectional), (shape, seed, ours_first))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "gru"])
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 9)] * 4),
    seed=seeds,
    layers=st.integers(1, 3),
    bidirectional=st.sampled_from(["no", "concat"]),
    bias=st.sampled_from(["single", "double"]),
    ours_first=st.booleans(),
)
def test_equals_pytorch_everywhere(kind, shape, seed, layers, bidirectional, bias, ours_first):
    scanner = Recurrent(cells.CELLS[kind](shape[-1], bias=bias), layers, bidirectional)
    check_torch(scanner, (shape, seed, ours_first))


# --- Keras


def keras_layers(scanner, D):
    keras = pytest.importorskip("keras")
    cell, common = scanner.cell, {"return_sequences": True, "return_state": True}
    layers, width = [], D
    for _ in range(scanner.layers):
        if isinstance(cell, cells.ConvLSTM):
            layer = keras.layers.ConvLSTM2D(cell.units, cell.kernel, padding="same", **common)
        elif isinstance(cell, cells.LSTM):
            layer = keras.layers.LSTM(cell.units, **common)
        else:
            layer = keras.layers.GRU(cell.units, reset_after=cell.reset_after, **common)
        if scanner.bidirectional != "no":
            layer = keras.layers.Bidirectional(layer, merge_mode=scanner.bidirectional)
        maps = (4, 3) if cell.maps else ()
        layer.build((None, None, *maps, width))
        width = cell.units * (2 if scanner.bidirectional == "concat" else 1)
        layers.append(layer)
    return layers


@cache
def keras_program(scanner, D):
    """Freshly built layers, and their jitted outputs, states and gradients."""
    with theirs_may_promote():
        layers = keras_layers(scanner, D)

    def total(weights, x, mask_BT, weight_BTU):
        mask, states = (None if scanner.cell.maps else mask_BT), []
        for layer, held in zip(layers, weights, strict=True):
            frozen = [v.value for v in layer.non_trainable_variables]
            (x, *state), _ = layer.stateless_call(held, frozen, x, mask=mask)
            states.append(state)
        sums = sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(states))
        return jnp.sum(x * weight_BTU) + sums, (x, states)

    return layers, jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))


def keras_states(scanner, carry):
    """Our carry in Keras' order: for each layer forward h (, c), then backward."""
    flat = []
    for layer in carry:
        for one in layer if scanner.bidirectional != "no" else (layer,):
            flat += list(one) if isinstance(scanner.cell, cells.LSTM) else [one]
    return flat


def check_keras(scanner, x, lengths_B, rng, ours_first):
    layers, program = keras_program(scanner, x.shape[-1])
    if ours_first:
        params = random_params_like(scanner, x, rng)
        held = interop.to_keras(scanner, params)
    else:
        held = [
            [rng.normal(0, 0.5, w.shape).astype(np.float32) for w in layer.get_weights()]
            for layer in layers
        ]
        params = interop.from_keras(scanner, held)
    weight = output_weights(rng, scanner, x, lengths_B)
    y, carry, grads, grad_x = run_ours(scanner, params, x, lengths_B, weight)
    mask_BT = lengths_to_mask(jnp.asarray(lengths_B), x.shape[1])
    # Keras' own padding needs valid numbers only: the loss weighs padded outputs by 0.
    with theirs_may_promote():
        (_, (y_k, states_k)), (grads_k, grad_x_k) = program(held, x, mask_BT, weight)
    mask = lengths_mask(lengths_B, y)
    assert error(y * mask, y_k * mask) < FORWARD
    for one, other in zip(keras_states(scanner, carry), jax.tree.leaves(states_k), strict=True):
        assert error(one, other) < FORWARD
    assert error(grad_x, grad_x_k) < GRADIENT
    named = jax.tree.leaves(interop.to_keras(scanner, grads))
    for one, other in zip(named, jax.tree.leaves(grads_k), strict=True):
        assert error(one, other) < GRADIENT


def random_params_like(scanner, x, rng):
    shapes = jax.eval_shape(scanner.init, jax.random.key(0), x)["params"]
    return jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), shapes)


KERAS = [
    (cells.LSTM(5), 1, "no"),
    slow((cells.LSTM(5), 2, "concat")),
    slow((cells.GRU(5), 2, "sum")),
    (cells.GRU(5, reset_after=False), 2, "no"),
]


@pytest.mark.parametrize(("cell", "layers", "bidirectional"), KERAS)
@quick
@given(seed=seeds, ours_first=st.booleans())
def test_equals_keras(cell, layers, bidirectional, seed, ours_first):
    rng, x_BTD, lengths_B = clips(SHAPES[0], seed)
    check_keras(Recurrent(cell, layers, bidirectional), x_BTD, lengths_B, rng, ours_first)


@pytest.mark.slow
@pytest.mark.parametrize("bidirectional", ["no", "concat"])
@settings(max_examples=5, deadline=None)
@given(seed=seeds, ours_first=st.booleans())
def test_conv_lstm_equals_keras(bidirectional, seed, ours_first):
    # Keras' masked ConvLSTM2D does not run on this backend: no clip is padded here.
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 3, 4, 3, 2)).astype(np.float32)
    scanner = Recurrent(cells.ConvLSTM(3), bidirectional=bidirectional)
    check_keras(scanner, x, [3, 3], rng, ours_first)


@pytest.mark.slow
def test_masked_conv_lstm_equals_keras_on_each_clip_cut():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 3, 2)).astype(np.float32)
    scanner = Recurrent(cells.ConvLSTM(3))
    params = random_params_like(scanner, x, rng)
    mask_BT = lengths_to_mask(jnp.array([3, 2]), 3)
    y, (carry,) = scanner.apply({"params": params}, x, mask_BT)
    _, program = keras_program(scanner, 2)
    for b, length in enumerate([3, 2]):
        cut = np.concatenate([x[b : b + 1, :length]] * 2)
        held, weight = interop.to_keras(scanner, params), np.zeros((2, length, 4, 3, 3))
        with theirs_may_promote():
            (_, (y_k, states_k)), _ = program(held, cut, mask_BT[:, :length], weight)
        assert error(y[b, :length], y_k[0]) < FORWARD
        assert error(carry.h[b], states_k[0][0][0]) < FORWARD
        assert error(carry.c[b], states_k[0][1][0]) < FORWARD


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 7)] * 4),
    seed=seeds,
    kind=st.sampled_from(["lstm", "gru", "gru_before"]),
    layers=st.integers(1, 3),
    bidirectional=st.sampled_from(["no", "concat", "sum"]),
    ours_first=st.booleans(),
)
def test_equals_keras_everywhere(shape, seed, kind, layers, bidirectional, ours_first):
    made = {"lstm": cells.LSTM, "gru": cells.GRU}.get(kind)
    cell = made(shape[-1]) if made else cells.GRU(shape[-1], reset_after=False)
    rng, x_BTD, lengths_B = clips(shape, seed)
    check_keras(Recurrent(cell, layers, bidirectional), x_BTD, lengths_B, rng, ours_first)


# --- conventions and errors

LSTM2 = Recurrent(cells.LSTM(3), layers=2, bidirectional="concat")


def params_of(scanner, D=4):
    return random_params(scanner, D, np.random.default_rng(1))


@pytest.mark.parametrize(
    "cell",
    [cells.LSTM(3, bias="double"), cells.GRU(3), cells.LSTM(3)],
    ids=["lstm double", "gru", "lstm single"],
)
def test_there_and_back_is_exact(cell):
    scanner = Recurrent(cell, layers=2, bidirectional="concat")
    params = params_of(scanner)
    back = interop.from_torch(scanner, interop.to_torch(scanner, params))
    jax.tree.map(np.testing.assert_array_equal, back, params)
    if cell.bias == "single" or isinstance(cell, cells.GRU):
        back = interop.from_keras(scanner, interop.to_keras(scanner, params))
        jax.tree.map(np.testing.assert_array_equal, back, params)


def test_two_biases_of_pytorch_become_one_of_keras():
    double = Recurrent(cells.LSTM(3, bias="double"))
    state = interop.to_torch(double, params_of(double))
    single = interop.from_torch(Recurrent(cells.LSTM(3)), state)["layer_0_forward"]
    np.testing.assert_array_equal(single["bias"], state["bias_ih_l0"] + state["bias_hh_l0"])
    keras = interop.to_keras(double, params_of(double))[0]
    np.testing.assert_array_equal(keras[2], single["bias"])


def test_a_prefix_picks_one_layer_out_of_a_model():
    scanner = Recurrent(cells.GRU(3))
    params = params_of(scanner)
    state = {f"rnn.{k}": v for k, v in interop.to_torch(scanner, params).items()}
    back = interop.from_torch(scanner, state | {"head.weight": np.zeros(2)}, prefix="rnn.")
    jax.tree.map(np.testing.assert_array_equal, back, params)


def spoilt(state, name, value=None):
    kept = {k: v for k, v in state.items() if k != name}
    return kept if value is None else kept | {name: value}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("weight_hh_l1", np.zeros((12, 4)), r"weight_hh_l1: .* \(12, 3\), found \(12, 4\)"),
        ("weight_ih_l1", np.zeros((12, 3)), r"weight_ih_l1: .* \(12, 6\), found \(12, 3\)"),
        ("weight_ih_l0", np.zeros(12), r"weight_ih_l0: expected shape \(12, any\), found \(12\)"),
        ("bias_hh_l0_reverse", None, r"bias_hh_l0_reverse: missing; expected .* \(12\)"),
        ("weight_ih_l2", np.zeros((12, 6)), r"weight_ih_l2: not part of this scanner"),
    ],
)  # fmt: skip
def test_misfits_of_pytorch_name_the_tensor(name, value, words):
    state = interop.to_torch(LSTM2, params_of(LSTM2))
    with pytest.raises(UserError, match=words):
        interop.from_torch(LSTM2, spoilt(state, name, value))


def test_misfits_of_keras_name_the_array():
    held = interop.to_keras(LSTM2, params_of(LSTM2))
    with pytest.raises(UserError, match="expected 2 layers, got 1"):
        interop.from_keras(LSTM2, held[:1])
    with pytest.raises(UserError, match=r"layer 1: expected 6 arrays \(kernel, .*found 3"):
        interop.from_keras(LSTM2, [held[0], held[1][:3]])
    wrong = [[*held[0][:4], np.zeros((3, 9)), held[0][5]], held[1]]
    words = r"layer 0 backward.recurrent_kernel: expected shape \(3, 12\), found \(3, 9\)"
    with pytest.raises(UserError, match=words):
        interop.from_keras(LSTM2, wrong)
    before = Recurrent(cells.GRU(3, reset_after=False))
    with pytest.raises(UserError, match=r"bias: expected shape \(2, 9\), found \(9\)"):
        interop.from_keras(Recurrent(cells.GRU(3)), interop.to_keras(before, params_of(before)))


def test_misfits_of_our_parameters_name_the_weight():
    params = params_of(LSTM2)
    with pytest.raises(UserError, match="layer_1_backward: missing"):
        interop.to_torch(LSTM2, {k: v for k, v in params.items() if k != "layer_1_backward"})
    held = params["layer_0_forward"] | {"bias": np.zeros(5)}
    with pytest.raises(
        UserError, match=r"layer_0_forward.bias: expected shape \(12\), found \(5\)"
    ):
        interop.to_keras(LSTM2, params | {"layer_0_forward": held})


def test_what_pytorch_cannot_hold_is_refused():
    before = Recurrent(cells.GRU(3, reset_after=False))
    with pytest.raises(UserError, match="reset_after must be True"):
        interop.to_torch(before, params_of(before))
    with pytest.raises(UserError, match="Keras has no MinGRU; exchange LSTM, GRU, ConvLSTM with"):
        interop.from_keras(Recurrent(cells.MinGRU(3)), [])
    with pytest.raises(UserError, match="PyTorch has no ConvLSTM"):
        interop.to_torch(Recurrent(cells.ConvLSTM(3)), {})
    with pytest.raises(UserError, match="concat"):
        interop.to_torch(Recurrent(cells.LSTM(3), bidirectional="sum"), {})
