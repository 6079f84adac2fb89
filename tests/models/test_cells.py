"""Conventions of the cells: weights, initialisers, biases, and both forms of a convolution."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidrec.config import Scanner as Settings
from vidrec.errors import UserError
from vidrec.models import cells
from vidrec.models.lru import LRU

D, U = 40, 30


def weights_of(cell, features=D):
    keys = iter(jax.random.split(jax.random.key(0), 9))
    named = cell.weights(features)
    return {name: np.asarray(begin(next(keys), shape)) for name, (begin, shape) in named.items()}


@pytest.mark.parametrize(
    ("cell", "count"),
    [
        (cells.LSTM(U), 4 * (U * (D + U) + U)),
        (cells.LSTM(U, bias="double"), 4 * (U * (D + U) + 2 * U)),
        (cells.GRU(U), 3 * (U * (D + U) + 2 * U)),
        (cells.GRU(U, bias="double"), 3 * (U * (D + U) + 2 * U)),
        (cells.GRU(U, reset_after=False), 3 * (U * (D + U) + U)),
        (cells.MinGRU(U, bias="double"), 2 * (U * D + U)),  # nothing recurrent, so one bias
        (cells.MinLSTM(U, bias="double"), 3 * (U * D + U)),
        # keep, both parts of B and C, the gate with its bias, and the way past
        (LRU(U, states=20), 2 * 20 + 2 * 20 * (D + U) + U * U + U + D * U),
        (cells.ConvLSTM(U, kernel=5), 4 * (U * 25 * (D + U) + U)),
        (cells.ConvGRU(U, kernel=5), 3 * (U * 25 * (D + U) + 2 * U)),
        (cells.ConvGRU(U, reset_after=False), 3 * (U * 9 * (D + U) + U)),
    ],
    ids=str,
)
def test_weights_count_as_published(cell, count):
    assert sum(w.size for w in weights_of(cell).values()) == count


def test_keras_begins_with_glorot_orthogonal_and_an_open_forget_gate():
    w = weights_of(cells.LSTM(U))
    bound = np.sqrt(6 / (D + 4 * U))
    assert 0.95 * bound < np.abs(w["input_kernel"]).max() <= bound
    product = w["recurrent_kernel"] @ w["recurrent_kernel"].T
    np.testing.assert_allclose(product, np.eye(U), atol=1e-5)
    np.testing.assert_array_equal(w["bias"], np.repeat([0, 1, 0, 0], U))
    assert not weights_of(cells.GRU(U))["bias"].any()


def test_pytorch_begins_uniform_within_the_root_of_its_units():
    w = weights_of(cells.LSTM(U, init="torch", bias="double"))
    for name in ("input_kernel", "recurrent_kernel", "bias", "recurrent_bias"):
        assert 0.9 / np.sqrt(U) < np.abs(w[name]).max() <= 1 / np.sqrt(U)
    np.testing.assert_allclose(w["input_kernel"].std(), 1 / np.sqrt(3 * U), rtol=0.05)


def test_normal_begins_with_a_tenth_and_zero_biases():
    w = weights_of(cells.LSTM(U, init="normal"))
    for name in ("input_kernel", "recurrent_kernel"):
        np.testing.assert_allclose(w[name].std(), 0.1, rtol=0.05)
        assert np.abs(w[name]).max() > 0.3  # not cut off
    assert not w["bias"].any()


@pytest.mark.parametrize("init", ["keras", "torch", "normal"])
def test_a_forget_bias_is_added_to_its_gate_alone(init):
    without = weights_of(cells.LSTM(U, init=init, forget_bias=0.0))["bias"]
    with_it = weights_of(cells.LSTM(U, init=init, forget_bias=2.5))["bias"]
    np.testing.assert_allclose(with_it - without, np.repeat([0, 2.5, 0, 0], U), atol=1e-6)


def test_unknown_initialisers_and_even_kernels_are_refused():
    with pytest.raises(UserError, match=r"scanner.init: 'he' is not one of keras, torch, normal"):
        cells.LSTM(U, init="he").weights(D)
    with pytest.raises(UserError, match=r"scanner.kernel: 4 is even"):
        cells.ConvLSTM(U, kernel=4)
    with pytest.raises(UserError, match=r"scanner.kernel: 2 is even"):
        cells.ConvGRU(U, kernel=2)


def test_a_linear_recurrent_unit_begins_on_its_ring():
    w = weights_of(LRU(400, r_min=0.6, r_max=0.9, max_phase=0.3))
    radius, phase = np.exp(-np.exp(w["log_decay"])), np.exp(w["log_phase"])
    assert 0.6 < radius.min() < 0.62 < 0.88 < radius.max() < 0.9
    np.testing.assert_allclose((radius**2).mean(), (0.36 + 0.81) / 2, rtol=0.05)  # even by area
    assert 0 < phase.min() < 0.01 < 0.29 < phase.max() <= 0.3
    assert all(np.isfinite(leaf).all() for leaf in weights_of(LRU(4000)).values())
    for args, words in (
        ({"r_min": 0.9, "r_max": 0.5}, "r_max the larger"),
        ({"max_phase": 7.0}, "max_phase = 7 should be"),
        ({"states": -1}, "states = -1 should be at least 0"),
    ):
        with pytest.raises(UserError, match=words):
            LRU(3, **args)


def test_shut_gates_of_a_minimal_lstm_divide_by_no_zero():
    """Both gates at sigmoid(-200), 0 in float32: their shares follow the difference."""
    ops = cells.StepOps(lambda h, gates=None: h, lambda z: z)

    def factors(f, i):
        return cells.MinLSTM(1).factors({}, jnp.array([[f, i, 2.0]]), ops)

    keep, add = factors(-200.0, -201.0)
    np.testing.assert_allclose(keep[0, 0], 1 / (1 + np.exp(-1)), rtol=1e-5)
    np.testing.assert_allclose(add[0, 0], 2 / (1 + np.exp(1)), rtol=1e-5)
    slopes = jax.grad(lambda f, i: factors(f, i).keep.sum(), argnums=(0, 1))(-200.0, -200.0)
    np.testing.assert_allclose(slopes, (0.25, -0.25), rtol=1e-5)


def test_settings_fill_the_fields_of_the_same_names():
    settings = Settings(units=7, bias="double", init="torch", forget_bias=0.5, dtype="bfloat16")
    assert cells.fill(cells.LSTM, settings) == cells.LSTM(7, "double", "torch", "bfloat16", 0.5)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_both_forms_of_a_convolution_agree(size):
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 3, 6))

    @partial(jax.jit, static_argnums=2)
    def run(x, kernel, form):
        def total(x, kernel):
            y = cells.convolve(x, kernel, "float32", form)
            return jnp.sum(jnp.sin(y)), y

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(x, kernel)

    patches, lax = run(x, kernel, "patches"), run(x, kernel, "lax")
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), patches, lax)
    assert patches[0][1].shape == (2, 5, 4, 6)


def test_the_form_is_chosen_by_platform(monkeypatch):
    x, kernel = jnp.ones((1, 3, 3, 2)), jnp.ones((3, 3, 2, 2))

    def traced():
        # A new function each time: a known one's trace would be remembered.
        return str(jax.make_jaxpr(lambda *held: cells.convolve(*held))(x, kernel))

    assert "conv_general_dilated" not in traced()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "conv_general_dilated" in traced()


def test_bfloat16_products_are_summed_in_float32():
    x, kernel = jnp.ones((1, 4096)), jnp.ones((4096, 1))
    low = cells.matmul(x + 2**-12, kernel, "bfloat16")
    assert low.dtype == jnp.float32
    assert low[0, 0] == 4096  # operands rounded; a bfloat16 sum could not tell 4096 from 4100
    half = cells.matmul(jnp.ones((1, 4100)), jnp.ones((4100, 1)), "bfloat16")
    assert half[0, 0] == 4100
