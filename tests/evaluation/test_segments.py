"""Frame accuracy, edit score and F1 at an overlap, beside their definitions written out."""

import numpy as np
import pytest

from vidrec.evaluation import segments

CLASSES = ("background", "a", "b", "c", "d")


def runs(labels, left_out):
    """Lists of (label, first frame, frame behind the last), found frame by frame."""
    found, start = [], 0
    for t in range(1, len(labels) + 1):
        if t == len(labels) or labels[t] != labels[start]:
            if labels[start] not in left_out:
                found.append((labels[start], start, t))
            start = t
    return found


def levenshtein(a, b):
    """The whole table of edit distances, cell by cell."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            change = table[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            table[i][j] = min(change, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1]


def f_counts(predicted, true, overlap):
    """True positives, false positives and false negatives as MS-TCN counts them."""
    hit = [False] * len(true)
    tp = fp = 0
    for label, start, end in predicted:
        overlaps = []
        for other, first, last in true:
            intersection = min(end, last) - max(start, first)
            union = max(end, last) - min(start, first)
            overlaps.append(intersection / union * (label == other))
        best = max(range(len(true)), key=lambda i: (overlaps[i], -i)) if true else None
        if best is not None and overlaps[best] >= overlap and not hit[best]:
            tp, hit[best] = tp + 1, True
        else:
            fp += 1
    return tp, fp, hit.count(False)


def written_out(pairs, left_out):
    """Every figure of clips, from loops."""
    right = frames = 0
    edits, counts = [], {percent: [0, 0, 0] for percent in (10, 25, 50)}
    for predicted, labels in pairs:
        for p, y in zip(predicted, labels, strict=True):
            frames += y >= 0
            right += y >= 0 and p == y
        seen = [p if y >= 0 else -1 for p, y in zip(predicted, labels, strict=True)]
        p_runs, y_runs = (runs(list(each), {*left_out, -1}) for each in (seen, labels))
        longer = max(len(p_runs), len(y_runs))
        distance = levenshtein([r[0] for r in p_runs], [r[0] for r in y_runs])
        edits.append(1 - distance / longer if longer else 1.0)
        for percent, total in counts.items():
            for i, number in enumerate(f_counts(p_runs, y_runs, percent / 100)):
                total[i] += number
    figures = {"frame_accuracy": right / frames, "edit": sum(edits) / len(edits)}
    for percent, (tp, fp, fn) in counts.items():
        precision, recall = (tp / n if n else 0.0 for n in (tp + fp, tp + fn))
        both = precision + recall
        figures[f"f1_{percent}"] = 2 * precision * recall / both if both else 0.0
    return figures


def clip(rng, unlabelled):
    """True labels in segments of unequal length, and a guess with moved edges and mistakes."""
    lengths = rng.integers(1, 25, rng.integers(1, 15))
    low = -1 if unlabelled else 0
    labels = np.repeat(rng.integers(low, len(CLASSES), len(lengths)), lengths)
    predicted = np.roll(labels, rng.integers(-4, 5))
    wrong = rng.random(len(labels)) < rng.choice([0.0, 0.02, 0.3])
    predicted = np.where(wrong | (predicted < 0), rng.integers(0, 5, len(labels)), predicted)
    return predicted, labels


@pytest.mark.parametrize("unlabelled", [False, True])
@pytest.mark.parametrize("left_out", [(), (0,), (0, 3)])
def test_figures_are_those_of_their_definitions(left_out, unlabelled):
    rng = np.random.default_rng(7)
    for _ in range(40):
        pairs = [clip(rng, unlabelled) for _ in range(rng.integers(1, 6))]
        if not any((labels >= 0).any() for _, labels in pairs):
            continue
        counted = [segments.count(p, y, len(CLASSES), left_out) for p, y in pairs]
        figures, expected = segments.figures(counted), written_out(pairs, left_out)
        nothing = not any(
            runs(list(np.where(y >= 0, x, -1)), {*left_out, -1}) for p, y in pairs for x in (p, y)
        )
        if nothing:  # 0 of 0 segments: right, where precision and recall are not defined
            expected |= {name: 1.0 for name in expected if name.startswith("f1_")}
        assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_frames_by_class_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    pairs = [clip(rng, unlabelled=True) for _ in range(12)]
    counted = [segments.count(p, y, len(CLASSES)) for p, y in pairs]
    p, y = (np.concatenate(each) for each in zip(*pairs, strict=True))
    p, y = p[y >= 0], y[y >= 0]
    figures, by_class = segments.figures(counted), segments.by_class(counted, CLASSES)
    assert figures["frame_accuracy"] == pytest.approx(metrics.accuracy_score(y, p))
    assert figures["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, p))
    np.testing.assert_array_equal(by_class["confusion"], metrics.confusion_matrix(y, p))
    recall = metrics.recall_score(y, p, average=None)
    assert list(by_class["class_frame_accuracy"].values()) == pytest.approx(recall)


def test_a_second_segment_on_the_same_true_one_is_extra():
    labels = np.repeat([1], 20)
    predicted = np.repeat([1, 2, 1], [11, 1, 8])
    counted = segments.count(predicted, labels, 3)
    at_25 = segments.Matches(*(np.asarray(each).tolist() for each in counted.matches[1]))
    assert at_25 == ([0, 1, 0], [0, 1, 1], [0, 0, 0])
    assert counted.edit == pytest.approx(1 / 3)


def test_an_unlabelled_stretch_ends_segments_and_counts_nowhere():
    labels = np.repeat([1, -1, 1], [5, 5, 5])
    whole = segments.count(np.ones(15, int), labels, 2)
    assert segments.figures([whole]) == pytest.approx(
        dict.fromkeys(("frame_accuracy", "balanced_accuracy", "majority", "edit"), 1.0)
        | {f"f1_{percent}": 1.0 for percent in segments.OVERLAPS}
    )
    assert whole.frames_K.tolist() == [0, 10]


def test_a_frame_without_a_prediction_is_wrong():
    counted = segments.count(np.full(4, -1), np.array([0, 0, 1, 1]), 2)
    figures = segments.figures([counted])
    assert (figures["frame_accuracy"], figures["edit"], figures["f1_10"]) == (0, 0, 0)
    assert counted.frames_K.tolist() == [2, 2]
