"""A trained model on files, arrays, streams and other data sets: always evaluation's answer."""

import csv
import functools
import hashlib
import io
import json
import os
import shutil

import av
import jax
import numpy as np
import pytest
from helpers import trained_runs, video_files
from helpers.trained_runs import moving, random_model

import vidrec
from vidrec import config
from vidrec.cli import main
from vidrec.config import Config
from vidrec.data import datasets, splits, video
from vidrec.data.video import UnreadableClip
from vidrec.errors import UserError
from vidrec.evaluation import decisions, predict
from vidrec.evaluation.predict import Classifier, clips, drawing, windows


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return trained_runs.made(tmp_path_factory)


@pytest.fixture
def cache(runs, monkeypatch):
    monkeypatch.setenv("VIDREC_CACHE", str(runs["videos"].parent / "cache"))


@functools.cache
def load(folder):
    """A run's model, whose programs compile once for all tests."""
    return Classifier.load(folder)


@pytest.fixture(scope="session")
def table(runs):
    return load(runs["single"])


@pytest.fixture(scope="session")
def streaming():
    return random_model({"encoder.pca": 4, "encoder.standardize": True})


# --- A file's answer ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["single", "average", "vote", "trained"])
def test_every_file_gets_the_answer_that_evaluation_gave_it(runs, name):
    model = load(runs[name])
    saved = np.load(runs[name] / "predictions.npz")
    compared = 0
    for part in ("train", "val", "test"):
        for clip, logits_K in zip(saved[f"{part}_names"], saved[f"{part}_logits"], strict=True):
            answer = model.predict(runs["videos"] / str(clip))
            np.testing.assert_allclose(answer.scores_K, logits_K, rtol=1e-4, atol=1e-5)
            assert answer.label == model.classes[logits_K.argmax()]
            compared += 1
    assert compared == 14
    assert saved["test_logits"].std() > 0.01  # else any answer would do


def test_probabilities_rank_as_the_scores_do_and_add_up_to_one(runs):
    path = next((runs["videos"] / "left").iterdir())
    for name in ("single", "average", "vote", "trained"):
        answer = load(runs[name]).predict(path)
        assert answer.probabilities_K.sum() == pytest.approx(1)
        assert answer.topk[0][0] == answer.label
        order = np.argsort(-answer.scores_K, kind="stable")
        assert (np.diff(answer.probabilities_K[order]) <= 1e-12).all()


def test_length_alone_makes_no_answer_surer():
    """Adding up many equal windows must not turn 60 % into 100 %."""
    clips = {"eval.inference": "average", "eval.window": 4, "eval.stride": 4}
    model = random_model(PLAIN | {"head.kind": "per_frame"} | clips)
    frame = np.random.default_rng(0).normal(size=(1, 7)).astype(np.float32)
    short, long = (model.predict(np.repeat(frame, n, 0)) for n in (4, 48))
    np.testing.assert_allclose(long.scores_K, 12 * short.scores_K, rtol=1e-4)
    np.testing.assert_allclose(long.probabilities_K, short.probabilities_K, atol=1e-6)
    assert short.confidence < 0.9


def test_arrays_are_taken_as_files_are(table, runs):
    path = max((runs["videos"] / "left").iterdir(), key=lambda each: video.declared(each)[0])
    frames = np.concatenate(list(video.stream(path, 32)))
    of_file, of_array = table.predict(path), table.predict(frames, fps=10)
    np.testing.assert_allclose(of_array.scores_K, of_file.scores_K, atol=1e-6)
    assert [w.start for w in of_array.windows] == [w.start for w in of_file.windows]
    # Other sizes are resized; colours survive it up to the video's coding.
    large = table.predict(moving(8, True, 3, 96, 128), fps=10)
    small = table.predict(moving(8, True, 3, 96, 128)[:, ::3, ::4], fps=10)
    assert np.isfinite(large.scores_K).all()
    assert not np.allclose(large.scores_K, small.scores_K, atol=1e-7)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((4, 32, 32, 3), np.float32), "uint8"),
        (np.zeros((4, 32, 32), np.uint8), "(T, H, W, 3)"),
        (np.zeros((0, 32, 32, 3), np.uint8), "at least one frame"),
    ],
)
def test_arrays_that_are_no_frames_are_refused(table, frames, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(").replace(")", r"\)")):
        table.predict(frames)


def test_windows_say_when_what_was_seen(table):
    """A clip that turns round half-way: windows see what a clip of just their frames shows."""
    frames = np.concatenate([moving(20, True, 1, 32, 32), moving(20, False, 2, 32, 32)])
    found = table.predict(frames, fps=10, every=0.6)
    starts = [0, 6, 12, 18, 24, 30, 32]
    assert [w.start for w in found.windows] == pytest.approx([s / 10 for s in starts])
    assert [w.end for w in found.windows] == pytest.approx([(s + 8) / 10 for s in starts])
    for start, window in zip(starts, found.windows, strict=True):
        alone = table.predict(frames[start : start + 8])
        np.testing.assert_allclose(window.scores_K, alone.scores_K, atol=1e-5)
    # The clip's own answer is of its centre, not of any of these windows.
    centre = table.predict(frames[16:24])
    np.testing.assert_allclose(found.scores_K, centre.scores_K, atol=1e-5)
    assert found.frames == 40
    assert found.seconds == pytest.approx(4)


