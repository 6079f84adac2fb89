"""Train a table or a run: plan it, train its groups one after another, write its report."""

import platform
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vidrec.config import Config
from vidrec.data.datasets.base import WARNING, Dataset
from vidrec.errors import UserError, is_transient
from vidrec.evaluation import tasks
from vidrec.io import checkpoint, escape, files, machine
from vidrec.sweeps import plan, samples, tracking, tuning
from vidrec.sweeps.ablation import Ablation
from vidrec.sweeps.plan import ROW_FIELDS, GroupPlan
from vidrec.sweeps.planned_data import check_unchanged
from vidrec.sweeps.reporter import Reporter
from vidrec.training import devices, loop, prepare, ready_made, results, runtime
from vidrec.training.results import RESULT, TrialRun, is_finished

AHEAD = 2  # programs that compile while another one trains
Quiet = Reporter  # its name in version 0.1


@dataclass(frozen=True)
class Table:
    """A finished table.

    Attributes:
        folder: the table's folder.
        trials: the result.json of every trial, in the table's order.
    """

    folder: Path
    trials: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each trial, with the columns of table.csv."""
        from vidrec import report

        return report.table(self.folder)[1]

    @property
    def summary(self) -> list[dict[str, Any]]:
        """One dictionary for each row of the table, with the columns of summary.csv."""
        from vidrec import report

        return report.summary(self.folder)

    @property
    def folds(self) -> list[dict[str, Any]]:
        """One dictionary for each row, with its out-of-fold figures; empty without folds."""
        from vidrec import report

        return report.folds(self.folder)

    def frame(self) -> Any:
        """Return the rows as a pandas frame (pandas is not installed with vidrec)."""
        import pandas

        return pandas.DataFrame(self.rows)


def ablate(
    ablation: Ablation,
    workdir: str | Path = "runs",
    *,
    overrides: Mapping[str, Any] | None = None,
    on: str = "",
    retry: str = "",
    screen: Reporter | None = None,
    dataset: Dataset | None = None,
    track: Sequence[str | tracking.Tracker] = (),
) -> Table:
    """Train every trial of a table that is not finished yet, and write its report.

    Args:
        ablation: the table.
        workdir: the folder that contains the table's folder.
        overrides: dotted settings for every trial.
        on: "motion" runs the table on the embedded data.
        retry: "failed" trains failed and diverged trials again.
        screen: shows progress.
        dataset: clips passed from Python, used instead of those that the settings name.
        track: trackers that show the trials, as names or as objects of a user's class (see
            `tracking`).
    """
    tracking.check(track)
    runtime.keep_memory()
    runtime.use_cores()
    if ablation.tune:
        how: dict[str, Any] = {"overrides": overrides, "on": on, "retry": retry}
        how |= {"screen": screen, "dataset": dataset, "track": track}
        tried = ablate(tuning.candidates(ablation), workdir, **how)
        ablation = tuning.chosen(ablation, tried.trials, tuning.monitors(ablation, overrides, on))
    table = plan.plan_table(
        ablation, workdir, overrides=overrides, on=on, retry=retry, dataset=dataset
    )
    with tracking.following(table.folder, track) as told:
        work = Work(table.folder, screen or Reporter(), dataset, told=told)
        trained = work.train(table.groups)
        if not trained:
            work.screen.say(
                f"all trials of {table.folder} were trained before: nothing is trained, "
                "their result follows"
            )
        _refuse_tolerated_clips(table.trials)
        drawn = work.restore_samples(table.trials)
        filled = collect(table.folder, trained or drawn)
        told.report(table.trials)
    return filled


def run(
    cfg: Config,
    workdir: str | Path = "runs",
    *,
    name: str = "run",
    screen: Reporter | None = None,
    dataset: Dataset | None = None,
    track: Sequence[str | tracking.Tracker] = (),
) -> dict[str, Any]:
    """Train one configuration, or return the result of the finished run; see `ablate`."""
    tracking.check(track)
    runtime.keep_memory()
    if cfg.train.parallel == "batch":
        runtime.use_cores()
    planned = plan.plan_run(cfg, Path(workdir), name, dataset)
    trial, folder = planned.trial, planned.trial.folder
    if devices.is_main() and not is_finished([trial]):
        files.check_writable(folder / RESULT)  # before hours of extraction
    begin = partial(planned.data.write_facts, folder, [trial])
    with tracking.following(folder, track) as told:
        work = Work(folder, screen or Reporter(), dataset, begin=begin, told=told)
        trained = work.train([planned.group])
        if not trained:
            work.screen.say(f"{folder} was trained before: nothing is trained, its result follows")
        result = _own_result(folder, trial.id)
        _refuse_tolerated_clips([trial])
        drawn = work.restore_samples([trial])
        _write_report(folder, trained or drawn)
        told.report([trial])
    return result


def train_group(
    folder: Path,
    name: str,
    screen: Reporter | None = None,
    track: Sequence[str | tracking.Tracker] = (),
) -> None:
    """Train one held group of a table, or continue it; failures are recorded."""
    runtime.use_cores()
    with tracking.following(folder, track) as told:
        work = Work(folder, screen or Reporter(), record=True, told=told)
        work.train([plan.held(folder, name)])


def collect(folder: Path, trained: bool = True) -> Table:
    """Return the results of a table whose trials are finished.

    Args:
        folder: the table's folder.
        trained: True writes the report again; False writes it only if it is missing or too old.
    """
    described = files.read_json(folder / "ablation.json", files.TABLE_HOLDS)
    # Rows with equal settings share a trial; each keeps its own name and overrides.
    trials = [
        _own_result(folder / "trials" / trial["id"], trial["id"])
        | {name: trial[name] for name in ROW_FIELDS}
        for trial in described["trials"]
    ]
    if trained or "data" not in described:
        data = {"data": trials[0].get("data", {})}
        results.write_json(folder / "ablation.json", described | data)
    _write_report(folder, trained)
    return Table(folder, trials)


def parameters(folder: str | Path) -> Any:
    """Return the arrays of a trained trial by name: trained and frozen parameters, statistics."""
    return checkpoint.read(Path(folder) / "model")[0]


@dataclass
class Work:
    """Trains the groups of a table or a run.

    Attributes:
        top: the folder of the table or run.
        screen: shows progress.
        dataset: clips passed from Python, used instead of those that the settings name.
        record: whether to record the failure of a group and continue. With several groups, failures
            are always recorded. With one group, False raises its failure.
        begin: called by the main process after all checks, just before training.
        told: the trackers that receive the events.
    """

    top: Path
    screen: Reporter
    dataset: Dataset | None = None
    record: bool = False
    begin: Callable[[], None] = lambda: None
    told: tracking.Tracking = field(default_factory=tracking.Tracking)
    _records: bool = field(default=False, init=False)
    _warned: set[str] = field(default_factory=set, init=False)
    _kept: ready_made.Kept | None = field(default=None, init=False)
    _compiled: int = field(default=0, init=False)

    def train(self, groups: Iterable[GroupPlan]) -> bool:
        """Train groups that are not finished; return True if any was.

        System errors are always raised and never recorded: they say nothing about the trials, and
        running the same command again continues the training.
        """
        todo = [
            part for group in groups for part in plan.parts(group) if not is_finished(part.trials)
        ]
        if todo:
            runtime.check_devices()  # a missing device is not a failure of the trials
        self._records = self.record or len(todo) > 1
        self.screen.planned(len(todo))
        by_data: dict[str, list[GroupPlan]] = {}
        for group in todo:
            by_data.setdefault(prepare.data_id(group.trials[0].config), []).append(group)
        self._kept = ready_made.Kept() if len(by_data) > 1 else None
        for sharing in by_data.values():  # one data set in memory at a time
            self._train_on_shared_data(sharing)
        self._kept = None
        return bool(todo)

    def _train_on_shared_data(self, groups: Sequence[GroupPlan]) -> None:
        cfg, trials = groups[0].trials[0].config, [t for group in groups for t in group.trials]
        try:
            data = devices.main_process_first(partial(self._prepare, cfg))
        except Exception as error:
            if not self._recordable(error):
                raise
            for group in groups:
                self._record_failure(group, None, error)
            return
        check_unchanged(trials, self.top, data)
        if not self._records:
            loop.check_watched(trials, data)  # before a folder is made
        if devices.is_main():
            self.begin()
        for group in groups:
            plan.hold(group)
        parts = [part for group in groups for part in plan.for_platform(group, data)]
        self._train_parts(parts, data)
        samples.write(self.top, trials, data)

    def _prepare(self, cfg: Config, dataset: Dataset | None = None) -> prepare.Prepared:
        return prepare.prepare(
            cfg,
            tell=self._tell,
            progress=self.screen.extracting,
            pace=self.screen.pace,
            dataset=dataset or self.dataset,
            kept=self._kept,
        )

    def _tell(self, line: str) -> None:
        """Show a line; show a warning that several folds or rows share only once."""
        if line in self._warned:
            return
        if line.startswith(WARNING):
            self._warned.add(line)
        self.screen.say(line)

    def _train_parts(self, groups: Sequence[GroupPlan], data: prepare.Prepared) -> None:
        """Train groups one after another, while the next ones compile.

        With several processes, no group compiles during training, so that all processes do the same
        things in the same order. A group that another command trains is left to that command. This
        raises an error only if the group is still unfinished after all others.
        """
        elsewhere: list[tuple[GroupPlan, loop.FolderLocked]] = []
        for group in groups:
            _write_environment(group.folder)
        self.screen.compiling(len(groups))
        with _Compiled(groups, data) as compiled:
            for group in groups:
                try:
                    self._train_one(group, compiled)
                except loop.OutOfMemory as error:
                    self.screen.say(f"group {group.name} is split: {error}")
                    self._train_parts(plan.split(group), data)
                except loop.FolderLocked as error:
                    if runtime.processes() > 1:
                        raise
                    elsewhere.append((group, error))
                except Exception as error:
                    if not self._recordable(error):
                        raise
                    self._record_failure(group, data, error)
        for group, locked in elsewhere:
            if not is_finished(group.trials):
                raise locked

    def _train_one(self, group: GroupPlan, compiled: "_Compiled") -> None:
        ready = compiled.next()
        if runtime.processes() == 1 and is_finished(group.trials):  # trained by another command
            ready.close()
            return
        if devices.is_main():
            from vidrec import report

            report.load_ahead()  # takes a second, while the devices train
        shown = self.screen.group(group.name, group.trials)
        ready.run(self.told.group(group.trials, group.folder, shown))
        self.told.finished(group.trials)
        self._compiled += 1
        if self._compiled % runtime.GROUPS_KEPT == 0:
            runtime.free_programs()

    def _recordable(self, error: Exception) -> bool:
        stopped = isinstance(error, loop.Interrupted)
        return self._records and not stopped and not is_transient(error)

    def _record_failure(
        self, group: GroupPlan, data: prepare.Prepared | None, error: Exception
    ) -> None:
        self.screen.say(f"group {group.name} failed: {error}")
        results.record_failure(group.trials, data, error)
        self.told.finished(group.trials)

    def restore_samples(self, trials: Sequence[TrialRun]) -> bool:
        """Draw missing or damaged film strips again; return True if any was drawn."""
        scored = [trial for trial in trials if (trial.folder / "predictions.npz").exists()]
        if not scored or runtime.processes() > 1 or samples.are_there(self.top):
            return False
        cfg = scored[0].config
        try:
            dataset = self.dataset or tasks.of(cfg).load(cfg)
            if dataset.is_features:
                return False
            data = self._prepare(cfg, dataset)
        except UserError as error:
            self.screen.say(f"the report has no film strips: {error}")
            return False
        same = [trial for trial in scored if prepare.data_id(trial.config) == prepare.data_id(cfg)]
        samples.write(self.top, same, data)
        return True


class _Compiled:
    """Compiles groups in order in other threads, a few groups ahead of training."""

    def __init__(self, groups: Sequence[GroupPlan], data: prepare.Prepared):
        self._data, self._waiting = data, deque(groups)
        self._ahead = AHEAD if runtime.processes() == 1 else 0
        self._pool = ThreadPoolExecutor(max(self._ahead, 1))
        self._coming: deque[Future] = deque()

    def __enter__(self) -> "_Compiled":
        return self

    def __exit__(self, *exception: object) -> None:
        """Unlock the folders of groups that were compiled and will not be trained now."""
        self._pool.shutdown(cancel_futures=True)
        for future in self._coming:
            if not future.cancelled() and not future.exception():
                future.result().close()

    def next(self) -> loop.GroupRun:
        """Return the next group, compiled."""
        while len(self._coming) <= self._ahead and self._waiting:
            self._coming.append(self._pool.submit(self._make_ready, self._waiting.popleft()))
        return self._coming.popleft().result()

    def _make_ready(self, group: GroupPlan) -> loop.GroupRun:
        ready = loop.GroupRun(group.trials, self._data, group.folder)
        ready.ready()
        return ready


def _own_result(folder: Path, id_: str) -> dict[str, Any]:
    """Return a trial's result; raise an error if the folder holds the result of another trial."""
    result = files.read_result(folder)
    if result["id"] != id_:
        raise plan.belongs_to_others(folder)
    return result


