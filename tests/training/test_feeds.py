"""Clips streamed from the host train to the same bits as clips that lie on the device."""

import jax
import numpy as np
import pytest
from helpers.small_datasets import pixels, prepared, same, settings
from helpers.training_runs import EpochRecorder, Soon, contents

from vidrec.config import override
from vidrec.data.datasets import UnreadableClip
from vidrec.errors import UserError
from vidrec.io import checkpoint
from vidrec.io.checkpoint import Checkpoints
from vidrec.training import feeds, loop, prepare, results, runtime

ENCODER = """
import flax.linen as nn
import jax.numpy as jnp

class Dot(nn.Module):
    takes_clips = False
    blocks = ()

    @nn.compact
    def __call__(self, frames, train=False):
        return nn.tanh(nn.Dense(3)(frames.reshape(len(frames), -1) / 255 - 0.5))
"""


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """Trials of one group: other seeds and rates, dropout, decisions by windows; a ragged end."""
    file = tmp_path_factory.mktemp("own") / "dot.py"
    file.write_text(ENCODER)
    common = {
        "encoder.kind": f"{file}:Dot",
        "encoder.pooling": "moments",
        "encoder.size": 8,
        "encoder.trainable": "all",
        "frames.length": 4,
        "scanner.kind": "mean",
        "scanner.dropout": 0.3,
        "head.kind": "per_frame",
        "train.batch_size": 2,
        "eval.batch_size": 3,
        "train.save_seconds": 600,
    }
    changes = (
        {"train.epochs": 3},
        {"seed": 2**31 + 1, "train.epochs": 2, "optim.learning_rate": 0.2},
        {"train.epochs": 3, "eval.inference": "average", "eval.window": 3, "eval.stride": 2},
    )
    return [override(settings(), common | each) for each in changes]


@pytest.fixture
def streamed(monkeypatch, tmp_path):
    """Nothing fits in memory, and a chunk has few steps."""
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime, "room", lambda gigabytes: 0)
    monkeypatch.setattr(feeds, "CHUNK", 7000)


def fit(configs, folder, callback=None):
    data = prepared(configs[0], pixels(clips=22, broken=(3,)))
    members = [results.TrialRun(f"t{i}", cfg, folder / f"t{i}") for i, cfg in enumerate(configs)]
    loop.fit(members, data, folder / "group", callback=callback)
    return data


@pytest.fixture(scope="module")
def held(configs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("held")
    assert not fit(configs, folder).streams
    return folder


def test_streamed_trials_equal_held_ones_to_the_bit(configs, held, streamed, tmp_path):
    data = fit(configs, tmp_path)
    assert data.streams
    assert data.values.size == 0
    assert contents(tmp_path) == contents(held)


@pytest.mark.slow
def test_a_stopped_stream_goes_on_to_the_same_bits(configs, held, streamed, tmp_path):
    with pytest.raises(loop.Interrupted):
        fit(configs, tmp_path, EpochRecorder(stop=1))
    fit(configs, tmp_path)
    assert contents(tmp_path) == contents(held)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [2, 9])
def test_a_stream_that_stops_inside_an_epoch_goes_on_there(
    configs, held, streamed, tmp_path, asked
):
    """An epoch has seven chunks, so it is asked six times inside and once after."""
    with pytest.raises(loop.Interrupted, match="steps; the same command goes on"):
        fit(configs, tmp_path, Soon(asked))
    saves = Checkpoints(tmp_path / "group" / "checkpoints")
    save = saves.folder / str(saves.steps()[-1])
    epoch, done = divmod(asked, 7)
    meta = checkpoint.read_meta(save)
    assert (meta["epoch"], meta["begun"]["steps"]) == (epoch, done)
    watch = Soon(0)
    data = fit(configs, tmp_path, watch)
    assert data.streams
    assert -watch.left == 3 * 7 - asked  # what was done is not done again
    assert contents(tmp_path) == contents(held)


@pytest.mark.slow
def test_one_trial_from_pixels_goes_step_by_step_and_stops_at_any(configs, tmp_path):
    one = configs[:1]
    fit(one, tmp_path / "whole")
    with pytest.raises(loop.Interrupted, match="after epoch 1 and 3 of 7 steps"):
        fit(one, tmp_path / "stopped", Soon(7 + 3))
    fit(one, tmp_path / "stopped")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_stream_whose_batches_are_spread_over_devices(configs, streamed, tmp_path, monkeypatch):
    alone = [override(configs[0], {"train.parallel": "batch", "train.epochs": 1})]
    assert fit(alone, tmp_path / "streamed").streams
    monkeypatch.setattr(runtime, "room", lambda gigabytes: 1e9)
    assert not fit(alone, tmp_path / "held").streams
    assert contents(tmp_path / "streamed") == contents(tmp_path / "held")


def test_frames_come_in_order_whatever_the_threads(monkeypatch):
    source = pixels(clips=9)
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 9, 12)
    places = np.stack([rng.integers(0, source.lengths[clip], 3) for clip in clips])
    expected = np.stack([source.arrays[c][p] for c, p in zip(clips, places, strict=True)])
    for threads, rows in ((1, 4), (5, 3), (16, 12)):
        monkeypatch.setattr(feeds, "THREADS", threads)
        found = list(feeds.read_ahead(source, clips, places, 8, rows))
        assert [len(each) for each in found] == [rows] * (12 // rows)
        np.testing.assert_array_equal(np.concatenate(found), expected)
        assert found[0].dtype == np.uint8


def test_a_clip_that_is_lost_while_training_is_named(monkeypatch):
    source = pixels(clips=4)

    def lost(clip, frames, size):
        raise UnreadableClip(source.names[clip], "was deleted")

    monkeypatch.setattr(source, "read", lost)
    with pytest.raises(UserError, match="clip_002 can no longer be read: was deleted"):
        next(feeds.read_ahead(source, np.array([2]), np.zeros((1, 3), int), 8, 1))


def test_lengths_are_counted_once(configs, streamed):
    source = pixels(clips=22, broken=(3,))
    first = prepare.prepare(configs[0], dataset=source)
    seen = len(source.streamed)
    again = prepare.prepare(configs[0], dataset=source)
    assert len(source.streamed) == seen == 22
    assert same((first.lengths, first.split.train), (again.lengths, again.split.train))
    np.testing.assert_array_equal(first.lengths, [len(each) for each in source.arrays])
    assert first.unreadable == again.unreadable == [(3, "clip_003", "is empty")]
    assert jax.tree.leaves(first.on_devices) == []
