"""Check a user's own data set, so that a mistake gives a one-line message that names it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from vidrec.data.datasets.base import Dataset
from vidrec.errors import UserError

LEAST_KEY = 16  # characters of a clip's key: shorter keys of different clips may be equal


def checked(dataset: Dataset, kind: str) -> Dataset:
    """Return the data set with its fields checked; clips will be checked when they are read.

    Args:
        dataset: what the user's function returned.
        kind: `data.kind`, which names the function.

    Raises:
        UserError: A field does not have the form that `Dataset` requires.
    """
    for problem in _problems(dataset):
        raise UserError(f"data.kind = {kind}: {problem}")
    return _checked(dataset, kind)


def _checked(dataset: Dataset, kind: str) -> "Checked":
    """Return the data set wrapped in one that checks each clip that is read."""
    values = {field.name: getattr(dataset, field.name) for field in fields(Dataset)}
    return Checked(**values, own=dataset, kind=kind)


def _problems(dataset: Dataset) -> Iterator[str]:
    """Yield a message for each error in the fields that have an entry for each clip."""
    clips, classes = len(dataset.names), len(dataset.classes)
    if len(set(dataset.names)) < clips:
        yield "names should be unique, a name for each clip"
    for name in ("labels", "groups", "lengths"):
        values = np.asarray(getattr(dataset, name))
        if name == "labels" and values.ndim == 2:
            if values.shape != (clips, classes) or not np.isin(values, (0, 1)).all():
                yield (
                    f"labels should be ({clips},), or ({clips}, {classes}) of 0 and 1 where clips "
                    f"may have several, not {values.dtype} {values.shape}"
                )
        elif values.shape != (clips,):
            yield f"{name} should be ({clips},), an entry for each clip, not {values.shape}"
        elif name != "groups" and values.dtype.kind not in "iu":
            yield f"{name} should be integers, not {values.dtype}"
        elif name == "labels" and not ((values >= 0) & (values < classes)).all():
            worst = values[(values < 0) | (values >= classes)][0]
            yield f"label {worst} should be 0 to {classes - 1}, an index into {classes} classes"
        elif name == "lengths" and (values < 0).any():
            yield f"a length of {values.min()} frames should be 0 or more"


@dataclass(eq=False)
class Checked(Dataset):
    """A user's data set, and checks of what its methods return.

    Attributes:
        own: the user's data set, with the same clips in the same order.
        kind: `data.kind`, which names the user's function in messages.
    """

    own: Dataset = field(kw_only=True)
    kind: str = field(kw_only=True)

    @property
    def is_features(self) -> bool:  # type: ignore[override]
        """Return True if the user's clips are ready-made feature arrays."""
        return self.own.is_features

    @property
    def lengths(self) -> np.ndarray:
        """Return the user's lengths."""
        return self.own.lengths

    @property
    def fps(self) -> np.ndarray | None:
        """Return the user's frames a second."""
        return self.own.fps

    @property
    def hashed(self) -> str:
        """Return what the user's keys are hashes of."""
        return self.own.hashed

    def path(self, clip: int) -> str:
        """Return how the user's data set names a clip in messages."""
        return self.own.path(clip)

    def key(self, clip: int) -> str:
        """Return the user's key of a clip."""
        key = self.own.key(clip)
        if not isinstance(key, str) or len(key) < LEAST_KEY:
            raise self._unfit("key", clip, f"a text of at least {LEAST_KEY} letters", repr(key))
        return key

    def read(self, clip: int, frame_indices: Sequence[int], size: int) -> np.ndarray:
        """Return the user's frames of a clip."""
        frames = np.asarray(self.own.read(clip, frame_indices, size))
        if frames.dtype != np.uint8 or frames.shape != (len(frame_indices), size, size, 3):
            wanted = f"uint8 ({len(frame_indices)}, {size}, {size}, 3)"
            raise self._unfit("read", clip, wanted, f"{frames.dtype} {frames.shape}")
        return frames

    def stream(self, clip: int, size: int, chunk: int = 64) -> Iterator[np.ndarray]:
        """Yield the user's frames of a clip."""
        for frames in map(np.asarray, self.own.stream(clip, size, chunk)):
            if frames.dtype != np.uint8 or frames.shape[1:] != (size, size, 3):
                wanted = f"uint8 (T, {size}, {size}, 3)"
                raise self._unfit("stream", clip, wanted, f"{frames.dtype} {frames.shape}")
            yield frames

    def features(self, clip: int) -> np.ndarray:
        """Return the user's features of a clip."""
        features = np.asarray(self.own.features(clip))
        if features.ndim < 2 or features.dtype.kind not in "fV":  # bfloat16 is of kind V
            given = f"{features.dtype} {features.shape}"
            raise self._unfit("features", clip, "float (T, D…)", given)
        return features

    def only(self, clips: np.ndarray) -> "Checked":
        """Return the data set with the clips of these indices only, in this order."""
        return _checked(self.own.only(clips), self.kind)

    def _unfit(self, method: str, clip: int, wanted: str, given: str) -> UserError:
        return UserError(
            f"data.kind = {self.kind}: {method} of {self.path(clip)} should give {wanted}, "
            f"not {given}"
        )
