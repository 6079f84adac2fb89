"""Save trees of arrays through orbax, whole or not at all.

Orbax writes each tree into a folder of its own. This module adds three rules. A folder gets its
final name only when it is complete. Every file's SHA-256 is written beside, so a flipped byte is
noticed (orbax restores it as a wrong value) and the save before it is used. Shapes and types must
match exactly (orbax casts in silence).
"""

import contextlib
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
    """Save a tree of host arrays and its description as `folder`, replacing what was there.

    Args:
        folder: of the checkpoint.
        tree: of host arrays.
        meta: the description, JSON-able.
        beside: contents of further files, by path in the folder.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there stays.
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
        folder: of the checkpoint.
        like: a tree whose structure, shapes and types it should have; without, it is nested
            dictionaries.

    Raises:
        DamagedCheckpoint: a file is missing or changed.
        TransientError: the system refuses to read it now.
        UserError: the tree is not `like`; the message names the first array that differs.
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
        keep: how many of the latest stay.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = Path(folder), keep
        self._writer = ThreadPoolExecutor(1)
        self._pending: Future | None = None

    def save(self, step: int, tree: Tree, meta: Mapping[str, Any]) -> None:
        """Save a tree of host arrays, which must not change; an earlier failure is raised here."""
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
        """Read the latest whole save; damaged ones are passed over.

        Returns:
            Its number, tree and description; None if there is none.
        """
        for step in sorted(self.steps(), reverse=True):
            try:
                tree, meta = read(self.folder / str(step), like)
                return step, tree, meta
            except DamagedCheckpoint as error:
                log.warning("%s; going back to the save before it", error)
        return None

    def steps(self) -> list[int]:
        """Return the numbers of the saves on disk."""
        if not self.folder.is_dir():
            return []
        return sorted(int(entry.name) for entry in self.folder.iterdir() if entry.name.isdigit())

    def _write(self, step: int, tree: Tree, meta: Mapping[str, Any]) -> None:
        write(self.folder / str(step), tree, meta)
        # Later ones were passed over as damaged; this one is not their elder.
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
    r"""Give a path to a folder for orbax, which takes [ ] for a pattern, and \ for an escape."""
    if re.fullmatch(r"[\w./ +,=@-]*", str(folder), re.ASCII):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="vidrec-") as folder_of_link:
        link = Path(folder_of_link, "link")
        link.symlink_to(folder.parent, target_is_directory=True)
        yield link / folder.name


def _orbax() -> Any:
    """Make what saves and loads in this process; of several, none waits for the others."""
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
    """Orbax warns of what is done on purpose here (arrays without sharding).

    It also logs the traceback of a failure; the error itself is raised, and reported in one line.
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
    """Dicts from keys such as ['params']['dense']; other keys stay as they are."""
    paths = (name.removeprefix("['").removesuffix("']").split("']['") for name in flat)
    return unflatten_dict(dict(zip(map(tuple, paths), flat.values(), strict=True)))


def _checksums(folder: Path) -> dict[str, str]:
    def refuse(error: OSError) -> None:
        raise error

    hashes = {}
    try:
        # Not by `rglob`, which takes a folder that may not be read for an empty one.
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
    return words.splitlines()[0] if words else type(error).__name__
