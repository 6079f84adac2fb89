"""A trial in a group is the trial alone: to the bit under map, to 1e-9 in float64 under vmap."""

import os
import platform
import subprocess
import sys
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_datasets import furthest, group_of, one, prepared, same, settings, train

from vidrec.config import override
from vidrec.errors import UserError
from vidrec.training import batches, devices, feeds, runtime, step
from vidrec.training.group import Snapshot, TrialGroup
from vidrec.training.stopping import Status

EPOCHS = 3


def sixteen():
    """Different in every number that may differ; they stop at different epochs."""
    rng = np.random.default_rng(0)
    return [
        settings(
            seed=trial,
            scanner__batch_norm=True,
            optim__learning_rate=float(rng.choice([0.01, 0.1, 0.5])),
            optim__momentum=float(rng.choice([0.0, 0.5, 0.9])),
            optim__weight_decay=float(rng.choice([0.0, 0.01])),
            optim__clip_norm=float(rng.choice([0.0, 0.3])),
            scanner__dropout=float(rng.choice([0.0, 0.2, 0.5])),
            train__epochs=3 + trial % 4,
            train__patience=trial % 3,
        )
        for trial in range(16)
    ]


CONFIGS = sixteen()


@pytest.fixture(scope="module")
def data():
    return prepared(CONFIGS[0])


@pytest.fixture(scope="module")
def grouped(data):
    """The group of 16: its last snapshot, its records and its progress."""
    group = group_of(CONFIGS, data)
    return *train(group), group.progress


def test_a_mapped_trial_is_the_trial_alone_to_the_bit(grouped, data):
    states, records, progress = grouped
    assert len({each.epoch for each in progress}) > 2
    assert {each.status for each in progress} == {Status.FINISHED, Status.STOPPED}
    for place in range(0, 16, 3):
        state, history = train(group_of([CONFIGS[place]], data))
        assert same(one(state, 0), one(states, place))
        for epoch, [record] in enumerate(history):
            assert record == records[epoch][place]


def test_a_stopped_trial_keeps_its_state_and_has_no_figures(grouped, data):
    states, records, progress = grouped
    first = int(np.argmin([each.epoch for each in progress]))
    ended = progress[first].epoch
    assert ended < len(records)
    early, _ = train(group_of(CONFIGS, data), epochs=ended)
    assert same(one(early, first), one(states, first))
    assert records[ended][first] is None


def test_trials_that_diverge_leave_the_others_alone(grouped, data):
    """One clipped rate of 1e6, which stays finite, and one that gives NaN, in the middle."""
    states, _, _ = grouped
    wild = list(CONFIGS)
    wild[5] = settings(scanner__batch_norm=True, optim__learning_rate=1e6, optim__clip_norm=1.0)
    wild[8] = settings(scanner__batch_norm=True, optim__learning_rate=1e38)
    group = group_of(wild, data)
    found, records = train(group)
    for place in range(16):
        if place not in (5, 8):
            assert same(one(found, place), one(states, place))
    for place in (5, 8):
        assert group.progress[place].status == Status.DIVERGED
        assert group.progress[place].epoch == 1
    assert np.isfinite(records[0][5].train_loss)
    assert not np.isfinite(records[0][8].train_loss)
    # What is kept of them is the best before, here the untrained weights: finite.
    assert all(np.isfinite(leaf[[5, 8]]).all() for leaf in jax.tree.leaves(found.best))


def in_float64(how):
    """16 trials after three epochs, then to their ends, with their progress."""
    with jax.enable_x64(True):
        group = group_of(CONFIGS, prepared(CONFIGS[0]), how)
        state = train(group, EPOCHS)[0]
        assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(state.state.params))
        return state, train(group)[0], group.progress


@pytest.fixture(scope="module")
def mapped64():
    return in_float64("map")


