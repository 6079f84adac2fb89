"""Augmented training is one, in a group or alone, on however many devices, streamed or resumed."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_datasets import (
    features,
    furthest,
    group_of,
    one,
    pixels,
    prepared,
    same,
    settings,
    train,
)

from vidrec.config import override
from vidrec.config.schema import Config
from vidrec.data import augment, frames
from vidrec.data.augment import mixing, time
from vidrec.models import losses
from vidrec.training import batches, feeds, step
from vidrec.training.batches import Clips, Sampling

OF_FEATURES = {"augment.noise": 0.3, "augment.time_mask": 0.5, "augment.mixup": 0.4}
OF_TIME = {"augment.speed": 0.5, "augment.jitter": 1, "augment.drop": 0.2}
OF_PIXELS = {
    "encoder.kind": "cnn3",
    "encoder.pooling": "average",
    "encoder.size": 8,
    "encoder.trainable": "all",
    "augment.flip": 0.5,
    "augment.crop": 0.5,
    "augment.rotation": 10.0,
    "augment.color": 0.4,
    "augment.contrast": 0.4,
    "augment.brightness": 0.4,
    "augment.mixup": 0.4,
}
FEATURES = OF_FEATURES | OF_TIME


def augmented(changes=FEATURES, **more):
    return override(settings(**more), changes)


def clip_of(data, clip):
    return np.asarray(data.values)[data.offsets[clip] :][: data.lengths[clip]]


def gathered(cfg, data, clips, epoch=1, seed=3):
    """A training batch of these clips; a negative one is padding."""
    resident = jax.tree.map(jnp.asarray, feeds.resident(data))
    clips = np.asarray(clips, np.int32)

    @jax.jit
    def program(clips, valid):
        sampling = Sampling(cfg, data.length, seed, epoch)
        return batches.gather(resident, batches.paired(Clips(clips, valid), sampling), sampling)

    return program(np.maximum(clips, 0), clips >= 0)


# ------------------------------------------------------------------ what a batch holds


@pytest.mark.parametrize("rule", ["whole", "segment"])
def test_a_batch_is_its_clips_changed_one_by_one_and_mixed(rule):
    cfg = augmented(frames__rule=rule)
    data = prepared(cfg, features(clips=20, lengths=(1, 12)))
    clips = [4, 9, 2, 17, 11, -1, -1]
    batch = gathered(cfg, data, clips)
    own_keys = augment.keys_of(3, 1, jnp.asarray(np.maximum(clips, 0)))

    def alone(clip, key):
        segment = jax.random.key(3)
        for number in (1, 1, clip):  # the purpose, the epoch, the clip
            segment = jax.random.fold_in(segment, number)
        pace = time.drawn(cfg.augment, key, data.length)
        index, mask = frames.indices(
            int(data.lengths[clip]), data.length, rule, key=segment, pace=pace
        )
        x = jnp.asarray(clip_of(data, clip)[np.asarray(index)])
        plain = replace(cfg.augment, mixup=0.0)
        return augment.changed(x[None], mask[None], plain, key[None])[0], mask

    valid = np.asarray(clips) >= 0
    place = np.asarray(mixing.partners(jnp.asarray(valid), own_keys))
    share = np.asarray(mixing.shares(0.4, own_keys))
    assert np.array_equal(batch.mix.share_B, share)
    for b in range(5):
        x, mask = alone(clips[b], own_keys[b])
        other, others_mask = alone(clips[place[b]], own_keys[place[b]])
        both = np.asarray(mask & others_mask)
        mixture = share[b] * np.asarray(x) + (1 - share[b]) * np.asarray(other)
        expected = np.where(both[:, None], mixture, x)
        counted = np.asarray(mask)
        assert np.array_equal(batch.mask_BT[b], counted)
        np.testing.assert_allclose(batch.inputs[b][counted], expected[counted], atol=1e-5)
        assert batch.mix.labels_B[b] == data.dataset.labels[clips[place[b]]]
    assert not np.asarray(batch.mask_BT[5:]).any()


def test_padding_never_reaches_a_loss_nor_a_gradient():
    """A batch padded with clips and frames has the loss of the one without either."""
    cfg = augmented(frames__rule="whole", data__val=0.0)
    data = prepared(cfg, features(clips=20, lengths=(1, 12)))
    clips = data.clips("train")[:5]
    group = group_of([cfg], data)
    group.initialize()
    hyper = jax.tree.map(jnp.asarray, step.hyperparameters(cfg))
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), group.snapshot().state)
    frozen = data.frozen

    def loss_of(batch):
        window = step.Window(batch, None, 0, batch.mask_BT)
        return step.gradients(group.spec, state, hyper, frozen, window)

    padded = loss_of(gathered(cfg, data, [*clips, -1, -1]))
    whole = loss_of(gathered(cfg, data, clips))
    assert furthest(padded.params, whole.params) < 1e-6
    batch = gathered(cfg, data, clips)
    spoiled = jnp.where(batch.mask_BT[..., None], batch.inputs, 7e3)
    assert furthest(loss_of(batch._replace(inputs=spoiled)).params, whole.params) < 1e-6


@pytest.mark.parametrize(
    ("kind", "smoothing"), [("cross_entropy", 0.0), ("cross_entropy", 0.2), ("double_softmax", 0.0)]
)
def test_the_loss_of_a_mixture_is_that_of_its_mixed_target(kind, smoothing):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(6, 4)).astype(np.float32))
    labels, others = (jnp.asarray(rng.integers(0, 4, 6)) for _ in range(2))
    share = jnp.asarray(rng.uniform(0.5, 1, 6).astype(np.float32))
    of_labels = partial(losses.per_clip, logits, kind=kind, smoothing=smoothing)
    ours = mixing.loss(of_labels, labels, mixing.Mix(others, share))
    one_hot = np.eye(4)
    target = share[:, None] * one_hot[labels] + (1 - share[:, None]) * one_hot[others]
    target = (1 - smoothing) * target + smoothing / 4
    scored = jax.nn.softmax(logits) if kind == "double_softmax" else logits
    expected = -(target * jax.nn.log_softmax(scored)).sum(1)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert np.array_equal(mixing.loss(of_labels, labels, None), of_labels(labels))


def test_scoring_sees_clips_as_they_are():
    plain, changed = settings(), augmented()
    data = prepared(plain)
    clips = np.arange(6)
    resident = jax.tree.map(jnp.asarray, feeds.resident(data))
    valid = jnp.ones(6, bool)
    a, b = (
        batches.gather(resident, Clips(clips, valid), Sampling(cfg, data.length, 0, None))
        for cfg in (plain, changed)
    )
    assert same(jax.tree.map(jax.random.key_data, a.keys_B), jax.random.key_data(b.keys_B))
    assert np.array_equal(a.inputs, b.inputs)
    assert b.mix is None


def test_an_epoch_and_a_seed_draw_anew():
    cfg = augmented()
    data = prepared(cfg)
    drawn = [
        np.asarray(gathered(cfg, data, range(6), epoch, seed).inputs).tobytes()
        for epoch, seed in ((0, 0), (1, 0), (0, 1), (0, 0))
    ]
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3


# ------------------------------------------------------------------ groups, devices, resumption


def without_mixup(changes):
    return {name: value for name, value in changes.items() if name != "augment.mixup"}


@pytest.mark.parametrize("changes", [FEATURES, OF_PIXELS | OF_TIME], ids=["features", "pixels"])
@pytest.mark.slow
def test_a_trial_in_a_group_is_the_trial_alone(changes):
    """To the bit; a mixture of two losses may be rounded otherwise in another program."""
    for own, near in ((without_mixup(changes), 0.0), (changes, 1e-5)):
        configs = [augmented(own, seed=seed, train__epochs=2) for seed in range(3)]
        source = pixels() if changes is not FEATURES else features()
        data = prepared(configs[0], source)
        together, _ = train(group_of(configs, data))
        alone, _ = train(group_of(configs[1:2], data))
        assert furthest(one(together.state, 1).params, one(alone.state, 0).params) <= near


@pytest.mark.slow
def test_a_trial_under_vmap_is_the_trial_alone_to_rounding():
    configs = [augmented(seed=seed, train__epochs=2) for seed in range(3)]
    with jax.enable_x64(True):
        data = prepared(configs[0])
        together, _ = train(group_of(configs, data, "vmap"))
        for place, cfg in enumerate(configs):
            alone, _ = train(group_of([cfg], data))
            assert furthest(one(together.state, place), one(alone.state, 0)) < 1e-9


@pytest.mark.slow
def test_devices_that_share_a_batch_train_the_same_model():
    """Eight clips of a batch of nine are mixed with ones that may lie on another device."""
    count = min(2, len(jax.devices()))
    cfg = augmented(train__batch_size=9, train__epochs=2, train__parallel="batch")
    with jax.enable_x64(True):
        data = prepared(cfg)
        one_device, _ = train(group_of([cfg], data, "batch", jax.devices()[:1]))
        several, _ = train(group_of([cfg], data, "batch", jax.devices()[:count]))
        assert furthest(one_device.state, several.state) < 1e-9


def test_training_goes_on_as_if_it_had_not_stopped():
    cfg = augmented(train__epochs=3)
    data = prepared(cfg)
    whole, _ = train(group_of([cfg], data))
    stopped, _ = train(group_of([cfg], data), epochs=1)
    resumed, _ = train(group_of([cfg], data), begun=stopped)
    assert same(whole.state, resumed.state)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["segment", "uniform"])
def test_streamed_frames_are_changed_as_resident_ones(rule):
    cfg = augmented(OF_PIXELS | OF_TIME, frames__rule=rule, train__epochs=2)
    data = prepared(cfg, pixels(lengths=(3, 14)))
    streamed = prepared(override(cfg, {"train.memory_gb": 1e-9}), pixels(lengths=(3, 14)))
    assert streamed.streams
    assert not data.streams
    a, _ = train(group_of([cfg], data))
    b, _ = train(group_of([cfg], streamed))
    chex.assert_trees_all_equal(a.state.params, b.state.params)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"train.grad_accum": 3}, {"train.tbptt_every": 2}])
def test_parts_and_windows_of_a_batch_see_one_augmentation(changes):
    common = {"head__kind": "per_frame", "train__epochs": 1, "loss__frame_weights": "uniform"}
    cfg = augmented(**common)
    data = prepared(cfg)
    plain, _ = train(group_of([cfg], data))
    other, _ = train(group_of([override(cfg, changes)], data))
    if "train.grad_accum" in changes:
        assert furthest(plain.state.params, other.state.params) < 1e-5
    else:
        assert np.isfinite(furthest(plain.state.params, other.state.params))


def test_settings_that_are_off_leave_ids_and_training_as_they_were():
    from vidrec.config import identifying_settings, signature

    assert not any(name.startswith("augment.") for name in identifying_settings(Config()))
    assert signature(augmented()) != signature(settings())
