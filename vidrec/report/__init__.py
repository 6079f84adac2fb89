"""Reports of a run, of an ablation, and of two compared: from their folders alone."""

from pathlib import Path
from typing import Any

from vidrec.io.files import check_writable, write_whole
from vidrec.report import tables
from vidrec.report.results import Ablation, read


def build(folder: str | Path) -> Path:
    """Rebuilds report.html, table.csv, table.md, table.tex and figures/ of a run or an ablation.

    Returns:
        The path of report.html.

    Raises:
        UserError: the folder holds neither.
    """
    from vidrec.report import page

    folder = Path(folder)
    found = read(folder)
    files = {"csv": tables.as_csv, "md": tables.as_markdown, "tex": tables.as_tex}
    for end, write in files.items():
        write_whole(folder / f"table.{end}", write(found))
    return write_whole(folder / "report.html", page.render(found, folder / "figures"))


def table(folder: str | Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and lines of table.csv: a line a trial, values as numbers."""
    return tables.trials(read(folder))


def terminal(folder: str | Path) -> Any:
    """A rich renderable of the table, plain where the output is no terminal."""
    found = read(folder)
    return tables.Terminal(*tables.table_of(found), tables.notes(found))


def terminal_of_two(dir_a: str | Path, dir_b: str | Path) -> Any:
    """As `terminal`, of two runs that are compared: the first is the control."""
    from vidrec.report import comparison

    a, b = comparison.pair(dir_a, dir_b)
    return tables.Terminal([a, b], a)


def events(folder: str | Path) -> Path:
    """Writes FOLDER/tensorboard from metrics.jsonl, and returns it.

    Raises:
        UserError: tensorboardX is not installed, or the folder holds no run.
    """
    from vidrec.report import tensorboard

    return tensorboard.write(folder)


def compare(dir_a: str | Path, dir_b: str | Path, out: str | Path) -> Path:
    """Writes the page that sets two runs side by side; of an ablation, its best row.

    Raises:
        UserError: a folder holds nothing scored, or their classes differ.
    """
    from vidrec.report import comparison

    out = Path(out)
    check_writable(out / "report.html")
    return write_whole(out / "report.html", comparison.render(dir_a, dir_b, out / "figures"))


__all__ = ["Ablation", "build", "compare", "events", "read", "table", "terminal", "terminal_of_two"]
