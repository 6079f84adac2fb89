"""Features streamed from disk train to the same bits as features in memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.small_datasets import features, group_of, pixels, prepared, same, settings, train
from helpers.training_runs import Soon, contents

from vidrec.config import override
from vidrec.data import rows
from vidrec.data.datasets import feature_files
from vidrec.errors import UserError
from vidrec.features import on_disk
from vidrec.training import feeds, loop, prepare, results, runtime

GRID = {"encoder.standardize": False, "encoder.pca": 0}
PROJECTIONS = {
    "as they are": GRID,
    "standardised": {**GRID, "encoder.standardize": True},
    "components": {**GRID, "encoder.pca": 3},
}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def streamed(monkeypatch):
    """Nothing fits in memory, a chunk has few batches, and a thread reads few clips at a time."""
    small_memory(monkeypatch)


def small_memory(monkeypatch):
    monkeypatch.setattr(runtime, "room", lambda gigabytes: 0)
    monkeypatch.setattr(feeds, "CHUNK", 700)
    monkeypatch.setattr(on_disk, "PIECE", 100)


def ready(folder, dtype=np.float16, shape=(5,)):
    """Arrays of unequal length as files, two of which hold none."""
    source = features(clips=22, width=int(np.prod(shape)), broken=(3, 8))
    folder.mkdir(exist_ok=True)
    paths = []
    for name, values in zip(source.names, source.arrays, strict=True):
        paths.append(folder / f"{name}.npy")
        if not paths[-1].exists():
            np.save(paths[-1], values.reshape(-1, *shape).astype(dtype))
            os.utime(paths[-1], (1, 1))
    return feature_files.ArrayFiles(
        source.name, source.classes, source.names, source.labels, source.groups, paths=tuple(paths)
    )


def frames():
    """Through a frozen encoder, whose features are kept in half precision."""
    return pixels(clips=22, broken=(3,))


ENCODED = {
    "encoder.kind": "cnn",
    "encoder.pooling": "average",
    "encoder.width": 4,
    "encoder.size": 8,
    "encoder.store_dtype": "float16",
}


def both(cfg, source, monkeypatch):
    """What is prepared of the same clips in memory and on disk."""
    held = prepared(cfg, source)
    monkeypatch.setattr(runtime, "room", lambda gigabytes: 0)
    return held, prepared(cfg, source)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("kind", ["ready", "ready maps", "array", "stored"])
def test_what_is_prepared_is_the_same_to_the_bit(kind, projection, tmp_path, monkeypatch):
    monkeypatch.setattr("vidrec.features.projection.BLOCK", 7)
    cfg = settings(**{"frames.rule": "segment_mean_length"})
    sources = {
        "ready": lambda: ready(tmp_path / "npy"),
        "ready maps": lambda: ready(tmp_path / "npy", np.float64, (2, 3, 4)),
        "array": lambda: features(clips=22, broken=(3,)),
        "stored": frames,
    }
    changes = PROJECTIONS[projection] | (ENCODED if kind == "stored" else {})
    held, found = both(override(cfg, changes), sources[kind](), monkeypatch)
    assert (held.streams, found.streams) == (False, True)
    assert found.values.size == 0
    assert found.values.dtype == held.values.dtype
    assert found.values.shape[1:] == held.values.shape[1:]
    assert (found.length, found.unreadable) == (held.length, held.unreadable)
    assert same(
        (found.offsets, found.lengths, found.saved), (held.offsets, held.lengths, held.saved)
    )
    for clip in held.readable:
        first, count = held.offsets[clip], held.lengths[clip]
        one = found.on_disk.of(clip)
        assert same(one.astype(held.values.dtype), held.values[first : first + count])
        assert one.itemsize <= held.values.itemsize
    assert np.all(found.on_disk.lengths[found.split.train] == held.lengths[held.split.train])


def test_it_is_said_that_features_stay_on_disk(tmp_path, monkeypatch):
    source, told = ready(tmp_path / "npy"), []
    prepare.prepare(settings(), dataset=source, tell=told.append)
    assert not any("disk" in line for line in told)
    monkeypatch.setattr(runtime, "room", lambda gigabytes: 1000.0)
    data = prepare.prepare(settings(), dataset=source, tell=told.append)
    size = 4 * 5 * data.lengths.sum()
    assert size > 1000
    assert f"features take {size / 1e9:.3g} GB and memory has 1e-06 for them" in told[-1]
    monkeypatch.setattr(runtime, "room", lambda gigabytes: float(size))  # just enough
    assert not prepared(settings(), source).streams


def test_half_precision_stays_half_until_the_device(tmp_path, streamed):
    data = prepared(settings(), ready(tmp_path / "npy"))
    assert (data.on_disk.dtype, data.values.dtype) == (np.float16, np.float32)
    group = group_of([settings()], data)
    group.initialize()
    clips = data.clips("train")[:8].reshape(1, 2, 4)
    [chunk] = group.feed.training(clips, 0, 2)
    assert chunk.dtype == np.float16


def trials():
    """One group: other seeds and rates, dropout, decisions by windows, a ragged last batch."""
    common = {"head.kind": "per_frame", "scanner.dropout": 0.3, "train.save_seconds": 600}
    changes = (
        {"train.epochs": 3},
        {"seed": 2**31 + 1, "train.epochs": 2, "optim.learning_rate": 0.2},
        {"train.epochs": 3, "eval.inference": "average", "eval.window": 3, "eval.stride": 2},
    )
    return [override(settings(), common | each) for each in changes]


def fit(configs, source, folder, callback=None):
    data = prepared(configs[0], source)
    members = [results.TrialRun(f"t{i}", cfg, folder / f"t{i}") for i, cfg in enumerate(configs)]
    loop.fit(members, data, folder / "group", callback=callback)
    return data


def test_a_group_trains_validates_and_scores_to_the_same_bits(tmp_path, request):
    configs = trials()
    held = fit(configs, ready(tmp_path / "npy"), tmp_path / "held")
    request.getfixturevalue("streamed")
    found = fit(configs, ready(tmp_path / "npy"), tmp_path / "streamed")
    assert (held.streams, found.streams) == (False, True)
    assert contents(tmp_path / "streamed") == contents(tmp_path / "held")


@pytest.mark.slow
@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("kind", ["ready", "stored"])
@pytest.mark.parametrize("parallel", ["trials", "batch"])
def test_every_kind_trains_to_the_same_bits(kind, projection, parallel, tmp_path, request):
    changes = PROJECTIONS[projection] | (ENCODED if kind == "stored" else {})
    changes |= {"train.parallel": parallel, "train.grad_accum": 1}
    configs = [override(each, changes) for each in trials()]
    configs = configs[:1] if parallel == "batch" else configs

    def source():
        return frames() if kind == "stored" else ready(tmp_path / "npy")

    assert not fit(configs, source(), tmp_path / "held").streams
    request.getfixturevalue("streamed")
    assert fit(configs, source(), tmp_path / "streamed").streams
    assert contents(tmp_path / "streamed") == contents(tmp_path / "held")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"frames.rule": "whole"},
        {"frames.rule": "uniform"},
        {"frames.order": "shuffled"},
        {"frames.order": "single"},
        {"scanner.kind": "mean"},
    ],
    ids=str,
)
def test_every_choice_of_frames_trains_to_the_same_bits(changes, tmp_path, monkeypatch):
    assert trains_to_the_same_bits(changes, tmp_path, monkeypatch)


def trains_to_the_same_bits(changes, folder, monkeypatch):
    cfg = override(settings(), changes)
    held = train(group_of([cfg], prepared(cfg, ready(folder / "npy"))))
    small_memory(monkeypatch)
    data = prepared(cfg, ready(folder / "npy"))
    assert data.streams
    return same(train(group_of([cfg], data)), held)


@pytest.mark.slow
def test_windows_of_back_propagation_train_to_the_same_bits(tmp_path):
    """Compiled as for users: the older emitters of tests' own flags add up windows otherwise."""
    here = Path(__file__).parent
    code = (
        "from pathlib import Path; import pytest, test_streamed_features as tests\n"
        "changes = {'head.kind': 'per_frame', 'train.tbptt_every': 2}\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "assert tests.trains_to_the_same_bits(changes, folder, pytest.MonkeyPatch())"
    )
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    unset = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", code], check=True, env={**unset, "PYTHONPATH": path})


