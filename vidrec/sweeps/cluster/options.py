"""Define what jobs request from a cluster, and the interface of an engine that starts jobs."""

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vidrec.errors import UserError
from vidrec.io import escape, files

DATA = "data"  # used instead of a group's name for the job that makes the data
Tell = Callable[[str], None]
TOML_TYPES = {"setup": list, "devices": list, "sbatch": dict, "track": list}  # in a site file


@dataclass(frozen=True)
class Options:
    """What a job requests; empty or zero means the cluster's default.

    Attributes:
        engine: The name of an engine in `cluster.ENGINES`.
        partition: The partition of SLURM.
        minutes: Time limit of a job; a job that needs more time is requeued and continues.
        gpus: Number of GPUs of a job.
        cpus: Number of CPU cores of a job.
        mem: Memory of a job in SLURM's notation, such as 16G.
        sbatch: Further options of sbatch, such as `{"account": "vision"}`; True for an option
            without a value.
        setup: Shell commands to run before Python starts, such as `module load cuda`.
        devices: Devices of a local pool, as CUDA_VISIBLE_DEVICES names them.
        track: Names of trackers that show the trials.
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
    track: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("minutes", 1), ("gpus", 0), ("cpus", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name} = {value!r} should be a whole number, {least} or more")
        for name, value in {"partition": self.partition, "mem": self.mem, **self.sbatch}.items():
            _check_line(name, value)


def _check_line(name: str, value: Any) -> None:
    """Refuse an option that would add another line or another option to a job's script."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise UserError(f"--sbatch {escape.terminal(name)}: an option of sbatch is like account")
    if escape.visible(value) != str(value):
        raise UserError(
            f"--sbatch {name}={escape.terminal(value)}: should be one line without control "
            "characters"
        )


@dataclass(frozen=True)
class Handle:
    """A job.

    Attributes:
        group: The group that it trains, or DATA.
        job: The engine's id for it.
        log: The path of its log.
    """

    group: str
    job: str
    log: str


Note = Callable[[Sequence[Handle]], None]


class Engine(Protocol):
    """Where jobs run. To add one, put it into `cluster.ENGINES`."""

    def check(self, options: Options, workdir: Path = Path()) -> list[str]:
        """Return warnings for the user before jobs are started.

        Raises:
            UserError: The jobs cannot be started.
        """

    def submit(
        self, folder: Path, groups: Sequence[str], options: Options, note: Note
    ) -> list[Handle]:
        """Start the job that makes the data, and then one for each group.

        Args:
            folder: The table's folder.
            groups: Names of the groups to train.
            options: What the jobs request.
            note: Called with new jobs as soon as they have ids, so that no job is lost.
        """

    def states(self, handles: Sequence[Handle]) -> dict[str, str]:
        """Return the SLURM state of each known job by id; a state may end in "(reason)"."""

    def cancel(self, handles: Sequence[Handle]) -> None:
        """End exactly these jobs."""


def read_options(site: str | Path | None = None, asked: Mapping[str, Any] | None = None) -> Options:
    """Return the options of a site's TOML file, replaced by those of the command line.

    Args:
        site: The path of the TOML file; None: no file.
        asked: Options of the command line; None for one that was not given.

    Raises:
        UserError: The file cannot be read, or an option is unknown or has the wrong type.
    """
    values: dict[str, Any] = {}
    if site:
        try:
            values = tomllib.loads(files.read_text(files.expanded(site)))
        except files.Missing:
            raise UserError(f"--site {site}: No such file or directory") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"--site {site} is no TOML: {error}") from None
    known = [entry.name for entry in dataclasses.fields(Options)]
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            guess = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
            raise UserError(f"--site {site}: unknown option '{name}'; {guess}")
        right = TOML_TYPES.get(name, type(getattr(Options(), name)))
        if not isinstance(value, right):
            raise UserError(f"--site {site}: {name} = {value!r} should be a {right.__name__}")
    chosen = {name: value for name, value in (asked or {}).items() if value is not None}
    sbatch = values.get("sbatch", {}) | dict(chosen.pop("sbatch", {}))
    merged = values | chosen | {"sbatch": sbatch}
    # A device may be a number in the file; CUDA_VISIBLE_DEVICES is text.
    lists = {n: tuple(map(str, v)) for n, v in merged.items() if isinstance(v, list | tuple)}
    return Options(**(merged | lists))


def parse_sbatch(words: Sequence[str]) -> dict[str, Any]:
    """Return words such as `account=vision` and `exclusive` as options of sbatch."""
    parts = [word.removeprefix("--").partition("=") for word in words]
    if not all(name for name, _, _ in parts):
        raise UserError(f"--sbatch {escape.shell(words)}: should be like account=vision")
    return {name: value if equals else True for name, equals, value in parts}
