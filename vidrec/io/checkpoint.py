"""Save trees of arrays through orbax, completely or not at all.

Orbax writes each tree into a separate folder. This module adds three rules. A folder gets its final
name only when it is complete. The SHA-256 of every file is saved in the folder. A changed byte is
therefore noticed (orbax would restore a wrong value), and the save before it is used. Shapes and
types must match exactly (orbax would cast without a warning).
"""

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from vidrec.errors import TransientError, UserError, is_transient
from vidrec.io import files

Tree = Any
SUMS = files.SUMS
log = logging.getLogger(__name__)


class DamagedCheckpoint(UserError):
    """A checkpoint whose files are not the ones that were written."""


def write(
    folder: Path, tree: Tree, meta: Mapping[str, Any], beside: Mapping[str, bytes] | None = None
) -> None:
    """Save a tree of host arrays and its description as `folder`, replacing an old checkpoint.

    Args:
        folder: the folder of the checkpoint.
        tree: the arrays, in host memory.
        meta: the description, which can be written as JSON.
        beside: contents of further files, by path in the folder.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old checkpoint stays.
    """
    folder = Path(folder).absolute()
    try:
        with files.writing_folder(folder) as partial:
            _save_arrays(partial / "arrays", _flat(tree))
            for name, content in (beside or {}).items():
                files.write_whole(partial / name, content)
            files.write_json(partial / "meta.json", meta)
            files.write_json(partial / SUMS, _checksums(partial))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot save {folder}: {_reason(error)}") from error


def read(folder: Path, like: Tree | None = None) -> tuple[Tree, dict[str, Any]]:
    """Read a tree and its description.

    Args:
        folder: the folder of the checkpoint.
        like: a tree of the expected structure, shapes and types; None to get nested dictionaries.

    Raises:
        DamagedCheckpoint: a file is missing or changed.
        TransientError: the system refuses to read it now.
        UserError: the tree does not match `like`; the message names the first different array.
    """
    folder = Path(folder).absolute()
    meta = read_meta(folder)
    flat = _load_arrays(folder / "arrays")
    if like is None:
        return _nested(flat), meta
    return _fitted(flat, like, folder), meta


def read_meta(folder: Path) -> dict[str, Any]:
    """Read the description alone, after checking every file of the checkpoint.

    Raises:
        DamagedCheckpoint: a file is missing or changed.
        TransientError: the system refuses to read it now.
    """
    folder = Path(folder)
    try:
        expected = files.read_json(folder / SUMS)
    except files.Missing:
        raise DamagedCheckpoint(f"{folder} is no complete checkpoint: {SUMS} is missing") from None
    except files.Damaged as error:
        raise DamagedCheckpoint(f"{error}: this checkpoint is not used") from None
    actual = _checksums(folder)
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            what = "missing" if name not in actual else "changed since it was written"
            raise DamagedCheckpoint(f"{folder / name} is {what}: this checkpoint is not used")
    try:
        return files.read_json(folder / "meta.json")
    except files.Damaged as error:
        raise DamagedCheckpoint(str(error)) from None


