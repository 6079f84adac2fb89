"""Return the figures of a folder as numbers: for each trial, each row, and each row's folds."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vidrec.report.results import AblationResult, RowResult, rows_and_control, task_of
from vidrec.report.run import Run
from vidrec.report.table_model import Table
from vidrec.report.tables import params, verdict

WHOLE = ("params", "epochs", "best_epoch")


class Trials(NamedTuple):
    """Columns of table.csv, and each trial's values by column."""

    columns: list[str]
    rows: list[dict[str, Any]]


def trials(results: Run | AblationResult) -> Trials:
    """Return the content of table.csv, in the order of the table's rows."""
    rows, _ = rows_and_control(results)
    axes = results.axes if isinstance(results, AblationResult) else []
    measured = task_of(rows).columns
    columns = ["id", "row", "seed", "status", *axes, *measured, "leaked"]
    lines = [_trial(row, trial, axes, measured) for row in rows for trial in row.planned]
    return Trials(columns, lines)


def trials_table(results: Run | AblationResult) -> Table:
    """Return the content of table.csv as a table of texts."""
    columns, rows = trials(results)
    return Table(columns, [[_cell(row[column]) for column in columns] for row in rows])


def _trial(
    row: RowResult, planned: Mapping[str, Any], axes: Sequence[str], columns: Sequence[str]
) -> dict[str, Any]:
    run = next((run for run in row.runs if run.result.get("id") == planned.get("id")), None)
    line = {name: planned.get(name, "") for name in ("id", "row", "seed")}
    line["status"] = run.result.get("status", "") if run else "missing"
    line |= {axis: _setting(run, planned, axis) for axis in axes}
    if run is None:
        return line | dict.fromkeys((*columns, "leaked"), None) | {"params": planned.get("params")}
    measured: dict[str, float | None] = {name: run.metric(name) for name in columns}
    for name in WHOLE:
        value = run.metric(name)
        measured[name] = None if math.isnan(value) else int(value)
    return line | measured | {"leaked": run.leaked}


def _setting(run: Run | None, planned: Mapping[str, Any], axis: str) -> Any:
    """Return a trial's value of a setting: its override, else the value in its config."""
    if axis in planned["overrides"]:
        return planned["overrides"][axis]
    value: Any = run.config if run else {}
    for part in axis.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def summary(results: Run | AblationResult) -> list[dict[str, Any]]:
    """Return the content of summary.csv: each row's figures over its seeds, as numbers."""
    rows, control = rows_and_control(results)
    axes = results.axes if isinstance(results, AblationResult) else []
    return [_summary_of(row, row is control, axes) for row in rows]


def _summary_of(row: RowResult, is_control: bool, axes: Sequence[str]) -> dict[str, Any]:
    headline, run = row.task.headline, next(iter(row.runs), None)
    return {
        "row": row.key,
        "setting": row.name,
        **{axis: _setting(run, row.planned[0], axis) for axis in axes if row.planned},
        "seeds": row.seeds,
        "params": params(row),
        headline.test: row.headline,
        **_ends(row),
        "sd_seeds": row.interval.sd_seeds if row.interval else None,
        "df": row.interval.df if row.interval else None,
        "worst_coverage": row.interval.worst_coverage if row.interval else None,
        headline.val: row.mean(headline.val),
        **_to_control(row, is_control),
        "verdict": verdict(row),
        "seeds_needed": row.difference.seeds_needed if row.difference else None,
        **{f"published_{column}": value for column, value in row.published.items()},
        **(
            {"another_task": row.another_task, "doubtful": ", ".join(row.doubtful)}
            if row.published
            else {}
        ),
    }


def folds(results: Run | AblationResult) -> list[dict[str, Any]]:
    """Return each row's out-of-fold figures as numbers; empty without folds."""
    rows, control = rows_and_control(results)
    return [_folds_of(row, row is control) for row in rows if row.out_of_fold]


def _folds_of(row: RowResult, is_control: bool) -> dict[str, Any]:
    assert row.out_of_fold is not None
    scored = row.out_of_fold
    return {
        "row": row.key,
        "setting": row.name,
        "seeds": row.seeds,
        "folds": scored.folds,
        "answers": scored.answers,
        "recordings": scored.recordings,
        "recordings_known": row.recordings_known,
        "untested": scored.untested,
        row.task.headline.figure: row.headline,
        **_ends(row),
        "mean_of_folds": scored.mean,
        **_to_control(row, is_control),
        **{f"fold_{fold}": mean for fold, mean in scored.means.items()},
    }


def _ends(row: RowResult) -> dict[str, float | None]:
    ends = row.interval
    return {"low": ends.low if ends else None, "high": ends.high if ends else None}


def _to_control(row: RowResult, is_control: bool) -> dict[str, Any]:
    gap = row.difference
    return {
        "control": is_control,
        "difference": gap.mean if gap else None,
        "difference_low": gap.low if gap else None,
        "difference_high": gap.high if gap else None,
        "p": gap.p if gap else None,
    }


def numbers_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """Return lines such as those of `summary` and `folds` as a table of texts."""
    columns = list(dict.fromkeys(name for line in lines for name in line))
    return Table(columns, [[_cell(line.get(name)) for name in columns] for line in lines])


def _cell(value: Any) -> str:
    """Return a value of table.csv: floats with 9 significant digits, "" for what is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return format(value, ".9g")
    if isinstance(value, list | tuple | dict):
        return json.dumps(value)
    return str(value)
