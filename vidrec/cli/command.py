"""What all commands share: their common options, answers, progress, and how they are stopped."""

import contextlib
import gc
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import tyro
from tyro.conf import FlagConversionOff, Positional

from vidrec.cli.output import Terminal, keep_stdout_for_json, print_json, warn
from vidrec.config import Config
from vidrec.errors import STOPPED

# Shown by --help; `main.parse` takes the settings out of the command line before tyro sees it.
Settings = Annotated[Config, tyro.conf.arg(name=""), FlagConversionOff]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
# Arguments that are given by position, under the names that --help shows.
Experiment = Annotated[str, Positional, tyro.conf.arg(metavar="EXPERIMENT")]
Files = Annotated[tuple[str, ...], Positional, tyro.conf.arg(metavar="[FILE ...]")]
Folder = Annotated[Path, Positional, tyro.conf.arg(metavar="FOLDER")]
Folders = Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="[FOLDER ...]")]
# Fields that hold the folder of a run, or its name.
RUN_FIELDS = ("folder", "first", "second")
Result = TypeVar("Result")


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import modules without garbage collection, since imports create no garbage.

    Collection would take an eighth of a short command's time. Later collections skip the imported
    objects.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@dataclass(frozen=True, kw_only=True)
class Command:
    """Base class of all commands."""

    workdir: Path = Path("runs")  # folder in which runs are kept
    json: Flag = False  # machine-readable result on stdout, everything else on stderr

    def run(self, settings: dict[str, Any]) -> int:
        """Do the command's work.

        Args:
            settings: The settings given on the command line, by dotted name.

        Returns:
            The exit status.

        Raises:
            UserError: The command cannot do what was asked.
        """
        raise NotImplementedError

    def with_run_folders(self) -> Self:
        """Return the command with each run that it names replaced by the path of the run."""
        named = {name: getattr(self, name) for name in RUN_FIELDS if getattr(self, name, None)}
        paths: dict[str, Any] = {name: self.find_run(path) for name, path in named.items()}
        return replace(self, **paths)

    def run_folders(self) -> list[Path]:
        """Return the folders of the runs that the command reads."""
        return [Path(getattr(self, name)) for name in RUN_FIELDS if getattr(self, name, None)]

    def find_run(self, path: Path) -> Path:
        """Return the folder of a run, named by its path, its folder's name or its plain name.

        Raises:
            UserError: No run, or more than one, has this name.
        """
        from vidrec.io import runs

        return runs.find(path, self.workdir)

    def prints(self) -> bool:
        """Return whether this process prints; of several processes only the first one does."""
        return True

    def console(self) -> Terminal:
        """Return the console for people: stdout, or stderr if stdout is for a program."""
        return Terminal(stderr=self.json, quiet=not self.prints())

    def answer(self, content: Any) -> None:
        """Print the command's answer as JSON, if --json asks for it."""
        if self.json and self.prints():
            print_json(content)

    def show_report(self, folder: Path) -> None:
        """Print the table of a run or an ablation, and then the path of its report."""
        from vidrec import report

        console = self.console()
        console.print(report.terminal(folder))
        console.tell(folder / "report.html")


@dataclass(frozen=True, kw_only=True)
class SharedCommand(Command):
    """Base class of commands that several processes can work on together.

    Each process gets the same command with its own number. The tasks of a SLURM step need no
    numbers: SLURM gives them.
    """

    coordinator: str = ""  # HOST:PORT that the first process listens on
    processes: int = 0  # number of processes that work together
    process: int = -1  # number of this process, counted from 0

    def prints(self) -> bool:
        """Return whether this is the first of the processes."""
        from vidrec.training import devices

        return devices.is_main()

    def join(self) -> None:
        """Configure JAX for this process, and connect to the other processes, if there are any."""
        with importing():
            from vidrec.training import runtime

        runtime.configure()
        runtime.join(self.coordinator, self.processes, self.process)
        if self.json and runtime.processes() > 1:
            keep_stdout_for_json()


def reporter(command: Command) -> Any:
    """Return a progress reporter; Ctrl-C and SIGTERM ask it to stop the work after a save."""
    from vidrec.cli.progress import ConsoleReporter

    progress = ConsoleReporter(command.console())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, progress.stop)
    return progress


def run_until_stopped(command: Command, work: Callable[[Any], Result]) -> Result | None:
    """Do long work that shows its progress and can be stopped.

    Args:
        command: The command on whose console progress is shown.
        work: The work, a function that takes a `progress.ConsoleReporter`.

    Returns:
        What `work` returns; None if it was asked to stop and has saved.

    Raises:
        BrokenPipeError: Nobody reads the output any more; the work is saved.
    """
    from vidrec.training.loop import Interrupted, WorkerLost

    progress = reporter(command)
    try:
        return work(progress)
    except WorkerLost as loss:
        warn(f"error: {loss}")
        os._exit(STOPPED)  # a normal exit would wait for the lost process
    except Interrupted as stop:
        progress.say(str(stop))
        return None
    finally:
        progress.close()
        if progress.unread:
            raise BrokenPipeError