def test_frames_spread_over_a_clip_are_spread_over_windows_of_trained_length():
    settings = PLAIN | {"frames.rule": "uniform", "frames.length": 4}
    frames = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    [window] = random_model(settings).predict(frames, fps=10).windows
    assert (window.start, window.end) == (0, 5)
    model = random_model(settings, clip_frames=20)
    found = model.predict(frames, fps=10)
    assert [w.start for w in found.windows] == pytest.approx([0, 1, 2, 3])
    alone = model.predict(frames[10:30])
    np.testing.assert_allclose(found.windows[1].scores_K, alone.scores_K, atol=1e-5)


def test_a_trained_model_knows_how_long_its_clips_were(runs):
    model = load(runs["trained"])
    lengths = [video.declared(path)[0] for path in trained_on(runs, "trained")]
    assert model.meta["clip_frames"] == int(np.median(lengths))
    long = model.predict(moving(4 * model.meta["clip_frames"], True, 1), fps=10)
    assert len(long.windows) > 2
    assert load(runs["single"]).meta["frame"] == [5]


def trained_on(runs, name):
    return [runs["videos"] / clip for clip in load(runs[name]).meta["train_clips"]]


def test_windows_cannot_be_moved_where_they_decide_the_clip(runs):
    with pytest.raises(UserError, match=r"eval\.stride"):
        load(runs["average"]).predict(moving(30, True, 0), every=1)
    with pytest.raises(UserError, match="positive"):
        load(runs["single"]).predict(moving(30, True, 0), every=-1)


def test_what_cannot_be_read_is_named(table, tmp_path):
    file = tmp_path / "no video.mp4"
    file.write_bytes(b"words" * 500)
    with pytest.raises(UnreadableClip, match="no video"):
        table.predict(file)
    with pytest.raises(UnreadableClip, match="no such file"):
        table.predict(tmp_path / "missing.mp4")


# --- Windows --------------------------------------------------------------------------------------


def grid_of(rule, length, span, stride, clips=False):
    cfg = config.override(Config(), {"frames.rule": rule, "frames.length": length})
    return windows.WindowGrid(cfg, span, stride, clips)


def test_the_slider_shows_what_whole_clips_show_and_holds_one_window():
    rng = np.random.default_rng(0)
    for _ in range(60):
        n, span, size = int(rng.integers(1, 60)), int(rng.integers(1, 12)), int(rng.integers(1, 9))
        stride, clips = int(rng.integers(1, span + 1)), bool(rng.integers(2))
        grid = grid_of("segment", span, span, stride, clips)
        slider, shown = windows.Slider(grid), []
        for start in range(0, n, size):
            shown += slider.add(np.arange(start, min(start + size, n)))
            assert slider.buffered <= span
        shown += slider.end()
        assert slider.total == n
        if clips:
            expected = decisions.window_starts(n, span, stride).tolist()
        else:
            expected = sorted(
                {s for s in range(0, n, stride) if s + span <= n} | {max(0, n - span)}
            )
        assert [each.start for each in shown] == expected
        for each in shown:
            there = [bounce(each.start + place, n) for place in range(span)]
            assert each.inputs.tolist() == there
            assert each.seen.mask_L.all()


def bounce(place, n):
    """Walks forwards and backwards through a clip, frame by frame."""
    position, step = 0, 1
    for _ in range(place):
        if not 0 <= position + step < n:
            step = -step
        position = max(0, min(n - 1, position + step)) if n > 1 else 0
    return position


def test_windows_of_the_whole_rule_mask_what_a_short_clip_lacks():
    grid = grid_of("whole", 9, 9, 4)
    [short] = [*(slider := windows.Slider(grid)).add(np.arange(5)), *slider.end()]
    assert short.seen.mask_L.sum() == 5
    assert short.inputs[:5].tolist() == list(range(5))
    slider = windows.Slider(grid)
    assert [each.start for each in [*slider.add(np.arange(20)), *slider.end()]] == [0, 4, 8, 11]


# --- Streams --------------------------------------------------------------------------------------

PLAIN = {"data.kind": "features", "encoder.kind": "none"}
SCANNERS = {
    "lstm": {**PLAIN, "scanner.layers": 2, "scanner.batch_norm": True, "scanner.dense": (5,)},
    "gru over a projection": {
        "scanner.kind": "gru",
        "encoder.standardize": True,
        "encoder.pca": 4,
    },
    "every": {**PLAIN, "head.kind": "per_frame", "scanner.bias": "double"},
    "mean of states": {**PLAIN, "head.kind": "mean", "head.dense": (4,)},
    "convlstm": {
        "scanner.kind": "convlstm",
        "encoder.pooling": "map",
        "scanner.units": 3,
        "head.kind": "mean",
    },
    "convgru": {"scanner.kind": "convgru", "encoder.pooling": "map", "scanner.units": 3},
    "mingru": {**PLAIN, "scanner.kind": "mingru", "scanner.layers": 2},
    "minlstm": {**PLAIN, "scanner.kind": "minlstm"},
    "lru": {**PLAIN, "scanner.kind": "lru", "scanner.layers": 2},
    "attention": {**PLAIN, "scanner.kind": "attention"},
    "tcn": {**PLAIN, "scanner.kind": "tcn", "scanner.layers": 2},
    "transformer": {**PLAIN, "scanner.kind": "transformer", "scanner.units": 8},
    "mean": {**PLAIN, "scanner.kind": "mean"},
    "none": {**PLAIN, "scanner.kind": "none"},
}


