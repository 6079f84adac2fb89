"""What each command takes and does: a dataclass for its words, a function for its work."""

import contextlib
import io
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from tyro.conf import FlagConversionOff, Positional, UseAppendAction

from vidrec import config
from vidrec.config import Config
from vidrec.config.schema import NonNegative
from vidrec.config.shipped import Shipped
from vidrec.errors import STOPPED, UserError
from vidrec.io import escape, files
from vidrec.sweeps import ablation
from vidrec.sweeps.ablation import Ablation, Row, load

# Without a name they are vidrec's own, whatever lies in the current folder.
EXPERIMENT = Shipped("experiments/motion.py")
TABLES: tuple[str, ...] = (Shipped("ablations/scanners.py"),)
Settings = Annotated[Config, tyro.conf.arg(name=""), FlagConversionOff]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True, kw_only=True)
class Common:
    """Common to all commands."""

    workdir: Path = Path("runs")  # where runs are kept
    json: Flag = False  # machine-readable result on stdout, everything else on stderr


@dataclass(frozen=True, kw_only=True)
class Joined(Common):
    """Common to commands that several processes may work on; the tasks of a SLURM step join alone.

    Each process gets the same command, with its own number.
    """

    coordinator: str = ""  # HOST:PORT that the first process listens on
    processes: int = 0  # how many work together
    process: int = -1  # which this one is, counted from 0


@dataclass(frozen=True, kw_only=True)
class Train(Joined):
    """Train one experiment.

    Example: python launch.py train experiments/motion.py --scanner.kind gru --seed 1
    """

    experiment: Positional[str] = EXPERIMENT  # a file with config(), or its bare name
    name: str = ""  # of the run, whose folder is WORKDIR/NAME-ID; empty: the experiment's
    settings: Settings = field(default_factory=Config)


@dataclass(frozen=True, kw_only=True)
class Ablate(Joined):
    """Fill a table: every row with every seed, many trials in one program.

    Example: python launch.py ablate ablations/learning_rate.py --on motion --seeds 5
    """

    files: Positional[tuple[str, ...]] = TABLES  # ablations or experiments
    name: str = ""  # of the table, whose folder is WORKDIR/NAME-ID; empty: the file's
    seeds: Annotated[int, config.Range(0, 10_000)] = 0  # seeds a row; 0: as the file says
    dry_run: Flag = False  # list the trials, train nothing
    on: Literal["", "motion"] = ""  # run on the embedded data instead
    # every row with each of these values: optim.learning_rate=1e-3,1e-4
    axis: UseAppendAction[tuple[str, ...]] = ()
    # leave out the rows that have all of these: scanner.kind=gru,scanner.units=50
    exclude: UseAppendAction[tuple[str, ...]] = ()
    retry: Literal["", "failed"] = ""  # train failed trials anew
    launcher: Literal["local", "slurm", "pool"] = "local"  # pool: one job a device, here
    partition: str | None = None  # of SLURM; this and the following replace the site's
    minutes: int | None = None  # time limit of a job; one that needs more goes on in another
    gpus: int | None = None  # of a job
    cpus: int | None = None  # of a job
    mem: str | None = None  # of a job: 16G
    sbatch: UseAppendAction[tuple[str, ...]] = ()  # further options: account=vision, exclusive
    site: Path | None = None  # TOML file of defaults: partition, minutes, gpus, sbatch, setup …
    devices: tuple[str, ...] | None = None  # of the pool, as CUDA_VISIBLE_DEVICES names them
    settings: Settings = field(default_factory=Config)


@dataclass(frozen=True, kw_only=True)
class Report(Common):
    """Rebuild the report of a run or an ablation from its folder alone.

    Example: python launch.py report runs/scanners-1a2b3c4d --tensorboard
    """

    folders: Positional[tuple[Path, ...]] = ()  # of runs and ablations, or their names
    tensorboard: Flag = False  # write the curves as TensorBoard events, too


