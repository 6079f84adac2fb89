"""The command line: tyro over the settings' dataclasses.

Machine-readable answers (`--json`) go to stdout, everything else then to stderr. The exit status is
0 when the work was done, 2 and one line for a user's mistake, 75 when it was asked to stop and has
saved (a scheduler may start it again).
"""

import contextlib
import difflib
import json
import math
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import FlagConversionOff, Positional, UseAppendAction

from vidrec import ablation, config
from vidrec.ablation import Ablation, Row, load
from vidrec.config import Config
from vidrec.errors import UserError

STOPPED = 75  # EX_TEMPFAIL of sysexits.h
Settings = Annotated[Config, tyro.conf.arg(name=""), FlagConversionOff]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True, kw_only=True)
class Common:
    """Common to all commands."""

    workdir: Path = Path("runs")  # where runs are kept
    json: Flag = False  # machine-readable result on stdout, everything else on stderr


@dataclass(frozen=True, kw_only=True)
class Train(Common):
    """Train one experiment.

    Example: python launch.py train experiments/motion.py --scanner.kind gru --seed 1
    """

    experiment: Positional[str] = "experiments/motion.py"  # a file with config(), or its bare name
    settings: Settings = field(default_factory=Config)


@dataclass(frozen=True, kw_only=True)
class Ablate(Common):
    """Fill a table: every row with every seed, many trials in one program.

    Example: python launch.py ablate ablations/learning_rate.py --on motion --seeds 5
    """

    files: Positional[tuple[str, ...]] = ("ablations/scanners.py",)  # ablations or experiments
    seeds: Annotated[int, config.Range(0)] = 0  # seeds a row; 0: as the file says
    dry_run: Flag = False  # list the trials, train nothing
    on: Literal["", "motion"] = ""  # run on the embedded data instead
    axis: UseAppendAction[tuple[str, ...]] = ()  # optim.learning_rate=1e-3,1e-4 (repeatable)
    exclude: UseAppendAction[tuple[str, ...]] = ()  # scanner.kind=gru,scanner.units=50
    retry: Literal["", "failed"] = ""  # train failed trials anew
    launcher: Literal["local", "slurm"] = "local"
    settings: Settings = field(default_factory=Config)


