"""Two motions at once: reversals to the bit, labels, and the TFDS set with lists of labels."""

import numpy as np
import pytest

from vidrec.config import Config, override
from vidrec.data import splits
from vidrec.data.datasets import motion, motion_several
from vidrec.data.datasets.motion_several import TOGETHER, SeveralSettings
from vidrec.errors import UserError
from vidrec.evaluation import tasks

SMALL = SeveralSettings(clips=60, frames=7, size=20, seed=3)


@pytest.mark.parametrize("together", range(len(TOGETHER)))
def test_a_clip_has_a_motion_of_each_of_two_pairs_and_its_reversal_has_their_partners(together):
    frames, labels = motion_several.clip(2, together, False, SMALL)
    back, partners = motion_several.clip(2, together, True, SMALL)
    assert frames.shape == (7, 20, 20, 3)
    np.testing.assert_array_equal(back, frames[::-1])
    assert partners == tuple(sorted(motion.PARTNER[name] for name in labels))
    pairs = [next(i for i, pair in enumerate(motion.PAIRS) if name in pair) for name in labels]
    assert tuple(sorted(pairs)) == TOGETHER[together]


def test_which_way_each_goes_is_drawn_for_itself():
    ways = {motion_several.clip(seed, 0, False, SMALL).labels for seed in range(24)}
    assert ways == {("down", "left"), ("down", "right"), ("left", "up"), ("right", "up")}


def test_the_shape_does_what_the_labels_say():
    still = SeveralSettings(frames=9, size=48, difficulty=0)
    together = TOGETHER.index((0, 2))  # across, and size
    frames, labels = motion_several.clip(1, together, False, still)
    away = np.abs(frames.astype(int) - np.median(frames, axis=0).astype(int)).sum(-1) > 30
    columns = [np.flatnonzero(each.any(0)).mean() for each in away]
    assert ("right" in labels) == (columns[-1] > columns[0])
    areas = away.reshape(len(away), -1).sum(1)
    assert ("grow" in labels) == (areas[-1] > areas[0])


def test_the_tfds_set_has_lists_of_labels_and_is_divided_by_recording(tmp_path):
    cfg = override(
        Config(),
        {
            "task.kind": "multilabel",
            "data.tfds": "motion/several/clips=120,frames=6,size=16",
            "data.root": str(tmp_path),
        },
    )
    dataset = tasks.of(cfg).load(cfg)
    assert dataset.classes == motion.CLASSES
    assert dataset.labels.shape == (120, 10)
    assert (dataset.labels.sum(1) == 2).all()
    for name, text in zip(dataset.names, dataset.label_texts, strict=True):
        assert name.partition("/")[0].split("+") == text.split("|")
    split = splits.make(dataset, cfg.data)
    groups = [set(dataset.groups[part]) for part in (split.train, split.val, split.test)]
    assert not groups[0] & (groups[1] | groups[2])
    assert all(dataset.labels[part].any(0).all() for part in (split.train, split.test))
    clip = override(cfg, {"task.kind": "clip"})
    with pytest.raises(UserError, match=r"several labels a clip: task\.kind should be multilabel"):
        tasks.of(clip).load(clip)
