"""A user's own Python file as a setting, `path.py:Name`: its source, its hash, and who may run it.

A file means what it was when it was named: it is read once, together with the files beside it that
it imports, and that source is what runs and what a run keeps. Source that a run brings along runs
only where a person says so, or in a job whose launcher named it.
"""

import ast
import builtins
import functools
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import io
import os
import re
import stat
import sys
import threading
import tokenize
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vidrec.errors import UserError
from vidrec.io.files import read_bytes

SPEC = r".+\.py:[A-Za-z_]\w*"
# Hashes of the code that a job's launcher was told to run: jobs run this and no other.
CONSENT = "VIDREC_TRUSTED_CODE"
HOW = "--trust-code (trust_code=True from Python)"
LARGEST = 10 * 2**20  # bytes of a file that may be somebody's source
_LOCK = threading.RLock()
_named: set[str] = set()


@dataclass(frozen=True)
class Source:
    """A Python file and the files beside it that it imports.

    Attributes:
        file: where it was when it was named.
        texts: contents by path relative to its folder, the file itself first.
    """

    file: str
    texts: Mapping[str, bytes]

    @functools.cached_property
    def sums(self) -> dict[str, str]:
        """SHA-256 of each file."""
        return {name: hashlib.sha256(text).hexdigest() for name, text in self.texts.items()}

    @functools.cached_property
    def sha256(self) -> str:
        """Of a file alone its SHA-256; of several, one hash of their names and hashes."""
        return _combined(self.sums)

    def record(self) -> dict[str, Any]:
        """What a run's description says of it; `read` undoes this."""
        return {"file": self.file, "sha256": self.sha256, "files": self.sums}

    def kept(self) -> dict[str, bytes]:
        """The files to write, by path: those of other sources never have the same."""
        return {f"{self.sha256[:16]}/{name}": text for name, text in self.texts.items()}

    def __hash__(self) -> int:
        return hash((self.file, self.sha256))


class UserCode(str):
    """A setting `path.py:Name` that knows its source.

    Attributes:
        source: what runs; None for one that was read from a run's folder, which runs nothing.
    """

    source: Source | None

    def __new__(cls, spec: str, source: Source | None = None) -> "UserCode":
        made = super().__new__(cls, spec)
        made.source = source
        return made

    def __deepcopy__(self, memo: Any) -> "UserCode":
        return self

    def __reduce__(self) -> tuple:
        return str, (str(self),)


def is_code(value: Any) -> bool:
    """True for a setting that names a user's file."""
    return isinstance(value, str) and re.fullmatch(SPEC, value, re.DOTALL) is not None


def pinned(spec: str) -> UserCode:
    """The setting with the source that it means now; this process may hand it to its jobs.

    Raises:
        UserError: the file cannot be read, or it was read from a run's folder.
    """
    if not isinstance(spec, UserCode):
        spec = UserCode(spec, collect(spec.rpartition(":")[0]))
    _named.add(_source(spec).sha256)
    return spec


def code_hash(spec: str) -> str:
    """SHA-256 of the code that a setting `path.py:Name` runs, imported files included."""
    return _source(spec).sha256


def load(spec: str) -> Any:
    """The object that a setting `path.py:Name` means; its file runs once for each content.

    Raises:
        UserError: the file cannot be read or run, or has no such name.
    """
    source = _source(spec)
    attribute = spec.rpartition(":")[2]
    module = _module(source)
    if not hasattr(module, attribute):
        import difflib

        near = difflib.get_close_matches(attribute, vars(module), 1, 0.6)
        guess = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(f"{source.file} has no '{attribute}'{guess}")
    return getattr(module, attribute)


# --- What a run keeps ---------------------------------------------------------------------------


def records(codes: Mapping[str, str]) -> dict[str, Any]:
    """What a run's description says of its code, by `path.py:Name`; JSON."""
    return {str(spec): _source(spec).record() for spec in codes.values()}


def files(codes: Mapping[str, str]) -> dict[str, bytes]:
    """The sources that a run keeps, by path below its folder for code."""
    sources = {_source(spec) for spec in codes.values()}
    return {name: text for source in sources for name, text in source.kept().items()}


def trusted(
    where: Path, folder: Path, named: Mapping[str, str], said: Any, trust: bool
) -> dict[str, UserCode]:
    """The settings of a run with the sources that it kept, where a person trusts them.

    Args:
        where: the run, for messages.
        folder: where it keeps sources.
        named: settings that name code, as its configuration has them.
        said: what its description says of them, see `records`.

    Raises:
        UserError: nobody said so; nothing was kept; or it is not what was recorded.
    """
    if not named:
        return {}
    codes = _kept(where, folder, named, said)
    if not trust:
        places = ", ".join(sorted({str(folder / _place(code)) for code in codes.values()}))
        raise UserError(
            f"{where} runs code of its own: {'; '.join(_described(codes))}; kept in {places}; if "
            f"you trust it, give {HOW}"
        )
    return codes


