"""A table's groups as jobs: on a SLURM cluster through submitit, or on this machine's devices.

A job needs nothing but the table's folder, which all nodes share: what it trains stands in
`groups/ID/group.json`, what it gave goes where `ablate` puts it. One first job makes data set and
features, one array trains a group in each task. Killed, preempted or out of time, a task goes on
from its last save; the last one to finish writes the report. Ids and logs are kept in `jobs.json`.
"""

import contextlib
import dataclasses
import difflib
import io
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import vidrec
from vidrec import datasets, grid, prepare, train
from vidrec.ablation import Ablation
from vidrec.config import cache_dir, digest
from vidrec.errors import UserError

DATA = "data"  # the first job's place among the groups' names
STOPPED = 75  # a task that was asked to stop and has saved (EX_TEMPFAIL of sysexits.h)
WARNING_SECONDS = 120  # before the time limit, when SLURM sends USR2
GRACE_SECONDS = 75  # for the epoch that runs when asked to stop; then it is given up
KILL_SECONDS = 600  # how long a task that saved waits for the scheduler's kill
FRUITLESS = 3  # starts in a row without a finished epoch; a fourth would be no better
TOLD_SECONDS = 15.0
# Of a job that holds, or will hold, a node: its group must not be started a second time.
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
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What a job asks for; empty or zero leaves it to the cluster.

    Attributes:
        minutes: time limit; a job that needs more is requeued and goes on.
        sbatch: further options of sbatch, `{"account": "vision"}`; True for one without a value.
        setup: lines of shell before Python starts, such as `module load cuda`.
        devices: of a local pool, by the name that CUDA_VISIBLE_DEVICES knows.
    """

    engine: str = "slurm"
    partition: str = ""
    minutes: int = 240
    gpus: int = 0
    cpus: int = 0
    mem: str = ""
    sbatch: Mapping[str, Any] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UserError(f"engine = {self.engine!r} should be one of {', '.join(ENGINES)}")
        for name, least in (("minutes", 1), ("gpus", 0), ("cpus", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name} = {value!r} should be a whole number, {least} or more")


@dataclass(frozen=True)
class Handle:
    """A group (or the data) and the job that was started for it."""

    group: str
    job: str
    log: str


class Engine(Protocol):
    """Where jobs run. To add one, put it into ENGINES."""

    def check(self, options: Options) -> list[str]:
        """What the user should know before jobs are started; UserError where they cannot be."""

    def submit(
        self, folder: Path, groups: Sequence[str], options: Options, note: "Note"
    ) -> list[Handle]:
        """Starts the data's job and then the groups', each handed to `note` once it has an id."""

    def states(self, handles: Sequence[Handle]) -> dict[str, str]:
        """State of each job that is known, by id, in SLURM's words; may end in "(reason)"."""

    def cancel(self, handles: Sequence[Handle]) -> None:
        """Ends exactly these jobs."""


Note = Callable[[Sequence[Handle]], None]


def read_options(site: str | Path | None = None, given: Mapping[str, Any] | None = None) -> Options:
    """Options of a site's TOML file, replaced by those given (None: not given).

    Raises:
        UserError: the file cannot be read, or an option is unknown or of the wrong kind.
    """
    values: dict[str, Any] = {}
    if site:
        try:
            values = tomllib.loads(Path(site).expanduser().read_text())
        except OSError as error:
            raise UserError(f"--site {site}: {error.strerror}") from None
        except ValueError as error:
            raise UserError(f"--site {site} is no TOML: {error}") from None
    known = {entry.name: entry for entry in dataclasses.fields(Options)}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            guess = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
            raise UserError(f"--site {site}: unknown option '{name}'; {guess}")
        right = {"setup": list, "devices": list, "sbatch": dict}.get(name, known[name].type)
        if not isinstance(value, right):
            raise UserError(f"--site {site}: {name} = {value!r} should be a {right.__name__}")
    chosen = {name: value for name, value in (given or {}).items() if value is not None}
    sbatch = values.get("sbatch", {}) | dict(chosen.pop("sbatch", {}))
    merged = values | chosen | {"sbatch": sbatch}
    return Options(**{n: tuple(v) if isinstance(v, list) else v for n, v in merged.items()})


