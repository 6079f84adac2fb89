"""One answer for a clip, whoever is asked: training, evaluation, prediction, streams, exports."""

import functools
import json
import math

import numpy as np
import pytest
from helpers import trained_runs
from helpers.trained_runs import moving, random_model

from vidrec.config import Config, override
from vidrec.data import video
from vidrec.errors import UserError
from vidrec.evaluation import decisions, export, metrics, predict
from vidrec.evaluation.export import loader
from vidrec.evaluation.predict import Classifier, Stream, windows
from vidrec.training import batches

RUNS = ("single", "average", "vote", "trained")
PLAIN = {"data.kind": "features", "encoder.kind": "none"}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return trained_runs.made(tmp_path_factory)


@pytest.fixture
def cache(runs, monkeypatch):
    monkeypatch.setenv("VIDREC_CACHE", str(runs["videos"].parent / "cache"))


@functools.cache
def load(folder):
    return Classifier.load(folder)


def figures_of(folder):
    return json.loads((folder / "result.json").read_text())["metrics"]


# --- One definition of loss and calibration -------------------------------------------------------


def literal(probabilities_nK, decided, labels, bins=15):
    """Loss and calibration error of printed probabilities and classes, clip by clip."""
    loss, gaps = 0.0, [0.0] * bins
    for row, best, label in zip(probabilities_nK, decided, labels, strict=True):
        loss -= math.log(row[label] or 1e-7) / len(labels)
        assert row[best] == max(row)  # of equal votes the scores tell which
        # Shares of votes lie on the bins' edges, up to rounding.
        gaps[min(int(row[best] * bins + 1e-9), bins - 1)] += (best == label) - row[best]
    return loss, sum(map(abs, gaps)) / len(labels)


@pytest.mark.parametrize("name", RUNS)
def test_loss_and_calibration_are_of_the_probabilities_that_predict_prints(runs, name):
    model, figures = load(runs[name]), figures_of(runs[name])
    saved = np.load(runs[name] / "predictions.npz")
    for part in ("train", "val", "test"):
        clips, labels = saved[f"{part}_names"], saved[f"{part}_labels"]
        answers = [model.predict(runs["videos"] / str(clip)) for clip in clips]
        printed = [answer.probabilities_K for answer in answers]
        decided = [model.classes.index(answer.label) for answer in answers]
        loss, calibration = literal(np.array(printed), decided, labels)
        assert figures[part]["loss"] == pytest.approx(loss, rel=1e-4)
        assert figures[part]["calibration_error"] == pytest.approx(calibration, abs=1e-5)
        np.testing.assert_allclose(saved[f"{part}_probabilities"], printed, atol=1e-5)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", RUNS)
def test_evaluation_of_the_same_clips_gives_the_same_figures(runs, name):
    theirs = figures_of(runs[name])["test"]
    mine = predict.score(runs[name])["metrics"]["test"]
    assert mine.keys() == theirs.keys()
    assert {"objective", "loss", "calibration_error"} <= theirs.keys()
    for figure, value in theirs.items():
        if isinstance(value, float):
            assert mine[figure] == pytest.approx(value, rel=1e-5, abs=1e-6), figure
        else:
            assert mine[figure] == value, figure


def test_the_training_loss_has_a_key_of_its_own(runs):
    """Of a head of every frame it sums weighted steps, so it is no probability of the clip's."""
    for name in ("single", "average", "vote"):
        folder = runs[name]
        lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
        result = json.loads((folder / "result.json").read_text())
        best = next(line for line in lines if line["epoch"] == result["best_epoch"])
        assert result["metrics"]["val"]["objective"] == pytest.approx(best["val/loss"], rel=1e-5)
        assert result["metrics"]["val"]["loss"] != pytest.approx(best["val/loss"], rel=1e-2)


