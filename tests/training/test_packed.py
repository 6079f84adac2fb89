"""Trees as vectors: they come back as they were, and an optimiser does the same to them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidrec.config import Config, override
from vidrec.training import optim, packed
from vidrec.training.step import hyperparameters

SHAPES = {"b": {"kernel": (3, 5), "bias": (5,)}, "a": (2, 1, 4), "one": ()}


def tree(seed, leading=(), join=np):
    rng = np.random.default_rng(seed)

    def draw(shape):
        return join.asarray(rng.normal(size=(*leading, *shape)).astype(np.float32))

    return jax.tree.map(draw, SHAPES, is_leaf=lambda shape: isinstance(shape, tuple))


@pytest.mark.parametrize("join", [np, jnp])
@pytest.mark.parametrize("leading", [(), (3,), (2, 4)])
def test_what_is_packed_comes_back(leading, join):
    whole = tree(0, leading, join) | {"count": join.arange(24).reshape(*leading, -1)[..., :1]}
    found = packed.pack(whole, len(leading))
    assert len(found.vectors) == 2  # one a type
    assert all(each.shape[:-1] == leading for each in found.vectors)
    chex.assert_trees_all_equal(found.unpacked(), whole)
    assert jax.tree.structure(found.unpacked()) == jax.tree.structure(whole)


def test_an_axis_that_is_added_or_taken_later_comes_back_too():
    trials = [tree(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *map(packed.pack, trials))
    whole = jax.tree.map(lambda *leaves: np.stack(leaves), *trials)
    chex.assert_trees_all_equal(stacked.unpacked(), whole)
    one = jax.tree.map(lambda leaf: leaf[1], stacked)
    chex.assert_trees_all_equal(one.unpacked(), trials[1])


def test_parts_are_packed_as_in_an_example():
    state = (tree(1), {"count": np.zeros(()), "mu": tree(2)})
    example = (state[0], {"count": state[1]["count"], "mu": packed.pack(state[1]["mu"])})
    found = packed.pack_like(state, example)
    assert jax.tree.structure(found) == jax.tree.structure(example)
    assert packed.holds_packed(found)
    assert not packed.holds_packed(state)
    chex.assert_trees_all_equal(packed.unpack(found), state)


def test_large_trees_and_single_arrays_stay_as_they_are():
    kernel = jax.ShapeDtypeStruct((packed.MOST,), np.float32)
    assert not packed.is_worth({"kernel": kernel})
    assert not packed.is_worth({"kernel": kernel, "bias": jax.ShapeDtypeStruct((1,), np.float32)})
    assert packed.is_worth(tree(0))


def test_the_gradient_of_what_is_unpacked_is_that_of_the_tree():
    whole = tree(3, join=jnp)

    def loss(each):
        return sum(jnp.sin(leaf * (i + 1)).sum() for i, leaf in enumerate(jax.tree.leaves(each)))

    found = jax.grad(lambda each: loss(each.unpacked()))(packed.pack(whole))
    chex.assert_trees_all_close(found.unpacked(), jax.grad(loss)(whole), rtol=1e-6)


RULES = [
    {"optim.kind": "sgd"},
    {"optim.kind": "momentum", "optim.weight_decay": 0.1},
    {"optim.kind": "adam", "optim.clip_norm": 0.5, "optim.decoupled": True},
    {"optim.kind": "rmsprop", "optim.schedule": "cosine", "optim.clip_norm": 0.1},
]


@pytest.mark.parametrize("changes", RULES, ids=lambda changes: changes["optim.kind"])
def test_an_optimiser_makes_the_same_updates(changes):
    cfg = override(Config(), changes | {"optim.learning_rate": 0.03})
    rule = optim.build(cfg.optim, hyperparameters(cfg), 4, 5)
    plain = tree(4, join=jnp)
    vectors = packed.pack(plain)
    states = rule.init(plain), rule.init(vectors)
    for step in range(5):
        gradient = tree(10 + step, join=jnp)
        changed, first = rule.update(gradient, states[0], plain)
        moved, second = rule.update(packed.pack(gradient), states[1], vectors)
        plain, vectors = optax.apply_updates(plain, changed), optax.apply_updates(vectors, moved)
        states = first, second
        chex.assert_trees_all_close(vectors.unpacked(), plain, rtol=2e-6, atol=1e-7)
    chex.assert_trees_all_close(packed.unpack(states[1]), states[0], rtol=2e-6, atol=1e-7)
