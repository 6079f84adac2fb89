"""Compute the weight of a clip's loss by its class."""

from collections.abc import Sequence

import numpy as np

from vidrec.config.class_weights import named
from vidrec.data.datasets.base import nearest
from vidrec.errors import UserError
from vidrec.evaluation import tasks
from vidrec.evaluation.task import Task


def of(
    setting: str, classes: Sequence[str], labels: np.ndarray, task: Task | None = None
) -> tuple[float, ...]:
    """Return the weight of each class in the loss; empty if `setting` is none.

    Args:
        setting: `loss.class_weights`.
        classes: names of the classes, by class number.
        labels: labels of the training clips.
        task: the task, which defines balanced weights; None: one label for each clip.

    Raises:
        UserError: A name is not a class.
    """
    if setting == "none":
        return ()
    if setting == "balanced":
        task = task or tasks.named("clip")
        return tuple(task.balanced_weights(labels, len(classes)).tolist())
    weights_by_name = named(setting)
    for name in weights_by_name:
        if name not in classes:
            raise UserError(f"loss.class_weights: no class is {name!r}{nearest(name, classes)}")
    return tuple(weights_by_name.get(name, 1.0) for name in classes)
