"""Gather the clips of a batch; their frames depend only on (seed, epoch, clip).

Dimension letters: B clips, T frames.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vidrec.config import Augment, Config
from vidrec.data import augment, frames, keys
from vidrec.data.augment import mixing, time
from vidrec.data.augment.mixing import Mix
from vidrec.evaluation import tasks
from vidrec.evaluation.task import ChosenFrames


class Resident(NamedTuple):
    """Clips on the device, concatenated: clip i is `values[offsets[i] : offsets[i] + lengths[i]]`.

    Attributes:
        values: features (F, D) or (F, h, w, D), or frames (F, H, W, C), of all F frames in turn.
        offsets: (n,) int32, index in `values` of each clip's first frame.
        lengths: (n,) int32, number of frames of each clip.
        labels: int32, in the form of the task (`Task.resident`): (n,) if a clip has one label.
        frozen: variables that no trial trains.
    """

    values: Any
    offsets: Any
    lengths: Any
    labels: Any
    frozen: Any


class Clips(NamedTuple):
    """The clips of a batch.

    Attributes:
        clips_B: indices of the clips.
        valid_B: False where a clip is padding.
        inputs: frames of the clips (B, T, …) if the device does not hold them; else None.
        partners: the clips that mixup mixes into these; None: no mixup.
    """

    clips_B: Array
    valid_B: Array
    inputs: Array | None = None
    partners: "Clips | None" = None


class Sampling(NamedTuple):
    """How frames of clips are chosen.

    Attributes:
        cfg: settings of the frames.
        length: frames of each clip.
        seed: seed of the trial.
        epoch: epoch, counted from 0; None: scoring, which takes centre segments.
        random_segments: False if no clip is longer than `length`, so that the only segment of each
            clip is the centre one.
    """

    cfg: Config
    length: int
    seed: Array | int
    epoch: Array | int | None
    random_segments: bool = True


class FrameIndices(NamedTuple):
    """Indices of the frames of each clip of a batch; `mask_BT` is False for padding."""

    indices_BT: Array
    mask_BT: Array


class Batch(NamedTuple):
    """One batch.

    Attributes:
        inputs: features or frames of the clips, (B, T, …).
        mask_BT: False where a frame is padding.
        labels_B: labels of the clips, in the form of the task: (B,), (B, K) or (B, T).
        keys_B: one dropout key for each clip.
        valid_B: False where a clip is padding.
        mix: labels and shares of the clips that are mixed in; None: no mixup.
    """

    inputs: Array
    mask_BT: Array
    labels_B: Array
    keys_B: Array
    valid_B: Array
    mix: Mix | None = None


def share(batch: Any, shares: int, index: Array) -> Any:
    """Return one of several equal parts of arrays (B, …), padded if B does not divide evenly.

    Args:
        batch: a tree of arrays.
        shares: number of parts.
        index: index of the part.
    """

    def part(leaf: Array) -> Array:
        size = -(-len(leaf) // shares)
        more = [(0, shares * size - len(leaf))] + [(0, 0)] * (leaf.ndim - 1)
        return lax.dynamic_slice_in_dim(jnp.pad(leaf, more), index * size, size)

    return jax.tree.map(part, batch)


def paired(clips: Clips, sampling: Sampling) -> Clips:
    """Return the clips of a whole training batch, with the clips that mixup mixes into them."""
    if sampling.epoch is None or not sampling.cfg.augment.mixup:
        return clips
    keys_B = augment.keys_of(sampling.seed, sampling.epoch, clips.clips_B)
    place_B = mixing.partners(clips.valid_B, keys_B)
    others = jax.tree.map(lambda leaf: leaf[place_B], clips)
    return clips._replace(partners=others)


def gather(data: Resident, clips: Clips, sampling: Sampling) -> Batch:
    """Return the batch of these clips: random segments in training, centre ones in scoring."""
    batch = _augmented(data, clips, sampling)
    if clips.partners is None or sampling.epoch is None:
        return batch
    others = _augmented(data, clips.partners, sampling)
    keys_B = augment.keys_of(sampling.seed, sampling.epoch, clips.clips_B)
    share_B = mixing.shares(sampling.cfg.augment.mixup, keys_B)
    inputs = mixing.mixed(batch.inputs, others.inputs, others.mask_BT, share_B)
    return batch._replace(inputs=inputs, mix=Mix(others.labels_B, share_B))


def _augmented(data: Resident, clips: Clips, sampling: Sampling) -> Batch:
    """Return the batch of these clips, augmented but not mixed."""
    clips_B, valid_B, inputs, _ = clips
    cfg, epoch, segments = sampling.cfg, sampling.epoch, sampling
    paced = augment.moves_frames(cfg.augment)
    if not sampling.random_segments and cfg.frames.order == "kept" and not paced:
        segments = sampling._replace(epoch=None)
    indices_BT, mask_BT = frame_indices(data.lengths[clips_B], clips_B, segments)
    mask_BT = mask_BT & valid_B[:, None]
    inputs = _inputs(data, clips_B, indices_BT, inputs)
    if epoch is not None and cfg.augment != Augment():
        augment_B = augment.keys_of(sampling.seed, epoch, clips_B)
        # The barriers keep the compiler from fusing this with other code, so that a trial gets the
        # same numbers in a group as alone.
        inputs = lax.optimization_barrier(inputs)
        inputs = augment.changed(inputs, mask_BT, cfg.augment, augment_B)
        inputs = lax.optimization_barrier(inputs)
    epoch = 0 if epoch is None else epoch
    keys_B = jax.vmap(lambda clip: keys.fold_key(sampling.seed, keys.DROPOUT, epoch, clip))(clips_B)
    chosen = ChosenFrames(clips_B, data.offsets[clips_B], indices_BT, mask_BT)
    labels_B = tasks.of(cfg).gather(data.labels, chosen)
    return Batch(inputs, mask_BT, labels_B, keys_B, valid_B)


def _inputs(data: Resident, clips_B: Array, indices_BT: Array, given: Array | None) -> Array:
    """Return frames from the device, or the given frames in the type of those on the device."""
    if given is None:
        return data.values[data.offsets[clips_B][:, None] + indices_BT]
    if given.dtype == data.values.dtype:
        return given
    # Not fused with what follows, so that the result equals that of frames held by the device.
    return lax.optimization_barrier(given.astype(data.values.dtype))


def frame_indices(lengths_B: Array, clips_B: Array, sampling: Sampling) -> FrameIndices:
    """Return which frames a batch holds of each clip.

    Args:
        lengths_B: number of frames of each clip.
        clips_B: indices of the clips, by which random segments are drawn.
        sampling: how the frames are chosen.
    """
    cfg, seed, epoch = sampling.cfg.frames, sampling.seed, sampling.epoch

    def of_clip(clip: Array, length: Array) -> tuple[Array, Array]:
        key, pace, shuffle_key = None, None, keys.scoring_order()
        if epoch is not None:
            key = keys.fold_key(seed, keys.SEGMENT, epoch, clip)
            shuffle_key = keys.fold_key(seed, keys.SHUFFLE, epoch, clip)
            own = keys.fold_key(seed, keys.AUGMENT, epoch, clip)
            pace = time.drawn(sampling.cfg.augment, own, sampling.length)
        return frames.indices(
            length,
            sampling.length,
            cfg.rule,
            order=cfg.order,
            key=key,
            shuffle_key=shuffle_key,
            pace=pace,
        )

    return FrameIndices(*jax.vmap(of_clip)(clips_B, lengths_B))


def gather_windows(
    data: Resident, windows_B2: Array, window: int, inputs: Array | None = None
) -> Batch:
    """Return windows of clips; past a clip's end, its frames follow backwards, then forwards.

    Args:
        data: the clips.
        windows_B2: clip and first frame of each window.
        window: frames of a window.
        inputs: the frames (B, T, …) if the device does not hold them; else None.
    """
    clips_B = windows_B2[:, 0]
    indices_BT = window_indices(data.lengths[clips_B], windows_B2, window)
    inputs = _inputs(data, clips_B, indices_BT, inputs)
    all_B = jnp.ones(clips_B.shape, bool)
    keys_B = jax.vmap(lambda clip: keys.fold_key(0, keys.DROPOUT, clip))(clips_B)
    return Batch(inputs, jnp.ones(indices_BT.shape, bool), data.labels[clips_B], keys_B, all_B)


def window_indices(lengths_B: Array, windows_B2: Array, window: int) -> Array:
    """Return which frames of its clip each window holds, (B, window)."""
    return jax.vmap(lambda n, start: frames.window_indices(n, start, window))(
        lengths_B, windows_B2[:, 1]
    )