def inherited(
    where: Path, folder: Path, named: Mapping[str, str], said: Any
) -> dict[str, UserCode]:
    """As `trusted`, where this process or the launcher of this job named the same code.

    Raises:
        UserError: it did not.
    """
    codes = _kept(where, folder, named, said) if named else {}
    for name, code in codes.items():
        if code_hash(code) not in _named | _inherited():
            [line] = _described({name: code})
            raise UserError(
                f"{where} runs code that this job's launcher did not name: {line}; start the "
                "table again with its ablate command"
            )
    return codes


def changes(codes: Iterable[str]) -> list[str]:
    """A line for each file that is by now another one than the source that runs."""
    found = {}
    for source in {_source(code) for code in codes}:
        for name, kept in source.sums.items():
            file = Path(source.file).parent / name
            now = _hash_now(file)
            if now and now != kept:
                found[file] = f"{file} is another file by now (SHA-256 {now}): the kept source "
                found[file] += f"runs (SHA-256 {kept})"
    return [found[file] for file in sorted(found)]


def _kept(where: Path, folder: Path, named: Mapping[str, str], said: Any) -> dict[str, UserCode]:
    codes = {}
    for name, spec in named.items():
        record = said.get(spec) if isinstance(said, Mapping) else None
        if record is None:
            now = _hash_now(Path(spec.rpartition(":")[0]))
            there = f" (that file has SHA-256 {now} now)" if now else ""
            raise UserError(
                f"{where} names {name} = {spec}{there} and keeps no source of it, so it does not "
                "run, not even with --trust-code: train it again"
            )
        codes[name] = UserCode(spec, _read_kept(where, folder, spec, record))
    return codes


def _read_kept(where: Path, folder: Path, spec: str, record: Any) -> Source:
    """The source that a record describes, checked against its hashes."""
    try:
        file, sums = record["file"], dict(record["files"])
        texts = [file, record["sha256"], *sums, *sums.values()]
        sound = all(isinstance(each, str) for each in texts)
        sound = sound and all(_is_below(name) for name in sums)
        sound = sound and Path(file).name == next(iter(sums)) == _file_name(spec)
        sound = sound and record["sha256"] == _combined(sums)
    except (TypeError, KeyError, ValueError, StopIteration):
        sound = False
    if not sound:
        raise UserError(f"{where}: what it says of its code {spec} is damaged, so it does not run")
    found = {}
    for name, recorded in sums.items():
        kept = folder / record["sha256"][:16] / name
        found[name] = read_bytes(kept)
        now = hashlib.sha256(found[name]).hexdigest()
        if now != recorded:
            raise UserError(
                f"{kept} is not the source that was recorded, so it does not run: SHA-256 {now}, "
                f"recorded {recorded}"
            )
    return Source(file, found)