@pytest.mark.parametrize("name", SCANNERS)
def test_a_stream_says_at_every_frame_what_the_clip_so_far_would(name):
    model = random_model(SCANNERS[name])
    frames = np.concatenate([moving(4, True, 2, 32, 32), moving(3, False, 4, 32, 32)])
    if model.network.takes_features:
        frames = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
    stream = model.stream()
    streamed_TK = np.stack([stream.push(frame) for frame in frames])
    # Clips of 1, 2, … frames, as a batch of whole clips with a mask.
    inputs = np.repeat(model.encode(frames)[None], len(frames), 0)
    mask_BT = np.tri(len(frames), dtype=bool)
    apply = jax.jit(model.network.model.apply)
    logits, _, _ = apply(model.network.variables["model"], inputs, mask_BT)
    logits = np.asarray(logits, np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    if logits.ndim == 3:  # a clip of n frames: step j's log-probability weighs j + 1
        for n in range(1, 8):
            means = sum((j + 1) * np.log(shares[n - 1, j]) for j in range(n)) * 2 / (n * (n + 1))
            shares[n - 1, 0] = np.exp(means) / np.exp(means).sum()
    shares_TK = shares[:, 0] if logits.ndim == 3 else shares
    np.testing.assert_allclose(streamed_TK, shares_TK, atol=1e-5)
    assert np.ptp(streamed_TK, 0).max() > 1e-4  # the frames matter


def test_stream_and_file_agree_on_a_trained_run(runs):
    """One segment from a zero carry: the last frame's answer is the file's."""
    model = random_model({"encoder.pca": 4, "encoder.standardize": True})
    path = max((runs["videos"] / "right").iterdir(), key=lambda each: video.declared(each)[0])
    frames = video.read(path, range(trained_runs.LENGTH), 32)
    stream = model.stream()
    streamed = [stream.push(frame) for frame in frames]
    np.testing.assert_allclose(streamed[-1], model.predict(frames).probabilities_K, atol=1e-5)
    trained = load(runs["trained"])  # on frames spread over clips: it takes as long as those did
    frames = video.read(path, range(round(10 * trained.meta["clip_seconds"])), 32)
    stream = trained.stream()
    streamed = [stream.push(frame) for frame in frames]
    np.testing.assert_allclose(streamed[-1], trained.predict(frames).probabilities_K, atol=1e-5)


def test_a_stream_forgets_when_told_to(streaming):
    frames, stream = moving(5, True, 1), streaming.stream()
    first = [stream.push(frame) for frame in frames]
    assert stream.frames == 5
    again = stream.push(frames[0])
    assert not np.allclose(again, first[0], atol=1e-5)
    stream.reset()
    assert stream.frames == 0
    np.testing.assert_allclose([stream.push(frame) for frame in frames], first, atol=1e-6)


def test_two_streams_of_one_model_do_not_meet(streaming):
    frames = moving(6, True, 1)
    alone = streaming.stream()
    expected = [alone.push(frame) for frame in frames]
    one, other = streaming.stream(), streaming.stream()
    for frame, truth in zip(frames, expected, strict=True):
        other.push(255 - frame)
        np.testing.assert_allclose(one.push(frame), truth, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (PLAIN | {"scanner.bidirectional": "concat"}, "bidirectional.*last frame"),
        (PLAIN | {"head.kind": "flatten"}, "flatten.*side by side"),
    ],
)
def test_what_needs_the_whole_clip_refuses_to_stream(settings, words):
    with pytest.raises(UserError, match=words):
        random_model(settings).stream()


def test_a_stream_takes_frames_only(streaming):
    stream = streaming.stream()
    for wrong in (np.zeros((32, 32, 3)), np.zeros((32, 32), np.uint8)):
        with pytest.raises(UserError, match="a frame should be uint8"):
            stream.push(wrong)


# --- Features made elsewhere ----------------------------------------------------------------------


def test_models_of_features_take_features(tmp_path):
    model = random_model(PLAIN)
    features = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32)
    np.save(tmp_path / "clip.npy", features)
    of_array, of_file = model.predict(features), model.predict(tmp_path / "clip.npy")
    np.testing.assert_allclose(of_file.scores_K, of_array.scores_K, atol=1e-6)
    np.testing.assert_allclose(of_array.scores_K, model.predict(features[6:14]).scores_K, atol=1e-5)
    stream = model.stream()
    streamed = [stream.push(each) for each in features[:8]]
    np.testing.assert_allclose(streamed[-1], model.predict(features[:8]).probabilities_K, atol=1e-5)
    with pytest.raises(UserError, match="made elsewhere"):
        model.predict("film.mp4")
    with pytest.raises(UserError, match="not what the model was trained on"):
        model.predict(features[:, :5])


