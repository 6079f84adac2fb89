"""The feature store: extracted once, whole or not at all, the same bits whatever happened."""

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from helpers import video_files
from helpers.small_datasets import features as ready_made
from helpers.small_datasets import pixels, prepared, settings
from helpers.system_errors import TRANSIENT_CODES
from sklearn.decomposition import PCA

from vidrec.config import Data, digest, override
from vidrec.data import datasets
from vidrec.errors import UserError
from vidrec.evaluation.predict.reading import ClipReader
from vidrec.features import extraction, pace, projection, ragged, shards
from vidrec.features.extraction import Extraction
from vidrec.features.store import Store, dependencies
from vidrec.models import encoders
from vidrec.sweeps.ablation import load, rows
from vidrec.training import prepare

SIZE = 8


def encode(frames):
    """Features that depend on each frame alone: (batch, 4)."""
    assert frames.dtype == np.uint8
    flat = frames.reshape(len(frames), -1).astype(np.float32)
    return np.stack([flat.mean(1), flat.std(1), flat[:, 0], flat[:, -1]], 1)


def extract(source, store, batch=7, **options):
    return extraction.extract(Extraction(source, store, encode, SIZE, batch), **options)


def stored(store):
    """What another process finds in a store's folder: (features, note) of each key."""
    other = Store(store.folder)
    return {key: (other.get(key).tolist(), other.warning(key)) for key in sorted(other.keys())}


@pytest.fixture
def store(tmp_path):
    return Store.of({"encoder": "means"}, tmp_path)


def test_stored_features_are_those_of_each_frame_alone(store):
    source = pixels(broken=(3,))
    unreadable = extract(source, store)
    assert unreadable == [(3, "clip_003", "is empty")]
    found = extraction.load(source, store, unreadable)
    for clip, frames in enumerate(source.arrays):
        start = found.offsets[clip]
        own = found.values[start : start + found.lengths[clip]]
        alone = [encode(frame[None])[0] for frame in frames]
        assert np.array_equal(own, np.array(alone).reshape(own.shape))


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_neither_batch_nor_number_of_threads_changes_a_bit(store, tmp_path, batch):
    source = pixels(broken=(0, 5, 11))
    extract(source, store)
    other = Store.of({"encoder": "means"}, tmp_path / "other")
    extract(source, other, batch=batch, workers=1)
    assert stored(other) == stored(store)


def test_what_a_file_lacked_is_known_though_its_features_are_only_read(store, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / "videos" / folder).mkdir(parents=True)
        video_files.CASES["cut mp4"][0](tmp_path / "videos" / folder)
    video_files.clip("whole.avi")(tmp_path / "videos" / "b")
    damage = []
    for _ in range(2):
        source = datasets.load(Data(kind="videos", root=str(tmp_path / "videos")))
        assert source.warnings == {}
        extract(source, store)
        damage.append(source.warnings)
    assert set(damage[0]) == {"a/clip.mp4", "b/clip.mp4"}  # the second is the first's copy
    assert "truncated after" in damage[0]["b/clip.mp4"]
    assert damage[1] == damage[0]


def test_size_and_time_are_told_beforehand(store):
    source = pixels(broken=(0, 3))
    source.arrays = (*source.arrays[:4], source.arrays[1], *source.arrays[5:])
    expected = extraction.forecast(Extraction(source, store, encode, SIZE, 7))
    extract(source, store)
    # Unreadable ones, of equal content, are tried.
    assert expected.clips == len(stored(store)) + 1
    assert expected.frames == sum(map(len, source.arrays)) - len(source.arrays[4])
    [arrays], [index] = (store.folder.glob(f"*.{end}") for end in ("arrays", "index"))
    written = arrays.stat().st_size + index.stat().st_size
    assert expected.bytes == pytest.approx(written, abs=64 * expected.clips)
    assert 0 < expected.seconds < 10
    assert f"{expected.clips} clips" in str(expected)
    source = pixels()
    extract(source, store)
    assert extraction.forecast(Extraction(source, store, encode, SIZE, 7)) is None