def test_no_vote_costs_a_finite_loss_and_lost_numbers_stay_lost():
    log_probs = np.log([[2 / 3, 1 / 3, 1e-300], [0.5, 0.25, 0.25]])
    log_probs[0, 2] = -np.inf
    assert metrics.loss(log_probs, np.array([2, 0])) == pytest.approx(
        (-math.log(1e-7) - math.log(0.5)) / 2
    )
    log_probs[1] = np.nan
    assert math.isnan(metrics.loss(log_probs, np.array([0, 0])))


# --- Streams --------------------------------------------------------------------------------------

HEADS = ("last", "mean", "per_frame")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("rule", ["segment", "uniform", "whole"])
def test_a_stream_as_long_as_a_training_clip_answers_as_prediction(head, rule):
    rng = np.random.default_rng(2)
    for frames, fps, trained in ((23, 12.0, 12.0), (8, 12.0, 12.0), (40, 20.0, 12.0)):
        seconds = frames / fps
        settings = PLAIN | {"head.kind": head, "frames.rule": rule}
        length = {"segment": frames, "uniform": 9, "whole": frames}[rule]
        meta = {"clip_seconds": seconds, "fps": trained, "clip_frames": round(seconds * trained)}
        model = random_model(settings | {"frames.length": length}, **meta)
        clip = rng.normal(size=(frames, 7)).astype(np.float32)
        stream = model.stream(fps)
        said = [stream.push(frame) for frame in clip]
        answer = model.predict(clip, fps=fps)
        np.testing.assert_allclose(said[-1], answer.probabilities_K, atol=1e-5)
        assert stream.unlike_prediction() == []
        assert stream.seen == length
        assert np.ptp(said, 0).max() > 1e-3


class Counting(Stream):
    """Frames are numbers, and nothing is computed."""

    def encode(self, frame):
        return frame

    def counted(self, seen):
        def step(inputs):
            seen.append(inputs)
            self.seen += 1

        self._begin, self._step = (lambda inputs: None), (lambda *_: (None, None))
        return step


def test_a_stream_sees_the_frames_on_screen_at_the_training_rate():
    """Whatever rate frames come at: a clock, asked in the middle of each of the model's frames."""
    model = random_model(PLAIN | {"frames.rule": "uniform", "frames.length": 500})
    rng = np.random.default_rng(3)
    for _ in range(40):
        length, seconds, fps = int(rng.integers(1, 12)), rng.uniform(0.3, 4), rng.uniform(2, 60)
        count = int(rng.integers(1, 90))
        stream, seen = Counting(model.network, model.classes, fps, length / seconds), []
        stream.step = stream.counted(seen)
        for place in range(count):
            stream.push(place)
        ticks = [(j + 0.5) * seconds / length for j in range(10_000)]
        expected = [int(tick * fps) for tick in ticks if tick < count / fps - 1e-6]
        assert seen == expected


def test_a_stream_of_uniform_frames_says_that_it_answers_otherwise(runs):
    model = load(runs["trained"])
    seconds = model.meta["clip_seconds"]
    exact, other = round(10 * seconds), round(10 * seconds) + 9
    for frames in (exact, other):
        file = runs["videos"].parent / f"of {frames} frames.mp4"
        video.write(file, moving(frames, True, 3), 10)
        *along, line = predict.lines(model, [file], stream=True)
        [*_, said] = predict.lines(model, [file])
        assert len(along) == frames
        if frames == exact:
            assert line["class"] == said["class"]
            assert line["confidence"] == pytest.approx(said["confidence"], abs=1e-4)
            assert "notes" not in line
        else:
            assert any("8 frames spread over it decide" in note for note in line["notes"])


