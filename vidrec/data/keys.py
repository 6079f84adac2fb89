"""PRNG keys by purpose: folded from (seed, purpose, epoch, clip, …), never handed on."""

import jax

# Streams of random numbers, folded into a trial's key.
ORDER, SEGMENT, SHUFFLE, DROPOUT, INIT = range(5)


def fold_key(seed: jax.Array | int, *path: jax.Array | int) -> jax.Array:
    """The key of (seed, purpose, epoch, clip …): folded, never threaded."""
    key = jax.random.key(seed)
    for number in path:
        key = jax.random.fold_in(key, number)
    return key


def scoring_order() -> jax.Array:
    """The key by which scoring shuffles: the same for every seed, and for clips never seen before,
    so that a prediction is what evaluation says of that clip.
    """
    return fold_key(0, SHUFFLE, 0)
