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
    """The labels of the clips that are mixed into a batch, and the weights of the mixtures.

    Attributes:
        labels_B: labels of the clips that are mixed in.
        share_B: weight of the original clip in each mixture, from 0.5 to 1.
    """

    labels_B: Array
    share_B: Array


def partners(valid_B: Array, keys_B: Array) -> Array:
    """Return the index in the batch of each clip's partner, (B,): one cycle through all clips.

    The cycle follows the order of random numbers, one drawn for each clip from its key. So it does
    not depend on the order of the clips in the batch. A single clip is its own partner.

    Args:
        valid_B: False where a clip is padding, which is not mixed.
        keys_B: one PRNG key for each clip.
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
    """Return the weight of the original clip, max(x, 1 - x) with x drawn from Beta(alpha, alpha).

    The weight is drawn from a fixed list of equally likely values, so that all devices and programs
    draw the same.
    """
    from scipy.special import betaincinv

    quantiles = betaincinv(alpha, alpha, (np.arange(QUANTILES) + 0.5) / QUANTILES)
    larger_Q = jnp.asarray(np.maximum(quantiles, 1 - quantiles), jnp.float32)

    def share(key: Array) -> Array:
        return larger_Q[jax.random.randint(jax.random.fold_in(key, keys.SHARE), (), 0, QUANTILES)]

    return jax.vmap(share)(keys_B)


def mixed(inputs: Array, others: Array, counted_BT: Array, share_B: Array) -> Array:
    """Return clips (B, T, …) mixed frame by frame, of the same type.

    Args:
        inputs: the clips.
        others: the clips that are mixed in.
        counted_BT: False where the clip that is mixed in has no frame; the original frame is kept.
        share_B: weight of the original clip.
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

    Every loss is linear in its target, so the loss of a mixed target is a mixture of two losses.

    Args:
        of_labels: returns the loss (B,) of the clips for given labels.
        labels_B: labels of the clips.
        mix: what the clips are mixed with; None if they are not mixed.
    """
    own_B = of_labels(labels_B)
    if mix is None:
        return own_B
    return mix.share_B * own_B + (1 - mix.share_B) * of_labels(mix.labels_B)
