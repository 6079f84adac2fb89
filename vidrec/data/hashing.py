"""Hash the content of clips: files, with hashes cached while a file is unchanged, and frames."""

import contextlib
import hashlib
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vidrec.config import digest
from vidrec.data.read_ahead import map_ahead
from vidrec.errors import UserError, raise_if_transient
from vidrec.io.files import Damaged, Missing, read_json, write_json
from vidrec.io.machine import cache_dir
from vidrec.io.words import counted

# A file that changed less than this many seconds ago may change again without a new size or time:
# file systems store times in steps of up to two seconds. The hash of such a file is not cached.
SETTLED = 3.0
ANNOUNCED_BYTES = 2e9  # hashing more than this takes seconds, so a message announces it
LEFT_BY_DESKTOPS = ("Thumbs.db", "desktop.ini", "__MACOSX")


def new_hash(head: bytes = b"") -> Any:
    """Return a new hash object for the content of clips; it has already hashed `head`."""
    return hashlib.blake2b(head, digest_size=16)


class Content(NamedTuple):
    """The hash of a file, and the state of the file for which the hash is valid.

    Attributes:
        stamp: text of the file's `Stamp` when its bytes were hashed.
        hash: hash of the file's bytes; "" if the file cannot be read.
    """

    stamp: str
    hash: str


class Stamp(NamedTuple):
    """Size, times and inode of a file, equal while it stays the same.

    Attributes:
        text: size, times and inode as text; "" if there is no file.
        seconds: time of the last change, in seconds since the epoch.
        size: size in bytes.
    """

    text: str
    seconds: float = 0.0
    size: int = 0


_known: dict[str, Content] = {}


def contents(paths: Sequence[Path]) -> list[Content]:
    """Hash the bytes of each file, or of the files in each folder.

    Hashes are kept in the cache. A file counts as unchanged while its path, size, inode and times
    of change are the same.

    Raises:
        TransientError: the system cannot read a file now.
    """
    if not paths:
        return []
    names = [_cache_name(path) for path in paths]
    stamps = [stamp_of(path) for path in paths]
    fresh: dict[str, Content] = {}
    if _changed(names, stamps):
        file = index_file(digest("contents", os.path.commonpath(names), length=32))
        kept, began = _load_index(file), time.time()
        for index, content in _hashes(paths, stamps, _changed(names, stamps)):
            fresh[names[index]] = Content(stamps[index].text, content)
        changed = {name: stamp.seconds for name, stamp in zip(names, stamps, strict=True)}
        settled = (n for n, c in fresh.items() if c.hash and changed[n] < began - SETTLED)
        _save_index(file, kept, {name: fresh[name] for name in settled})
    nothing = Content("", "")
    return [
        fresh.get(name) or _known.get(name, nothing) if stamp.text else nothing
        for name, stamp in zip(names, stamps, strict=True)
    ]


def index_file(name: str) -> Path:
    """Return the cache file that stores the index of this name."""
    return cache_dir() / "data" / "index" / f"{name}.json"


def _changed(names: Sequence[str], stamps: Sequence[Stamp]) -> list[int]:
    """Return the indices of existing files without a hash or changed since they were hashed."""
    return [
        index
        for index, (name, stamp) in enumerate(zip(names, stamps, strict=True))
        if stamp.text and (name not in _known or _known[name].stamp != stamp.text)
    ]


def _hashes(
    paths: Sequence[Path], stamps: Sequence[Stamp], indices: Sequence[int]
) -> Iterator[tuple[int, str]]:
    size = sum(stamps[index].size for index in indices)
    if size > ANNOUNCED_BYTES:
        print(
            f"hashing {counted(len(indices), 'clip')}, {size / 1e9:.1f} GB, once", file=sys.stderr
        )
    hashes = map_ahead(hash_path, (paths[index] for index in indices))
    yield from zip(indices, hashes, strict=True)


def _load_index(file: Path) -> dict[str, str] | None:
    """Add the cached hashes to `_known`; return them as stored, None if unreadable now."""
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


def _save_index(file: Path, kept: Mapping[str, str] | None, fresh: Mapping[str, Content]) -> None:
    _known.update(fresh)
    if fresh and kept is not None:
        texts = {name: f"{content.stamp} {content.hash}" for name, content in fresh.items()}
        # A cache that cannot be written costs time, nothing else.
        with contextlib.suppress(UserError):
            write_json(file, {"files": {**kept, **texts}}, durable=False)


def _cache_name(path: Path) -> str:
    """Return an absolute path as text; bytes that are not UTF-8 become escapes."""
    return os.fsencode(os.path.abspath(path)).decode("utf-8", "backslashreplace")


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file, or of the files in a folder.

    Raises:
        TransientError: the system cannot look up the file now.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            inner = [(entry.name, stamp_of(Path(entry.path))) for entry in _entries(path)]
            text = digest([[os.fsencode(name).hex(), stamp.text] for name, stamp in inner])
            seconds = max((stamp.seconds for _, stamp in inner), default=0.0)
            return Stamp(text, seconds, sum(stamp.size for _, stamp in inner))
    except OSError as error:
        raise_if_transient(path, error)
        return Stamp("")
    numbers = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    text = "-".join(map(str, numbers))
    return Stamp(text, max(status.st_mtime, status.st_ctime), status.st_size)


def _entries(folder: Path) -> list[os.DirEntry]:
    """List a folder, sorted by name, without hidden files and files that desktops leave in it."""
    with os.scandir(folder) as scanned:
        entries = [
            entry
            for entry in scanned
            if not entry.name.startswith(".") and entry.name not in LEFT_BY_DESKTOPS
        ]
    return sorted(entries, key=lambda entry: os.fsencode(entry.name))


def hash_path(path: Path) -> str:
    """Hash a file's bytes, or the names and bytes of the files in a folder.

    Returns:
        The hash; "" if the file or folder cannot be read or is empty.

    Raises:
        TransientError: the system cannot read the file or folder now.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            inner = [
                [os.fsencode(entry.name).hex(), hash_path(Path(entry.path))]
                for entry in _entries(path)
            ]
            return digest(inner, length=32) if inner else ""
        if not stat.S_ISREG(status.st_mode) or not status.st_size:  # reading a pipe would block
            return ""
        with open(path, "rb") as file:
            return hashlib.file_digest(file, new_hash).hexdigest()
    except OSError as error:
        raise_if_transient(path, error)
        return ""