@dataclass(frozen=True, kw_only=True)
class Compare(Common):
    """Which classes improve from one run to another, and what the difference is worth.

    The page goes to WORKDIR/compare-FIRST-SECOND/report.html.

    Example: python launch.py compare runs/motion-1a2b3c4d runs/motion-5e6f7a8b
    """

    first: Positional[Path]  # folder or name of a run or an ablation: the one before
    second: Positional[Path]  # and the one after


@dataclass(frozen=True, kw_only=True)
class Extract(Common):
    """Fill the feature store only; says size and time beforehand, and goes on where it stopped.

    Example: python launch.py extract experiments/ucf101_lstm.py --data.root UCF-101
    """

    experiment: Positional[str]  # a file with config(), or its bare name
    settings: Settings = field(default_factory=Config)


@dataclass(frozen=True, kw_only=True)
class Doctor(Common):
    """Check every clip of a data set: names, counts, decoding, duplicates, leaks.

    Example: python launch.py doctor experiments/my_videos.py --data.root FOLDER
    """

    experiment: Positional[str]  # a file with config(), or its bare name
    settings: Settings = field(default_factory=Config)


@dataclass(frozen=True, kw_only=True)
class Check(Common):
    """Build every configuration of these files and trace one step: needs no data.

    Example: python launch.py check experiments/*.py ablations/*.py
    """

    files: Positional[tuple[str, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class Status(Common):
    """How an ablation on a cluster fills: groups, jobs, logs.

    Example: python launch.py status runs/learning_rate-1a2b3c4d
    """

    folder: Positional[Path]  # of an ablation, or its name


@dataclass(frozen=True, kw_only=True)
class Cancel(Common):
    """End an ablation's own jobs; the same ablate command goes on later.

    Example: python launch.py cancel runs/learning_rate-1a2b3c4d
    """

    folder: Positional[Path]  # of an ablation, or its name


@dataclass(frozen=True, kw_only=True)
class Predict(Common):
    """What a trained model sees in videos, folders or a camera.

    FOLDER is a run's, or an ablation's: then its setting best on validation answers. The name of
    its folder will do, and so will the name alone where one run in WORKDIR has it.

    Example: python launch.py predict runs/my_videos-1a2b3c4d new.mp4 --overlay seen.mp4
    """

    folder: Positional[Path]  # of a run or an ablation, or its name
    videos: Positional[tuple[str, ...]]  # files, folders, or one camera: /dev/video0
    stream: Flag = False  # an answer a frame, the recurrent state kept
    every: NonNegative = 0.0  # seconds between windows; 0: half a window
    overlay: Path | None = None  # write the video with the answer drawn on it
    csv: Path | None = None  # write a line a file; a folder writes predictions.csv anyway
    trust_code: Flag = False  # run the users' files that the run keeps, if it names any


@dataclass(frozen=True, kw_only=True)
class Evaluate(Common):
    """Score a trained run on another split or data set; the run itself stays as it is.

    Of the settings only those of data and eval can be given: the others belong to the model.

    Example: python launch.py evaluate runs/motion-1a2b3c4d --data.split_seed 1 --force
    """

    folder: Positional[Path]  # of a run or an ablation, or its name
    part: Literal["test", "val", "train", "all"] = "test"  # of the split
    force: Flag = False  # score clips that the model was trained on too
    trust_code: Flag = False  # run the users' files that the run keeps, if it names any
    settings: Settings = field(default_factory=Config)


@dataclass(frozen=True, kw_only=True)
class Export(Common):
    """Write a trained model as StableHLO with a loader that needs only JAX, NumPy and flatbuffers.

    Example: python launch.py export runs/my_videos-1a2b3c4d exported
    """

    folder: Positional[Path]  # of a run or an ablation, or its name
    out: Positional[Path]  # a new folder
    trust_code: Flag = False  # run the users' files that the run keeps, if it names any


class Terminal(Console):
    """A console that shows text as it is: names are no markup, and obey nothing."""

    def __init__(self, **how: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **how)

    def tell(self, text: object, lines: bool = False) -> None:
        """Prints a text on a line of its own, which the terminal breaks.

        Args:
            lines: it has several lines.
        """
        self.print(escape.terminal(text, lines), soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Leaves it to the command what is done where nobody reads any more."""
        raise BrokenPipeError


def _console(command: Common) -> Terminal:
    """Where people read: stdout, or stderr when stdout is for a machine."""
    return Terminal(stderr=command.json, quiet=not _speaks(command))


def _speaks(command: Common) -> bool:
    """Of several processes the first one speaks."""
    if not isinstance(command, Joined):
        return True
    from vidrec.training import devices

    return devices.is_main()


def _answer(command: Common, content: Any) -> None:
    if command.json and _speaks(command):
        _to_stdout(content)


def _to_stdout(content: Any) -> None:
    """A line of JSON: escapes where stdout, or UTF-8, has no letters for a name."""
    text = json.dumps(_jsonable(content), ensure_ascii=False)
    try:
        text.encode(getattr(sys.__stdout__, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(_jsonable(content))
    print(text, file=sys.__stdout__, flush=True)


def _jsonable(content: Any) -> Any:
    """Standard JSON knows no NaN: null says that a figure does not exist."""
    if isinstance(content, dict):
        return {str(name): _jsonable(each) for name, each in content.items()}
    if isinstance(content, list | tuple):
        return [_jsonable(each) for each in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _screen(command: Common) -> Any:
    """Progress on the console; Ctrl-C and SIGTERM save and leave."""
    from vidrec.cli.progress import Reporter

    screen = Reporter(_console(command))
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, screen.stop)
    return screen


def _join(command: Joined) -> None:
    """Readies this process, and makes it one of several where it was told so."""
    from vidrec.training import devices

    devices.prepare()
    devices.join(command.coordinator, command.processes, command.process)
    if command.json and devices.processes() > 1:
        # Gloo, which carries messages between processors, writes to file 1 past Python.
        answers = os.dup(1)
        os.dup2(2, 1)
        sys.__stdout__ = os.fdopen(answers, "w")


def with_folders(command: Common) -> Common:
    """The command with the folders of the runs that it names, by path, folder's or plain name."""
    named = {name: getattr(command, name, None) for name in ("folder", "first", "second")}
    found: dict[str, Any] = {name: _run(command, each) for name, each in named.items() if each}
    if isinstance(command, Report):
        found["folders"] = tuple(_run(command, each) for each in command.folders)
    return replace(command, **found)


def _run(command: Common, given: Path) -> Path:
    from vidrec.io import runs

    return runs.find(given, command.workdir)


def _weights(command: Common, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose encoder.weights may be the plain name of a run in the workdir."""
    given = settings.get("encoder.weights", "random")
    path = Path(given)
    if given in config.WORDS or path.parent != Path.cwd() or path.is_file():
        return settings
    try:
        config.run_folder(path)
    except UserError:
        with contextlib.suppress(UserError):
            found = os.path.abspath(_run(command, Path(path.name)))
            return {**settings, "encoder.weights": found}
    return settings


def _experiment(path: str, settings: dict[str, Any]) -> Config:
    found = load(path)
    if not isinstance(found, Config):
        words = escape.shell(["launch.py", "ablate", path])
        raise UserError(f"{path} is an ablation: use `{words}`")
    _tell_cleared(found, settings)
    return config.pin(config.place(config.override(found, settings), Path.cwd()))


def _tell_cleared(cfg: Config, settings: dict[str, Any]) -> None:
    """Says which settings of the experiment went with those that were given."""
    for name, leader in config.cleared(cfg, settings).items():
        value = escape.terminal(f"{name} = {config.get(cfg, name)!r}")
        print(f"{value} of the experiment is left out: it follows {leader}", file=sys.stderr)


def _tell_cleared_of(table: Ablation, settings: dict[str, Any]) -> None:
    bases = [row.base or table.base for row in ablation.rows(table)]
    for base in {id(each): each for each in bases}.values():
        _tell_cleared(load(base) if isinstance(base, str) else base, settings)


def _tell_without_effect(table: Ablation, settings: dict[str, Any]) -> None:
    """Says which of the settings that were given no row takes, since each has its own."""
    for name in settings:
        if all(name in row.overrides for row in ablation.rows(table)):
            line = f"warning: {name} as given has no effect: every row of the table sets its own"
            print(line, file=sys.stderr)


def _table(command: Ablate) -> Ablation:
    """The files' rows one after another, crossed with the command line's axes."""
    if not command.files:
        raise UserError("ablate needs a file, for example ablations/scanners.py")
    tables = [_as_ablation(path) for path in command.files]
    table = tables[0] if len(tables) == 1 else ablation.join(tables)
    if command.axis:
        table = ablation.cross(table, _once("--axis", map(_axis, command.axis)))
    if command.exclude:
        table = ablation.exclude(table, [_point(text) for text in command.exclude])
    if command.name:
        table = replace(table, name=command.name)
    return replace(table, seeds=command.seeds) if command.seeds else table


def _as_ablation(path: str) -> Ablation:
    found = load(path)
    if isinstance(found, Ablation):
        return found
    return Ablation(Path(path).stem, found, [Row({})])


def _axis(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise UserError(f"--axis {text}: should be like optim.learning_rate=1e-3,1e-4")
    return name, [_value(name, value) for value in config.pieces(values)]


def _point(text: str) -> dict[str, Any]:
    parts = [part.partition("=") for part in config.pieces(text)]
    if not all(equals for _, equals, _ in parts):
        raise UserError(
            f"--exclude {text}: should be like scanner.kind=gru,scanner.units=50; a list stands in "
            'brackets, a value with a comma in quotes: data.classes=("a, b",c)'
        )
    return _once(f"--exclude {text}", ((name, _value(name, value)) for name, _, value in parts))


def _once(option: str, settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Settings by name; of one that is named twice, nobody would see that the last one wins."""
    found: dict[str, Any] = {}
    for name, value in settings:
        name = name.replace("-", "_")
        if name in found:
            raise UserError(f"{option} names {name} twice: give its values at once")
        found[name] = value
    return found


def _value(name: str, text: str) -> Any:
    """One of several values; of a list its quotes part the elements."""
    return config.parse(name, text if config.takes_many(name) else config.unquoted(text))


def train(command: Train, settings: dict[str, Any]) -> int:
    """One experiment, to a report."""
    cfg = _experiment(command.experiment, _weights(command, settings))
    _join(command)
    from vidrec.sweeps import runner

    def work(screen: Any) -> Any:
        name = command.name or Path(command.experiment).stem
        return runner.run(cfg, command.workdir, name=name, screen=screen)

    result = _work(command, work)
    if result is None:
        return STOPPED
    _answer(command, result)
    _show(command, _short(result["dir"]))
    return 0 if result["status"] == "done" else 1


def ablate(command: Ablate, settings: dict[str, Any]) -> int:
    """A table, to a report."""
    table, settings = _table(command), _weights(command, settings)
    _tell_without_effect(table, settings)
    if not command.on:
        _tell_cleared_of(table, settings)
    if command.dry_run and command.launcher != "slurm":
        return _dry_run(command, table, settings)
    if command.launcher != "local":
        return _launch(command, table, settings)
    _join(command)
    from vidrec.sweeps import runner

    def work(screen: Any) -> Any:
        return runner.ablate(
            table,
            command.workdir,
            overrides=settings,
            on=command.on,
            retry=command.retry,
            screen=screen,
        )

    filled = _work(command, work)
    if filled is None:
        return STOPPED
    if command.json:
        rows = [dict(row) for row in filled.rows]
        _answer(
            command, {"dir": str(filled.folder.absolute()), "rows": rows, "trials": filled.trials}
        )
    _show(command, filled.folder)
    return int(any(trial["status"] == "failed" for trial in filled.trials))


def _work(command: Common, work: Callable[[Any], Any]) -> Any:
    """What `work` returns; None when it was asked to stop and has saved."""
    from vidrec.training.loop import Interrupted, WorkerLost

    screen = _screen(command)
    try:
        return work(screen)
    except WorkerLost as loss:
        print(f"error: {escape.terminal(loss)}", file=sys.stderr, flush=True)
        os._exit(STOPPED)  # an orderly end would wait for the process that is no more
    except Interrupted as stop:
        screen.say(str(stop))
        return None
    finally:
        screen.close()
        if screen.unread:  # saved, and nobody to tell
            raise BrokenPipeError


def _short(folder: str) -> Path:
    """A folder as seen from the current one, where it lies below that."""
    path = Path(folder)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _show(command: Common, folder: Path) -> None:
    """The table for people, and last the report's path."""
    from vidrec import report

    console = _console(command)
    console.print(report.terminal(folder))
    console.tell(folder / "report.html")


def _dry_run(command: Ablate, table: Ablation, settings: dict[str, Any]) -> int:
    from vidrec.report.tables import Columns
    from vidrec.sweeps import runner

    plan = runner.dry_run(table, settings, command.on)
    _answer(command, plan)
    if not command.json:
        heads = ("row", "seed", "settings", "parameters", "group")
        lines = []
        for trial in plan:
            words = ", ".join(f"{name}={value}" for name, value in trial["overrides"].items())
            cells = (trial["row"], trial["seed"], words, f"{trial['params']:,}", trial["group"])
            lines.append(cells)
        shown = Columns(heads, lines, "settings", [["group"], ["parameters"]], title=table.question)
        console = _console(command)
        console.print(shown)
        console.print(_estimated(runner.estimates(table, settings, command.on)))
        groups = len({trial["group"] for trial in plan})
        console.tell(f"{len(plan)} trials in {groups} programs")
    return 0


def _estimated(groups: list[dict[str, Any]]) -> Any:
    """Memory and time of each group, as far as the data set is there."""
    from vidrec.report.tables import Columns

    lines = []
    for group in groups:
        memory, time = "no data yet", "–"
        if group["seconds"] is not None:
            memory, time = f"{group['bytes'] / 1e6:,.0f} MB", f"{group['seconds'] / 60:,.1f} min"
        lines.append((group["group"], group["trials"], memory, time))
    heads = ("group", "trials", "memory", "time at most")
    return Columns(heads, lines, "group", title="on this machine, about")


def report(command: Report, settings: dict[str, Any]) -> int:
    """Rebuilds reports from folders."""
    from vidrec import report as reports

    if not command.folders:
        raise UserError("report needs the folder of a run or of an ablation")
    built = [str(reports.build(folder)) for folder in command.folders]
    events = [str(reports.events(folder)) for folder in command.folders if command.tensorboard]
    _answer(command, {"reports": built, "events": events})
    if not command.json:
        for line in events:
            _console(command).tell(escape.shell(["tensorboard", "--logdir", line]))
        for folder in command.folders:
            _show(command, folder)
    return 0


def compare(command: Compare, settings: dict[str, Any]) -> int:
    """Two runs side by side."""
    from vidrec import report as reports

    names = (folder.resolve().name for folder in (command.first, command.second))
    place = command.workdir / "-".join(("compare", *names))
    out = reports.compare(command.first, command.second, place)
    _answer(command, {"report": str(out)})
    console = _console(command)
    console.print(reports.terminal_of_two(command.first, command.second))
    console.tell(out)
    return 0


def extract(command: Extract, settings: dict[str, Any]) -> int:
    """Features of a data set, into the store."""
    cfg = _experiment(command.experiment, settings)
    from vidrec.training import devices, prepare

    devices.prepare()
    if cfg.encoder.trainable != "none":
        raise UserError("encoder.trainable should be none: a trained encoder has no features yet")

    def work(screen: Any) -> Any:
        return prepare.prepare(cfg, tell=screen.say, progress=screen.extracting)

    data = _work(command, work)
    if data is None:
        return STOPPED
    counts = data.counts()
    unreadable = [{"path": path, "reason": reason} for _, path, reason in data.unreadable]
    _answer(command, {"counts": counts, "unreadable": unreadable, "frames": len(data.values)})
    for line in unreadable:
        _console(command).tell(f"unreadable: {line['path']}: {line['reason']}")
    return 0


def doctor(command: Doctor, settings: dict[str, Any]) -> int:
    """Every clip of a data set, checked."""
    cfg = _experiment(command.experiment, settings)
    from vidrec.data import datasets
    from vidrec.data import doctor as clinic

    def work(screen: Any) -> Any:
        return clinic.examine(datasets.load(cfg.data), cfg.data, screen.extracting)

    findings = _work(command, work)
    if findings is None:
        return STOPPED
    _answer(command, findings)
    if not command.json:
        for line in clinic.lines(findings):
            _console(command).tell(line)
    return 0 if findings["healthy"] else 1


def check(command: Check, settings: dict[str, Any]) -> int:
    """Every configuration of the files, built and traced."""
    from vidrec.sweeps import check as checks
    from vidrec.sweeps import runner

    console, done, failed = _console(command), {}, []
    for path in command.files:
        table, built = _as_ablation(path), 0
        for trial in ablation.with_code(ablation.trials(replace(table, seeds=1))):
            code = runner.group_name(trial.config)
            try:
                if code not in done:
                    done[code] = checks.check(trial.config)
                built += 1
            except UserError as error:
                failed.append(f"{path} {dict(trial.overrides)}: {error}")
        console.tell(f"{path}: {built} settings")
    _answer(command, {"files": len(command.files), "programs": len(done), "failed": failed})
    if failed:
        raise UserError("; ".join(failed))
    return 0


def _launch(command: Ablate, table: Ablation, settings: dict[str, Any]) -> int:
    """The table as jobs of a cluster, or of a pool of this machine's devices."""
    from vidrec.sweeps import cluster
    from vidrec.training.loop import Interrupted

    names = ("partition", "minutes", "gpus", "cpus", "mem", "devices")
    given = {name: getattr(command, name) for name in names}
    given |= {"engine": command.launcher, "sbatch": cluster.parse_sbatch(command.sbatch)}
    options = cluster.read_options(command.site, given)
    console = _console(command)
    if command.dry_run:
        scripts = cluster.dry_run(
            table, command.workdir, options, overrides=settings, on=command.on
        )
        _answer(command, {"scripts": scripts})
        console.tell("\n".join(scripts), lines=True)
        return 0
    try:
        folder = cluster.launch(
            table,
            command.workdir,
            options,
            overrides=settings,
            on=command.on,
            retry=command.retry,
            tell=_screen(command).say,
        )
    except Interrupted as stop:
        console.tell(stop)
        return STOPPED
    return _show_status(command, cluster.status(folder))


def status(command: Status, settings: dict[str, Any]) -> int:
    """How a table fills."""
    from vidrec.sweeps import cluster

    return _show_status(command, cluster.status(command.folder))


STATUS = ("group", "trials", "epoch", "best", "job", "state", "log", "why")


def _status_cells(row: dict[str, Any]) -> list[str]:
    """A group's cells, or those of the job that makes the data."""
    told = {name: row[name] or "" for name in ("group", "job", "state", "log", "why")}
    if "trials" in row:
        told["trials"] = f"{row['finished']} of {row['trials']}"
        told["epoch"] = f"{row['epoch']} of {row['epochs']}"
        told["best"] = "" if row["best"] is None else f"{row['best']:.3f}"
    return [told.get(name, "") for name in STATUS]


def _show_status(command: Common, found: dict[str, Any]) -> int:
    from vidrec.report.tables import Columns

    _answer(command, found)
    console = _console(command)
    if found["note"]:
        console.tell(found["note"])
    rows = [found["data"] | {"group": "data"}] if found["data"] else []
    rows += found["groups"]
    shown = Columns(
        STATUS, map(_status_cells, rows), "state", [["epoch"], ["job"], ["why"], ["log"]]
    )
    console.print(shown)
    fitting = shown.fitting(console.width)
    for row in rows:
        told = [row[name] for name in ("why", "log") if row[name] and name not in fitting]
        if told and row["state"] != "done":
            console.tell(f"{row['group']}: {', '.join(told)}")
    console.tell(f"{found['finished']} of {found['trials']} trials finished")
    last = found["report"] or found["dir"]
    console.tell(last)
    return 0


def cancel(command: Cancel, settings: dict[str, Any]) -> int:
    """Ends a table's jobs."""
    from vidrec.sweeps import cluster

    ended = cluster.cancel(command.folder)
    _answer(command, {"cancelled": ended})
    _console(command).tell(f"cancelled: {', '.join(ended) or 'no job was running'}")
    return 0


def predict(command: Predict, settings: dict[str, Any]) -> int:
    """Answers for files; with --json a line a window and a last line a file."""
    if not command.videos:
        raise UserError("predict needs a video, a folder or a camera after the run's folder")
    if "" in command.videos:  # of an empty variable; as a path it would be the current folder
        raise UserError("the name of a video should not be empty")
    out = command.csv
    if out is None and any(Path(path).is_dir() for path in command.videos):
        out = Path("predictions.csv")
    if command.overlay and len(command.videos) != 1:
        raise UserError("--overlay draws on one video: name one")
    _check_targets(out, command)
    from vidrec.evaluation import predict as answers
    from vidrec.training import devices

    devices.prepare()
    model = answers.Classifier.load(command.folder, trust_code=command.trust_code)
    console, drawn = _console(command), None
    for note in model.notes:
        print(escape.terminal(note), file=sys.stderr)
    if model.chosen:
        console.tell(model.chosen)
    if command.overlay:
        options = {"stream": command.stream, "every": command.every}
        told = [answers.overlay(model, command.videos[0], command.overlay, **options)]
        drawn = command.overlay if told[0]["class"] is not None else None
    else:
        told = answers.lines(model, command.videos, stream=command.stream, every=command.every)
    answered = []
    for line in told:
        if command.json:
            _to_stdout(line)
        else:
            console.tell(answers.as_text(line))
        if "start" not in line:
            answered.append(line)
    if out:
        text = io.StringIO()
        answers.write_csv(answered, text)
        files.write_whole(out, text.getvalue())
    for written in filter(None, (out, drawn)):
        console.tell(written)
    return int(any(line["class"] is None for line in answered))


def _check_targets(out: Path | None, command: Predict) -> None:
    """What is written after the work: found out before it, and never a video itself."""
    if command.overlay:
        from vidrec.evaluation.predict.drawing import check_name

        check_name(command.overlay)
    for target in filter(None, (out, command.overlay)):
        files.check_writable(target)
        for video in map(Path, command.videos):
            if target.exists() and video.exists() and target.samefile(video):
                raise UserError(f"{target} would replace the video itself: name another file")
    if out and command.overlay and out.resolve() == command.overlay.resolve():
        raise UserError(f"--csv and --overlay both name {out}: name two files")


def evaluate(command: Evaluate, settings: dict[str, Any]) -> int:
    """A trained run on another split or data set."""
    from vidrec.evaluation.predict import score
    from vidrec.training import devices

    devices.prepare()

    def work(screen: Any) -> Any:
        return score(
            command.folder,
            settings,
            part=command.part,
            force=command.force,
            trust_code=command.trust_code,
            tell=screen.say,
            progress=screen.extracting,
        )

    result = _work(command, work)
    if result is None:
        return STOPPED
    _answer(command, result)
    figures = result["metrics"][command.part]
    counts = result["counts"][command.part]
    console = _console(command)
    console.tell(
        f"{figures['accuracy']:.1%} of {counts['scored']} clips ({counts['expected']} expected), "
        f"average F1 {figures['avg_f1']:.3f}",
    )
    console.tell(_short(result["dir"]))
    return 0


def export(command: Export, settings: dict[str, Any]) -> int:
    """A trained model for machines without vidrec."""
    from vidrec.evaluation.export import export as write

    about = write(command.folder, command.out, trust_code=command.trust_code)
    _answer(command, about)
    _console(command).tell(command.out)
    return 0


# Each command by name: its arguments, and what it does; returns the exit status.
COMMANDS: dict[str, tuple[type, Callable[[Any, dict[str, Any]], int]]] = {
    "train": (Train, train),
    "ablate": (Ablate, ablate),
    "evaluate": (Evaluate, evaluate),
    "report": (Report, report),
    "compare": (Compare, compare),
    "predict": (Predict, predict),
    "extract": (Extract, extract),
    "doctor": (Doctor, doctor),
    "check": (Check, check),
    "status": (Status, status),
    "cancel": (Cancel, cancel),
    "export": (Export, export),
}
