"""Collect the answers (predictions) of trials for test clips, by seed, over all of its folds."""

import functools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vidrec.report.run import Run


class Answers(NamedTuple):
    """Answers of S seeds for the n clips that all seeds scored, sorted by the clips' names.

    Attributes:
        predicted_Sn: (S, n, …) predicted classes, or what the task's statistics need instead.
        labels: (n, …) true labels, in the form that the task uses.
        groups: (n,) the recording of each clip.
        names: (n,) the name of each clip.
    """

    predicted_Sn: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    names: np.ndarray

    @property
    def correct_Sn(self) -> np.ndarray:
        """Return which answers are right."""
        return self.predicted_Sn == self.labels

    def only(self, index: np.ndarray) -> "Answers":
        """Return the answers for the clips at these indices."""
        return Answers(self.predicted_Sn[:, index], *(values[index] for values in self[1:]))


def answers(runs: Sequence[Run]) -> Answers | None:
    """Return the answers of runs for the test split; None if none was saved.

    The answers of all folds of a seed form one row. A clip that several folds test counts as one
    clip for each of these folds, all of the same recording.
    """
    scored = _by_seed(runs)
    if not scored:
        return None
    names = functools.reduce(np.intersect1d, [each.names for each in scored])
    orders = [np.intersect1d(each.names, names, return_indices=True)[1] for each in scored]
    predicted = [each.predicted_Sn[0][order] for each, order in zip(scored, orders, strict=True)]
    first, order = scored[0], orders[0]
    return Answers(np.stack(predicted), first.labels[order], first.groups[order], names)


def _by_seed(runs: Sequence[Run]) -> list[Answers]:
    """Return the answers of each seed; each run without folds counts as one seed."""
    folds: dict[tuple[str, int], dict[int, Answers]] = {}
    for place, run in enumerate(runs):
        saved, part = run.predictions(), run.part()
        if saved is not None and part is not None:
            seed = ("seed", run.result.get("seed", 0)) if run.fold else ("run", place)
            said = run.task.said(part)[None]
            one = Answers(said, saved.labels_B, saved.groups_B, saved.names_B)
            folds.setdefault(seed, {})[run.fold] = one
    return [_joined(of_seed) for of_seed in folds.values()]


def _joined(folds: dict[int, Answers]) -> Answers:
    """Return the answers of one seed: those of its folds, concatenated."""
    tested = Counter(name for each in folds.values() for name in each.names.tolist())
    names = [
        f"{name} (fold {fold})" if tested[name] > 1 else name
        for fold, each in folds.items()
        for name in each.names.tolist()
    ]
    predicted = np.concatenate([each.predicted_Sn for each in folds.values()], axis=1)
    labels = np.concatenate([each.labels for each in folds.values()])
    groups = np.concatenate([each.groups for each in folds.values()])
    return Answers(predicted, labels, groups, np.array(names))
