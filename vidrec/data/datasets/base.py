"""What a data set is to everything else: names, labels, groups, lengths and frames of clips."""

import contextlib
import hashlib
import os
import stat
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidrec.config import digest
from vidrec.data import video
from vidrec.data.read_ahead import map_ahead
from vidrec.data.video import UnreadableClip
from vidrec.errors import UserError, raise_if_transient, spelled
from vidrec.io.files import Damaged, Missing, read_json, write_json
from vidrec.io.machine import cache_dir

__all__ = ["Dataset", "Files", "UnreadableClip", "nearest", "remembered", "remembered_clips"]

PARTS = ("train", "val", "test")
REMEMBERED = 500  # files from which on their declared lengths are kept between runs
# A file that changed this many seconds ago may change again without a trace in size and times: the
# clocks of file systems tick in up to two seconds. Its hash is not kept.
SETTLED = 3.0
TOLD = 2e9  # bytes to hash from which on it is said: they take seconds
LEFT = ("Thumbs.db", "desktop.ini", "__MACOSX")


@dataclass(eq=False)
class Dataset(ABC):
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
        warnings: clip name to what its file lacks, found while it was read.
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
    warnings: dict[str, str] = field(default_factory=dict)
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

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Content address of every clip, of its name where it cannot be read."""
        return tuple(self._key_or_name(clip) for clip in range(len(self)))

    def _key_or_name(self, clip: int) -> str:
        try:
            return self.key(clip)
        except UnreadableClip:
            return self._name_key(clip)

    def _name_key(self, clip: int) -> str:
        """What stands for the content of a clip that has none: its name keeps it apart."""
        return digest("unreadable", self.names[clip], length=32)

    def has_content(self, clip: int) -> bool:
        """False for a clip that cannot be opened, whose key is that of its name."""
        return self.keys[clip] != self._name_key(clip)

    @property
    def hashed(self) -> str:
        """What keys are hashes of: those of sources that agree in it can be compared."""
        return type(self).__name__

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

    @cached_property
    def _fingerprint(self) -> str:
        labels = [self.classes[label] for label in self.labels]
        return digest(
            list(self.classes),
            list(self.names),
            labels,
            self.groups.tolist(),
            self.groups_known,
            list(self.keys),
            length=32,
        )

    def fingerprint(self) -> str:
        """Hash of names, classes, groups and content: the same wherever the data set lies."""
        return self._fingerprint

    def keep_classes(self, chosen: Sequence[str]) -> "Dataset":
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

    def _only(self, clips: np.ndarray) -> "Dataset":
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
class Files(Dataset):
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
            found = self._declare(range(len(self)))
        else:
            code = decoded_name("declared", self, self.rate)
            found = remembered_clips(code, self, self._declare)
        return [found.get(clip, (0, 0.0)) for clip in range(len(self))]

    def _declare(self, clips: Iterable[int]) -> dict[int, tuple[int, float]]:
        """Frames and rate of those clips that can be opened."""
        # Opening waits for the disk more than for the processor.
        declared = map_ahead(self._declare_one, clips, threads=4, name=self.path)
        pairs = zip(clips, declared, strict=True)
        return {clip: pair for clip, pair in pairs if pair}

    def _declare_one(self, clip: int) -> tuple[int, float] | None:
        try:
            frames, fps = video.declared(self.paths[clip])
        except UnreadableClip:
            return None
        return (max(1, round(frames * self.rate / fps)), self.rate) if self.rate else (frames, fps)

    @property
    def lengths(self) -> np.ndarray:
        return np.array([frames for frames, _ in self._declared], np.int32)

    @property
    def fps(self) -> np.ndarray | None:
        return np.array([fps for _, fps in self._declared], np.float32)

    @cached_property
    def _contents(self) -> list["Content"]:
        return contents(self.paths)

    def key(self, clip: int) -> str:
        return self._contents[clip].hash or self._name_key(clip)

    @property
    def hashed(self) -> str:
        return "files"

    def path(self, clip: int) -> str:
        return spelled(self.paths[clip])

    def read(self, clip: int, frame_indices: Sequence[int], size: int) -> np.ndarray:
        notes: list[str] = []
        frames = video.read(self.paths[clip], frame_indices, size, self.rate, notes)
        self._remember(clip, notes)
        self.check_unchanged(clip)
        return frames

    def stream(self, clip: int, size: int, chunk: int = 64) -> Iterator[np.ndarray]:
        notes: list[str] = []
        yield from video.stream(self.paths[clip], size, chunk, self.rate, notes)
        self._remember(clip, notes)
        self.check_unchanged(clip)

    def check_unchanged(self, clip: int) -> None:
        """Raises a UserError where a file is no more the one whose content was hashed.

        What is read of it afterwards would be kept under the hash of what it was.
        """
        if "_contents" not in vars(self):
            return
        path, known = self.paths[clip], self._contents[clip]
        if not known.hash or (stamp := _stamp(path).text) == known.stamp:
            return
        if _hash(path) != known.hash:
            raise UserError(f"{path} was changed while it was used: give the command again")
        self._contents[clip] = Content(stamp, known.hash)  # touched, and the same

    def _remember(self, clip: int, notes: list[str]) -> None:
        if notes:
            self.warnings[self.names[clip]] = "; ".join(notes)


class Content(NamedTuple):
    """What is known of a file: its stamp when its bytes were hashed; "" if it cannot be read."""

    stamp: str
    hash: str


class _Stamp(NamedTuple):
    """Size, times and inode of a file, equal while it stays the same; "" where there is none.

    Attributes:
        seconds: when it last changed.
        size: bytes of it.
    """

    text: str
    seconds: float = 0.0
    size: int = 0


_known: dict[str, Content] = {}


def contents(paths: Sequence[Path]) -> list[Content]:
    """Hash of each file's bytes, of a folder's files; kept in the cache while a file stays.

    A file is taken for the same while path, size, inode and the times of its last change are.

    Raises:
        TransientError: the system cannot read one now.
    """
    if not paths:
        return []
    names = [_name(path) for path in paths]
    stamps = [_stamp(path) for path in paths]
    fresh: dict[str, Content] = {}
    if _unknown(names, stamps):
        file = _index_file(digest("contents", os.path.commonpath(names), length=32))
        kept, began = _read_contents(file), time.time()
        for place, content in _hashed(paths, stamps, _unknown(names, stamps)):
            fresh[names[place]] = Content(stamps[place].text, content)
        changed = {name: stamp.seconds for name, stamp in zip(names, stamps, strict=True)}
        settled = (n for n, c in fresh.items() if c.hash and changed[n] < began - SETTLED)
        _keep_contents(file, kept, {name: fresh[name] for name in settled})
    nothing = Content("", "")
    return [
        fresh.get(name) or _known.get(name, nothing) if stamp.text else nothing
        for name, stamp in zip(names, stamps, strict=True)
    ]


def _unknown(names: Sequence[str], stamps: Sequence[_Stamp]) -> list[int]:
    """Places of files that are there and have changed since their hash was taken."""
    return [
        place
        for place, (name, stamp) in enumerate(zip(names, stamps, strict=True))
        if stamp.text and (name not in _known or _known[name].stamp != stamp.text)
    ]


def _hashed(
    paths: Sequence[Path], stamps: Sequence[_Stamp], places: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Hashes of the files at these places; of many bytes it is said that they take a while."""
    size = sum(stamps[place].size for place in places)
    if size > TOLD:
        print(f"hashing {len(places)} clips, {size / 1e9:.1f} GB, once", file=sys.stderr)
    hashes = map_ahead(_hash, (paths[place] for place in places))
    yield from zip(places, hashes, strict=True)