def test_a_file_of_other_features_does_not_cost_the_others_their_answers(tmp_path):
    model = random_model(PLAIN)
    features = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32)
    model.predict(features)
    for name, width in (("a", 7), ("b", 5), ("c", 7)):
        np.save(tmp_path / f"{name}.npy", features[:, :width])
    said = [each for each in predict.lines(model, [tmp_path]) if "start" not in each]
    assert [each["class"] is None for each in said] == [False, True, False]
    assert said[1]["error"].startswith("features of shape [5]")
    with pytest.raises(UserError, match="not what the model was trained on"):
        list(predict.lines(model, [tmp_path / "b.npy"]))


def test_an_overlay_of_features_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((20, 7), np.float32))
    with pytest.raises(UserError, match="--overlay draws on a video"):
        predict.overlay(random_model(PLAIN), tmp_path / "a.npy", tmp_path / "out.mp4")


# --- Which model ----------------------------------------------------------------------------------


def fake_ablation(folder, accuracies, status=lambda row, seed: "done"):
    """ablation.json and results of rows of seeds; None: not finished."""
    trials = []
    for row, seeds in enumerate(accuracies):
        for seed, accuracy in enumerate(seeds):
            trials.append(
                {"id": f"r{row}s{seed}", "row": row, "seed": seed, "overrides": {"a.b": row}}
            )
            trial = folder / "trials" / f"r{row}s{seed}"
            (trial / "model").mkdir(parents=True)
            result = {"status": status(row, seed), "metrics": {"val": {"accuracy": accuracy}}}
            if accuracy is not None:
                (trial / "result.json").write_text(json.dumps(result))
    (folder / "ablation.json").write_text(json.dumps({"trials": trials}))
    return folder


def test_of_an_ablation_the_row_with_the_best_mean_and_its_best_seed(tmp_path):
    lucky = [[0.5, 0.99, 0.4], [0.8, 0.7, 0.9], [0.7, 0.7, 0.7]]
    trial, text = predict.choose(fake_ablation(tmp_path / "a", lucky))
    assert trial.name == "r1s2"
    assert "a.b=1, of 3 rows the best" in text
    assert "80.0 % over 3 seeds" in text
    assert "seed 2 (90.0 %)" in text
    tied = [[None, None], [0.6, 0.6], [0.6, 0.6]]
    assert predict.choose(fake_ablation(tmp_path / "b", tied))[0].name == "r1s0"
    dead = fake_ablation(
        tmp_path / "c", lucky, lambda row, seed: "diverged" if row == 1 else "done"
    )
    assert predict.choose(dead)[0].name == "r2s0"


def test_folders_without_a_model_are_refused(tmp_path, runs):
    with pytest.raises(UserError, match="does not exist"):
        Classifier.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no trained model"):
        Classifier.load(tmp_path)
    with pytest.raises(UserError, match="name a trial's folder"):
        Classifier.load(fake_ablation(tmp_path / "a", [[None]]))
    broken = trained_runs.copy_run(runs["single"], tmp_path / "copy")
    array = max((broken / "model").rglob("*"), key=lambda each: each.stat().st_size)
    array.write_bytes(array.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="changed since"):
        Classifier.load(broken)


def test_an_ablations_folder_loads(runs):
    model = vidrec.Classifier.load(runs["table"])
    assert "best by mean validation accuracy" in model.chosen
    assert model.classes == ("left", "right")
    assert Classifier.load(runs["single"]).chosen == ""


# --- Answers as lines -----------------------------------------------------------------------------


def test_lines_of_a_file_are_its_windows_and_then_the_file(table, runs):
    path = max((runs["videos"] / "left").iterdir(), key=lambda each: video.declared(each)[0])
    found = [json.loads(json.dumps(line)) for line in predict.lines(table, [path])]
    *along, whole = found
    answer = table.predict(path)
    assert len(along) == len(answer.windows) > 2
    for line, window in zip(along, answer.windows, strict=True):
        assert {"path", "start", "end", "class", "confidence", "topk"} == set(line)
        assert (line["start"], line["class"]) == (window.start, window.label)
    assert "start" not in whole
    assert whole["path"] == str(path)
    assert whole["class"] == answer.label
    assert whole["confidence"] == whole["topk"][0]["confidence"] == answer.confidence


def test_streamed_lines_are_one_a_frame(table, runs):
    path = next((runs["videos"] / "left").iterdir())
    *along, whole = predict.lines(table, [path], stream=True)
    frames = np.concatenate(list(video.stream(path, 32)))
    assert len(along) == whole["frames"] == len(frames)
    stream = table.stream()
    for place, (line, frame) in enumerate(zip(along, frames, strict=True)):
        assert line["confidence"] == pytest.approx(stream.push(frame).max(), abs=1e-5)
        assert line["start"] == pytest.approx(place / 10)
    assert (whole["class"], whole["confidence"]) == (along[-1]["class"], along[-1]["confidence"])


