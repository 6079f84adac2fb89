"""Read and run the user code that a setting `path.py:Name` names, if it is trusted.

A file is read when a command names it, together with the files beside it that it imports. This
source is run, and a copy is kept in the run's folder. That copy is run later only if a person says
that the code is trusted, or in a job whose launcher named the code.
"""

import hashlib
import os
import re
import stat
import types
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vidrec.config import sources
from vidrec.config.sources import Source, collect
from vidrec.errors import UserError
from vidrec.io.files import read_bytes

SPEC = r".+\.py:[A-Za-z_]\w*"
# The environment variable in which a launcher gives its jobs the hashes of code they may run.
CONSENT = "VIDREC_TRUSTED_CODE"
HOW = "--trust-code (trust_code=True from Python)"
LARGEST = 10 * 2**20  # bytes; a larger file is not taken for source code
_named_here: set[str] = set()  # hashes of the code that this process was told to run


class UserCode(str):
    """A setting `path.py:Name` together with its source code.

    Attributes:
        source: The code that runs; None if the setting was read from a run's folder.
    """

    source: Source | None

    def __new__(cls, spec: str, source: Source | None = None) -> "UserCode":
        """Return the text `spec` with its source."""
        code = super().__new__(cls, spec)
        code.source = source
        return code

    def __deepcopy__(self, memo: Any) -> "UserCode":
        return self

    def __reduce__(self) -> tuple:
        return str, (str(self),)


def is_code(value: Any) -> bool:
    """Return whether a setting names a user's file."""
    return isinstance(value, str) and re.fullmatch(SPEC, value, re.DOTALL) is not None


def pin(spec: str) -> UserCode:
    """Return the setting with the current source of its file; this process's jobs may run it.

    Raises:
        UserError: The file cannot be read, or the setting was read from a run's folder.
    """
    if not isinstance(spec, UserCode):
        spec = UserCode(spec, collect(_path(spec)))
    _named_here.add(_source(spec).sha256)
    return spec


def code_hash(spec: str) -> str:
    """Return the SHA-256 of the code that a setting `path.py:Name` runs, with imported files."""
    return _source(spec).sha256


def load_user(spec: str) -> Any:
    """Return the object that a setting `path.py:Name` names; its file runs once for each content.

    Raises:
        UserError: The file cannot be read or run, or has no such name.
    """
    source = _source(spec)
    attribute = spec.rpartition(":")[2]
    module = sources.module_of(source)
    if not hasattr(module, attribute):
        import difflib

        near = difflib.get_close_matches(attribute, vars(module), 1, 0.6)
        guess = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(f"{source.file} has no '{attribute}'{guess}")
    return getattr(module, attribute)


def load_module(path: str) -> types.ModuleType:
    """Run a user's Python file in a new module and return the module."""
    return sources.run(collect(path))


# --- What a run keeps ---------------------------------------------------------------------------


def records(codes: Mapping[str, str]) -> dict[str, Any]:
    """Return the record that a run keeps of its code, by `path.py:Name`, as JSON."""
    return {str(spec): _source(spec).record() for spec in codes.values()}


def files(codes: Mapping[str, str]) -> dict[str, bytes]:
    """Return the source files that a run keeps, by their path inside the run's code folder."""
    unique = {_source(spec) for spec in codes.values()}
    return {name: text for source in unique for name, text in source.files_to_keep().items()}


def trusted(
    run: Path, folder: Path, named: Mapping[str, str], description: Any, trust: bool
) -> dict[str, UserCode]:
    """Return the settings of a run that name code, with the kept sources, if a person trusts them.

    Args:
        run: The run, for messages.
        folder: The folder in which the run keeps sources.
        named: Values of the settings that name code, by dotted name.
        description: The run's record of its code, see `records`.
        trust: Whether a person said that the code may run.

    Raises:
        UserError: `trust` is False, no source was kept, or a source differs from its record.
    """
    if not named:
        return {}
    codes = _kept(run, folder, named, description)
    if not trust:
        first_files = {next(iter(_source(code).files_to_keep())) for code in codes.values()}
        kept = ", ".join(sorted(str(folder / name) for name in first_files))
        raise UserError(
            f"{run} runs code of its own: {'; '.join(_describe(codes))}; kept in {kept}; if "
            f"you trust it, give {HOW}"
        )
    return codes


