"""What a data set is to everything else: names, labels, groups, lengths and frames of clips."""

import contextlib
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vidrec import video
from vidrec.config import cache_dir, cores, digest
from vidrec.errors import UserError, spelled
from vidrec.files import write_whole
from vidrec.video import UnreadableClip

__all__ = ["Files", "Source", "UnreadableClip", "nearest", "remembered"]

PARTS = ("train", "val", "test")
REMEMBERED = 500  # files from which on their declared lengths are kept between runs


@dataclass(eq=False)
class Source(ABC):
    """Clips of one data set, behind one interface whatever they are kept in.

    Attributes:
        name: of the data set.
        classes: names of the classes; labels index them.
        names: of the clips: unique, and the same on every machine.
        labels: (n,) int32.
        groups: (n,) str, the recording a clip was cut from; where unknown, the clip's own name.
        groups_known: False where groups are only names of clips.
        given: the data set's own split, part to indices; None where it has none.
        blocks: (n,) str, what leave-one-out leaves out; None: the groups.
        about: whatever else a result should state, JSON-able.
        notes: lines that a user should read before work starts.
        damage: clip name to what was found lacking while it was read.
        is_features: True where clips are arrays made elsewhere (`features`), not frames.
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
    damage: dict[str, str] = field(default_factory=dict)
    is_features = False

    def __len__(self) -> int:
        return len(self.names)

    @property
    @abstractmethod
    def lengths(self) -> np.ndarray:
        """(n,) int32 frames as declared, which may lie; 0 for a clip that cannot be opened."""

    @property
    def fps(self) -> np.ndarray | None:
        """(n,) float32 frames a second, where clips have such."""
        return None

    @abstractmethod
    def key(self, clip: int) -> str:
        """Content address of a clip: equal content, equal key, on every machine."""

    @abstractmethod
    def read(self, clip: int, frame_indices: Sequence[int], size: int) -> np.ndarray:
        """Chosen frames, uint8 (T, size, size, 3); raises UnreadableClip."""

    @abstractmethod
    def stream(self, clip: int, size: int, chunk: int = 64) -> Iterator[np.ndarray]:
        """All frames in order, uint8 (t, size, size, 3) with t <= chunk; raises UnreadableClip."""

    def features(self, clip: int) -> np.ndarray:
        """Ready-made features of a clip, float (T, D…); raises UnreadableClip."""
        raise TypeError(f"{self.name} holds frames, not features")

    def path(self, clip: int) -> str:
        """What to call a clip when it cannot be read: its file, or its name."""
        return self.names[clip]

    def sizes(self) -> list[int]:
        """Something cheap that changes when a clip's content does."""
        return []

    @cached_property
    def _fingerprint(self) -> str:
        labels = [self.classes[label] for label in self.labels]
        return digest(list(self.names), labels, self.sizes(), length=32)

    def fingerprint(self) -> str:
        """Hash of names, classes and sizes: cheap, and the same wherever the data set lies."""
        return self._fingerprint

    def keep_classes(self, chosen: Sequence[str]) -> "Source":
        """The same data set with these classes only, in its own order; none named: all.

        Raises:
            UserError: a class it does not have.
        """
        if not chosen:
            return self
        for name in chosen:
            if name not in self.classes:
                raise UserError(
                    f"data.classes: {self.name} has no class {name!r}{nearest(name, self.classes)}"
                )
        kept = tuple(name for name in self.classes if name in chosen)
        label_of = {self.classes.index(name): label for label, name in enumerate(kept)}
        clips = np.array([i for i, label in enumerate(self.labels) if label in label_of], int)
        labels = np.array([label_of[label] for label in self.labels[clips]], np.int32)
        return replace(self._only(clips), classes=kept, labels=labels)

    def _only(self, clips: np.ndarray) -> "Source":
        """The clips of these indices, in this order."""
        place = {int(old): new for new, old in enumerate(clips)}
        changes: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "names" or each.metadata.get("per_clip"):
                changes[each.name] = tuple(value[i] for i in clips)
            elif each.name in ("labels", "groups", "blocks") and value is not None:
                changes[each.name] = value[clips]
        if self.given is not None:
            changes["given"] = {
                part: np.array([place[i] for i in indices.tolist() if i in place], int)
                for part, indices in self.given.items()
            }
        return replace(self, **changes)