def test_a_filled_store_is_not_extracted_again(store):
    source = pixels()
    extract(source, store)
    assert len(source.streamed) == len(source)
    source.streamed.clear()
    extract(source, store)
    assert source.streamed == []


def test_equal_clips_are_encoded_once(store):
    source = pixels()
    source.arrays = (*source.arrays[:4], source.arrays[0], *source.arrays[5:])
    extract(source, store)
    assert "clip_000" in source.streamed
    assert "clip_004" not in source.streamed
    found = extraction.load(source, store, [])
    ours = [found.values[found.offsets[i] :][: found.lengths[i]] for i in (0, 4)]
    assert np.array_equal(*ours)


class Breaks(Exception):
    """Ends an extraction in the middle."""


def test_an_extraction_that_ended_in_the_middle_goes_on_to_the_same_bits(store, tmp_path):
    source = pixels()
    whole = Store.of({"encoder": "means"}, tmp_path / "whole")
    extract(source, whole)

    def progress(done, total):
        if done == 5:
            raise Breaks

    with pytest.raises(Breaks):
        extract(source, store, progress=progress)
    before = stored(store)
    assert 1 < len(before) < len(stored(whole))
    extract(source, store)
    assert stored(store) == stored(whole)


KILLED = """
    import pathlib, sys, time
    sys.path[:0] = {path!r}
    from test_extraction import encode
    from helpers.small_datasets import pixels
    from vidrec.features import extraction
    from vidrec.features.store import Store
    def slow(frames):
        time.sleep(0.05)
        return encode(frames)
    store = Store.of({{"encoder": "means"}}, pathlib.Path(sys.argv[1]))
    print("begun", flush=True)
    extraction.extract(extraction.Extraction(pixels(clips=40), store, slow, 8, 7))
    print("done", flush=True)
"""


