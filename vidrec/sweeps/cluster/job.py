"""Run a job: make the data or train a group; before a time-out, save and ask to be requeued."""

import contextlib
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidrec.errors import STOPPED, UserError
from vidrec.evaluation import tasks
from vidrec.features.pace import Pace
from vidrec.io import escape
from vidrec.io.machine import how_to_install
from vidrec.sweeps import plan, runner, tracking
from vidrec.sweeps.cluster import folders
from vidrec.sweeps.cluster.options import DATA
from vidrec.sweeps.reporter import Reporter
from vidrec.training import loop, prepare, results, runtime

GRACE_SECONDS = 75  # to finish the running epoch after a stop signal, before it is abandoned
KILL_SECONDS = 600  # how long a job that saved waits for the scheduler's kill
FRUITLESS = 3  # starts in a row without a finished epoch, after which a job gives up
LOG_SECONDS = 15.0  # shortest time between two lines about progress


@dataclass
class Job:
    """The work of a job, which continues from the table's folder whenever it is started again.

    Attributes:
        folder: The table's folder.
        group: The group to train; DATA makes the data of all unfinished groups.
        fruitless: Consecutive starts that ended before an epoch was finished.
    """

    folder: str
    group: str
    fruitless: int = 0

    def __call__(self) -> None:
        """Run the job in this process, which saves and ends on SIGUSR2 and SIGTERM."""
        self._log = _Log()
        runtime.configure()
        self._log.say(f"{self.group} of {self.folder} on {platform.node()}")
        if not (Path(self.folder) / "ablation.json").exists():
            raise UserError(f"{platform.node()} does not see {self.folder}: {folders.UNSHARED}")
        _run_until_signal(self.work, self._log.stop)
        print(folders.DONE, flush=True)

    def work(self) -> None:
        """Do the work without handling signals."""
        folder = Path(self.folder)
        log = getattr(self, "_log", None) or _Log()
        if self.group == DATA:
            return make_data(folder, log)
        track = tracking.of_launcher()
        runner.train_group(folder, self.group, log, track)
        finish(folder, track)

    def checkpoint(self) -> Any:
        """Return the job that continues this one; submitit calls this when it requeues the job."""
        fruitless = 0 if self._log.advanced else self.fruitless + 1
        if fruitless > FRUITLESS:
            print(f"error: {fruitless} starts and no epoch: --minutes is too short", flush=True)
            return None
        again = Job(self.folder, self.group, fruitless)
        return submitit().helpers.DelayedSubmission(again)


def make_data(folder: Path, screen: Reporter) -> None:
    """Make the data sets and features of a table's unfinished groups, for all jobs to read."""
    made = set()
    for name, ids in folders.groups(folder).items():
        if len(folders.results(folder, ids)) == len(ids):
            continue
        cfg = plan.held(folder, name).trials[0].config
        if prepare.data_id(cfg) in made:
            continue
        made.add(prepare.data_id(cfg))
        if cfg.encoder.trainable == "none":
            prepare.prepare(cfg, tell=screen.say, progress=screen.extracting, pace=screen.pace)
        else:  # each group decodes pixels itself
            tasks.of(cfg).load(cfg)


def finish(folder: Path, track: Sequence[str] = ()) -> None:
    """Write the report of a table whose trials are all finished, unless it is already written.

    Args:
        folder: The table's folder.
        track: Names of trackers that receive the report.
    """
    ids = [trial["id"] for trial in folders.trials(folder)]
    if len(folders.results(folder, ids)) < len(ids) or runner.has_report(folder):
        return
    lock = folder / "report.lock"
    with contextlib.suppress(OSError):  # left by a writer that was killed
        if time.time() - lock.stat().st_mtime > KILL_SECONDS:
            lock.unlink()
    try:
        lock.touch(exist_ok=False)
    except OSError:
        return  # two jobs ended together and the other writes, or the folder is read-only
    try:
        runner.collect(folder)
        with tracking.following(folder, track) as told:
            told.report()
    finally:
        lock.unlink(missing_ok=True)