def per_clip() -> Any:
    """A field that holds a tuple with one entry a clip."""
    return field(default=(), metadata={"per_clip": True})


@dataclass(eq=False)
class Files(Source):
    """Clips that are files, read in place.

    Attributes:
        paths: of the clips.
        rate: frames a second that videos are resampled to; 0: as filmed.
    """

    paths: tuple[Path, ...] = per_clip()
    rate: float = 0

    @cached_property
    def _declared(self) -> list[tuple[int, float]]:
        if len(self) < REMEMBERED:
            return self._declare_all()
        stamps = [_stamp(path) for path in self.paths]
        return remembered(
            digest(list(self.names), stamps, self.rate, video.DECODING), self._declare_all
        )

    def _declare_all(self) -> list[tuple[int, float]]:
        # Opening waits for the disk more than for the processor.
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(self._declare, self.paths))

    def _declare(self, path: Path) -> tuple[int, float]:
        try:
            frames, fps = video.declared(path)
        except UnreadableClip:
            return 0, 0.0
        return (max(1, round(frames * self.rate / fps)), self.rate) if self.rate else (frames, fps)

    @property
    def lengths(self) -> np.ndarray:
        return np.array([frames for frames, _ in self._declared], np.int32)

    @property
    def fps(self) -> np.ndarray | None:
        return np.array([fps for _, fps in self._declared], np.float32)

    def key(self, clip: int) -> str:
        # A file that cannot be read has no content: its name keeps it apart from others.
        return _content(self.paths[clip]) or digest("unreadable", self.names[clip], length=32)

    def path(self, clip: int) -> str:
        return spelled(self.paths[clip])

    def sizes(self) -> list[int]:
        return [_stamp(path)[0] for path in self.paths]

    def read(self, clip: int, frame_indices: Sequence[int], size: int) -> np.ndarray:
        notes: list[str] = []
        frames = video.read(self.paths[clip], frame_indices, size, self.rate, notes)
        self._remember(clip, notes)
        return frames

    def stream(self, clip: int, size: int, chunk: int = 64) -> Iterator[np.ndarray]:
        notes: list[str] = []
        yield from video.stream(self.paths[clip], size, chunk, self.rate, notes)
        self._remember(clip, notes)

    def _remember(self, clip: int, notes: list[str]) -> None:
        if notes:
            self.damage[self.names[clip]] = "; ".join(notes)


_hashes: dict[tuple[str, tuple[int, ...]], str] = {}


def _content(path: Path) -> str:
    """Hash of a file's bytes, remembered while the file stays the same; "" if unreadable."""
    known = (str(path), tuple(_stamp(path)))
    if known not in _hashes:
        try:
            if not path.is_file():  # a pipe would wait for ever
                return ""
            with open(path, "rb") as file:
                hashed = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        except OSError:
            return ""
        _hashes[known] = hashed.hexdigest()
    return _hashes[known]


def _stamp(path: Path) -> list[int]:
    """Size and times of change: equal while a file stays the same on this machine."""
    try:
        status = os.stat(path)
    except OSError:
        return [-1]
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def remembered(name: str, make: Callable[[], Any]) -> Any:
    """A JSON-able value from the cache, made and kept there on first use."""
    file = cache_dir() / "data" / "index" / f"{name}.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = make()
    # A cache that cannot be written costs time, nothing else.
    with contextlib.suppress(UserError):
        write_whole(file, json.dumps(value), durable=False)
    return value


def ahead(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Results in order, some worked out ahead by threads, one a core.

    For work that leaves the interpreter free: decoding, drawing.
    """
    workers = cores()
    with ThreadPoolExecutor(workers) as pool:
        queue: deque = deque()
        for item in items:
            queue.append(pool.submit(work, item))
            if len(queue) > 4 * workers:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()


def nearest(name: str, known: Sequence[str]) -> str:
    """ "; did you mean …?", where a known name is near."""
    import difflib

    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
