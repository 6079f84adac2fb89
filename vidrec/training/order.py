"""Order the training clips of an epoch, on the host and before the epoch starts.

An epoch of `batches_per_epoch` = 0 is one pass over the training clips, its last batch padded.
With another value an epoch has that many batches. They are taken from one pass after another, and
every pass is shuffled anew. So an epoch may begin and end in the middle of a pass.

With `train.sampling = balanced` every class is seen equally often: each class has separate passes
over its clips, and batches take one clip of each class in turn.
"""

from typing import NamedTuple

import numpy as np

from vidrec.config import Config


class Order(NamedTuple):
    """The clips of an epoch's batches.

    Attributes:
        places_SB: indices into the list of training clips, int32.
        valid_SB: False where a place is padding.
    """

    places_SB: np.ndarray
    valid_SB: np.ndarray


def steps_per_epoch(clips: int, batch_size: int, batches_per_epoch: int) -> int:
    """Return how many batches an epoch has."""
    return batches_per_epoch or -(-clips // batch_size)


def shuffled(seed: int, number: int, clips: int, stream: int = 0) -> np.ndarray:
    """Return the indices 0 … clips-1 in the order of one pass, int32.

    The order is that of `clips` random numbers of NumPy's Philox generator, keyed by (seed,
    number). Raw numbers are used, since NumPy promises that they are the same in every version.

    Args:
        seed: seed of the trial.
        number: number of the pass.
        clips: number of clips.
        stream: which stream of random numbers to use; streams do not overlap.
    """
    key, counter = np.array([seed, number], np.uint64), np.array([0, 0, 0, stream], np.uint64)
    numbers = np.random.Philox(key=key, counter=counter).random_raw(clips)
    return np.argsort(numbers, kind="stable").astype(np.int32)


def epoch_order(cfg: Config, seed: int, epoch: int, labels: np.ndarray) -> Order:
    """Return the clips of an epoch's batches: a function of seed, epoch and labels alone.

    Args:
        cfg: settings of the batches (section `train`).
        seed: seed of the trial.
        epoch: epoch, counted from 0.
        labels: (clips,) the class of each training clip.
    """
    size, count, clips = cfg.train.batch_size, cfg.train.batches_per_epoch, len(labels)
    steps = steps_per_epoch(clips, size, count)
    shape, total = (steps, size), steps * size
    if cfg.train.sampling == "balanced":
        places = _balanced(seed, epoch, labels, total)
        return Order(places.reshape(shape), np.ones(shape, bool))
    if not count:
        places = np.zeros(total, np.int32)
        places[:clips] = shuffled(seed, epoch, clips)
        return Order(places.reshape(shape), (np.arange(total) < clips).reshape(shape))
    first = epoch * total
    passes = range(first // clips, -(-(first + total) // clips))
    places = np.concatenate([shuffled(seed, number, clips) for number in passes])
    begin = first % clips
    return Order(places[begin : begin + total].reshape(shape), np.ones(shape, bool))


def _balanced(seed: int, epoch: int, labels: np.ndarray, total: int) -> np.ndarray:
    """Return `total` indices of clips, one of each class in turn, (total,) int32.

    The order of the classes is drawn for each epoch and kept during the epoch. So in any batch the
    numbers of clips of two classes differ by at most one.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rounds = -(-total // len(members))
    turns = [
        _turns(seed, clips, epoch * rounds, rounds, stream)
        for stream, clips in enumerate(members, start=1)
    ]
    by_round = np.stack(turns, axis=1)[:, shuffled(seed, epoch, len(members), stream=2**63)]
    return by_round.reshape(-1)[:total].astype(np.int32)


def _turns(seed: int, clips: np.ndarray, begin: int, count: int, stream: int) -> np.ndarray:
    """Return `count` clips of one class, from position `begin` on of its passes in sequence."""
    passes = range(begin // len(clips), -(-(begin + count) // len(clips)))
    drawn = [clips[shuffled(seed, number, len(clips), stream)] for number in passes]
    start = begin % len(clips)
    return np.concatenate(drawn)[start : start + count]