def parse_sbatch(words: Sequence[str]) -> dict[str, Any]:
    """`account=vision` and `exclusive` as options of sbatch."""
    parts = [word.removeprefix("--").partition("=") for word in words]
    if not all(name for name, _, _ in parts):
        raise UserError(f"--sbatch {' '.join(words)}: should be like account=vision")
    return {name: value if equals else True for name, equals, value in parts}


# ----------------------------------------------------------------------------- the three commands


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
    engine = ENGINES[options.engine]()
    for line in engine.check(options):
        tell(line)
    folder, members = grid.plan(ablation, Path(workdir).absolute(), overrides=overrides, on=on)
    busy = _busy(folder)
    if retry:
        if busy:
            raise UserError(f"{folder} has jobs that run ({_ids(busy)}): cancel them first")
        folder, members = grid.plan(
            ablation, Path(workdir).absolute(), overrides=overrides, on=on, retry=retry
        )
    started = {handle.group for handle in busy}
    todo = [name for name in grid.hold_groups(folder, members) if name not in started]
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
        known = {handle.group: handle for handle in [*_read_jobs(folder)[1], *handles]}
        content = {"engine": options.engine, "jobs": [asdict(each) for each in known.values()]}
        train.write_json(folder / "jobs.json", content)
        what = "the data" if handles[0].group == DATA else f"{len(handles)} of the groups"
        tell(f"job {_ids(handles)}: {what}, log {handles[0].log}")

    return ENGINES[options.engine]().submit(folder, groups, options, note)


def status(folder: str | Path) -> dict[str, Any]:
    """How a table fills, from its files and its jobs; writes the report of a full one.

    Returns:
        {"dir", "finished", "trials", "report", "data", "groups": [{"group", "trials", "finished",
        "alive", "epoch", "epochs", "best", "job", "state", "log", "why"}]}; "state" is "done", or
        of the job in SLURM's words, lower case, "lost" for one that ended and left no result.

    Raises:
        UserError: the folder holds no table, or the queue does not answer.
    """
    folder = Path(folder).absolute()
    trials = _trials(folder)
    finish(folder)
    engine, handles = _read_jobs(folder)
    states = ENGINES[engine]().states(handles) if handles else {}
    jobs = {handle.group: _job(handle, states) for handle in handles}
    groups = [
        _group(folder, name, ids, jobs.get(name, {})) for name, ids in _by_group(trials).items()
    ]
    report = folder / "report.html"
    finished = sum(group["finished"] for group in groups)
    return {
        "dir": str(folder),
        "finished": finished,
        "trials": len(trials),
        "report": str(report) if finished == len(trials) and report.exists() else None,
        "data": jobs.get(DATA),
        "groups": groups,
    }


def cancel(folder: str | Path) -> list[str]:
    """Ends a table's own jobs that are waiting or running; their ids."""
    folder = Path(folder).absolute()
    _trials(folder)
    engine, _ = _read_jobs(folder)
    busy = _busy(folder)
    if busy:
        ENGINES[engine]().cancel(busy)
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
    trials = grid.dry_run(ablation, overrides, on)
    name = f"{ablation.name}-{digest([trial['id'] for trial in trials])}"
    count = len({trial["group"] for trial in trials})
    return Slurm().scripts(Path(workdir).absolute() / name, count, options or Options())


# ------------------------------------------------------------------------------- inside of a job


@dataclass
class Job:
    """What a job runs. It always goes on from what is in the folder, so it may start anew.

    Attributes:
        folder: of the table.
        group: to train; DATA makes the data of all unfinished groups.
        fruitless: starts in a row that ended before an epoch did.
    """

    folder: str
    group: str
    fruitless: int = 0

    def __call__(self) -> None:
        self._log = _Log()
        print(f"{self.group} of {self.folder} on {platform.node()}", flush=True)
        if not (Path(self.folder) / "ablation.json").exists():
            raise UserError(f"{platform.node()} does not see {self.folder}: {UNSHARED}")
        _attend(self.work, self._log.stop)

    def work(self) -> None:
        """The work itself, without an ear for signals."""
        folder = Path(self.folder)
        log = getattr(self, "_log", None) or _Log()
        if self.group == DATA:
            return make_data(folder, log)
        grid.train_group(folder, self.group, log)
        finish(folder)

    def checkpoint(self) -> Any:
        """Called by submitit, after a save, when the job is to be requeued: how it goes on."""
        fruitless = 0 if self._log.advanced else self.fruitless + 1
        if fruitless > FRUITLESS:
            print(f"error: {fruitless} starts and no epoch: --minutes is too short", flush=True)
            return None
        again = Job(self.folder, self.group, fruitless)
        return _submitit().helpers.DelayedSubmission(again)


