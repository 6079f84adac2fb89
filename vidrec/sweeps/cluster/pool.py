"""Jobs on this machine: a pool that gives each a device of its own, and jobs run on the spot."""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import vidrec
from vidrec.config import plugins
from vidrec.errors import UserError
from vidrec.sweeps.cluster import folders
from vidrec.sweeps.cluster.job import STOPPED, Job
from vidrec.sweeps.cluster.options import DATA, Handle, Note, Options
from vidrec.training import loop
from vidrec.training.devices import share_of_cores


class Pool:
    """A pool on this machine: each job has a device for itself, the next starts when one ends."""

    # -P: modules that lie in the current folder are not meant.
    command: tuple[str, ...] = (sys.executable, "-u", "-P", "-m", "vidrec.sweeps.cluster")

    def check(self, options: Options, workdir: Path = Path()) -> list[str]:
        if not options.devices or len(set(options.devices)) < len(options.devices):
            given = " ".join(options.devices)
            raise UserError(f"--devices {given} should name each device once: --devices 0 1")
        return []

    def submit(
        self, folder: Path, groups: Sequence[str], options: Options, note: Note
    ) -> list[Handle]:
        logs = folders.new_logs(folder)
        with self._signals():
            handles = self._pool(folder, [DATA], options.devices[:1], logs, note)
            return handles + self._pool(folder, groups, options.devices, logs, note)

    def states(self, handles: Sequence[Handle]) -> dict[str, str]:
        return {each.job: "RUNNING" for each in handles if _is_running(each.job)}

    def cancel(self, handles: Sequence[Handle]) -> None:
        for each in handles:
            if _is_running(each.job):
                os.kill(_pid(each.job), signal.SIGTERM)

    def _pool(
        self,
        folder: Path,
        groups: Sequence[str],
        devices: Sequence[str],
        logs: Path,
        note: Note,
    ) -> list[Handle]:
        waiting, running = list(groups), {}
        handles, failed = [], []
        while (waiting and not self.stopping) or running:
            for device in devices:
                if device not in running and waiting and not self.stopping:
                    own = share_of_cores(len(devices)) | {"CUDA_VISIBLE_DEVICES": device}
                    running[device] = self._start(folder, waiting.pop(0), own, logs)
                    handles.append(running[device][0])
                    note(handles[-1:])
            for device, (handle, process) in list(running.items()):
                if self.stopping:  # asked once more, they end without saving
                    process.send_signal(signal.SIGTERM if self.stopping == 1 else signal.SIGKILL)
                if process.poll() is not None:
                    del running[device]
                    if process.returncode == STOPPED:  # by `cancel`, which means the pool too
                        self.stopping = self.stopping or 1
                    elif process.returncode:
                        failed.append(handle)
            time.sleep(0.1)
        if self.stopping:
            raise loop.Interrupted("stopped; the same command goes on")
        if failed:
            first = failed[0]
            raise UserError(
                f"{len(failed)} of {len(groups)} jobs failed; the first, {first.group}: "
                f"{folders.last_line(first.log)} (log {first.log})"
            )
        return handles

    def _start(
        self, folder: Path, group: str, own: dict[str, str], logs: Path
    ) -> tuple[Handle, subprocess.Popen]:
        log = logs / f"{group}.out"
        path = os.pathsep.join(
            filter(None, [str(Path(vidrec.__file__).parent.parent), os.environ.get("PYTHONPATH")])
        )
        with log.open("a") as file:
            process = subprocess.Popen(
                [*self.command, str(folder), group],
                env=os.environ | own | plugins.consent() | {"PYTHONPATH": path},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the pool, which asks its jobs to save
            )
        name = f"{process.pid}@{platform.node()}@{_born(process.pid)}"
        return Handle(group, name, str(log)), process

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and TERM stop the pool, where this is the main thread."""
        self.stopping = 0

        def stop(*_: Any) -> None:
            self.stopping += 1

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


class Inline:
    """Here and now, one after another: for tests and for finding out what is wrong with a job."""

    def check(self, options: Options, workdir: Path = Path()) -> list[str]:
        return []

    def submit(
        self, folder: Path, groups: Sequence[str], options: Options, note: Note
    ) -> list[Handle]:
        handles = [Handle(name, f"inline-{name}", "") for name in (DATA, *groups)]
        note(handles[:1])
        note(handles[1:])
        for handle in handles:
            Job(str(folder), handle.group).work()
        return handles

    def states(self, handles: Sequence[Handle]) -> dict[str, str]:
        return {}

    def cancel(self, handles: Sequence[Handle]) -> None:
        """Nothing runs after `submit`."""


def _pid(job: str) -> int:
    return int(job.split("@")[0])


def _born(pid: int) -> str:
    """When a process started, in the kernel's ticks: a number is soon another process's.

    "" for one that is gone.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return ""


def _is_running(job: str) -> bool:
    pid, host, born = job.split("@")
    try:
        return host == platform.node() and born != "" and _born(int(pid)) == born
    except OSError:  # not to be told now, and a second job of the group would be worse
        return True