def test_a_folder_becomes_a_table_that_leaves_nothing_out(table, runs, tmp_path):
    from PIL import Image

    folder = tmp_path / "new ones"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(next((runs["videos"] / "left").iterdir()), folder / "deep" / "ein, Film.mp4")
    (folder / "broken.mp4").write_bytes(b"?" * 999)
    (folder / "notes.txt").write_text("no video")
    Image.fromarray(moving(1, True, 0)[0]).save(folder / "still.png")
    text = io.StringIO()
    predict.write_csv(predict.lines(table, [folder]), text)
    rows = {row["path"]: row for row in csv.DictReader(io.StringIO(text.getvalue()))}
    names = ("broken.mp4", "deep/ein, Film.mp4", "still.png")
    assert set(rows) == {str(folder / name) for name in names}
    broken, film, _ = (rows[str(folder / name)] for name in names)
    assert broken["class"] == ""
    assert broken["error"]
    answer = table.predict(folder / "deep" / "ein, Film.mp4")
    assert film["class"] == answer.label
    assert float(film["confidence"]) == pytest.approx(answer.confidence, abs=1e-6)
    assert float(film["second_confidence"]) == pytest.approx(1 - answer.confidence, abs=1e-6)


def test_paths_that_hold_nothing_are_refused(table, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        list(predict.lines(table, [tmp_path / "nothing.mp4"]))
    with pytest.raises(UserError, match="holds no videos"):
        list(predict.lines(table, [tmp_path]))


def uneven(path, steps):
    """A recording whose frames stay for these milliseconds."""
    stamps = [sum(steps[:k]) for k in range(len(steps))]
    frames = moving(len(steps), True, 3)
    video_files.encoded(path.name, "libx264", stamps=stamps, frames=frames)(path.parent)
    return [stamp / 1000 for stamp in stamps]


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv"])
def test_seconds_are_the_recordings_own(table, tmp_path, name):
    """25 frames a second, then 2, then 25: by numbers over a mean rate all would be moved."""
    path = tmp_path / name
    starts = uneven(path, [40] * 15 + [500] * 15 + [40] * 10)
    *along, whole = predict.lines(table, [path])
    assert whole["seconds"] == pytest.approx(starts[-1], abs=0.6)
    ends = [*starts[1:], whole["seconds"]]
    assert len(along) > 15
    for line in along:
        # Windows begin and end with frames, and last as long as training clips: 8 frames of 0.1 s.
        assert min(abs(line["start"] - start) for start in starts) < 1e-6
        assert line["end"] - line["start"] > 0.75
        before = [each for each in (0.0, *ends) if each < line["end"] - 1e-6][-1]
        assert before - line["start"] < 0.85
    *along, whole = predict.lines(table, [path], stream=True)
    assert [line["start"] for line in along] == pytest.approx(starts)
    assert [line["end"] for line in along[:-1]] == pytest.approx(starts[1:])


def test_the_overlay_keeps_the_recordings_seconds(table, tmp_path):
    path, out = tmp_path / "uneven.mp4", tmp_path / "out.mp4"
    starts = uneven(path, [40] * 15 + [500] * 5 + [40] * 10)
    along = list(predict.lines(table, [path]))[:-1]
    predict.overlay(table, path, out)
    shown = list(video.shown(out, lambda width, height: (width, height)))
    assert [start for _, start, _ in shown] == pytest.approx(starts, abs=0.001)
    for frame, start, end in shown:
        middle = (start + end) / 2
        line = min(along, key=lambda each: abs((each["start"] + each["end"]) / 2 - middle))
        assert bar(frame) == pytest.approx(line["confidence"], abs=0.03)


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (0, 1, 1, 0)])
def test_the_overlay_is_seen_as_the_video_is(table, tmp_path, matrix):
    path, out = tmp_path / "mirrored.mp4", tmp_path / "out.mp4"
    frames = np.full((9, 48, 96, 3), 200, np.uint8)
    frames[:, :12, :24] = (230, 20, 20)
    video.write(path, frames, 10)
    path.write_bytes(video_files.posed(*matrix)(path.read_bytes()))
    predict.overlay(table, path, out)
    ((first, *_), *_) = video.shown(out, lambda width, height: (width, height))
    reds = np.nonzero((first[..., 0] > 150) & (first[..., 2] < 120))
    height, width = first.shape[:2]
    assert (width > height) == (matrix[0] != 0)
    assert (reds[1].mean() > width / 2) == (matrix[0] != 0)
    assert reds[0].mean() < height / 2


def test_folders_of_frames_are_predicted_as_clips(table, runs, tmp_path):
    from PIL import Image

    path = max((runs["videos"] / "left").iterdir(), key=lambda each: video.declared(each)[0])
    folder = tmp_path / "new" / "film"
    folder.mkdir(parents=True)
    for place, (frame, _, _) in enumerate(video.shown(path, lambda width, height: (width, height))):
        Image.fromarray(frame).save(folder / f"{place}.png")
    Image.fromarray(moving(1, True, 0)[0]).save(tmp_path / "new" / "still1.png")
    whole = [line for line in predict.lines(table, [path]) if "start" not in line]
    one = [line for line in predict.lines(table, [folder]) if "start" not in line]
    assert [line["path"] for line in one] == [str(folder)]
    assert one[0]["frames"] == whole[0]["frames"]
    assert one[0]["confidence"] == pytest.approx(whole[0]["confidence"], abs=0.01)
    several = [line for line in predict.lines(table, [tmp_path / "new"]) if "start" not in line]
    assert [line["path"] for line in several] == [str(folder), str(tmp_path / "new" / "still1.png")]
    predict.overlay(table, folder, tmp_path / "out.mp4")
    assert len(decoded(tmp_path / "out.mp4")) == whole[0]["frames"]


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
@pytest.mark.parametrize("name", ["thing.mp4", "thing.jpg", "thing.webp", "thing"])
def test_what_would_be_waited_for_is_named(table, tmp_path, kind, name):
    if kind == "device":
        path = tmp_path / name
        path.symlink_to("/dev/zero")
    else:
        path = video_files.only(kind, name)(tmp_path)
    (line,) = predict.lines(table, [path])
    assert line["error"] == "not a regular file"