def make_data(folder: Path, screen: grid.Screen) -> None:
    """Makes data sets and features of a table's unfinished groups, for all jobs to read."""
    made = set()
    for name, ids in _by_group(_trials(folder)).items():
        if len(_results(folder, ids)) == len(ids):
            continue
        cfg = grid.held(folder, name)[0].config
        if prepare.key(cfg) in made:
            continue
        made.add(prepare.key(cfg))
        if cfg.encoder.trainable == "none":
            prepare.prepare(cfg, tell=screen.say, progress=screen.extracting)
        else:  # pixels are decoded by each group anew
            datasets.load(cfg.data)


def finish(folder: Path) -> None:
    """Writes the report of a table whose last trial has finished, unless it is written already."""
    ids = [trial["id"] for trial in _trials(folder)]
    results = _results(folder, ids)
    if len(results) < len(ids):
        return
    report, lock = folder / "report.html", folder / "report.lock"
    if report.exists() and report.stat().st_mtime >= max(file.stat().st_mtime for file in results):
        return
    with contextlib.suppress(OSError):  # of a writer that was killed
        if time.time() - lock.stat().st_mtime > KILL_SECONDS:
            lock.unlink()
    try:
        lock.touch(exist_ok=False)
    except FileExistsError:
        return  # two jobs ended together, and the other writes
    try:
        grid.collect(folder)
    finally:
        lock.unlink(missing_ok=True)


class _Log(grid.Quiet):
    """Plain lines in a job's log, and the word to stop."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.advanced = False
        self._last = -TOLD_SECONDS

    def say(self, line: str) -> None:
        print(line, flush=True)

    def sometimes(self, line: str) -> None:
        if time.monotonic() - self._last >= TOLD_SECONDS:
            self._last = time.monotonic()
            self.say(line)

    def extracting(self, done: int, total: int) -> None:
        self.advanced = True
        self.sometimes(f"clips: {done} of {total}")
        if self.stop.is_set():
            raise train.Interrupted(f"stopped after {done} of {total} clips")

    def group(self, name: str, members: Sequence[train.Member]) -> train.Watcher:
        self.say(f"group {name}: {len(members)} trials")
        return _Watch(self)


class _Watch(train.Silent):
    def __init__(self, log: _Log):
        self.log = log

    def epoch(self, number: int, records: Mapping[str, Mapping[str, Any]]) -> None:
        self.log.advanced = True
        alive = sum(each["status"] == "running" for each in records.values())
        self.log.sometimes(f"epoch {number}: {alive} trials alive")

    def should_stop(self) -> bool:
        return self.log.stop.is_set()


def _attend(work: Callable[[], None], stop: threading.Event) -> None:
    """Runs `work` in a thread: Python hears no signal in one that computes for minutes.

    USR2 (before a time-out, or preempted): save, then what submitit had registered, which requeues.
    TERM: save, then wait for the kill; who sent it (scancel, a preemption that requeues by itself)
    knows what is to become of the job, and leaving early would count as its failure.
    """
    heard: list[int] = []

    def hear(number: int, _: Any) -> None:
        heard.append(number)
        stop.set()

    before = {each: signal.signal(each, hear) for each in (signal.SIGUSR2, signal.SIGTERM)}
    requeue = before[signal.SIGUSR2]
    outcome: list[BaseException | None] = []
    thread = threading.Thread(target=_caught, args=(work, outcome), daemon=True)
    thread.start()
    try:
        _join(thread, lambda: bool(heard))
    finally:
        for each, handler in before.items() if not heard else ():
            signal.signal(each, handler)
    error = outcome[0] if outcome else train.Interrupted("given up: its epoch takes too long")
    if not isinstance(error, train.Interrupted):
        if error:
            raise error
        return
    print(error, flush=True)
    _leave(heard, requeue if callable(requeue) else None)


def _caught(work: Callable[[], None], outcome: list[BaseException | None]) -> None:
    try:
        work()
        outcome.append(None)
    except BaseException as error:
        outcome.append(error)


def _join(thread: threading.Thread, asked: Callable[[], bool]) -> None:
    """Until the thread ends, or has not within GRACE_SECONDS of being asked to."""
    left = GRACE_SECONDS
    while thread.is_alive() and left > 0:
        thread.join(0.2)
        left -= 0.2 * asked()


def _leave(heard: list[int], requeue: Callable[[int, Any], None] | None) -> None:
    """Ends a stopped job's process, at once: a thread may still compute."""
    code: Any = STOPPED
    until = time.monotonic() + KILL_SECONDS
    while requeue and signal.SIGUSR2 not in heard and time.monotonic() < until:
        time.sleep(0.2)
    if requeue and signal.SIGUSR2 in heard:
        try:
            requeue(signal.SIGUSR2, None)
        except SystemExit as left:
            code = left.code
        except Exception as error:
            print(f"error: not requeued: {error}", flush=True)
            code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0) & 0xFF)


