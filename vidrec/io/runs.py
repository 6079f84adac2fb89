"""Find the runs of a workdir by name and their trials by id, even if their folders were renamed.

A run is a folder `NAME-ID8`. It may be renamed, since its files say which run it is. The trial of a
single run is in the run's folder; the trials of a table are in `trials/ID` in the table's folder.
"""

import difflib
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrec.errors import UserError, check_printable, raise_if_transient
from vidrec.io import files

CODE = "code"  # folder in which a run or a model keeps copies of the user's code files
LAST_STATE = "last"  # folder of a trial's final training state, from which training can continue

RESULT, TABLE, GROUP, MODEL = "result.json", "ablation.json", "group.json", "model"
SEARCH = "search.json"
# Patterns of the files in a run's folder that `adopt` does not copy with a trial.
NOT_OF_A_TRIAL = (
    *(RESULT, TABLE, GROUP, "lock", "checkpoints", "evaluations", "data", "samples.npz"),
    *("report.html", "figures", "table.*", "tensorboard", "tracking", "wandb", ".*", "*.partial*"),
)
LONGEST = 240  # bytes of a run's name; with the ID, a folder's name may have 255
NAME = re.compile(r"[^\s./\\-][^/\\\x00-\x1f\x7f]*")


def check_name(name: str) -> str:
    """Check and return the name of a run, which becomes part of its folder's name.

    Raises:
        UserError: the name is too long, or has characters that a run's name cannot have.
    """
    if not NAME.fullmatch(name) or len(os.fsencode(name)) > LONGEST:
        raise UserError(
            f"{name!r} cannot name a run: up to {LONGEST} bytes, no slash, and neither a point nor "
            "a dash at the start (--name gives another)"
        )
    return name


def find(given: str | os.PathLike, workdir: Path) -> Path:
    """Find a run's folder by its path, its name in the workdir, or its name without the ID.

    Raises:
        UserError: there is no such run, or there are several.
    """
    path = Path(os.path.expanduser(given))
    if _is_run(path):
        return path
    alone = len(path.parts) == 1
    parent = files.expanded(workdir) if alone else path.parent
    if _is_run(parent / path.name):
        return parent / path.name
    matches = [folder for folder in named(parent, path.name) if _is_run(folder)]
    matches = matches or [folder for folder in _runs(parent) if _name(folder) == path.name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"{given} may be {' or '.join(map(str, matches))}: say which")
    for folder in (path, parent / path.name):
        if os.path.exists(folder):  # False for a name that no file can have
            return folder  # the command reports what the folder lacks
    check_listed(parent)
    there = {name: folder for folder in _runs(parent) for name in (_plain(folder), folder.name)}
    near = difflib.get_close_matches(path.name, there, 1, 0.5)
    guess = f"; did you mean {there[near[0]]}?" if near else ""
    raise UserError(f"there is no run {given}" + f" in {parent}" * alone + guess)


def named(parent: Path, name: str) -> list[Path]:
    """Return the folders in `parent` that are called NAME-ID8."""
    wanted = re.compile(re.escape(name) + r"-[0-9a-f]{8}")
    return [folder for folder in folders(parent) if wanted.fullmatch(folder.name)]


def place_of_run(workdir: Path, name: str, id_: str) -> Path:
    """Return the folder of a run, even if it was renamed; NAME-ID8 if there is none yet."""
    check_printable(workdir.absolute(), "the workdir")
    usual = workdir / f"{name}-{id_[:8]}"
    # All folders are checked: a new name may also end like an id, for example in a date.
    for folder in (usual, *folders(workdir)):
        if _members(folder) == ([id_], name):
            return folder
    return usual


def place_of_table(workdir: Path, name: str, code: str, ids: Sequence[str]) -> Path:
    """Return the folder of a table, even if it was renamed; NAME-CODE if there is none yet."""
    check_printable(workdir.absolute(), "the workdir")
    usual = workdir / f"{name}-{code}"
    for folder in (usual, *folders(workdir)):
        table = _read(folder / TABLE, files.TABLE_HOLDS)
        if table.get("name") == name and [t["id"] for t in table["trials"]] == list(ids):
            return folder
    return usual


def place_of_search(workdir: Path, name: str, id_: str) -> Path:
    """Return the folder of a search, even if it was renamed; NAME-ID8 if there is none yet."""
    check_printable(workdir.absolute(), "the workdir")
    usual = workdir / f"{name}-{id_[:8]}"
    for folder in (usual, *folders(workdir)):
        search = _read(folder / SEARCH, files.SEARCH_HOLDS)
        if (search.get("name"), search.get("id")) == (name, id_):
            return folder
    return usual


def is_search(folder: Path) -> bool:
    """Return whether a folder holds a search."""
    return (folder / SEARCH).is_file()


def refuse_search(folder: Path) -> None:
    """Refuse the folder of a search, which holds no trained model.

    Raises:
        UserError: the folder is a search. The message names the folder of the table in which the
            chosen setting was trained again, if there is one.
    """
    search = _read(folder / SEARCH, files.SEARCH_HOLDS)
    if not search:
        return
    chosen = search["more"].get("chosen")
    if chosen is None:
        raise UserError(
            f"{folder} is a search, and it has not chosen a setting yet: the same search command "
            f"goes on, and trains its choice in a folder {search['name']}-chosen-ID"
        )
    raise UserError(
        f"{folder} is a search, and its choice was trained again: name that folder: "
        f"{folder.parent / chosen['table']}"
    )


