"""Read and write JSON and arrays with checksums; an error in a file is reported in one line."""

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

CHECKSUM = "checksum"  # key of a JSON object: its value is the hash of all other entries
MARK = b"vidrec "  # begins the comment of an npz; then the hash of all before the comment
SURROGATE = re.compile("[\ud800-\udfff]")
# Files by the advice in the message about a damaged one, see `_advised`: the first are computed
# again from the trial's checkpoint; the second are written again by the same command.
OF_A_TRIAL = ("result.json", "predictions.npz", "model.json", "config.json", "metrics.jsonl")
WRITTEN_AGAIN = ("group.json", "ablation.json", "samples.npz", "environment.json")
Tree = Any


class Damaged(UserError):
    """A file whose content is not what was written."""


class Missing(UserError):
    """A file that is not there."""


def write_json(file: Path, content: Tree, *, durable: bool = True) -> Path:
    """Write a JSON file; an object gets the key `checksum`, which `read_json` removes.

    Raises:
        UserError: the file cannot be written.
    """
    return atomic.write_whole(file, _json(content, indent=1) + "\n", durable=durable)


def write_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write JSON objects with their checksums, one per line."""
    return atomic.write_whole(file, "".join(_json(each) + "\n" for each in records))


def append_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add JSON objects with their checksums to a file, one per line.

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
    # A zip file ends in the length of a comment and the comment. The checksums of the format cover
    # only the arrays: a changed byte in the list of their names would hide some of them.
    content = archive.getvalue()[:-2]
    comment = MARK + _hash(content).encode()
    return atomic.write_whole(
        file, content + len(comment).to_bytes(2, "little") + comment, durable=durable
    )


def expanded(path: str | os.PathLike) -> Path:
    """Return a path with ~ replaced by the home folder.

    Raises:
        UserError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such home folder, write its path out") from None


def read_bytes(file: str | os.PathLike) -> bytes:
    """Read a regular file; a pipe or a device is refused, since reading it may never end.

    Raises:
        Missing: the file does not exist.
        UserError: it is no regular file or cannot be read now; it need not be damaged.
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
    """Read a JSON file that `write_json` wrote.

    Args:
        file: the file to read.
        keys: keys that an object must have. A mapping also gives the type of each value: a type, a
            tuple of types, a list of one type (that of the items), or a mapping for an object. A
            key that ends in ? may be missing; * stands for all other keys.
        kind: the type of the file's content: dict or list.

    Raises:
        Damaged: it is not JSON or not of this kind, was changed, lacks a key, or has a value of
            another type.
        UserError: it cannot be read.
    """
    with _advised(Path(file)):
        return _parsed(read_text(file), keys, str(file), kind)


@contextlib.contextmanager
def reading_runs(
    folders: Iterable[Path], tell: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """Report runs that a newer vidrec wrote: in an error of the block, else through `tell`."""
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
    """Return a line if a newer vidrec wrote a run or a table; "" if not, or if no file says so."""
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
    """Return the version of vidrec that wrote a JSON file; "" if the file does not name it."""
    try:
        content = json.loads(read_bytes(file))
        return str((content.get("versions") or {}).get("vidrec", ""))
    except (UserError, ValueError, AttributeError, RecursionError):
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """Return a key that orders versions: 0.10.1 is (0, 10, 1)."""
    return tuple(int(number) for number in re.findall(r"\d{1,9}", version)[:3])


def read_result(folder: Path) -> dict[str, Any]:
    """Read result.json of a finished trial; `dir` is set to the present path of the folder.

    Raises:
        UserError: it is missing or damaged.
    """
    result = read_json(folder / "result.json", RESULT_HOLDS)
    return result | {"dir": str(Path(folder).absolute())}


def read_lines(
    file: str | os.PathLike, keys: Mapping[str, Any] | Sequence[str] = (), *, whole: bool = True
) -> list[dict[str, Any]]:
    """Read a file of JSON objects, one per line.

    Args:
        file: the file to read.
        keys: keys that each object must have, as for `read_json`.
        whole: False for a file that is still being written: it may be missing, and a last line
            without a line break is left out.

    Raises:
        Damaged: the file is missing, or a line is cut short, not a JSON object, lacks a key, or was
            changed.
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
    """Return the undamaged lines of a file, and an error message for each other line."""
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
    """Read arrays by name from an npz file; no code in the file is run.

    Raises:
        Damaged: it is no npz file, was changed, lacks an array, or holds pickled objects.
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
                # The array is read to its end: only there zipfile compares the checksum.
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
    """Add to the error about a damaged file how the user can continue."""
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
    """Return JSON text; an object gets its checksum, and bytes that are not UTF-8 are escaped."""
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
    """Return the escape of a byte that is not UTF-8, which Python keeps as a surrogate."""
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
