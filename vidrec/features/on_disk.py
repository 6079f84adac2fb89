"""Features that stay on disk because memory cannot hold them: checked once, then read in part.

They give exactly the same numbers as features in memory, and have the methods of `ragged.Features`
for a single clip.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vidrec.data.datasets.base import Dataset, UnreadableClip
from vidrec.data.read_ahead import map_ahead
from vidrec.data.rows import Place, read_rows
from vidrec.errors import UserError
from vidrec.features.ragged import Unreadable, offsets_of
from vidrec.io.machine import cores

PIECE = 4 * 2**20  # approximate number of bytes that a thread reads at a time
THREADS = cores()


@dataclass(frozen=True)
class OnDisk(ABC):
    """Features of all clips, on disk.

    Attributes:
        lengths: (n,) int32 number of frames of each clip, 0 for an unreadable clip.
        unreadable: the unreadable clips.
        shape: shape of one frame's features, (D,) or (h, w, D).
        dtype: type of the numbers that `read` returns.
        model_dtype: type of the numbers that a model sees, at least as precise as `dtype`.
    """

    lengths: np.ndarray
    unreadable: list[Unreadable]
    shape: tuple[int, ...]
    dtype: np.dtype
    model_dtype: np.dtype

    @property
    def offsets(self) -> np.ndarray:
        """Return the index of each clip's first frame among all frames, (n,) int32."""
        return offsets_of(self.lengths)

    @property
    def nbytes(self) -> float:
        """Return the bytes that all features would take in memory."""
        frames = float(self.lengths.sum(dtype=np.int64))
        return frames * math.prod(self.shape) * self.model_dtype.itemsize

    @property
    def values(self) -> np.ndarray:
        """Return an array of no frames, with the shape and type of the features."""
        return np.zeros((0, *self.shape), self.model_dtype)

    @abstractmethod
    def read(self, clip: int, frame_indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the features of chosen frames of a clip, (T, D…).

        Raises:
            UserError: the features changed since they were checked.
        """

    def of(self, clip: int) -> np.ndarray:
        """Return all features of one clip, (T, D…)."""
        return self.read(clip, np.arange(self.lengths[clip]))


@dataclass(frozen=True)
class StoredFeatures(OnDisk):
    """Features in the shards of a store.

    Attributes:
        places: the place on disk of each readable clip's features.
    """

    places: dict[int, Place]

    def read(self, clip: int, frame_indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """See `OnDisk`."""
        return read_rows(self.places[clip], frame_indices)


@dataclass(frozen=True)
class ReadyFeatures(OnDisk):
    """Features made elsewhere, read from the data set's own files.

    Attributes:
        dataset: the data set.
    """

    dataset: Dataset

    def read(self, clip: int, frame_indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """See `OnDisk`."""
        try:
            return self.dataset.read_features(clip, frame_indices)
        except UnreadableClip as error:
            raise UserError(f"{error.path} can no longer be read: {error.reason}") from None


def stored(
    lengths: np.ndarray, unreadable: list[Unreadable], places: dict[int, Place]
) -> StoredFeatures:
    """Return the features of a store at these places; see `StoredFeatures`."""
    first = next(iter(places.values()))
    return StoredFeatures(
        lengths, unreadable, first.shape[1:], first.dtype, first.dtype, places=places
    )


def read_batches(
    features: OnDisk, clips_P: np.ndarray, indices_PT: np.ndarray, rows: int
) -> Iterator[np.ndarray]:
    """Yield features (rows, T, D…) of `rows` clips at a time; the next clips are read ahead.

    Args:
        features: features of all clips.
        clips_P: indices of clips in the order in which they are wanted.
        indices_PT: indices of the frames to read of each of these clips.
        rows: number of clips in one array; the last array may have fewer.
    """
    shape = (indices_PT.shape[1], *features.shape)
    each = max(1, PIECE // max(1, math.prod(shape) * features.dtype.itemsize))

    def pieces() -> Iterator[tuple[np.ndarray, int, range]]:
        for start in range(0, len(clips_P), rows):
            stop = min(start + rows, len(clips_P))
            out = np.empty((stop - start, *shape), features.dtype)
            for first in range(start, stop, each):
                yield out, start, range(first, min(first + each, stop))

    def fill(piece: tuple[np.ndarray, int, range]) -> np.ndarray | None:
        out, start, places = piece
        for place in places:
            out[place - start] = features.read(int(clips_P[place]), indices_PT[place])
        return out if places.stop - start == len(out) else None

    for filled in map_ahead(fill, pieces(), threads=THREADS, ahead=-(-rows // each)):
        if filled is not None:
            yield filled
