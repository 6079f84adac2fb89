"""Training on labels of frames: windows see their own, and long clips fit in little memory."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from helpers.small_datasets import features, group_of, prepared, settings

from vidrec.config import override
from vidrec.data.datasets.frame_labels import FrameLabels
from vidrec.training import programs, step

FRAMEWISE = {
    "task.kind": "segmentation",
    "frames.rule": "whole",
    "head.kind": "per_frame",
    "loss.frame_weights": "uniform",
    "data.val": 0.0,
}


def framewise(**changes):
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return override(settings(), FRAMEWISE | named)


def labelled(**more):
    """Clips whose labels change from frame to frame; some frames have none."""
    source, rng = features(**more), np.random.default_rng(1)
    labels = [FrameLabels.of(rng.integers(-1, 3, length)) for length in source.lengths]
    return dataclasses.replace(source, frame_labels=tuple(labels))


def trained(cfg, source, epochs=1):
    group = group_of([cfg], prepared(cfg, source))
    group.initialize()
    group.compile()
    figures = [group.train_epoch()[0] for _ in range(epochs)]
    return figures, jax.tree.map(lambda leaf: leaf[0], group.snapshot().state)


@pytest.mark.parametrize(("every", "reach"), [(1, 0), (3, 0), (3, 5), (4, 4)])
def test_windows_that_change_nothing_have_the_loss_of_the_whole_clip(every, reach):
    source = labelled(lengths=(1, 12))
    still = {"optim__learning_rate": 0.0, "loss__class_weights": "a=3"}
    [whole], _ = trained(framewise(**still), source)
    cut = framewise(**still, train__tbptt_every=every, train__tbptt_length=reach)
    [windows], _ = trained(cut, source)
    assert windows.train_loss == pytest.approx(whole.train_loss, rel=1e-5)


def test_one_window_trains_as_the_whole_clip():
    source = labelled(lengths=(3, 9))
    length = int(source.lengths.max())
    whole, state = trained(framewise(loss__smoothness=0.2), source, epochs=3)
    cut = framewise(loss__smoothness=0.2, train__tbptt_every=length)
    windows, other = trained(cut, source, epochs=3)
    assert [each.train_loss for each in windows] == pytest.approx(
        [each.train_loss for each in whole], rel=1e-5
    )
    for a, b in zip(*map(jax.tree.leaves, (state.params, other.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_parts_of_a_batch_add_up():
    source = labelled(lengths=(2, 9))
    [whole], state = trained(framewise(train__batch_size=6), source)
    [parts], other = trained(framewise(train__batch_size=6, train__grad_accum=4), source)
    assert parts.train_loss == pytest.approx(whole.train_loss, rel=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (state.params, other.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_frames_without_labels_teach_nothing():
    source = labelled(lengths=(4, 9))
    blank = [FrameLabels.of(np.full(length, -1)) for length in source.lengths]
    blank[0] = source.frame_labels[0]
    source = dataclasses.replace(source, frame_labels=tuple(blank))
    cfg = framewise(data__split="random", data__test=2, train__batch_size=32)
    data = prepared(cfg, source)
    [figures], _ = trained(cfg, source)
    assert (figures.train_loss > 0) == (0 in data.clips("train"))
    assert figures.finite


def step_memory(every, frames=10_000):
    """Bytes that a training step on clips of so many frames takes besides its arguments."""
    rng = np.random.default_rng(0)
    source = features(clips=8, lengths=(2, 3))
    arrays = [rng.standard_normal((frames, 5)).astype("f4") for _ in range(8)]
    labels = [FrameLabels.of(np.repeat(rng.integers(0, 3, frames // 50), 50)) for _ in range(8)]
    source = dataclasses.replace(source, arrays=tuple(arrays), frame_labels=tuple(labels))
    cfg = framewise(train__tbptt_every=every, train__batch_size=2, scanner__units=32)
    group = group_of([cfg], prepared(cfg, source))
    group.initialize()
    feed = group.feed.shared
    state = jax.tree.map(lambda leaf: leaf[0], group.snapshot().state)
    hyper = step.hyperparameters(cfg)
    inputs = programs.TrainBatches(
        hyper, np.int32(0), np.zeros((1, 2), np.int32), np.ones((1, 2), bool), None
    )
    train = jax.jit(partial(programs.train_batches, group.spec))
    compiled = train.lower(state, inputs, feed).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_a_clip_of_ten_thousand_frames_trains_in_the_memory_of_a_window():
    whole, windows = step_memory(0), step_memory(100)
    inputs = 2 * 10_000 * (5 + 2) * 4  # of the clips of a batch, with labels and masks
    assert windows < 6 * inputs
    assert windows < whole / 20
