"""The commands that write reports: `report` of one run or ablation, `compare` of two runs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from tyro.conf import Positional

from vidrec.cli.command import Command, Flag
from vidrec.errors import UserError
from vidrec.io import escape


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Rebuild the report of a run or an ablation from its folder alone.

    Example: python launch.py report runs/scanners-1a2b3c4d --tensorboard
    """

    folders: Positional[tuple[Path, ...]] = ()  # of runs and ablations, or their names
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
    """Which classes improve from one run to another, and what the difference is worth.

    The page goes to WORKDIR/compare-FIRST-SECOND/report.html.

    Example: python launch.py compare runs/motion-1a2b3c4d runs/motion-5e6f7a8b
    """

    first: Positional[Path]  # folder or name of a run or an ablation: the one before
    second: Positional[Path]  # and the one after

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
