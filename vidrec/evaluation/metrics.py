"""Compute figures such as accuracy and F1 on the host, from saved scores."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vidrec.errors import UserError

TOP = (5, 10)
# The loss replaces a probability of exactly 0 by this; a class without votes has probability 0.
LEAST = 1e-7


def log_probabilities(scores: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
    """Return logarithms (n, K) of the probabilities of scores, in float64.

    Args:
        scores: (n, K) logits, or weighted sums of log-probabilities of frames or windows.
        weight: (n,) sum of those weights; 1 for logits. Scores are divided by it, so that a long
            clip is not more certain than a short one merely because it is longer.
    """
    scores = np.asarray(scores, np.float64)
    return _log_softmax(scores / np.broadcast_to(weight, len(scores))[:, None])


def ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the rank (0 is first) of each clip's true class among its logits (n, K).

    Equal logits rank by class index, as argmax does. A row with NaN ranks its true class last.
    """
    logits = np.asarray(logits)
    labels = np.asarray(labels)
    true = np.take_along_axis(logits, labels[:, None], axis=1)
    before = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > true) | ((logits == true) & before)).sum(axis=1)
    return np.where(np.isnan(logits).any(axis=1), logits.shape[1], rank)


def predictions(logits: np.ndarray) -> np.ndarray:
    """Return the class of the largest logit (n, K); -1 where a logit is NaN."""
    bad = np.isnan(logits).any(axis=1)
    return np.where(bad, -1, np.argmax(logits, axis=1))


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count clips by true class (row) and predicted class (column); predictions of -1 are skipped.

    Args:
        labels: (n,) true classes.
        predicted: (n,) predicted classes; -1 for a clip without a prediction.
        num_classes: K.

    Returns:
        (K, K) numbers of clips.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    seen = predicted >= 0
    cells = labels[seen].astype(np.int64) * num_classes + predicted[seen]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def majority(labels: np.ndarray) -> float:
    """Return the share of the most frequent class of (n,) labels."""
    return float(np.bincount(labels).max() / len(labels))


