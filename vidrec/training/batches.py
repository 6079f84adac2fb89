"""Which clips make a batch, as a pure function of (seed, epoch, step); and their frames.

An epoch of `batches_per_epoch` = 0 is one pass over the training clips, the last batch padded.
Otherwise batches run through one pass after another, each shuffled anew.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vidrec.config import Config
from vidrec.data import frames, keys


class Resident(NamedTuple):
    """Clips on the device, flat: clip i is `values[offsets[i] : offsets[i] + lengths[i]]`.

    Attributes:
        values: features (F, D) or (F, h, w, D), or frames (F, H, W, C), of all clips in a row.
        offsets, lengths, labels: (n,) int32.
        frozen: variables that no trial trains.
    """

    values: jax.Array
    offsets: jax.Array
    lengths: jax.Array
    labels: jax.Array
    frozen: Any


class Batch(NamedTuple):
    """One batch. `keys_B` is one dropout key a clip; `valid_B` is False where it is padding."""

    inputs: jax.Array  # (B, T, ...)
    mask_BT: jax.Array
    labels_B: jax.Array
    keys_B: jax.Array
    valid_B: jax.Array


def share(batch: Any, shares: int, place: jax.Array) -> Any:
    """One of `shares` equal parts of arrays (B, …), padded where they do not divide evenly."""

    def part(leaf: jax.Array) -> jax.Array:
        size = -(-len(leaf) // shares)
        more = [(0, shares * size - len(leaf))] + [(0, 0)] * (leaf.ndim - 1)
        return lax.dynamic_slice_in_dim(jnp.pad(leaf, more), place * size, size)

    return jax.tree.map(part, batch)


def gather(
    data: Resident,
    clips_B: jax.Array,
    valid_B: jax.Array,
    cfg: Config,
    length: int,
    seed: jax.Array,
    epoch: jax.Array | None,
    inputs: jax.Array | None = None,
    cuts: bool = True,
) -> Batch:
    """The batch of these clips: random segments in training, centre ones where epoch is None.

    `inputs` are its frames, at `places`, where `data` does not hold them. Without `cuts` no clip is
    longer than `length`: its only segment is the centre one.
    """
    drawn = epoch if cuts or cfg.frames.order != "kept" else None
    indices_BT, mask_BT = places(data.lengths[clips_B], clips_B, cfg, length, seed, drawn)
    if inputs is None:
        inputs = data.values[data.offsets[clips_B][:, None] + indices_BT]
    passed = 0 if epoch is None else epoch
    keys_B = jax.vmap(lambda clip: keys.fold_key(seed, keys.DROPOUT, passed, clip))(clips_B)
    return Batch(inputs, mask_BT & valid_B[:, None], data.labels[clips_B], keys_B, valid_B)


def places(
    lengths_B: jax.Array,
    clips_B: jax.Array,
    cfg: Config,
    length: int,
    seed: jax.Array,
    epoch: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Which frames of each clip a batch holds, and which of them are no padding, (B, T)."""
    return jax.vmap(lambda clip, n: _indices(clip, n, cfg, length, seed, epoch))(clips_B, lengths_B)


def gather_windows(
    data: Resident, windows_B2: jax.Array, clip: int, inputs: jax.Array | None = None
) -> Batch:
    """Windows of `clip` frames from (clip, first frame), continued where the video ends."""
    clips_B = windows_B2[:, 0]
    indices_BT = window_places(data.lengths[clips_B], windows_B2, clip)
    if inputs is None:
        inputs = data.values[data.offsets[clips_B][:, None] + indices_BT]
    all_B = jnp.ones(clips_B.shape, bool)
    keys_B = jax.vmap(lambda clip: keys.fold_key(0, keys.DROPOUT, clip))(clips_B)
    return Batch(inputs, jnp.ones(indices_BT.shape, bool), data.labels[clips_B], keys_B, all_B)


def window_places(lengths_B: jax.Array, windows_B2: jax.Array, clip: int) -> jax.Array:
    """Which frames of its clip each window holds, (B, clip)."""
    return jax.vmap(lambda n, start: frames.window_indices(n, start, clip))(
        lengths_B, windows_B2[:, 1]
    )


def _indices(
    clip: jax.Array,
    n: jax.Array,
    cfg: Config,
    length: int,
    seed: jax.Array,
    epoch: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    key = None if epoch is None else keys.fold_key(seed, keys.SEGMENT, epoch, clip)
    shuffle = (
        keys.scoring_order() if epoch is None else keys.fold_key(seed, keys.SHUFFLE, epoch, clip)
    )
    return frames.indices(
        n, length, cfg.frames.rule, order=cfg.frames.order, key=key, shuffle_key=shuffle
    )
