"""Write files that are whole or not there, and read them back: what is wrong is one line.

Every file that a user or another command may look at is written here: under a temporary name in
its folder, then renamed. A process that is killed leaves the old file and at most a temporary one,
which the next process that writes into the folder removes: the writer holds a lock on it, and a
file whose lock is free has no writer any more.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import stat
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from vidrec import __version__
from vidrec.errors import TransientError, UserError, is_transient

CHECKSUM = "checksum"  # key of a JSON object: hash of all others
SUMS = "checksums.json"  # of a folder: the hash of each of its files
MARK = b"vidrec "  # begins the comment of an npz, which ends in the hash of all before it
DAY = 24 * 3600
PARTIAL = re.compile(r"\.vidrec-[0-9a-f]{16}\.partial(\.\w*)?")
SURROGATE = re.compile("[\ud800-\udfff]")
Tree = Any

FIGURE_NAMES = tuple(
    f"{name}?"
    for name in (
        *("accuracy", "loss", "avg_f1", "clips", "top1", "top5", "top10", "calibration_error"),
        *("nonfinite", "clip_accuracy", "video_accuracy"),
    )
)
# What the files of runs hold, as far as it is read again; see `read_json`.
_NUMBER, _NUMBER_OR_NONE = (int, float), (int, float, type(None))
_FIGURES = {
    **dict.fromkeys(FIGURE_NAMES, _NUMBER_OR_NONE),
    "f1?": {"*": _NUMBER_OR_NONE},
    "confusion?": [[int]],
}
RESULT_HOLDS = {
    **{"id?": str, "status": str, "metrics": {"*": _FIGURES}},
    **{"seed?": int, "name?": str, "row?": (int, str), "row_name?": (str, type(None))},
    **{"overrides?": dict, "published?": (dict, type(None)), "doubtful?": (list, type(None))},
    **{"why?": (str, type(None)), "params?": int, "epochs?": int, "best_epoch?": _NUMBER_OR_NONE},
    "counts?": {"*": {"expected": int, "scored": int, "unreadable": int}},
    **{"unreadable?": [{"path": str, "reason": str}], "unreadable_names?": [str]},
    **{"damaged?": {"*": str}, "seconds?": {"*": _NUMBER}, "split?": {"id?": str}},
    **{"classes?": [str], "data?": dict, "versions?": dict, "dir?": str},
}
TABLE_HOLDS = {
    "trials": [
        {
            **{"id": str, "row": (int, str), "seed": int, "overrides": dict},
            **{"group?": str, "row_name?": (str, type(None)), "params?": _NUMBER_OR_NONE},
            **{"published?": (dict, type(None)), "doubtful?": (list, type(None))},
        }
    ],
    **{
        "name?": str,
        "question?": str,
        "source?": str,
        "command?": str,
        "data?": dict,
        "read?": list,
        "axes?": (dict, list, type(None)),
    },
}
GROUP_HOLDS = {
    "members": [str],
    "trials": [{"id": str, "config": dict, "folder": str, "about": dict, "data?": str}],
    "parts?": int,
}
CONFIG_HOLDS = {
    "data?": {"kind?": str, "tfds?": str, "root?": str},
    **{"scanner?": {"kind?": str}, "encoder?": {"kind?": str}},
}
ENVIRONMENT_HOLDS = {"command?": str, "versions?": {"*": str}}
MODEL_HOLDS = {"layers": [{"name?": str, "kind?": str, "params?": _NUMBER_OR_NONE}]}
DATA_HOLDS = {"fingerprint": str, "clips": {"*": [str]}}
# What a damaged file's message says to do: the save is there, and scores are made from it.
OF_A_TRIAL = ("result.json", "predictions.npz", "model.json", "config.json", "metrics.jsonl")
WRITTEN_AGAIN = ("group.json", "ablation.json", "samples.npz", "environment.json")
JOBS_HOLDS = {"engine": str, "jobs": [{"group": str, "job": str, "log": str}]}
LINE_HOLDS = {
    **{"trial?": str, "epoch": int, "status": str},
    **dict.fromkeys(("val/accuracy?", "train/loss?", "val/loss?", "grad/norm?"), _NUMBER_OR_NONE),
}


class Damaged(UserError):
    """A file whose content is not what was written."""


class Missing(UserError):
    """A file that is not there."""


@contextlib.contextmanager
def writing(file: str | os.PathLike, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name when the block has ended without an error.

    Until then the old file is what stands. Entered before the work, it finds out beforehand that
    the file cannot be written. Folders above it are made; permissions are as umask says. A device
    or a pipe is written to directly.

    Args:
        durable: the content is on disk before the name is; without, a loss of power may leave an
            empty file.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there stays.
    """
    file = Path(file)
    partial = None
    with _plainly(file):
        if _is_special(file):
            opened = _open_special(file)
        else:
            file = file.resolve()  # the target of a link, not the link, is replaced
            file.parent.mkdir(parents=True, exist_ok=True)
            _sweep_once(file.parent)
            opened, partial = _open_partial(file)
    try:
        with _plainly(file, partial), opened:
            yield opened
            opened.flush()
            if partial and durable:
                _to_disk(opened.fileno())
            if partial:
                partial.replace(file)
    except BaseException:
        if partial:
            partial.unlink(missing_ok=True)
        raise
    if partial and durable:
        _sync_folder(file.parent)


