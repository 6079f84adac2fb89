"""Read a user's Python file once, with the files beside it that it imports; run it from memory."""

import ast
import builtins
import functools
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import io
import os
import sys
import threading
import tokenize
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vidrec.errors import UserError
from vidrec.io.files import read_bytes

_LOCK = threading.RLock()


@dataclass(frozen=True)
class Source:
    """A Python file and the files beside it that it imports.

    Attributes:
        file: Path of the Python file when it was read.
        texts: Content of each file by its path relative to the folder; the Python file is first.
    """

    file: str
    texts: Mapping[str, bytes]

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each file."""
        return {name: hashlib.sha256(text).hexdigest() for name, text in self.texts.items()}

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 of a single file, or one hash of the names and hashes of several files."""
        return combined_hash(self.hashes)

    def record(self) -> dict[str, Any]:
        """Return the record of the source that a run keeps, as JSON."""
        return {"file": self.file, "sha256": self.sha256, "files": self.hashes}

    def files_to_keep(self) -> dict[str, bytes]:
        """Return the content of the files, by paths that no other source uses."""
        return {f"{self.sha256[:16]}/{name}": text for name, text in self.texts.items()}

    def __hash__(self) -> int:
        return hash((self.file, self.sha256))


def combined_hash(hashes: Mapping[str, str]) -> str:
    """Return one hash of the names and hashes of files; for a single file, the file's hash."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    main = next(iter(hashes))
    lines = [f"{sha256} {name}\n" for name, sha256 in sorted(hashes.items())]
    return hashlib.sha256("".join([f"{main}\n", *lines]).encode()).hexdigest()


def collect(path: str | os.PathLike) -> Source:
    """Read a Python file and, recursively, the files beside it that it imports.

    Standard modules, vidrec and installed packages are not read.

    Raises:
        UserError: A file cannot be read, or is not Python.
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
        imported = _imported_names(texts[name], PurePosixPath(name), file.parent / name)
        for dotted in imported:
            waiting += _files_of_module(file.parent, dotted)
    return Source(str(file), texts)


def _imported_names(text: bytes, name: PurePosixPath, file: Path) -> Iterator[tuple[str, ...]]:
    """Yield, as tuples, the dotted names of imports that may be files beside this file."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _import_error(file, error) from None
    package = name.parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            if node.level <= len(package) + 1:
                yield base
                yield from ((*base, alias.name) for alias in node.names)


def _files_of_module(folder: Path, dotted: tuple[str, ...]) -> list[str]:
    """Return those files of a module and of its parent packages that are in this folder."""
    if not dotted or dotted[0] in sys.stdlib_module_names or dotted[0] == "vidrec":
        return []
    names = []
    for end in range(1, len(dotted) + 1):
        path = PurePosixPath(*dotted[:end])
        for name in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if (folder / name).is_file():
                names.append(str(name))
                break
    return names


def run(source: Source) -> types.ModuleType:
    """Run a source in a new module and return the module.

    The source imports its own files, even if other modules have the same names.

    Raises:
        UserError: The source raises an error.
    """
    with _LOCK:
        finder = _Finder(source)
        for name in [name for name in sys.modules if name.partition(".")[0] == finder.package]:
            del sys.modules[name]
        sys.meta_path[:] = [
            other for other in sys.meta_path if getattr(other, "package", "") != finder.package
        ]
        sys.meta_path.append(finder)
        try:
            return importlib.import_module(f"{finder.package}.{finder.main}")
        except (Exception, SystemExit) as error:
            raise _import_error(source.file, error) from error


def module_of(source: Source) -> types.ModuleType:
    """Return the module of a source; sources with the same file and content run only once."""
    with _LOCK:
        return run_once(source)


run_once = functools.cache(run)


def _import_error(file: str | os.PathLike, error: BaseException) -> UserError:
    line = f"{type(error).__name__}: {error}".splitlines()[0]
    return UserError(f"{file} cannot be imported ({line})")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the modules of a source from memory, as parts of a separate package.

    Attributes:
        package: The package's name, which no other source has.
        files: The file of each module by its dotted name; None for a folder without __init__.py.
    """

    def __init__(self, source: Source):
        self.source = source
        self.package = f"vidrec_user_{source.sha256[:16]}"
        self.main = Path(source.file).stem.replace(".", "_")
        self.files: dict[str, str | None] = {self.package: None}
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
        # Functions of the module also import through `_import`, whenever they are called.
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
        """Import as `builtins.__import__` does, the source's own files first."""
        own = f"{self.package}.{name}"
        if level or f"{self.package}.{name.partition('.')[0]}" not in self.files:
            return builtins.__import__(name, globals, locals, fromlist, level)
        importlib.import_module(own)
        if fromlist:
            return builtins.__import__(own, globals, locals, fromlist, 0)
        return sys.modules[f"{self.package}.{name.partition('.')[0]}"]
