"""Compute the hashes of settings that name runs, trial groups and files."""

import functools
import hashlib
import json
import typing
from pathlib import Path
from typing import Any

from vidrec.config import arguments, plugins
from vidrec.config.schema import (
    ADDED,
    BY_CONTENT,
    NOT_IDENTITY,
    TRACED,
    WORDS,
    Config,
    fields,
    is_onnx,
)
from vidrec.errors import TransientError, UserError, is_transient
from vidrec.io import files
from vidrec.io.runs import run_folder


def canonical(value: Any) -> str:
    """Return a value as JSON text; equal values give the same text on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(*parts: Any, length: int = 8) -> str:
    """Return a short hash of values, such as the eight digits at the end of a folder's name.

    Args:
        parts: Texts, or values that JSON can represent.
        length: Number of hexadecimal digits to return.
    """
    text = "\x00".join(part if isinstance(part, str) else canonical(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def identifying_settings(cfg: Config, without: tuple[str, ...] = NOT_IDENTITY) -> dict[str, Any]:
    """Return the settings that determine a trial's id, by dotted name.

    User files and weights are replaced by hashes of their content, so their path does not matter.

    Args:
        cfg: The trial's settings.
        without: Dotted names to leave out.
    """
    settings = {}
    for name, hint, value in fields(cfg):
        if name in without or (hint is arguments.Args and not value):
            continue  # without arguments a trial keeps its id from before `args` existed
        if name in ADDED and value == ADDED[name]:
            continue
        if type(value) is int and float in (hint, *typing.get_args(hint)):
            value = float(value)  # as when it is read back from a file
        if name.endswith(".kind") and plugins.is_code(value):
            value = f"{plugins.code_hash(value)[:16]}:{value.rpartition(':')[2]}"
        if name == "encoder.kind" and is_onnx(value):
            value = f"{_weights_id(value)}.onnx"
        if name == "train.continues":
            value = _state_id(value)
        settings[name] = _weights_id(value) if name == "encoder.weights" else value
    return settings


def signature(cfg: Config) -> str:
    """Return a hash that is equal for settings that one compiled program can train together."""
    scoring = tuple(name for name, _, _ in fields(cfg) if name.startswith("eval."))
    return digest(identifying_settings(cfg, NOT_IDENTITY + TRACED + scoring), length=16)


def _weights_id(name: str) -> str:
    """Return a hash of the weights that a file or a run holds.

    A word such as `imagenet`, and a path that does not exist, are returned unchanged.
    """
    if name in WORDS:
        return name
    if by_content := BY_CONTENT.fullmatch(name):
        return by_content[2]
    path = files.expanded(name)
    try:
        if path.is_file():
            return file_hash(path)
        result = files.read_json(run_folder(path) / "result.json", {"id": str, "weights?": str})
        return result.get("weights") or result["id"]
    except (OSError, UserError) as error:
        if is_transient(error):  # without the content, the id would be that of another run
            raise TransientError.of(f"encoder.weights = {name}", error) from error
        return name


def _state_id(name: str) -> str:
    """Return a hash of the final state of a run, or the name if there is no such run."""
    try:
        result = files.read_json(run_folder(files.expanded(name)) / "result.json", {"id": str})
        return digest(result["id"], result.get("weights", ""), length=32)
    except (OSError, UserError) as error:
        if is_transient(error):  # without the content, the id would be that of another run
            raise TransientError.of(f"train.continues = {name}", error) from error
        return name


def file_hash(path: Path) -> str:
    """Return the hash that identifies a file of weights."""
    stat = path.stat()
    return _file_hash(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@functools.cache
def _file_hash(file: Path, *stamp: int) -> str:
    """Return the hash of a file, computed once per `stamp`: its inode, size and times."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:32]
