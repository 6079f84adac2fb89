"""The embedded data with a label a frame: what a clip shows is what its labels say."""

import numpy as np
import pytest

from vidrec import UserError
from vidrec.config import Data
from vidrec.data import datasets
from vidrec.data.datasets import motion, motion_segments
from vidrec.data.datasets.motion_segments import BACKGROUND, CLASSES, LEAST, MOVES, RANGES

SMALL = motion_segments.SegmentSettings(clips=30, frames=70, size=16)


def runs(labels):
    changes = np.flatnonzero(np.diff(labels)) + 1
    return np.split(np.arange(len(labels)), changes)


def test_backwards_is_the_same_frames_with_the_labels_of_reversed_motions():
    for seed in range(4):
        forwards = motion_segments.clip(seed, False, SMALL)
        backwards = motion_segments.clip(seed, True, SMALL)
        np.testing.assert_array_equal(forwards.frames_THWC[::-1], backwards.frames_THWC)
        for label, other in zip(forwards.labels_T[::-1], backwards.labels_T, strict=True):
            name = CLASSES[label]
            assert CLASSES[other] == motion.PARTNER.get(name, BACKGROUND)


def test_one_thing_changes_in_each_segment_and_as_its_label_says():
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(60):
        path, labels = motion_segments.timeline(rng, 400)
        for frame in range(1, 400):
            name = CLASSES[labels[frame]]
            changed = {key: path[key][frame] - path[key][frame - 1] for key in RANGES}
            changed = {key: value for key, value in changed.items() if value}
            if name == BACKGROUND:
                assert not changed
                continue
            [(key, value)] = changed.items()
            assert name == MOVES[key][0 if value > 0 else 1]
            seen.add(name)
        for key, (low, high) in RANGES.items():
            assert path[key].min() >= low - 1e-9
            assert path[key].max() <= high + 1e-9
    assert seen == {*CLASSES} - {BACKGROUND}


def test_segments_are_of_changing_length_and_begin_anywhere():
    rng = np.random.default_rng(2)
    lengths, first = {False: [], True: []}, []
    for _ in range(100):
        _, labels = motion_segments.timeline(rng, 300)
        whole = runs(labels)
        first.append(len(whole[0]))
        for own in whole[1:-1]:
            lengths[CLASSES[labels[own[0]]] == BACKGROUND].append(len(own))
    # Two motions of one label in a row, or two rests, are one segment.
    assert min(lengths[False]) == motion_segments.MOTION[0]
    assert min(lengths[True]) == motion_segments.REST[0]
    assert len(set(lengths[False])) > 10
    assert len(set(lengths[True])) > 10
    assert len(set(first)) > 10


def test_a_motion_covers_its_share():
    rng = np.random.default_rng(3)
    for _ in range(200):
        for name, (low, high) in RANGES.items():
            start = rng.uniform(low, high)
            values, _ = motion_segments._motion(rng, name, start, 20)
            assert abs(values[-1] - start) >= LEAST * (high - low) - 1e-9
            steps = np.diff([start, *values])
            assert (steps > 0).all() or (steps < 0).all()


def test_the_set_is_the_same_every_time_and_read_with_its_labels(tmp_path):
    data = Data(tfds="motion/segments/clips=30,frames=70,size=16", root=str(tmp_path))
    dataset = datasets.load(data)
    assert len(dataset) == 30
    assert dataset.classes == CLASSES
    for clip, name in enumerate(dataset.names):
        seed = int(name.rpartition("_")[2])
        drawn = motion_segments.clip(seed, "backwards" in name, SMALL)
        np.testing.assert_array_equal(dataset.read(clip, range(70), 16), drawn.frames_THWC)
        np.testing.assert_array_equal(dataset.frame_labels[clip].frames(70), drawn.labels_T)
        assert dataset.labels[clip] == np.bincount(drawn.labels_T).argmax()
        assert dataset.groups[clip] == motion_segments.recording(seed)
    with pytest.raises(UserError, match=r"data.classes keeps the clips of some classes"):
        datasets.load(Data(tfds=data.tfds, root=data.root, classes=("left", "right")))


def test_more_clips_change_none_and_another_seed_changes_all():
    settings = motion_segments.SegmentSettings(clips=34, frames=70, size=16)
    other = motion_segments.SegmentSettings(clips=30, frames=70, size=16, seed=1)
    first = motion_segments.clip(3, False, SMALL)
    np.testing.assert_array_equal(
        first.frames_THWC, motion_segments.clip(3, False, settings).frames_THWC
    )
    assert not np.array_equal(first.labels_T, motion_segments.clip(3, False, other).labels_T)
