"""Read a folder: a run, or an ablation as rows of runs with their statistics."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidrec.errors import UserError
from vidrec.evaluation import statistics, tasks
from vidrec.evaluation.task import ScoredPart, Task
from vidrec.io import files, runs
from vidrec.report.answers import Answers, answers
from vidrec.report.run import Run, all_recordings_known, label_of, read_run


class OutOfFold(NamedTuple):
    """Results of a row that was trained on several folds, each scored on its test clips.

    Attributes:
        folds: number of folds with results.
        answers: number of out-of-fold answers of each seed.
        recordings: number of recordings that the answered clips come from; number of files if clips
            do not name their recordings.
        untested: number of clips that no fold tests.
        means: headline figure of each fold, mean over seeds, by the fold's number.
        pooled: figures of all answers of a seed together, mean over seeds, by column of table.csv;
            empty if the answers of the folds do not fit together.
        baseline: figure of the task's baseline on these clips; NaN if the mean over folds is used.
    """

    folds: int
    answers: int
    recordings: int
    untested: int
    means: dict[int, float]
    pooled: dict[str, float]
    baseline: float = math.nan

    @property
    def mean(self) -> float:
        """Return the mean of the folds' headline figures, as in UCF-101's protocol."""
        return float(np.mean(list(self.means.values())))


@dataclass(frozen=True, eq=False)
class RowResult:
    """One setting with all its seeds, and its difference to the control.

    Attributes:
        key: number or name of the row in its table.
        name: name of the row in the table, or its settings.
        planned: the planned trials of the row.
        runs: the trials that have a result.
        published: published figures by column of table.csv.
        doubtful: columns whose published figure is contradicted elsewhere in its report.
        interval: 95 % interval of the headline figure, such as test accuracy, over all folds; None
            if nothing was scored.
        difference: difference to the control, after Holm's correction; None for the control.
        another_task: why published figures are for another task; "" if they are for the same.
        out_of_fold: results over all folds; None without folds.
    """

    key: Any
    name: str
    planned: tuple[dict[str, Any], ...]
    runs: tuple[Run, ...]
    published: Mapping[str, float]
    doubtful: tuple[str, ...]
    interval: statistics.Interval | None = None
    difference: statistics.Difference | None = None
    another_task: str = ""
    out_of_fold: OutOfFold | None = None

    @property
    def done(self) -> tuple[Run, ...]:
        """Return the runs that have scores."""
        return tuple(run for run in self.runs if run.done)

    @property
    def seeds(self) -> int:
        """Return how many seeds have scores."""
        if self.out_of_fold is None:
            return len(self.done)
        return len({run.result.get("seed") for run in self.done})

    @property
    def task(self) -> Task:
        """Return the task of the row's runs; the task "clip" if the row has no run yet."""
        return self.runs[0].task if self.runs else tasks.named("clip")

    @property
    def headline(self) -> float:
        """Return the mean of the figure by which rows are compared, on test clips."""
        return self.mean(self.task.headline.test)

    @property
    def is_validated(self) -> bool:
        """Return whether it has figures on validation clips, by which a row may be chosen."""
        return not math.isnan(self.mean(self.task.headline.val))

    def is_comparable(self, column: str) -> bool:
        """Return whether a column has a published figure, and one of the same task."""
        return column in self.published and not self.another_task

    @property
    def chosen_by(self) -> float:
        """Return the figure by which a row may be chosen: on validation clips, or else on test."""
        return self.mean(self.task.headline.val) if self.is_validated else self.headline

    @property
    def baseline(self) -> float:
        """Return the figure of the task's baseline on the test clips; NaN if it is not known."""
        if self.out_of_fold and not math.isnan(self.out_of_fold.baseline):
            return self.out_of_fold.baseline
        baseline = self.task.baseline
        return self.mean(f"test_{baseline.figure}") if baseline else math.nan

    def mean(self, column: str) -> float:
        """Return the mean over the seeds that have the figure; NaN if none has.

        With folds, the headline figure, such as test accuracy, and other figures of test clips are
        computed from all out-of-fold answers. Other columns are means over seeds and folds.
        """
        if column == self.task.headline.test and self.out_of_fold and self.interval:
            return self.interval.mean
        if self.out_of_fold and column in self.out_of_fold.pooled:
            return self.out_of_fold.pooled[column]
        values = [run.metric(column) for run in self.done or self.runs]
        values = [value for value in values if not math.isnan(value)]
        return float(np.mean(values)) if values else math.nan

    @property
    def recordings_known(self) -> bool | None:
        """Return whether its clips name their recordings; None if its results do not say."""
        return all_recordings_known(run.result for run in self.runs)

    @property
    def within_noise(self) -> bool | None:
        """Return whether the difference to the control is within noise; None without one."""
        return None if self.difference is None else bool(self.difference.within_noise)