def write_whole(file: Path, content: str | bytes, *, durable: bool = True) -> Path:
    """Write a file and the folders above it; until it is complete the old one is what stands.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there stays.
    """
    with writing(file, durable=durable) as opened:
        # A name that is no UTF-8 is written as an escape: it must not cost what took hours.
        text = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        opened.write(text)
    return Path(file)


def write_json(file: Path, content: Tree, *, durable: bool = True) -> Path:
    """Write a JSON file; an object gets the key `checksum`, which `read_json` takes off again.

    Raises:
        UserError: the file cannot be written.
    """
    return write_whole(file, _json(content, indent=1) + "\n", durable=durable)


def write_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write JSON objects, a line each, with their checksums."""
    return write_whole(file, "".join(_json(each) + "\n" for each in records))


def append_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add JSON objects to a file, a line each, with their checksums.

    Raises:
        UserError: the disk is full, or the file cannot be written.
    """
    text = "".join(_json(each) + "\n" for each in records)
    with _plainly(file), open(file, "ab") as opened:
        opened.write(text.encode())


def write_arrays(file: Path, arrays: Mapping[str, Any], *, durable: bool = True) -> Path:
    """Write arrays by name as a compressed npz.

    Raises:
        UserError: the file cannot be written.
    """
    import numpy as np

    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)
    # The zip format ends in the length of a comment and the comment. Its own checksums are of the
    # arrays alone: a changed byte in its list of names would hide some of them.
    content = archive.getvalue()[:-2]
    comment = MARK + _hash(content).encode()
    return write_whole(
        file, content + len(comment).to_bytes(2, "little") + comment, durable=durable
    )


@contextlib.contextmanager
def writing_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Give an empty folder that gets its name when the block has ended without an error.

    A folder of this name is replaced as a whole; an empty one, which may be where a disk is
    mounted, is filled, the file of checksums last.

    Raises:
        UserError: it cannot be written; what was there stays.
    """
    folder = Path(folder).resolve()
    with _plainly(folder):
        inside = folder.is_dir() and all(PARTIAL.fullmatch(each) for each in os.listdir(folder))
        place = folder if inside else folder.parent
        place.mkdir(parents=True, exist_ok=True)
        _sweep_once(place)
        partial = place / _partial_name("")
        partial.mkdir()
    try:
        with _plainly(folder, partial), _locked(partial):
            yield partial
            for each in sorted(partial.rglob("*")):
                _sync(each)
            if inside:
                for each in sorted(partial.iterdir(), key=lambda each: each.name == SUMS):
                    each.rename(folder / each.name)
            else:
                _replace_folder(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # what was there before, or a half one
    _sync_folder(place)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Wait until no other process holds this lock, and hold it; the file stays, empty.

    Raises:
        UserError: it cannot be made.
    """
    with _plainly(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def check_writable(file: str | os.PathLike) -> None:
    """Find out before the work whether a file can be written after it; nothing is left behind.

    Raises:
        UserError: it cannot.
    """
    file = Path(file)
    with _plainly(file):
        if _is_special(file):
            return
        folder = file.resolve().parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"Not a directory: {folder}")
        opened, partial = _open_partial(folder / file.name)
        opened.close()
        partial.unlink()