@pytest.mark.slow
@pytest.mark.parametrize("projection", ["as they are", "components"])
def test_a_run_that_stops_goes_on_to_the_same_bits(projection, tmp_path, request):
    configs = [override(each, PROJECTIONS[projection]) for each in trials()]
    fit(configs, ready(tmp_path / "npy"), tmp_path / "held")
    request.getfixturevalue("streamed")
    watch = Soon(3)
    with pytest.raises(loop.Interrupted, match="after epoch 1 and 1 of 2 steps"):
        fit(configs, ready(tmp_path / "npy"), tmp_path / "stopped", watch)
    fit(configs, ready(tmp_path / "npy"), tmp_path / "stopped")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "held")


def test_a_file_that_changes_while_it_trains_is_named(tmp_path, streamed):
    source = ready(tmp_path / "npy")
    assert len(source.keys) == 22
    data = prepared(settings(), source)
    np.save(source.paths[5], np.ones((data.lengths[5], 5), np.float16))
    with pytest.raises(UserError, match=r"clip_005.npy was changed while it was used"):
        data.on_disk.of(5)
    source.paths[6].write_bytes(source.paths[6].read_bytes()[:-3])
    with pytest.raises(UserError, match=r"clip_006.npy is shorter than it was"):
        data.on_disk.of(6)
    source.paths[7].unlink()
    with pytest.raises(UserError, match=r"clip_007.npy was removed while it was used"):
        data.on_disk.of(7)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_are_those_of_the_array(dtype, tmp_path):
    rng = np.random.default_rng(0)
    array = rng.normal(size=(40, 3, 2)).astype(dtype)
    head = b"12345678" * 3
    (tmp_path / "rows").write_bytes(head + array.tobytes() + b"behind")
    place = rows.Place(tmp_path / "rows", len(head), array.shape, array.dtype)
    for indices in (
        np.arange(40),
        np.arange(7, 19),
        rng.integers(0, 40, 30),  # many of a span
        np.array([39, 0, 0, 20]),  # few of it
        np.array([5]),
        np.array([], int),
        np.r_[30:40, 38:20:-1],
    ):
        assert same(rows.read_rows(place, indices), array[indices])
    for wrong in ([40], [-1]):
        with pytest.raises(IndexError):
            rows.read_rows(place, wrong)


