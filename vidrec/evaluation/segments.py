"""Score labels of frames: by frames, by the order of segments, and by their overlap.

A segment is a run of frames of one label. Edit score and F1 at an overlap are those of MS-TCN (Abu
Farha and Gall 2019); segments of background are not counted in them. A frame of label -1 is not
labelled: no figure counts it, and predicted and true segments end before it.

Dimension letters: T frames, S segments, K classes, n clips.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

OVERLAPS = (10, 25, 50)  # percent of the union of two segments
UNLABELLED = -1


class Segments(NamedTuple):
    """The segments of a clip, in order.

    Attributes:
        labels_S: class of each segment.
        starts_S: first frame of each segment.
        ends_S: the frame after the last one of each segment.
    """

    labels_S: np.ndarray
    starts_S: np.ndarray
    ends_S: np.ndarray


class Matches(NamedTuple):
    """How predicted segments match the true ones at one overlap, by class.

    Attributes:
        right_K: number of predicted segments that match a true segment of their class, each a
            different one.
        extra_K: number of predicted segments that match no true segment.
        missed_K: number of true segments that no predicted segment matches.
    """

    right_K: np.ndarray
    extra_K: np.ndarray
    missed_K: np.ndarray


class ClipCounts(NamedTuple):
    """The counts of one clip, from which figures are computed.

    Attributes:
        edit: edit score of the clip, from 0 to 1.
        confusion_KK: number of labelled frames by true class (row) and predicted class (column).
        frames_K: number of labelled frames by true class, including frames without a prediction.
        matches: matches of segments at each overlap of `OVERLAPS`.
    """

    edit: float
    confusion_KK: np.ndarray
    frames_K: np.ndarray
    matches: tuple[Matches, ...]


def segments_of(labels_T: np.ndarray, left_out: Collection[int] = ()) -> Segments:
    """Return the segments of labels (T,), without those of label -1 or a label in `left_out`."""
    labels_T = np.asarray(labels_T)
    if not len(labels_T):
        return Segments(*(np.zeros(0, int) for _ in range(3)))
    starts = np.concatenate([[0], np.flatnonzero(labels_T[1:] != labels_T[:-1]) + 1])
    ends = np.append(starts[1:], len(labels_T))
    counted = ~np.isin(labels_T[starts], [UNLABELLED, *left_out])
    return Segments(labels_T[starts][counted], starts[counted], ends[counted])


def edit_score(predicted: Segments, true: Segments) -> float:
    """Return how similar the order of the segments' labels is, from 0 to 1.

    It is 1 minus the edit distance of the two lists of labels divided by the longer one's length; 1
    if both are empty.
    """
    most = max(len(predicted.labels_S), len(true.labels_S))
    return 1 - _edit_distance(predicted.labels_S, true.labels_S) / most if most else 1.0


def _edit_distance(a: np.ndarray, b: np.ndarray) -> int:
    """Return the least number of insertions, deletions and substitutions that turn a into b."""
    place = np.arange(len(b) + 1)
    distance = place
    for row, label in enumerate(a, 1):
        kept = np.minimum(distance[1:] + 1, distance[:-1] + (b != label))
        # Insertions go along the row: the least of all earlier entries, plus the steps from it.
        distance = np.minimum.accumulate(np.concatenate([[row], kept]) - place) + place
    return int(distance[-1])


def match(predicted: Segments, true: Segments, percent: int, classes: int) -> Matches:
    """Match predicted segments to true ones that they overlap enough, in the order of time.

    A predicted segment is compared with the true segment of its class that it overlaps most. It is
    right if the overlap is at least `percent` of the union of both, and no earlier predicted
    segment matched that true segment.

    Args:
        predicted: predicted segments of a clip.
        true: true segments of the same clip.
        percent: the least overlap, in percent of the union.
        classes: K, the number of classes.
    """
    taken = np.zeros(len(true.labels_S), bool)
    right = np.zeros(len(predicted.labels_S), bool)
    for index, (label, start, end) in enumerate(zip(*predicted, strict=True)):
        both = np.minimum(end, true.ends_S) - np.maximum(start, true.starts_S)
        either = np.maximum(end, true.ends_S) - np.minimum(start, true.starts_S)
        overlap = np.where(true.labels_S == label, both / either, 0.0)
        if not len(overlap):
            break
        best = int(overlap.argmax())
        right[index] = overlap[best] >= percent / 100 and not taken[best]
        taken[best] |= right[index]

    def by_class(labels: np.ndarray) -> np.ndarray:
        return np.bincount(labels, minlength=classes)

    return Matches(
        by_class(predicted.labels_S[right]),
        by_class(predicted.labels_S[~right]),
        by_class(true.labels_S[~taken]),
    )


def count(
    predicted_T: np.ndarray, labels_T: np.ndarray, classes: int, background: Collection[int] = ()
) -> ClipCounts:
    """Return the counts of one clip.

    Args:
        predicted_T: predicted class of each frame; -1 where there is no prediction.
        labels_T: true class of each frame; -1 where the frame is not labelled.
        classes: K, the number of classes.
        background: classes whose segments are not counted.
    """
    labels_T = np.asarray(labels_T, np.int64)
    labelled = labels_T >= 0
    predicted_T = np.where(labelled, np.asarray(predicted_T, np.int64), UNLABELLED)
    predicted, true = (segments_of(each, background) for each in (predicted_T, labels_T))
    both = labelled & (predicted_T >= 0)
    cells = np.bincount(labels_T[both] * classes + predicted_T[both], minlength=classes**2)
    return ClipCounts(
        edit_score(predicted, true),
        cells.reshape(classes, classes),
        np.bincount(labels_T[labelled], minlength=classes),
        tuple(match(predicted, true, percent, classes) for percent in OVERLAPS),
    )


def f1(matches: Matches) -> float:
    """Return F1 of matches of all classes together; 1 if there are no segments at all."""
    right, extra, missed = (float(np.sum(each)) for each in matches)
    return 2 * right / total if (total := 2 * right + extra + missed) else 1.0


def figures(clips: Sequence[ClipCounts]) -> dict[str, float]:
    """Return the figures of clips, each from 0 to 1.

    Returns:
        - frame_accuracy: the share of right frames among the labelled frames of all clips.
        - balanced_accuracy: the share of right frames of each class, averaged over classes.
        - majority: the share of frames of the most frequent class.
        - edit: the mean edit score of the clips.
        - f1_10, f1_25, f1_50: the F1 of the segments of all clips at each overlap.
    """
    confusion = np.sum([clip.confusion_KK for clip in clips], 0)
    frames_K = np.sum([clip.frames_K for clip in clips], 0)
    total, there = max(int(frames_K.sum()), 1), frames_K > 0
    right_K = np.diag(confusion)
    shares = right_K[there] / frames_K[there]
    return {
        "frame_accuracy": float(right_K.sum() / total),
        "balanced_accuracy": float(shares.mean()) if there.any() else 0.0,
        "majority": float(frames_K.max() / total),
        "edit": float(np.mean([clip.edit for clip in clips])),
        **{f"f1_{percent}": f1(all_matches(clips, i)) for i, percent in enumerate(OVERLAPS)},
    }


def all_matches(clips: Sequence[ClipCounts], overlap: int) -> Matches:
    """Return the matches at `OVERLAPS[overlap]`, added up over all clips."""
    each = [clip.matches[overlap] for clip in clips]
    return Matches(*(np.sum(counts, 0) for counts in zip(*each, strict=True)))


def by_class(clips: Sequence[ClipCounts], classes: Sequence[str]) -> dict[str, Any]:
    """Return the figures of each class.

    Returns:
        - class_frame_accuracy: frame accuracy by class, None for a class without frames.
        - class_f1_50: F1 at an overlap of 50 % by class, None for a class without segments.
        - confusion: number of frames by true class (row) and predicted class (column).
    """
    confusion = np.sum([clip.confusion_KK for clip in clips], 0)
    frames_K = np.sum([clip.frames_K for clip in clips], 0)
    matches = all_matches(clips, OVERLAPS.index(50))
    own = [Matches(*(counts[k] for counts in matches)) for k in range(len(classes))]
    return {
        "class_frame_accuracy": {
            name: float(confusion[k, k] / frames_K[k]) if frames_K[k] else None
            for k, name in enumerate(classes)
        },
        "class_f1_50": {
            name: f1(own[k]) if any(own[k]) else None for k, name in enumerate(classes)
        },
        "confusion": np.asarray(confusion).tolist(),
    }