@dataclass(frozen=True, kw_only=True)
class Report(Common):
    """Rebuild the report of a run or an ablation from its folder alone."""

    folders: Positional[tuple[Path, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class Compare(Common):
    """Which classes improve from one run to another, and what the difference is worth."""

    first: Positional[Path]
    second: Positional[Path]


@dataclass(frozen=True, kw_only=True)
class Extract(Common):
    """Fill the feature store only."""

    experiment: Positional[str]
    settings: Settings = field(default_factory=Config)


@dataclass(frozen=True, kw_only=True)
class Doctor(Common):
    """Check every clip of a data set: names, counts, decoding, duplicates, leaks."""

    experiment: Positional[str]
    settings: Settings = field(default_factory=Config)


@dataclass(frozen=True, kw_only=True)
class Check(Common):
    """Build every configuration of these files and trace one step: needs no data."""

    files: Positional[tuple[str, ...]] = ()


COMMANDS = {
    "train": Train,
    "ablate": Ablate,
    "report": Report,
    "compare": Compare,
    "extract": Extract,
    "doctor": Doctor,
    "check": Check,
}
# A union made from a table of commands has no other spelling.
_CHOICE = Union[tuple(Annotated[kind, tyro.conf.subcommand(n)] for n, kind in COMMANDS.items())]  # noqa: UP007
COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")
OVERVIEW = (
    "Which recurrent video classifier is better, and by how much. "
    "Without a command: the table of scanners on the embedded data, to a report."
)


def main(argv: list[str] | None = None) -> None:
    """Parses, works, and leaves with the status that the module's text names."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        command, settings = parse(argv)
        with _only_answers_on_stdout(command):
            status = WORK[type(command)](command, settings)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last save", file=sys.stderr)
        status = 128 + signal.SIGINT
    sys.exit(status)


def parse(argv: list[str]) -> tuple[Any, dict[str, Any]]:
    """The command, and the settings that were given, by dotted name."""
    if not argv or (argv[0].startswith("--") and argv[0] not in ("--help", *COMPLETION)):
        argv = ["ablate", "ablations/scanners.py", *argv]  # the default job
    name = argv[0]
    if name not in COMMANDS and not name.startswith("-"):
        near = difflib.get_close_matches(name, COMMANDS, 1)
        guess = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(COMMANDS)}"
        raise UserError(f"unknown command '{name}'{guess}")
    rest, settings = _settings(argv)
    if settings and not any(entry.name == "settings" for entry in fields(COMMANDS[name])):
        raise UserError(f"'launch.py {name}' takes no settings such as {next(iter(settings))}")
    command, unknown = tyro.cli(
        _CHOICE,
        args=rest,
        prog="launch.py",
        description=OVERVIEW,
        return_unknown_args=True,
    )
    if unknown:
        options = [f"--{entry.name.replace('_', '-')}" for entry in fields(command)]
        near = difflib.get_close_matches(unknown[0], options, 1)
        guess = f"; did you mean '{near[0]}'?" if near else f"; see 'launch.py {name} --help'"
        raise UserError(f"unknown option '{unknown[0]}'{guess}")
    return command, settings


def _settings(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Takes `--section.field VALUE …` (and `--seed`) out of the words of a command line.

    They are read here, not by tyro, whose help lists them: so a typo or a wrong value gets the one
    line that `override` has for it.
    """
    rest, settings, words = [], {}, list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or not ("." in name or name == "seed"):
            rest.append(word)
            continue
        values = [value] if equals else []
        while not equals and words and not words[0].startswith("--"):
            values.append(words.pop(0))
            if not config.takes_many(name):
                break
        if not values:
            raise UserError(f"{name} needs a value")
        settings[name] = config.parse(name, ",".join(values))
    return rest, settings


@contextlib.contextmanager
def _only_answers_on_stdout(command: Common) -> Iterator[None]:
    """With --json, whatever a library prints goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr if command.json else sys.stdout):
        yield


def _console(command: Common) -> Console:
    """Where people read: stdout, or stderr when stdout is for a machine."""
    return Console(stderr=command.json)


def _answer(command: Common, content: Any) -> None:
    if command.json:
        print(json.dumps(_jsonable(content), ensure_ascii=False), file=sys.__stdout__)


def _jsonable(content: Any) -> Any:
    """Standard JSON knows no NaN: null says that a figure does not exist."""
    if isinstance(content, dict):
        return {str(name): _jsonable(each) for name, each in content.items()}
    if isinstance(content, list | tuple):
        return [_jsonable(each) for each in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _screen(command: Common) -> Any:
    """Progress on the console; Ctrl-C and SIGTERM save and leave."""
    from vidrec.progress import Screen

    screen = Screen(_console(command))
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, screen.stop)
    return screen


def _prepare_jax() -> None:
    """Programs compiled once are kept; a processor with several cores trains several trials."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(config.cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _experiment(path: str, settings: dict[str, Any]) -> Config:
    found = load(path)
    if not isinstance(found, Config):
        raise UserError(f"{path} is an ablation: use 'launch.py ablate {path}'")
    return config.override(found, settings)


def _table(command: Ablate) -> Ablation:
    """The files' rows one after another, crossed with the command line's axes."""
    if not command.files:
        raise UserError("ablate needs a file, for example ablations/scanners.py")
    tables = [_as_ablation(path) for path in command.files]
    table = tables[0] if len(tables) == 1 else ablation.join(tables)
    if command.axis:
        table = ablation.cross(table, dict(_axis(text) for text in command.axis))
    if command.exclude:
        table = ablation.exclude(table, [_point(text) for text in command.exclude])
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
    return name, [config.parse(name, value) for value in values.split(",")]


def _point(text: str) -> dict[str, Any]:
    parts = [part.partition("=") for part in text.split(",")]
    if not all(equals for _, equals, _ in parts):
        raise UserError(f"--exclude {text}: should be like scanner.kind=gru,scanner.units=50")
    return {name: config.parse(name, value) for name, _, value in parts}


def train(command: Train, settings: dict[str, Any]) -> int:
    """One experiment, to a report."""
    cfg = _experiment(command.experiment, settings)
    _prepare_jax()
    from vidrec import grid

    def work(screen: Any) -> Any:
        name = Path(command.experiment).stem
        return grid.run(cfg, command.workdir, name=name, screen=screen)

    result = _work(command, work)
    if result is None:
        return STOPPED
    _answer(command, result)
    _show(command, Path(result["dir"]))
    return 0 if result["status"] == "done" else 1


def ablate(command: Ablate, settings: dict[str, Any]) -> int:
    """A table, to a report."""
    table = _table(command)
    if command.dry_run:
        return _dry_run(command, table, settings)
    _prepare_jax()
    from vidrec import grid

    def work(screen: Any) -> Any:
        return grid.ablate(
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
        _answer(command, {"dir": str(filled.folder), "rows": rows, "trials": filled.trials})
    _show(command, filled.folder)
    return int(any(trial["status"] == "failed" for trial in filled.trials))


def _work(command: Common, work: Callable[[Any], Any]) -> Any:
    """What `work` returns; None when it was asked to stop and has saved."""
    from vidrec.train import Interrupted

    screen = _screen(command)
    try:
        return work(screen)
    except Interrupted as stop:
        screen.say(str(stop))
        return None
    finally:
        screen.close()


def _show(command: Common, folder: Path) -> None:
    """The table for people, and last the report's path."""
    from vidrec import report

    console = _console(command)
    console.print(report.terminal(folder))
    console.print(str(folder / "report.html"), highlight=False, soft_wrap=True, markup=False)


def _dry_run(command: Ablate, table: Ablation, settings: dict[str, Any]) -> int:
    from vidrec import grid

    plan = grid.dry_run(table, settings, command.on)
    _answer(command, plan)
    if not command.json:
        shown = Table("row", "seed", "settings", "parameters", "group", title=table.question)
        for trial in plan:
            words = ", ".join(f"{name}={value}" for name, value in trial["overrides"].items())
            cells = (trial["row"], trial["seed"], words, f"{trial['params']:,}", trial["group"])
            shown.add_row(*map(str, cells))
        console = _console(command)
        console.print(shown)
        groups = len({trial["group"] for trial in plan})
        console.print(f"{len(plan)} trials in {groups} programs")
    return 0


def report(command: Report, settings: dict[str, Any]) -> int:
    """Rebuilds reports from folders."""
    from vidrec import report as reports

    if not command.folders:
        raise UserError("report needs the folder of a run or of an ablation")
    built = [str(reports.build(folder)) for folder in command.folders]
    _answer(command, {"reports": built})
    if not command.json:
        for folder in command.folders:
            _show(command, folder)
    return 0


def compare(command: Compare, settings: dict[str, Any]) -> int:
    """Two runs side by side."""
    from vidrec import report as reports

    out = reports.compare(command.first, command.second, command.workdir)
    _answer(command, {"report": str(out)})
    _console(command).print(str(out), highlight=False, soft_wrap=True, markup=False)
    return 0


def extract(command: Extract, settings: dict[str, Any]) -> int:
    """Features of a data set, into the store."""
    cfg = _experiment(command.experiment, settings)
    _prepare_jax()
    from vidrec import prepare

    if cfg.encoder.trainable != "none":
        raise UserError("encoder.trainable should be none: a trained encoder has no features yet")
    screen = _screen(command)
    data = prepare.prepare(cfg, tell=screen.say, progress=screen.extracting)
    screen.close()
    counts = data.counts()
    unreadable = [{"path": path, "reason": reason} for _, path, reason in data.unreadable]
    _answer(command, {"counts": counts, "unreadable": unreadable, "frames": len(data.values)})
    for line in unreadable:
        _console(command).print(f"unreadable: {line['path']}: {line['reason']}", markup=False)
    return 0


def doctor(command: Doctor, settings: dict[str, Any]) -> int:
    """Every clip of a data set, checked."""
    cfg = _experiment(command.experiment, settings)
    from vidrec import datasets
    from vidrec.datasets import doctor as clinic

    screen = _screen(command)
    findings = clinic.examine(datasets.load(cfg.data), cfg.data, screen.extracting)
    screen.close()
    _answer(command, findings)
    if not command.json:
        for line in clinic.lines(findings):
            screen.say(line)
    return 0 if findings["healthy"] else 1


def check(command: Check, settings: dict[str, Any]) -> int:
    """Every configuration of the files, built and traced."""
    from vidrec import check as checks
    from vidrec import grid

    console, done, failed = _console(command), {}, []
    for path in command.files:
        table, rows = _as_ablation(path), []
        for trial in ablation.trials(replace(table, seeds=1)):
            code = grid.group_name(trial.config)
            try:
                if code not in done:
                    done[code] = checks.check(trial.config)
                rows.append({"overrides": dict(trial.overrides), "params": done[code]})
            except UserError as error:
                failed.append(f"{path} {dict(trial.overrides)}: {error}")
        console.print(f"{path}: {len(rows)} settings", highlight=False, markup=False)
    _answer(command, {"files": len(command.files), "programs": len(done), "failed": failed})
    if failed:
        raise UserError("; ".join(failed))
    return 0


WORK = {
    Train: train,
    Ablate: ablate,
    Report: report,
    Compare: compare,
    Extract: extract,
    Doctor: doctor,
    Check: check,
}
