"""Train a table's groups as jobs: of a SLURM cluster, through submitit, or of a local pool.

A job needs nothing but the table's folder, which all nodes share: `groups/ID/group.json` says what
it trains, and its results go where `ablate` puts them. A first job makes the data set and the
features; then a job array trains one group in each task. A task that is killed, preempted or out of
time continues from its last checkpoint. The last task to finish writes the report. `jobs.json`
lists ids and logs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrec.config import digest
from vidrec.errors import UserError
from vidrec.io import files
from vidrec.sweeps import plan, preview, tracking, tuning
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
from vidrec.training.results import is_finished

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
    """Start jobs for the groups of a table that are neither finished nor started.

    Jobs of SLURM continue after this returns (see `status`); those of a local pool have ended.

    Args:
        ablation: The table.
        workdir: The folder that contains the table's folder.
        options: What the jobs request.
        overrides: Dotted settings for every trial.
        on: "motion" runs the table on the embedded data.
        retry: "failed" trains failed and diverged trials again.
        tell: Called with messages, line by line.

    Returns:
        The table's folder.

    Raises:
        UserError: Jobs cannot be started here, or the cluster refuses them.
        Interrupted: A local pool was asked to stop; its jobs have saved their state.
    """
    options, workdir = options or Options(), Path(workdir).absolute()
    tracking.check(options.track)
    for line in engine(options.engine).check(options, workdir):
        tell(line)
    if ablation.tune:
        candidates = tuning.candidates(ablation)
        how: dict[str, Any] = {"overrides": overrides, "on": on}
        folder = launch(candidates, workdir, options, **how, retry=retry, tell=tell)
        trials = plan.plan_table(candidates, workdir, **how).trials
        if not is_finished(trials):
            tell("once these have ended, the same command trains the table at the best values")
            return folder
        tried = [{**files.read_result(trial.folder), **trial.about} for trial in trials]
        ablation = tuning.chosen(ablation, tried, [trial.config.train.monitor for trial in trials])
    table = plan.plan_table(ablation, workdir, overrides=overrides, on=on)
    folder = table.folder
    alive = _alive(folder)
    used = folders.read_jobs(folder).engine
    if alive and used != options.engine:
        raise UserError(f"{folder} has jobs of {used} that run ({_ids(alive)}): cancel them first")
    if alive and retry:
        raise UserError(f"{folder} has jobs that run ({_ids(alive)}): cancel them first")
    if retry:
        table = plan.plan_table(ablation, workdir, overrides=overrides, on=on, retry=retry)
    started = {handle.group for handle in alive}
    groups = [group.name for group in plan.hold_groups(table) if group.name not in started]
    if alive:
        tell(f"{len(alive)} jobs are there already: {_ids(alive)}")
    if groups:
        submit(folder, groups, options, tell)
    finish(folder, options.track)
    return folder


def submit(
    folder: Path, groups: Sequence[str], options: Options, tell: Tell = lambda line: None
) -> list[Handle]:
    """Start one job for the data and one for each group; jobs.json lists them.

    Args:
        folder: The table's folder.
        groups: Names of groups whose group.json is written.
        options: What the jobs request.
        tell: Called with messages, line by line.
    """

    def note(handles: Sequence[Handle]) -> None:
        folders.write_jobs(folder, options.engine, handles)
        what = "the data" if handles[0].group == DATA else f"{len(handles)} of the groups"
        tell(f"job {_ids(handles)}: {what}, log {handles[0].log}")

    return engine(options.engine).submit(folder, groups, options, note)


def status(folder: str | Path) -> dict[str, Any]:
    """Return the state of a table from its files and its jobs; write the report if it is finished.

    Returns:
        {"dir", "finished", "trials", "report", "note", "data", "groups": [{"group", "trials",
        "finished", "failed", "alive", "epoch", "epochs", "best", "job", "state", "log", "why"}]}. A
        state is "done", "running", "stopped", "not started", or the job's SLURM state in lower
        case. A "stopped" group has a checkpoint; the command that trained it continues it. The
        state "lost" means that the queue does not know the job any more and that there is no
        result. The state "unknown" means that the queue could not be queried; "note" says why.

    Raises:
        UserError: The folder holds no table.
    """
    folder = Path(folder).absolute()
    table = folders.groups(folder)
    finish(folder)
    used, handles = folders.read_jobs(folder)
    note, states = "", {}
    try:
        states = engine(used).states(handles) if handles else {}
    except UserError as error:  # the state is then read from the files alone
        note, states = str(error), {handle.job: "unknown" for handle in handles}
    jobs = {handle.group: folders.job_line(handle, states) for handle in handles}
    groups = [
        folders.group_line(folder, name, ids, jobs.get(name, {})) for name, ids in table.items()
    ]
    trials, finished = sum(map(len, table.values())), sum(group["finished"] for group in groups)
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
    """Cancel the jobs of a table that have not ended, and return their ids."""
    folder = Path(folder).absolute()
    folders.trials(folder)  # refuses a folder without a table
    alive = _alive(folder)
    if alive:
        engine(folders.read_jobs(folder).engine).cancel(alive)
    return [handle.job for handle in alive]


def dry_run(
    ablation: Ablation,
    workdir: str | Path = "runs",
    options: Options | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    on: str = "",
) -> list[str]:
    """Return the sbatch scripts of the data job and the job array; write nothing.

    Args:
        ablation: The table.
        workdir: The folder that would contain the table's folder.
        options: What the jobs would request.
        overrides: Dotted settings for every trial.
        on: "motion" runs the table on the embedded data.
    """
    trials = preview.dry_run(ablation, overrides, on)
    name = f"{ablation.name}-{digest([trial['id'] for trial in trials])}"
    count = len({trial["group"] for trial in trials})
    return Slurm().scripts(Path(workdir).absolute() / name, count, options or Options())


def engine(name: str) -> Engine:
    """Return the engine of this name.

    Raises:
        UserError: There is no such engine.
    """
    if name not in ENGINES:
        raise UserError(f"engine = {name!r} should be one of {', '.join(ENGINES)}")
    return ENGINES[name]()


def _alive(folder: Path) -> list[Handle]:
    """Return the jobs that have not ended."""
    used, handles = folders.read_jobs(folder)
    states = engine(used).states(handles) if handles else {}
    return [handle for handle in handles if folders.is_alive(states.get(handle.job, ""))]


def _ids(handles: Sequence[Handle]) -> str:
    """Return the ids in one line; of more than three, only the first and the last."""
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
