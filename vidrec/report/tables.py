"""Build the tables of a folder for readers: a row for each setting."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vidrec.evaluation.task import Task
from vidrec.io import escape
from vidrec.io.words import listed
from vidrec.report import formats, wording
from vidrec.report.answers import Answers, answers
from vidrec.report.formats import DASH, percent, points
from vidrec.report.results import AblationResult, RowResult, rows_and_control, task_of
from vidrec.report.run import Run, setting_text
from vidrec.report.table_model import Badge, Cell, Table
from vidrec.report.terminal import Columns

DAGGER = "†"
MOST_RECORDINGS = 40  # a longer table of recordings is left out
TALL = 12  # a longer one is scrolled
COVERAGE_AS_SAID = 0.93  # a note names 95 % intervals that covered less in simulation
NOISE = "≈"


class Column(NamedTuple):
    """A column of the table for readers.

    Attributes:
        head: the head of the column.
        cell: function that returns the cell of a row.
        fit: True for the columns on the training and on how well the training set was fitted.
    """

    head: str
    cell: Callable[[RowResult], Cell | str]
    fit: bool = False


def summary_columns(results: Run | AblationResult) -> list[Column]:
    """Return the columns of the table for readers, without those that have no values."""
    rows, control = rows_and_control(results)
    task = task_of(rows)
    headline = task.headline
    theirs = any(headline.test in row.published for row in rows)
    against_control = control is not None and len(rows) > 1
    asked = results.meta.get("read", ()) if isinstance(results, AblationResult) else ()
    columns = [Column("setting", lambda row: row.name)]
    if theirs:
        columns.append(Column("published", published))
    folded = any(row.out_of_fold for row in rows)
    ours = out_of_fold(task) if folded else f"test {headline.words}"
    columns += [_measured(headline.test, ours), Column("95 % interval", interval)]
    if against_control:
        head = "to the control (95 % interval), points"
        columns.append(Column(head, lambda row: versus_control(row, control)))
    if any(row.is_comparable(headline.test) for row in rows):
        columns.append(Column("to published, points", versus_published))
    if folded:
        columns.append(Column("mean of folds", mean_of_folds))
    columns += [
        _measured(shown.column, shown.head)
        for shown in task.shown
        if not shown.rare or any(not math.isnan(row.mean(shown.column)) for row in rows)
    ]
    columns += [_measured(name) for name in asked if name in task.asked]
    columns += [
        Column("seeds", seeds),
        Column("parameters", lambda row: formats.count(params(row)), fit=True),
        _measured("epochs", fit=True),
        _measured("seconds_compile", "compile, s", fit=True),
        _measured("seconds_train", "train, s", fit=True),
        _measured(headline.val, f"validation {headline.words}", fit=True),
        _measured(headline.train, f"training {headline.words}", fit=True),
        _measured("train_loss", "loss, training", fit=True),
        _measured("val_loss", "loss, validation", fit=True),
        _measured("test_loss", "loss, test", fit=True),
    ]
    return columns + [_published(name) for name in also_published(rows)]


def _measured(column: str, head: str = "", *, fit: bool = False) -> Column:
    """Return a column that shows a column of table.csv, as means over seeds."""
    style = formats.of_column(column)
    return Column(head or plain_name(column), lambda row: style(row.mean(column)), fit)


def _published(column: str) -> Column:
    return Column(f"published {plain_name(column)}", lambda row: published(row, column))


def summary_table(results: Run | AblationResult) -> Table:
    """Return the table for readers: a row for each setting, means over seeds."""
    rows, _ = rows_and_control(results)
    columns = summary_columns(results)
    body = [[column.cell(row) for column in columns] for row in rows]
    return Table([column.head for column in columns], body, notes=notes(results))


def published_table(rows: Sequence[RowResult]) -> Table:
    """Return a table of ours and the published figures, without the headline figure."""
    columns = [Column("setting", lambda row: row.name)]
    for name in also_published(rows):
        columns += [_measured(name), _published(name)._replace(head="published")]
    body = [[column.cell(row) for column in columns] for row in rows]
    caption = "Ours beside the published" + ", which are of another task" * _other_task(rows)
    return Table([column.head for column in columns], body, caption)


def _other_task(rows: Iterable[RowResult]) -> bool:
    return any(row.published and row.another_task for row in rows)


def also_published(rows: Iterable[RowResult]) -> list[str]:
    """Return the columns of table.csv with published figures, without the headline figure."""
    task = task_of(list(rows))
    named = dict.fromkeys(name for row in rows for name in row.published)
    return [name for name in named if name in task.columns and name != task.headline.test]


def out_of_fold(task: Task) -> str:
    """Return the name of the headline figure for a table over folds."""
    return f"{task.headline.words} out of fold"


def plain_name(column: str) -> str:
    """Return a column of table.csv in words."""
    return column.replace("_", " ")


def interval(row: RowResult) -> str:
    """Return the interval of the row's headline figure."""
    return DASH if row.interval is None else formats.span(row.interval.low, row.interval.high)