class _Log(Reporter):
    """Progress as plain lines in a job's log.

    Attributes:
        stop: An event that is set when the job has to end.
        advanced: Whether a clip or an epoch was finished.
        encoding: The speed at which frames are encoded; None before encoding starts.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.advanced = False
        self.encoding: Pace | None = None
        self._last = -LOG_SECONDS

    def say(self, line: str) -> None:
        print(escape.terminal(line), flush=True)

    def say_sometimes(self, line: str) -> None:
        if time.monotonic() - self._last >= LOG_SECONDS:
            self._last = time.monotonic()
            self.say(line)

    def pace(self, pace: Pace) -> None:
        self.encoding = pace

    def extracting(self, done: int, total: int) -> None:
        self.advanced = True
        pace = f" ({self.encoding}, {self.encoding.left})" if self.encoding else ""
        self.say_sometimes(f"clips: {done} of {total}{pace}")
        if self.stop.is_set():
            raise loop.Interrupted(f"stopped after {done} of {total} clips")

    def group(self, name: str, members: Sequence[results.TrialRun]) -> loop.Callback:
        self.say(f"group {name}: {len(members)} trials")
        return _GroupLog(self)


class _GroupLog(loop.Silent):
    def __init__(self, log: _Log):
        self.log = log

    def epoch(self, number: int, records: Mapping[str, Mapping[str, Any]]) -> None:
        self.log.advanced = True
        alive = sum(record["status"] == "running" for record in records.values())
        self.log.say_sometimes(f"epoch {number}: {alive} trials training")

    def should_stop(self) -> bool:
        return self.log.stop.is_set()


def _run_until_signal(work: Callable[[], None], stop: threading.Event) -> None:
    """Run `work` in a thread, so that the main thread can handle signals while it computes.

    After SIGUSR2 (before a time-out or a preemption): save, then call submitit's handler, which
    requeues the job. After SIGTERM: save, then wait for the kill. The sender (scancel, or a
    preemption that requeues by itself) decides what happens to the job, and ending early would
    count as a failure.
    """
    received: list[int] = []

    def receive(number: int, _: Any) -> None:
        received.append(number)
        stop.set()

    numbers = (signal.SIGUSR2, signal.SIGTERM)
    before = {number: signal.signal(number, receive) for number in numbers}
    requeue = before[signal.SIGUSR2]
    outcome: list[BaseException | None] = []
    thread = threading.Thread(target=_record_outcome, args=(work, outcome), daemon=True)
    thread.start()
    try:
        _join(thread, lambda: bool(received))
    finally:
        if not received:
            for number, handler in before.items():
                signal.signal(number, handler)
    error = outcome[0] if outcome else loop.Interrupted("given up: its epoch takes too long")
    if error is None:
        return
    if not isinstance(error, loop.Interrupted):
        raise error
    print(error, flush=True)
    _leave(received, requeue if callable(requeue) else None)


def _record_outcome(work: Callable[[], None], outcome: list[BaseException | None]) -> None:
    try:
        work()
        outcome.append(None)
    except BaseException as error:
        outcome.append(error)


def _join(thread: threading.Thread, is_asked: Callable[[], bool]) -> None:
    """Wait until the thread ends, at most GRACE_SECONDS after it was asked to stop."""
    left: float = GRACE_SECONDS
    while thread.is_alive() and left > 0:
        thread.join(0.2)
        left -= 0.2 * is_asked()


def _leave(received: list[int], requeue: Callable[[int, Any], Any] | None) -> None:
    """End a stopped job's process without waiting for its thread.

    Under SLURM, first requeue the job (after SIGUSR2), or wait for the kill (after SIGTERM).
    """
    code: Any = STOPPED
    until = time.monotonic() + KILL_SECONDS
    while requeue and signal.SIGUSR2 not in received and time.monotonic() < until:
        time.sleep(0.2)
    if requeue and signal.SIGUSR2 in received:
        try:
            requeue(signal.SIGUSR2, None)
        except SystemExit as end:
            code = end.code
        except Exception as error:
            # A requeue kills the whole job step, sometimes with scontrol before it has answered.
            killed = getattr(error, "returncode", 0) == -signal.SIGTERM
            words = "Requeued job, which ended before scontrol had answered"
            print(words if killed else f"error: not requeued: {error}", flush=True)
            code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0) & 0xFF)


def submitit() -> Any:
    """Return the library that starts and requeues jobs of SLURM.

    Raises:
        UserError: submitit is not installed.
    """
    try:
        import submitit
    except ImportError:
        how = how_to_install("cluster")
        raise UserError(f"--launcher slurm needs submitit: {how}") from None
    return submitit
