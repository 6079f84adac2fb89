"""Limit the training clips of some or all classes (`data.per_class`)."""

from collections.abc import Sequence

import numpy as np

from vidrec.config import Data, digest
from vidrec.data.datasets.base import Dataset, nearest
from vidrec.errors import UserError


def most(text: str, classes: Sequence[str]) -> dict[str, int]:
    """Return the largest number of training clips of each class; a class left out has no limit.

    Args:
        text: value of the setting `data.per_class`.
        classes: the classes of the data.

    Raises:
        UserError: the text is neither N nor NAME=N,NAME=N, or a name is not a class.
    """
    if text.isdecimal() and int(text):
        return dict.fromkeys(classes, int(text))
    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.rpartition("="))
        if not name or name in found or not number.isdecimal() or not int(number):
            raise UserError(
                f"data.per_class = {text!r} should be a whole number from 1, or NAME=NUMBER with "
                "commas between, each class once"
            )
        if name not in classes:
            raise UserError(f"data.per_class: no class is {name!r}{nearest(name, classes)}")
        found[name] = int(number)
    return found


def kept(dataset: Dataset, train: np.ndarray, data: Data) -> np.ndarray:
    """Return the training clips that are kept.

    Names and `data.split_seed` give a random order, and the first clips of each class are kept. So
    a smaller number keeps a subset of what a larger number keeps. Other parts do not change.

    Raises:
        UserError: the setting is invalid (see `most`), or clips have several labels.
    """
    if dataset.labels.ndim != 1:
        raise UserError(
            f"data.per_class = {data.per_class!r} counts clips of one class each, and clips of "
            f"{dataset.name} have several"
        )
    limit = most(data.per_class, dataset.classes)

    def place(clip: int) -> tuple[str, str]:
        name = dataset.names[clip]
        return digest("per_class", data.split_seed, name, length=32), name

    counts = dict.fromkeys(dataset.classes, 0)
    chosen = []
    for clip in sorted(train.tolist(), key=place):
        name = dataset.classes[dataset.labels[clip]]
        counts[name] += 1
        if counts[name] <= limit.get(name, len(train)):
            chosen.append(clip)
    return np.array(chosen, np.int64)