@pytest.mark.parametrize("inference", ["average", "vote"])
@pytest.mark.parametrize(("clip", "stride"), [(5, 5), (5, 2), (4, 3), (1, 1)])
def test_a_stream_joins_windows_as_prediction_does(inference, clip, stride):
    settings = PLAIN | {
        "head.kind": "per_frame",
        "eval.inference": inference,
        "eval.window": clip,
        "eval.stride": stride,
    }
    model = random_model(settings)
    frames = np.random.default_rng(clip).normal(size=(19, 7)).astype(np.float32)
    stream, compared = model.stream(), 0
    for count, frame in enumerate(frames, start=1):
        said = stream.push(frame)
        over = count >= clip and (count - clip) % stride == 0
        assert bool(stream.unlike_prediction()) is not over
        if over:
            answer = model.predict(frames[:count])
            np.testing.assert_allclose(said, answer.probabilities_K, atol=1e-5)
            assert model.classes[stream.scores_K.argmax()] == answer.label
            compared += 1
    assert compared >= 3
    stream.reset()
    first = stream.push(frames[0])
    np.testing.assert_allclose(first, model.stream().push(frames[0]), atol=1e-6)


def test_hours_of_frames_change_no_answer_of_a_running_mean():
    """Sums over 200,000 frames would have lost the last digits of float32."""
    for head in ("mean", "per_frame"):
        model = random_model(PLAIN | {"head.kind": head, "scanner.kind": "none"})
        stream = model.stream()
        frame = np.full(7, 0.3, np.float32)
        first = stream.push(frame)
        carry = dict(stream._carry)
        stream._carry = carry | {"count": carry["count"] * 0 + 200_000}
        np.testing.assert_allclose(stream.push(frame), first, atol=1e-6)


@pytest.mark.parametrize("order", ["shuffled", "single"])
def test_controls_of_order_refuse_to_stream(order):
    with pytest.raises(UserError, match=rf"frames\.order = '{order}'.*whole clip"):
        random_model(PLAIN | {"frames.order": order}).stream()


def test_frames_a_second_are_above_zero():
    model = random_model(PLAIN)
    clip = np.zeros((9, 7), np.float32)
    for wrong in (0.0, -3.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="above 0"):
            model.predict(clip, fps=wrong)
        with pytest.raises(UserError, match="above 0"):
            model.stream(wrong)


# --- Windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["segment", "uniform"])
@pytest.mark.parametrize("fps", [5.0, 10.0, 25.0, 60.0])
def test_windows_last_as_long_as_training_clips_did(rule, fps):
    meta = {"clip_seconds": 2.0, "fps": 10.0, "fps_range": (10.0, 10.0), "clip_frames": 20}
    length = {"segment": 20, "uniform": 6}[rule]
    settings = PLAIN | {"frames.rule": rule, "frames.length": length}
    model = random_model(settings, **meta)
    clip = np.random.default_rng(0).normal(size=(int(7 * fps), 7)).astype(np.float32)
    found = model.predict(clip, fps=fps).windows
    assert len(found) == 6
    for window in found:
        assert window.end - window.start == pytest.approx(2.0, abs=1 / fps)


def test_a_window_shows_what_the_same_seconds_showed_in_training():
    """The same scene filmed at 10 frames a second and, each frame three times, at 30."""
    meta = {"clip_seconds": 0.8, "fps": 10.0, "fps_range": (10.0, 10.0), "clip_frames": 8}
    scene = np.random.default_rng(1).normal(size=(30, 7)).astype(np.float32)
    for rule in ("segment", "uniform", "whole"):
        model = random_model(PLAIN | {"frames.rule": rule}, **meta)
        slow = model.predict(scene, fps=10, every=0.4)
        fast = model.predict(np.repeat(scene, 3, 0), fps=30, every=0.4)
        assert len(slow.windows) == len(fast.windows) == 7
        for one, other in zip(slow.windows, fast.windows, strict=True):
            assert one.start == pytest.approx(other.start)
            assert one.end == pytest.approx(other.end)
            np.testing.assert_allclose(one.scores_K, other.scores_K, atol=1e-5)
        # Short clips too: five frames, continued or masked as in training.
        short = model.predict(scene[:5], fps=10)
        slow = short.windows[0]
        np.testing.assert_allclose(slow.scores_K, short.scores_K, atol=1e-6)
        fast = model.predict(np.repeat(scene[:5], 3, 0), fps=30).windows[0]
        np.testing.assert_allclose(slow.scores_K, fast.scores_K, atol=1e-5)


