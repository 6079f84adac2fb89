"""Keep arrays on disk by key, in a few large files that can be memory-mapped.

A shard is two files. NAME.arrays holds arrays one after another, with the same bytes as in memory
(little-endian; each array starts at a multiple of 64 bytes). NAME.index has a line for each array:
a checksum of the line, then JSON with its key, place, shape, type, SHA-256 and a note. So
`np.memmap(arrays, dtype, "r", start, shape)` is an array, and no other file is needed.

An array is written before its line. An array that a kill cut short has no line, so it does not
exist for readers. Files only grow, and nothing in them is changed or removed, so any number of
processes can read while others write. A writer locks its shard; the next writer on the same machine
continues the shard. Arrays whose checksum is wrong are damaged: they count as missing, and are
appended again. Errors of the system (too many open files, an I/O error) are raised.
"""

import fcntl
import hashlib
import itertools
import json
import os
import platform
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from vidrec.config import digest
from vidrec.data.rows import Place
from vidrec.errors import TransientError, UserError

ALIGNMENT = 64  # bytes: of a cache line, and a multiple of every number's size
SHARD_BYTES = 4 << 30  # a shard of this size is not continued
LINE_BYTES = 240  # approximate size of an array's line in the index
SUM_DIGITS = 16  # of the checksum before a line


class Entry(NamedTuple):
    """The place of an array in its file, and its shape, type and checksum."""

    file: Path
    start: int
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    note: str

    @property
    def place(self) -> Place:
        """Return the place from which rows of the array are read."""
        return Place(self.file, self.start, self.shape, dtype_of(self.dtype))


