"""The interface of a data set: names, labels, recordings, lengths and frames of its clips."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vidrec.config import digest
from vidrec.data import hashing, video
from vidrec.data.datasets.frame_labels import UNLABELLED, FrameLabels
from vidrec.data.hashing import Content
from vidrec.data.pictures import Declared
from vidrec.data.read_ahead import map_ahead
from vidrec.data.remembered import decoded_name, remembered_clips
from vidrec.errors import UnreadableClip, UserError, printable

__all__ = ["PARTS", "Dataset", "Files", "UnreadableClip", "nearest", "per_clip"]

PARTS = ("train", "val", "test")  # of a split
WARNING = "warning: "  # begins a note that a user should not miss
REMEMBERED = 500  # from so many files on, declared lengths are cached between runs


@dataclass(eq=False)
class Dataset(ABC):
    """The clips of one data set, with the same interface for all kinds of storage.

    A clip is identified by an index from 0 to n - 1; per-clip fields have one entry for each clip.

    A subclass is a dataclass (`@dataclass(eq=False)`) that must define:

    - `lengths`: the declared number of frames of each clip.
    - `key(clip)`: a hash of the clip's content, at least 16 characters; never a hash of its path.
    - `read(clip, frame_indices, size)`, which returns chosen frames, and `stream(clip, size,
      chunk)`, which yields all frames in order. Both are called from several threads at once.
    - For ready-made features, set `is_features = True` and define `features(clip)` instead; `read`
      and `stream` then raise an error. Define `read_features(clip, frame_indices)` too if a part of
      a clip can be read alone: training calls it if the features are larger than memory.

    A subclass may define `fps` (needed for durations and for streams at another rate), `path(clip)`
    (the name of a clip in messages), and further fields. A field with one entry for each clip is
    declared as `x: tuple[...] = per_clip()`, so that `keep_classes` selects its entries too. A
    method that reads may set `warnings[names[clip]]`. If a clip cannot be read, the method raises
    `UnreadableClip(path, reason)`; results then list the clip, and training continues without it.

    Attributes:
        name: name of the data set.
        classes: names of the classes; labels are indices into them.
        names: names of the clips: unique, and the same on every machine.
        labels: (n,) int32 class indices; or (n, K) of 0 and 1 if clips may have several or none.
        groups: (n,) str, the recording a clip was cut from; where unknown, the clip's own name.
        groups_known: False if recordings are unknown, so that groups are the names of the clips.
        given: the data set's own split: the clip indices of each part; None if it has no split.
        blocks: (n,) str, the block of each clip; leave-one-out leaves out one block at a time.
            None: the blocks are the recordings.
        about: further facts that a result should state, JSON-able.
        notes: lines that a user should read before work starts.
        warnings: what the files of damaged clips lack, by clip name, found while reading.
        is_features: True if clips are ready-made feature arrays (`features`), not frames.
        frame_labels: the labels of each clip's frames; empty if only whole clips have labels. With
            frame labels, `labels` holds the class that lasts longest in each clip.
    """

    name: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    groups_known: bool = True
    given: dict[str, np.ndarray] | None = None
    blocks: np.ndarray | None = None
    about: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)
    frame_labels: tuple[FrameLabels, ...] = field(default=(), metadata={"per_clip": True})
    is_features = False

    def __len__(self) -> int:
        return len(self.names)

    @property
    @abstractmethod
    def lengths(self) -> np.ndarray:
        """Return the declared numbers of frames, (n,) int32; may be wrong; 0 if unreadable."""

    @property
    def fps(self) -> np.ndarray | None:
        """Return the frames a second of each clip, (n,) float32; None if clips have no rate."""
        return None

    @abstractmethod
    def key(self, clip: int) -> str:
        """Return a hash of a clip's content: equal content, equal key, on every machine.

        Raises:
            UnreadableClip: the clip cannot be read.
        """

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Return the key of every clip; for a clip that cannot be read, a hash of its name."""
        return tuple(self._key_or_name(clip) for clip in range(len(self)))

    def _key_or_name(self, clip: int) -> str:
        try:
            return self.key(clip)
        except UnreadableClip:
            return self._name_key(clip)

    def _name_key(self, clip: int) -> str:
        """Return the key of a clip that cannot be read: a hash of its name."""
        return digest("unreadable", self.names[clip], length=32)

    def has_content(self, clip: int) -> bool:
        """Return whether a clip's key is a hash of its content; False if it cannot be read."""
        return self.keys[clip] != self._name_key(clip)

    @property
    def hashed(self) -> str:
        """Return what keys are hashes of; only keys of the same kind can be compared."""
        return type(self).__name__

    @abstractmethod
    def read(self, clip: int, frame_indices: Sequence[int], size: int) -> np.ndarray:
        """Return chosen frames of a clip.

        Args:
            clip: index of the clip.
            frame_indices: T indices in any order; those past the end show the last frame.
            size: height and width of frames.

        Returns:
            uint8 (T, size, size, 3), RGB.

        Raises:
            UnreadableClip: the clip cannot be read.
        """

    @abstractmethod
    def stream(self, clip: int, size: int, chunk: int = 64) -> Iterator[np.ndarray]:
        """Yield all frames of a clip in order.

        Args:
            clip: index of the clip.
            size: height and width of frames.
            chunk: frames yielded at once, at most.

        Yields:
            uint8 (t, size, size, 3), RGB, with t <= chunk.

        Raises:
            UnreadableClip: the clip cannot be read.
        """

    def features(self, clip: int) -> np.ndarray:
        """Return the ready-made features of a clip, float (T, D…).

        Raises:
            UnreadableClip: the features cannot be read.
            TypeError: the data set holds frames.
        """
        raise TypeError(f"{self.name} holds frames, not features")

    def read_features(self, clip: int, frame_indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the features of chosen frames, with the same values as in `features`.

        The array may have a smaller type that holds the same values. The method is called from
        several threads at once, for data sets larger than memory. A data set that can read a part
        of a clip overrides it.

        Raises:
            UnreadableClip: the features cannot be read.
        """
        return self.features(clip)[np.asarray(frame_indices)]

    def path(self, clip: int) -> str:
        """Return the text by which messages identify a clip: its file, or its name."""
        return self.names[clip]

    @cached_property
    def _fingerprint(self) -> str:
        return digest(
            list(self.classes),
            list(self.names),
            list(self._label_names),
            self.groups.tolist(),
            self.groups_known,
            list(self.keys),
            # Only frame labels add to the hash, so that other data sets keep their hashes.
            *([asdict(each) for each in self.frame_labels],) * bool(self.frame_labels),
            length=32,
        )

    @property
    def _label_names(self) -> Iterable[Any]:
        """Return the name of each clip's class; a list of names where clips have several."""
        if self.labels.ndim == 1:
            return (self.classes[label] for label in self.labels)
        return ([self.classes[k] for k in np.flatnonzero(own_K)] for own_K in self.labels)

    @property
    def label_texts(self) -> list[str]:
        """Return the name of each clip's class; several names are joined by `|`."""
        return [name if isinstance(name, str) else "|".join(name) for name in self._label_names]

    @cached_property
    def label_matrix(self) -> np.ndarray:
        """Return the label of every frame, int16 (n, T), if `frame_labels` are known.

        The label is -1 for a frame without a label and after the end of a clip.
        """
        rates = np.zeros(len(self)) if self.fps is None else self.fps
        rows = list(zip(self.frame_labels, self.lengths.tolist(), rates.tolist(), strict=True))
        matrix = np.full(
            (len(rows), max((row[1] for row in rows), default=0)), UNLABELLED, np.int16
        )
        for own_T, (labels, length, fps) in zip(matrix, rows, strict=True):
            own_T[:length] = labels.frames(length, fps)
        return matrix

    @property
    def membership(self) -> np.ndarray:
        """Return (n, K) bool, which classes occur in each clip."""
        if self.frame_labels:
            numbers = range(len(self.classes))
            own = [each.classes for each in self.frame_labels]
            return np.array([[k in classes for k in numbers] for classes in own])
        if self.labels.ndim == 1:
            return self.labels[:, None] == np.arange(len(self.classes))
        return self.labels > 0

    def fingerprint(self) -> str:
        """Return a hash of names, classes, recordings and content, without paths."""
        return self._fingerprint

    def keep_classes(self, chosen: Sequence[str]) -> "Dataset":
        """Return the data set with the chosen classes only, in their old order; empty: all.

        Raises:
            UserError: the data set lacks a chosen class, or its frames have labels.
        """
        if not chosen:
            return self
        if self.frame_labels:
            raise UserError(
                f"data.classes keeps the clips of some classes, and a clip of {self.name} has "
                "frames of several: leave data.classes out"
            )
        for name in chosen:
            if name not in self.classes:
                raise UserError(
                    f"data.classes: {self.name} has no class {name!r}{nearest(name, self.classes)}"
                )
        classes = tuple(name for name in self.classes if name in chosen)
        if self.labels.ndim == 2:  # a clip without a chosen class stays, without a label
            columns = [self.classes.index(name) for name in classes]
            return replace(self, classes=classes, labels=self.labels[:, columns])
        label_of = {self.classes.index(name): label for label, name in enumerate(classes)}
        clips = np.array([i for i, label in enumerate(self.labels) if label in label_of], int)
        labels = np.array([label_of[label] for label in self.labels[clips]], np.int32)
        return replace(self.only(clips), classes=classes, labels=labels)

    def only(self, clips: np.ndarray) -> "Dataset":
        """Return the data set with the clips of these indices only, in this order."""
        new_index = {int(old): new for new, old in enumerate(clips)}
        changes: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name == "names" or entry.metadata.get("per_clip"):
                changes[entry.name] = tuple(value[i] for i in clips) if value else value
            elif entry.name in ("labels", "groups", "blocks") and value is not None:
                changes[entry.name] = value[clips]
        if self.given is not None:
            changes["given"] = {
                part: np.array([new_index[i] for i in indices.tolist() if i in new_index], int)
                for part, indices in self.given.items()
            }
        return replace(self, **changes)


def per_clip() -> Any:
    """Declare a field that holds a tuple with one entry for each clip."""
    return field(default=(), metadata={"per_clip": True})


@dataclass(eq=False)
class Files(Dataset):
    """Clips that are files, read in place.

    Attributes:
        paths: file or folder of each clip.
        rate: frames a second that videos are resampled to; 0: as filmed.
    """

    paths: tuple[Path, ...] = per_clip()
    rate: float = 0

    @cached_property
    def _declared(self) -> list[Declared]:
        if len(self) < REMEMBERED:
            declared: dict[int, Any] = self._declare(range(len(self)))
        else:
            name = decoded_name("declared", self, self.rate)
            declared = remembered_clips(name, self, self._declare)
        return [Declared(*declared.get(clip, (0, 0.0))) for clip in range(len(self))]

    def _declare(self, clips: Iterable[int]) -> dict[int, Declared]:
        """Return the declared frames and rate of each clip that can be opened."""
        # Opening waits for the disk more than for the processor.
        declared = map_ahead(self._declare_one, clips, threads=4, name=self.path)
        pairs = zip(clips, declared, strict=True)
        return {clip: pair for clip, pair in pairs if pair}

    def _declare_one(self, clip: int) -> Declared | None:
        try:
            declared = video.declared(self.paths[clip])
        except UnreadableClip:
            return None
        if not self.rate:
            return declared
        return Declared(max(1, round(declared.frames * self.rate / declared.fps)), self.rate)

    @property
    def lengths(self) -> np.ndarray:
        """Return the frames that the files declare, (n,) int32, after resampling to `rate`."""
        return np.array([frames for frames, _ in self._declared], np.int32)

    @property
    def fps(self) -> np.ndarray | None:
        """Return the frames a second that the files declare, or `rate` if it is set."""
        return np.array([fps for _, fps in self._declared], np.float32)

    @cached_property
    def _contents(self) -> list[Content]:
        return hashing.contents(self.paths)

    def key(self, clip: int) -> str:
        """Return the hash of a file's bytes, or of a folder's files."""
        return self._contents[clip].hash or self._name_key(clip)

    @property
    def hashed(self) -> str:
        """Return "files": keys are hashes of files."""
        return "files"

    def path(self, clip: int) -> str:
        """Return the path of a clip's file."""
        return printable(self.paths[clip])

    def read(self, clip: int, frame_indices: Sequence[int], size: int) -> np.ndarray:
        """Decode chosen frames; what the file lacks is kept in `warnings`."""
        notes: list[str] = []
        frames = video.read(self.paths[clip], frame_indices, size, self.rate, notes)
        self._remember(clip, notes)
        self.check_unchanged(clip)
        return frames

    def stream(self, clip: int, size: int, chunk: int = 64) -> Iterator[np.ndarray]:
        """Decode all frames; what the file lacks is kept in `warnings`."""
        notes: list[str] = []
        yield from video.stream(self.paths[clip], size, chunk, self.rate, notes)
        self._remember(clip, notes)
        self.check_unchanged(clip)

    def check_unchanged(self, clip: int) -> None:
        """Refuse a file that has changed since its content was hashed.

        Otherwise the new content would be stored under the hash of the old one.

        Raises:
            UserError: the file has changed.
        """
        if "_contents" not in vars(self):
            return
        path, known = self.paths[clip], self._contents[clip]
        if not known.hash or (stamp := hashing.stamp_of(path).text) == known.stamp:
            return
        if hashing.hash_path(path) != known.hash:
            raise UserError(f"{path} was changed while it was used: give the command again")
        self._contents[clip] = Content(stamp, known.hash)  # only its time stamps changed

    def _remember(self, clip: int, notes: list[str]) -> None:
        if notes:
            self.warnings[self.names[clip]] = "; ".join(notes)


def nearest(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean …?" if a known name is similar, else ""."""
    import difflib

    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