def alike(ended, progress, mapped64, count=16):
    """The first trials as the mapped ones: decisions equal, weights and figures to 1e-9."""
    _, wanted, decided = mapped64
    for own, theirs in zip(progress, decided[:count], strict=True):
        assert (own.epoch, own.status, own.best_epoch) == (
            theirs.epoch,
            theirs.status,
            theirs.best_epoch,
        )
        assert own.epochs_without_improvement == theirs.epochs_without_improvement
    assert furthest(ended, jax.tree.map(lambda leaf: leaf[:count], wanted)) < 1e-9


@pytest.mark.slow
def test_batched_trials_in_float64_are_those_alone(mapped64):
    state, ended, progress = in_float64("vmap")
    assert furthest(state.state.weights, mapped64[0].state.weights) < 1e-9
    alike(ended, progress, mapped64)


def ten_over(devices, how="map"):
    """Ten trials to their ends, in float64."""
    with jax.enable_x64(True):
        ten = CONFIGS[:10]
        group = group_of(ten, prepared(ten[0]), how, jax.devices()[:devices])
        assert len(group.placement.devices) == -(-10 // group.placement.share)
        return train(group)[0], group.progress


@pytest.mark.slow
def test_ten_trials_over_four_devices_are_ten_on_one(mapped64):
    """XLA compiles for several devices otherwise than for one: float32 differs in the last bit."""
    alike(*ten_over(4), mapped64, 10)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "how"), [(2, "map"), (8, "map"), (4, "vmap")])
def test_ten_trials_over_other_numbers_of_devices(mapped64, devices, how):
    alike(*ten_over(devices, how), mapped64, 10)


@pytest.mark.slow
def test_several_devices_agree_to_the_bit_and_with_one_to_the_last(data):
    ten = CONFIGS[:10]
    two, eight, one_device = (
        train(group_of(ten, data, on=jax.devices()[:n]), EPOCHS)[0] for n in (2, 8, 1)
    )
    assert same(two, eight)
    away = furthest(two.state.params, one_device.state.params)
    print(f"float32, several devices against one after {EPOCHS} epochs: {away:.1e}")
    assert away < 1e-3


@pytest.mark.slow
def test_batched_trials_in_float32_stay_near(data, record_property):
    state, _ = train(group_of(CONFIGS, data, "vmap"), EPOCHS)
    mapped, _ = train(group_of(CONFIGS, data), EPOCHS)
    away = furthest(state.state.params, mapped.state.params)
    record_property("float32_difference", away)
    print(f"float32, vmap against map after {EPOCHS} epochs: {away:.1e}")
    assert away < 1e-3
    wild = list(CONFIGS)
    wild[5] = settings(scanner__batch_norm=True, optim__learning_rate=1e38)
    ordinary, found = (train(group_of(each, data, "vmap"))[0] for each in (CONFIGS, wild))
    for place in range(16):
        assert same(one(found, place), one(ordinary, place)) == (place != 5)


class Counter(NamedTuple):
    """A state that counts."""

    epoch: np.ndarray
    values: np.ndarray


def counting(placement):
    """A carried step that adds, and how often it was traced."""
    traced = []

    def step(state, hyper, shared):
        traced.append(1)
        moved = state._replace(epoch=state.epoch + hyper + shared)
        return moved, moved.epoch

    return placement.advance(step), traced


@pytest.mark.parametrize("how", ["map", "vmap"])
@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_groups_of_any_size_go_over_devices_and_back(how, count):
    placement = devices.TrialParallel(count, how, jax.devices())
    assert placement.share * len(placement.devices) >= count
    assert placement.share * (len(placement.devices) - 1) < count, "a device without a trial"
    values = np.arange(2 * count, dtype=np.int32).reshape(count, 2)
    state = Counter(np.arange(count, dtype=np.int32), values)
    active = np.arange(count) % 3 != 0
    there = placement.shard(state)
    assert all(len(leaf.sharding.device_set) == len(placement.devices) for leaf in there)
    assert same(placement.fetch(there), state)
    run, traced = counting(placement)
    add = placement.shard(np.arange(count, dtype=np.int32))
    shared = placement.share_all(np.int32(7))
    for _ in range(3):
        stepped, out = run(placement.shard(active), there, add, shared)
    assert len(traced) <= 2  # a conditional is traced for its shapes, too
    moved = state.epoch + np.arange(count) + 7
    assert np.array_equal(placement.fetch(stepped.epoch), np.where(active, moved, state.epoch))
    assert np.array_equal(placement.fetch(out), np.where(active, moved, 0))
    kept = placement.fetch(
        placement.selector()(placement.shard(active), stepped, placement.shard(state))
    )
    assert np.array_equal(kept.epoch, np.where(active, moved, state.epoch))
    assert np.array_equal(kept.values, state.values)