def _is_below(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and name.endswith(".py") and parts[0] != "/" and ".." not in parts


def _file_name(spec: str) -> str:
    return Path(spec.rpartition(":")[0]).name


def _place(code: str) -> str:
    return next(iter(_source(code).kept()))


def _described(codes: Mapping[str, str]) -> list[str]:
    """A text for each source: settings, files, hashes, and those of the files as they are now."""
    users: dict[Source, list[str]] = {}
    for name, code in codes.items():
        users.setdefault(_source(code), []).append(f"{name} = {code}")
    lines = []
    for source, settings in users.items():
        parts = []
        for name, kept in source.sums.items():
            file = Path(source.file).parent / name
            now = _hash_now(file)
            changed = f", by now another file with SHA-256 {now}" if now not in (None, kept) else ""
            parts.append(f"{file} with SHA-256 {kept}{changed}")
        lines.append(f"{', '.join(settings)} from {', and '.join(parts)}")
    return lines


def _hash_now(file: Path) -> str | None:
    """Of an original file; None where there is none to look at. It may be a stranger's choice."""
    try:
        status = file.stat()
        if not file.is_absolute() or not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            return None
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return None


def consent() -> dict[str, str]:
    """The environment by which a launcher tells its jobs what they may run; empty for nothing."""
    named = _named | _inherited()
    return {CONSENT: ",".join(sorted(named))} if named else {}


def _inherited() -> set[str]:
    return set(filter(None, os.environ.get(CONSENT, "").split(",")))


def _source(spec: str) -> Source:
    if not isinstance(spec, UserCode):
        return collect(spec.rpartition(":")[0])
    if spec.source is None:
        raise UserError(
            f"{spec} was read from a run's folder, where nothing says whose code it is: name it "
            f"yourself, or load the run with {HOW}"
        )
    return spec.source


# --- Reading ------------------------------------------------------------------------------------


def collect(path: str | os.PathLike) -> Source:
    """A Python file as it is now, and the files beside it that it imports, and those of these.

    Standard modules, vidrec and what is installed are not among them.

    Raises:
        UserError: a file cannot be read, or is no Python.
    """
    file = Path(os.path.abspath(path))
    if file.suffix != ".py":
        raise UserError(f"{path} is no Python file: its name should end in .py")
    texts: dict[str, bytes] = {}
    waiting = [file.name]
    while waiting:
        name = waiting.pop(0)
        if name in texts:
            continue
        texts[name] = read_bytes(path if name == file.name else file.parent / name)
        imported = _imports(texts[name], PurePosixPath(name), file.parent / name)
        waiting += [each for dotted in imported for each in _beside(file.parent, dotted)]
    return Source(str(file), texts)


def _imports(text: bytes, name: PurePosixPath, file: Path) -> Iterator[tuple[str, ...]]:
    """Dotted names that may be files beside it, as tuples."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _not_importable(file, error) from None
    here = name.parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            if node.level <= len(here) + 1:
                yield base
                yield from ((*base, alias.name) for alias in node.names)


def _beside(folder: Path, dotted: tuple[str, ...]) -> list[str]:
    """Files of a module and of the packages above it, where they lie in this folder."""
    if not dotted or dotted[0] in sys.stdlib_module_names or dotted[0] == "vidrec":
        return []
    found = []
    for end in range(1, len(dotted) + 1):
        place = PurePosixPath(*dotted[:end])
        for name in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if (folder / name).is_file():
                found.append(str(name))
                break
    return found


def _combined(sums: Mapping[str, str]) -> str:
    if len(sums) == 1:
        return next(iter(sums.values()))
    main = next(iter(sums))
    lines = [f"{each} {name}\n" for name, each in sorted(sums.items())]
    return hashlib.sha256("".join([f"{main}\n", *lines]).encode()).hexdigest()


# --- Running ------------------------------------------------------------------------------------


def run(source: Source) -> types.ModuleType:
    """Runs a source anew; its own imports are its own files, whatever else has these names.

    Raises:
        UserError: it fails.
    """
    with _LOCK:
        finder = _Finder(source)
        for name in [each for each in sys.modules if each.partition(".")[0] == finder.package]:
            del sys.modules[name]
        sys.meta_path[:] = [
            each for each in sys.meta_path if getattr(each, "package", "") != finder.package
        ]
        sys.meta_path.append(finder)
        try:
            return importlib.import_module(f"{finder.package}.{finder.main}")
        except (Exception, SystemExit) as error:
            raise _not_importable(source.file, error) from error


@functools.cache
def _module_of(source: Source) -> types.ModuleType:
    return run(source)


def _module(source: Source) -> types.ModuleType:
    with _LOCK:
        return _module_of(source)


def _not_importable(file: str | os.PathLike, error: BaseException) -> UserError:
    line = f"{type(error).__name__}: {error}".splitlines()[0]
    return UserError(f"{file} cannot be imported ({line})")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the modules of a source, from memory, as parts of a package of their own."""

    def __init__(self, source: Source):
        self.source = source
        self.package = f"vidrec_user_{source.sha256[:16]}"
        self.main = Path(source.file).stem.replace(".", "_")
        self.files: dict[str, str | None] = {self.package: None, f"{self.package}.{self.main}": ""}
        self.files[f"{self.package}.{self.main}"] = Path(source.file).name
        for name in list(source.texts)[1:]:
            parts = PurePosixPath(name).with_suffix("").parts
            for end in range(1, len(parts)):  # folders without __init__.py are packages, too
                self.files.setdefault(".".join((self.package, *parts[:end])), None)
            inner = parts[:-1] if parts[-1] == "__init__" else parts
            self.files[".".join((self.package, *inner))] = name

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname not in self.files:
            return None
        file = self.files[fullname]
        package = file is None or PurePosixPath(file).name == "__init__.py"
        origin = self._origin(file) if file else None
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=origin, is_package=package)
        spec.has_location = file is not None
        return spec

    def exec_module(self, module: types.ModuleType) -> None:
        # Every function of the module imports by this, whenever it is called.
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
        if self.files[module.__name__] is not None:
            super().exec_module(module)

    def get_source(self, fullname: str) -> str:
        text = self.source.texts[self.files[fullname] or ""]
        encoding = tokenize.detect_encoding(io.BytesIO(text).readline)[0]
        return io.IncrementalNewlineDecoder(None, True).decode(text.decode(encoding))

    def get_code(self, fullname: str) -> Any:
        file = self.files[fullname] or ""
        return compile(self.source.texts[file], self._origin(file), "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        return (self.files[fullname] or "__init__.py").endswith("__init__.py")

    def _origin(self, file: str) -> str:
        return str(Path(self.source.file).parent / file)

    def _import(
        self,
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        own = f"{self.package}.{name}"
        if level or f"{self.package}.{name.partition('.')[0]}" not in self.files:
            return builtins.__import__(name, globals, locals, fromlist, level)
        importlib.import_module(own)
        if fromlist:
            return builtins.__import__(own, globals, locals, fromlist, 0)
        return sys.modules[f"{self.package}.{name.partition('.')[0]}"]


def load_user(spec: str) -> Any:
    """The object that 'path.py:Name' means; see `load`."""
    return load(spec)


def load_module(path: str) -> Any:
    """A user's Python file, run anew."""
    return run(collect(path))
