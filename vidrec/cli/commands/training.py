"""The commands that train: `train` one experiment, `ablate` a table of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import UseAppendAction

from vidrec import config
from vidrec.cli.command import (
    Experiment,
    Files,
    Flag,
    Settings,
    SharedCommand,
    importing,
    reporter,
    run_until_stopped,
)
from vidrec.cli.commands.jobs import show_status
from vidrec.cli.experiments import (
    find_weights,
    read_axes,
    read_experiment,
    read_table,
    warn_of_settings,
)
from vidrec.cli.output import short_path, warn
from vidrec.config import Config
from vidrec.config.schema import NonNegativeInt
from vidrec.config.shipped import Shipped
from vidrec.errors import STOPPED, UserError
from vidrec.io.words import counted
from vidrec.sweeps.ablation import Ablation

# Names of trackers; what is tracked is not a setting, and a run's id does not depend on it.
Trackers = UseAppendAction[tuple[Literal["tensorboard", "mlflow", "wandb"], ...]]
# Used if no file is named: vidrec's own, even if the current folder has one of this name.
EXPERIMENT = Shipped("experiments/motion.py")
TABLES: tuple[str, ...] = (Shipped("ablations/scanners.py"),)
# Options of `ablate` that describe a job.
JOB_OPTIONS = ("partition", "minutes", "gpus", "cpus", "mem", "devices")


@dataclass(frozen=True, kw_only=True)
class Train(SharedCommand):
    """Train one experiment, or a finished run for more epochs.

    With --more-epochs, EXPERIMENT is the folder or name of a finished run. A new run continues with
    that run's weights and optimiser. It has the same settings, except for those that you give, such
    as a lower learning rate.

    Example: vidrec train experiments/motion.py --scanner.kind gru --seed 1
    """

    experiment: Experiment = EXPERIMENT  # a file with config(), or its bare name
    more_epochs: NonNegativeInt = 0  # train this finished run for this many more epochs
    trust_code: Flag = False  # with --more-epochs: run the code files that the run keeps
    name: str = ""  # name of the run, whose folder is WORKDIR/NAME-ID; empty: the experiment's
    # show the run in a tracker while it trains; repeat the option for several trackers. Each needs
    # an extra to be installed and reads its own variables (MLFLOW_TRACKING_URI, WANDB_MODE)
    track: Trackers = ()
    settings: Settings = field(default_factory=Config)

    def run(self, settings: dict[str, Any]) -> int:
        """Train, score and report; see `Command.run`."""
        typed = find_weights(settings, self.find_run)
        cfg = (
            self._continued(typed) if self.more_epochs else read_experiment(self.experiment, typed)
        )
        self.join()
        with importing():
            from vidrec.sweeps import runner

        def work(progress: Any) -> dict[str, Any]:
            name = self.name or self._name()
            return runner.run(cfg, self.workdir, name=name, screen=progress, track=self.track)

        result = run_until_stopped(self, work)
        if result is None:
            return STOPPED
        self.answer(result)
        self.show_report(short_path(result["dir"]))
        return 0 if result["status"] == "done" else 1

    def _continued(self, typed: Mapping[str, Any]) -> Config:
        """Return the settings of the run to continue, changed by those of the command line."""
        from vidrec.training import continuing

        if self.experiment == EXPERIMENT:
            raise UserError("--more-epochs needs the folder of a finished run, or its name")
        for name in ("train.epochs", "train.continues"):
            if name in typed:
                raise UserError(f"--more-epochs decides {name}: leave --{name} out")
        folder = self.find_run(Path(self.experiment))
        own = continuing.more_epochs(folder, self.more_epochs, trust_code=self.trust_code)
        return config.resolve_paths(config.override(own, typed), Path.cwd())

    def _name(self) -> str:
        """Return the run's name: the experiment's, or that of the run that it continues."""
        if not self.more_epochs:
            return Path(self.experiment).stem
        from vidrec.io import files

        folder = self.find_run(Path(self.experiment))
        return files.read_result(folder).get("name") or folder.name


@dataclass(frozen=True, kw_only=True)
class Ablate(SharedCommand):
    """Train a table: every row with every seed, many trials in one program.

    Example: vidrec ablate ablations/learning_rate.py --on motion --seeds 5
    """

    files: Files = TABLES  # ablations or experiments
    name: str = ""  # name of the table, whose folder is WORKDIR/NAME-ID; empty: the file's
    # number of seeds of each row; 0: as the file says
    seeds: Annotated[int, config.Range(0, 10_000)] = 0
    dry_run: Flag = False  # list the trials and train nothing
    on: Literal["", "motion"] = ""  # run on generated data instead of the table's
    # score every clip out of fold: official (UCF-101's three lists), recordings (each left out in
    # turn), or a number of parts
    folds: str = ""
    # every row with each of these values: optim.learning_rate=1e-3,1e-4
    axis: UseAppendAction[tuple[str, ...]] = ()
    # leave out the rows that have all of these: scanner.kind=gru,scanner.units=50
    exclude: UseAppendAction[tuple[str, ...]] = ()
    # values from which each row takes its best, by one seed on validation clips, before the table
    # is trained: optim.learning_rate=3e-4,1e-3,3e-3
    tune: UseAppendAction[tuple[str, ...]] = ()
    retry: Literal["", "failed"] = ""  # train failed trials again
    # show the trials, also those of jobs, in a tracker while they train; repeat the option for
    # several trackers. Each needs an extra to be installed and reads its own variables
    # (MLFLOW_TRACKING_URI)
    track: Trackers = ()
    launcher: Literal["local", "slurm", "pool"] = "local"  # pool: one job for each local device
    partition: str | None = None  # of SLURM; this and the following options replace those of --site
    minutes: int | None = None  # time limit of a job; longer work continues in another job
    gpus: int | None = None  # number of GPUs of a job
    cpus: int | None = None  # number of CPU cores of a job
    mem: str | None = None  # memory of a job: 16G
    sbatch: UseAppendAction[tuple[str, ...]] = ()  # further options: account=vision, exclusive
    site: Path | None = None  # TOML file of defaults: partition, minutes, gpus, sbatch, setup …
    # devices of the pool, as CUDA_VISIBLE_DEVICES names them
    devices: tuple[str, ...] | None = None
    settings: Settings = field(default_factory=Config)

    def run(self, settings: dict[str, Any]) -> int:
        """Train the table here, start its jobs, or list its trials; see `Command.run`."""
        table, overrides = self.table(), find_weights(settings, self.find_run)
        warn_of_settings(table, overrides, self.on)
        if self.launcher == "slurm" or (self.launcher == "pool" and not self.dry_run):
            return self._launch(table, overrides)
        if self.dry_run:
            return self._list_trials(table, overrides)
        return self._train(table, overrides)

    def table(self) -> Ablation:
        """Return the table that the files, axes, exclusions, name and seeds describe."""
        table = read_table(self.files, self.axis, self.exclude)
        table = replace(table, name=self.name or table.name, seeds=self.seeds or table.seeds)
        tune = read_axes("--tune", self.tune) or table.tune
        return replace(table, folds=self.folds or table.folds, tune=tune)

    def _train(self, table: Ablation, overrides: Mapping[str, Any]) -> int:
        self.join()
        with importing():
            from vidrec.sweeps import runner

        def work(progress: Any) -> runner.Table:
            return runner.ablate(
                table,
                self.workdir,
                overrides=overrides,
                on=self.on,
                retry=self.retry,
                screen=progress,
                track=self.track,
            )

        filled = run_until_stopped(self, work)
        if filled is None:
            return STOPPED
        if self.json:
            rows = [dict(row) for row in filled.rows]
            answer = {"dir": str(filled.folder.absolute()), "rows": rows, "trials": filled.trials}
            answer["summary"] = filled.summary
            self.answer(answer | ({"folds": filled.folds} if table.folds else {}))
        self.show_report(filled.folder)
        return int(any(trial["status"] == "failed" for trial in filled.trials))

    def _list_trials(self, table: Ablation, overrides: Mapping[str, Any]) -> int:
        from vidrec.io import files
        from vidrec.report.terminal import Columns
        from vidrec.sweeps import preview

        root = overrides.get("data.root")
        if root and not files.expanded(root).exists():
            warn(f"data.root: there is no {root} here; the list is of the published data set")
        trials = preview.dry_run(table, overrides, self.on)
        self.answer(trials)
        if self.json:
            return 0
        # Data that cannot be split is an error here, before the list is printed.
        ids = [trial["id"] for trial in trials]
        done = preview.trained(ids, self.workdir)
        estimated = preview.estimates(
            table, overrides, self.on, left=[id_ not in done for id_ in ids]
        )
        notes = preview.notes(table, overrides, self.on)
        lines = []
        rows = list(dict.fromkeys(trial["row"] for trial in trials))
        has_control = len(rows) > 1 and not table.tune
        for trial in trials:
            words = ", ".join(f"{name}={value}" for name, value in trial["overrides"].items())
            words += f", fold {trial['fold']}" if "fold" in trial else ""
            is_control = rows.index(trial["row"]) == table.control
            words += " (control)" * (has_control and is_control)
            lines.append(
                (trial["row"], trial["seed"], words, f"{trial['params']:,}", trial["group"])
            )
        heads = ("row", "seed", "settings", "parameters", "trial group")
        less = [["trial group"], ["parameters"]]  # columns left out first on a narrow terminal
        console = self.console()
        console.print(Columns(heads, lines, "settings", less, title=table.question))
        if estimated:
            console.print(_estimates(estimated))
        groups = len({trial["group"] for trial in trials})
        left = f"; {len(done)} are trained, {len({*ids} - done)} are left" if done else ""
        for note in notes:
            console.tell(note)
        whole = _whole_time(estimated)
        console.tell(f"{counted(len(trials), 'trial')} in {counted(groups, 'group')}{left}{whole}")
        if table.tune:
            names = " and ".join(table.tune)
            console.tell(
                f"these choose {names}; then every row trains with its best value, {_seeds(table)}"
            )
        return 0

    def _launch(self, table: Ablation, overrides: Mapping[str, Any]) -> int:
        """Start the table as jobs of a cluster, or of a pool of this machine's devices."""
        from vidrec.sweeps import cluster
        from vidrec.training.loop import Interrupted

        asked = {name: getattr(self, name) for name in JOB_OPTIONS}
        asked |= {"engine": self.launcher, "sbatch": cluster.parse_sbatch(self.sbatch)}
        asked["track"] = self.track or None
        options = cluster.read_options(self.site, asked)
        console = self.console()
        how: dict[str, Any] = {"overrides": overrides, "on": self.on}
        if self.dry_run:
            scripts = cluster.dry_run(table, self.workdir, options, **how)
            self.answer({"scripts": scripts})
            console.tell("\n".join(scripts), lines=True)
            return 0
        how |= {"retry": self.retry, "tell": reporter(self).say}
        try:
            folder = cluster.launch(table, self.workdir, options, **how)
        except Interrupted as stop:
            console.tell(stop)
            return STOPPED
        return show_status(self, cluster.status(folder))


