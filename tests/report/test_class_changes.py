"""Changes of classes between two runs, against a literal loop."""

import numpy as np
import pytest

from vidrec.errors import UserError
from vidrec.report.class_changes import class_changes


def test_class_changes_equal_a_loop():
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 8, 120)
    labels[labels == 5] = 4
    a, b = (np.where(rng.random(120) < 0.6, labels, rng.integers(0, 8, 120)) for _ in range(2))
    b[labels == 2] = a[labels == 2]
    classes = [f"c{k}" for k in range(8)]
    improved, worsened, stayed = class_changes(a, b, labels, classes, np.arange(120) // 3)
    for found, sign in ((improved, 1), (worsened, -1), (stayed, 0)):
        for change in found:
            k = classes.index(change.name)
            before = [p == k for p, label in zip(a, labels, strict=True) if label == k]
            after = [p == k for p, label in zip(b, labels, strict=True) if label == k]
            assert (change.before, change.after) == (np.mean(before), np.mean(after))
            assert change.clips == len(before)
            assert np.sign(sum(after) - sum(before)) == sign
            assert change.difference.mean == pytest.approx(change.after - change.before)
    names = [c.name for c in improved + worsened + stayed]
    assert sorted(names) == sorted(set(classes) - {"c5"}), "each class with clips, once"
    assert "c2" in [c.name for c in stayed]
    sizes = [c.after - c.before for c in improved]
    assert sizes == sorted(sizes, reverse=True)


def test_runs_on_other_clips_cannot_be_compared():
    with pytest.raises(UserError, match="expected the same clips"):
        class_changes(np.zeros(3), np.zeros(4), np.zeros(3, int), "a")
