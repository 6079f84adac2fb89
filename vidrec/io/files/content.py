"""Read and write JSON and arrays with checksums; an error in a file is one line."""

import contextlib
import hashlib
import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrec import __version__
from vidrec.errors import TransientError, UserError, is_transient
from vidrec.io.files import atomic
from vidrec.io.files.atomic import first_line
from vidrec.io.files.schemas import RESULT_HOLDS

CHECKSUM = "checksum"  # key of a JSON object: hash of all others
MARK = b"vidrec "  # begins the comment of an npz, which ends in the hash of all before it
SURROGATE = re.compile("[\ud800-\udfff]")
# What a damaged file's message says to do: the save is there, and scores are made from it.
OF_A_TRIAL = ("result.json", "predictions.npz", "model.json", "config.json", "metrics.jsonl")
WRITTEN_AGAIN = ("group.json", "ablation.json", "samples.npz", "environment.json")
Tree = Any


class Damaged(UserError):
    """A file whose content is not what was written."""


class Missing(UserError):
    """A file that is not there."""


def write_json(file: Path, content: Tree, *, durable: bool = True) -> Path:
    """Write a JSON file; an object gets the key `checksum`, which `read_json` takes off again.

    Raises:
        UserError: the file cannot be written.
    """
    return atomic.write_whole(file, _json(content, indent=1) + "\n", durable=durable)


def write_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write JSON objects, a line each, with their checksums."""
    return atomic.write_whole(file, "".join(_json(each) + "\n" for each in records))


def append_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add JSON objects to a file, a line each, with their checksums.

    Raises:
        UserError: the disk is full, or the file cannot be written.
    """
    text = "".join(_json(record) + "\n" for record in records)
    atomic.append(file, text.encode())


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
    return atomic.write_whole(
        file, content + len(comment).to_bytes(2, "little") + comment, durable=durable
    )


