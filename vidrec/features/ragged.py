"""Features of clips of unequal length, in one array."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vidrec.errors import UserError

ALIGNMENT = 64  # bytes: JAX on a CPU copies an array whose address is not a multiple of it


class Unreadable(NamedTuple):
    """A clip that cannot be read.

    Attributes:
        clip: index of the clip in the data set.
        path: path or name of the clip, for messages.
        reason: why it cannot be read, in words for people.
    """

    clip: int
    path: str
    reason: str


class Features(NamedTuple):
    """Features of all clips in a row; clip i is `values[offsets[i] : offsets[i] + lengths[i]]`.

    Attributes:
        values: features of all F frames, (F, D) or (F, h, w, D).
        offsets: (n,) int32, index of each clip's first frame in `values`.
        lengths: (n,) int32, number of frames that were decoded; 0 for an unreadable clip.
        unreadable: the unreadable clips.
    """

    values: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    unreadable: list[Unreadable]

    def of(self, clip: int) -> np.ndarray:
        """Return a view of one clip's features, (T, D…)."""
        start = self.offsets[clip]
        return self.values[start : start + self.lengths[clip]]


def ragged(clips: Sequence[np.ndarray | None], unreadable: list[Unreadable]) -> Features:
    """Join the features of clips in one array.

    Args:
        clips: features (T, D…) of each clip; None for an unreadable clip.
        unreadable: the unreadable clips.

    Raises:
        UserError: no clip can be read.
    """
    readable = [clip for clip in clips if clip is not None]
    if not readable:
        raise nothing_readable(unreadable)
    lengths = np.array([0 if clip is None else len(clip) for clip in clips], np.int32)
    shape = (int(lengths.sum(dtype=np.int64)), *readable[0].shape[1:])
    values = aligned_empty(shape, np.result_type(*{clip.dtype for clip in readable}))
    np.concatenate(readable, out=values)
    return Features(values, offsets_of(lengths), lengths, unreadable)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised array at an address from which JAX on a CPU takes it uncopied."""
    count = math.prod(shape) * dtype.itemsize
    memory = np.empty(count + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + count].view(dtype).reshape(shape)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Return the index of each clip's first frame among all frames, (n,) int32."""
    return (np.cumsum(lengths) - lengths).astype(np.int32)


def nothing_readable(unreadable: Sequence[Unreadable]) -> UserError:
    """Return the error for a data set without readable clips."""
    first = unreadable[0]
    return UserError(f"no clip can be read; the first: {first.path}: {first.reason}")
