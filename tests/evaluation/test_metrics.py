"""Metrics against literal loops and scikit-learn, on unequal random inputs."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from vidrec.errors import UserError
from vidrec.evaluation import decisions, metrics


def softmax(x_K):
    e_K = np.exp(np.asarray(x_K, np.float64) - np.max(x_K))
    return e_K / e_K.sum()


def test_a_diverged_model_is_never_right():
    logits = np.full((2, 3), np.nan)
    assert not decisions.is_correct(logits, np.zeros(2, int)).any()
    got = metrics.summary(logits, np.array([0, 1]), "abc")
    assert (got["accuracy"], got["nonfinite"], got["calibration_error"]) == (0, 2, 1)
    assert np.sum(got["confusion"]) == 0
    assert np.isnan(got["loss"])


def scored(rng, n=200, classes=12, absent=()):
    labels = rng.choice([k for k in range(classes) if k not in absent], n)
    logits = rng.integers(0, 4, (n, classes)).astype(float)  # whole numbers: many ties
    logits[np.arange(n), labels] += rng.integers(0, 3, n)
    return logits, labels


@pytest.mark.parametrize("seed", range(3))
def test_summary_equals_literal_loops(seed):
    logits, labels = scored(np.random.default_rng(seed), absent=(3, 7))
    classes = [f"class{k}" for k in range(12)]
    got = metrics.summary(logits, labels, classes)
    # Python's sort is stable: equal logits stay in class order, as argmax takes them.
    order = [sorted(range(12), key=lambda k, row=row: -row[k]) for row in logits]
    for name, k in (("accuracy", 1), ("top1", 1), ("top5", 5), ("top10", 10)):
        hits = [label in o[:k] for label, o in zip(labels, order, strict=True)]
        assert got[name] == np.mean(hits)
    loss = [-np.log(softmax(row)[label]) for row, label in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(got["loss"], np.mean(loss), rtol=1e-12)
    confusion = np.zeros((12, 12), int)
    for label, o in zip(labels, order, strict=True):
        confusion[label, o[0]] += 1
    assert got["confusion"] == confusion.tolist()
    assert got["absent"] == ["class3", "class7"]
    assert got["clips"] == 200


def test_f1_equals_scikit_learn_over_the_classes_that_have_clips():
    logits, labels = scored(np.random.default_rng(5), absent=(3,))
    got = metrics.summary(logits, labels, [str(k) for k in range(12)])
    predicted = logits.argmax(1)
    present = sorted(set(labels))
    expected = sklearn_metrics.f1_score(
        labels, predicted, labels=present, average=None, zero_division=0
    )
    np.testing.assert_allclose([got["f1"][str(k)] for k in present], expected, rtol=1e-12)
    np.testing.assert_allclose(got["avg_f1"], expected.mean(), rtol=1e-12)
    assert got["f1"]["3"] is None
    assert 3 in predicted, "the absent class must be named, or leaving it out changes nothing"


@pytest.mark.parametrize(("classes", "tops"), [(5, {"top1"}), (6, {"top1", "top5"}), (1, {"top1"})])
def test_a_top_k_that_cannot_miss_is_left_out(classes, tops):
    got = metrics.summary(np.zeros((3, classes)), np.zeros(3, int), "abcdef"[:classes])
    assert {name for name in got if name.startswith("top")} == tops


@pytest.mark.parametrize(
    ("logits", "labels", "says"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "labels: the split has no clips"),
        (np.zeros((2, 3)), np.zeros(2, int), r"logits: shape \(2, 3\).*expected \(2, 2\)"),
        (np.zeros((2, 2)), np.array([0, 2]), "labels: 0 … 2 .*expected 0 … 1"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, says):
    with pytest.raises(UserError, match=says):
        metrics.summary(logits, labels, "ab")


def test_calibration_error_equals_a_loop():
    logits, labels = scored(np.random.default_rng(6), classes=3)
    expected = 0.0
    for b in range(15):
        inside = []
        for row, label in zip(logits, labels, strict=True):
            p = softmax(row)
            if b / 15 <= p.max() < (b + 1) / 15 or (b == 14 and p.max() == 1):
                inside.append((p.argmax() == label, p.max()))
        if inside:
            right, confidence = np.mean(inside, axis=0)
            expected += len(inside) / len(labels) * abs(right - confidence)
    assert expected > 0.02
    np.testing.assert_allclose(metrics.calibration_error(logits, labels), expected, rtol=1e-9)


def test_most_confused_lists_pairs_with_their_clips():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    predicted = np.array([1, 1, 0, 2, 2, 2, 0, 2])
    names = [f"clip{i}" for i in range(8)]
    counts = metrics.confusion(labels, predicted, 4)
    got = metrics.most_confused(
        counts, "abcd", metrics.PredictedClips(names, labels, predicted), top=3
    )
    assert [(p["true"], p["predicted"], p["count"]) for p in got] == [
        ("a", "b", 2),
        ("b", "c", 2),
        ("a", "c", 1),
    ]
    assert [p["share"] for p in got] == [0.5, 1.0, 0.25]
    assert [p["clips"] for p in got] == [["clip0", "clip1"], ["clip4", "clip5"], ["clip3"]]
    assert len(metrics.most_confused(counts, "abcd", top=99)) == 4, "the diagonal is no confusion"


def test_always_and_never_right_leave_out_classes_without_clips():
    counts = np.array([[3, 0, 0, 0], [1, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert metrics.always_right(counts, "abcd") == ["a"]
    assert metrics.never_right(counts, "abcd") == ["c"]


def test_step_accuracy_counts_only_clips_that_reach_the_step():
    rng = np.random.default_rng(7)
    right, lengths = rng.random((6, 5)) < 0.5, np.array([1, 2, 2, 4, 4, 4])
    got = metrics.step_accuracy(right, np.arange(5) < lengths[:, None])
    for step in range(4):
        assert got[step] == np.mean([right[n, step] for n in range(6) if lengths[n] > step])
    assert np.isnan(got[4])
    np.testing.assert_array_equal(metrics.step_accuracy(right), right.mean(0))


def test_balanced_accuracy_is_scikit_learns_and_majority_is_counted():
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(4)
    labels = rng.choice(5, 200, p=[0.6, 0.2, 0.1, 0.1, 0.0])
    logits = rng.normal(size=(200, 5)) + 1.5 * np.eye(5)[labels]
    got = metrics.summary(logits, labels, list("abcde"))
    want = balanced_accuracy_score(labels, logits.argmax(1))
    np.testing.assert_allclose(got["balanced_accuracy"], want, rtol=1e-12)
    assert got["majority"] == max(np.bincount(labels)) / 200