def _read_contents(file: Path) -> dict[str, str] | None:
    """Adds what the cache knows of files; returns it as written, None where it should stay so."""
    try:
        kept = read_json(file, {"files": dict})["files"]
    except (Missing, Damaged):
        return {}
    except UserError:
        return None
    for name, text in kept.items():
        stamp, _, content = str(text).rpartition(" ")
        _known[name] = Content(stamp, content)
    return kept


def _keep_contents(
    file: Path, kept: Mapping[str, str] | None, fresh: Mapping[str, Content]
) -> None:
    _known.update(fresh)
    if fresh and kept is not None:
        told = {name: f"{each.stamp} {each.hash}" for name, each in fresh.items()}
        # A cache that cannot be written costs time, nothing else.
        with contextlib.suppress(UserError):
            write_json(file, {"files": {**kept, **told}}, durable=False)


def _name(path: Path) -> str:
    """An absolute path as text; a byte that is no UTF-8 as an escape."""
    return os.fsencode(os.path.abspath(path)).decode("utf-8", "backslashreplace")


def _stamp(path: Path) -> _Stamp:
    """Of a file, or of the files in a folder."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            inner = [(each.name, _stamp(Path(each.path))) for each in _entries(path)]
            text = digest([[os.fsencode(name).hex(), each.text] for name, each in inner])
            seconds = max((each.seconds for _, each in inner), default=0.0)
            return _Stamp(text, seconds, sum(each.size for _, each in inner))
    except OSError as error:
        raise_if_transient(path, error)
        return _Stamp("")
    numbers = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    text = "-".join(map(str, numbers))
    return _Stamp(text, max(status.st_mtime, status.st_ctime), status.st_size)


def _entries(folder: Path) -> list[os.DirEntry]:
    """What a folder holds, in order of names, but for what desktops leave in it."""
    with os.scandir(folder) as found:
        kept = [each for each in found if not each.name.startswith(".") and each.name not in LEFT]
    return sorted(kept, key=lambda each: os.fsencode(each.name))


def _hash(path: Path) -> str:
    """Of a file's bytes, or of the names and bytes of the files in a folder; "" if unreadable."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            inner = _entries(path)
            found = [[os.fsencode(each.name).hex(), _hash(Path(each.path))] for each in inner]
            return digest(found, length=32) if found else ""
        if not stat.S_ISREG(status.st_mode) or not status.st_size:  # a pipe would wait for ever
            return ""
        with open(path, "rb") as file:
            hashed = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        return hashed.hexdigest()
    except OSError as error:
        raise_if_transient(path, error)
        return ""