def test_features_are_not_waited_for(tmp_path):
    path = video_files.only("pipe", "thing.npy")(tmp_path)
    with pytest.raises(UnreadableClip, match="not a regular file"):
        clips.of_feature_file(path, 25)


def test_names_that_are_no_utf8_are_spelled_out(table, runs, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    shutil.copy(next((runs["videos"] / "left").iterdir()), path)
    (tmp_path / os.fsdecode(b"br\xe9ken.mp4")).write_bytes(b"broken")
    for stream in (False, True):
        found = list(predict.lines(table, [tmp_path], stream=stream))
        assert {line["path"] for line in found} == {
            f"{tmp_path}/caf\\xe9.mp4",
            f"{tmp_path}/br\\xe9ken.mp4",
        }
        json.dumps(found, ensure_ascii=False).encode()
        text = io.StringIO()
        predict.write_csv(iter(found), text)
        text.getvalue().encode()


def test_a_device_is_named_and_not_waited_for():
    with pytest.raises(UnreadableClip, match="not a regular file"):
        clips.of_file("/dev/null", Config())


# --- Overlay --------------------------------------------------------------------------------------


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def bar(frame):
    """Share of the bar that is filled, from the pixels of its row."""
    rows = frame.astype(int)
    near = [np.abs(rows - colour).sum(-1) < 90 for colour in (drawing.FILL, drawing.TRACK)]
    row = max(range(len(frame)), key=lambda place: (near[0][place] | near[1][place]).sum())
    return near[0][row].sum() / (near[0][row] | near[1][row]).sum()


@pytest.mark.parametrize("stream", [False, True])
def test_the_overlay_shows_on_every_frame_what_was_predicted(table, runs, tmp_path, stream):
    path = max((runs["videos"] / "left").iterdir(), key=lambda each: video.declared(each)[0])
    out = tmp_path / "out.mp4"
    whole = predict.overlay(table, path, out, stream=stream)
    *along, last = predict.lines(table, [path], stream=stream)
    assert whole == last
    frames = decoded(out)
    assert len(frames) == last["frames"]
    assert video.declared(out)[1] == pytest.approx(10)
    assert min(frames[0].shape[:2]) >= 352  # text can be read, though the video is 48 pixels high
    for place, frame in enumerate(frames):
        middle = (place + 0.5) / 10
        line = min(along, key=lambda each: abs((each["start"] + each["end"]) / 2 - middle))
        assert bar(frame) == pytest.approx(line["confidence"], abs=0.03)


def test_a_frame_shows_the_window_whose_middle_is_nearest(table, tmp_path, monkeypatch):
    video.write(tmp_path / "film.mp4", moving(12, True, 1), 10)
    said = [(0.0, 0.2, 0.1), (0.1, 0.5, 0.9), (0.5, 0.7, 0.3), (0.6, 1.2, 1.0)]
    made = [{"start": a, "end": b, "class": "left", "confidence": c} for a, b, c in said]
    whole = {"class": "left", "confidence": 0.5}
    monkeypatch.setattr(drawing.answers, "lines", lambda *_, **__: iter([*made, whole]))
    predict.overlay(table, tmp_path / "film.mp4", tmp_path / "out.mp4")
    # Middles 0.1, 0.3, 0.6, 0.9; frames at 0.05, 0.15, …
    expected = [0.1] * 2 + [0.9] * 2 + [0.3] * 3 + [1.0] * 5
    shown = [bar(frame) for frame in decoded(tmp_path / "out.mp4")]
    np.testing.assert_allclose(
        np.delete(shown, [4, 7]), np.delete(expected, [4, 7]), atol=0.03
    )  # two frames lie half-way between two middles


def test_a_panel_tells_classes_apart_and_fits_any_name():
    frame = moving(1, True, 0, 360, 480)[0]
    left, right = (drawing.with_panel(frame, name, 0.7) for name in ("left", "right"))
    assert (left != right).any()
    assert (left[:300] == frame[:300]).all()  # nothing else is touched
    long = drawing.with_panel(frame, "a name of very many words " * 9, 1.0)
    text = (long[300:] > 200).all(-1).any(0)
    assert text[:40].any()
    assert not text[:4].any()
    assert bar(long) == 1
    assert bar(drawing.with_panel(frame, "", 0.0)) == 0


def test_an_overlay_of_a_broken_file_says_why_and_writes_nothing(table, runs, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"?" * 999)
    line = predict.overlay(table, tmp_path / "broken.mp4", tmp_path / "out.mp4")
    assert line["class"] is None
    assert line["error"]
    with pytest.raises(SystemExit) as left:
        main.main(
            ["predict", str(runs["table"]), str(tmp_path / "broken.mp4"), "--overlay", "out.mp4"]
        )
    assert left.value.code == 1
    assert "out.mp4" not in capsys.readouterr().out
    assert not (tmp_path / "out.mp4").exists()


def test_an_overlay_never_replaces_the_video(table, runs, tmp_path):
    path = shutil.copy(next((runs["videos"] / "left").iterdir()), tmp_path / "film.mp4")
    before = path.read_bytes()
    with pytest.raises(UserError, match="replace the video itself"):
        predict.overlay(table, path, tmp_path / "film.mp4")
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="one video file"):
        predict.overlay(table, tmp_path, tmp_path / "out.mp4")


