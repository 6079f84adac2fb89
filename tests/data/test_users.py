"""A mistake in a data set of a user's own is one line that names it."""

import dataclasses

import numpy as np
import pytest
from helpers.small_datasets import PixelDataset, features, pixels

from vidrec.data.datasets import users
from vidrec.errors import UserError

KIND = "mine.py:load"


@dataclasses.dataclass(eq=False)
class Own(PixelDataset):
    """Pixels, spoiled by `spoil`."""

    spoil = staticmethod(lambda frames: frames)

    def read(self, clip, frame_indices, size):
        return self.spoil(super().read(clip, frame_indices, size))

    def stream(self, clip, size, chunk=64):
        yield from map(self.spoil, super().stream(clip, size, chunk))


def own(**changes):
    whole = pixels()
    values = {field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)}
    return Own(**(values | changes))


def test_a_sound_one_is_read_as_before():
    plain, checked = own(), users.checked(own(), KIND)
    assert checked.hashed == plain.hashed == "Own"
    assert checked.keys == plain.keys
    assert checked.fingerprint() == plain.fingerprint()
    np.testing.assert_array_equal(checked.read(3, [0, 2, 1], 8), plain.read(3, [0, 2, 1], 8))
    kept = checked.keep_classes(checked.classes[:1])
    frames = np.concatenate(list(kept.stream(0, 8)))
    np.testing.assert_array_equal(frames, np.concatenate(list(plain.stream(0, 8))))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"labels": np.arange(12) % 3}, "label 2 should be 0 to 1, an index into 2 classes"),
        ({"labels": np.full(12, -1)}, "label -1 should be 0 to 1"),
        ({"labels": np.zeros(12)}, "labels should be integers, not float64"),
        ({"labels": np.zeros(11, int)}, r"labels should be \(12,\), .* not \(11,\)"),
        ({"groups": np.array("a")}, r"groups should be \(12,\)"),
        ({"names": ("a",) * 12}, "names should be unique"),
    ],
)
def test_fields_are_checked(changes, line):
    with pytest.raises(UserError, match=rf"data\.kind = mine\.py:load: {line}"):
        users.checked(own(**changes), KIND)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frames: frames / 255,
        lambda frames: frames[..., 0],
        lambda frames: frames[:, :4],
        lambda frames: frames[..., :1],
    ],
)
def test_frames_are_checked_as_they_are_read(spoil):
    dataset = users.checked(own(), KIND)
    dataset.own.spoil = spoil
    with pytest.raises(UserError, match=r"read of clip_003 should give uint8 \(2, 8, 8, 3\), not"):
        dataset.read(3, [0, 1], 8)
    with pytest.raises(UserError, match=r"stream of clip_003 should give uint8 \(T, 8, 8, 3\)"):
        list(dataset.stream(3, 8))


def test_features_and_keys_are_checked():
    dataset = users.checked(features(), KIND)
    assert dataset.features(2).ndim == 2
    dataset.own.arrays = tuple(array[:, 0] for array in dataset.own.arrays)
    with pytest.raises(UserError, match=r"features of clip_002 should give float \(T, D…\)"):
        dataset.features(2)
    dataset.own.key = lambda clip: "short"
    with pytest.raises(UserError, match="a text of at least 16 letters, not 'short'"):
        dataset.key(0)