# ---------------------------------------------------------------------------------------- engines


class Slurm:
    """Jobs of a SLURM cluster, started through submitit, watched through squeue and sacct."""

    def check(self, options: Options) -> list[str]:
        _submitit()
        for program in ("sbatch", "squeue", "scancel"):
            if not shutil.which(program):
                raise UserError(
                    f"--launcher slurm needs {program}, which is not on this machine's PATH: "
                    "run the command on a login node of the cluster"
                )
        notes = [] if options.gpus else ["the jobs ask for no GPU (--gpus 1 would)"]
        if _sacct([]) is None:
            notes.append(
                "sacct does not answer: of a job that was killed, only the queue and its missing "
                "result tell, and 'status' calls it lost once the queue has forgotten it"
            )
        return notes

    def submit(
        self, folder: Path, groups: Sequence[str], options: Options, note: Note
    ) -> list[Handle]:
        logs = _logs(folder)
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
        """What sbatch gets for the data and for so many groups."""
        make = _submitit().slurm.slurm._make_sbatch_string
        command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {folder / 'jobs'}"
        made = []
        array = {"map_count": count} if count > 1 else {}
        for parameters in (
            self._data(folder, options),
            self._array(folder, options, "DATA_JOB") | array,
        ):
            made.append(make(command=command, folder=folder / "jobs", **parameters))
        return made

    def states(self, handles: Sequence[Handle]) -> dict[str, str]:
        ids = [handle.job for handle in handles]
        found = _squeue(ids)
        gone = [job for job in ids if job not in found]
        return found | (_sacct(gone) or {})

    def cancel(self, handles: Sequence[Handle]) -> None:
        _called(["scancel", *(handle.job for handle in handles)])

    def _start(
        self,
        folder: Path,
        groups: Sequence[str],
        logs: Path,
        parameters: Mapping[str, Any],
        options: Options,
    ) -> list[Handle]:
        submitit = _submitit()
        try:
            # submitit repeats what sbatch says, which is told here in one line.
            with contextlib.redirect_stderr(io.StringIO()):
                executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=10**6)
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
        # An array that waits for a job that failed would otherwise wait for ever.
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
                # For a checkout that is not installed; a node starts in no particular folder.
                f"export PYTHONPATH={shlex.quote(str(home))}${{PYTHONPATH:+:$PYTHONPATH}}",
                *options.setup,
            ],
            "additional_parameters": {
                "requeue": True,
                **{key: value for key, value in asked.items() if value},
                **more,
            },
        }