@pytest.mark.parametrize("how", ["map", "vmap", "batch"])
@pytest.mark.parametrize("rows", [1, 5, 8])
def test_rows_are_scored_by_every_trial_and_a_stopped_one_gives_zeros(how, rows):
    four = jax.devices()[:4]
    placement = (
        devices.DataParallel(four) if how == "batch" else devices.TrialParallel(3, how, four)
    )
    count = 1 if how == "batch" else 3
    active = np.array([True, False, True])[:count]
    values = np.random.default_rng(rows).integers(0, 9, (placement.rows(rows), 2)).astype(np.int32)
    scorer = placement.scorer(lambda number, row, shared: number * row.sum(1) + shared)
    numbers = np.arange(1, count + 1, dtype=np.int32)
    found = scorer(
        placement.shard(active),
        (placement.shard(numbers),),
        values,
        placement.share_all(np.int32(5)),
    )
    wanted = numbers[:, None] * values.sum(1)[None] + 5
    assert np.array_equal(placement.fetch(found), np.where(active[:, None], wanted, 0))


@pytest.mark.parametrize("number", [2, 3, 8])
@pytest.mark.parametrize("count", [3, 5, 8, 11])
def test_trials_that_go_on_lie_evenly_on_the_devices(count, number):
    placement = devices.TrialParallel(count, "map", jax.devices()[:number])
    rng = np.random.default_rng(count)
    values = rng.random((count, 3, 2), np.float32)
    tree = np.arange(count, dtype=np.int32), values
    there, alive = placement.shard(tree), np.ones(count, bool)
    for stopped in rng.permutation(count):
        alive[stopped] = False
        there = placement.rebalance(alive, there)
        assert same(placement.fetch(there), tree)
        lying = [np.asarray(shard.data) for shard in there[0].addressable_shards]
        busiest = max(alive[trials].sum() for trials in lying)
        assert busiest == -(-alive.sum() // len(placement.devices)), "one waits for another"
        assert placement.rebalance(alive, there) is there, "moved although nothing is gained"


def test_batched_trials_stay_where_they_are():
    placement = devices.TrialParallel(4, "vmap", jax.devices()[:2])
    there = placement.shard(np.arange(4))
    assert placement.rebalance(np.array([True, False, True, False]), there) is there


def test_what_was_gathered_does_not_change_when_its_buffers_are_given_away():
    """The host's copy is saved by a thread while the next epoch writes into the donated state."""
    placement = devices.TrialParallel(2, "map", jax.devices()[:1])

    def double(state, hyper, shared):
        return state._replace(values=state.values * 2 + shared), jnp.zeros(())

    zero, active = np.zeros(2, np.int32), placement.shard(np.ones(2, bool))
    state = placement.shard(Counter(zero, np.ones((2, 4096), np.float32)))
    shared = placement.share_all(np.float32(1))
    arguments = (active, state, placement.shard(zero), shared)
    run = devices.compiled(placement.advance(double, donate=True), *arguments)
    seen = []
    for _ in range(5):
        seen.append(placement.fetch(state))
        state, _ = run(active, state, placement.shard(zero), shared)
    assert [each.values[0, 0] for each in seen] == [1, 3, 7, 15, 31]


# Of 5 clips a batch the last of 4 devices gets none, and the last batch has 4 clips.
SHARED = settings(
    scanner__batch_norm=True,
    scanner__dropout=0.3,
    optim__clip_norm=0.2,
    optim__weight_decay=0.01,
    train__epochs=2,
)


def shared_by(devices, cfg=SHARED):
    """A trial's snapshot and figures after two epochs in float64, and all its clips' scores."""
    with jax.enable_x64(True):
        group = group_of([cfg], prepared(cfg), "batch", jax.devices()[:devices])
        state, records = train(group)
        clips = np.arange(33, dtype=np.int32) % 32
        return state, records, group.score(clips)


@pytest.fixture(scope="module")
def on_one_device():
    return shared_by(1)


@pytest.mark.slow
def test_a_batch_spread_over_four_devices_is_the_batch_on_one(on_one_device):
    assert furthest(shared_by(4), on_one_device) < 1e-9


@pytest.mark.slow
def test_a_batch_on_one_device_is_the_trial_in_a_group(on_one_device):
    with jax.enable_x64(True):
        state, records = train(group_of([SHARED]))
    assert furthest((state, records), on_one_device[:2]) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
def test_a_batch_spread_over_other_numbers_of_devices(on_one_device, devices):
    assert furthest(shared_by(devices), on_one_device) < 1e-9


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices(on_one_device):
    with jax.enable_x64(True):
        data = prepared(SHARED)
        four, two = (group_of([SHARED], data, "batch", jax.devices()[:n]) for n in (4, 2))
        begun, _ = train(four, epochs=1)
        assert furthest(train(two, begun=Snapshot(*begun))[0], on_one_device[0]) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"train__tbptt_every": 4, "head__kind": "per_frame"}, {"train__grad_accum": 2}]
)
def test_windows_and_parts_of_a_spread_batch(changes):
    cfg = settings(scanner__dropout=0.3, train__epochs=2, **changes)
    assert furthest(shared_by(4, cfg), shared_by(1, cfg)) < 1e-9


