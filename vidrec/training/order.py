"""In which order the training clips are seen: decided on the host, before an epoch starts.

An epoch of `batches_per_epoch` = 0 is one pass over the training clips, its last batch padded.
Otherwise batches run through one pass after another, each shuffled anew, so that an epoch may
begin and end inside a pass.
"""

from typing import NamedTuple

import numpy as np

from vidrec.config import Config


class Order(NamedTuple):
    """The clips of an epoch's batches.

    Attributes:
        places_SB: places in the list of training clips, int32.
        valid_SB: False where a place is padding.
    """

    places_SB: np.ndarray
    valid_SB: np.ndarray


def steps_per_epoch(clips: int, batch_size: int, batches_per_epoch: int) -> int:
    """Return how many batches an epoch has."""
    return batches_per_epoch or -(-clips // batch_size)


def shuffled(seed: int, number: int, clips: int) -> np.ndarray:
    """Return the places 0 … clips-1 in the order of one pass, int32.

    The order is that of `clips` numbers of NumPy's Philox generator keyed by (seed, number). They
    are raw, since NumPy promises that its raw streams stay the same in every version.
    """
    key = np.array([seed, number], np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(clips), kind="stable").astype(np.int32)


def epoch_order(cfg: Config, seed: int, epoch: int, clips: int) -> Order:
    """Return the clips of an epoch's batches: a function of seed and epoch alone.

    Args:
        cfg: batches of how many clips, and how many of them.
        seed: of the trial.
        epoch: counted from 0.
        clips: how many training clips there are.
    """
    size, count = cfg.train.batch_size, cfg.train.batches_per_epoch
    steps = steps_per_epoch(clips, size, count)
    shape, total = (steps, size), steps * size
    if not count:
        places = np.zeros(total, np.int32)
        places[:clips] = shuffled(seed, epoch, clips)
        return Order(places.reshape(shape), (np.arange(total) < clips).reshape(shape))
    first = epoch * total
    passes = range(first // clips, -(-(first + total) // clips))
    places = np.concatenate([shuffled(seed, number, clips) for number in passes])
    begin = first % clips
    return Order(places[begin : begin + total].reshape(shape), np.ones(shape, bool))
