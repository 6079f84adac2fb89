"""Run jobs on this machine: a pool with one job for each device, or jobs in this process."""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import vidrec
from vidrec.config import plugins
from vidrec.errors import STOPPED, UserError
from vidrec.sweeps import tracking
from vidrec.sweeps.cluster import folders
from vidrec.sweeps.cluster.job import Job
from vidrec.sweeps.cluster.options import DATA, Handle, Note, Options
from vidrec.training import loop
from vidrec.training.runtime import share_of_cores

POLL_SECONDS = 0.1


class _Running(NamedTuple):
    handle: Handle
    process: subprocess.Popen


class Pool:
    """Runs one job at a time on each device of this machine.

    Attributes:
        command: The command that starts a job; the table's folder and the group's name are
            appended.
        stopping: The number of times that the pool was asked to stop.
    """

    # -P: a module of the current folder must not take the place of an installed one.
    command: tuple[str, ...] = (sys.executable, "-u", "-P", "-m", "vidrec.sweeps.cluster")
    stopping = 0

    def check(self, options: Options, workdir: Path = Path()) -> list[str]:
        """Refuse devices that are missing or named twice; see `Engine.check`."""
        if not options.devices or len(set(options.devices)) < len(options.devices):
            names = " ".join(options.devices)
            raise UserError(f"--devices {names} should name each device once: --devices 0 1")
        return []

    def submit(
        self, folder: Path, groups: Sequence[str], options: Options, note: Note
    ) -> list[Handle]:
        """Run the jobs to their end; see `Engine.submit`.

        Raises:
            Interrupted: The pool was asked to stop; its jobs have saved their state.
            UserError: A job failed; the others ran to their end.
        """
        logs, tracked = folders.new_logs(folder), tracking.environment(options.track)

        def start(group: str, device: str, devices: int) -> _Running:
            environment = share_of_cores(devices) | {"CUDA_VISIBLE_DEVICES": device} | tracked
            job = self._start(folder, group, environment, logs)
            note([job.handle])
            return job

        with self._stopped_by_signals():
            data = self._run([DATA], options.devices[:1], start)
            return data + self._run(groups, options.devices, start)

    def states(self, handles: Sequence[Handle]) -> dict[str, str]:
        """Return RUNNING for each job whose process runs here; see `Engine.states`."""
        return {handle.job: "RUNNING" for handle in handles if _is_running(handle.job)}

    def cancel(self, handles: Sequence[Handle]) -> None:
        """Ask the jobs' processes to save and end; see `Engine.cancel`."""
        for handle in handles:
            if _is_running(handle.job):
                os.kill(int(handle.job.split("@")[0]), signal.SIGTERM)

    def _run(self, groups: Sequence[str], devices: Sequence[str], start: Any) -> list[Handle]:
        """Run a job for each group, one at a time on each device, until all have ended."""
        waiting, running = deque(groups), dict[str, _Running]()
        handles: list[Handle] = []
        failed: list[Handle] = []
        while running or (waiting and not self.stopping):
            for device in devices:
                if device not in running and waiting and not self.stopping:
                    running[device] = start(waiting.popleft(), device, len(devices))
                    handles.append(running[device].handle)
            for device, (handle, process) in list(running.items()):
                if self.stopping:  # first request: jobs save and end; second: they are killed
                    process.send_signal(signal.SIGTERM if self.stopping == 1 else signal.SIGKILL)
                if process.poll() is None:
                    continue
                del running[device]
                if process.returncode == STOPPED:  # by `cancel`, which stops the pool too
                    self.stopping = self.stopping or 1
                elif process.returncode:
                    failed.append(handle)
            time.sleep(POLL_SECONDS)
        if self.stopping:
            raise loop.Interrupted("stopped; the same command goes on")
        if failed:
            first = failed[0]
            raise UserError(
                f"{len(failed)} of {len(groups)} jobs failed; the first, {first.group}: "
                f"{folders.last_line(first.log)} (log {first.log})"
            )
        return handles

    def _start(self, folder: Path, group: str, environment: dict[str, str], logs: Path) -> _Running:
        log = logs / f"{group}.out"
        path = os.pathsep.join(
            filter(None, [str(Path(vidrec.__file__).parent.parent), os.environ.get("PYTHONPATH")])
        )
        with log.open("a") as file:
            process = subprocess.Popen(
                [*self.command, str(folder), group],
                env=os.environ | environment | plugins.consent() | {"PYTHONPATH": path},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the pool, which asks its jobs to save
            )
        job = f"{process.pid}@{platform.node()}@{_start_ticks(process.pid)}"
        return _Running(Handle(group, job, str(log)), process)

    @contextlib.contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM stop the pool; has no effect outside the main thread."""
        self.stopping = 0

        def stop(*_: Any) -> None:
            self.stopping += 1

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Inline:
    """Runs jobs in this process, one after another, for debugging."""

    def check(self, options: Options, workdir: Path = Path()) -> list[str]:
        """Return no warnings: jobs can always run here; see `Engine.check`."""
        return []

    def submit(
        self, folder: Path, groups: Sequence[str], options: Options, note: Note
    ) -> list[Handle]:
        """Run the jobs; see `Engine.submit`."""
        handles = [Handle(name, f"inline-{name}", "") for name in (DATA, *groups)]
        note(handles[:1])
        note(handles[1:])
        for handle in handles:
            Job(str(folder), handle.group).work()
        return handles

    def states(self, handles: Sequence[Handle]) -> dict[str, str]:
        """Return no states: no job runs after `submit`; see `Engine.states`."""
        return {}

    def cancel(self, handles: Sequence[Handle]) -> None:
        """Do nothing: no job runs after `submit`; see `Engine.cancel`."""


def _start_ticks(pid: int) -> str:
    """Return the start time of a process in the kernel's ticks; "" if the process has ended.

    A process id may be used again, but not with the same start time.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return ""


def _is_running(job: str) -> bool:
    pid, host, start = job.split("@")
    try:
        return host == platform.node() and start != "" and _start_ticks(int(pid)) == start
    except OSError:  # unknown: assume that it runs, since a second job would be worse
        return True
