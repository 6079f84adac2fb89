"""A table's groups as jobs: on a SLURM cluster through submitit, or on this machine's devices.

A job needs nothing but the table's folder, which all nodes share: what it trains stands in
`groups/ID/group.json`, what it gave goes where `ablate` puts it. One first job makes data set and
features, one array trains a group in each task. Killed, preempted or out of time, a task goes on
from its last save; the last one to finish writes the report. Ids and logs are kept in `jobs.json`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrec.config import digest
from vidrec.errors import UserError
from vidrec.sweeps import runner
from vidrec.sweeps.ablation import Ablation
from vidrec.sweeps.cluster import folders
from vidrec.sweeps.cluster.job import finish
from vidrec.sweeps.cluster.options import (
    DATA,
    Engine,
    Handle,
    Options,
    Tell,
    parse_sbatch,
    read_options,
)
from vidrec.sweeps.cluster.pool import Inline, Pool
from vidrec.sweeps.cluster.slurm import Slurm

ENGINES: dict[str, type[Engine]] = {"slurm": Slurm, "pool": Pool, "debug": Inline}


def launch(
    ablation: Ablation,
    workdir: str | Path = "runs",
    options: Options | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    on: str = "",
    retry: str = "",
    tell: Tell = lambda line: None,
) -> Path:
    """Starts jobs for the groups of a table that are neither finished nor started; its folder.

    SLURM's jobs go on after this returns (see `status`); a local pool's have ended.

    Raises:
        UserError: jobs cannot be started here, or the cluster refuses them.
        train.Interrupted: a local pool was asked to stop; what it trained is saved.
    """
    options = options or Options()
    for line in engine(options.engine).check(options, Path(workdir).absolute()):
        tell(line)
    folder, members = runner.plan(ablation, Path(workdir).absolute(), overrides=overrides, on=on)
    busy = _busy(folder)
    used = folders.read_jobs(folder)[0]
    if busy and used != options.engine:
        raise UserError(f"{folder} has jobs of {used} that run ({_ids(busy)}): cancel them first")
    if retry:
        if busy:
            raise UserError(f"{folder} has jobs that run ({_ids(busy)}): cancel them first")
        folder, members = runner.plan(
            ablation, Path(workdir).absolute(), overrides=overrides, on=on, retry=retry
        )
    started = {handle.group for handle in busy}
    todo = [name for name in runner.hold_groups(folder, members) if name not in started]
    if busy:
        tell(f"{len(busy)} jobs are there already: {_ids(busy)}")
    if todo:
        submit(folder, todo, options, tell)
    finish(folder)
    return folder


def submit(
    folder: Path, groups: Sequence[str], options: Options, tell: Tell = lambda line: None
) -> list[Handle]:
    """Starts one job for the data of held groups and one for each group; noted in jobs.json."""

    def note(handles: Sequence[Handle]) -> None:
        folders.write_jobs(folder, options.engine, handles)
        what = "the data" if handles[0].group == DATA else f"{len(handles)} of the groups"
        tell(f"job {_ids(handles)}: {what}, log {handles[0].log}")

    return engine(options.engine).submit(folder, groups, options, note)


def status(folder: str | Path) -> dict[str, Any]:
    """How a table fills, from its files and its jobs; writes the report of a full one.

    Returns:
        {"dir", "finished", "trials", "report", "note", "data", "groups": [{"group", "trials",
        "finished", "failed", "alive", "epoch", "epochs", "best", "job", "state", "log", "why"}]}.
        A state is "done", "not started", or the job's in SLURM's words, lower case; "lost": the
        queue has forgotten it and there is no result. "note": why the queue could not be asked.

    Raises:
        UserError: the folder holds no table.
    """
    folder = Path(folder).absolute()
    table = folders.groups(folder)
    finish(folder)
    used, handles = folders.read_jobs(folder)
    note, states = "", {}
    try:
        states = engine(used).states(handles) if handles else {}
    except UserError as error:  # the files tell what they can
        note, states = str(error), {handle.job: "unknown" for handle in handles}
    jobs = {handle.group: folders.job_line(handle, states) for handle in handles}
    groups = [
        folders.group_line(folder, name, ids, jobs.get(name, {})) for name, ids in table.items()
    ]
    trials, finished = sum(map(len, table.values())), sum(each["finished"] for each in groups)
    report = folder / "report.html"
    return {
        "dir": str(folder),
        "finished": finished,
        "trials": trials,
        "report": str(report) if finished == trials and report.exists() else None,
        "note": note,
        "data": jobs.get(DATA),
        "groups": groups,
    }


def cancel(folder: str | Path) -> list[str]:
    """Ends a table's own jobs that are waiting or running; their ids."""
    folder = Path(folder).absolute()
    folders.trials(folder)
    busy = _busy(folder)
    if busy:
        engine(folders.read_jobs(folder)[0]).cancel(busy)
    return [handle.job for handle in busy]


def dry_run(
    ablation: Ablation,
    workdir: str | Path = "runs",
    options: Options | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    on: str = "",
) -> list[str]:
    """The scripts that sbatch would get: the data's, then the array's. Writes nothing."""
    trials = runner.dry_run(ablation, overrides, on)
    name = f"{ablation.name}-{digest([trial['id'] for trial in trials])}"
    count = len({trial["group"] for trial in trials})
    return Slurm().scripts(Path(workdir).absolute() / name, count, options or Options())


def engine(name: str) -> Engine:
    """The engine of this name.

    Raises:
        UserError: there is none.
    """
    if name not in ENGINES:
        raise UserError(f"engine = {name!r} should be one of {', '.join(ENGINES)}")
    return ENGINES[name]()


def _busy(folder: Path) -> list[Handle]:
    """Jobs that wait or run."""
    used, handles = folders.read_jobs(folder)
    states = engine(used).states(handles) if handles else {}
    return [each for each in handles if folders.is_alive(states.get(each.job, ""))]


def _ids(handles: Sequence[Handle]) -> str:
    """Few words for many jobs."""
    ids = [handle.job for handle in handles]
    return ", ".join(ids) if len(ids) < 4 else f"{ids[0]} … {ids[-1]}"


__all__ = [
    "ENGINES",
    "Handle",
    "Options",
    "cancel",
    "dry_run",
    "engine",
    "launch",
    "parse_sbatch",
    "read_options",
    "status",
    "submit",
]