def inherited(
    run: Path, folder: Path, named: Mapping[str, str], description: Any
) -> dict[str, UserCode]:
    """Return settings as `trusted` does, if this process or a job's launcher named the code.

    Args:
        run: The run, for messages.
        folder: The folder in which the run keeps sources.
        named: Values of the settings that name code, by dotted name.
        description: The run's record of its code, see `records`.

    Raises:
        UserError: Neither named the code, no source was kept, or a source differs from its record.
    """
    codes = _kept(run, folder, named, description) if named else {}
    for name, code in codes.items():
        if code_hash(code) not in _named_here | _named_by_launcher():
            [line] = _describe({name: code})
            raise UserError(
                f"{run} runs code that this job's launcher did not name: {line}; start the "
                "table again with its ablate command"
            )
    return codes


def changes(codes: Iterable[str]) -> list[str]:
    """Return a line for each original file that now differs from the source that runs."""
    lines = {}
    for source in {_source(code) for code in codes}:
        for name, kept in source.hashes.items():
            file = Path(source.file).parent / name
            now = _hash_now(file)
            if now and now != kept:
                lines[file] = f"{file} has changed since (SHA-256 {now} now): the kept source "
                lines[file] += f"runs (SHA-256 {kept})"
    return [lines[file] for file in sorted(lines)]


def consent() -> dict[str, str]:
    """Return the environment variables that tell a launcher's jobs which code they may run."""
    named = _named_here | _named_by_launcher()
    return {CONSENT: ",".join(sorted(named))} if named else {}


def _named_by_launcher() -> set[str]:
    return set(filter(None, os.environ.get(CONSENT, "").split(",")))


def _kept(
    run: Path, folder: Path, named: Mapping[str, str], description: Any
) -> dict[str, UserCode]:
    codes = {}
    for name, spec in named.items():
        record = description.get(spec) if isinstance(description, Mapping) else None
        if record is None:
            now = _hash_now(Path(_path(spec)))
            there = f" (that file has SHA-256 {now} now)" if now else ""
            raise UserError(
                f"{run} names {name} = {spec}{there} and keeps no source of it, so it does not "
                "run, not even with --trust-code: train it again"
            )
        if not _is_sound(spec, record):
            raise UserError(
                f"{run}: the record of its code {spec} is damaged, so the code does not run"
            )
        codes[name] = UserCode(spec, _read_kept(folder, record))
    return codes


def _is_sound(spec: str, record: Any) -> bool:
    """Return whether a record has the form of `Source.record` and fits the setting."""
    try:
        file, hashes = record["file"], dict(record["files"])
        texts = [file, record["sha256"], *hashes, *hashes.values()]
        return (
            all(isinstance(text, str) for text in texts)
            and all(_is_below(name) for name in hashes)
            and Path(file).name == next(iter(hashes)) == Path(_path(spec)).name
            and record["sha256"] == sources.combined_hash(hashes)
        )
    except (TypeError, KeyError, ValueError, StopIteration):
        return False


def _read_kept(folder: Path, record: Mapping[str, Any]) -> Source:
    """Return the source that a sound record describes, its files checked against their hashes."""
    texts = {}
    for name, recorded in dict(record["files"]).items():
        file = folder / record["sha256"][:16] / name
        texts[name] = read_bytes(file)
        now = hashlib.sha256(texts[name]).hexdigest()
        if now != recorded:
            raise UserError(
                f"{file} is not the source that was recorded, so it does not run: SHA-256 {now}, "
                f"recorded {recorded}"
            )
    return Source(record["file"], texts)


def _is_below(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and name.endswith(".py") and parts[0] != "/" and ".." not in parts


def _describe(codes: Mapping[str, str]) -> list[str]:
    """Return a text for each source: settings, files, their kept hashes and current hashes."""
    users: dict[Source, list[str]] = {}
    for name, code in codes.items():
        users.setdefault(_source(code), []).append(f"{name} = {code}")
    lines = []
    for source, settings in users.items():
        parts = []
        for name, kept in source.hashes.items():
            file = Path(source.file).parent / name
            now = _hash_now(file)
            changed = f", by now another file with SHA-256 {now}" if now not in (None, kept) else ""
            parts.append(f"{file} with SHA-256 {kept}{changed}")
        lines.append(f"{', '.join(settings)} from {', and '.join(parts)}")
    return lines


def _hash_now(file: Path) -> str | None:
    """Return the current hash of an original file; None if it is no regular file or too large.

    The path may come from an untrusted folder, so devices and huge files are not opened.
    """
    try:
        status = file.stat()
        if not file.is_absolute() or not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            return None
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return None


def _path(spec: str) -> str:
    return spec.rpartition(":")[0]


def _source(spec: str) -> Source:
    if not isinstance(spec, UserCode):
        return collect(_path(spec))
    if spec.source is None:
        raise UserError(
            f"{spec} was read from a run's folder, which does not show who wrote the code: name "
            f"the file yourself, or load the run with {HOW}"
        )
    return spec.source
