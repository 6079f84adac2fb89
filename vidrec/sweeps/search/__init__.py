"""Search settings: Optuna proposes trials in rounds; a round trains together, its worse part stops.

A search uses training and validation clips only. The chosen setting is trained again with new
seeds, as an ordinary table, and scored on the test clips once.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vidrec import __version__
from vidrec.config import Config, digest, override, pin_code, to_dict
from vidrec.data import splits
from vidrec.data.datasets.base import Dataset
from vidrec.errors import UserError
from vidrec.evaluation import tasks
from vidrec.io import escape, files, runs
from vidrec.models import model
from vidrec.sweeps import ablation as tables
from vidrec.sweeps import runner, tracking
from vidrec.sweeps.ablation import Ablation, Row
from vidrec.sweeps.reporter import Reporter
from vidrec.sweeps.search import halving as halvings
from vidrec.sweeps.search import rounds, space
from vidrec.sweeps.search.engine import Engine, load
from vidrec.sweeps.search.records import (
    DIVERGED,
    DONE,
    FAILED,
    FILE,
    JOURNAL,
    RUNNING,
    STOPPED,
    Records,
    Rung,
    Trial,
    best,
)
from vidrec.training import loop, prepare, results, runtime
from vidrec.training.results import TrialRun

ROUND = 16
LAST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Found:
    """A finished search.

    Attributes:
        folder: the search's folder.
        trials: all trials, as entries of search.json.
        chosen: number, settings and validation accuracy of the best trial, and the test accuracy of
            its settings with an interval, over new seeds.
        table: the table that trains the chosen settings with new seeds.
        importance: each setting's share of the importance, by name.
        epochs: the total number of epochs that all trials were trained for.
        of_epochs: the total number of epochs if no trial had been stopped at a rung.
    """

    folder: Path
    trials: list[dict[str, Any]]
    chosen: dict[str, Any]
    table: runner.Table
    importance: dict[str, float]
    epochs: int
    of_epochs: int


def search(
    cfg: Config,
    given: Mapping[str, Any],
    workdir: str | Path = "runs",
    *,
    name: str = "search",
    trials: int = 64,
    halving: int = 0,
    rungs: Sequence[int] = (),
    at_once: int = ROUND,
    seeds: int = 3,
    screen: Reporter | None = None,
    dataset: Dataset | None = None,
    track: Sequence[str | tracking.Tracker] = (),
) -> Found:
    """Search settings, or continue where a killed search stopped, and train the best ones again.

    Args:
        cfg: the settings that trials share.
        given: for each searched setting a list of values, or a text such as `log:1e-4:1e-2`.
        workdir: the folder that contains the search's folder.
        name: the name of the search.
        trials: the number of trials.
        halving: at each rung one in `halving` of the trials continues; 0: all trials continue.
        rungs: epochs after which trials are compared; empty: train.epochs / halving² and
            train.epochs / halving.
        at_once: the number of trials in a round, which are proposed and trained together.
        seeds: the number of new seeds for the chosen settings.
        screen: shows progress.
        dataset: clips passed from Python, used instead of those that the settings name.
        track: trackers that show the trials, as names or as objects of a user's class (see
            `tracking`).

    Raises:
        UserError: the arguments do not allow a search; the message says what would be right.
    """
    tracking.check(track)
    load()
    runtime.keep_memory()
    runtime.use_cores()
    wanted = space.of(given)
    space.check(cfg, wanted, bool(halving))
    for what, value, least in (
        ("trials", trials, 1),
        ("halving", halving, 2 if halving else 0),
        ("at_once", at_once, 1),
        ("seeds", seeds, 1),
    ):
        if value < least:
            raise UserError(f"{what} = {value} should be at least {least}")
    steps = halvings.rungs(cfg.train.epochs, halving, rungs)
    how = _How(wanted, trials, halving, steps, at_once, seeds)
    return _Search(pin_code(cfg), how, Path(workdir), runs.check_name(name), dataset).run(
        screen or Reporter(), track
    )


@dataclass(frozen=True)
class _How:
    """The arguments of a search; see `search`."""

    space: space.Space
    trials: int
    halving: int
    rungs: tuple[int, ...]
    at_once: int
    seeds: int


class _Search:
    """One search in its folder."""

    def __init__(self, cfg: Config, how: _How, workdir: Path, name: str, dataset: Dataset | None):
        self.cfg, self.how, self.workdir, self.name = cfg, how, workdir, name
        task = tasks.of(cfg)
        self.whole = task.labelled(dataset) if dataset else task.load(cfg)
        self.dataset, self.split = splits.without_test(
            self.whole, splits.make(self.whole, cfg.data)
        )
        if not len(self.split.val):
            raise UserError(
                "a search chooses by validation clips, and there are none: set data.val above 0"
            )
        self.given = dataset
        plan_ = self._plan()
        self.id = digest(
            self._trial_id(self._trial_config({})),
            *(plan_[name] for name in ("space", "halving", "rungs", "at_once")),
        )
        self.folder = runs.place_of_search(workdir, name, self.id)
        self.records = Records(self.folder, {**plan_, "id": self.id})

    def _plan(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "config": to_dict(self.cfg),
            "space": space.described(self.how.space),
            "halving": self.how.halving,
            "rungs": list(self.how.rungs),
            "at_once": self.how.at_once,
            "figure": rounds.figure_of(self.cfg),
            "classes": list(self.whole.classes),
            "data": {"name": self.whole.name, **self.whole.about},
            "clips": {part: len(getattr(self.split, part)) for part in ("train", "val")},
            "command": escape.this_command(),
            "versions": {"vidrec": __version__},
        }

    # ------------------------------------------------------------------ trials

    def _trial_config(self, params: Mapping[str, Any]) -> Config:
        """Return the settings of a trial, with users' files read and encoder weights resolved.

        Raises:
            UserError: the settings contradict each other.
        """
        [trial] = tables.concrete(tables.trials(Ablation("one", self.cfg, [Row(params)])))
        model.check_user_classes(trial.config)
        return trial.config

    def _trial_id(self, cfg: Config) -> str:
        return prepare.trial_id(cfg, self._fingerprint)

    @cached_property
    def _fingerprint(self) -> str:
        return digest(self.dataset.fingerprint(), self.split.id, length=32)

    def _trial_run(self, trial: Trial) -> TrialRun:
        cfg = self._trial_config(trial.params)
        about = {"name": self.name, "overrides": trial.params, "row": trial.number}
        folder = self.folder / "trials" / trial.id  # never made: trials of a search save no model
        return TrialRun(trial.id, cfg, folder, about, self._fingerprint)

    # ------------------------------------------------------------------ the search

    def run(self, screen: Reporter, track: Sequence[str | tracking.Tracker] = ()) -> Found:
        """Run the remaining rounds, and train the chosen settings again."""
        self.records.read()
        with tracking.following(self.folder, track) as told:
            for number in {trial.round for trial in self.records.finished}:
                self._tell(told, number)
            if self._is_unfinished:
                with _claimed(self.folder):
                    self._go_on(screen, told)
        found = self._finish(screen, track)
        with tracking.following(self.folder, track) as told:
            told.report()
        return found

    def _tell(self, told: tracking.Tracking, number: int) -> None:
        """Send the finished trials of a round to the trackers."""
        members = [trial for trial in self.records.of_round(number) if trial.state != RUNNING]
        curves = self.folder.glob(f"groups/{number}-*/{results.METRICS}")
        told.searched([self._trial_run(trial) for trial in members], curves)

    @property
    def _is_unfinished(self) -> bool:
        return bool(self.records.running) or len(self.records.trials) < self.how.trials

    def _go_on(self, screen: Reporter, told: tracking.Tracking) -> None:
        trainer = rounds.Trainer(self.folder, self.dataset, self.split, screen, told=told)
        try:
            while self._is_unfinished:
                if not self.records.running:
                    self._ask()
                self._train(trainer, screen)
                self._tell(told, self.records.trials[-1].round)
                self._write_journal()
        finally:
            trainer.close()

    def _ask(self) -> None:
        """Get the trials of a round from the engine, and record them before any is trained."""
        known, how = self.records.trials, self.how
        number = known[-1].round + 1 if known else 0
        engine = Engine(self.name, how.space, known, f"{self.cfg.seed} {number}")
        count = min(how.at_once, how.trials - len(known))
        for params in engine.ask(count, space.own_values(self.cfg, how.space)):
            trial = Trial(len(known), number, params)
            try:
                trial.id = self._trial_id(self._trial_config(params))
                same = next((each for each in known if each.id == trial.id), None)
                trial.same_as = same.number if same else None
            except UserError as error:
                trial.state, trial.why = FAILED, str(error)
            known.append(trial)
        self.records.write()

    def _train(self, trainer: rounds.Trainer, screen: Reporter) -> None:
        """Train the trials of the current round, rung by rung."""
        own = [trial for trial in self.records.running if trial.same_as is None]
        if own:
            number = own[0].round
            members = self.records.of_round(number)
            trainer.begin(number, [self._trial_run(trial) for trial in members])
            while live := [trial for trial in own if trial.state == RUNNING]:
                self._leg(trainer, members, live)
            trainer.end()
        self._copy_repeated()
        self.records.write()
        self._refuse_failures()
        screen.say(self._progress())

    def _leg(
        self, trainer: rounds.Trainer, members: Sequence[Trial], live: Sequence[Trial]
    ) -> None:
        """Train to the next rung and stop the worse trials there, or train to the last epoch."""
        rung, steps = len(live[0].rungs), self.how.rungs
        last = rung == len(steps)
        epochs = max(self._epochs_of(trial) for trial in live)
        reached = trainer.train({trial.id for trial in live}, epochs if last else steps[rung])
        for trial in live:
            one = reached[trial.id]
            trial.epochs, trial.why = one.epochs, one.why
            trial.state = one.state
            trial.end = one.standing or trial.end
            if not last and one.standing and one.epochs >= steps[rung]:
                trial.rungs.append(Rung(steps[rung], *one.standing))
        if not last:
            self._stop_the_worse(members, rung)
        self.records.write()

    def _epochs_of(self, trial: Trial) -> int:
        return trial.params.get("train.epochs", self.cfg.train.epochs)

    def _stop_the_worse(self, members: Sequence[Trial], rung: int) -> None:
        """Stop the trials of a round that are not among its best at a rung."""
        still = {t.number: t.end for t in members if t.state in (RUNNING, DONE) and t.end}
        count = halvings.kept(len(members), self.how.halving, rung)
        go_on = halvings.better_part(still, count)
        for trial in members:
            if trial.state == RUNNING and trial.number not in go_on:
                trial.state = STOPPED
                trial.why = f"not among the {count} best of its round after {trial.epochs} epochs"

    def _copy_repeated(self) -> None:
        """Give repeated trials the result of the earlier one."""
        for trial in self.records.running:
            assert trial.same_as is not None
            same = self.records.trials[trial.same_as]
            trial.state, trial.epochs, trial.end = same.state, same.epochs, same.end
            trial.rungs, trial.why = list(same.rungs), f"has the settings of trial {same.number}"

    def _refuse_failures(self) -> None:
        """Raise the first failure if no trial could be trained."""
        trials = self.records.trials
        if all(trial.state in (FAILED, DIVERGED) for trial in trials):
            raise UserError(
                f"none of the {len(trials)} trials of {self.folder} could be trained: "
                f"{trials[0].why}"
            )

    def _progress(self) -> str:
        count, chosen = len(self.records.trials), best(self.records.trials)
        if chosen is None or chosen.end is None:
            return f"{count} of {self.how.trials} trials"
        return (
            f"{count} of {self.how.trials} trials, {self.records.epochs} trial-epochs; best on "
            f"validation: {100 * chosen.end.accuracy:.1f} % ({words(chosen.params)})"
        )

    def _write_journal(self) -> None:
        engine = Engine(self.name, self.how.space, self.records.trials)
        self.records.more["importance"] = engine.importance(0 if self.how.rungs else None)
        self.records.more.pop("chosen", None)
        self.records.write()
        files.write_whole(self.folder / JOURNAL, engine.journal())

    # ------------------------------------------------------------------ the end

    def _finish(self, screen: Reporter, track: Sequence[str | tracking.Tracker]) -> Found:
        chosen = best(self.records.trials)
        if chosen is None or chosen.end is None:
            raise UserError(f"no trial of {self.folder} was trained to its end")
        how: dict[str, Any] = {"screen": screen, "dataset": self.given, "track": track}
        table = runner.ablate(self._final(chosen), self.workdir, **how)
        facts = self._chosen(chosen, table)
        written = self.records.more.get("chosen") == facts
        if not written:
            self.records.more["chosen"] = facts
            self.records.write()
        if not (written and (self.folder / "report.html").exists()):
            from vidrec import report

            report.build(self.folder)
        return Found(
            self.folder,
            [trial.entry() for trial in self.records.trials],
            facts,
            table,
            self.records.more["importance"],
            self.records.epochs,
            sum(map(self._epochs_of, self.records.trials)),
        )

    def _final(self, chosen: Trial) -> Ablation:
        """Return the table of the chosen settings, with seeds that no trial used."""
        first = self.cfg.seed + 1
        if first + self.how.seeds - 1 > LAST_SEED:
            first = self.cfg.seed - self.how.seeds
        return Ablation(
            f"{self.name}-chosen",
            override(self.cfg, {"seed": first}),
            [Row(chosen.params)],
            question=f"How good is the setting that {self.folder.name} chose on validation?",
            seeds=self.how.seeds,
        )

    def _chosen(self, chosen: Trial, table: runner.Table) -> dict[str, Any]:
        from vidrec import report

        row = report.row_of(table.folder)
        interval = row.interval
        assert chosen.end is not None
        return {
            "number": chosen.number,
            "params": chosen.params,
            "accuracy": chosen.end.accuracy,
            "table": table.folder.name,
            "seeds": row.seeds,
            "test_accuracy": interval.mean if interval else None,
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
        }


def words(params: Mapping[str, Any]) -> str:
    """Return settings in a short form for people, such as `dropout 0.5, units 64`."""
    return ", ".join(
        f"{name.rpartition('.')[2]} {f'{value:.3g}' if isinstance(value, float) else value}"
        for name, value in params.items()
    )


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Keep other processes out of a search's folder."""
    results.make_folder(folder)
    with results.os_errors_as_user_errors(folder), loop.claim(folder):
        yield


__all__ = ["FILE", "Found", "search", "words"]