@pytest.mark.slow
def test_parts_of_a_batch_add_up_to_the_batch():
    """5 clips in 3 parts, the last padded; windows carry on within each part."""
    for changes in ({}, {"train__tbptt_every": 4, "head__kind": "per_frame"}):
        cfg = settings(scanner__dropout=0.3, optim__clip_norm=0.2, train__epochs=2, **changes)
        whole = shared_by(1, cfg)[:2]
        assert furthest(shared_by(1, override(cfg, {"train.grad_accum": 3}))[:2], whole) < 1e-9


def test_several_trials_cannot_share_a_batch():
    with pytest.raises(UserError, match=r"train.parallel = 'batch' trains one trial at a time"):
        devices.placement(2, "batch")
    assert isinstance(devices.placement(1), devices.DataParallel)
    assert isinstance(devices.placement(2), devices.TrialParallel)


@pytest.mark.slow
class Variants(chex.TestCase):
    """One step, compiled, plain, and on several devices at once."""

    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    def test_a_step_is_the_same_however_it_is_carried(self):
        cfg = settings(scanner__dropout=0.3, scanner__batch_norm=True, optim__clip_norm=0.1)
        with jax.enable_x64(True):
            data = prepared(cfg)
            group = group_of([cfg], data)
            group.initialize()
            spec, hyper = group.spec, step.hyperparameters(cfg)
            resident = jax.tree.map(jnp.asarray, feeds.resident(data))
            clips, valid = data.clips("train")[:5], jnp.arange(5) < 4
            batch = batches.gather(
                resident,
                batches.Clips(clips, valid),
                batches.Sampling(cfg, spec.length, hyper["seed"], 0),
            )
            state = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), group.snapshot().state)
            train_step = partial(step.train_step, spec)
            arguments = (state, hyper, resident.frozen, batch)
            expected, _ = jax.jit(train_step)(*arguments)
            found, sums = self.variant(train_step)(*arguments)
            assert sums["clips"] == 4
            assert furthest(found, expected) < 1e-12
            assert furthest(found.params, state.params) > 1e-4


