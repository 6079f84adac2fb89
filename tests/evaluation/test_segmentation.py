"""The task of a label a frame: loss, decisions, intervals and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidrec import UserError
from vidrec.config import Config, Frames, Head, Loss, Task, Train, override
from vidrec.evaluation import resampling, segments, tasks
from vidrec.evaluation.task import ChosenFrames, LossOptions, ScoredPart

CLASSES = ("background", "a", "b", "c")
CONFIG = Config(
    task=Task(kind="segmentation"),
    frames=Frames(rule="whole"),
    head=Head(kind="per_frame"),
    loss=Loss(frame_weights="uniform"),
    train=Train(monitor="val_f1_50"),
)
TASK = tasks.of(CONFIG)


def batch(rng, clips=3, frames=9):
    logits = rng.standard_normal((clips, frames, len(CLASSES))).astype("f4") * 3
    labels = rng.integers(-1, len(CLASSES), (clips, frames))
    mask = np.arange(frames) < rng.integers(1, frames + 1, clips)[:, None]
    return logits, labels, mask


def log_softmax(row):
    row = np.asarray(row, np.float64)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


@pytest.mark.parametrize("smoothing", [None, 0.2])
@pytest.mark.parametrize("weights", [(), (0.5, 1.0, 2.0, 3.0)])
@pytest.mark.parametrize("smoothness", [0.0, 0.15])
def test_the_loss_is_what_its_formula_says(smoothing, weights, smoothness):
    rng = np.random.default_rng(0)
    for _ in range(5):
        logits, labels, mask = batch(rng)
        how = LossOptions("cross_entropy", 0.0, 0, 9, smoothing, weights, smoothness, 1.5)
        found = TASK.loss(jnp.array(logits), jnp.array(labels), jnp.array(mask), how)
        for clip, total in enumerate(np.asarray(found)):
            expected = 0.0
            for t in range(9):
                logs, label = log_softmax(logits[clip, t]), labels[clip, t]
                if mask[clip, t] and label >= 0:
                    share = smoothing or 0.0
                    loss = -(1 - share) * logs[label] - share * logs.mean()
                    expected += loss * (weights[label] if weights else 1.0)
                if t and mask[clip, t] and mask[clip, t - 1]:
                    change = logs - log_softmax(logits[clip, t - 1])
                    expected += smoothness * np.minimum(change**2, 1.5**2).mean()
            assert total == pytest.approx(expected / 9, rel=1e-5, abs=1e-6)


def test_the_smoothness_moves_the_later_frame_only():
    logits = jnp.array(np.random.default_rng(1).standard_normal((1, 2, 4)))
    how = LossOptions("cross_entropy", length=2, smoothness=1.0)
    unlabelled = jnp.full((1, 2), -1)
    gradient = jax.grad(lambda x: TASK.loss(x, unlabelled, None, how).sum())(logits)
    assert not gradient[0, 0].any()
    assert gradient[0, 1].any()


def test_labels_are_gathered_by_frame_and_are_lost_behind_the_end():
    matrix = np.array([[0, 1, 2], [3, -1, -1]], np.int16)
    chosen = ChosenFrames(
        jnp.array([1, 0]),
        jnp.array([0, 0]),
        jnp.array([[0, 1, 2, 3], [2, 0, 0, 3]]),
        jnp.array([[True, True, False, False], [True, True, True, True]]),
    )
    found = TASK.gather(jnp.array(matrix), chosen)
    np.testing.assert_array_equal(found, [[3, -1, -1, -1], [2, 0, 0, -1]])


def part(rng, clips=12):
    labels = np.full((clips, 50), -1, np.int16)
    scores = rng.integers(0, 4, (clips, 60)).astype(np.int16)
    for clip in range(clips):
        length = rng.integers(20, 50)
        true = np.repeat(rng.integers(0, 4, 20), rng.integers(3, 12, 20))[:length]
        labels[clip, :length] = true
        keep = rng.random(length) < 0.98
        scores[clip, :length] = np.where(keep, np.roll(true, 1), scores[clip, :length])
    return ScoredPart(scores, np.zeros((clips, 0)), labels, CLASSES, {})


def test_a_summary_counts_each_clip_to_its_end():
    scored = part(np.random.default_rng(2))
    pairs = [
        (s[: (y >= 0).sum()], y[y >= 0]) for s, y in zip(scored.scores, scored.labels, strict=True)
    ]
    expected = segments.figures([segments.count(p, y, 4, (0,)) for p, y in pairs])
    found = TASK.summary(scored)
    assert {name: found[name] for name in expected} == expected
    assert found["frames"] == sum(len(y) for _, y in pairs)
    everything = dataclasses.replace(TASK, background=()).summary(scored)
    assert everything["f1_50"] != found["f1_50"]


def test_intervals_are_the_jackknife_of_f1():
    rng = np.random.default_rng(3)
    scored, groups = part(rng), np.array(list("aabbccddeeff"))
    seeds = [scored._replace(scores=part(rng).scores) for _ in range(3)]
    said = np.stack([TASK.said(each._replace(labels=scored.labels)) for each in seeds])

    def slowly(seed, clips):
        counted = TASK.counts(seeds[seed]._replace(labels=scored.labels))
        return segments.figures([counted[clip] for clip in clips])["f1_50"]

    values = resampling.values(slowly, 3, groups)
    interval = TASK.interval(said, scored.labels, groups)
    assert interval.mean == pytest.approx(values.whole_S.mean())
    parts = resampling.spread(values, len(groups))
    low, high = resampling.share_bounds(parts, 0.05)
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))
    same = TASK.difference(said, said, scored.labels, groups)
    assert same.mean == 0


def test_timelines_are_the_labels_of_clips_from_the_worst_to_the_best():
    scored = part(np.random.default_rng(4))
    scored.labels[3, :7] = -1  # a stretch without a label
    lines = TASK.timelines(scored, 5)
    assert lines.background == {0}
    shares = []
    for line in lines.shown:
        labels_T, scores_T = scored.labels[line.clip], scored.scores[line.clip]
        frames = max(t + 1 for t in range(len(labels_T)) if labels_T[t] >= 0)
        assert line.frames == frames
        for pieces, wanted_T in ((line.true, labels_T), (line.predicted, scores_T)):
            drawn = [-1] * frames
            for label, start, end in zip(*pieces, strict=True):
                drawn[start:end] = [label] * (end - start)
            wanted = [int(wanted_T[t]) if labels_T[t] >= 0 else -1 for t in range(frames)]
            assert drawn == wanted
        labelled = [t for t in range(frames) if labels_T[t] >= 0]
        shares.append(sum(labels_T[t] == scores_T[t] for t in labelled) / len(labelled))
        assert line.right == pytest.approx(shares[-1])
    assert shares == sorted(shares)
    every = [line.right for line in TASK.timelines(scored, 99).shown]
    assert len(every) == len(scored.labels)
    assert (min(every), max(every)) == (shares[0], shares[-1])
    assert tasks.named("clip").timelines(scored, 5).shown == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("head.kind", "last"),
        ("frames.rule", "segment"),
        ("frames.order", "shuffled"),
        ("loss.frame_weights", "linear"),
        ("eval.inference", "vote"),
        ("train.sampling", "balanced"),
        ("train.monitor", "val_accuracy"),
    ],
)
def test_settings_that_do_not_fit_are_named(name, value):
    with pytest.raises(UserError, match=name) as caught:
        TASK.check(override(CONFIG, {name: value}))
    assert "\n" not in str(caught.value)


def test_smoothness_of_other_tasks_is_refused():
    with pytest.raises(UserError, match=r"loss.smoothness = 0.1 .* task.kind = 'segmentation'"):
        tasks.named("clip").check(Config(loss=Loss(smoothness=0.1)))