def script(store):
    here = Path(__file__).parent
    code = textwrap.dedent(KILLED).format(path=[str(here), str(here.parent)])
    command = [sys.executable, "-c", code, str(store.folder.parent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_and_shared_by_two_processes_it_ends_with_the_same_bits(store, tmp_path):
    whole = Store.of({"encoder": "means"}, tmp_path / "whole")
    extract(pixels(clips=40), whole)
    killed = script(store)
    assert killed.stdout.readline() == "begun\n"
    while len(store.keys()) < 6:
        assert killed.poll() is None
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert len(stored(store)) < len(stored(whole))
    two = [script(store), script(store)]
    for each in two:
        assert "done" in each.communicate()[0]
        assert each.returncode == 0
    assert stored(store) == stored(whole)


def test_two_threads_of_one_process_share_a_store(store, tmp_path):
    whole = Store.of({"encoder": "means"}, tmp_path / "whole")
    extract(pixels(), whole)
    threads = [threading.Thread(target=extract, args=(pixels(), store)) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert stored(store) == stored(whole)


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "gone"])
@pytest.mark.parametrize("ending", ["arrays", "index"])
def test_damaged_features_are_noticed_and_made_again(store, harm, ending):
    source = pixels()
    extract(source, store)
    good = stored(store)
    [file] = store.folder.glob(f"*.{ending}")
    content = bytearray(file.read_bytes())
    content[20] ^= 1  # of the first array, or of the first line
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes({"flip": content, "cut": content[:-9], "empty": b""}[harm])
    before = file.read_bytes() if file.exists() else b""
    another = Store(store.folder)  # as another process finds it
    with pytest.raises(UserError, match=r"features of clip_0\d\d are missing or damaged"):
        extraction.load(source, another, [])
    found = extraction.fill(Extraction(pixels(), Store(store.folder), encode, SIZE, 7))
    assert len(found.lengths) == len(source)
    assert stored(store) == good
    assert file.read_bytes().startswith(before)  # nothing was removed
    assert Store(store.folder).missing(source) == []


def test_an_evaluation_makes_damaged_features_anew(store):
    source = pixels()
    extract(source, store)
    good = stored(store)
    [file] = store.folder.glob("*.arrays")
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(content)
    [hit] = [n for n in range(len(source)) if Store(store.folder).get(source.key(n)) is None]
    model = SimpleNamespace(extract=encode, cfg=SimpleNamespace(encoder=SimpleNamespace(size=SIZE)))
    made = ClipReader(model, None, source).stored(Store(store.folder), hit)
    assert made.tolist() == good[source.key(hit)][0]
    assert stored(store) == good


def test_bytes_behind_the_last_clip_harm_nothing(store):
    source = pixels()
    extract(source, store)
    for file in store.folder.glob("*.*"):
        file.write_bytes(file.read_bytes() + b"x")
    source.streamed.clear()
    extraction.fill(Extraction(source, Store(store.folder), encode, SIZE, 7))
    assert source.streamed == []


@pytest.mark.parametrize("code", TRANSIENT_CODES)
def test_what_the_system_refuses_now_is_no_damage(store, monkeypatch, code):
    source = pixels()
    extract(source, store)
    before = {file: file.read_bytes() for file in store.folder.iterdir()}
    source.streamed.clear()

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    for place, name in ((shards, "open"), (shards.os, "listdir")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, refuse, raising=False)
            with pytest.raises(UserError, match=os.strerror(code)):
                extraction.fill(Extraction(source, Store(store.folder), encode, SIZE, 7))
    assert source.streamed == []  # nothing is made again
    assert {file: file.read_bytes() for file in store.folder.iterdir()} == before
    assert len(
        extraction.fill(Extraction(source, Store(store.folder), encode, SIZE, 7)).lengths
    ) == len(source)


def test_two_thousand_clips_need_few_open_files(store):
    source = pixels(clips=2000, lengths=(1, 3))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        found = extraction.fill(Extraction(source, store, encode, SIZE, 64))
        again = extraction.fill(Extraction(source, Store(store.folder), encode, SIZE, 64))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(source.streamed) == 2000  # none of them twice
    assert len(found.lengths) == 2000
    assert np.array_equal(found.values, again.values)
    assert len(list(store.folder.iterdir())) == 3


@pytest.mark.slow
def test_the_default_job_needs_few_open_files_and_keeps_its_features(tmp_path):
    """1,200 clips under a limit that a descriptor a clip would break."""
    launch = Path(__file__).parents[2] / "launch.py"
    words = [sys.executable, str(launch), "--seeds", "1", "--json"]
    kept, results = [], []
    for epochs in ("2", "3"):
        limited = ["bash", "-c", 'ulimit -n 256; exec "$@"', "-", *words, "--train.epochs", epochs]
        done = subprocess.run(
            limited,
            cwd=tmp_path,
            env=os.environ | {"VIDREC_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=True,
        )
        results.append(json.loads(done.stdout))
        files = sorted((tmp_path / "cache" / "features").rglob("*.*"))
        kept.append({file: file.read_bytes() for file in files})
    for result in results:
        assert {trial["status"] for trial in result["trials"]} == {"done"}
        assert {trial["unreadable"] == [] for trial in result["trials"]} == {True}
    assert kept[1] == kept[0]


def test_features_of_an_older_layout_are_left_alone(tmp_path):
    about = {"encoder": "means"}
    old = tmp_path / digest(about, length=24)
    (old / "ab").mkdir(parents=True)
    (old / "ab" / "abcd.npy").write_bytes(b"features of some hours")
    extract(pixels(), Store.of(about, tmp_path))
    files = [file for file in old.rglob("*") if file.is_file()]
    assert [file.read_bytes() for file in files] == [b"features of some hours"]


def test_strict_refuses_an_unreadable_clip(store):
    with pytest.raises(UserError, match=r"clip_003 cannot be read: is empty"):
        extract(pixels(broken=(3,)), store, strict=True)


def test_a_clip_that_streams_nothing_is_unreadable(store):
    source = pixels()
    stream = source.stream
    source.stream = lambda clip, size, chunk=64: iter(()) if clip == 2 else stream(clip, size)
    assert [(clip, path) for clip, path, _ in extract(source, store)] == [(2, "clip_002")]


def test_a_bug_in_a_source_is_raised_and_not_taken_for_a_bad_clip(store):
    source = pixels()
    source.stream = lambda clip, size, chunk=64: 1 / 0
    with pytest.raises(ZeroDivisionError):
        extract(source, store)


def test_a_full_disk_is_one_line_and_leaves_no_half_file():
    full = Path("/dev/shm") / f"vidrec-full-{os.getpid()}"
    done = _in_full_file_system(full)
    if done is None:
        pytest.skip("no small file system can be mounted here")
    message, left = done
    assert "cannot write" in message
    assert "No space left" in message
    assert left == []


def _in_full_file_system(folder):
    """Extracts into a file system of 32 KiB, as another process; None where that is refused."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        folder.rmdir()
        return None
    try:
        store = Store.of({"encoder": "means"}, folder)
        with pytest.raises(UserError) as failed:
            extract(pixels(clips=400), store)
        before = stored(store)
        assert before
        extract(pixels(clips=len(before)), store)  # what is there needs no room
        return str(failed.value), list(folder.rglob("*.partial"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write features to .*file"):
        Store.of({"encoder": "means"}, tmp_path / "file")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_precision_comes_back_to_the_bit(store, dtype):
    there = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(dtype)
    store.put("abcd", there)
    back = store.get("abcd")
    assert back.dtype == dtype
    assert np.array_equal(back, there)
    assert store.get("missing") is None


def clips_of(rng, width, lengths=(30, 50, 20, 40)):
    values = [rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) + 3 for n in lengths]
    return ragged.ragged([each.astype(np.float32) for each in values], [])


def test_components_are_those_of_scikit_learn_over_training_frames_alone():
    found = clips_of(np.random.default_rng(1), 6)
    train = np.array([0, 2])
    fitted = projection.fit_projection(found, train, 3)
    rows = np.r_[0:30, 80:100]
    seen = found.values[rows].astype(np.float64)
    scaled = (found.values - seen.mean(0)) / seen.std(0)
    pca = PCA(3).fit(scaled[rows])
    theirs = pca.transform(scaled)
    theirs /= theirs[rows].std(0)[0]
    ours = fitted(found.values)
    assert ours.dtype == np.float32
    signs = np.sign((ours * theirs).sum(0))
    assert np.allclose(ours, theirs * signs, atol=2e-5)


def test_standardised_features_have_mean_0_and_deviation_1_in_training():
    found = clips_of(np.random.default_rng(2), 4)
    values = found.values.copy()
    values[:, 1] = 7  # a feature that never changes is left out, not divided by nothing
    found = found._replace(values=values)
    made = projection.fit_projection(found, np.array([1]), 0)(found.values)
    inside = made[30:80]
    assert np.allclose(inside.mean(0), 0, atol=1e-5)
    assert np.allclose(inside.std(0), [1, 0, 1, 1], atol=1e-5)
    assert not np.allclose(made[:30].mean(0), 0, atol=1e-2)


def test_standardising_gives_the_bits_of_the_matrix_product():
    found = clips_of(np.random.default_rng(3), 40, lengths=(7, 1, 30))
    fitted = projection.fit_projection(found, np.array([0, 2]), 0)
    fitted.matrix[5, 5] = -0.5
    for values in (found.values, fitted.mean + np.zeros((2, 40), np.float32)):
        product = (values - fitted.mean) @ fitted.matrix
        assert fitted(values).tobytes() == product.tobytes()
    fitted.matrix[3, 4] = 0.1  # no longer one factor a feature
    assert (
        fitted(found.values).tobytes() == ((found.values - fitted.mean) @ fitted.matrix).tobytes()
    )


def test_more_components_than_features_are_refused():
    found = clips_of(np.random.default_rng(2), 4)
    with pytest.raises(UserError, match=r"encoder.pca = 5 is more than the 4"):
        projection.fit_projection(found, np.array([0]), 5)


def test_arrays_of_all_clips_lie_where_no_copy_is_needed():
    rng = np.random.default_rng(0)
    for dtype in (np.float16, np.float32, np.float64):
        clips = [rng.normal(size=(n, 2, 3)).astype(dtype) for n in (3, 1, 4)]
        found = ragged.ragged([clips[0], None, *clips[1:]], [ragged.Unreadable(1, "a", "torn")])
        assert found.values.ctypes.data % ragged.ALIGNMENT == 0
        assert found.values.dtype == dtype
        np.testing.assert_array_equal(found.values, np.concatenate(clips))
        np.testing.assert_array_equal(found.lengths, [3, 0, 1, 4])
        empty = ragged.aligned_empty((0, 5), np.dtype(dtype))
        assert (empty.shape, empty.dtype) == ((0, 5), dtype)


def test_nothing_readable_is_one_line():
    with pytest.raises(UserError, match=r"no clip can be read; the first: a: torn"):
        ragged.ragged([None], [ragged.Unreadable(0, "a", "torn")])


def test_ready_made_features_and_unreadable_clips_are_counted():
    source = ready_made(broken=(1,))
    data = prepare.prepare(settings(), dataset=source)
    assert isinstance(data.values, np.ndarray)
    assert data.unreadable == [(1, "clip_001", "is empty")]
    counts = data.counts()
    assert sum(each["unreadable"] for each in counts.values()) == 1
    assert sum(each["expected"] for each in counts.values()) == len(source)
    part = next(name for name, each in counts.items() if each["unreadable"])
    assert 1 not in data.clips(part)
    assert 1 in getattr(data.split, part)


def test_frames_of_a_trained_encoder_stay_frames():
    cfg = settings(encoder__trainable="all", encoder__size=8)
    data = prepared(cfg, pixels(broken=(3,)))
    assert data.values.dtype == np.uint8
    assert data.values.shape[1:] == (8, 8, 3)
    assert data.lengths[3] == 0
    assert data.encoder is not None


@pytest.mark.slow
def test_a_clip_encoder_is_shaped_by_the_clips_it_sees():
    cfg = settings(encoder__kind="c3d", encoder__trainable="all", encoder__size=16)
    cfg = override(cfg, {"encoder.pooling": "flatten", "frames.length": 16, "scanner.kind": "none"})
    data = prepared(cfg, pixels(size=16))
    assert data.encoder.takes_clips
    with pytest.raises(UserError, match=r"encoder.trainable should be all"):
        prepared(override(cfg, {"encoder.trainable": "none"}), pixels(size=16))


TINY = """
import flax.linen as nn
import jax.numpy as jnp

class Tiny(nn.Module):
    @nn.compact
    def __call__(self, frames, train=False):
        return SCALE * nn.Dense(4)(frames.reshape(len(frames), -1) / 255)
    takes_clips = False
"""


@pytest.fixture
def tiny(tmp_path):
    """A user's own encoder, quick to compile."""
    file = tmp_path / "tiny.py"
    file.write_text(TINY.replace("SCALE", "1"))
    return f"{file}:Tiny"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path))
    return tmp_path