def expanded(path: str | os.PathLike) -> Path:
    """Give a path with ~ for the home folder.

    Raises:
        UserError: there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such home folder, write its path out") from None


def sweep(folder: Path) -> None:
    """Remove temporary files and folders of processes that were killed; others are left alone."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if PARTIAL.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _remove_if_left(Path(entry.path))


def read_bytes(file: str | os.PathLike) -> bytes:
    """Read a regular file; anything else would be waited for.

    Raises:
        Missing: it is not there.
        UserError: it cannot be read now, which says nothing of its content.
    """
    file = Path(file)
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise UserError(f"{file} is no file" + " but a folder" * file.is_dir())
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise Missing(f"{file} is missing") from None
    except OSError as error:
        if is_transient(error):
            raise TransientError.of(file, error) from error
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:  # a name with a zero byte
        raise UserError(f"cannot read {str(file)!r}: {error}") from None


def read_text(file: str | os.PathLike) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        Damaged: it is not UTF-8.
        UserError: it cannot be read.
    """
    content = read_bytes(file)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Damaged(f"{file}, line {line}: not UTF-8") from None


def read_json(
    file: str | os.PathLike, keys: Mapping[str, Any] | Sequence[str] = (), *, kind: type = dict
) -> Any:
    """Read a JSON file as it was written by `write_json`.

    Args:
        keys: that an object must have; of a mapping, what each holds: a type, several, a list of
            one (what every item is), or a mapping again. A key that ends in ? may be missing; *
            stands for all that are not named.
        kind: what the file holds: dict or list.

    Raises:
        Damaged: it is no JSON, not of this kind, lacks a key, or was changed.
        UserError: it cannot be read.
    """
    with _advised(Path(file)):
        return _parsed(read_text(file), keys, str(file), kind)


@contextlib.contextmanager
def reading_runs(
    folders: Iterable[Path], tell: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """Say of runs that a newer vidrec wrote them: in what goes wrong, else to `tell`."""
    told = "; ".join(filter(None, map(newer, folders)))
    try:
        yield
    except UserError as error:
        if told and told not in str(error):
            raise UserError(f"{error}; {told}") from error
        raise
    if told:
        tell(f"note: {told}")


def newer(folder: Path) -> str:
    """Say that a newer vidrec wrote a run or a table, as far as its files can be read; else ""."""
    places = ["ablation.json", "result.json", "environment.json"]
    with contextlib.suppress(OSError, ValueError):
        named = [folder / place for place in places]
        for file in (*named, *sorted(folder.glob("trials/*/result.json"))[:9]):
            theirs = _version_in(file)
            if _numbers(theirs) > _numbers(__version__):
                return (
                    f"{folder} was written by vidrec {theirs}, which is newer than this "
                    f"{__version__}: update vidrec to read all of it"
                )
    return ""


def _version_in(file: Path) -> str:
    """The version of vidrec that a JSON file says wrote it, whatever else it holds."""
    try:
        content = json.loads(read_bytes(file))
        return str((content.get("versions") or {}).get("vidrec", ""))
    except (UserError, ValueError, AttributeError, RecursionError):
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """What versions are ordered by: 0.10.1 is (0, 10, 1)."""
    return tuple(int(each) for each in re.findall(r"\d{1,9}", version)[:3])


def read_result(folder: Path) -> dict[str, Any]:
    """Read result.json of a finished trial; `dir` is where it lies now.

    Raises:
        UserError: it is missing or damaged.
    """
    found = read_json(folder / "result.json", RESULT_HOLDS)
    return found | {"dir": str(Path(folder).absolute())}


def read_lines(
    file: str | os.PathLike, keys: Mapping[str, Any] | Sequence[str] = (), *, whole: bool = True
) -> list[dict[str, Any]]:
    """Read a file of JSON objects, a line each.

    Args:
        whole: False for a file that is being written: a last line without its end is left out.

    Raises:
        Damaged: a line is no JSON object, lacks a key, or was changed.
        UserError: it cannot be read.
    """
    found, broken = sound_lines(file, keys, whole=whole)
    if broken:
        with _advised(Path(file)):
            raise Damaged(broken[0])
    return found


def sound_lines(
    file: str | os.PathLike, keys: Mapping[str, Any] | Sequence[str] = (), *, whole: bool = True
) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the lines of a file that are sound, and say what is wrong with the others."""
    try:
        pieces = read_bytes(file).split(b"\n")
    except Missing:
        return [], [f"{file} is missing"] if whole else []
    last = pieces.pop()
    found, broken = [], []
    for place, line in enumerate(pieces, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            broken.append(f"{file}, line {place}: not UTF-8")
            continue
        try:
            found.append(_parsed(text, keys, f"{file}, line {place}"))
        except Damaged as error:
            broken.append(str(error))
    if last and whole:
        broken.append(f"{file}, line {len(pieces) + 1}: cut short")
    return found, broken


def read_arrays(file: str | os.PathLike, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Read arrays by name from an npz; nothing in it is run.

    Raises:
        Damaged: it is no such file, was changed, lacks an array, or holds pickled ones.
        UserError: it cannot be read.
    """
    with _advised(Path(file)):
        return _arrays(read_bytes(file), keys, file)


def _arrays(content: bytes, keys: Sequence[str], file: str | os.PathLike) -> dict[str, Any]:
    import numpy as np

    arrays: dict[str, Any] = {}
    size = len(MARK) + len(_hash(b""))
    said = content[-size:]
    if said.startswith(MARK) and said != MARK + _hash(content[: -size - 2]).encode():
        raise Damaged(f"{file} is damaged: its checksum differs")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                # Read to its end, since only there the checksum is looked at.
                array = io.BytesIO(archive.read(name))
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(
                    array, allow_pickle=False
                )
    except Exception as error:
        raise Damaged(f"{file} is damaged or no npz file: {_first_line(error)}") from None
    for name in keys:
        if name not in arrays:
            raise Damaged(f"{file} is damaged: the array {name} is missing")
    return arrays


@contextlib.contextmanager
def _advised(file: Path) -> Iterator[None]:
    """Say of a damaged file how to get on."""
    try:
        yield
    except Damaged as error:
        if told := newer(file.parent):
            remedy = f"; {told}"
        elif "evaluations" in file.parts:
            remedy = f"; remove {file.parent} and evaluate again"
        elif file.name in OF_A_TRIAL:
            result = file.with_name("result.json")
            remedy = f"; remove {result} and train again: only its scores are made anew"
        elif file.name in WRITTEN_AGAIN:
            remedy = "; without this file the same command writes it again"
        else:
            remedy = ""
        raise Damaged(f"{error}{remedy}") from None


def _json(content: Tree, indent: int | None = None) -> str:
    """The text of a JSON value, an object with its checksum; names that are no UTF-8 escaped."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    if SURROGATE.search(text):
        text = SURROGATE.sub(_escaped, text)
    if isinstance(content, Mapping):
        content = json.loads(text)
        content.pop(CHECKSUM, None)
        content[CHECKSUM] = _checksum(content)
        text = json.dumps(content, indent=indent, ensure_ascii=False)
    return text


def _escaped(found: re.Match) -> str:
    """A byte that is no UTF-8, as Python keeps it in a name, in letters."""
    code = ord(found[0])
    return f"\\\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else "�"


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return _hash(text.encode())


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _parsed(
    text: str, keys: Mapping[str, Any] | Sequence[str], where: str, kind: type = dict
) -> Any:
    try:
        content = json.loads(text)
        plain = not SURROGATE.search(json.dumps(content, ensure_ascii=False))
    except RecursionError:
        raise Damaged(f"{where} is nested too deeply to be one of vidrec's files") from None
    except ValueError as error:
        raise Damaged(f"{where} is damaged or no JSON: {_first_line(error)}") from None
    if not plain:
        raise Damaged(f"{where} is damaged: it holds half a character (a lone surrogate)")
    if not isinstance(content, kind):
        wanted = {dict: "an object", list: "a list"}.get(kind, kind.__name__)
        raise Damaged(f"{where} is damaged: it should hold {wanted}, not {_kind(content)}")
    if kind is dict:
        said = content.pop(CHECKSUM, None)
        if said is not None and said != _checksum(content):
            raise Damaged(f"{where} was changed since it was written: its checksum differs")
        _check_keys(content, keys, where)
    return content


def _check_keys(
    content: Mapping[str, Any], keys: Mapping[str, Any] | Sequence[str], where: str
) -> None:
    types = dict(keys) if isinstance(keys, Mapping) else dict.fromkeys(keys, object)
    others = types.pop("*", object)
    for name, kind in types.items():
        plain = name.removesuffix("?")
        if plain in content:
            _check(content[plain], kind, where, plain)
        elif plain == name:
            raise Damaged(f"{where} lacks {name}")
    for name in content.keys() - {name.removesuffix("?") for name in types}:
        _check(content[name], others, where, name)


def _check(value: Any, like: Any, where: str, name: str) -> None:
    kind = type(like) if isinstance(like, dict | list) else like
    if not isinstance(value, kind):
        raise Damaged(f"{where}: {name} should not be {_kind(value)}")
    if isinstance(like, dict):
        _check_keys(value, like, f"{where}: {name}")
    elif isinstance(like, list):
        for place, each in enumerate(value):
            _check(each, like[0], where, f"{name}[{place}]")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return names.get(type(value), "null" if value is None else "a number")


def _first_line(error: BaseException) -> str:
    words = str(error).strip()
    return words.splitlines()[0] if words else type(error).__name__


@contextlib.contextmanager
def _plainly(file: Path, partial: Path | None = None) -> Iterator[None]:
    """Say an error of the system in one line.

    Args:
        partial: what the block writes to; errors of other files, which it reads, stay themselves.
    """
    try:
        yield
    except BrokenPipeError:  # nobody reads any more: not a mistake
        raise
    except OSError as error:
        other = error.filename and partial and not str(error.filename).startswith(str(partial))
        if other and not error.filename2:
            raise
        raise UserError(f"cannot write {file}: {error.strerror or _first_line(error)}") from error
    except ValueError as error:
        if partial:
            raise
        # A name with a zero byte.
        raise UserError(f"cannot write {str(file)!r}: {_first_line(error)}") from error


def _is_special(file: Path) -> bool:
    """True for a device or a pipe: it is written to, never replaced."""
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    return not stat.S_ISREG(mode)


def _open_special(file: Path) -> BinaryIO:
    """Open a device or a pipe; a pipe that nobody reads is not waited for."""
    try:
        number = os.open(file, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads from it") from None
        raise
    os.set_blocking(number, True)
    return os.fdopen(number, "wb")


def _partial_name(suffix: str) -> str:
    # Not made of the file's name, which may be as long as a name can be.
    return f".vidrec-{secrets.token_hex(8)}.partial{suffix}"


def _open_partial(file: Path) -> tuple[BinaryIO, Path]:
    """A new temporary file beside `file`, locked as long as it is open."""
    with contextlib.suppress(FileNotFoundError):
        file.lstat()  # raises for a name that is too long
    suffix = file.suffix if re.fullmatch(r"\.\w{1,16}", file.suffix, re.ASCII) else ""
    while True:
        partial = file.with_name(_partial_name(suffix))
        opened = open(os.fspath(partial), "x+b")  # noqa: SIM115 (PyAV wants its name as text)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(opened, fcntl.LOCK_EX)
            if os.fstat(opened.fileno()).st_nlink:  # not swept before it was locked
                return opened, partial
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        opened.close()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    number = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


@functools.cache
def _sweep_once(folder: Path) -> None:
    sweep(folder)


def _remove_if_left(partial: Path) -> None:
    """Remove a temporary file or folder that nobody is writing."""
    number = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:  # a file system without locks: by its age
            if time.time() - os.fstat(number).st_mtime < DAY:
                return
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()
    finally:
        os.close(number)


def _sync(path: Path) -> None:
    if path.is_symlink():
        return
    number = os.open(path, os.O_RDONLY)
    try:
        _to_disk(number)
    finally:
        os.close(number)


def _to_disk(number: int) -> None:
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # no disk behind it
            raise


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot
        _sync(folder)


def _replace_folder(partial: Path, folder: Path) -> None:
    """Give a complete folder its name; what had it before is then `partial`, or gone."""
    try:
        os.rename(partial, folder)  # also over an empty folder
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if not _exchange(partial, folder):
        # Not in one step here; the old one has a name that is not swept.
        old = folder.with_name(f"{folder.name}.old-{secrets.token_hex(4)}")
        os.rename(folder, old)
        os.rename(partial, folder)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or file system cannot."""
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    return renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0