def summary(
    logits: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    log_probs: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return every figure of one split, as plain Python values.

    Args:
        logits: (n, K) scores that rank the classes.
        labels: (n,), index into `classes`.
        classes: names by class number.
        log_probs: (n, K) logarithms of the probabilities that prediction gives for these clips;
            None: the scores are logits.

    Returns:
        - clips: their number.
        - accuracy: the share of right clips; top1 is the same.
        - top5, top10: the share of clips whose true class is among the 5 or 10 best ones, if there
            are more classes than that.
        - balanced_accuracy: the share of right clips of each class, averaged over classes.
        - majority: the share of the most frequent class.
        - loss: the mean negative logarithm of the true class' probability, in nats (`loss`).
        - f1: the F1 of each class, None for a class without clips; avg_f1 is the mean over the
            classes with clips.
        - absent: the names of the classes without clips.
        - confusion: the counts of `confusion`.
        - calibration_error: see `calibration_error`.
        - nonfinite: the number of clips with a NaN among their logits; they are never right.

    Raises:
        UserError: there are no clips, or the shapes do not fit.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    _check(logits, labels, classes)
    log_probs = log_probabilities(logits) if log_probs is None else np.asarray(log_probs)
    predicted = predictions(logits)
    counts = confusion(labels, predicted, len(classes))
    support = np.bincount(labels, minlength=len(classes))
    f1 = class_f1(counts, support)
    rank = ranks(logits, labels)
    tops = {f"top{k}": float(np.mean(rank < k)) for k in (1, *TOP) if k < len(classes) or k == 1}
    return {
        "clips": len(labels),
        "accuracy": tops["top1"],
        "balanced_accuracy": balanced_accuracy(predicted == labels, labels),
        "majority": majority(labels),
        "loss": loss(log_probs, labels),
        "avg_f1": float(np.mean(f1[support > 0])),
        **tops,
        "f1": {c: float(f) if s else None for c, f, s in zip(classes, f1, support, strict=True)},
        "absent": [c for c, s in zip(classes, support, strict=True) if not s],
        "confusion": counts.tolist(),
        "calibration_error": calibration_error(log_probs, labels, predicted=predicted),
        "nonfinite": int(np.sum(predicted < 0)),
    }


def balanced_accuracy(correct: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of right clips of each class, averaged over the classes with clips.

    Args:
        correct: (n,) True for clips that are right.
        labels: (n,) true classes.
    """
    support = np.bincount(labels)
    right = np.bincount(labels, weights=correct)
    return float(np.mean(right[support > 0] / support[support > 0]))


def _check(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
    if len(labels) == 0:
        raise UserError("labels: the split has no clips to score; give it at least one")
    if logits.shape != (len(labels), len(classes)):
        raise UserError(
            f"logits: shape {logits.shape} does not fit {len(labels)} labels and "
            f"{len(classes)} classes; expected ({len(labels)}, {len(classes)})"
        )
    if labels.min() < 0 or labels.max() >= len(classes):
        raise UserError(
            f"labels: {labels.min()} … {labels.max()} reach outside the {len(classes)} classes; "
            f"expected 0 … {len(classes) - 1}"
        )


def class_f1(counts: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Return the F1 of each class, (K,); 0 for a class without true and predicted clips.

    Args:
        counts: confusion counts (K, K), a row for each true class.
        support: number of clips of each true class, (K,).
    """
    total = support + counts.sum(axis=0)
    return 2 * np.diag(counts) / np.maximum(total, 1)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def loss(log_probs: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-probability of the true class, in nats.

    A probability of 0 counts as `LEAST`.
    """
    true = np.take_along_axis(np.asarray(log_probs, np.float64), labels[:, None], axis=1)[:, 0]
    return float(-np.mean(np.where(np.isneginf(true), np.log(LEAST), true)))


def calibration_error(
    log_probs: np.ndarray,
    labels: np.ndarray,
    bins: int = 15,
    predicted: np.ndarray | None = None,
) -> float:
    """Return the mean distance between confidence and accuracy, over bins weighted by their clips.

    Args:
        log_probs: (n, K) logarithms of probabilities, or logits.
        labels: (n,) true classes.
        bins: number of bins, of equal width in confidence.
        predicted: (n,) the predicted classes; None: the most probable classes.
    """
    confidence = np.exp(log_probabilities(log_probs)).max(axis=1)
    correct = (predictions(log_probs) if predicted is None else predicted) == labels
    seen = ~np.isnan(confidence)
    # Shares of votes are exactly at edges of bins; 1e-9 makes up for rounding.
    bin_of = np.minimum((confidence[seen] * bins + 1e-9).astype(int), bins - 1)
    gap = np.bincount(bin_of, weights=correct[seen] - confidence[seen], minlength=bins)
    # A clip without a confidence counts as a gap of 1.
    return float((np.abs(gap).sum() + np.sum(~seen)) / len(labels))


class PredictedClips(NamedTuple):
    """The predictions for n clips.

    Attributes:
        names: (n,) names of the clips.
        labels: (n,) true classes.
        predicted: (n,) predicted classes.
    """

    names: Sequence[str] | np.ndarray
    labels: np.ndarray
    predicted: np.ndarray


def most_confused(
    counts_KK: np.ndarray,
    classes: Sequence[str],
    clips: PredictedClips | None = None,
    top: int = 10,
) -> list[dict[str, Any]]:
    """Return the pairs (true class, predicted class) that are confused most often.

    Args:
        counts_KK: the counts of `confusion`.
        classes: names by class number.
        clips: the predictions, so that each pair lists its clips; None: no clips are listed.
        top: largest number of pairs.

    Returns:
        `{"true", "predicted", "count", "share" (of the true class's clips), "clips": [names]}`,
        the most frequent first.
    """
    counts_KK = np.array(counts_KK)
    share_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(counts_KK, 0)
    # A stable sort keeps class order among equals, so that two runs print the same table.
    order = np.argsort(-counts_KK.ravel(), kind="stable")
    pairs = []
    for cell in order[: min(top, np.count_nonzero(counts_KK))].tolist():
        i, j = divmod(cell, len(classes))
        pair: dict[str, Any] = {
            "true": classes[i],
            "predicted": classes[j],
            "count": int(counts_KK[i, j]),
            "share": float(share_KK[i, j]),
            "clips": [],
        }
        if clips is not None:
            own = np.flatnonzero((clips.labels == i) & (clips.predicted == j))
            pair["clips"] = [str(clips.names[n]) for n in own.tolist()]
        pairs.append(pair)
    return pairs


def always_right(counts: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Return the classes whose clips were all right; a class without clips is left out."""
    counts = np.asarray(counts)
    support = counts.sum(axis=1)
    always = (np.diag(counts) == support) & (support > 0)
    return [classes[k] for k in np.flatnonzero(always).tolist()]


def never_right(counts: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Return the classes whose clips were all wrong; a class without clips is left out."""
    counts = np.asarray(counts)
    never = (np.diag(counts) == 0) & (counts.sum(axis=1) > 0)
    return [classes[k] for k in np.flatnonzero(never).tolist()]


def step_accuracy(correct_nL: np.ndarray, mask_nL: np.ndarray | None = None) -> np.ndarray:
    """Return accuracy at each frame (L,), over the clips that reach it; NaN if none does."""
    correct_nL = np.asarray(correct_nL, bool)
    mask_nL = np.ones_like(correct_nL) if mask_nL is None else np.asarray(mask_nL, bool)
    reached_L = mask_nL.sum(axis=0)
    return np.where(
        reached_L > 0, (correct_nL & mask_nL).sum(axis=0) / np.maximum(reached_L, 1), np.nan
    )