class Shards:
    """The arrays of one folder; safe to share between threads and processes."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._lock = threading.RLock()
        self._entries: dict[str, list[Entry]] = {}
        self._seen: dict[Path, int] = {}  # bytes of each index that were read
        self._damaged: set[Entry] = set()
        self._writer: _Writer | None = None

    def keys(self) -> set[str]:
        """Return the keys of all arrays that are not known to be damaged; no array is read."""
        with self._lock:
            self._refresh()
            return {key for key in self._entries if self._whole(key)}

    def entry(self, key: str) -> Entry | None:
        """Return the entry of an array; None if there is none."""
        with self._lock:
            if not self._whole(key):
                self._refresh()
            return next(iter(self._whole(key)), None)

    def get(self, key: str, out: np.ndarray | None = None) -> np.ndarray | None:
        """Read an array, into `out` if it is given; None if there is no undamaged one.

        Raises:
            TransientError: the system refuses to read the array now.
        """
        with self._lock:
            if not self._whole(key):
                self._refresh()
            entries = self._whole(key)
        for entry in entries:
            if out is not None and (out.shape, out.dtype) != (entry.shape, dtype_of(entry.dtype)):
                continue
            array = _read(entry, out)
            if array is not None:
                return array
            self._damaged.add(entry)
        return None

    def put(self, key: str, array: np.ndarray, note: str = "") -> None:
        """Append an array, unless an undamaged one is stored under this key already.

        Raises:
            UserError: the disk is full or the folder cannot be written; no partial array is left.
        """
        with self._lock:
            self._refresh()
            if self._whole(key):
                return
            try:
                self._writer = self._writer or _Writer(self.folder)
                entry = self._writer.append(key, np.ascontiguousarray(array), note)
            except OSError as error:
                self.close()
                raise UserError(f"cannot write {self.folder}: {error.strerror}") from error
            self._damaged.discard(entry)  # an earlier array at this place, if the shard was cut
            self._refresh()

    def close(self) -> None:
        """Release the shard for other writers; a later `put` opens one again."""
        with self._lock:
            if self._writer:
                self._writer.close()
                self._writer = None

    def _whole(self, key: str) -> list[Entry]:
        """Return the entries of a key that were not found damaged."""
        return [each for each in self._entries.get(key, ()) if each not in self._damaged]

    def _refresh(self) -> None:
        """Read the lines that were added to the indices since the last call."""
        try:
            # Not by `glob`, which finds nothing in a folder without permission to read.
            for name in sorted(os.listdir(self.folder)):
                if name.endswith(".index"):
                    self._take_in(self.folder / name)
        except FileNotFoundError:  # the folder was removed meanwhile
            pass
        except OSError as error:
            raise TransientError.of(error.filename or self.folder, error) from error

    def _take_in(self, index: Path) -> None:
        try:
            size, seen = index.stat().st_size, self._seen.get(index, 0)
            if size == seen:
                return
            with index.open("rb") as file:
                start = file.seek(seen if size > seen else 0)
                content = file.read()
        except FileNotFoundError:
            return
        # The text after the last line break is still being written.
        complete = content.rfind(b"\n") + 1
        self._seen[index] = start + complete
        for line in content[:complete].splitlines():
            if parsed := _parsed(line, index.with_suffix(".arrays")):
                key, entry = parsed
                known = self._entries.setdefault(key, [])
                if entry not in known:
                    known.append(entry)


class _Writer:
    """A shard that this process alone appends to."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.index, self.arrays = next(_free(folder))
        self._end_line()

    def append(self, key: str, array: np.ndarray, note: str) -> Entry:
        content = array.reshape(-1).view(np.uint8).data
        end, lines = self.arrays.seek(0, 2), self.index.seek(0, 2)
        entry = Entry(
            file=Path(self.arrays.name),
            start=-(-end // ALIGNMENT) * ALIGNMENT,
            shape=array.shape,
            dtype=array.dtype.name,
            sha256=hashlib.sha256(content).hexdigest(),
            note=note,
        )
        try:
            _write(self.arrays, bytes(entry.start - end), content)
            _write(self.index, _line(key, entry))
        except BaseException:
            self.index.truncate(lines)
            self.arrays.truncate(end)
            raise
        return entry

    def _end_line(self) -> None:
        """End a line that a kill cut short, so that the next line is not joined to it."""
        if self.index.seek(0, 2):
            self.index.seek(-1, 2)
            if self.index.read(1) != b"\n":
                _write(self.index, b"\n")

    def close(self) -> None:
        self.arrays.close()
        self.index.close()  # which releases its lock


def _free(folder: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Yield shards that no other process writes, opened and locked; new ones come last."""
    machine = digest(platform.node(), _boot(), length=8)
    for number in itertools.count():
        name = folder / f"{machine}-{number:03d}"
        try:
            index = _opened(name.with_suffix(".index"))
        except PermissionError:
            if not name.with_suffix(".index").exists():
                raise
            continue  # the shard of another user
        try:
            fcntl.flock(index, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            index.close()
            continue
        except OSError:  # a file system without locks: a unique name is used
            index.close()
            name = folder / f"{machine}-{uuid.uuid4().hex}"
            index = _opened(name.with_suffix(".index"))
        arrays = _opened(name.with_suffix(".arrays"))
        if arrays.seek(0, 2) < SHARD_BYTES:
            yield index, arrays
        arrays.close()
        index.close()


def _opened(file: Path) -> IO[bytes]:
    return open(file, "a+b", buffering=0)


def _boot() -> str:
    """Return an id of this machine's start: two machines of the same name do not share a lock."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return str(uuid.getnode())


def _write(file: IO[bytes], *parts: Any) -> None:
    """Write parts at the end; the system may write fewer bytes at a time than it is given."""
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[file.write(rest) :]


def _line(key: str, entry: Entry) -> bytes:
    content = {"key": key, **entry._asdict()}
    del content["file"]  # known from the index's name, so that the folder can be moved
    text = json.dumps(content)
    return f"{_sum(text.encode())} {text}\n".encode()


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:SUM_DIGITS]


def _parsed(line: bytes, arrays: Path) -> tuple[str, Entry] | None:
    """Return (key, entry) of a line; None for a damaged line."""
    content = line[SUM_DIGITS + 1 :]
    if line[: SUM_DIGITS + 1] != f"{_sum(content)} ".encode():
        return None
    found = json.loads(content)
    key, shape = found.pop("key"), tuple(found.pop("shape"))
    return key, Entry(file=arrays, shape=shape, **found)


def dtype_of(name: str) -> np.dtype:
    """Return the NumPy type of a name; bfloat16 comes from ml_dtypes."""
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, name))


def _read(entry: Entry, out: np.ndarray | None) -> np.ndarray | None:
    """Read an array as it was written; None if its file is missing or its checksum is wrong."""
    try:
        array = np.empty(entry.shape, dtype_of(entry.dtype)) if out is None else out
        content = array.reshape(-1).view(np.uint8).data
        with open(entry.file, "rb", buffering=0) as file:
            file.seek(entry.start)
            left = content
            while left and (count := file.readinto(left)):
                left = left[count:]
    except FileNotFoundError:
        return None
    except (OSError, MemoryError) as error:
        raise TransientError.of(entry.file, error) from error
    whole = not left and hashlib.sha256(content).hexdigest() == entry.sha256
    return array if whole else None