def mean_of_folds(row: RowResult) -> str:
    """Return the mean of the folds' headline figures."""
    return percent(row.out_of_fold.mean) if row.out_of_fold else DASH


def folds_table(rows: Sequence[RowResult]) -> Table:
    """Return each row's headline figure on every fold."""
    numbers = sorted({fold for row in rows if row.out_of_fold for fold in row.out_of_fold.means})

    def cells(row: RowResult) -> list[str]:
        means = row.out_of_fold.means if row.out_of_fold else {}
        return [percent(means.get(fold)) for fold in numbers]

    heads = [
        "setting",
        out_of_fold(task_of(rows)),
        "mean of folds",
        *(f"fold {fold}" for fold in numbers),
    ]
    body = [[row.name, percent(row.headline), mean_of_folds(row), *cells(row)] for row in rows]
    return Table(heads, body, "Each fold's test clips, means over seeds")


def recordings_table(rows: Sequence[RowResult]) -> Table | None:
    """Return the share of each recording's answers that is right, the worst recording first.

    None if recordings are unknown or more than a reader would look at, or if the task's answers are
    not right or wrong.
    """
    if "confusions" not in task_of(rows).sections or not all(row.recordings_known for row in rows):
        return None
    scored = [(row.name, said) for row in rows if (said := answers(row.done)) is not None]
    names = sorted({str(name) for _, said in scored for name in said.groups})
    if not 1 < len(names) <= MOST_RECORDINGS:
        return None
    shares = {name: [_share_right(said, name) for _, said in scored] for name in names}
    names.sort(key=lambda name: np.nanmean(shares[name]))
    body = [
        [name, max(np.sum(said.groups == name) for _, said in scored), *map(percent, shares[name])]
        for name in names
    ]
    heads = ["recording", "test clips", *(name for name, _ in scored)]
    caption = "Answers that are right in each recording's test clips, over all seeds"
    return Table(heads, body, caption, tall=len(names) > TALL)


def _share_right(said: Answers, recording: str) -> float:
    there = said.groups == recording
    return float(said.correct_Sn[:, there].mean()) if there.any() else math.nan


def verdict(row: RowResult) -> str:
    """Return whether the difference to the control is more than noise, in words."""
    if row.difference is None:
        return ""
    if row.difference.within_noise:
        return "within noise"
    return "better" if row.difference.mean > 0 else "worse"


def versus_control(row: RowResult, control: RowResult | None) -> Cell | str:
    """Return the difference to the control, its interval and the verdict."""
    if row is control:
        return "control"
    if row.difference is None:
        return DASH
    gap, word = row.difference, verdict(row)
    badge = Badge(word, {"within noise": "noise"}.get(word, word))
    return Cell(f"{points(gap.mean)} ({points(gap.low, gap.high)})", badges=(badge,))


def published(row: RowResult, column: str = "") -> str:
    """Return a published figure, with a dagger if its own report contradicts it."""
    column = column or row.task.headline.test
    value = row.published.get(column)
    if value is None:
        return DASH
    style = formats.of_column(column)
    text = formats.published_percent(value) if style is percent else style(value)
    return text + (f" {DAGGER}" if column in row.doubtful else "")


def versus_published(row: RowResult, column: str = "") -> str:
    """Return ours minus the published figure, with its interval; a dash if doubtful."""
    column = column or row.task.headline.test
    theirs, ours = row.published.get(column), row.mean(column)
    if theirs is not None and row.another_task:
        return "another task"
    if theirs is None or column in row.doubtful or math.isnan(ours):
        return DASH
    ends = row.interval if column == row.task.headline.test else None
    if ends is None or math.isnan(ends.low):
        return points(ours - theirs)
    return f"{points(ours - theirs)} ({points(ends.low - theirs, ends.high - theirs)})"


