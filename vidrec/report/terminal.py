"""Print tables: with lines and colours on a terminal, plain elsewhere."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from vidrec.io import escape

GAP = 2  # blanks between two columns
# Columns of words are aligned left.
WORDY = ("group", "trial group", "job", "state", "log", "why", "name", "kind", "status")


class Columns:
    """A table that fits the terminal's width.

    A narrow terminal shows the fixed columns with complete cells, and as many of the rare columns
    as there is room for.

    Args:
        heads: heads of the columns.
        lines: cells of each row, texts or rich's Text.
        folded: head of the column that gets the remaining width; its cells may take several lines.
        rare: groups of heads of columns that are shown only if there is room. Earlier groups have
            priority; the columns of a group are shown together.
        narrow: heads of rare columns that are shown if there is room for no group.
        title: title above the table.
    """

    LEAST = 8  # minimum width of the folded column, in letters
    USUAL = 24  # width of the folded column, in letters, that rare columns must leave

    def __init__(
        self,
        heads: Sequence[str],
        lines: Iterable[Sequence[Any]],
        folded: str,
        rare: Sequence[Sequence[str]] = (),
        *,
        narrow: Sequence[str] = (),
        title: str = "",
    ):
        self.heads, self.folded, self.rare = heads, folded, rare
        self.narrow, self.title = narrow, title
        self.lines = [list(map(_as_text, line)) for line in lines]

    def fitting(self, width: int) -> list[str]:
        """Return the heads of the columns that fit into this width."""
        shown = set(self.heads) - {head for heads in self.rare for head in heads}
        always = len(shown)
        for heads in self.rare:
            if self._width({*shown, *heads}) <= width:
                shown |= set(heads)
        if len(shown) == always:
            shown |= set(self.narrow)
        return [head for head in self.heads if head in shown]

    def fits(self, width: int, *, without: Collection[str] = ()) -> bool:
        """Return whether all columns except those in `without` fit into this width."""
        return self._width(set(self.heads) - set(without)) <= width

    def _width(self, shown: Collection[str]) -> int:
        widths = [self._longest(head) for head in shown if head != self.folded]
        widths.append(min(self._longest(self.folded), self.USUAL))
        return sum(widths) + GAP * (len(widths) - 1)

    def _longest(self, head: str) -> int:
        """Return the width of the widest cell, or of the head's longest word if it is longer."""
        column = self.heads.index(head)
        cells = [line[column].cell_len for line in self.lines]
        return max(cells + [len(word) for word in head.split()])

    def _widths(self, shown: Sequence[str], width: int) -> list[int]:
        """Return the width of each column in letters; heads take one line if there is room."""
        letters = {head: max(len(head), self._longest(head)) for head in shown}
        room = width - GAP * (len(shown) - 1)
        if sum(letters.values()) > room:
            letters = {head: self._longest(head) for head in shown}
        others = sum(number for head, number in letters.items() if head != self.folded)
        letters[self.folded] = min(letters[self.folded], max(room - others, self.LEAST))
        return [letters[head] for head in shown]

    def __rich_console__(self, console: Any, options: Any) -> Any:
        from rich import box
        from rich.table import Table

        ruled = console.is_terminal
        table = Table(
            box=box.SIMPLE_HEAD if ruled else None,  # this box separates columns by a blank
            show_edge=False,
            pad_edge=False,
            padding=(0, GAP - ruled, 0, 0),
            title=_as_text(self.title) if self.title else None,
        )
        shown = self.fitting(options.max_width)
        for head, width in zip(shown, self._widths(shown, options.max_width), strict=True):
            words = head == self.folded or head in WORDY
            justify: Any = "left" if words else "right"
            table.add_column(head, justify=justify, overflow="fold", width=width)
        for line in self.lines:
            table.add_row(*(line[self.heads.index(head)] for head in shown))
        yield table


def _as_text(cell: Any) -> Any:
    from rich.text import Text

    return cell if isinstance(cell, Text) else Text(escape.terminal(cell))