def finished(workdir: Path, ids: Iterable[str]) -> dict[str, Path]:
    """Return the folders of trained trials by id; failed and damaged trials are left out."""
    wanted = set(ids)
    by_id: dict[str, Path] = {}
    for folder in folders(workdir) if wanted else ():
        candidates = {id_: folder / "trials" / id_ for id_ in wanted - by_id.keys()}
        if (folder / RESULT).is_file():
            candidates[str(_read(folder / RESULT).get("id"))] = folder
        for id_, trial in candidates.items():
            if id_ in wanted and _is_whole(trial, id_):
                by_id.setdefault(id_, trial)
    return by_id


def adopt(trial: Path, folder: Path, about: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Copy a finished trial into another run, completely or not at all.

    Args:
        trial: the folder of the trial.
        folder: the folder of the copy.
        about: entries of the copied result.json that depend on its run, such as name and row.
        config: the settings of the copied trial, with the paths as they are now.

    Raises:
        UserError: the folder cannot be written.
    """
    result = files.read_result(trial)
    of_a_place = ("name", "row", "row_name", "overrides", "published", "doubtful", "group")
    facts = {name: value for name, value in result.items() if name not in of_a_place}
    left_out = shutil.ignore_patterns(*NOT_OF_A_TRIAL)
    try:
        with files.writing_folder(folder) as whole:
            shutil.copytree(trial, whole, dirs_exist_ok=True, ignore=left_out)
            files.write_json(whole / "config.json", config)
            files.write_json(whole / RESULT, {**facts, **about, "dir": str(folder.absolute())})
    except shutil.Error as error:
        raise UserError(f"cannot copy {trial} to {folder}: {error.args[0][0][2]}") from error


def top_of(trial: Path) -> Path:
    """Return the folder of the run or table that a trial's folder belongs to."""
    return trial.parent.parent if trial.parent.name == "trials" else trial


def folders(parent: Path) -> Iterator[Path]:
    """Yield the folders in a folder, sorted by name; none without permission to list it."""
    try:
        inner = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())
    except OSError as error:
        raise_if_transient(parent, error)
        return
    yield from (parent / name for name in inner)


def check_listed(parent: Path) -> None:
    """Refuse a folder that may not be listed, where runs would seem to be missing.

    Raises:
        UserError: there is no permission to list it.
    """
    try:
        os.scandir(parent).close()
    except PermissionError as error:
        raise UserError(f"{parent} cannot be listed: {error.strerror}") from None
    except OSError:  # such as a missing folder, of which the caller tells
        return


def _plain(folder: Path) -> str:
    """Return the name of a run's folder without its ID."""
    return folder.name.removesuffix(f"-{_id_of(folder)}")


def _id_of(folder: Path) -> str:
    """Return the ID8 at the end of a folder's name; "" where it has none."""
    match = re.search(r"-([0-9a-f]{8})$", folder.name)
    return match[1] if match else ""


def _runs(parent: Path) -> list[Path]:
    return [folder for folder in folders(parent) if _is_run(folder)]


def _is_run(folder: Path) -> bool:
    return any(os.path.exists(folder / name) for name in (RESULT, TABLE, MODEL, SEARCH))


def _name(folder: Path) -> str | None:
    """Return the name that a run was given, whatever its folder is called."""
    for file in (TABLE, RESULT, SEARCH):
        if name := _read(folder / file).get("name"):
            return name
    return None


def _members(folder: Path) -> tuple[list[str], str] | None:
    """Return a single run's trial ids and name, finished or not; None for any other folder."""
    group = _read(folder / GROUP, files.GROUP_HOLDS)
    if group:
        about = group["trials"][0]["about"] if group["trials"] else {}
        return group["members"], about.get("name", "")
    result = _read(folder / RESULT)
    return ([result.get("id", "")], result.get("name", "")) if result else None


def _is_whole(trial: Path, id_: str) -> bool:
    """Return True if a folder holds the trained trial of this id and no file is damaged."""
    result = _read(trial / RESULT, files.RESULT_HOLDS)
    if result.get("id") != id_ or result.get("status") not in ("done", "diverged"):
        return False
    from vidrec.io import checkpoint  # imports JAX, which finding a run does not need

    try:
        files.read_arrays(trial / "predictions.npz")
        files.read_lines(trial / "metrics.jsonl")
        files.read_json(trial / "config.json")
        return checkpoint.read_meta(trial / MODEL).get("id") == id_
    except UserError as error:
        raise_if_transient(trial, error)
        return False


def _read(file: Path, keys: Any = ()) -> dict[str, Any]:
    """Read a JSON object; return an empty one if the file is missing or damaged.

    Raises:
        TransientError: the system refuses to read the file now. It may be a file of the wanted run.
    """
    try:
        return files.read_json(file, keys)
    except UserError as error:
        raise_if_transient(file, error)
        return {}


def run_folder(path: Path) -> Path:
    """Find the folder of a finished run: `path` itself, or the only folder `path-ID`.

    Raises:
        UserError: there is no such run, there are several, or the run did not finish.
    """
    named = re.compile(re.escape(path.name) + r"-[0-9a-f]+")
    beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    alike = [folder for folder in beside if named.fullmatch(folder.name)]
    folders = [path] if path.is_dir() else alike
    done = [folder for folder in folders if (folder / "result.json").is_file()]
    if len(done) > 1:
        raise UserError(f"{path} may be {' or '.join(map(str, done))}: say which")
    if done:
        return done[0]
    if not folders:
        raise UserError(f"there is no file and no run {path}")
    refuse_search(folders[0])
    whole = (folders[0] / "ablation.json").is_file()
    raise UserError(
        f"{folders[0]} is an ablation: name one of its trials, {folders[0]}/trials/ID"
        if whole
        else f"{folders[0]} is no finished run (result.json is missing): train it to its end first"
    )


def is_claimed(folder: Path) -> bool:
    """Return whether a process is training in a folder."""
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # training never began, or a file system without locks
        return False
    return False
