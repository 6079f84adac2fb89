"""What belongs to UCF-101: its action types."""

import numpy as np

from vidrec.report import ucf101


def test_confusions_are_sorted_by_action_type():
    classes = ["ApplyEyeMakeup", "ApplyLipstick", "Haircut", "Diving"]
    counts = np.array([[8, 19, 2, 0], [7, 3, 0, 0], [0, 0, 5, 1], [0, 0, 0, 9]])
    got = ucf101.confusions_by_type(counts, classes)
    within, across = (
        [(p["true"], p["predicted"], p["count"]) for p in got[k]] for k in ("within", "across")
    )
    assert within == [
        ("ApplyEyeMakeup", "ApplyLipstick", 19),
        ("ApplyLipstick", "ApplyEyeMakeup", 7),
    ]
    assert across == [("ApplyEyeMakeup", "Haircut", 2), ("Haircut", "Diving", 1)]
    assert ucf101.confusions_by_type(counts, [*classes[:3], "mine"]) is None


def test_the_five_types_hold_each_class_once(real_data):
    listed = (real_data / "ucfTrainTestlist" / "classInd.txt").read_text(encoding="ascii")
    official = [line.split()[1] for line in listed.splitlines()]
    named = [name for names in ucf101.TYPES.values() for name in names]
    assert sorted(named) == sorted(official)
    assert len(named) == 101
    assert ucf101.type_of("HandStandPushups") == "Body-Motion Only"
