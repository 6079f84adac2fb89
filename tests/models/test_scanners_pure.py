"""Scanners are pure functions of values, and refuse shapes by the letters that they expect."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from vidrec.errors import UserError
from vidrec.models import cells
from vidrec.models.inputs import ends
from vidrec.models.lru import LRU
from vidrec.models.scanners import Identity, MeanPool, Recurrent, lengths_to_mask

# Small programs that run a few times each: nearly all their time would go into optimising them.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
B, T, D, U = 2, 4, 3, 2
MASK_BT = lengths_to_mask(jnp.array([4, 2]), T)

MADE = {
    "lstm": Recurrent(cells.LSTM(U), batch_norm=True, dropout=0.5),
    "bigru": Recurrent(cells.GRU(U), bidirectional="concat"),
    "convlstm": Recurrent(cells.ConvLSTM(U)),
    "convgru": Recurrent(cells.ConvGRU(U)),
    "mingru": Recurrent(cells.MinGRU(U), dropout=0.5),
    "minlstm": Recurrent(cells.MinLSTM(U), dropout=0.5),
    "lru": Recurrent(LRU(U), dropout=0.5),
    "mean": MeanPool(dropout=0.5),
    "none": Identity(),
}
WIDTH = {"bigru": 2 * U, "mean": D, "none": D}
every = pytest.mark.parametrize("name", MADE)


def inputs(name, seed=0):
    maps = (3, 2) if name.startswith("conv") else ()
    x = jax.random.normal(jax.random.key(seed), (B, T, *maps, D))
    return x, MASK_BT, jax.random.split(jax.random.key(seed + 1), B)


def variables(name):
    shapes = jax.eval_shape(MADE[name].init, jax.random.key(0), inputs(name)[0])
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.1, 0.8, s.shape), s.dtype), shapes)


def train(name):
    """(variables, x, mask, keys) to ((outputs, carry), new statistics)."""

    def run(held, x, mask_BT, keys_B):
        return MADE[name].apply(
            held, x, mask_BT, train=True, keys_B=keys_B, mutable=["batch_stats"]
        )

    return run


class Variants(chex.TestCase):
    """With and without jit: the same shapes, the same numbers."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters("lstm", "bigru", "mean", "none")
    def test_shapes(self, name):
        held, (x, mask, keys) = variables(name), inputs(name)
        (y, carry), _ = self.variant(train(name))(held, x, mask, keys)
        chex.assert_shape(y, (B, T, WIDTH.get(name, U)))
        chex.assert_tree_shape_prefix(carry, (B,))
        chex.assert_tree_all_finite((y, carry))
        expected, _ = jit(train(name))(held, x, mask, keys)
        chex.assert_trees_all_close((y, carry), expected, atol=1e-6)


@every
def test_the_same_values_give_the_same_bits_and_nothing_is_kept(name):
    held, values = variables(name), inputs(name)
    before = jax.tree.map(np.array, held)
    run = jit(train(name))
    first, between, again = run(held, *values), run(held, *inputs(name, 7)), run(held, *values)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    jax.tree.map(np.testing.assert_array_equal, held, before)
    assert not np.array_equal(first[0][0], between[0][0])


@every
def test_shapes_are_known_without_data(name):
    held, (x, mask, keys) = variables(name), inputs(name)
    shapes = jax.eval_shape(train(name), held, jax.ShapeDtypeStruct(x.shape, x.dtype), mask, keys)
    made = jit(train(name))(held, x, mask, keys)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(lambda leaf: leaf.shape, shapes)


SLOW = ("bigru", "convlstm")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in MADE]
)
def test_transformations_compose(name):
    """pmap of vmap of grad of jit equals the plain gradient of each trial."""
    run, (x, mask, keys) = train(name), inputs(name)

    def loss(x, held, mask, keys):
        (y, _), _ = jax.jit(run)(held, x, mask, keys)
        return jnp.sum(jnp.sin(y))

    gradient = jax.grad(loss, argnums=(0, 1))
    factors = jnp.array([[0.5, 0.7], [0.9, 1.0]])
    trials = jax.tree.map(lambda leaf: jnp.multiply.outer(factors, leaf), (x, variables(name)))
    mapped = jax.pmap(jax.vmap(gradient, (0, 0, None, None)), in_axes=(0, 0, None, None))
    together = mapped(*trials, mask, keys)
    alone = jit(gradient)
    for place in np.ndindex(2, 2):
        one_x, held = jax.tree.map(lambda leaf: leaf[place], trials)  # noqa: B023
        ours = jax.tree.map(lambda leaf: leaf[place], together)  # noqa: B023
        chex.assert_trees_all_close(ours, alone(one_x, held, mask, keys), atol=1e-5)


def test_rates_and_bounds_may_differ_between_trials_of_one_program():
    held, (x, mask, keys) = variables("lstm"), inputs("lstm")

    @jit
    @partial(jax.vmap, in_axes=(0, 0))
    def many(rate, bound):
        more = {"train": True, "keys_B": keys, "dropout": rate, "grad_clip": bound}
        return MADE["lstm"].apply(held, x, mask, mutable=["batch_stats"], **more)[0][0]

    y = many(jnp.array([0.0, 0.9]), jnp.array([0.0, 1.0]))
    assert int((y[1] == 0).sum()) > int((y[0] == 0).sum())


# --- wrong shapes


@pytest.mark.parametrize("name", ["lstm", "mean", "none"])
def test_wrong_ranks_say_what_was_expected_and_what_came(name):
    held, (x, mask, keys) = variables(name), inputs(name)
    run = train(name)
    with pytest.raises(UserError, match=r"features_BTD: expected \(B, T, D\) or .* shape \(4, 3\)"):
        run(held, x[0], mask, keys)
    with pytest.raises(UserError, match=r"mask_BT: expected \(B, T\), got shape \(2,\)"):
        run(held, x, mask[:, 0], keys)
    with pytest.raises(UserError, match=r"mask_BT: expected \(B, T\) = \(2, 4\), got \(2, 3\)"):
        run(held, x, mask[:, :3], keys)
    with pytest.raises(UserError, match=r"keys_B: expected \(B\), got shape \(\)"):
        run(held, x, mask, keys[0])


def test_cells_say_which_features_they_take():
    (x, mask, keys), (maps, *_) = inputs("lstm"), inputs("convlstm")
    with pytest.raises(
        UserError, match=r"features of LSTM: expected \(B, T, D\), got .*\(2, 4, 3, 2"
    ):
        train("lstm")(variables("lstm"), maps, mask, keys)
    with pytest.raises(UserError, match=r"features of ConvLSTM: expected \(B, T, H, W, D\), got"):
        train("convlstm")(variables("convlstm"), x, mask, keys)
    with pytest.raises(UserError, match=r"lengths_B: expected \(B\), got shape \(1, 2\)"):
        lengths_to_mask(jnp.array([[1, 2]]), T)


def test_the_last_valid_frame_is_found_in_any_mask():
    mask = jnp.array([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
    expected = [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    np.testing.assert_array_equal(ends(mask), np.array(expected, bool))