@dataclass(frozen=True, eq=False)
class AblationResult:
    """A table of runs, read from its folder.

    Attributes:
        folder: the folder of the table.
        meta: content of ablation.json.
        rows: the rows of the table.
        control: the row that the others are compared with; None if the table has no control.
    """

    folder: Path
    meta: dict[str, Any]
    rows: tuple[RowResult, ...]
    control: RowResult | None

    @property
    def axes(self) -> list[str]:
        """Return the settings in which rows differ."""
        named = [name for name in self.meta.get("axes") or () if isinstance(name, str)]
        used = [name for row in self.rows for t in row.planned for name in t["overrides"]]
        return list(dict.fromkeys(named + used))

    @property
    def runs(self) -> list[Run]:
        """Return the runs of all rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def scored(self) -> list[RowResult]:
        """Return the rows that have scores."""
        return [row for row in self.rows if row.done]

    @property
    def best(self) -> RowResult | None:
        """Return the best row on validation; without validation clips the highest row on test.

        A choice by the test clips is too optimistic: see `RowResult.is_validated`.
        """
        return best_of(self.scored)


def rows_and_control(
    results: Run | AblationResult,
) -> tuple[list[RowResult], RowResult | None]:
    """Return the rows of a table and its control; a single run is one row without a control."""
    if isinstance(results, AblationResult):
        return list(results.rows), results.control
    return [row_of_run(results)], None


def task_of(rows: Sequence[RowResult]) -> Task:
    """Return the task of a table's rows."""
    return next((row.task for row in rows if row.runs), tasks.named("clip"))


def best_of(rows: list[RowResult]) -> RowResult | None:
    """Return the row with the highest headline figure on validation, or else on test."""
    headline = task_of(rows).headline
    for column in (headline.val, headline.test):
        measured = [row for row in rows if not math.isnan(row.mean(column))]
        if measured:
            return max(measured, key=lambda row: row.mean(column))
    return None


def read(folder: str | Path) -> Run | AblationResult:
    """Read a run or an ablation, by what the folder holds.

    Raises:
        UserError: the folder has neither result.json nor ablation.json, or a file is damaged.
    """
    folder = Path(folder)
    if (folder / "ablation.json").is_file():
        return _ablation(folder)
    if (folder / "result.json").is_file():
        return read_run(folder)
    runs.refuse_search(folder)
    raise UserError(
        f"{folder} holds no result.json and no ablation.json: name a run or an ablation"
    )


def row_of(folder: str | Path) -> RowResult:
    """Return a run as a row of one seed; for an ablation, its best row on validation.

    Raises:
        UserError: the folder holds nothing that is scored, or no validation figures to choose by.
    """
    results = read(folder)
    row = results.best if isinstance(results, AblationResult) else row_of_run(results)
    if row is None or not row.done:
        raise UserError(f"{folder} has no finished trial: give its command again to train it")
    if isinstance(results, AblationResult) and len(results.rows) > 1 and not row.is_validated:
        raise UserError(
            f"{folder} has no validation clips to choose a row by: name the folder of a trial, "
            f"such as {row.done[0].folder}"
        )
    return row


def row_of_run(run: Run) -> RowResult:
    """Return a run on its own, as a row of one seed."""
    result = run.result
    row = RowResult(
        key=result.get("row", 0),
        name=run.name,
        planned=({"overrides": {}, **result},),
        runs=(run,),
        published=dict(result.get("published") or {}),
        doubtful=tuple(result.get("doubtful") or ()),
        another_task=result.get("another_task", ""),
    )
    return with_interval(row)


def _ablation(folder: Path) -> AblationResult:
    meta = files.read_json(folder / "ablation.json", files.TABLE_HOLDS)
    grouped: dict[str, list[dict[str, Any]]] = {}
    for trial in meta.get("trials", ()):
        grouped.setdefault(json.dumps(trial["row"]), []).append(trial)
    rows = [row_of_table(folder, trials) for trials in grouped.values()]
    control = _control(rows, meta.get("control"))
    return AblationResult(folder, meta, tuple(_with_differences(rows, control)), control)


def row_of_table(folder: Path, trials: Sequence[dict[str, Any]]) -> RowResult:
    """Return the table row of these planned trials, without its difference to the control."""
    folders = [folder / "trials" / str(trial["id"]) for trial in trials]
    first = trials[0]
    row = RowResult(
        key=first["row"],
        name=label_of(first) or "base",
        planned=tuple(trials),
        runs=tuple(read_run(trial) for trial in folders if (trial / "result.json").is_file()),
        published=dict(first.get("published") or {}),
        doubtful=tuple(first.get("doubtful") or ()),
        another_task=first.get("another_task", ""),
    )
    return with_interval(row)


def _control(rows: list[RowResult], control: Any) -> RowResult | None:
    """Return the row that `control` gives by its key, its name, or its index from 0."""
    for i, row in enumerate(rows):
        if control in (row.key, row.name) or (control == i and not isinstance(control, bool)):
            return row
    return None