def test_processors_share_the_clips_and_divide_the_rest(monkeypatch):
    monkeypatch.setattr(runtime, "machine_bytes", lambda: 10e9)
    shared = {"values": np.zeros(250_000_000, np.uint8)}
    assert devices.TrialParallel(8, devices=jax.devices()[:4]).memory_limit(
        shared
    ) == pytest.approx(0.25e9 + (8e9 - 0.25e9) / 4)
    assert devices.DataParallel(jax.devices()[:1]).memory_limit(shared) == pytest.approx(8e9)
    assert runtime.room() == pytest.approx(10e9 / 3)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_where_it_was_asked_for():
    program = """
import re, sys
from pathlib import Path
import numpy as np
from vidrec.training import runtime
if sys.argv[1] == "kept":
    runtime.keep_memory()
for _ in range(2):
    large = np.ones(2**25)
    del large
print(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", program, how]))
        for how in ("kept", "given back")
    )
    assert kept - given_back > 0.9 * 2**28 / 1024


@pytest.mark.parametrize("given", ["", "3"])
def test_cores_are_devices_for_a_table_and_one_for_a_trial(given):
    """Clips lie once, however many cores read them."""
    program = """
import jax, numpy as np
from vidrec.training import devices as parallel, runtime
runtime.use_cores()
alone, three = parallel.placement(1), parallel.placement(3)
clips = three.share_once(np.ones((1001, 7), np.float32)[1:], {})
lie = {each.data.unsafe_buffer_pointer() for each in clips.addressable_shards}
told = isinstance(parallel.placement(1, "batch"), parallel.DataParallel)
print(jax.local_device_count(), len(alone.devices), len(three.devices), len(lie), told)
"""
    environment = {name: each for name, each in os.environ.items() if name != "XLA_FLAGS"}
    if given:
        environment["JAX_NUM_CPU_DEVICES"] = given
    count = int(given or min(runtime.cores(), max(1, runtime.machine_bytes() // 4e9)))
    found = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    three = -(-3 // -(-3 // count))
    assert found.split() == [str(count), "1", str(three), "1", "True"]


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(runtime, "cores", lambda: 9)
    monkeypatch.setattr(runtime, "machine_bytes", lambda: 1e12)
    assert runtime.share_of_cores(4) == {"JAX_NUM_CPU_DEVICES": "2"}
    assert runtime.share_of_cores(20) == {"JAX_NUM_CPU_DEVICES": "1"}
    monkeypatch.setattr(runtime, "machine_bytes", lambda: 13e9)  # three devices' worth
    assert runtime.share_of_cores(1) == {"JAX_NUM_CPU_DEVICES": "3"}
    monkeypatch.setattr(runtime, "are_cores", lambda: True)  # the user said how many
    assert runtime.share_of_cores(1) == {}


def test_places_that_are_left_over_and_trials_left_out_change_nothing_of_the_others():
    """Trials in a group with room for more, one of them left out, are what they are alone."""
    configs = [settings(seed=seed, optim__learning_rate=0.02 * (seed + 1)) for seed in range(3)]
    data, two = prepared(configs[0]), jax.devices()[:2]
    programs = {}

    def begun(own, on, places):
        placement = devices.TrialParallel(len(own), "map", on, places=places)
        group = TrialGroup(own, data, placement, programs if places else None)
        group.initialize()
        group.compile()
        group.judge_untrained()
        return group

    group = begun(configs, two, 8)
    assert np.asarray(group.placement.shard_active(np.ones(3, bool))).sum() == 3
    group.train_epoch()
    group.leave_out([1])
    assert group.active.tolist() == [True, False, True]
    while group.active.any():
        group.train_epoch()
    assert [each.epoch for each in group.progress] == [3, 1, 3]
    found = group.snapshot()
    for place in (0, 2):
        alone = begun([configs[place]], two[:1], 0)
        while alone.active.any():
            alone.train_epoch()
        wanted = alone.snapshot()
        assert same(one(found.state, place), one(wanted.state, 0))
        assert same(one(found.best, place), one(wanted.best, 0))
    [known] = programs.values()
    before = dict(known)
    again = begun(configs[:2], two, 8)  # of another size, with the same room
    again.train_epoch()
    assert len(programs) == 1
    assert all(known[name] is program for name, program in before.items())