def test_an_encoder_gives_a_clip_the_same_bits_whatever_else_is_in_the_batch(cache, tiny):
    cfg = settings(encoder__kind=tiny, encoder__size=16)
    whole, few = pixels(size=16), pixels(size=16)
    few.arrays = (few.arrays[0][:1], *few.arrays[1:])  # all later clips move by some frames
    one, other = prepared(cfg, whole), prepare.prepare(cfg, dataset=few)
    assert set(few.streamed) == {"clip_000"}
    again = pixels(size=16)
    for file in (cache / "features").rglob("*.index"):
        file.unlink()
    again.arrays = few.arrays
    other = prepare.prepare(cfg, dataset=again)
    for clip in range(1, len(whole)):
        ours = [d.values[d.offsets[clip] :][: d.lengths[clip]] for d in (one, other)]
        assert np.array_equal(*ours)


def test_an_encoder_of_ones_own_without_a_version_has_version_0(tiny):
    cfg = settings(encoder__kind=tiny, encoder__size=16)
    module = encoders.build(cfg.encoder)
    assert dependencies(cfg, "digest", module)["version"] == 0
    assert dependencies(cfg, "digest", encoders.build(settings().encoder))["version"] == 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_features_are_kept_in_the_precision_asked_for(cache, tiny, precision):
    half = prepared(
        settings(encoder__kind=tiny, encoder__size=16, encoder__store_dtype=precision),
        pixels(size=16),
    )
    full = prepared(settings(encoder__kind=tiny, encoder__size=16), pixels(size=16))
    assert half.values.dtype == precision
    assert np.array_equal(half.values, full.values.astype(precision))


