"""Start jobs of a SLURM cluster through submitit, and watch them through squeue and sacct."""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vidrec
from vidrec.config import plugins
from vidrec.errors import UserError
from vidrec.io import escape
from vidrec.io.machine import cache_dir
from vidrec.sweeps import tracking
from vidrec.sweeps.cluster import folders
from vidrec.sweeps.cluster.job import Job, submitit
from vidrec.sweeps.cluster.options import DATA, Handle, Note, Options

WARNING_SECONDS = 120  # SLURM sends SIGUSR2 this long before the time limit


class Slurm:
    """Jobs of a SLURM cluster, started through submitit, watched through squeue and sacct."""

    def check(self, options: Options, workdir: Path = Path()) -> list[str]:
        """Refuse a machine without SLURM or submitit; see `Engine.check`."""
        _check_path(workdir)
        submitit()
        for program in ("sbatch", "squeue", "scancel"):
            if not shutil.which(program):
                raise UserError(
                    f"--launcher slurm needs {program}, which is not on this machine's PATH: "
                    "run the command on a login node of the cluster"
                )
        notes = [] if options.gpus else ["the jobs ask for no GPU (--gpus 1 would)"]
        if _sacct([]) is None:
            notes.append(
                "sacct does not answer: 'status' shows a killed job as lost once the queue has "
                "forgotten it"
            )
        return notes

    def submit(
        self, folder: Path, groups: Sequence[str], options: Options, note: Note
    ) -> list[Handle]:
        """Submit the data job and a job array that waits for it; see `Engine.submit`."""
        _check_path(folder)
        logs = folders.new_logs(folder)
        handles = self._start(folder, [DATA], logs, self._data(folder, options), options)
        note(handles)
        try:
            parameters = self._array(folder, options, handles[0].job)
            array = self._start(folder, groups, logs, parameters, options)
        except UserError:
            self.cancel(handles)
            raise
        note(array)
        return handles + array

    def scripts(self, folder: Path, count: int, options: Options) -> list[str]:
        """Return the scripts that sbatch gets for the data and for the groups."""
        _check_path(folder)
        make = submitit().slurm.slurm._make_sbatch_string
        jobs = folder / "jobs"
        command = escape.shell([sys.executable, "-u", "-m", "submitit.core._submit", jobs])
        data = self._data(folder, options)
        array = self._array(folder, options, "DATA_JOB")
        if count > 1:
            array["map_count"] = count
        return [make(command=command, folder=jobs, **asked) for asked in (data, array)]

    def states(self, handles: Sequence[Handle]) -> dict[str, str]:
        """Query squeue, and sacct for jobs that squeue does not list; see `Engine.states`."""
        ids = _checked([handle.job for handle in handles])
        queued = _squeue(ids)
        forgotten = [job for job in ids if job not in queued]
        return queued | (_sacct(forgotten) or {})

    def cancel(self, handles: Sequence[Handle]) -> None:
        """End the jobs with scancel; see `Engine.cancel`."""
        _output_of(["scancel", *_checked([handle.job for handle in handles])])

    def _start(
        self,
        folder: Path,
        groups: Sequence[str],
        logs: Path,
        parameters: Mapping[str, Any],
        options: Options,
    ) -> list[Handle]:
        library = submitit()
        try:
            # submitit repeats the message of sbatch, which is reported here in one line.
            with contextlib.redirect_stderr(io.StringIO()):
                executor = library.SlurmExecutor(folder=logs, max_num_timeout=10**6)
                executor.update_parameters(**parameters)
                with executor.batch():
                    jobs = [executor.submit(Job(str(folder), name)) for name in groups]
        except (RuntimeError, OSError) as error:
            raise _refused(str(error), options) from None
        return [
            Handle(name, job.job_id, str(job.paths.stdout))
            for name, job in zip(groups, jobs, strict=True)
        ]

    def _data(self, folder: Path, options: Options) -> dict[str, Any]:
        return self._parameters(f"{folder.name}-data", options)

    def _array(self, folder: Path, options: Options, after: str) -> dict[str, Any]:
        parameters = self._parameters(folder.name, options)
        # An array that waits for a failed job would otherwise wait without end.
        parameters["additional_parameters"] |= {
            "dependency": f"afterok:{after}",
            "kill_on_invalid_dep": "yes",
        }
        return parameters

    def _parameters(self, name: str, options: Options) -> dict[str, Any]:
        asked = {
            "partition": options.partition,
            "gpus_per_node": options.gpus,
            "cpus_per_task": options.cpus,
            "mem": options.mem,
        }
        more = {key.replace("-", "_"): value for key, value in options.sbatch.items()}
        home = Path(vidrec.__file__).parent.parent
        return {
            "job_name": name,
            "time": options.minutes,
            "signal_delay_s": min(WARNING_SECONDS, 60 * options.minutes // 2),
            "stderr_to_stdout": True,
            "wckey": None,
            "setup": [
                f"export VIDREC_CACHE={shlex.quote(str(cache_dir().absolute()))}",
                # Jobs start in an unknown folder, so they need the path of an uninstalled checkout.
                f"export PYTHONPATH={shlex.quote(str(home))}${{PYTHONPATH:+:$PYTHONPATH}}",
                "export PYTHONSAFEPATH=1",  # do not import modules from the current folder
                *(f"export {name}={hashes}" for name, hashes in plugins.consent().items()),
                *(
                    f"export {name}={shlex.quote(value)}"
                    for name, value in tracking.environment(options.track).items()
                ),
                *options.setup,
            ],
            "additional_parameters": {
                "requeue": True,
                **{key: value for key, value in asked.items() if value},
                **more,
            },
        }


def _check_path(folder: Path) -> None:
    """Refuse a path that SLURM would change in the names of logs, or that breaks a job's script."""
    text = str(folder)
    if "%" in text or escape.visible(text) != text:
        raise UserError(
            f"--workdir {escape.terminal(text)}: for SLURM its path should have no % (it puts "
            "numbers of jobs there), no line break and no control character"
        )


def _checked(ids: Sequence[str]) -> list[str]:
    """Return the ids if all have SLURM's form; others could be read as options of its programs."""
    for job in ids:
        if not re.fullmatch(r"\d+(_\d+)?", job):
            raise UserError(f"jobs.json: {escape.terminal(job)!r} is no job of SLURM")
    return list(ids)


def _refused(said: str, options: Options) -> UserError:
    """Return sbatch's message as an error of one line; list the partitions if one is refused."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in said.splitlines()]
    line = next((line.strip() for line in lines if line.strip()), "no reason given")
    if "partition" in said and options.partition:
        there = " ".join(_output_of(["sinfo", "-h", "-o", "%R"]).split())
        return UserError(f"--partition {options.partition}: {line}; there are {there or 'none'}")
    return UserError(f"sbatch refused the job: {line}")


def _squeue(ids: Sequence[str]) -> dict[str, str]:
    """Return the states of the jobs that squeue still lists.

    Raises:
        UserError: squeue does not answer, so the state of the jobs is unknown.
    """
    if not shutil.which("squeue"):
        raise UserError("squeue is not on this machine's PATH: the state of the jobs is unknown")
    wanted = ",".join(dict.fromkeys(job.partition("_")[0] for job in ids))
    command = ["squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%r", "-j", wanted]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode and "Invalid job id" not in ran.stderr:
        raise UserError(f"squeue does not answer: {(ran.stderr.splitlines() or ['no reason'])[0]}")
    states = {}
    for line in ran.stdout.splitlines():
        job, state, reason = line.split("|", 2)
        waits = state == "PENDING" and reason not in ("None", "")
        states[job] = f"{state} ({reason})" if waits else state
    return states


def _sacct(ids: Sequence[str]) -> dict[str, str] | None:
    """Return the states of ended jobs; None if sacct does not answer."""
    if not shutil.which("sacct"):
        return None
    command = ["sacct", "-n", "-X", "-P", "-o", "JobID,State", "-j", ",".join(ids) or "1"]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        return None
    lines = [line.split("|", 1) for line in ran.stdout.splitlines() if "|" in line]
    return {job: state.split()[0] for job, state in lines if job in ids and state}


def _output_of(command: Sequence[str]) -> str:
    """Return the output of a SLURM program; if it fails, raise an error of one line."""
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise UserError(f"{command[0]}: {(ran.stderr.splitlines() or ['failed'])[0]}")
    return ran.stdout