def test_windows_of_an_uneven_recording_are_of_seconds_too():
    """A slow, literal walk over the seconds, frame by frame; rates change within the recording."""
    rng = np.random.default_rng(5)
    for _ in range(30):
        span, stride, length = (int(rng.integers(1, high)) for high in (12, 20, 9))
        steps = np.repeat(rng.choice([0.2, 0.5, 1, 3], 12), rng.integers(1, 9, 12))
        times = np.concatenate([[0.0], np.cumsum(steps)])
        n = len(steps)
        cfg = override(Config(), {"frames.length": length, "frames.rule": "uniform"})
        slider = windows.Slider(
            windows.WindowGrid(cfg, span, stride), lambda k, t=times: float(t[k])
        )
        shown, size = [], int(rng.integers(1, 9))
        for start in range(0, n, size):
            shown += slider.add(np.arange(start, min(start + size, n)))
        shown += slider.end()
        expected, start = [], 0
        while True:
            ends = [k for k in range(n + 1) if times[k] - times[start] >= span - 0.25]
            if not ends:
                break
            expected.append((start, ends[0]))
            later = [k for k in range(n + 1) if times[k] - times[start] >= stride - 0.25]
            if not later:
                break
            start = later[0]
        lasts = [k for k in range(n) if times[n] - times[k] >= span - 0.25] or [0]
        if not expected or lasts[-1] > expected[-1][0]:
            expected.append((lasts[-1], n))
        assert [(each.start, each.end) for each in shown] == expected
        for each in shown:
            seconds = times[each.end] - times[each.start]
            for place, frame in enumerate(each.inputs):
                middle = times[each.start] + (place + 0.5) / length * seconds
                on_screen = max(k for k in range(each.start, each.end) if times[k] <= middle + 1e-9)
                assert abs(times[frame] - times[on_screen]) <= 0.5
                if np.ptp(steps[each.start : each.end]) > 1:
                    assert frame == on_screen


def test_rates_that_training_clips_had_are_taken_as_filmed():
    meta = {"fps": 30.0, "fps_range": (24.0, 30.0)}
    model = random_model(PLAIN, **meta)
    clip = np.random.default_rng(1).normal(size=(20, 7)).astype(np.float32)
    for fps in (23.976, 25.0, 30.0, 29.97):
        [first, *_] = model.predict(clip, fps=fps).windows
        assert first.end == pytest.approx(8 / fps)
    [first, *_] = model.predict(clip, fps=60.0).windows
    assert first.end == pytest.approx(16 / 60)


def test_a_run_records_how_long_its_clips_lasted(runs):
    meta = load(runs["trained"]).meta
    lengths = [video.declared(runs["videos"] / clip)[0] for clip in meta["train_clips"]]
    assert meta["clip_seconds"] == pytest.approx(np.median(lengths) / 10)
    assert meta["fps"] == pytest.approx(10)
    assert meta["fps_range"] == pytest.approx([10, 10])


# --- Exports --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"frames.rule": "uniform", "head.kind": "per_frame"},
        {"frames.rule": "whole", "frames.order": "shuffled"},
        {"frames.order": "single"},
        {"frames.order": "shuffled", "frames.rule": "uniform"},
        {"head.kind": "per_frame", "eval.inference": "average", "eval.window": 5, "eval.stride": 3},
        {"head.kind": "per_frame", "eval.inference": "vote", "eval.window": 3, "eval.stride": 1},
    ],
)
def test_an_export_decides_clips_as_prediction_does(settings, tmp_path):
    model = random_model(PLAIN | settings)
    export.export(model, tmp_path / "out", platforms=["cpu"])
    exported = loader.load(tmp_path / "out")
    rng = np.random.default_rng(4)
    for frames in (1, 2, 5, 8, 13, 20):
        clip = rng.normal(size=(frames, 7)).astype(np.float32)
        answer = model.predict(clip)
        label, probabilities_K = exported.predict(clip)
        np.testing.assert_allclose(probabilities_K, answer.probabilities_K, atol=1e-5)
        assert label == answer.label


