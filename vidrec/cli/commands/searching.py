"""The command that searches settings: `search`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import UseAppendAction

from vidrec import config
from vidrec.cli.command import Command, Experiment, Settings, run_until_stopped
from vidrec.cli.commands.training import Trackers
from vidrec.cli.experiments import find_weights, read_experiment
from vidrec.config import Config
from vidrec.config.schema import PositiveInt
from vidrec.errors import STOPPED, UserError

Factor = Annotated[int, config.Range(0, 1000)]


@dataclass(frozen=True, kw_only=True)
class Search(Command):
    """Find the settings that are best on validation clips, and score them on test clips.

    A space is NAME=LOW:HIGH, NAME=log:LOW:HIGH (a logarithmic scale) or NAME=A,B,C. Optuna proposes
    each round of settings from the results so far. Settings that one compiled program can train are
    trained together. With --halving 3 only the best third of a round continues after some epochs,
    and the best ninth after more. No test clip is used until the best setting is chosen. This
    setting is then trained again with new seeds, as a table named NAME-chosen. The command needs
    the extra `search`. If it is killed, the same command continues, also with more --trials or
    --seeds.

    Example: vidrec search motion --space optim.learning_rate=log:1e-4:1e-2 --halving 3
    """

    experiment: Experiment  # a file with config(), or its bare name
    # space to search: optim.learning_rate=log:1e-4:1e-2, scanner.units=32,64, scanner.dropout=0:0.6
    space: UseAppendAction[tuple[str, ...]] = ()
    trials: PositiveInt = 64  # settings that are tried
    # after each rung one trial in this many continues; 0: all are trained to the end
    halving: Factor = 0
    # epochs after which trials are compared: 1,3,9,27; empty: train.epochs divided by the square of
    # HALVING, and by HALVING
    rungs: str = ""
    round: PositiveInt = 16  # settings that are proposed at once and train together
    seeds: PositiveInt = 3  # new seeds with which the best setting is trained again
    name: str = ""  # name of the search, whose folder is WORKDIR/NAME-ID; empty: search-EXPERIMENT
    # show the trials, and those of the chosen setting, in a tracker while they train; repeat the
    # option for several trackers. Each needs an extra to be installed
    track: Trackers = ()
    settings: Settings = field(default_factory=Config)

    def run(self, settings: dict[str, Any]) -> int:
        """Search, train the chosen setting again, and report; see `Command.run`."""
        from vidrec.sweeps.search import engine, space

        engine.load()  # before anything is read
        wanted = space.parse(self.space)
        cfg = read_experiment(self.experiment, find_weights(settings, self.find_run))
        return self._search(cfg, wanted)

    def _search(self, cfg: Config, wanted: Mapping[str, Any]) -> int:
        from vidrec.sweeps import search
        from vidrec.training import runtime

        runtime.configure()

        def work(progress: Any) -> search.Found:
            return search.search(
                cfg,
                wanted,
                self.workdir,
                name=self.name or f"search-{Path(self.experiment).stem}",
                trials=self.trials,
                halving=self.halving,
                rungs=_rungs(self.rungs),
                at_once=self.round,
                seeds=self.seeds,
                screen=progress,
                track=self.track,
            )

        found = run_until_stopped(self, work)
        if found is None:
            return STOPPED
        self.answer(
            {
                "dir": str(found.folder.absolute()),
                "chosen": found.chosen,
                "table": str(found.table.folder.absolute()),
                "rows": [dict(row) for row in found.table.rows],
                "epochs": found.epochs,
                "of_epochs": found.of_epochs,
                "importance": found.importance,
                "trials": found.trials,
            }
        )
        self.show_report(found.folder)
        return int(any(trial["status"] == "failed" for trial in found.table.trials))


def _rungs(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--rungs {text}: should be epochs, such as 1,3,9,27")
    return list(map(int, parts))