def seeds(row: RowResult) -> str:
    """Return how many of the planned seeds were scored, and the status of the others."""
    lost = [
        "not scored" if run.is_unscored else run.result.get("status", "")
        for run in row.runs
        if not run.done
    ]
    lost += ["missing"] * (len(row.planned) - len(row.runs))
    if not lost and row.out_of_fold:
        return f"{row.seeds} on each of {row.out_of_fold.folds} folds"
    if not lost:
        return str(len(row.done))
    kinds = ", ".join(f"{lost.count(kind)} {kind}" for kind in dict.fromkeys(lost))
    return f"{len(row.done)} of {len(row.planned)} ({kinds})"


def _has_lost(row: RowResult) -> bool:
    """Return whether planned trials of a row have no scores that they should have."""
    return sum(run.is_complete for run in row.runs) < len(row.planned)


def params(row: RowResult) -> float:
    """Return the number of trained parameters; the planned one if no trial has finished."""
    measured = row.mean("params")
    planned = row.planned[0].get("params") if row.planned else None
    return float(planned) if math.isnan(measured) and planned is not None else measured


def trained_on(results: Run | AblationResult) -> str:
    """Return the name of the data set really used and, in brackets, its properties."""
    meta = results.meta if isinstance(results, AblationResult) else results.result
    data = meta.get("data")
    if not data:
        return str(meta.get("on") or "")
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= value if isinstance(value, Mapping) else {name: value}
    values = ((n, f"{v:.4g}" if isinstance(v, float) else setting_text(v)) for n, v in flat.items())
    rest = ", ".join(f"{name} {value}" for name, value in values if name != "name")
    return f"{data.get('name', '')}{' (' + rest + ')' if rest else ''}"


def notes(results: Run | AblationResult, *, headline_only: bool = False) -> list[str]:
    """Return the notes below the table.

    Args:
        results: the run or the table.
        headline_only: True if the headline is the only published figure that is shown.
    """
    rows, _ = rows_and_control(results)
    lines = []
    if any(row.published for row in rows) and isinstance(results, AblationResult):
        source = results.meta.get("source") or "as the table's file says"
        ran = trained_on(results)
        lines.append(f"Published: {source}." + (f" Ours: run on {ran}." if ran else ""))
    if _other_task(rows):
        tasks = dict.fromkeys(row.another_task for row in rows if row.another_task)
        lines.append(
            f"Published figures are for another task, so no difference is shown: ours are for "
            f"{'; '.join(tasks)}."
        )
    if isinstance(results, AblationResult):
        lines += wording.out_of_fold(rows, str(results.meta.get("folds")))
    lines += (
        results.meta.get("notes", ()) if isinstance(results, AblationResult) else _part(results)
    )
    lines += wording.leaks(rows) + wording.left_out(rows)
    doubtful = [
        DAGGER in published(row, column)
        for row in rows
        for column in row.doubtful
        if column == row.task.headline.test or not headline_only
    ]
    if any(doubtful):
        lines.append(f"{DAGGER} doubtful in its own report; no difference is taken.")
    lines += _beside_the_baseline(rows) + wording.no_spread(rows) + wording.last_epoch(rows)
    return lines + wording.one_seed(rows) + _low_coverage(rows)


def _beside_the_baseline(rows: Sequence[RowResult]) -> list[str]:
    """Return notes on the task's baseline and on the rows that are not better than it."""
    task = task_of(rows)
    if task.baseline is None:
        return []
    shares = [row.baseline for row in rows if not math.isnan(row.baseline)]
    if not shares:
        return []
    low, high = percent(min(shares)), percent(max(shares))
    lines = [task.baseline.line.format(low if low == high else f"{low} to {high}")]
    worse = [row.name for row in rows if row.headline <= row.baseline]
    if worse:
        lines.append(task.baseline.worse.format(listed(worse)))
    return lines


def _part(run: Run) -> list[str]:
    """Return a note on the classes of a run that uses only some of a data set's classes."""
    share = run.result.get("data", {}).get("classes")
    return [f"Data: {share} ({', '.join(run.classes)})."] if share else []


