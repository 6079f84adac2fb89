"""Choose the frames of a clip that a model sees: index arithmetic, for a traced clip length.

A clip's length is a traced value, so nothing here branches on it, and one compiled program serves
every clip. Another sequence length needs only other indices of the same stored features, and no
decoding.
"""

import jax
import jax.numpy as jnp
from jax import Array

from vidrec.data.augment import time


def folded(position: Array, length: Array | int) -> Array:
    """Return the frame at `position` of a clip played forwards, backwards, … without end.

    0 … n-1, n-2 … 0, 1 … n-1, …: a triangle wave whose ends are not repeated; n = 1: always 0.
    """
    last = jnp.maximum(length, 1) - 1
    period = jnp.maximum(2 * last, 1)
    return (last - jnp.abs(position % period - last)).astype(jnp.int32)


def window_indices(length: Array | int, start: Array | int, clip: int) -> Array:
    """Return indices of `clip` frames from `start` on, folded at the clip's end: (clip,) int32."""
    return folded(start + jnp.arange(clip), length)


def indices(
    length: Array | int,
    L: int,
    rule: str = "segment",
    *,
    order: str = "kept",
    key: Array | None = None,
    shuffle_key: Array | None = None,
    pace: time.Pace | None = None,
) -> tuple[Array, Array]:
    """Choose the frames of one clip.

    Args:
        length: number of frames of the clip; if it is 0, all frames are masked.
        L: number of frames to choose, static; for rule "whole" that of the longest clip.
        rule: "segment" takes L consecutive frames and continues a shorter clip past its end.
            Rule "segment_mean_length" does the same; its L is the mean length of training clips.
            Rule "uniform" spreads L frames evenly, repeating frames of a shorter clip. Rule "whole"
            starts at the first frame and masks the frames that the clip lacks.
        order: "kept"; or the controls "shuffled" and "single" (the same frame L times).
        key: draws the segment and the single frame (training); None takes the centre (scoring).
        shuffle_key: draws the order of "shuffled", in scoring too; None derives it from `key`.
        pace: speed and frame shifts of the clip in training; it is used only with a `key`.

    Returns:
        Indices (L,) int32, and a mask (L,) bool that is False for padding.
    """
    if pace is None or key is None:
        index_L, mask_L = _by_rule(jnp.asarray(length), L, rule, key)
    else:
        place_L, mask_L = time.places(jnp.asarray(length), L, rule, key, pace)
        index_L = folded(place_L, length)
    if order == "kept":
        return index_L, mask_L
    if order == "single":
        return jnp.full((L,), _single(index_L, mask_L, key)), mask_L
    if order != "shuffled":
        raise ValueError(f"frames.order {order!r}: kept, shuffled or single")
    if shuffle_key is None:
        if key is None:
            raise ValueError("frames.order shuffled: needs a shuffle_key where no key is given")
        shuffle_key = jax.random.fold_in(key, 1)
    # Padding draws infinity, so it stays at the end and the mask remains valid.
    drawn_L = jnp.where(mask_L, jax.random.uniform(shuffle_key, (L,)), jnp.inf)
    return index_L[jnp.argsort(drawn_L)], mask_L


def _by_rule(length: Array, L: int, rule: str, key: Array | None) -> tuple[Array, Array]:
    place_L = jnp.arange(L)
    if rule == "uniform":
        index_L = (2 * place_L + 1) * length // (2 * L)
    elif rule == "whole":
        index_L = jnp.clip(place_L, 0, jnp.maximum(length, 1) - 1)
        return index_L.astype(jnp.int32), place_L < length
    elif rule in ("segment", "segment_mean_length"):
        spare = jnp.maximum(length - L, 0)
        start = spare // 2 if key is None else jax.random.randint(key, (), 0, spare + 1)
        index_L = window_indices(length, start, L)
    else:
        raise ValueError(f"frames.rule {rule!r}: segment, mean, uniform or whole")
    return index_L.astype(jnp.int32), jnp.broadcast_to(length > 0, (L,))


def _single(index_L: Array, mask_L: Array, key: Array | None) -> Array:
    """Return one frame that is not padding: a random one in training, the centre in scoring."""
    count = jnp.maximum(mask_L.sum(), 1)
    if key is None:
        return index_L[count // 2]
    return index_L[jax.random.randint(jax.random.fold_in(key, 2), (), 0, count)]