def _seeds(table: Ablation) -> str:
    return "1 seed" if table.seeds == 1 else f"{table.seeds} seeds"


def _whole_time(groups: list[dict[str, Any]]) -> str:
    """Return the estimated time of all groups, in words; "" if it is not known."""
    seconds = [group["seconds"] for group in groups]
    if not seconds or None in seconds:
        return ""
    return f"; about {sum(seconds) / 60:,.1f} min in all, without computing features"


def _estimates(groups: list[dict[str, Any]]) -> Any:
    """Return a table of how each group trains; of its clips, memory and time if data is here."""
    from vidrec.report.terminal import Columns

    lines = []
    for group in groups:
        clips, memory, time = "no data yet", "–", "–"
        if group["seconds"] is not None:
            clips = f"{group['train']} + {group['val']}"
            memory, time = f"{group['bytes'] / 1e6:,.0f} MB", f"{group['seconds'] / 60:,.1f} min"
        epochs = " to ".join(map(str, dict.fromkeys(group["epochs"])))
        how = (epochs, group["batch_size"], clips)
        lines.append((group["group"], group["trials"], *how, memory, time))
    heads = ("trial group", "trials", "epochs", "batch", "clips", "memory", "time")
    title = "estimates, if nothing else runs here; clips: training + validation"
    return Columns(heads, lines, "trial group", [["memory"], ["batch"]], title=title)