class Checkpoints:
    """Numbered saves of one training, written by a thread while training continues.

    Attributes:
        folder: the folder that holds the saves, one folder for each.
        keep: how many of the latest saves are kept.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = Path(folder), keep
        self._writer = ThreadPoolExecutor(1)
        self._pending: Future | None = None

    def save(self, step: int, tree: Tree, meta: Mapping[str, Any]) -> None:
        """Start to save a tree of host arrays, which must not change until `wait` returns.

        If the save before it failed, its error is raised here.
        """
        self.wait()
        self._pending = self._writer.submit(self._write, step, tree, meta)

    def wait(self) -> None:
        """Wait until the last save is on disk."""
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Wait for the last save and end the thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def restore(self, like: Tree) -> tuple[int, Tree, dict[str, Any]] | None:
        """Read the latest save that is not damaged.

        Returns:
            The number, tree and description of the save; None if there is none.
        """
        for step in sorted(self.steps(), reverse=True):
            try:
                tree, meta = read(self.folder / str(step), like)
                return step, tree, meta
            except DamagedCheckpoint as error:
                log.warning("%s; going back to the save before it", error)
        return None

    def steps(self) -> list[int]:
        """Return the numbers of the saves on disk.

        Raises:
            TransientError: the system refused to list them.
        """
        if not self.folder.is_dir():
            return []
        try:
            names = [entry.name for entry in self.folder.iterdir()]
        except OSError as error:
            raise TransientError.of(self.folder, error) from error
        return sorted(int(name) for name in names if name.isdigit())

    def _write(self, step: int, tree: Tree, meta: Mapping[str, Any]) -> None:
        write(self.folder / str(step), tree, meta)
        # Saves with higher numbers are damaged ones that `restore` skipped: they do not count.
        for old in [number for number in self.steps() if number <= step][: -self.keep]:
            shutil.rmtree(self.folder / str(old), ignore_errors=True)


def _save_arrays(folder: Path, flat: dict[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    if not flat:
        return folder.mkdir()
    with _quiet(), _plain_path(folder) as path, _orbax() as saver:
        saver.save(path, args=ocp.args.StandardSave(flat))


def _load_arrays(folder: Path) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    if not any(folder.iterdir()):
        return {}
    try:
        with _quiet(), _plain_path(folder) as path, _orbax() as loader:
            described = loader.metadata(path).item_metadata
            like = {
                name: np.zeros(entry.shape, entry.dtype) for name, entry in dict(described).items()
            }
            return dict(loader.restore(path, args=ocp.args.StandardRestore(like)))
    except Exception as error:  # the checksums were right: this is not damage
        if is_transient(error) or isinstance(error, MemoryError):
            raise TransientError.of(folder, error) from error
        raise UserError(
            f"{folder} is whole and cannot be read: {_reason(error)}; was it written by another "
            "version of orbax?"
        ) from error


@contextlib.contextmanager
def _plain_path(folder: Path) -> Iterator[Path]:
    r"""Yield a path for orbax without [ ], which it reads as a pattern, or \, as an escape."""
    if re.fullmatch(r"[\w./ +,=@-]*", str(folder), re.ASCII):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="vidrec-") as folder_of_link:
        link = Path(folder_of_link, "link")
        link.symlink_to(folder.parent, target_is_directory=True)
        yield link / folder.name


def _orbax() -> Any:
    """Return an orbax checkpointer for this process, which does not wait for other processes."""
    import orbax.checkpoint as ocp

    me = jax.process_index()
    alone = {
        "multiprocessing_options": ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"vidrec{me}"
        )
    }
    options = alone if jax.process_count() > 1 else {}
    return ocp.Checkpointer(ocp.StandardCheckpointHandler(**options), **options)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence orbax's warnings of arrays without sharding, which are intended here.

    Orbax also logs the traceback of a failure. The error itself is raised and reported in one line.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "orbax")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _flat(tree: Tree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _fitted(flat: dict[str, np.ndarray], like: Tree, folder: Path) -> Tree:
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    for name in [*wanted, *flat]:
        if name not in flat or name not in wanted:
            state = "lacks" if name not in flat else "holds an unknown"
            raise UserError(f"{folder} {state} {name}: it was saved by another configuration")
        saved, needed = flat[name], wanted[name]
        if saved.shape != tuple(needed.shape) or saved.dtype != needed.dtype:
            raise UserError(
                f"{folder}: {name} is {saved.dtype}{list(saved.shape)}, this configuration "
                f"needs {needed.dtype}{list(needed.shape)}"
            )
    return jax.tree_util.tree_unflatten(structure, [flat[name] for name in wanted])


def _nested(flat: dict[str, np.ndarray]) -> Tree:
    """Return nested dictionaries from keys such as ['params']['dense']; other keys stay."""
    paths = (name.removeprefix("['").removesuffix("']").split("']['") for name in flat)
    return unflatten_dict(dict(zip(map(tuple, paths), flat.values(), strict=True)))


def _checksums(folder: Path) -> dict[str, str]:
    def refuse(error: OSError) -> None:
        raise error

    hashes = {}
    try:
        # `rglob` would treat a folder without read permission as an empty one.
        for inner, _, names in os.walk(folder, onerror=refuse):
            for file in (Path(inner) / name for name in names if name != SUMS):
                with file.open("rb") as opened:
                    content = hashlib.file_digest(opened, "sha256")
                hashes[str(file.relative_to(folder))] = content.hexdigest()
    except OSError as error:
        raise TransientError.of(error.filename or folder, error) from error
    return hashes


def _reason(error: BaseException) -> str:
    words = getattr(error, "strerror", None) or str(error)
    full = os.strerror(errno.ENOSPC)
    if full in words:  # orbax puts it at the end of a line of 400 letters on its own files
        return full
    return words.splitlines()[0] if words else type(error).__name__