def _low_coverage(rows: Sequence[RowResult]) -> list[str]:
    """Return notes on the rows whose 95 % intervals cover less, with the simulated coverage."""
    names: dict[tuple[int, float], list[str]] = {}
    for row in rows:
        coverage = row.interval.worst_coverage if row.interval else None
        if coverage is not None and coverage < COVERAGE_AS_SAID:
            names.setdefault((row.seeds, coverage), []).append(row.name)
    return [
        f"With {number} seeds that differ this much a 95 % interval held the "
        f"{task_of(rows).headline.words} in "
        f"{percent(coverage)} of simulated experiments in the worst case: {listed(some)}."
        for (number, coverage), some in names.items()
    ]


# --- For a terminal -------------------------------------------------------------------------------


class Terminal:
    """A rich renderable of the table, with its result in a sentence and its notes."""

    def __init__(
        self,
        rows: Sequence[RowResult],
        control: RowResult | None,
        notes: Sequence[str] = (),
        *,
        answer: str = "",
    ):
        self.rows, self.control, self.notes, self.answer = rows, control, notes, answer

    def __rich_console__(self, console: Any, options: Any) -> Any:
        from rich.text import Text

        narrow = _narrow(self.rows)
        shown = self._columns(narrow, _difference)
        if not shown.fits(options.max_width, without=narrow.yielding):
            shown = self._columns(narrow, _short_difference)
        yield shown
        if any(row.within_noise for row in self.rows):
            yield Text(f"{NOISE} within noise", style="dim")
        if self.answer:
            yield Text(escape.terminal(self.answer))
        fewer = [row for row in self.rows if _has_lost(row)]
        for note in [*self.notes, *(f"{row.name}: {seeds(row)} seeds" for row in fewer)]:
            yield Text(escape.terminal(note), style="yellow")

    def _columns(self, narrow: "_Narrow", difference: Callable[[RowResult], str]) -> Columns:
        heads = ["setting", *(column.head for column in narrow.columns)]
        lines = [self._line(row, narrow.columns) for row in self.rows]
        if self.control is not None and len(self.rows) > 1:
            heads.append("to control")
            for row, line in zip(self.rows, lines, strict=True):
                line.append(self._to_control(row, difference))
        return Columns(heads, lines, "setting", narrow.rare, narrow=["95 % interval"])

    def _line(self, row: RowResult, columns: Sequence[Column]) -> list[Any]:
        from rich.text import Text

        name = Text(escape.terminal(row.name), style="bold" if row is self.control else "")
        return [name, *(column.cell(row) for column in columns)]

    def _to_control(self, row: RowResult, difference: Callable[[RowResult], str]) -> Any:
        from rich.text import Text

        colour = {"better": "green", "worse": "red"}.get(verdict(row), "")
        return Text("control" if row is self.control else difference(row), style=colour)


class _Narrow(NamedTuple):
    """Columns that fit a line of 80 letters with setting and control; the page has the rest.

    Attributes:
        columns: the columns, from left to right.
        rare: groups of heads that are shown only if there is room, see `terminal.Columns`.
        yielding: heads that are left out before the interval of the difference to the control.
    """

    columns: Sequence[Column]
    rare: Sequence[Sequence[str]]
    yielding: Sequence[str] = ()


def _narrow(rows: Sequence[RowResult]) -> _Narrow:
    task = task_of(rows)
    headline, ends = task.headline, Column("95 % interval", interval)
    size = Column("params", lambda row: formats.count(params(row)))
    if any(row.out_of_fold for row in rows):
        mean = Column("mean of folds", mean_of_folds)
        return _Narrow(
            (_measured(headline.test, "out of fold"), ends, mean, size),
            (("mean of folds",), ("params",)),
            ("mean of folds", "params"),
        )
    if any(headline.test in row.published for row in rows):
        versus = [Column("to published (95 %)", versus_published)]
        versus *= any(row.is_comparable(headline.test) for row in rows)
        return _Narrow(
            (Column("published", published), _measured(headline.test, "ours"), ends, *versus),
            (("published", *(column.head for column in versus)), ("95 % interval",)),
        )
    more = _measured(task.brief.column, task.brief.head)
    return _Narrow(
        (
            _measured(headline.test, f"test {headline.short}"),
            *(ends, more, size, _measured("seconds_train", "s")),
        ),
        ((more.head,), ("params",), ("s",)),
        (more.head, "params", "s"),
    )


def _difference(row: RowResult) -> str:
    gap = row.difference
    return _short_difference(row) + (f" ({points(gap.low, gap.high)})" if gap else "")


def _short_difference(row: RowResult) -> str:
    if row.difference is None:
        return DASH
    return f"{NOISE} " * bool(row.within_noise) + points(row.difference.mean)