def remembered(name: str, make: Callable[[], Any]) -> Any:
    """A JSON-able value from the cache, made and kept there on first use."""
    file = _index_file(name)
    try:
        return read_json(file, ["value"])["value"]
    except (Missing, Damaged):
        value = make()
    except UserError:  # it cannot be read now: what is there stays
        return make()
    # A cache that cannot be written costs time, nothing else.
    with contextlib.suppress(UserError):
        write_json(file, {"value": value}, durable=False)
    return value


def remembered_clips(
    name: str, dataset: Dataset, make: Callable[[list[int]], Mapping[int, Any]]
) -> dict[int, Any]:
    """JSON-able values of clips from the cache, where they are kept by the clips' content.

    Args:
        name: hash of all that values depend on besides a clip.
        make: values of the clips that the cache lacks; those it leaves out are asked for again
            the next time, and so are clips without content.
    """
    file = _index_file(name)
    writable, known = True, {}
    try:
        known = read_json(file, {"clips": dict})["clips"]
    except (Missing, Damaged):
        pass
    except UserError:
        writable = False
    lacking = [clip for clip, key in enumerate(dataset.keys) if key not in known]
    made = dict(make(lacking)) if lacking else {}
    fresh = {dataset.keys[clip]: value for clip, value in made.items() if dataset.has_content(clip)}
    if fresh and writable:
        with contextlib.suppress(UserError):
            write_json(file, {"clips": {**known, **fresh}}, durable=False)
    stored = {clip: known[key] for clip, key in enumerate(dataset.keys) if key in known}
    return stored | made


def decoded_name(what: str, dataset: Dataset, fps: float) -> str:
    """Hash of all that decoding the clips of a dataset depends on."""
    decoder = (video.DECODING, video.DECODER)
    return digest(what, *decoder, fps, list(dataset.keys), length=32)


def _index_file(name: str) -> Path:
    return cache_dir() / "data" / "index" / f"{name}.json"


def nearest(name: str, known: Sequence[str]) -> str:
    """ "; did you mean …?", where a known name is near."""
    import difflib

    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
