"""Read the records of a TFDS set: one clip, or the names, labels and lengths of all clips."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from vidrec.data.datasets.frame_labels import FrameLabels
from vidrec.data.hashing import new_hash
from vidrec.data.read_ahead import map_ahead
from vidrec.errors import TransientError, UserError, is_transient

FRAME_LABELS = "frame_labels"  # feature that holds the class index of each frame


def read_index(builder: Any, sources: Mapping[str, Any], video: str, label: str) -> dict[str, list]:
    """Return everything but the frames, for all clips of a set, read by all cores.

    Args:
        builder: TFDS builder of the set.
        sources: the clips of each split.
        video: name of the feature that holds frames.
        label: name of the feature that holds a clip's label.
    """
    columns = ("names", "labels", "groups", "lengths", "places", "hashes")
    index: dict[str, list] = {key: [] for key in columns}
    for split, clips in sorted(sources.items()):
        read = partial(_indexed, builder, (split, clips), video, label)
        for row in map_ahead(read, range(len(clips))):
            for column, value in row.items():
                index.setdefault(column, []).append(value)
    if len(set(index["names"])) < len(index["names"]):
        pairs = zip(index["places"], index["names"], strict=True)
        index["names"] = [f"{split}/{clip:06d} {name}" for (split, clip), name in pairs]
    return index


def _indexed(
    builder: Any, part: tuple[str, Any], video: str, label: str, clip: int
) -> dict[str, Any]:
    """Return everything but the frames of one clip of a split, by the columns of the index."""
    split, clips = part
    example = example_of(builder, split, clips, clip)
    frames = example[video]
    still = len(builder.info.features[video].shape) == 3
    row = {
        "names": _text(example.get("name")) or f"{split}/{clip:06d}",
        "labels": np.asarray(example[label]).tolist(),
        "groups": _text(example.get("group")),
        "lengths": int(example.get("length", 1 if still else len(frames))),
        "places": (split, clip),
        "hashes": _hash(frames),
    }
    if FRAME_LABELS in example:
        labels = FrameLabels.of(example[FRAME_LABELS])
        lines = zip(labels.starts, labels.ends, labels.labels, strict=True)
        row["frame_labels"] = list(lines)
    return row


def label_array(labels: Sequence[Any], classes: int) -> np.ndarray:
    """Return class indices (n,); if clips have lists of them, 0 and 1 in an array (n, K)."""
    if not any(isinstance(own, list) for own in labels):
        return np.array(labels, np.int32)
    labels_nK = np.zeros((len(labels), classes), np.int32)
    for own_K, own in zip(labels_nK, labels, strict=True):
        own_K[own] = 1
    return labels_nK


def frame_labels(lines: Sequence[Sequence[int]]) -> FrameLabels:
    """Return the labels of a clip's frames, given rows of start, end and label."""
    starts, ends, labels = (tuple(line[i] for line in lines) for i in range(3))
    return FrameLabels(starts, ends, labels)


def example_of(builder: Any, split: str, clips: Any, index: int) -> dict[str, Any]:
    """Return one clip of a split; if it cannot be read, the error names the set."""
    try:
        return clips[index]
    except Exception as error:  # whatever a damaged record makes its reader raise
        if is_transient(error):
            raise TransientError.of(builder.data_path, error) from error
        raise UserError(
            f"{builder.data_path} is damaged: clip {index} of {split} cannot be read "
            f"({first_line(error)}); remove that folder, and the set is prepared again"
        ) from error


def _hash(video: Any) -> str:
    """Return a hash of a clip's frames, independent of the file's format."""
    frames = np.ascontiguousarray(stacked(video))
    content = new_hash(f"{frames.shape} {frames.dtype}".encode())
    content.update(frames)
    return content.hexdigest()


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value or ""


def stacked(value: Any) -> np.ndarray:
    """Return frames (T, H, W, C) of a video in any form that TFDS gives, or of an image."""
    frames = np.stack(value) if isinstance(value, list | tuple) else np.asarray(value)
    return frames[None] if frames.ndim == 3 else frames


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, without the prefix that TFDS puts before it."""
    text = re.sub(r"^Failed to construct dataset .*?}\"?: ", "", str(error).strip())
    first = (text or type(error).__name__).splitlines()[0]
    return re.sub(r" Here are \d+ BuilderConfigs.*", "", first)
