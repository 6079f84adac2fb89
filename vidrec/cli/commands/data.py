"""The commands that train nothing: `extract` features, `doctor` a data set, `check` settings."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vidrec.cli.command import Command, Experiment, Files, Settings, importing, run_until_stopped
from vidrec.cli.experiments import read_ablation, read_experiment
from vidrec.cli.output import check_parent
from vidrec.config import Config
from vidrec.errors import STOPPED, UserError
from vidrec.io import files
from vidrec.sweeps import ablation


@dataclass(frozen=True, kw_only=True)
class Extract(Command):
    """Compute features and store them; prints size and time first, and continues where it stopped.

    Example: vidrec extract experiments/ucf101_lstm.py --data.root UCF-101
    """

    experiment: Experiment  # a file with config(), or its bare name
    settings: Settings = field(default_factory=Config)

    def run(self, settings: dict[str, Any]) -> int:
        """Compute the features that are missing in the store; see `Command.run`."""
        cfg = read_experiment(self.experiment, settings)
        from vidrec.training import prepare, runtime

        runtime.configure()
        runtime.use_cores()
        if cfg.encoder.trainable != "none":
            raise UserError(
                "encoder.trainable should be none: a trained encoder has no features yet"
            )

        def work(progress: Any) -> Any:
            return prepare.prepare(
                cfg, tell=progress.say, progress=progress.extracting, pace=progress.pace
            )

        data = run_until_stopped(self, work)
        if data is None:
            return STOPPED
        unreadable = [{"path": path, "reason": reason} for _, path, reason in data.unreadable]
        self.answer(
            {"counts": data.counts(), "unreadable": unreadable, "frames": int(data.lengths.sum())}
        )
        for clip in unreadable:
            self.console().tell(f"unreadable: {clip['path']}: {clip['reason']}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Doctor(Command):
    """Check every clip of a data set: names, counts, decoding, duplicates, leaks.

    Example: vidrec doctor experiments/my_videos.py --data.root FOLDER --sheet clips.html
    """

    experiment: Experiment  # a file with config(), or its bare name
    # write a page with three frames of each clip, to see which are of one recording
    sheet: Path | None = None
    settings: Settings = field(default_factory=Config)

    def run(self, settings: dict[str, Any]) -> int:
        """Examine the data set; the exit status is 1 if something is wrong. See `Command.run`."""
        cfg = read_experiment(self.experiment, settings)
        check_parent("--sheet", self.sheet)
        if self.sheet:
            files.check_writable(files.expanded(self.sheet))
        from vidrec.data import doctor
        from vidrec.evaluation import tasks

        def work(progress: Any) -> dict[str, Any]:
            dataset = tasks.of(cfg).load(cfg)
            if self.sheet:
                with importing():
                    from vidrec.report import sheet

                sheet.write(dataset, files.expanded(self.sheet), progress.extracting)
            return doctor.examine(dataset, cfg.data, progress.extracting)

        findings = run_until_stopped(self, work)
        if findings is None:
            return STOPPED
        self.answer(findings)
        if not self.json:
            for line in doctor.lines(findings):
                self.console().tell(line)
            if self.sheet:
                self.console().tell(f"frames of each clip: {self.sheet}")
        return 0 if findings["healthy"] else 1


@dataclass(frozen=True, kw_only=True)
class Check(Command):
    """Build every configuration of these files and trace one step: needs no data.

    Example: vidrec check experiments/*.py ablations/*.py
    """

    files: Files = ()  # experiments or ablations

    def run(self, settings: dict[str, Any]) -> int:
        """Build and trace each different program once; see `Command.run`."""
        with importing():
            from vidrec.sweeps import check
            from vidrec.sweeps.plan import group_name

        console, programs, failed = self.console(), set(), []
        for path in self.files:
            table, built = replace(read_ablation(path), seeds=1), 0
            for trial in ablation.concrete(ablation.trials(table), at_hand=False):
                program = group_name(trial.config)
                try:
                    if program not in programs:
                        check.check(trial.config)
                        programs.add(program)
                    built += 1
                except UserError as error:
                    failed.append(f"{path} {dict(trial.overrides)}: {error}")
            console.tell(f"{path}: {built} settings")
        self.answer({"files": len(self.files), "programs": len(programs), "failed": failed})
        if failed:
            raise UserError("; ".join(failed))
        return 0