def with_interval(row: RowResult) -> RowResult:
    """Return the row with the interval of its headline figure and its results over folds."""
    said = answers(row.done)
    if said is None or not len(said.names):
        return row
    interval = row.task.interval(said.predicted_Sn, said.labels, said.groups)
    return replace(row, interval=interval, out_of_fold=_out_of_fold(row, said))


def _out_of_fold(row: RowResult, said: Answers) -> OutOfFold | None:
    """Return the results of a row over its folds; None without folds."""
    by_fold: dict[int, list[Run]] = {}
    for run in row.done:
        by_fold.setdefault(run.fold, []).append(run)
    if not any(by_fold):
        return None
    means = {
        fold: float(np.mean([run.metric(row.task.headline.test) for run in runs]))
        for fold, runs in sorted(by_fold.items())
    }
    counts = row.done[0].result.get("counts", {})
    clips = sum(part.get("expected", 0) for part in counts.values())
    tested = {name for run in row.done for name in _test_names(run)}
    recordings = len(np.unique(said.groups))
    of_labels = row.task.baseline and row.task.baseline.of_labels
    return OutOfFold(
        *(len(means), len(said.names), recordings, max(0, clips - len(tested)), means),
        _pooled(row),
        of_labels(said.labels) if of_labels else math.nan,
    )


def _pooled(row: RowResult) -> dict[str, float]:
    """Return figures of each seed's answers over all folds, mean over seeds.

    A mean over folds would be wrong for figures of classes, such as F1: a fold may lack classes.
    """
    of_seed: dict[Any, list[ScoredPart]] = {}
    folds: dict[Any, set[int]] = {}
    for run in row.done:
        folds.setdefault(run.result.get("seed"), set()).add(run.fold)
    everywhere = set.intersection(*folds.values())  # the clips that the interval is over
    for run in (run for run in row.done if run.fold in everywhere):
        part = run.part()
        # What was fitted differs between folds; results of another program may lack the classes.
        if part is None or part.fitted or not part.classes:
            return {}
        of_seed.setdefault(run.result.get("seed"), []).append(part)
    figures = []
    for parts in of_seed.values():
        shapes = {tuple(np.shape(array)[1:] for array in part[:3]) for part in parts}
        if len(shapes) > 1 or len({tuple(part.classes) for part in parts}) > 1:
            return {}
        scores, log_probs, labels = map(np.concatenate, list(zip(*parts, strict=True))[:3])
        whole = ScoredPart(scores, log_probs, labels, parts[0].classes, parts[0].fitted)
        figures.append(row.task.summary(whole))
    return {
        f"test_{name}": float(np.mean([each[name] for each in figures]))
        for name, value in (figures[0] if figures else {}).items()
        if isinstance(value, int | float)
    }


def _test_names(run: Run) -> list[str]:
    predictions = run.predictions()
    return [] if predictions is None else predictions.names_B.tolist()


def shared(a: RowResult, b: RowResult) -> tuple[Answers, Answers] | None:
    """Return the answers of both rows, limited to the clips and seeds that both have."""
    of_a, of_b = (answers(runs) for runs in _same_seeds(a.done, b.done))
    if of_a is None or of_b is None:
        return None
    names, i, j = np.intersect1d(of_a.names, of_b.names, return_indices=True)
    return (of_a.only(i), of_b.only(j)) if len(names) else None


def difference(row: RowResult, control: RowResult) -> statistics.Difference | None:
    """Return the row's difference to the control; None if they have no scored clip in common."""
    both = shared(row, control)
    if both is None:
        return None
    a, b = both
    return row.task.difference(a.predicted_Sn, b.predicted_Sn, a.labels, a.groups)


def _same_seeds(a: Sequence[Run], b: Sequence[Run]) -> tuple[Sequence[Run], Sequence[Run]]:
    """Return the runs of shared seeds and folds; if none is shared, equally many of each."""
    by_seed_a, by_seed_b = (
        {(run.result.get("seed"), run.fold): run for run in runs} for runs in (a, b)
    )
    shared = [seed for seed in by_seed_a if seed in by_seed_b]
    if not shared:
        count = min(len(a), len(b))
        return a[:count], b[:count]
    return [by_seed_a[seed] for seed in shared], [by_seed_b[seed] for seed in shared]


def _with_differences(rows: list[RowResult], control: RowResult | None) -> list[RowResult]:
    """Return rows with their differences to the control, after Holm's correction."""
    if control is None:
        return rows
    gaps = {row: difference(row, control) for row in rows if row is not control}
    compared = {row: gap for row, gap in gaps.items() if gap is not None}
    of_row = dict(zip(compared, statistics.corrected(list(compared.values())), strict=True))
    return [replace(row, difference=of_row[row]) if row in of_row else row for row in rows]
