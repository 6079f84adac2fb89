"""Hash the content of clips: of files, cached while a file does not change, and of frames."""

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

# A file that changed this many seconds ago may change again without a trace in size and times: the
# clocks of file systems tick in up to two seconds. Its hash is not kept.
SETTLED = 3.0
ANNOUNCED_BYTES = 2e9  # to hash; from this size on a message says so, since it takes seconds
LEFT_BY_DESKTOPS = ("Thumbs.db", "desktop.ini", "__MACOSX")


def new_hash(head: bytes = b"") -> Any:
    """Return the hash object that all content of clips is hashed with; `head` comes first."""
    return hashlib.blake2b(head, digest_size=16)


class Content(NamedTuple):
    """What is known of a file.

    Attributes:
        stamp: of the file when its bytes were hashed.
        hash: of its bytes; "" if it cannot be read.
    """

    stamp: str
    hash: str


class Stamp(NamedTuple):
    """Size, times and inode of a file, equal while it stays the same.

    Attributes:
        text: all of them; "" where there is no file.
        seconds: when it last changed.
        size: in bytes.
    """

    text: str
    seconds: float = 0.0
    size: int = 0


_known: dict[str, Content] = {}


def contents(paths: Sequence[Path]) -> list[Content]:
    """Hash each file's bytes, or those of a folder's files.

    Hashes are kept in the cache. A file counts as unchanged while its path, size, inode and times
    of change are the same.

    Raises:
        TransientError: the system cannot read one now.
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
    """Return the file of the cache that keeps an index of this name."""
    return cache_dir() / "data" / "index" / f"{name}.json"


def _changed(names: Sequence[str], stamps: Sequence[Stamp]) -> list[int]:
    """Find files that are there and have changed since their hash was taken."""
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
    """Add what the cache knows of files; return it as written, None if it should stay so."""
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
    """Return an absolute path as text; a byte that is not UTF-8 as an escape."""
    return os.fsencode(os.path.abspath(path)).decode("utf-8", "backslashreplace")


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file, or of the files in a folder.

    Raises:
        TransientError: the system cannot look at it now.
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
    """List a folder in order of names, without what desktops leave in it."""
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
        The hash; "" for what cannot be read or is empty.

    Raises:
        TransientError: the system cannot read it now.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            inner = [
                [os.fsencode(entry.name).hex(), hash_path(Path(entry.path))]
                for entry in _entries(path)
            ]
            return digest(inner, length=32) if inner else ""
        if not stat.S_ISREG(status.st_mode) or not status.st_size:  # a pipe would wait for ever
            return ""
        with open(path, "rb") as file:
            return hashlib.file_digest(file, new_hash).hexdigest()
    except OSError as error:
        raise_if_transient(path, error)
        return ""
