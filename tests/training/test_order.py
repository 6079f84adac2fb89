"""The order of clips is a pure function of seed and epoch."""

import numpy as np
import pytest
from helpers.small_datasets import settings

from vidrec.training import order

CLIPS = 13


def many(seed, epochs, clips, size, per_epoch):
    """Batches of epochs 0 … epochs-1, (E, S, B)."""
    cfg = settings(train__batch_size=size, train__batches_per_epoch=per_epoch)
    drawn = [order.epoch_order(cfg, seed, epoch, np.zeros(clips, int)) for epoch in range(epochs)]
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


class TestBalanced:
    LABELS = np.array([0] * 9 + [2] * 3 + [3] * 1)

    def epochs(self, count, seed=3, size=6, labels=LABELS):
        cfg = settings(train__batch_size=size, train__sampling="balanced")
        return [order.epoch_order(cfg, seed, epoch, labels) for epoch in range(count)]

    def test_every_batch_holds_each_class_equally_often(self):
        for places_SB, valid_SB in self.epochs(5):
            assert valid_SB.all()
            for places in places_SB:
                assert np.bincount(self.LABELS[places]).tolist() == [2, 0, 2, 2]

    def test_a_batch_that_classes_do_not_divide_is_at_most_one_clip_off(self):
        for places_SB, _ in self.epochs(5, size=5):
            for places in places_SB:
                counts = np.bincount(self.LABELS[places])[[0, 2, 3]]
                assert counts.max() - counts.min() <= 1

    def test_clips_of_a_class_take_turns_over_all_epochs(self):
        # 3 batches of 6 clips are 6 of each class: in 3 epochs class 0 has run through twice.
        drawn = np.concatenate([places.ravel() for places, _ in self.epochs(3)])
        assert np.bincount(drawn).tolist() == [2] * 9 + [6] * 3 + [18]

    def test_it_depends_on_seed_and_epoch_alone(self):
        first, again, other = self.epochs(2), self.epochs(2), self.epochs(2, seed=4)
        assert np.array_equal(first[1].places_SB, again[1].places_SB)
        assert not np.array_equal(first[0].places_SB, first[1].places_SB)
        assert not np.array_equal(first[1].places_SB, other[1].places_SB)
