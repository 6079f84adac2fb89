"""Find the runs of a workdir by name and their trials by id, even if their folders were renamed.

A run is a folder `NAME-ID8`, or whatever it was renamed to: its files say what it is. A trial lies
in a run's folder or, of a table, in `trials/ID` below it.
"""

import difflib
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrec.errors import UserError, check_spelling, raise_if_transient
from vidrec.io import files

CODE = "code"  # folder of the users' files that a run or a model keeps
LAST_STATE = "last"  # folder of the state that a trial ended with, to continue from

RESULT, TABLE, GROUP, MODEL = "result.json", "ablation.json", "group.json", "model"
SEARCH = "search.json"
# What a run's folder holds beside its trial.
NOT_OF_A_TRIAL = (
    *(RESULT, TABLE, GROUP, "lock", "checkpoints", "evaluations", "data", "samples.npz"),
    *("report.html", "figures", "table.*", "tensorboard", "tracking", "wandb", ".*", "*.partial*"),
)
LONGEST = 240  # bytes of a name: with the ID a folder may have 255
NAME = re.compile(r"[^\s./\\-][^/\\\x00-\x1f\x7f]*")


def check_name(name: str) -> str:
    """Check the name of a run, which is a part of its folder's.

    Raises:
        UserError: it cannot be that.
    """
    if not NAME.fullmatch(name) or len(os.fsencode(name)) > LONGEST:
        raise UserError(
            f"{name!r} cannot name a run: up to {LONGEST} bytes, no slash, and neither a point nor "
            "a dash at the start (--name gives another)"
        )
    return name


def find(given: str | os.PathLike, workdir: Path) -> Path:
    """Find the folder of a run: a path, a name in the workdir, or the only NAME-ID there.

    Raises:
        UserError: there is none, or there are several.
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
            return folder  # the command says what it lacks
    there = {name: folder for folder in _runs(parent) for name in (_plain(folder), folder.name)}
    near = difflib.get_close_matches(path.name, there, 1, 0.5)
    guess = f"; did you mean {there[near[0]]}?" if near else ""
    raise UserError(f"there is no run {given}" + f" in {parent}" * alone + guess)


def named(parent: Path, name: str) -> list[Path]:
    """Return the folders NAME-ID8 in a folder."""
    wanted = re.compile(re.escape(name) + r"-[0-9a-f]{8}")
    return [folder for folder in folders(parent) if wanted.fullmatch(folder.name)]


def place_of_run(workdir: Path, name: str, id_: str) -> Path:
    """Return where a run belongs: NAME-ID8, or the folder that it was renamed to."""
    check_spelling(workdir.absolute(), "the workdir")
    usual = workdir / f"{name}-{id_[:8]}"
    # Any folder may be it: a new name may end like an id, in a date for one.
    for folder in (usual, *folders(workdir)):
        if _members(folder) == ([id_], name):
            return folder
    return usual


def place_of_table(workdir: Path, name: str, code: str, ids: Sequence[str]) -> Path:
    """Return where a table belongs: NAME-CODE, or the folder that it was renamed to."""
    check_spelling(workdir.absolute(), "the workdir")
    usual = workdir / f"{name}-{code}"
    for folder in (usual, *folders(workdir)):
        table = _read(folder / TABLE, files.TABLE_HOLDS)
        if table.get("name") == name and [t["id"] for t in table["trials"]] == list(ids):
            return folder
    return usual


def place_of_search(workdir: Path, name: str, id_: str) -> Path:
    """Return where a search belongs: NAME-ID8, or the folder that it was renamed to."""
    check_spelling(workdir.absolute(), "the workdir")
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
        UserError: it is one; names the folder of the table in which its choice was trained again.
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
    """Return the folders of trials that are trained to their end, by id; without failed ones."""
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
    """Copy a finished trial into another run, as a whole or not at all.

    Args:
        trial: its folder.
        folder: of the copy.
        about: what the result says about the trial's place: its run's name and its row.
        config: its settings, with the places that they name now.

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
    """Return the run that a trial's folder belongs to."""
    return trial.parent.parent if trial.parent.name == "trials" else trial


def folders(parent: Path) -> Iterator[Path]:
    """Yield the folders in a folder, in order of names."""
    try:
        inner = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())
    except OSError as error:
        raise_if_transient(parent, error)
        return
    yield from (parent / name for name in inner)


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
    """Ids and name of a run on its own, finished or not."""
    group = _read(folder / GROUP, files.GROUP_HOLDS)
    if group:
        about = group["trials"][0]["about"] if group["trials"] else {}
        return group["members"], about.get("name", "")
    result = _read(folder / RESULT)
    return ([result.get("id", "")], result.get("name", "")) if result else None


def _is_whole(trial: Path, id_: str) -> bool:
    """Return True for a trained trial of this id, of which nothing is missing or damaged."""
    result = _read(trial / RESULT, files.RESULT_HOLDS)
    if result.get("id") != id_ or result.get("status") not in ("done", "diverged"):
        return False
    from vidrec.io import checkpoint  # brings JAX, which finding a run does not need

    try:
        files.read_arrays(trial / "predictions.npz")
        files.read_lines(trial / "metrics.jsonl")
        files.read_json(trial / "config.json")
        return checkpoint.read_meta(trial / MODEL).get("id") == id_
    except UserError as error:
        raise_if_transient(trial, error)
        return False


def _read(file: Path, keys: Any = ()) -> dict[str, Any]:
    """Read a JSON object; empty if there is none that can be read.

    Raises:
        TransientError: the system refuses to read it now: it may be the run that is looked for.
    """
    try:
        return files.read_json(file, keys)
    except UserError as error:
        raise_if_transient(file, error)
        return {}


def run_folder(path: Path) -> Path:
    """Find the folder of a finished run: `path` itself, or the only `path-ID` there is.

    Raises:
        UserError: no such run, several, or one that did not finish.
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
    """Return whether a process trains in a folder."""
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # never begun, or a file system without locks
        return False
    return False
