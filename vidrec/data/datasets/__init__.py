"""Open the data set that the settings name.

Importing this package registers the TFDS builders `motion` and `ucf11`.
"""

from collections.abc import Callable
from typing import Literal

from vidrec.config import Data, load_user
from vidrec.data.datasets import motion, motion_segments, motion_tfds, ucf, users
from vidrec.data.datasets.base import Dataset, UnreadableClip
from vidrec.errors import TransientError, UserError

__all__ = [
    "Dataset",
    "UnreadableClip",
    "known_class_count",
    "load",
    "load_if_there",
    "motion",
    "motion_segments",
    "motion_tfds",
    "ucf",
]


Form = Literal["one", "several"]


def load(data: Data, form: Form = "one") -> Dataset:
    """Open the data set that the settings name, with the classes they keep.

    Args:
        data: the settings.
        form: how labels of a folder are read. "one": each clip has one label. "several": a label
            may be empty or name several classes, and a labels.csv may have a column for each class.
            Each label text, such as "run|jump", is then one class, which the task splits.

    Raises:
        UserError: the data set is missing or invalid; the message says what to do.
    """
    return _load(data, form).keep_classes(data.classes)


def known_class_count(data: Data) -> int | None:
    """Return the number of classes that the settings imply, or None if only the data show it."""
    if data.classes:
        return len(data.classes)
    name, _, variant = (data.tfds if data.kind == "tfds" else data.kind).partition("/")
    if name == "motion":
        segmented = variant.startswith("segments")
        return len(motion_segments.CLASSES if segmented else motion.CLASSES)
    return ucf.ARCHIVES[name].classes if name in ucf.ARCHIVES else None


def load_if_there(data: Data, open_it: Callable[[], Dataset] | None = None) -> Dataset | None:
    """Open a data set, unless it must be generated or downloaded first.

    Args:
        data: the settings.
        open_it: function that opens the data set; None: `load`.

    Returns:
        The data set; None if it must be generated or downloaded first, or cannot be opened.

    Raises:
        TransientError: the system refuses to read the data set now.
    """
    if data.kind == "tfds":
        from vidrec.data.datasets import tfds_dataset

        if not tfds_dataset.is_prepared(data):
            return None
    try:
        return open_it() if open_it else load(data)
    except TransientError:
        raise
    except UserError:
        return None


def _load(data: Data, form: Form) -> Dataset:
    # Imported only when needed, since each kind needs other libraries.
    if data.kind == "tfds":
        from vidrec.data.datasets import tfds_dataset

        return tfds_dataset.load(data)
    if data.kind in ("videos", "images"):
        from vidrec.data.datasets import folders

        return folders.load(data, form == "several")
    if data.kind in ("ucf101", "ucf11"):
        return ucf.load(data)
    if data.kind == "features":
        from vidrec.data.datasets import feature_files

        return feature_files.load(data, form == "several")
    dataset = load_user(data.kind)(data)
    if not isinstance(dataset, Dataset):
        raise UserError(f"data.kind = {data.kind}: calling it should give a vidrec Dataset")
    return users.checked(dataset, data.kind)
