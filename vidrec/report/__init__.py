"""Write the report of a run, an ablation or a comparison from the files of its folders alone."""

import contextlib
import threading
from pathlib import Path
from typing import Any

from vidrec.io import runs
from vidrec.io.files import check_writable, write_whole
from vidrec.report import numbers, table_model, tables, wording
from vidrec.report.results import AblationResult, read, row_of, rows_and_control


def build(folder: str | Path) -> Path:
    """Rebuild report.html, table.csv, table.md, table.tex and figures/ of a run, table or search.

    A table also gets summary.csv, and a table over folds also gets folds.csv.

    Returns:
        The path of report.html.

    Raises:
        UserError: the folder holds no run, no table and no search.
    """
    from vidrec.report import page

    folder = Path(folder)
    if runs.is_search(folder):
        from vidrec.report import search

        return search.build(folder)
    results = read(folder)
    summary = tables.summary_table(results)
    write_whole(folder / "table.csv", table_model.as_csv(numbers.trials_table(results)))
    write_whole(folder / "table.md", table_model.as_markdown(summary))
    write_whole(folder / "table.tex", table_model.as_tex(summary))
    by_row = {"folds.csv": numbers.folds(results)}
    if isinstance(results, AblationResult):
        by_row["summary.csv"] = numbers.summary(results)
    for name, lines in by_row.items():
        if lines:
            write_whole(folder / name, table_model.as_csv(numbers.numbers_table(lines)))
    return write_whole(folder / "report.html", page.render(results, folder / "figures"))


def load_ahead() -> None:
    """Import the drawing libraries of reports in another thread, while the main thread waits."""

    def load() -> None:
        with contextlib.suppress(ImportError):  # reported when the report is drawn
            import scipy.special
            from matplotlib import figure
            from matplotlib.backends import backend_agg, backend_svg

            from vidrec.report import page

            del scipy, figure, backend_agg, backend_svg, page

    threading.Thread(target=load, daemon=True, name="report").start()


def table(folder: str | Path) -> numbers.Trials:
    """Return columns and rows of table.csv: a row for each trial, values as numbers."""
    return numbers.trials(read(folder))


def summary(folder: str | Path) -> list[dict[str, Any]]:
    """Return a dictionary for each row of a table: figure, interval, difference to the control."""
    return numbers.summary(read(folder))


def folds(folder: str | Path) -> list[dict[str, Any]]:
    """Return a dictionary of out-of-fold figures for each row; empty for a table without folds."""
    return numbers.folds(read(folder))


def terminal(folder: str | Path) -> Any:
    """Return a rich renderable of the table, plain where the output is not a terminal."""
    if runs.is_search(Path(folder)):
        from vidrec.report import search  # not at the top, as it also loads the libraries of pages

        return search.Terminal(search.read(Path(folder)))
    results = read(folder)
    rows, control = rows_and_control(results)
    notes = tables.notes(results, headline_only=True)
    answer = ""
    if isinstance(results, AblationResult) and len(results.scored) > 1:
        answer = wording.answer(rows, control, results.best)
    elif not any(row.done for row in rows) and any(row.runs for row in rows):
        answer = wording.answer(rows, control, None)
    return tables.Terminal(rows, control, notes, answer=answer)


def terminal_of_two(dir_a: str | Path, dir_b: str | Path) -> Any:
    """Return a rich renderable of a table of two runs, the first of which is the control.

    A sentence below the table gives the difference with its interval.
    """
    from vidrec.report import comparison

    a, b = comparison.pair(dir_a, dir_b)
    chosen = comparison.rows_of_tables([dir_a, dir_b], [a, b])
    notes = [*chosen, *comparison.notes_of_two(a, b)]
    return tables.Terminal([a, b], a, notes, answer=wording.answer_of_two(a, b))


def events(folder: str | Path) -> Path:
    """Write FOLDER/tensorboard from metrics.jsonl, and return it.

    Raises:
        UserError: tensorboardX is not installed, or the folder holds no run.
    """
    from vidrec.report import tensorboard

    return tensorboard.write(folder)


def compare(dir_a: str | Path, dir_b: str | Path, out: str | Path) -> Path:
    """Write the page that compares two runs; for an ablation, its best row is taken.

    Returns:
        The path of OUT/report.html.

    Raises:
        UserError: a folder holds nothing scored, or the classes or the tasks differ.
    """
    from vidrec.report import comparison

    out = Path(out)
    check_writable(out / "report.html")
    return write_whole(out / "report.html", comparison.render(dir_a, dir_b, out / "figures"))


__all__ = [
    "AblationResult",
    "build",
    "compare",
    "events",
    "folds",
    "read",
    "row_of",
    "summary",
    "table",
    "terminal",
    "terminal_of_two",
]
