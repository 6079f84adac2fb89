"""Gathering a batch is slicing clips."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers.small_datasets import features, prepared, settings

from vidrec.training import batches, feeds
from vidrec.training.batches import Clips, Sampling


def clip_of(data, clip):
    return np.asarray(data.values)[data.offsets[clip] :][: data.lengths[clip]]


def literal(frames, chosen, length):
    """The frames of these indices, one by one."""
    shown = np.zeros((length, frames.shape[1]), frames.dtype)
    for place, index in enumerate(chosen):
        shown[place] = frames[index]
    return shown


def back_and_forth(n, start, length):
    """Frames from `start`, turning at the ends, which are not doubled."""
    index, step, found = start, 1, []
    for _ in range(length):
        found.append(index)
        if not 0 <= index + step < n:
            step = -step
        index = index + step if n > 1 else index
    return found


def gathered(cfg, data, clips, seed=3, epoch=None):
    resident = jax.tree.map(jnp.asarray, feeds.resident(data))
    clips = np.asarray(clips, np.int32)
    fetch = jax.jit(
        lambda seed, clips, valid, epoch: batches.gather(
            resident, Clips(clips, valid), Sampling(cfg, data.length, seed, epoch)
        )
    )
    return fetch(seed, clips, clips >= 0, epoch)


def test_scoring_takes_the_centre_and_continues_short_clips():
    cfg = settings()
    data = prepared(cfg, features(lengths=(1, 16)))
    clips = np.arange(len(data.lengths))
    batch = gathered(cfg, data, clips)
    assert min(data.lengths) < cfg.frames.length < max(data.lengths)
    for clip in clips:
        n = int(data.lengths[clip])
        chosen = back_and_forth(n, max(n - 6, 0) // 2, 6)
        assert np.array_equal(batch.inputs[clip], literal(clip_of(data, clip), chosen, 6))
    assert np.asarray(batch.mask_BT).all()
    assert np.array_equal(batch.labels_B, data.dataset.labels)


def test_training_takes_some_segment_that_depends_on_seed_epoch_and_clip_alone():
    cfg = settings(frames__length=3)
    data = prepared(cfg, features(lengths=(9, 30)))
    clips = np.arange(len(data.lengths))
    starts = []
    for epoch in range(3):
        batch = gathered(cfg, data, clips, epoch=epoch)
        found = []
        for clip in clips:
            frames = clip_of(data, clip)
            fits = [
                start
                for start in range(len(frames) - 2)
                if np.array_equal(batch.inputs[clip], frames[start : start + 3])
            ]
            assert len(fits) == 1
            found += fits
        starts.append(found)
    assert starts[0] != starts[1] != starts[2]
    # Neither place nor company in the batch matters.
    turned = gathered(cfg, data, clips[::-1], epoch=2)
    again = gathered(cfg, data, clips, epoch=2)
    assert np.array_equal(turned.inputs[::-1], again.inputs)
    keys = jax.random.key_data(again.keys_B)
    assert np.array_equal(jax.random.key_data(turned.keys_B)[::-1], keys)
    assert len(np.unique(keys, axis=0)) == len(clips)
    other = jax.random.key_data(gathered(cfg, data, clips, epoch=1).keys_B)
    assert not (other == keys).all(1).any()


def test_a_whole_clip_is_masked_where_it_ends_and_padding_is_masked_throughout():
    cfg = settings(frames__rule="whole")
    data = prepared(cfg, features(lengths=(1, 12)))
    assert data.length == max(data.lengths)
    clips = np.arange(6, dtype=np.int32)
    valid = np.array([True] * 4 + [False] * 2)
    resident = jax.tree.map(jnp.asarray, feeds.resident(data))
    batch = batches.gather(
        resident, Clips(clips, valid), Sampling(cfg, data.length, 3, jnp.int32(0))
    )
    for place, clip in enumerate(clips):
        n = data.lengths[clip] if valid[place] else 0
        assert np.asarray(batch.mask_BT[place]).tolist() == [t < n for t in range(data.length)]
        assert np.array_equal(batch.inputs[place, :n], clip_of(data, clip)[:n])


def test_windows_are_slices_continued_where_the_clip_ends():
    cfg = settings()
    data = prepared(cfg, features(lengths=(1, 12)))
    resident = jax.tree.map(jnp.asarray, feeds.resident(data))
    table = np.array([(0, 0), (0, 1), (3, 0), (5, data.lengths[5] - 1)], np.int32)
    batch = batches.gather_windows(resident, table, 5)
    for place, (clip, start) in enumerate(table):
        chosen = back_and_forth(int(data.lengths[clip]), int(start), 5)
        assert np.array_equal(batch.inputs[place], literal(clip_of(data, clip), chosen, 5))


def test_shuffled_frames_are_the_segments_frames_in_another_order():
    cfg, kept = settings(frames__order="shuffled"), settings()
    data = prepared(cfg, features(lengths=(6, 12)))
    clips = np.arange(8)
    batch, plain = gathered(cfg, data, clips, seed=1), gathered(kept, data, clips, seed=1)
    assert np.array_equal(np.sort(batch.inputs, 1), np.sort(plain.inputs, 1))
    assert not np.array_equal(batch.inputs, plain.inputs)
    # Scoring shuffles a clip one way, whatever the trial's seed.
    assert np.array_equal(batch.inputs, gathered(cfg, data, clips, seed=2).inputs)