def expanded(path: str | os.PathLike) -> Path:
    """Give a path with ~ for the home folder.

    Raises:
        UserError: there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such home folder, write its path out") from None


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
    file: str | os.PathLike, keys: Mapping[str, Any] | Sequence[str] = (), *, kind: type[Any] = dict
) -> Any:
    """Read a JSON file as it was written by `write_json`.

    Args:
        file: to be read.
        keys: keys that an object must have; as a mapping, also the type of each: a type, several
            types, a list of one type (of its items), or a mapping again. A key that ends in ? may
            be missing; * stands for all other keys.
        kind: what the file holds: dict or list.

    Raises:
        Damaged: it is not JSON, not of this kind, lacks a key, or was changed.
        UserError: it cannot be read.
    """
    with _advised(Path(file)):
        return _parsed(read_text(file), keys, str(file), kind)


@contextlib.contextmanager
def reading_runs(
    folders: Iterable[Path], tell: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """Say that a newer vidrec wrote the runs: in the error if there is one, else through `tell`."""
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
    names = ["ablation.json", "result.json", "environment.json"]
    with contextlib.suppress(OSError, ValueError):
        named = [folder / name for name in names]
        for file in (*named, *sorted(folder.glob("trials/*/result.json"))[:9]):
            theirs = _version_in(file)
            if _numbers(theirs) > _numbers(__version__):
                return (
                    f"{folder} was written by vidrec {theirs}, which is newer than this "
                    f"{__version__}: update vidrec to read all of it"
                )
    return ""


def _version_in(file: Path) -> str:
    """Return the version of vidrec that a JSON file says wrote it, whatever else it holds."""
    try:
        content = json.loads(read_bytes(file))
        return str((content.get("versions") or {}).get("vidrec", ""))
    except (UserError, ValueError, AttributeError, RecursionError):
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """Return a key that orders versions: 0.10.1 is (0, 10, 1)."""
    return tuple(int(number) for number in re.findall(r"\d{1,9}", version)[:3])


def read_result(folder: Path) -> dict[str, Any]:
    """Read result.json of a finished trial; `dir` is where it lies now.

    Raises:
        UserError: it is missing or damaged.
    """
    result = read_json(folder / "result.json", RESULT_HOLDS)
    return result | {"dir": str(Path(folder).absolute())}


def read_lines(
    file: str | os.PathLike, keys: Mapping[str, Any] | Sequence[str] = (), *, whole: bool = True
) -> list[dict[str, Any]]:
    """Read a file of JSON objects, a line each.

    Args:
        file: to be read.
        keys: keys that each object must have, as for `read_json`.
        whole: False for a file that is being written: a last line without its end is left out.

    Raises:
        Damaged: a line is not a JSON object, lacks a key, or was changed.
        UserError: it cannot be read.
    """
    records, broken = sound_lines(file, keys, whole=whole)
    if broken:
        with _advised(Path(file)):
            raise Damaged(broken[0])
    return records


def sound_lines(
    file: str | os.PathLike, keys: Mapping[str, Any] | Sequence[str] = (), *, whole: bool = True
) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the lines of a file that are sound, and say what is wrong with the others."""
    try:
        pieces = read_bytes(file).split(b"\n")
    except Missing:
        return [], [f"{file} is missing"] if whole else []
    last = pieces.pop()
    records, broken = [], []
    for number, line in enumerate(pieces, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            broken.append(f"{file}, line {number}: not UTF-8")
            continue
        try:
            records.append(_parsed(text, keys, f"{file}, line {number}"))
        except Damaged as error:
            broken.append(str(error))
    if last and whole:
        broken.append(f"{file}, line {len(pieces) + 1}: cut short")
    return records, broken


def read_arrays(file: str | os.PathLike, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Read arrays by name from an npz; nothing in it is run.

    Raises:
        Damaged: it is not such a file, was changed, lacks an array, or holds pickled ones.
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
        raise Damaged(f"{file} is damaged or no npz file: {first_line(error)}") from None
    for name in keys:
        if name not in arrays:
            raise Damaged(f"{file} is damaged: the array {name} is missing")
    return arrays


@contextlib.contextmanager
def _advised(file: Path) -> Iterator[None]:
    """Say how to continue with a damaged file."""
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
    """Write a JSON value as text, an object with its checksum; names that are not UTF-8 escaped."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    if SURROGATE.search(text):
        text = SURROGATE.sub(_escaped, text)
    if isinstance(content, Mapping):
        content = json.loads(text)
        content.pop(CHECKSUM, None)
        content[CHECKSUM] = _checksum(content)
        text = json.dumps(content, indent=indent, ensure_ascii=False)
    return text


def _escaped(match: re.Match) -> str:
    """Spell a byte that is not UTF-8, as Python keeps it in a name, in letters."""
    code = ord(match[0])
    return f"\\\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else "�"


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return _hash(text.encode())


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _parsed(
    text: str, keys: Mapping[str, Any] | Sequence[str], where: str, kind: type[Any] = dict
) -> Any:
    try:
        content: Any = json.loads(text)
        plain = not SURROGATE.search(json.dumps(content, ensure_ascii=False))
    except RecursionError:
        raise Damaged(f"{where} is nested too deeply to be one of vidrec's files") from None
    except ValueError as error:
        raise Damaged(f"{where} is damaged or no JSON: {first_line(error)}") from None
    if not plain:
        raise Damaged(f"{where} is damaged: it holds half a character (a lone surrogate)")
    if not isinstance(content, kind):
        wanted = "an object" if kind is dict else "a list"
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
    kind: Any = type(like) if isinstance(like, dict | list) else like
    if not isinstance(value, kind):
        raise Damaged(f"{where}: {name} should not be {_kind(value)}")
    if isinstance(like, dict):
        _check_keys(value, like, f"{where}: {name}")
    elif isinstance(like, list):
        for index, item in enumerate(value):
            _check(item, like[0], where, f"{name}[{index}]")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return names.get(type(value), "null" if value is None else "a number")
