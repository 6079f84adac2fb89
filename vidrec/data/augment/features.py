"""Augment the features of clips: add noise, and replace a stretch of frames by the mean.

Dimension letters: B clips, T frames, D features.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from vidrec.config import Augment
from vidrec.data import keys


def changed(x_BTD: Array, mask_BT: Array, settings: Augment, keys_B: Array) -> Array:
    """Return augmented features of the same type.

    Args:
        x_BTD: features (B, T, D…).
        mask_BT: False where a frame is padding; padded frames have no influence.
        settings: the augmentation settings.
        keys_B: one PRNG key for each clip.
    """
    if share := settings.noise:
        x_BTD = jax.vmap(partial(noisy, share=share))(x_BTD, mask_BT, keys_B)
    if share := settings.time_mask:
        x_BTD = jax.vmap(partial(hidden, share=share))(x_BTD, mask_BT, keys_B)
    return x_BTD


def noisy(x_TD: Array, mask_T: Array, key: Array, share: float) -> Array:
    """Add normal noise of `share` times the standard deviation of all features of the clip."""
    counted = mask_T.reshape(-1, *(1,) * (x_TD.ndim - 1))
    x = x_TD.astype(jnp.promote_types(x_TD.dtype, jnp.float32))
    count = jnp.maximum(mask_T.sum() * (x.size // len(x)), 1)
    mean = jnp.where(counted, x, 0).sum() / count
    deviation = jnp.sqrt(jnp.where(counted, jnp.square(x - mean), 0).sum() / count)
    drawn = jax.random.normal(jax.random.fold_in(key, keys.NOISE), x.shape)
    return (x + share * deviation * drawn).astype(x_TD.dtype)


def hidden(x_TD: Array, mask_T: Array, key: Array, share: float) -> Array:
    """Replace a random stretch of at most `share` of the frames by the clip's mean features."""
    long, begin = jax.random.split(jax.random.fold_in(key, keys.STRETCH))
    count = mask_T.sum()
    most = jnp.floor(share * count + 1e-4).astype(jnp.int32)
    length = jax.random.randint(long, (), 0, most + 1)
    first = jax.random.randint(begin, (), 0, count - length + 1)
    place_T = jnp.cumsum(mask_T) - 1  # index among the frames that are not padding
    inside_T = mask_T & (first <= place_T) & (place_T < first + length)
    axes = (-1, *(1,) * (x_TD.ndim - 1))
    x = x_TD.astype(jnp.promote_types(x_TD.dtype, jnp.float32))
    mean_D = jnp.where(mask_T.reshape(axes), x, 0).sum(0) / jnp.maximum(count, 1)
    return jnp.where(inside_T.reshape(axes), mean_D.astype(x_TD.dtype), x_TD)
