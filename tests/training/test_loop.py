"""What a run leaves behind, and that neither stops, kills nor other runs change a bit of it."""

import dataclasses
import errno
import fcntl
import json
import subprocess
import sys

import chex
import numpy as np
import pytest
from helpers.small_datasets import features, group_of, prepared, same, settings
from helpers.training_runs import EpochRecorder, contents
from jax.tree_util import tree_leaves

from vidrec.data import keys
from vidrec.errors import UserError
from vidrec.io import checkpoint, files
from vidrec.io.checkpoint import Checkpoints
from vidrec.training import batches, loop, programs
from vidrec.training.loop import FolderLocked, GroupRun, Interrupted
from vidrec.training.results import METRICS, TrialRun

BASE = {"scanner__kind": "mean", "head__kind": "per_frame", "scanner__dropout": 0.2}
CONFIGS = [
    settings(seed=0, train__epochs=6, **BASE),
    settings(seed=1, train__epochs=4, optim__learning_rate=0.3, **BASE),
    settings(seed=2, train__epochs=9, train__patience=2, train__min_delta=0.5, **BASE),
    # Trained once with the first: they differ in scoring only.
    settings(
        seed=0, train__epochs=6, eval__inference="average", eval__window=4, eval__stride=2, **BASE
    ),
    settings(
        seed=0, train__epochs=6, eval__inference="vote", eval__window=3, eval__stride=3, **BASE
    ),
]


@pytest.fixture(scope="module")
def data():
    return prepared(CONFIGS[0], features(broken=(2,)))


def members(folder, configs=CONFIGS):
    return [TrialRun(f"t{i}", cfg, folder / f"t{i}") for i, cfg in enumerate(configs)]


def fit(folder, data, callback=None):
    return loop.fit(members(folder), data, folder / "group", callback=callback)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """A run that nothing disturbed: its folder and results."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(folder, data)


def test_a_trial_leaves_its_scores_weights_and_figures(whole, data):
    folder, results = whole
    for place, result in enumerate(results):
        assert result == files.read_result(folder / f"t{place}")
        assert result["status"] == "done"
        assert result["resumed_epoch"] == 0
        with np.load(folder / f"t{place}" / "predictions.npz") as saved:
            for part in ("train", "val", "test"):
                clips = data.clips(part)
                assert saved[f"{part}_names"].tolist() == [f"clip_{clip:03d}" for clip in clips]
                assert np.array_equal(saved[f"{part}_labels"], data.dataset.labels[clips])
                right = saved[f"{part}_logits"].argmax(1) == saved[f"{part}_labels"]
                assert result["metrics"][part]["accuracy"] == pytest.approx(right.mean())
    assert results[0]["unreadable"] == [{"path": "clip_002", "reason": "is empty"}]
    assert [result["epochs"] for result in results] == [6, 4, results[2]["epochs"], 6, 6]
    assert results[2]["epochs"] < 9
    assert results[2]["why"] == "no improvement within train.patience epochs"


def test_each_epoch_of_each_trial_is_one_line(whole):
    folder, results = whole
    for place, result in enumerate(results):
        lines = [json.loads(x) for x in (folder / f"t{place}" / METRICS).read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(range(1, result["epochs"] + 1))
        assert {line["trial"] for line in lines} == {f"t{place}"}
        assert [line["status"] for line in lines[:-1]] == ["running"] * (len(lines) - 1)
        assert lines[-1]["status"] == "done"
        best = min(lines, key=lambda line: line["val/loss"])
        if place != 2:  # whose min_delta calls little better no improvement
            assert result["best_epoch"] == best["epoch"]
    trained = (folder / "group" / METRICS).read_text().splitlines()
    assert len({json.loads(line)["trial"] for line in trained}) == 3


def test_a_trial_keeps_the_state_that_it_ended_with(whole):
    """Its own line of the group's last save: weights after the last epoch, and the optimiser's."""
    folder, results = whole
    saves = Checkpoints(folder / "group" / "checkpoints")
    saved, _ = checkpoint.read(saves.folder / str(saves.steps()[-1]))
    for place, number in ((0, 0), (1, 1), (2, 2), (3, 0), (4, 0)):  # 3 and 4 train as 0 does
        kept, meta = checkpoint.read(folder / f"t{place}" / "last")
        own = sorted(leaf.tobytes() for leaf in tree_leaves(kept))
        state = [branch for name, branch in saved.items() if name.startswith(".state.")]
        lines = [leaf[number] for leaf in tree_leaves(state)]
        assert own == sorted(leaf.tobytes() for leaf in lines)
        assert len(own) > 4
        assert meta["epoch"] == results[place]["epochs"]
        assert kept["step"] == results[place]["epochs"] * 4  # batches of an epoch


def rescored(folder, data, cfg):
    """The saved model applied to the centre of each test clip, one clip at a time."""
    tree, _ = checkpoint.read(folder / "model")
    model = group_of([cfg], data).spec.model
    variables = {"params": tree["trained"], "batch_stats": tree.get("stats", {})}
    for clip in data.clips("test"):
        frames = data.values[data.offsets[clip] :][: data.lengths[clip]]
        yield frames, lambda inputs: model.apply(variables, inputs[None])[0][0]


def log_probabilities(logits_TK):
    """Report D's sum over steps, in float64."""
    logits = np.asarray(logits_TK, np.float64)
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return ((np.arange(len(logp)) + 1)[:, None] / len(logp) * logp).sum(0)


