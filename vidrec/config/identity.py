"""What makes a trial what it is: the hashes by which runs, groups and files are named."""

import functools
import hashlib
import json
import typing
from pathlib import Path
from typing import Any

from vidrec.config import arguments, plugins
from vidrec.config.schema import NOT_IDENTITY, TRACED, WORDS, Config, fields
from vidrec.errors import TransientError, UserError, is_transient
from vidrec.io import files
from vidrec.io.runs import run_folder


def canonical(value: Any) -> str:
    """JSON that is the same text for the same values, on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(*parts: Any, length: int = 8) -> str:
    """Short hash of values; also the ID8 of a folder's name."""
    text = "\x00".join(part if isinstance(part, str) else canonical(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def identifying_settings(cfg: Config, without: tuple[str, ...] = NOT_IDENTITY) -> dict[str, Any]:
    """The settings that make a trial what it is, dotted.

    User files and weights count by their content, so that they may lie anywhere.
    """
    settings = {}
    for name, hint, value in fields(cfg):
        if name in without or (hint is arguments.Args and not value):
            continue  # no arguments: the id that a trial had before there were any
        if type(value) is int and float in (hint, *typing.get_args(hint)):
            value = float(value)  # as it is when read back from a file
        if name.endswith(".kind") and plugins.is_code(value):
            value = f"{plugins.code_hash(value)[:16]}:{value.rpartition(':')[2]}"
        settings[name] = _weights(value) if name == "encoder.weights" else value
    return settings


def _weights(name: str) -> str:
    """What weights are: a file's content, a run's arrays; what is not there, and words, stay."""
    if name in WORDS:
        return name
    path = files.expanded(name)
    try:
        if path.is_file():
            stat = path.stat()
            return _content(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        result = files.read_json(run_folder(path) / "result.json", {"id": str, "weights?": str})
        return result.get("weights") or result["id"]
    except (OSError, UserError) as error:
        if is_transient(error):  # another id would be another run
            raise TransientError.of(f"encoder.weights = {name}", error) from error
        return name


@functools.cache
def _content(file: Path, *stamp: int) -> str:
    """Hash of a file, read once for each time it was written."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:32]


def signature(cfg: Config) -> str:
    """Equal for configs that one compiled program can train together."""
    scoring = tuple(name for name, _, _ in fields(cfg) if name.startswith("eval."))
    return digest(identifying_settings(cfg, NOT_IDENTITY + TRACED + scoring), length=16)