class Local:
    """A pool on this machine: each job has a device for itself, the next starts when one ends."""

    command: tuple[str, ...] = (sys.executable, "-u", "-m", "vidrec.cluster")

    def check(self, options: Options) -> list[str]:
        if not options.devices or len(set(options.devices)) < len(options.devices):
            raise UserError(
                f"--devices {','.join(options.devices)} should name each device once, like 0,1"
            )
        return []

    def submit(
        self, folder: Path, groups: Sequence[str], options: Options, note: Note
    ) -> list[Handle]:
        logs = _logs(folder)
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
                    running[device] = self._start(folder, waiting.pop(0), device, logs)
                    handles.append(running[device][0])
                    note(handles[-1:])
            for device, (handle, process) in list(running.items()):
                if self.stopping:  # asked once more, they end without saving
                    process.send_signal(signal.SIGTERM if self.stopping == 1 else signal.SIGKILL)
                if process.poll() is not None:
                    del running[device]
                    failed += [handle] if process.returncode not in (0, STOPPED) else []
            time.sleep(0.1)
        if self.stopping:
            raise train.Interrupted("stopped; the same command goes on")
        if failed:
            first = failed[0]
            raise UserError(
                f"{len(failed)} of {len(groups)} jobs failed; the first, {first.group}: "
                f"{_last_line(first.log)} (log {first.log})"
            )
        return handles

    def _start(
        self, folder: Path, group: str, device: str, logs: Path
    ) -> tuple[Handle, subprocess.Popen]:
        log = logs / f"{group}.out"
        path = os.pathsep.join(
            filter(None, [str(Path(vidrec.__file__).parent.parent), os.environ.get("PYTHONPATH")])
        )
        with log.open("a") as file:
            process = subprocess.Popen(
                [*self.command, str(folder), group],
                env=os.environ | {"CUDA_VISIBLE_DEVICES": device, "PYTHONPATH": path},
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

    def check(self, options: Options) -> list[str]:
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


ENGINES: dict[str, type[Engine]] = {"slurm": Slurm, "local": Local, "debug": Inline}
UNSHARED = "--workdir should be on a file system that all nodes share"


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError("--launcher slurm needs submitit: pip install 'vidrec[cluster]'") from None
    return submitit


def _refused(said: str, options: Options) -> UserError:
    """sbatch's own words in one line, with what would be right where that is known."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in said.splitlines()]
    line = next((each.strip() for each in lines if each.strip()), "no reason given")
    if "partition" in said and options.partition:
        there = " ".join(_called(["sinfo", "-h", "-o", "%R"]).split())
        return UserError(f"--partition {options.partition}: {line}; there are {there or 'none'}")
    return UserError(f"sbatch refused the job: {line}")


def _squeue(ids: Sequence[str]) -> dict[str, str]:
    """States of jobs that the controller remembers.

    Raises:
        UserError: it does not answer, so that nothing can be said of any job.
    """
    wanted = ",".join(dict.fromkeys(job.partition("_")[0] for job in ids))
    command = ["squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%r", "-j", wanted]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode and "Invalid job id" not in ran.stderr:
        raise UserError(f"squeue does not answer: {(ran.stderr.splitlines() or ['no reason'])[0]}")
    found = {}
    for line in ran.stdout.splitlines():
        job, state, reason = line.split("|", 2)
        waits = state == "PENDING" and reason not in ("None", "")
        found[job] = f"{state} ({reason})" if waits else state
    return {job: state for job, state in found.items() if job in ids}


def _sacct(ids: Sequence[str]) -> dict[str, str] | None:
    """States of ended jobs; None where the cluster keeps no accounts."""
    if not shutil.which("sacct"):
        return None
    command = ["sacct", "-n", "-X", "-P", "-o", "JobID,State", "-j", ",".join(ids) or "1"]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        return None
    lines = [line.split("|", 1) for line in ran.stdout.splitlines() if "|" in line]
    return {job: state.split()[0] for job, state in lines if job in ids and state}


def _called(command: Sequence[str]) -> str:
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise UserError(f"{command[0]}: {(ran.stderr.splitlines() or ['failed'])[0]}")
    return ran.stdout


def _pid(job: str) -> int:
    return int(job.split("@")[0])


def _born(pid: int) -> str:
    """When a process started, in the kernel's ticks: a number is soon another process's."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_running(job: str) -> bool:
    pid, host, born = job.split("@")
    return host == platform.node() and born != "" and _born(int(pid)) == born


# ------------------------------------------------------------------------- what lies in the folder


def _logs(folder: Path) -> Path:
    """A new folder for the logs of a submission: a cluster's ids may start anew."""
    number = 1
    while (folder / "jobs" / str(number)).exists():
        number += 1
    logs = folder / "jobs" / str(number)
    logs.mkdir(parents=True)
    return logs


def _read_jobs(folder: Path) -> tuple[str, list[Handle]]:
    """The engine and the latest job of each group."""
    try:
        content = json.loads((folder / "jobs.json").read_text())
    except FileNotFoundError:
        return "debug", []
    return content["engine"], [Handle(**each) for each in content["jobs"]]


def _busy(folder: Path) -> list[Handle]:
    """Jobs that wait or run."""
    engine, handles = _read_jobs(folder)
    states = ENGINES[engine]().states(handles) if handles else {}
    return [each for each in handles if states.get(each.job, "").split(" ")[0] in ALIVE]


def _trials(folder: Path) -> list[dict[str, Any]]:
    try:
        return json.loads((folder / "ablation.json").read_text())["trials"]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} holds no table: {folder / 'ablation.json'} is missing") from None


