"""Read the state of a table's groups and their jobs from its folder."""

import contextlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from vidrec.errors import UserError
from vidrec.evaluation import tasks
from vidrec.io import files, runs
from vidrec.sweeps.cluster.options import Handle
from vidrec.training.results import METRICS, write_json

DONE = "the job is done"  # the last line in the log of a job that succeeded
TAIL = 8192  # bytes that are read from the end of a log
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
    """Return the trials of ablation.json.

    Raises:
        UserError: The folder holds no table.
    """
    try:
        return files.read_json(folder / "ablation.json", files.TABLE_HOLDS)["trials"]
    except files.Missing:
        raise UserError(f"{folder} holds no table: {folder / 'ablation.json'} is missing") from None


def groups(folder: Path) -> dict[str, list[str]]:
    """Return the ids of the trials of each group."""
    ids: dict[str, list[str]] = {}
    for trial in trials(folder):
        ids.setdefault(trial.get("group", ""), []).append(trial["id"])
    return ids


def results(folder: Path, ids: Sequence[str]) -> list[Path]:
    """Return the result.json files of the trials that have finished."""
    paths = [folder / "trials" / trial / "result.json" for trial in ids]
    return [file for file in paths if file.exists()]


def new_logs(folder: Path) -> Path:
    """Make a folder for the logs of one submission, since a cluster may use job ids again."""
    number = 1
    while (folder / "jobs" / str(number)).exists():
        number += 1
    logs = folder / "jobs" / str(number)
    logs.mkdir(parents=True)
    return logs


class Jobs(NamedTuple):
    """The jobs of a table.

    Attributes:
        engine: The name of the engine that started the jobs; "" if there are no jobs.
        handles: The latest job of each group.
    """

    engine: str
    handles: list[Handle]


def read_jobs(folder: Path) -> Jobs:
    """Return the jobs of jobs.json."""
    try:
        content = files.read_json(folder / "jobs.json", files.JOBS_HOLDS)
    except files.Missing:
        return Jobs("", [])
    # Log paths are relative to the table's folder, which may have been moved.
    handles = [
        Handle(job["group"], job["job"], str(folder / job["log"]) if job["log"] else "")
        for job in content["jobs"]
    ]
    return Jobs(content["engine"], handles)


def write_jobs(folder: Path, engine: str, handles: Sequence[Handle]) -> None:
    """Add jobs to jobs.json; they replace earlier jobs of their groups and of other engines."""
    used, before = read_jobs(folder)
    latest = {handle.group: handle for handle in [*(before if used == engine else []), *handles]}
    inside = [
        replace(handle, log=os.path.relpath(handle.log, folder))
        if Path(handle.log).is_relative_to(folder)
        else handle
        for handle in latest.values()
    ]
    content = {"engine": engine, "jobs": [asdict(handle) for handle in inside]}
    write_json(folder / "jobs.json", content)


def is_alive(state: str) -> bool:
    """Return whether a job waits, runs or is ending; `state` may end in "(reason)"."""
    return state.split(" ")[0].upper() in ALIVE


def job_line(handle: Handle, states: Mapping[str, str]) -> dict[str, Any]:
    """Return what `status` shows for a job: its state, and the reason if it failed."""
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
    """Return the last line that a job wrote to its log, or else the scheduler's last line."""
    try:
        # O_NONBLOCK: a pipe is opened without waiting for its other end.
        with os.fdopen(os.open(log, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return f"{log} is no file"
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read(TAIL).decode(errors="replace").splitlines()
    except (OSError, ValueError):  # a name with a zero byte is a ValueError
        return ""
    written = [line.strip() for line in lines if line.strip() and not line.startswith("srun: ")]
    own = [line for line in written if not line.startswith(("submitit ", "INFO:submitit:"))]
    return (own or written or ["its log is empty"])[-1]


def group_line(
    folder: Path, name: str, ids: Sequence[str], job: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what `status` shows for a group.

    Args:
        folder: The table's folder.
        name: The group's name.
        ids: The ids of the group's trials.
        job: The group's job as `job_line` describes it; empty if there is no job.
    """
    finished = [files.read_result(file.parent) for file in results(folder, ids)]
    shown = {"job": None, "state": "not started", "log": None, "why": ""} | dict(job)
    group = folder / "groups" / name
    progress = _progress(group)
    if len(finished) == len(ids):
        shown |= {"state": "done", "why": ""}
    elif not job and any(map(runs.is_claimed, group.parent.glob(f"{name}*"))):
        shown["state"] = "running"  # a command trains or compiles it here
    elif not job and progress["epoch"]:
        shown["state"] = "stopped"  # the same command continues it
    if group.exists() and not shown["why"]:
        _, broken = files.sound_lines(group / METRICS, files.LINE_HOLDS, whole=False)
        shown["why"] = next(iter(broken), "")
    return {
        "group": name,
        "trials": len(ids),
        "finished": len(finished),
        "failed": sum(result["status"] in ("failed", "diverged") for result in finished),
        **progress,
        **shown,
    }


def _progress(group: Path) -> dict[str, Any]:
    """Return the epoch, the number of trials that still train, and the best validation figure."""
    epochs, watched = None, "val/accuracy"
    with contextlib.suppress(files.Missing, KeyError, TypeError, ValueError):
        members = files.read_json(group / "group.json", files.GROUP_HOLDS)["trials"]
        epochs = max(trial["config"]["train"]["epochs"] for trial in members)
        watched = f"val/{tasks.of_settings(members[0]['config']).headline.figure}"
    # A group that does not fit in memory trains in parts, in folders beside its own.
    parts = [_records(part) for part in (group, *group.parent.glob(f"{group.name}-*"))]
    last = [record for part in parts for record in part if record["epoch"] == part[-1]["epoch"]]
    scores = [record.get(watched) for part in parts for record in part]
    return {
        "epoch": max((record["epoch"] for record in last), default=0),
        "epochs": epochs,
        "alive": sum(record["status"] == "running" for record in last) if last else None,
        "best": max((score for score in scores if score is not None), default=None),
    }


def _records(group: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a group's metrics.jsonl."""
    return files.sound_lines(group / METRICS, files.LINE_HOLDS, whole=False)[0]
