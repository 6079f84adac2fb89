"""Labels of frames: the segments of a clip, and the label of each of its frames."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

UNLABELLED = -1
Unit = Literal["frames", "seconds"]


class LabelRules(NamedTuple):
    """How labels of frames are read.

    Attributes:
        background: names of the background classes, in which nothing happens.
        unlabelled: how frames that no segment covers are treated. "ignore": they are left out;
            "background": they belong to the first background class.
        ignore: labels whose frames are left out.
    """

    background: tuple[str, ...] = ("background",)
    unlabelled: Literal["ignore", "background"] = "ignore"
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class FrameLabels:
    """The labels of one clip's frames, as segments that do not overlap.

    Attributes:
        starts: start of each segment: its first frame, or a time in seconds.
        ends: end of each segment: the frame after its last frame, or a time in seconds.
        labels: class index of each segment; -1: not labelled.
        unit: unit of `starts` and `ends`.
        fill: class index of frames that no segment covers; -1: they are not labelled.
    """

    starts: tuple[float, ...]
    ends: tuple[float, ...]
    labels: tuple[int, ...]
    unit: Unit = "frames"
    fill: int = UNLABELLED

    @classmethod
    def of(cls, labels_T: np.ndarray) -> "FrameLabels":
        """Return the labels (T,) of a clip's frames as segments; -1: not labelled."""
        labels_T = np.asarray(labels_T, np.int64)
        changes = np.flatnonzero(labels_T[1:] != labels_T[:-1]) + 1
        starts = np.concatenate([[0], changes]) if len(labels_T) else changes
        ends = np.append(changes, len(labels_T)) if len(labels_T) else changes
        chosen = labels_T[starts].tolist()
        return cls(tuple(starts.tolist()), tuple(ends.tolist()), tuple(chosen))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> set[int]:
        """Return the class indices that the frames may have."""
        return {*self.labels, self.fill} - {UNLABELLED}

    def frames(self, length: int, fps: float = 0.0) -> np.ndarray:
        """Return the label of each frame, int32 (length,).

        A frame has the label of the segment that covers the middle of the frame's time.

        Args:
            length: number of frames of the clip.
            fps: frames a second; needed if segments are in seconds.
        """
        labels_T = np.full(length, self.fill, np.int32)
        for start, end, label in zip(self.starts, self.ends, self.labels, strict=True):
            labels_T[self._first(start, fps) : self._first(end, fps)] = label
        return labels_T

    def _first(self, time: float, fps: float) -> int:
        """Return the first frame whose middle is not before a time."""
        return int(time) if self.unit == "frames" else max(0, int(np.ceil(time * fps - 0.5)))

    def in_seconds(self, fps: float) -> "FrameLabels":
        """Return the same segments in seconds, for a clip of this frame rate."""
        if self.unit == "seconds":
            return self
        starts, ends = (tuple(time / fps for time in times) for times in (self.starts, self.ends))
        return FrameLabels(starts, ends, self.labels, "seconds", self.fill)

    def last(self, fps: float = 0.0) -> int:
        """Return the smallest number of frames of a clip that contains all its segments."""
        return max((self._first(end, fps) for end in self.ends), default=0)


def most_frequent(labels: FrameLabels) -> int:
    """Return the class whose segments last longest; without any, the class `fill` or else 0."""
    spans: dict[int, float] = {}
    for start, end, label in zip(labels.starts, labels.ends, labels.labels, strict=True):
        if label != UNLABELLED:
            spans[label] = spans.get(label, 0.0) + end - start
    return max(sorted(spans), key=spans.__getitem__, default=max(labels.fill, 0))