# --- Other splits and data sets -------------------------------------------------------------------


def fingerprint(folder):
    files = (each for each in sorted(folder.rglob("*")) if each.is_file())
    return {
        str(each.relative_to(folder)): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in files
        if "evaluations" not in each.parts
    }


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", ["single", "vote", "trained"])
def test_scoring_the_runs_own_test_clips_gives_its_own_figures(runs, name):
    before = fingerprint(runs[name])
    result = predict.score(runs[name])
    assert fingerprint(runs[name]) == before
    run = json.loads((runs[name] / "result.json").read_text())
    for figure in ("accuracy", "avg_f1", "confusion"):
        assert result["metrics"]["test"][figure] == run["metrics"]["test"][figure]
    assert result["split"]["id"] == run["split"]["id"]
    assert result["counts"]["test"]["scored"] == run["counts"]["test"]["scored"] > 0
    mine = np.load(f"{result['dir']}/predictions.npz")
    theirs = np.load(runs[name] / "predictions.npz")
    np.testing.assert_allclose(mine["test_logits"], theirs["test_logits"], rtol=1e-4, atol=1e-5)
    assert mine["test_names"].tolist() == theirs["test_names"].tolist()
    assert mine["test_labels"].tolist() == theirs["test_labels"].tolist()
    assert predict.score(runs[name]) == result  # the second time it is only read


@pytest.mark.usefixtures("cache")
def test_clips_of_the_training_are_refused_unless_forced(runs):
    trained = load(runs["single"]).meta["train_clips"]
    with pytest.raises(UserError, match=r"such as (left|right)/") as refused:
        predict.score(runs["single"], part="all")
    assert any(f"such as {name}:" in str(refused.value) for name in trained)
    cfg, met = load(runs["single"]).cfg, []
    for seed in range(1, 6):
        data = config.override(cfg, {"data.split_seed": seed}).data
        source = datasets.load(data)
        tested = np.array(source.names)[splits.make(source, data).test]
        met.append(bool(set(tested) & set(trained)))
        if met[-1]:
            with pytest.raises(UserError, match="trained on"):
                predict.score(runs["single"], {"data.split_seed": seed})
        else:
            predict.score(runs["single"], {"data.split_seed": seed})
    assert any(met)
    result = predict.score(runs["single"], part="all", force=True)
    assert result["split"]["leaked"] is True
    assert result["split"]["trained_on"] == len(trained)
    assert result["counts"]["all"]["expected"] == 14


@pytest.mark.usefixtures("cache")
def test_clips_of_the_training_are_known_by_content_whatever_their_names(runs, tmp_path):
    renamed, fresh = tmp_path / "renamed", tmp_path / "fresh"
    trained = load(runs["single"]).meta["train_clips"]
    for place, file in enumerate(sorted(runs["videos"].glob("*/*.mp4"))):
        (renamed / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, renamed / file.parent.name / f"{place}.mp4")
        name = file.relative_to(runs["videos"])
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        video.write(fresh / name, moving(12, place % 2 == 0, 60 + place), 10)
    with pytest.raises(UserError, match=rf"{len(trained)} of 14 clips were trained on"):
        predict.score(runs["single"], {"data.root": str(renamed)}, part="all")
    forced = predict.score(runs["single"], {"data.root": str(renamed)}, part="all", force=True)
    assert (forced["split"]["leaked"], forced["split"]["trained_on"]) == (True, len(trained))
    result = predict.score(runs["single"], {"data.root": str(fresh)}, part="all")
    assert (result["split"]["leaked"], result["split"]["trained_on"]) == (False, 0)
    assert result["split"]["recordings_known"] is False
    # The same recordings' names in another data set tell nothing.
    named = {"data.root": str(fresh), "data.groups": r"(\d+)\.mp4"}
    apart = predict.score(runs["single"], named, part="all")["split"]
    assert (apart["leaked"], apart["recordings_known"]) == (False, True)
    own = {"data.root": str(runs["videos"]), "data.split_seed": 0}
    assert predict.score(runs["single"], own)["split"]["leaked"] == "unknown"


@pytest.mark.usefixtures("cache")
def test_where_no_content_can_be_compared_nothing_is_said(runs):
    model = load(runs["single"])
    source = datasets.load(model.cfg.data)
    clips = np.arange(len(source))
    model.meta["hashed"] = "frames"
    assert predict.scoring._overlap(model, source, clips, False) == {
        "leaked": "unknown",
        "trained_on": None,
    }
    del model.meta["train_contents"]
    with pytest.raises(UserError, match="were trained on"):
        predict.scoring._overlap(model, source, clips, False)


