"""The commands on existing runs: `runs` lists them, `report` and `compare` write pages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Self

from tyro.conf import Positional, arg

from vidrec.cli.command import Command, Flag, Folders
from vidrec.errors import UserError
from vidrec.io import escape


@dataclass(frozen=True, kw_only=True)
class Runs(Command):
    """List the runs, ablations and searches of a folder, the latest first.

    The list shows name, status, test figure and folder; on a wide terminal it also shows the kind
    and the time of the last change. The test figure of an ablation is that of the row that is best
    on validation clips. The test figure of a search is that of the chosen setting.

    Example: vidrec runs runs
    """

    # folder whose runs are listed; by default that of --workdir
    folder: Annotated[Path | None, Positional, arg(metavar="[FOLDER]")] = None

    def with_run_folders(self) -> Self:
        """Return the command unchanged: the folder that it names is not a run."""
        return self

    def run_folders(self) -> list[Path]:
        """Return no folder: a run that cannot be understood is listed as such."""
        return []

    def run(self, settings: dict[str, Any]) -> int:
        """List the runs; see `Command.run`."""
        from vidrec.io import files
        from vidrec.report.listing import (
            commands_of_equal_names,
            listing,
            unknown_recordings,
        )

        folder = files.expanded(self.folder or self.workdir)
        entries = listing(folder)
        self.answer([entry.plain() for entry in entries])
        if self.json:
            return 0
        console = self.console()
        if entries:
            console.print(_shown(entries))
            for line in commands_of_equal_names(entries) + unknown_recordings(entries):
                console.tell(line)
            if any(entry.kind == "ablation" and entry.value is not None for entry in entries):
                console.tell(
                    "The figure of an ablation is of its best row on validation, or else on test."
                )
        else:
            console.tell(f"{folder} holds no run, no ablation and no search")
        return 0


def _shown(entries: Sequence[Any]) -> Any:
    """Return a table of entries for people."""
    from vidrec.report.formats import percent
    from vidrec.report.terminal import Columns

    figures = {entry.figure for entry in entries if entry.figure}
    lines = []
    for entry in entries:
        value = percent(entry.value)
        if len(figures) > 1 and entry.value is not None:
            value += f" {entry.figure}"
        when = datetime.fromtimestamp(entry.when).strftime("%Y-%m-%d %H:%M")
        words = (entry.name, entry.kind, entry.status, value, when, entry.dir.name)
        lines.append(words)
    head = f"test {figures.pop()}" if len(figures) == 1 else "test"
    heads = ("name", "kind", "status", head, "when", "folder")
    return Columns(heads, lines, "folder", [["kind"], ["when"]])


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Rebuild the report of a run or an ablation from its folder alone.

    Example: vidrec report runs/scanners-1a2b3c4d --tensorboard
    """

    folders: Folders = ()  # folders of runs and ablations, or their names
    tensorboard: Flag = False  # write the curves as TensorBoard events, too

    def with_run_folders(self) -> Self:
        """Return the command with the path of each run; see `Command.with_run_folders`."""
        return replace(self, folders=tuple(self.find_run(path) for path in self.folders))

    def run_folders(self) -> list[Path]:
        """Return the folders of the runs that are reported."""
        return list(self.folders)

    def run(self, settings: dict[str, Any]) -> int:
        """Write the reports; see `Command.run`."""
        from vidrec import report

        if not self.folders:
            raise UserError("report needs the folder of a run or of an ablation")
        reports = [str(report.build(folder)) for folder in self.folders]
        events = [str(report.events(folder)) for folder in self.folders if self.tensorboard]
        self.answer({"reports": reports, "events": events})
        if not self.json:
            for folder in events:
                self.console().tell(escape.shell(["tensorboard", "--logdir", folder]))
            for run in self.folders:
                self.show_report(run)
        return 0


@dataclass(frozen=True, kw_only=True)
class Compare(Command):
    """Show which classes improve from one run to another, and the difference with its interval.

    Of an ablation, the row that is best on validation is compared, and the command names it. The
    page goes to WORKDIR/compare-FIRST-SECOND/report.html.

    Example: vidrec compare runs/motion-1a2b3c4d runs/motion-5e6f7a8b
    """

    # folder or name of a run or an ablation: the earlier one
    first: Annotated[Path, Positional, arg(metavar="FIRST")]
    # folder or name of a run or an ablation: the later one
    second: Annotated[Path, Positional, arg(metavar="SECOND")]

    def run(self, settings: dict[str, Any]) -> int:
        """Write and show the comparison; see `Command.run`."""
        from vidrec import report

        names = (folder.resolve().name for folder in (self.first, self.second))
        folder = self.workdir / "-".join(("compare", *names))
        page = report.compare(self.first, self.second, folder)
        self.answer({"report": str(page)})
        console = self.console()
        console.print(report.terminal_of_two(self.first, self.second))
        console.tell(page)
        return 0
