"""Make PRNG keys for each purpose by folding (seed, purpose, epoch, clip, …) where needed."""

import jax

# Streams of random numbers, folded into a trial's key.
ORDER, SEGMENT, SHUFFLE, DROPOUT, INIT, AUGMENT = range(6)
# Within AUGMENT: one stream for each change, so that changes do not affect each other's numbers.
PIXELS, NOISE, STRETCH, SPEED, JITTER, DROP, PARTNER, SHARE = range(8)


def fold_key(seed: jax.Array | int, *path: jax.Array | int) -> jax.Array:
    """Return the key of (seed, purpose, epoch, clip, …); equal arguments give equal keys."""
    key = jax.random.key(seed)
    for number in path:
        key = jax.random.fold_in(key, number)
    return key


def scoring_order() -> jax.Array:
    """Return the key by which scoring shuffles frames.

    It is the same for every seed and every clip, so that prediction and evaluation give the same
    result for a clip.
    """
    return fold_key(0, SHUFFLE, 0)
