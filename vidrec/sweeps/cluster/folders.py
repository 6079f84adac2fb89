"""What a table's folder tells of its groups and of their jobs."""

import contextlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from vidrec.errors import UserError
from vidrec.io import files
from vidrec.sweeps.cluster.options import Handle
from vidrec.training import loop

DONE = "the job is done"  # the last line of one that did its work
TAIL = 8192  # bytes of a log that are read
UNSHARED = "--workdir should be on a file system that all nodes share"
# States of a job that has a node or will get one: its group must not be started a second time.
ALIVE = (
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "SUSPENDED",
    "STOPPED",
    "SIGNALING",
    "STAGE_OUT",
    "RESIZING",
    "RESV_DEL_HOLD",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "SPECIAL_EXIT",
)


def trials(folder: Path) -> list[dict[str, Any]]:
    """The trials of ablation.json.

    Raises:
        UserError: the folder holds no table.
    """
    try:
        return files.read_json(folder / "ablation.json", files.TABLE_HOLDS)["trials"]
    except files.Missing:
        raise UserError(f"{folder} holds no table: {folder / 'ablation.json'} is missing") from None


def groups(folder: Path) -> dict[str, list[str]]:
    """Ids of the trials of each group."""
    found: dict[str, list[str]] = {}
    for trial in trials(folder):
        found.setdefault(trial.get("group", ""), []).append(trial["id"])
    return found


def results(folder: Path, ids: Sequence[str]) -> list[Path]:
    """The result.json files that are there."""
    found = [folder / "trials" / each / "result.json" for each in ids]
    return [file for file in found if file.exists()]


def new_logs(folder: Path) -> Path:
    """A folder for the logs of one submission: a cluster's ids may start anew."""
    number = 1
    while (folder / "jobs" / str(number)).exists():
        number += 1
    logs = folder / "jobs" / str(number)
    logs.mkdir(parents=True)
    return logs


def read_jobs(folder: Path) -> tuple[str, list[Handle]]:
    """The engine and the latest job of each group; ("", []) where there were none."""
    try:
        content = files.read_json(folder / "jobs.json", files.JOBS_HOLDS)
    except files.Missing:
        return "", []
    names = [each.name for each in fields(Handle)]
    found = [
        Handle(**{name: job[name] for name in names if name in job}) for job in content["jobs"]
    ]
    # Logs lie in the table's folder, wherever that is by now.
    logs = [str(folder / each.log) if each.log else "" for each in found]
    return content["engine"], [
        replace(each, log=log) for each, log in zip(found, logs, strict=True)
    ]


def write_jobs(folder: Path, engine: str, handles: Sequence[Handle]) -> None:
    """Adds jobs, which replace earlier ones of their groups, and all of another engine."""
    used, before = read_jobs(folder)
    known = {each.group: each for each in [*(before if used == engine else []), *handles]}
    inside = [
        replace(each, log=os.path.relpath(each.log, folder))
        if Path(each.log).is_relative_to(folder)
        else each
        for each in known.values()
    ]
    content = {"engine": engine, "jobs": [asdict(each) for each in inside]}
    loop.write_json(folder / "jobs.json", content)


def is_alive(state: str) -> bool:
    """True for a job that waits, runs or is ending; `state` may carry a reason."""
    return state.split(" ")[0].upper() in ALIVE


def job_line(handle: Handle, states: Mapping[str, str]) -> dict[str, Any]:
    """A job in `status`: its state, and why it ended where that is no success."""
    state = states.get(handle.job, "").lower()
    last = last_line(handle.log)
    if not is_alive(state) and last == DONE:
        state = "completed"
    state = state or "lost"
    why = "" if is_alive(state) or state in ("completed", "unknown") else last
    if not why and state in ("failed", "lost", "node_fail"):
        why = f"it left no log: {UNSHARED}"
    return {"job": handle.job, "state": state, "log": handle.log, "why": why}


def last_line(log: str) -> str:
    """What a job said last; what a scheduler says of its end is less than that."""
    try:
        # Opened without waiting for the other end of a pipe.
        with os.fdopen(os.open(log, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return f"{log} is no file"
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read(TAIL).decode(errors="replace").splitlines()
    except (OSError, ValueError):  # a name with a zero byte is a ValueError
        return ""
    said = [line.strip() for line in lines if line.strip() and not line.startswith("srun: ")]
    own = [line for line in said if not line.startswith(("submitit ", "INFO:submitit:"))]
    return (own or said or ["its log is empty"])[-1]


def group_line(
    folder: Path, name: str, ids: Sequence[str], job: Mapping[str, Any]
) -> dict[str, Any]:
    """A group in `status`."""
    found = [files.read_result(file.parent) for file in results(folder, ids)]
    shown = {"job": None, "state": "not started", "log": None, "why": ""} | dict(job)
    if len(found) == len(ids):
        shown |= {"state": "done", "why": ""}
    place = folder / "groups" / name
    if place.exists() and not shown["why"]:
        _, broken = files.sound_lines(place / loop.METRICS, files.LINE_HOLDS, whole=False)
        shown["why"] = next(iter(broken), "")
    return {
        "group": name,
        "trials": len(ids),
        "finished": len(found),
        "failed": sum(result["status"] in ("failed", "diverged") for result in found),
        **_progress(folder / "groups" / name),
        **shown,
    }


def _progress(group: Path) -> dict[str, Any]:
    """Epoch, trials alive, and the best validation accuracy so far."""
    epochs = None
    with contextlib.suppress(files.Missing, KeyError, TypeError, ValueError):
        held = files.read_json(group / "group.json", files.GROUP_HOLDS)["trials"]
        epochs = max(trial["config"]["train"]["epochs"] for trial in held)
    # One that did not fit in memory trains in parts beside it.
    parts = [_records(each) for each in (group, *group.parent.glob(f"{group.name}-*"))]
    last = [each for part in parts for each in part if each["epoch"] == part[-1]["epoch"]]
    scores = [each["val/accuracy"] for part in parts for each in part]
    return {
        "epoch": max((each["epoch"] for each in last), default=0),
        "epochs": epochs,
        "alive": sum(each["status"] == "running" for each in last) if last else None,
        "best": max((score for score in scores if score is not None), default=None),
    }


def _records(group: Path) -> list[dict[str, Any]]:
    """The lines of a group's metrics, as far as they are written."""
    return files.sound_lines(group / loop.METRICS, files.LINE_HOLDS, whole=False)[0]