def continued(frames, start, length):
    """Frames from `start`, forwards and backwards."""
    turns = [*range(len(frames)), *range(len(frames) - 2, 0, -1)] or [0]
    return frames[[turns[(start + t) % len(turns)] for t in range(length)]]


def test_saved_scores_are_those_of_the_saved_weights(whole, data):
    folder, _ = whole
    with np.load(folder / "t1" / "predictions.npz") as saved:
        pairs = rescored(folder / "t1", data, CONFIGS[1])
        for place, (frames, apply) in enumerate(pairs):
            start = max(len(frames) - 6, 0) // 2
            logits = apply(continued(frames, start, 6))
            wanted = log_probabilities(logits)
            assert np.allclose(saved["test_logits"][place], wanted, atol=1e-4)
            label = saved["test_labels"][place]
            assert np.array_equal(saved["test_steps"][place], np.argmax(logits, -1) == label)


@pytest.mark.parametrize(("place", "length", "stride"), [(3, 4, 2), (4, 3, 3)])
def test_trials_of_a_group_cut_videos_as_each_says(whole, data, place, length, stride):
    """Both were trained with trial 0, whose own inference is another."""
    folder, results = whole
    with np.load(folder / f"t{place}" / "predictions.npz") as saved:
        decided, labels = saved["test_logits"].argmax(1), saved["test_labels"]
    pairs = rescored(folder / f"t{place}", data, CONFIGS[place])
    alone = []
    for clip, (frames, apply) in enumerate(pairs):
        last = max(len(frames) - length, 0)
        starts = [*range(0, last, stride), -(-last // stride) * stride]
        scores = np.array(
            [log_probabilities(apply(continued(frames, start, length))) for start in starts]
        )
        if place == 3:
            assert decided[clip] == scores.mean(0).argmax()
        else:
            votes = np.bincount(scores.argmax(1), minlength=scores.shape[1])
            tied = np.where(votes == votes.max(), scores.sum(0), -np.inf)
            assert decided[clip] == tied.argmax()
        alone += (scores.argmax(1) == labels[clip]).tolist()
    told = results[place]["metrics"]["test"]
    assert told["clip_accuracy"] == pytest.approx(np.mean(alone))
    assert told["video_accuracy"] == told["accuracy"]
    assert len(alone) > len(labels)


@pytest.mark.slow
def test_steps_behind_the_end_of_a_whole_clip_are_neither_right_nor_wrong(tmp_path):
    cfg = settings(train__epochs=2, frames__rule="whole", **BASE)
    data = prepared(cfg, features())
    loop.fit(members(tmp_path, [cfg]), data, tmp_path / "group")
    with np.load(tmp_path / "t0" / "predictions.npz") as saved:
        for clip, steps_T in zip(data.clips("test"), saved["test_steps"], strict=True):
            length = data.lengths[clip]
            assert set(steps_T[:length].tolist()) <= {0, 1}
            assert set(steps_T[length:].tolist()) <= {-1}
        # Probabilities of a clip: its own frames' weights alone, whatever was padded.
        for place, (frames, apply) in enumerate(rescored(tmp_path / "t0", data, cfg)):
            mean = log_probabilities(apply(frames)) * 2 / (len(frames) + 1)
            shares = np.exp(mean) / np.exp(mean).sum()
            assert np.allclose(saved["test_probabilities"][place], shares, atol=1e-5)
    assert len(set(data.lengths[data.clips("test")].tolist())) > 1


@pytest.mark.parametrize("after", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_stopped_run_goes_on_to_the_same_bits(whole, data, tmp_path, after):
    watch = EpochRecorder(stop=after)
    with pytest.raises(Interrupted, match=f"stopped after epoch {after}; the same command goes on"):
        fit(tmp_path, data, watch)
    assert watch.epochs == list(range(1, after + 1))
    assert not list(tmp_path.glob("t*/result.json"))
    with (tmp_path / "group" / METRICS).open("a") as file:
        # As a kill leaves them: an epoch after the save, and half a line.
        file.write('{"trial": "x", "epoch": 99}\n{"trial": "x", "ep')
    watch = EpochRecorder()
    results = fit(tmp_path, data, watch)
    assert watch.epochs[0] == after + 1
    assert watch.compilations == 1
    assert {result["resumed_epoch"] for result in results} == {after}
    assert contents(tmp_path) == contents(whole[0])


def test_a_damaged_save_costs_epochs_and_changes_nothing(whole, data, tmp_path, caplog):
    with pytest.raises(Interrupted):
        fit(tmp_path, data, EpochRecorder(stop=4))
    saves = tmp_path / "group" / "checkpoints"
    assert sorted(each.name for each in saves.iterdir()) == ["12", "16"]  # steps
    largest = max(
        (file for file in (saves / "16" / "arrays").rglob("*") if file.is_file()),
        key=lambda file: file.stat().st_size,
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 255
    largest.write_bytes(content)
    results = fit(tmp_path, data)
    assert "going back to the save before it" in caplog.text
    assert results[0]["resumed_epoch"] == 3
    assert contents(tmp_path) == contents(whole[0])


def test_a_finished_run_is_scored_again_without_training(whole, data, tmp_path):
    folder, results = whole
    watch = EpochRecorder()
    run = GroupRun(members(tmp_path), data, folder / "group")
    again = run.run(watch)
    assert (watch.epochs, watch.compilations) == ([], 0)
    assert "train" not in run.group._programs
    assert [each["metrics"] for each in again] == [each["metrics"] for each in results]


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_two_runs_on_one_folder_are_refused(data, tmp_path):
    (tmp_path / "group").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "group" / "lock")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FolderLocked, match="group is being trained by another process"):
            fit(tmp_path, data)
        assert not (tmp_path / "group" / METRICS).exists()
        other.stdin.close()
    # Whoever stops lets go, and so does a group that was made ready and left.
    run = GroupRun(members(tmp_path), data, tmp_path / "group")
    run.ready()
    with pytest.raises(FolderLocked):
        loop.claim(tmp_path / "group")
    run.close()
    loop.claim(tmp_path / "group").close()


def test_a_lock_that_the_system_refuses_is_not_done_without(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(loop.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        loop.claim(tmp_path)


def test_a_folder_without_locks_is_trained_in_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    loop.claim(tmp_path).close()


def test_a_folder_that_cannot_be_written_is_one_line(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file.*: Not a directory"):
        fit(tmp_path / "file", data)


@pytest.mark.parametrize(
    "room", [200, *(pytest.param(x, marks=pytest.mark.slow) for x in (8, 400))]
)
def test_a_full_disk_is_one_line_and_what_was_saved_stays(whole, data, tmp_path, room):
    """KiB that end before the first save, in a later one, and when results are written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        with pytest.raises(UserError, match=r"cannot (save|write) .*: No space left on device"):
            fit(disk, data)
        saves = disk / "group" / "checkpoints"
        left = sorted(saves.iterdir()) if saves.exists() else []
        for each in left:
            checkpoint.read_meta(each)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        results = fit(disk, data)
        assert (results[0]["resumed_epoch"] > 0) == bool(left)
        assert contents(disk) == contents(whole[0])
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_clock_that_jumps_back_changes_nothing(whole, data, tmp_path, monkeypatch):
    times = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(loop.time, "time", lambda: next(times))
    fit(tmp_path, data)
    assert contents(tmp_path) == contents(whole[0])


# How often one whole run may trace each, whatever its epochs and batches. The conditional that
# skips stopped trials traces its branch twice, once for its shapes; one program scores untrained
# models, validation clips and all clips at the end; frames are chosen where a batch is gathered.
TRACES = {
    (programs, "train_step"): 2,
    (programs, "eval_step"): 2,
    (batches.frames, "indices"): 4,
}


@pytest.mark.slow
def test_a_run_traces_each_step_once_whatever_its_data(data, tmp_path, monkeypatch):
    """Ragged clips, ragged last batches, trials that end at different epochs: no trace anew."""
    for (room, name), most in TRACES.items():
        limited = chex.assert_max_traces(getattr(room, name), most)
        monkeypatch.setattr(room, name, limited)
    assert len(data.clips("train")) % CONFIGS[0].train.batch_size
    watch = EpochRecorder(stop=2)
    with pytest.raises(Interrupted):
        fit(tmp_path, data, watch)
    assert watch.compilations == 1
    chex.clear_trace_counter()
    fit(tmp_path, data)


def test_a_trials_weights_are_drawn_from_its_seed_alone(data):
    def drawn(**changes):
        own = group_of([settings(**BASE, **changes)], data)
        own.initialize()
        return own.snapshot().state.params

    one, two = drawn(seed=0), drawn(seed=1)
    other = drawn(seed=0, optim__learning_rate=9.0)
    assert same(one, other)
    assert not same(one, two)
    assert keys.INIT not in (keys.ORDER, keys.SEGMENT, keys.DROPOUT)


@pytest.mark.parametrize("name", ["patience", "target"])
def test_a_stop_that_watches_validation_clips_needs_some(tmp_path, data, name):
    """A given split may have none, which only the data tells."""
    nothing = np.zeros(0, np.int64)
    bare = dataclasses.replace(data, split=dataclasses.replace(data.split, val=nothing))
    cfg = settings(**BASE, **{f"train__{name}": 1})
    with pytest.raises(UserError, match=rf"train\.{name} = 1 watches validation clips"):
        GroupRun(members(tmp_path, [cfg]), bare, tmp_path / "group")
    GroupRun(members(tmp_path, [settings(**BASE)]), bare, tmp_path / "group")
