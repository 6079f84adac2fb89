"""Mix two clips of a batch, and the losses of their labels.

Dimension letters: B clips, T frames.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vidrec.data import keys

QUANTILES = 4096


class Mix(NamedTuple):
    """What a batch's clips are mixed with.

    Attributes:
        labels_B: of the clips that are mixed in.
        share_B: how much of each mixture is the clip itself, from a half to 1.
    """

    labels_B: Array
    share_B: Array


def partners(valid_B: Array, keys_B: Array) -> Array:
    """Return the place in the batch of each clip's partner, (B,): one cycle through all clips.

    The cycle is in the order of random numbers of the clips, so it does not depend on their places
    in the batch. A single clip is its own partner.

    Args:
        valid_B: False where a clip is padding, which is mixed with nothing.
        keys_B: a key a clip.
    """
    drawn_B = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, keys.PARTNER)))(
        keys_B
    )
    round_B = jnp.argsort(jnp.where(valid_B, drawn_B, jnp.inf))
    count = jnp.maximum(valid_B.sum(), 1)
    after_B = round_B[(jnp.arange(len(valid_B)) + 1) % count]
    places_B = jnp.arange(len(valid_B))
    return jnp.where(valid_B, places_B.at[round_B].set(after_B), places_B)


def shares(alpha: float, keys_B: Array) -> Array:
    """Return how much of each mixture is the clip itself: of Beta(alpha, alpha) the larger part.

    It is drawn from a fixed list of equally likely values, so that all devices and programs draw
    the same.
    """
    from scipy.special import betaincinv

    quantiles = betaincinv(alpha, alpha, (np.arange(QUANTILES) + 0.5) / QUANTILES)
    larger_Q = jnp.asarray(np.maximum(quantiles, 1 - quantiles), jnp.float32)

    def share(key: Array) -> Array:
        return larger_Q[jax.random.randint(jax.random.fold_in(key, keys.SHARE), (), 0, QUANTILES)]

    return jax.vmap(share)(keys_B)


def mixed(inputs: Array, others: Array, counted_BT: Array, share_B: Array) -> Array:
    """Return clips (B, T, …) mixed frame by frame, in the type that they have.

    Args:
        inputs: the clips.
        others: what is mixed in.
        counted_BT: False on frames that the other clip lacks: there a clip stays as it is.
        share_B: of the clip itself.
    """
    axes = (-1, 1, *(1,) * (inputs.ndim - 2))
    kind = jnp.promote_types(inputs.dtype, jnp.float32)
    own, other = inputs.astype(kind), others.astype(kind)
    out = other + share_B.reshape(axes) * (own - other)
    if jnp.issubdtype(inputs.dtype, jnp.integer):
        out = jnp.round(out)
    counted = counted_BT.reshape(*counted_BT.shape, *axes[2:])
    return jnp.where(counted, out.astype(inputs.dtype), inputs)


def loss(of_labels: Callable[[Array], Array], labels_B: Array, mix: Mix | None) -> Array:
    """Return the loss (B,) of clips whose labels may be mixed.

    Every loss here is linear in its target, so that of a mixed target is the mixture of two losses.

    Args:
        of_labels: returns the loss of each clip if it were so labelled.
        labels_B: of the clips.
        mix: what they are mixed with; None: nothing.
    """
    own_B = of_labels(labels_B)
    if mix is None:
        return own_B
    return mix.share_B * own_B + (1 - mix.share_B) * of_labels(mix.labels_B)
