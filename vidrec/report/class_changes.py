"""Find the classes that improved or worsened from one run to another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vidrec.errors import UserError
from vidrec.evaluation import statistics


@dataclass(frozen=True)
class ClassChange:
    """One class in the first run (before) and in the second run (after).

    Attributes:
        name: the name of the class.
        clips: number of clips of the class.
        correct_before: number of correct answers in the first run, summed over clips and seeds.
        correct_after: the same number for the second run.
        seeds: number of seeds of each run.
        difference: after minus before, paired; None if no recordings were given.
    """

    name: str
    clips: int
    correct_before: int
    correct_after: int
    seeds: int = 1
    difference: statistics.Difference | None = None

    @property
    def before(self) -> float:
        """Return the accuracy in the first run."""
        return self.correct_before / (self.clips * self.seeds)

    @property
    def after(self) -> float:
        """Return the accuracy in the second run."""
        return self.correct_after / (self.clips * self.seeds)


class ClassChanges(NamedTuple):
    """Classes by the direction of their change; in each list the largest change is first."""

    improved: list[ClassChange]
    worsened: list[ClassChange]
    stayed: list[ClassChange]


def class_changes(
    predicted_a: np.ndarray,
    predicted_b: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    groups: statistics.Groups | None = None,
) -> ClassChanges:
    """Compare the accuracy of each class in two runs.

    Args:
        predicted_a: (n,) or (S, n) predicted classes of the first run.
        predicted_b: predicted classes of the second run, for the same clips and seeds.
        labels: (n,) true classes.
        classes: names by class number.
        groups: (n,) the recording of each clip; if given, each change has a paired interval.

    Raises:
        UserError: the predictions differ in shape or do not fit the labels.
    """
    predicted_a, predicted_b = np.atleast_2d(predicted_a), np.atleast_2d(predicted_b)
    labels = np.asarray(labels)
    if predicted_a.shape != predicted_b.shape or predicted_a.shape[1] != len(labels):
        raise UserError(
            f"predictions: shapes {predicted_a.shape} and {predicted_b.shape} for {len(labels)} "
            "labels; expected the same clips and seeds in both"
        )
    correct_a, correct_b = predicted_a == labels, predicted_b == labels
    changes = []
    for k in np.unique(labels):
        a, b = correct_a[:, labels == k], correct_b[:, labels == k]
        gap = None
        if groups is not None:
            gap = statistics.paired(b, a, np.asarray(groups)[labels == k])
        changes.append(ClassChange(classes[k], a.shape[1], int(a.sum()), int(b.sum()), len(a), gap))
    changes.sort(key=lambda change: (-abs(change.after - change.before), change.name))
    return ClassChanges(
        [change for change in changes if change.correct_after > change.correct_before],
        [change for change in changes if change.correct_after < change.correct_before],
        [change for change in changes if change.correct_after == change.correct_before],
    )
