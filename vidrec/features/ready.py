"""Measure and check features that were made elsewhere and do not fit into memory."""

from typing import NamedTuple

import numpy as np

from vidrec.data.datasets.base import Dataset, UnreadableClip
from vidrec.data.read_ahead import map_ahead
from vidrec.data.remembered import decoded_name, remembered_clips
from vidrec.errors import UserError
from vidrec.features.on_disk import ReadyFeatures
from vidrec.features.ragged import Unreadable, nothing_readable


def size(dataset: Dataset) -> float:
    """Return the bytes that all features take in memory, by the clips' declared lengths."""
    for clip in range(len(dataset)):
        try:
            one = dataset.features(clip)
        except UnreadableClip:
            continue
        return float(dataset.lengths.sum(dtype=np.int64)) * (one.nbytes / max(len(one), 1))
    return 0.0


class _Seen(NamedTuple):
    """The findings of reading a clip.

    Attributes:
        frames: the number of its frames; 0 if it cannot be read.
        reason: why it cannot be read; "" if it can.
        shape: shape of one frame's features.
        dtype: type of the numbers in the file.
        model_dtype: type of the numbers that a model sees.
    """

    frames: int
    reason: str = ""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    model_dtype: str = ""


def check(dataset: Dataset) -> ReadyFeatures:
    """Read every clip once, as loading would; the cache keeps the findings.

    Raises:
        UserError: no clip can be read, or frames of two clips have features of different shapes.
    """

    def look(clip: int) -> _Seen:
        try:
            values = dataset.features(clip)
            dtype = dataset.read_features(clip, [0]).dtype
        except UnreadableClip as error:
            return _Seen(0, error.reason)
        return _Seen(len(values), "", values.shape[1:], dtype.name, values.dtype.name)

    def look_at(clips: list[int]) -> dict[int, _Seen]:
        return dict(zip(clips, map_ahead(look, clips, name=dataset.path), strict=True))

    known = remembered_clips(decoded_name("ready features", dataset, 0), dataset, look_at)
    seen = [_Seen(*known[clip]) for clip in range(len(dataset))]
    unreadable = [
        Unreadable(clip, dataset.path(clip), each.reason)
        for clip, each in enumerate(seen)
        if not each.frames
    ]
    readable = [clip for clip, each in enumerate(seen) if each.frames]
    if not readable:
        raise nothing_readable(unreadable)
    shape = tuple(seen[readable[0]].shape)
    for clip in readable:
        if tuple(seen[clip].shape) != shape:
            raise UserError(
                f"{dataset.path(clip)}: features of shape {list(seen[clip].shape)} a frame, those "
                f"of {dataset.path(readable[0])} have {list(shape)}"
            )
    return ReadyFeatures(
        np.array([each.frames for each in seen], np.int32),
        unreadable,
        shape,
        np.result_type(*{seen[clip].dtype for clip in readable}),
        np.result_type(*{seen[clip].model_dtype for clip in readable}),
        dataset=dataset,
    )