def test_shares_that_keras_loss_is_taken_of_are_the_probabilities(tmp_path):
    settings = PLAIN | {"head.activation": "relu", "loss.kind": "keras_cross_entropy"}
    model = random_model(settings)
    frames = np.random.default_rng(6).normal(size=(40, 8, 7)).astype(np.float32)
    export.export(model, tmp_path / "out", platforms=["cpu"])
    exported, spread = loader.load(tmp_path / "out"), []
    for clip in frames:
        logits, _, _ = model.network.model.apply(model.network.variables["model"], clip[None])
        outputs = np.asarray(logits[0], np.float64)
        shares = outputs / outputs.sum() if outputs.sum() else np.full(3, 1 / 3)
        answer, stream = model.predict(clip), model.stream()
        np.testing.assert_allclose(answer.probabilities_K, shares, atol=1e-6)
        np.testing.assert_allclose([stream.push(each) for each in clip][-1], shares, atol=1e-6)
        np.testing.assert_allclose(exported.predict(clip)[1], shares, atol=1e-6)
        judged = model.evaluate(clip, int(shares.argmax()))
        if outputs.sum():
            assert judged.objective == pytest.approx(-math.log(shares.max()), abs=1e-5)
        spread.append(shares)
    assert np.ptp(spread, 0).max() > 0.1


@pytest.mark.parametrize("standardize", [False, True])
def test_features_of_another_shape_get_one_line(standardize, tmp_path):
    model = random_model(
        PLAIN | {"encoder.standardize": standardize, "encoder.pca": 4 * standardize}
    )
    clip = np.zeros((9, 5), np.float32)
    np.save(tmp_path / "clip.npy", clip)
    for wrong in (clip, tmp_path / "clip.npy"):
        with pytest.raises(UserError, match=r"shape \[5\].*trained on, \[7\]"):
            model.predict(wrong)
    stream = model.stream()
    with pytest.raises(UserError, match=r"shape \[5\].*trained on, \[7\]"):
        stream.push(clip[0])
    assert np.isfinite(stream.push(np.zeros(7, np.float32))).all()


@pytest.mark.parametrize("every", [-1.0, float("nan"), float("inf")])
def test_seconds_between_windows_are_a_number(every):
    with pytest.raises(UserError, match="seconds between windows should be positive"):
        random_model(PLAIN).predict(np.zeros((9, 7), np.float32), every=every)


def test_a_stream_has_no_windows_to_set_apart(runs):
    path = next((runs["videos"] / "left").iterdir())
    with pytest.raises(UserError, match=r"every = 0\.5: a stream answers at every frame"):
        list(predict.lines(load(runs["single"]), [path], stream=True, every=0.5))


@pytest.mark.parametrize("rule", ["segment", "uniform", "whole"])
@pytest.mark.parametrize("order", ["shuffled", "single"])
def test_scoring_orders_frames_as_prediction_does(rule, order):
    """Whatever the trial's seed, and the place of the clip in its data set."""
    settings = {"frames.length": 9, "frames.rule": rule, "frames.order": order}
    cfg = override(Config(), settings)
    lengths, clips = np.array([9, 4, 21, 1, 9]), np.array([7, 0, 3, 2, 5])
    for seed in (0, 3):
        found = batches.frame_indices(lengths, clips, batches.Sampling(cfg, 9, seed, None))
        for n, index_L, mask_L in zip(lengths, *map(np.asarray, found), strict=True):
            expected = decisions.frames_of_clip(cfg, int(n))
            np.testing.assert_array_equal(index_L, expected[0])
            np.testing.assert_array_equal(mask_L, expected[1])