@pytest.mark.usefixtures("cache")
def test_another_data_set_is_matched_by_the_names_of_its_classes(runs, tmp_path):
    other = tmp_path / "other"
    for label, seeds in (("right", (40, 41, 42)), ("a new class", (43,)), ("left", (44,))):
        (other / label).mkdir(parents=True)
        for seed in seeds:
            video.write(other / label / f"{seed}.mp4", moving(12, label == "right", seed), 10)
    (other / "left" / "broken.mp4").write_bytes(b"?" * 999)
    said = []
    settings = {"data.root": str(other)}
    result = predict.score(runs["single"], settings, part="all", tell=said.append)
    assert result["left_out"] == {"a new class": 1}
    assert any("a new class" in line for line in said)
    assert result["counts"]["all"] == {"expected": 5, "scored": 4, "unreadable": 1}
    [broken] = result["unreadable"]
    assert broken["path"].endswith("broken.mp4")
    assert result["split"]["leaked"] is False
    model = load(runs["single"])
    right = [model.predict(p).label == p.parent.name for p in sorted(other.glob("[lr]*/4*.mp4"))]
    assert result["metrics"]["all"]["accuracy"] == pytest.approx(np.mean(right))
    assert np.array(result["metrics"]["all"]["confusion"]).sum(1).tolist() == [1, 3]
    with pytest.raises(UserError, match=r"broken\.mp4 cannot be read"):
        predict.score(runs["single"], settings | {"data.strict": True, "data.fps": 5.0}, part="all")
    with pytest.raises(UserError, match=r"broken\.mp4 cannot be read"):  # scored without it before
        predict.score(runs["single"], settings | {"data.strict": True}, part="all")
    # The same content elsewhere was scored before, too; its paths are its own.
    copy = shutil.copytree(other, tmp_path / "copy")
    again = predict.score(runs["single"], {"data.root": str(copy)}, part="all")
    assert again["metrics"] == result["metrics"]
    assert again["unreadable"][0]["path"] == str(copy / "left" / "broken.mp4")


@pytest.mark.usefixtures("cache")
def test_what_cannot_be_scored_is_refused(runs, tmp_path):
    with pytest.raises(UserError, match=r"scanner\.units belongs to the trained model"):
        predict.score(runs["single"], {"scanner.units": 3})
    for label in ("up", "down"):
        (tmp_path / label).mkdir()
        video.write(tmp_path / label / "clip.mp4", moving(5, True, 1), 10)
    with pytest.raises(UserError, match=r"knows none of the classes.*up.*knows left, right"):
        predict.score(runs["single"], {"data.root": str(tmp_path)}, part="all")


@pytest.mark.usefixtures("cache")
def test_how_clips_are_decided_can_be_changed_afterwards(runs):
    result = predict.score(runs["single"], {"eval.inference": "vote"})
    theirs = np.load(runs["vote"] / "predictions.npz")
    mine = np.load(f"{result['dir']}/predictions.npz")
    np.testing.assert_allclose(mine["test_logits"], theirs["test_logits"], atol=1e-5)


@pytest.mark.parametrize("option", ["--csv", "--overlay"])
@pytest.mark.parametrize(
    "target", ["/proc/out.mp4", "folder.mp4", "file.mp4/out.mp4", "x" * 300 + ".mp4", "film.mp4"]
)
def test_a_target_that_cannot_be_written_is_found_out_before_the_work(
    runs, tmp_path, monkeypatch, capsys, option, target
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file.mp4").write_text("")
    film = tmp_path / "film.mp4"
    film.write_bytes(b"no film")
    monkeypatch.setattr(Classifier, "load", lambda *_: pytest.fail("the work was begun"))
    with pytest.raises(SystemExit) as left:
        main.main(["predict", str(runs["table"]), "film.mp4", option, target])
    assert left.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert target in line
    assert film.read_bytes() == b"no film"


def test_a_folders_own_csv_is_found_out_before_the_work(runs, monkeypatch, capsys):
    monkeypatch.setattr(Classifier, "load", lambda *_: pytest.fail("the work was begun"))
    monkeypatch.chdir("/proc")
    with pytest.raises(SystemExit) as left:
        main.main(["predict", str(runs["table"]), str(runs["videos"])])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: cannot write predictions.csv")


def test_old_answers_stay_until_new_ones_are_whole(table, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film = next((runs["videos"] / "left").glob("*.mp4"))
    words = ["predict", str(runs["table"]), str(film), "--csv", "a.csv", "--overlay", "a.mp4"]
    for name in ("a.csv", "a.mp4"):
        (tmp_path / name).write_text("old")

    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(drawing, "with_panel", broken)
        with pytest.raises(SystemExit):
            main.main(words)
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == dict.fromkeys(
        ("a.csv", "a.mp4"), "old"
    )
    with pytest.raises(SystemExit) as left:
        main.main(words)
    assert left.value.code == 0
    assert len(list(csv.DictReader((tmp_path / "a.csv").open()))) == 1
    assert video.declared(tmp_path / "a.mp4")[0] > 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.csv", "a.mp4"]
