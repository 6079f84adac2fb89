"""How much a clip's loss counts, by its class."""

from collections.abc import Sequence

import numpy as np

from vidrec.config.class_weights import named
from vidrec.data.datasets.base import nearest
from vidrec.errors import UserError


def of(setting: str, classes: Sequence[str], labels: np.ndarray) -> tuple[float, ...]:
    """Return the factor of a clip's loss for each class; empty where `setting` is none.

    Balanced weights are clips / (classes that have clips * clips of the class), as scikit-learn
    has them: their mean over the training clips is 1.

    Args:
        setting: `loss.class_weights`.
        classes: names by class number.
        labels: classes of the training clips.

    Raises:
        UserError: A name is no class.
    """
    if setting == "none":
        return ()
    if setting == "balanced":
        counts = np.bincount(labels, minlength=len(classes))
        some = np.count_nonzero(counts)
        weights = np.where(counts > 0, len(labels) / (some * np.maximum(counts, 1)), 1.0)
        return tuple(weights.tolist())
    weights_by_name = named(setting)
    for name in weights_by_name:
        if name not in classes:
            raise UserError(f"loss.class_weights: no class is {name!r}{nearest(name, classes)}")
    return tuple(weights_by_name.get(name, 1.0) for name in classes)