@pytest.mark.parametrize(("clips", "per_chunk"), [(12, 4), (12, 12), (10, 5), (7, 1)])
def test_batches_come_in_order_whatever_the_threads(clips, per_chunk, tmp_path, monkeypatch):
    data = prepared(settings(), source := ready(tmp_path / "npy"))
    monkeypatch.setattr(runtime, "room", lambda gigabytes: 0)
    features = prepared(settings(), source).on_disk
    rng = np.random.default_rng(clips)
    chosen = rng.choice(data.readable, clips)
    indices = np.stack([rng.integers(0, data.lengths[clip], 3) for clip in chosen])
    expected = data.values[data.offsets[chosen][:, None] + indices]
    for threads, piece in ((1, 1), (3, 70), (8, 10**6)):
        monkeypatch.setattr(on_disk, "THREADS", threads)
        monkeypatch.setattr(on_disk, "PIECE", piece)
        found = list(on_disk.read_batches(features, chosen, indices, per_chunk))
        assert [len(each) for each in found] == [per_chunk] * (clips // per_chunk)
        np.testing.assert_array_equal(np.concatenate(found), expected)


def test_what_was_found_in_files_is_remembered(tmp_path, streamed, monkeypatch):
    source = ready(tmp_path / "npy")
    first = prepared(settings(), source)
    calls = []
    monkeypatch.setattr(type(source), "features", lambda self, clip: calls.append(clip) or None)
    monkeypatch.setattr("vidrec.features.ready.size", lambda dataset: 1.0)
    again = prepared(settings(), source)
    assert calls == []
    assert same((first.lengths, first.split.train), (again.lengths, again.split.train))
    assert first.unreadable == again.unreadable
    assert [clip for clip, *_ in again.unreadable] == [3, 8]


def test_damaged_projected_features_are_made_anew(tmp_path, streamed):
    cfg = settings(**{"encoder.pca": 2})
    first = prepared(cfg, ready(tmp_path / "npy"))
    before = [first.on_disk.of(clip) for clip in first.readable]
    place = first.on_disk.places[int(first.readable[4])]
    with open(place.file, "r+b") as file:
        file.seek(place.start + 1)
        file.write(b"\xff\x13")
    again = prepared(cfg, ready(tmp_path / "npy"))
    assert again.on_disk.places[int(first.readable[4])].start != place.start
    assert same([again.on_disk.of(clip) for clip in again.readable], before)
