"""Compute average precision and thresholds of classes, where a clip may have several classes.

Dimension letters: n clips, K classes, G recordings, P clips that have a class.
"""

from typing import NamedTuple

import numpy as np

BLOCK = 2**24  # entries of a table (recordings, clips): larger tables are made in blocks


class _Ranked(NamedTuple):
    """One class's clips, the most probable first.

    Attributes:
        order_n: indices of the clips in this order.
        positive_n: whether each clip has the class, in this order.
        last_P: for each clip that has the class, the position in this order of the last clip with
            the same score.
    """

    order_n: np.ndarray
    positive_n: np.ndarray
    last_P: np.ndarray


def _ranked(scores_n: np.ndarray, labels_n: np.ndarray) -> _Ranked:
    """Rank clips by score; clips with a NaN score come last."""
    scores_n = np.where(np.isnan(scores_n), -np.inf, scores_n)
    order_n = np.argsort(-scores_n, kind="stable")
    ranked_n, positive_n = scores_n[order_n], labels_n[order_n] > 0
    is_last_n = np.append(ranked_n[1:] != ranked_n[:-1], True)
    # Clips with equal scores are all above a threshold or all below it.
    lasts = np.flatnonzero(is_last_n)
    last_n = lasts[np.cumsum(is_last_n) - is_last_n]
    return _Ranked(order_n, positive_n, last_n[positive_n])


def average_precision(scores_n: np.ndarray, labels_n: np.ndarray) -> float:
    """Return the mean precision over the clips that have a class, as scikit-learn defines it.

    The precision at a clip is the share of clips with the class among all clips whose score is at
    least as high.

    Args:
        scores_n: (n,) scores of the class.
        labels_n: (n,) above 0 where a clip has the class; if no clip has it, the result is NaN.
    """
    ranked = _ranked(np.asarray(scores_n), np.asarray(labels_n))
    if not len(ranked.last_P):
        return float("nan")
    hits_n = np.cumsum(ranked.positive_n)
    return float(np.mean(hits_n[ranked.last_P] / (ranked.last_P + 1)))


def average_precisions(scores_nK: np.ndarray, labels_nK: np.ndarray) -> np.ndarray:
    """Return the average precision of each class, (K,); NaN for a class that no clip has."""
    pairs = zip(np.asarray(scores_nK).T, np.asarray(labels_nK).T, strict=True)
    return np.array([average_precision(*column) for column in pairs])


def mean_average_precision(scores_nK: np.ndarray, labels_nK: np.ndarray) -> float:
    """Return the mean average precision over the classes that clips have; NaN if there are none."""
    return float(mean_of_known(average_precisions(scores_nK, labels_nK)))


def mean_of_known(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return means along an axis, leaving out NaN; NaN if all values are NaN."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis)
    count = known.sum(axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)[()]


def without_each(
    scores_nK: np.ndarray, labels_nK: np.ndarray, number_n: np.ndarray, groups: int
) -> np.ndarray:
    """Return the mean average precision with one recording left out, for each recording, (G,).

    Args:
        scores_nK: (n, K) scores.
        labels_nK: (n, K) above 0 where a clip has a class.
        number_n: (n,) number of each clip's recording.
        groups: G, the number of recordings.
    """
    by_class = [
        _precisions_without(_ranked(*column), number_n, groups)
        for column in zip(np.asarray(scores_nK).T, np.asarray(labels_nK).T, strict=True)
    ]
    return mean_of_known(np.stack(by_class), axis=0)


def _precisions_without(ranked: _Ranked, number_n: np.ndarray, groups: int) -> np.ndarray:
    """Return one class's average precision with each recording left out in turn, (G,)."""
    size, last_P = len(number_n), ranked.last_P
    number_n = number_n[ranked.order_n]
    hits_P = np.cumsum(ranked.positive_n)[last_P]
    own_P = number_n[ranked.positive_n]
    found = np.full(groups, np.nan)
    at_once = max(1, BLOCK // max(size, 1))
    for start in range(0, groups, at_once):
        block_G = np.arange(start, min(start + at_once, groups))
        own_Gn = number_n == block_G[:, None]
        clips_GP = np.cumsum(own_Gn, axis=1, dtype=np.int32)[:, last_P]
        gone_GP = np.cumsum(own_Gn & ranked.positive_n, axis=1, dtype=np.int32)[:, last_P]
        stays_GP = own_P != block_G[:, None]
        left_GP = np.maximum(last_P + 1 - clips_GP, 1)
        precision_GP = np.where(stays_GP, (hits_P - gone_GP) / left_GP, 0.0)
        count_G = stays_GP.sum(axis=1)
        mean_G = precision_GP.sum(axis=1) / np.maximum(count_G, 1)
        found[block_G] = np.where(count_G > 0, mean_G, np.nan)
    return found


def best_thresholds(probabilities_nK: np.ndarray, labels_nK: np.ndarray) -> np.ndarray:
    """Return the threshold of each class with the highest F1, (K,); 0.5 for a class without clips.

    A threshold is halfway between the two probabilities that it separates. Among equally good
    thresholds, the highest is taken.
    """
    pairs = zip(np.asarray(probabilities_nK, np.float64).T, np.asarray(labels_nK).T, strict=True)
    return np.array([_best_threshold(*column) for column in pairs])


def _best_threshold(probabilities_n: np.ndarray, labels_n: np.ndarray) -> float:
    sound = ~np.isnan(probabilities_n)
    order = np.argsort(-probabilities_n[sound], kind="stable")
    ranked_n, positive_n = probabilities_n[sound][order], labels_n[sound][order] > 0
    if not positive_n.any():
        return 0.5
    parted = np.flatnonzero(np.append(ranked_n[1:] != ranked_n[:-1], True))
    hits = np.cumsum(positive_n)[parted]
    f1 = 2 * hits / (parted + 1 + positive_n.sum())
    best = parted[int(np.argmax(f1))]
    below = ranked_n[best + 1] if best + 1 < len(ranked_n) else 0.0
    return float((ranked_n[best] + below) / 2)
