"""The order of clips is a pure function of seed and epoch."""

import numpy as np
import pytest
from helpers.small_datasets import settings

from vidrec.training import order

CLIPS = 13


def many(seed, epochs, clips, size, per_epoch):
    """Batches of epochs 0 … epochs-1, (E, S, B)."""
    cfg = settings(train__batch_size=size, train__batches_per_epoch=per_epoch)
    drawn = [order.epoch_order(cfg, seed, epoch, clips) for epoch in range(epochs)]
    return tuple(np.stack(leaves) for leaves in zip(*drawn, strict=True))


@pytest.mark.parametrize("size", [5, 13, 20])
def test_a_pass_holds_every_clip_once_and_masks_the_ragged_end(size):
    places, valid = many(3, 4, CLIPS, size, 0)
    assert places.shape == valid.shape == (4, -(-CLIPS // size), size)
    for places_SB, valid_SB in zip(places, valid, strict=True):
        assert sorted(places_SB[valid_SB]) == list(range(CLIPS))
        assert valid_SB.ravel().tolist() == [True] * CLIPS + [False] * (valid_SB.size - CLIPS)
        assert (places_SB >= 0).all()
        assert (places_SB < CLIPS).all()


@pytest.mark.parametrize(("size", "per_epoch"), [(4, 2), (5, 3), (3, 13), (7, 5)])
def test_epochs_of_so_many_batches_run_through_passes_without_a_gap(size, per_epoch):
    epochs = 13
    places, valid = many(3, epochs, CLIPS, size, per_epoch)
    assert valid.all()
    drawn = places.ravel()
    whole = len(drawn) // CLIPS
    for number in range(whole):
        assert sorted(drawn[number * CLIPS : (number + 1) * CLIPS]) == list(range(CLIPS))
    # 13 epochs of S batches of B clips are S·B passes of 13 clips: no clip is favoured.
    assert np.bincount(drawn, minlength=CLIPS).tolist() == [size * per_epoch] * CLIPS


@pytest.mark.parametrize("per_epoch", [0, 4])
def test_batches_depend_on_seed_and_epoch_alone(per_epoch):
    first = many(3, 3, CLIPS, 5, per_epoch)
    again = many(3, 3, CLIPS, 5, per_epoch)
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0][0], first[0][1])
    other = many(4, 3, CLIPS, 5, per_epoch)
    assert not np.array_equal(first[0][2], other[0][2])


def test_an_order_is_that_of_philox_numbers():
    """Their raw stream is the same in every version of NumPy, so these figures stay."""
    assert order.shuffled(7, 3, 9).tolist() == [2, 5, 7, 3, 0, 6, 8, 4, 1]
    assert order.shuffled(2**32 - 1, 0, 4).dtype == np.int32