def test_features_too_large_for_half_precision_are_refused_not_stored_as_infinite():
    large = np.array([[1.0, 70000.0], [np.nan, -1.0]], np.float32)
    with pytest.raises(UserError, match=r"'float16' cannot hold a feature of 70000: take bfloat16"):
        extraction.cast_features(lambda _: large, "float16")(None)
    held = extraction.cast_features(lambda _: large, "bfloat16")(None)
    assert held.dtype == ml_dtypes.bfloat16
    assert float(held[0, 1]) == pytest.approx(70000, rel=2**-8)


def test_normalising_by_the_training_clips_needs_an_encoder_that_trains():
    with pytest.raises(UserError, match=r"encoder.normalize = 'standard' depends on the training"):
        prepared(settings(encoder__normalize="standard"), pixels())


def test_features_are_extracted_once_for_every_length(cache, tiny):
    source = pixels(size=16)
    base = {"encoder__kind": tiny, "encoder__size": 16}
    one = prepare.prepare(settings(frames__length=3, **base), dataset=source)
    assert set(source.streamed) == set(source.names)
    source.streamed.clear()
    other = prepare.prepare(settings(frames__length=7, **base), dataset=source)
    assert source.streamed == []
    assert (one.length, other.length) == (3, 7)
    assert np.array_equal(one.values, other.values)


