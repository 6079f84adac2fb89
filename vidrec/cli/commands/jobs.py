"""The commands for a table's jobs on a cluster: `status` shows them, `cancel` ends them."""

from dataclasses import dataclass
from typing import Any

from vidrec.cli.command import Command, Folder

HEADS = ("group", "trials", "epoch", "best", "job", "state", "log", "why")
LESS = [["epoch"], ["job"], ["why"], ["log"]]  # columns left out first on a narrow terminal


@dataclass(frozen=True, kw_only=True)
class Status(Command):
    """Show how far each group of an ablation is; on a cluster also its job and log.

    Example: vidrec status runs/learning_rate-1a2b3c4d
    """

    folder: Folder  # folder of an ablation, or its name

    def run(self, settings: dict[str, Any]) -> int:
        """Show the state of the groups; see `Command.run`."""
        from vidrec.sweeps import cluster

        return show_status(self, cluster.status(self.folder))


@dataclass(frozen=True, kw_only=True)
class Cancel(Command):
    """Cancel an ablation's jobs; the same ablate command continues later.

    Example: vidrec cancel runs/learning_rate-1a2b3c4d
    """

    folder: Folder  # folder of an ablation, or its name

    def run(self, settings: dict[str, Any]) -> int:
        """End the jobs that wait or run; see `Command.run`."""
        from vidrec.sweeps import cluster

        ended = cluster.cancel(self.folder)
        self.answer({"cancelled": ended})
        self.console().tell(f"cancelled: {', '.join(ended) or 'no job was running'}")
        return 0


def show_status(command: Command, status: dict[str, Any]) -> int:
    """Print how many trials of a table are finished, and the state of its jobs.

    Args:
        command: The command that prints, for people or as JSON.
        status: The status of the table, as `cluster.status` returns it.

    Returns:
        Exit status 0.
    """
    from vidrec.report.terminal import Columns

    command.answer(status)
    console = command.console()
    if status["note"]:
        console.tell(status["note"])
    jobs = [status["data"] | {"group": "data"}] if status["data"] else []
    jobs += status["groups"]
    table = Columns(HEADS, map(_cells, jobs), "state", LESS)
    console.print(table)
    columns = table.fitting(console.width)
    for job in jobs:
        hidden = [job[name] for name in ("why", "log") if job[name] and name not in columns]
        if hidden and job["state"] != "done":
            console.tell(f"{job['group']}: {', '.join(hidden)}")
    console.tell(f"{status['finished']} of {status['trials']} trials finished")
    console.tell(status["report"] or status["dir"])
    return 0


def _cells(job: dict[str, Any]) -> list[str]:
    """Return the cells of a group's job, or of the job that makes the data."""
    cells = {name: job[name] or "" for name in ("group", "job", "state", "log", "why")}
    if "trials" in job:
        cells["trials"] = f"{job['finished']} of {job['trials']}"
        cells["epoch"] = f"{job['epoch']} of {job['epochs']}" if job["epochs"] else ""
        cells["best"] = "" if job["best"] is None else f"{job['best']:.3f}"
    return [cells.get(name, "") for name in HEADS]
