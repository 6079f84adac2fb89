"""Read tables that users write, such as labels.csv and groups.csv, with strict checks.

A line that does not match the heading is an error that names the line. Columns are separated by
commas, semicolons, tabs or bars; the separator is the one that yields the required columns.
"""

import csv
import io
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vidrec.errors import UserError, path_of_printable
from vidrec.io import escape
from vidrec.io.files import Damaged, read_text

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
BETWEEN = "|"  # separates the labels of one clip
ZERO_ONE = {"0": False, "1": True, "0.0": False, "1.0": True}
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.I)  # first line in files of some spreadsheets


@dataclass
class Table:
    """Rows with their line numbers.

    Attributes:
        file: the file that was read.
        rows: line number of each row, and its cells by column.
        unused: columns of the file that were not requested.
        heading: names of the columns, from lower case to the spelling in the file.
    """

    file: Path
    rows: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    heading: dict[str, str] = field(default_factory=dict)


def find(root: Path, name: str) -> Path | None:
    """Find a file of a folder by its name in lower case, ignoring case; None if there is none.

    Raises:
        UserError: several files differ only in upper and lower case.
    """
    found = sorted(each for each in os.listdir(root) if each.lower() == name)
    if len(found) > 1:
        raise UserError(f"{root} holds {' and '.join(found)}: keep one of them")
    return root / found[0] if found else None


def read(file: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Read a table with a heading; empty lines are skipped.

    Args:
        file: the table.
        columns: required columns, which must not be empty in any row.
        optional: columns that may be missing or empty.

    Raises:
        UserError: the file is not UTF-8 text, a column is missing, or a line is invalid.
    """
    try:
        text = read_text(file)
    except Damaged as error:
        raise UserError(f"{error}; save it as UTF-8 text") from None
    lines = _Lines(file, text, columns)
    asked = ("", *columns, *optional)
    unused = [name for name in lines.heading if name not in asked]
    table = Table(file, unused=unused, heading=lines.spelled)
    for number, cells in lines.records():
        row = dict(zip(lines.heading, map(escape.uncell, cells), strict=True))
        for column in columns:
            if not row[column]:
                raise UserError(f"{file}, line {number}: {', '.join(columns)} should not be empty")
        for column in asked:
            if any(unicodedata.category(letter) == "Cc" for letter in row.get(column, "")):
                raise UserError(f"{file}, line {number}: {column} holds a control character")
        table.rows.append((number, row))
    return table


def join_classes(table: Table) -> None:
    """Give each row a `label`, such as "run|jump", made from its columns of 0 and 1.

    These columns are all columns in `table.unused`, which is then cleared.

    Raises:
        UserError: there are no such columns, a name contains a bar, or a cell is not 0 or 1.
    """
    columns = [name for name in table.unused if name]
    if not columns:
        raise UserError(
            f"{table.file} has no column label, and no column for each class: its first line "
            "should name path and label, or path and the classes"
        )
    names = {column: unicodedata.normalize("NFC", table.heading[column]) for column in columns}
    if barred := [name for name in names.values() if BETWEEN in name]:
        raise UserError(f"{table.file}: a class cannot be called {barred[0]!r}, with a bar")
    for number, row in table.rows:
        for column, name in names.items():
            if row[column] not in ZERO_ONE:
                raise UserError(
                    f"{table.file}, line {number}: {name} is {row[column]!r}; without a column "
                    "label, each column is a class and holds 0 or 1"
                )
        row["label"] = BETWEEN.join(name for column, name in names.items() if ZERO_ONE[row[column]])
    table.unused.clear()


class _Lines:
    """The lines of a table, each split into as many cells as the heading has."""

    def __init__(self, file: Path, text: str, columns: Sequence[str]):
        self.file = file
        stream = io.StringIO(text, newline="")
        said = SEPARATOR_LINE.fullmatch(stream.readline().strip())
        self._before = 1 if said else 0
        if not said:
            stream.seek(0)
        begin = stream.tell()
        line = stream.readline()
        self.delimiter = said[1] if said else _delimiter(line, columns)
        stream.seek(begin)
        self._reader = csv.reader(
            stream, delimiter=self.delimiter, skipinitialspace=True, strict=True
        )
        _, cells = next(self._records(), (0, []))
        self.heading = [name.lower() for name in cells]
        self.spelled = dict(zip(self.heading, cells, strict=True))
        for column in columns:
            if column not in self.heading:
                kinds = ", ".join(DELIMITERS.values())
                raise UserError(
                    f"{file} has no column {column}: its first line should name the columns "
                    f"{', '.join(columns)} (separated by {kinds})"
                )
        named = [name for name in self.heading if name]
        for name in named:
            if named.count(name) > 1:
                raise UserError(f"{file} has two columns {name}")

    def records(self):
        """Yield the line number and the cells of every line that is not empty."""
        for number, cells in self._records():
            if not any(cells):
                continue
            wanted = len(self.heading)
            if any(cells[wanted:]) or any(
                cell and not name for cell, name in zip(cells, self.heading, strict=False)
            ):
                raise UserError(
                    f"{self.file}, line {number} has more cells than the heading "
                    f"({len(cells)}, {wanted}): put a cell that holds a "
                    f"{DELIMITERS.get(self.delimiter, self.delimiter)} in double quotes"
                )
            if len(cells) < wanted:
                raise UserError(
                    f"{self.file}, line {number} has fewer cells than the heading "
                    f"({len(cells)}, {wanted})"
                )
            yield number, cells[:wanted]

    def _records(self):
        while True:
            end = self._reader.line_num
            number = end + 1 + self._before
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise UserError(
                    f"{self.file}, line {number}: a double quote is not closed, or stands within a "
                    f"cell without being doubled ({error})"
                ) from None
            if self._reader.line_num > end + 1:
                raise UserError(
                    f"{self.file}, line {number}: a double quote is not closed on this line; a "
                    "cell cannot hold a line break"
                )
            yield number, [cell.strip() for cell in cells]


def _delimiter(line: str, columns: Sequence[str]) -> str:
    """Return the delimiter that yields these columns in a heading; else the most frequent."""
    for delimiter in DELIMITERS:
        named = line.replace('"', "").lower().split(delimiter)
        if set(columns) <= {name.strip() for name in named}:
            return delimiter
    return max(DELIMITERS, key=line.count)


def plain(path: str) -> str:
    """Normalize a path in a table like clip names: `/`, NFC, no `.` and no doubled `/`."""
    text = re.sub(r"/(\./|/)*", "/", path.replace("\\", "/"))
    return unicodedata.normalize("NFC", text.removeprefix("./").rstrip("/"))


def located(root: Path, path: str) -> tuple[Path, str]:
    r"""Find the file that a path in a table names, also if its name has another Unicode form.

    A backslash may stand for `/` (Windows), or begin an escape for a non-UTF-8 byte such as `\xe9`.

    Returns:
        The file, and the name of its clip.
    """
    name = plain(path)
    for each in (name, unicodedata.normalize("NFD", name), path.replace("\\", "/")):
        if os.path.lexists(root / each):
            return root / each, name
    for each in (path, path_of_printable(path)):
        if "\\" in path and os.path.lexists(root / each):
            return root / each, unicodedata.normalize("NFC", path)
    return root / name, name