def test_the_table_of_lengths_decodes_no_frame_of_a_filled_store(cache, tiny):
    """Its lengths are indices of what is stored, the mean length and the whole video too."""
    base = settings(encoder__kind=tiny, encoder__size=16)
    first, again = pixels(size=16), pixels(size=16)
    filled = prepare.prepare(base, dataset=first)
    assert set(first.streamed) == set(first.names)
    lengths = set()
    for row in rows(load("ablations/sequence_length.py")):
        found = prepare.prepare(override(base, row.overrides), dataset=again)
        assert np.array_equal(found.values, filled.values)
        lengths.add(found.length)
    assert lengths >= {30, 60, 120, 150, 180, int(again.lengths.max())}
    assert not again.streamed


def test_an_edited_encoder_fills_another_store(cache, tiny):
    cfg = settings(encoder__kind=tiny, encoder__size=16)
    once = prepared(cfg, pixels(size=16))
    file = Path(tiny.partition(":")[0])
    file.write_text(TINY.replace("SCALE", "2"))
    twice = prepared(cfg, pixels(size=16))
    assert np.allclose(twice.values, 2 * once.values, atol=1e-5)


def test_the_pace_counts_every_frame_once_and_comes_to_an_end(store, monkeypatch):
    source = pixels()
    clock = iter(range(1000))
    monkeypatch.setattr(pace.time, "perf_counter", lambda: float(next(clock)))
    seen = []
    extract(source, store, pace=seen.append, workers=1)
    assert len(seen) == len(source)
    assert [each.bytes for each in seen] == sorted(each.bytes for each in seen)


def test_the_pace_does_not_count_what_precedes_the_first_frames(monkeypatch):
    times = iter([60.0, 100.0, 110.0, 112.0, 120.0])  # the encoder is compiled for 100 s
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(times))
    watch = pace.Stopwatch(100)
    unknown = [watch.pace(0, 0), watch.pace(20, 5), watch.pace(20, 5)]
    assert [each.per_second for each in unknown] == [0, 0, 0]
    half = watch.pace(50, 10)
    assert (half.per_second, half.bytes) == (30 / 12, 10)
    assert half.seconds_left == pytest.approx(50 / (30 / 12))
    assert watch.pace(100, 20).seconds_left == 0