def _refuse_tolerated_clips(trials: Sequence[TrialRun]) -> None:
    """Refuse trials that set `data.strict` but were trained without an unreadable clip."""
    for trial in trials:
        if not trial.config.data.strict:
            continue
        result = files.read_result(trial.folder)
        if result["unreadable"]:
            clip = result["unreadable"][0]
            # Prefer the clip's name if it was kept: the path may be that of a copy elsewhere.
            names = result.get("unreadable_names") or [clip["path"]]
            raise UserError(
                f"{names[0]}: {clip['reason']} (data.strict is set, and {trial.folder} was trained "
                "without this clip)"
            )


def _write_environment(folder: Path) -> None:
    results.write_json(
        folder / "environment.json",
        {
            "versions": machine.versions(),
            "platform": platform.platform(),
            "command": escape.this_command(),
        },
    )


def _write_report(folder: Path, trained: bool) -> None:
    """Write the report if anything was trained, or if it is missing or older than a result."""
    if devices.is_main() and (trained or not has_report(folder)):
        from vidrec import report

        report.build(folder)


def has_report(folder: Path) -> bool:
    """Return whether the report is newer than all results; a killed run may leave an older one."""
    pages = [folder / name for name in ("table.csv", "table.md", "table.tex", "report.html")]
    found = [folder / RESULT, *(folder / "trials").glob(f"*/{RESULT}")]
    try:
        oldest = min(file.stat().st_mtime for file in pages)
        return oldest >= max(file.stat().st_mtime for file in found if file.exists())
    except FileNotFoundError:
        return False