def _by_group(trials: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for trial in trials:
        found.setdefault(trial["group"], []).append(trial["id"])
    return found


def _results(folder: Path, ids: Sequence[str]) -> list[Path]:
    files = [folder / "trials" / each / "result.json" for each in ids]
    return [file for file in files if file.exists()]


def _job(handle: Handle, states: Mapping[str, str]) -> dict[str, Any]:
    state = states.get(handle.job, "lost").lower()
    return {"job": handle.job, "state": state, "log": handle.log, "why": _why(handle, state)}


def _why(handle: Handle, state: str) -> str:
    """Why a job ended without a result, as far as its log tells."""
    if state.split(" ")[0].upper() in (*ALIVE, "COMPLETED") or not handle.log:
        return ""
    if not Path(handle.log).exists():
        failed = state.startswith(("failed", "lost", "node_fail"))
        return f"it left no log: {UNSHARED}" if failed else ""
    return _last_line(handle.log)


def _last_line(log: str) -> str:
    lines = [line for line in Path(log).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "its log is empty"


def _group(folder: Path, name: str, ids: Sequence[str], job: Mapping[str, Any]) -> dict[str, Any]:
    """A group's line of `status`."""
    finished = len(_results(folder, ids))
    shown = {"job": None, "state": "not started", "log": None, "why": ""} | dict(job)
    if finished == len(ids):
        shown |= {"state": "done", "why": ""}
    return {
        "group": name,
        "trials": len(ids),
        "finished": finished,
        **_progress(folder / "groups" / name),
        **shown,
    }


def _progress(group: Path) -> dict[str, Any]:
    """Epoch, trials alive in it, and the best validation accuracy so far."""
    epoch, alive, best = 0, None, None
    epochs = None
    with contextlib.suppress(OSError, ValueError):
        held = json.loads((group / "group.json").read_text())["trials"]
        epochs = max(trial["config"]["train"]["epochs"] for trial in held)
    with contextlib.suppress(OSError):
        for line in (group / train.METRICS).read_text().splitlines():
            with contextlib.suppress(ValueError):  # half a line, being written
                record = json.loads(line)
                if record["epoch"] != epoch:
                    epoch, alive = record["epoch"], 0
                alive += record["status"] == "running"
                scores = [each for each in (best, record["val/accuracy"]) if each is not None]
                best = max(scores, default=None)
    return {"epoch": epoch, "epochs": epochs, "alive": alive, "best": best}


def _ids(handles: Sequence[Handle]) -> str:
    """Few words for many jobs."""
    ids = [handle.job for handle in handles]
    return ", ".join(ids) if len(ids) < 4 else f"{ids[0]} … {ids[-1]}"


if __name__ == "__main__":
    try:
        Job(*sys.argv[1:])()
    except UserError as error:
        sys.exit(f"error: {error}")
