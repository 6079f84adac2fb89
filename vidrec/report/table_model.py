"""Define the tables of reports, and write them as csv, Markdown and LaTeX.

`terminal.py` writes them for a terminal and `templates/blocks.html` for a page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from vidrec.io import escape


class Badge(NamedTuple):
    """A badge after a cell's text, and its style class."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell with a style on a page; other formats show only its text and its badges.

    Attributes:
        text: the content.
        style: style class; cells of "text" and "wrap" are aligned left.
        heat: 0 … 1, intensity of the background colour; None for no colour.
        bar: 0 … 1, length of a bar; None for no bar.
        code: True for a name that is written as code.
        badges: badges after the text.
    """

    text: Any = ""
    style: str = ""
    heat: float | None = None
    bar: float | None = None
    code: bool = False
    badges: tuple[Badge, ...] = ()


def plain(cell: Any) -> str:
    """Return a cell as text."""
    if not isinstance(cell, Cell):
        return str(cell)
    return ", ".join([str(cell.text), *(badge.text for badge in cell.badges)])


@dataclass(frozen=True)
class Table:
    """A table of texts and cells.

    Attributes:
        columns: heads of the columns.
        rows: the cells of each row, one for each column; the first cell names the row.
        caption: text above the table on a page.
        notes: explanations below the table.
        style: style class of the table on a page.
        tall: True if the page should also scroll the table vertically.
        marked: index of the row to highlight; None for no row.
    """

    piece: ClassVar[str] = "table"

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    notes: Sequence[str] = ()
    style: str = ""
    tall: bool = False
    marked: int | None = None

    @property
    def heads(self) -> list[tuple[str, bool]]:
        """Return each column's head, and whether it is aligned left like its cells."""
        return [(head, self._of_words(i)) for i, head in enumerate(self.columns)]

    def _of_words(self, column: int) -> bool:
        cells = [row[column] for row in self.rows if isinstance(row[column], Cell)]
        return any(cell.style.split()[:1] in (["text"], ["wrap"]) for cell in cells)


def as_csv(table: Table) -> str:
    """Return a csv file's text."""
    return escape.csv([table.columns, *([plain(cell) for cell in row] for row in table.rows)])


def as_markdown(table: Table) -> str:
    """Return a table in Markdown, its notes below."""
    rule = ["---"] + ["---:"] * (len(table.columns) - 1)
    heads, *rows = (
        [escape.markdown(plain(cell)) for cell in row] for row in (table.columns, *table.rows)
    )
    written = ["| " + " | ".join(line) + " |" for line in (heads, rule, *rows)]
    return "\n".join(written + [f"\n{escape.markdown(note)}" for note in table.notes]) + "\n"


def as_tex(table: Table) -> str:
    """Return a tabular with booktabs' rules, to be input into a paper."""

    def line(cells: Sequence[Any]) -> str:
        return " & ".join(escape.tex(plain(cell)) for cell in cells) + r" \\"

    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            *(f"% {escape.visible(note)}" for note in table.notes),
            r"\begin{tabular}{l" + "r" * (len(table.columns) - 1) + "}",
            *(r"\toprule", line(table.columns), r"\midrule"),
            *map(line, table.rows),
            *(r"\bottomrule", r"\end{tabular}", ""),
        ]
    )
