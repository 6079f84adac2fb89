"""The table of a folder: a line a trial as CSV, a line a row for people."""

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from vidrec.config.columns import MEASURED
from vidrec.io import escape
from vidrec.report.results import Ablation, Row, Run, shown, table_of

WHOLE = ("params", "epochs", "best_epoch")
RARE = ("test_top10", "best_epoch")  # in the table for people where its author asks for them
FITTED = [
    "validation accuracy",
    "training accuracy",
    "loss, training",
    "loss, validation",
    "loss, test",
]
DAGGER = "†"
HELD_AS_SAID = 0.93  # an interval of 95 % that held less often in simulation is said to


def trials(found: Run | Ablation) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and lines of table.csv, a line a trial, in the table's order."""
    rows, _ = table_of(found)
    axes = found.axes if isinstance(found, Ablation) else []
    columns = ["id", "row", "seed", "status", *axes, *MEASURED, "leaked"]
    return columns, [_trial(row, plan, axes) for row in rows for plan in row.planned]


def _trial(row: Row, plan: Mapping[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    run = next((run for run in row.runs if run.result.get("id") == plan.get("id")), None)
    line = {"id": plan.get("id", ""), "row": plan.get("row", ""), "seed": plan.get("seed", "")}
    line["status"] = run.result.get("status", "") if run else "missing"
    line |= {axis: _setting(run, plan, axis) for axis in axes}
    if run is None:
        return line | dict.fromkeys((*MEASURED, "leaked"), None) | {"params": plan.get("params")}
    measured: dict[str, float | None] = {name: run.metric(name) for name in MEASURED}
    for name in WHOLE:
        value = run.metric(name)
        measured[name] = None if math.isnan(value) else int(value)
    return line | measured | {"leaked": run.leaked}


def _setting(run: Run | None, plan: Mapping[str, Any], axis: str) -> Any:
    """What the trial ran with: its override, else the base's value from its config."""
    if axis in plan["overrides"]:
        return plan["overrides"][axis]
    value: Any = run.config if run else {}
    for part in axis.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _cell(value: Any) -> str:
    """A value of table.csv: floats with 9 significant digits, nothing for what is not there."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return format(value, ".9g")
    if isinstance(value, list | tuple | dict):
        return json.dumps(value)
    return str(value)


def as_csv(found: Run | Ablation) -> str:
    columns, lines = trials(found)
    cells = [[_cell(line[column]) for column in columns] for line in lines]
    return escape.csv([columns, *cells])


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage, a dash where there is none."""
    if share is None or math.isnan(share):
        return "–"
    return f"{100 * share:.{digits}f}\u00a0%"


def points(low: float, high: float | None = None) -> str:
    """A signed difference of shares, or an interval of them, in percentage points."""
    signed = [f"{100 * x:+.1f}".replace("-", "−") for x in (low, high) if x is not None]
    return " to ".join(signed)


def span(interval: Any) -> str:
    if interval is None or math.isnan(interval.low):
        return "–"
    return f"{100 * interval.low:.1f}\u00a0–\u00a0{100 * interval.high:.1f}"


def whole(value: float) -> str:
    """A count with thousands apart by a narrow space."""
    return "–" if math.isnan(value) else f"{value:,.0f}".replace(",", "\u202f")


def seconds(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.1f}" if value < 100 else whole(value)


def verdict(row: Row) -> str:
    """What the difference to the control is worth, in words."""
    if row.within_noise is None:
        return ""
    if row.within_noise:
        return "within noise"
    return "better" if row.difference.mean > 0 else "worse"


def _versus_control(row: Row, control: Row | None) -> str:
    if row is control:
        return "control"
    if row.difference is None:
        return "–"
    d = row.difference
    return f"{points(d.mean)} ({points(d.low, d.high)}), {verdict(row)}"


def published(row: Row, column: str = "test_accuracy", style: Any = percent) -> str:
    """A published figure, with a dagger where its own report contradicts it."""
    value = row.published.get(column)
    if value is None:
        return "–"
    # As many digits as were published: 0.6565 is 65.65 %.
    digits = 1 if math.isclose(1000 * value, round(1000 * value), abs_tol=1e-6) else 2
    text = percent(value, digits) if style is percent else style(value)
    return text + (f" {DAGGER}" if column in row.doubtful else "")


def versus_published(row: Row, column: str = "test_accuracy") -> str:
    """Ours less theirs, with our interval about it; none for a doubtful figure."""
    theirs, ours = row.published.get(column), row.mean(column)
    if theirs is None or column in row.doubtful or math.isnan(ours):
        return "–"
    interval = row.interval if column == "test_accuracy" else None
    if interval is None or math.isnan(interval.low):
        return points(ours - theirs)
    return f"{points(ours - theirs)} ({points(interval.low - theirs, interval.high - theirs)})"


def seeds(row: Row) -> str:
    """How many seeds were scored, of how many, and what became of the others."""
    lost = [run.result.get("status", "") for run in row.runs if not run.done]
    lost += ["missing"] * (len(row.planned) - len(row.runs))
    if not lost:
        return str(len(row.done))
    kinds = ", ".join(f"{lost.count(kind)} {kind}" for kind in dict.fromkeys(lost))
    return f"{len(row.done)} of {len(row.planned)} ({kinds})"


def lines(found: Run | Ablation) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the table for people, a line a row of the ablation."""
    rows, control = table_of(found)
    theirs, others = any("test_accuracy" in row.published for row in rows), also_published(rows)
    heads = ["setting"]
    heads += ["published"] if theirs else []
    heads += ["test accuracy", "95 % interval"]
    heads += ["to the control (95 % interval), points"] if control and len(rows) > 1 else []
    heads += ["to published, points"] if theirs else []
    in_clips = any(not math.isnan(row.mean("test_clip_accuracy")) for row in rows)
    heads += ["average F1", "top-5"] + ["accuracy of single clips"] * in_clips
    more = [name for name in _asked(found) if name in RARE]
    heads += map(_plain_name, more)
    heads += ["seeds", "parameters", "epochs", "compile, s", "train, s"]
    heads += [*FITTED, *(f"published {_plain_name(name)}" for name in others)]
    body = []
    for row in rows:
        cells = [row.name]
        cells += [published(row)] if theirs else []
        cells += [percent(row.mean("test_accuracy")), span(row.interval)]
        cells += [_versus_control(row, control)] if control and len(rows) > 1 else []
        cells += [versus_published(row)] if theirs else []
        cells += [percent(row.mean(name)) for name in ("test_avg_f1", "test_top5")]
        cells += [percent(row.mean("test_clip_accuracy"))] * in_clips
        cells += [_style(name)(row.mean(name)) for name in more]
        cells += [seeds(row), whole(_params(row)), whole(row.mean("epochs"))]
        cells += [seconds(row.mean(f"seconds_{part}")) for part in ("compile", "train")]
        cells += [percent(row.mean(f"{split}_accuracy")) for split in ("val", "train")]
        cells += [_loss(row.mean(f"{split}_loss")) for split in ("train", "val", "test")]
        cells += [published(row, name, _style(name)) for name in others]
        body.append(cells)
    return heads, body


def _asked(found: Run | Ablation) -> Sequence[str]:
    """What the table's author wants read."""
    return found.meta.get("read", ()) if isinstance(found, Ablation) else ()


def also_published(rows: Iterable[Row]) -> list[str]:
    """Columns of table.csv, test accuracy apart, for which a report gave figures."""
    named = dict.fromkeys(name for row in rows for name in row.published)
    return [name for name in named if name in MEASURED and name != "test_accuracy"]


def beside(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Every published figure beside ours: heads and a line a row that has any."""
    columns = also_published(rows)
    heads = ["setting"]
    for name in columns:
        heads += [_plain_name(name), "published"]
    body = []
    for row in rows:
        cells = [row.name]
        for name in columns:
            cells += [_style(name)(row.mean(name)), published(row, name, _style(name))]
        body.append(cells)
    return heads, body


def _plain_name(column: str) -> str:
    return column.replace("_", " ")


def _style(column: str) -> Any:
    """How a column's figures are written."""
    if column.startswith("seconds"):
        return seconds
    if column.endswith(("loss", "objective")):
        return _loss
    return whole if column in WHOLE else percent


def _params(row: Row) -> float:
    measured = row.mean("params")
    planned = row.planned[0].get("params") if row.planned else None
    return float(planned) if math.isnan(measured) and planned is not None else measured


def _loss(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def trained_on(found: Run | Ablation) -> str:
    """The data that was really used, with the values that say how difficult it is."""
    meta = found.meta if isinstance(found, Ablation) else found.result
    data = meta.get("data")
    if not data:
        return str(meta.get("on") or "")
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= value if isinstance(value, Mapping) else {name: value}
    values = ((n, f"{v:.4g}" if isinstance(v, float) else shown(v)) for n, v in flat.items())
    rest = ", ".join(f"{name} {value}" for name, value in values if name != "name")
    return f"{data.get('name', '')}{' (' + rest + ')' if rest else ''}"


def notes(found: Run | Ablation) -> list[str]:
    """What a reader of the bare table must know."""
    rows, _ = table_of(found)
    told = []
    if any(row.published for row in rows) and isinstance(found, Ablation):
        source = found.meta.get("source") or "as the table's file says"
        told.append(f"Published: {source}. Ours: run on {trained_on(found)}.")
    if any(run.leaked is True for row in rows for run in row.runs):
        told.append("Leaked: clips of one recording stand in training and in test.")
    if any(row.doubtful for row in rows):
        told.append(f"{DAGGER} doubtful in its own report; no difference is taken.")
    return told + _held(rows)


def _held(rows: Sequence[Row]) -> list[str]:
    """Of which rows the intervals are right less often than they say, and how often they are."""
    names: dict[tuple[int, float], list[str]] = {}
    for row in rows:
        held = getattr(row.interval, "worst_coverage", None)
        if held is not None and held < HELD_AS_SAID:
            names.setdefault((len(row.done), held), []).append(row.name)
    return [
        f"With {seeds} seeds that differ this much a 95 % interval held the accuracy in "
        f"{percent(held)} of simulated experiments in the worst case: {', '.join(some)}."
        for (seeds, held), some in names.items()
    ]


def as_markdown(found: Run | Ablation) -> str:
    heads, body = lines(found)
    clean = [[escape.markdown(cell) for cell in line] for line in [heads, *body]]
    rule = ["---"] + ["---:"] * (len(heads) - 1)
    table = ["| " + " | ".join(line) + " |" for line in [clean[0], rule, *clean[1:]]]
    return "\n".join(table + [f"\n{escape.markdown(note)}" for note in notes(found)]) + "\n"


def as_tex(found: Run | Ablation) -> str:
    """A tabular with booktabs' rules, to be input into a paper."""
    heads, body = lines(found)

    def line(cells: Iterable[str]) -> str:
        return " & ".join(map(escape.tex, cells)) + r" \\"

    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            *(f"% {escape.visible(note)}" for note in notes(found)),
            r"\begin{tabular}{l" + "r" * (len(heads) - 1) + "}",
            *(r"\toprule", line(heads), r"\midrule"),
            *map(line, body),
            *(r"\bottomrule", r"\end{tabular}", ""),
        ]
    )


class Columns:
    """A table for a terminal, ruled and coloured there and plain elsewhere.

    A narrow one has the columns that are always shown, their cells whole, and of the others as
    many as there is room for.

    Args:
        heads: of the columns; the one in `folded` takes the room that is left, in several lines.
        lines: cells, texts or rich's Text.
        rare: columns shown where there is room, the first before the others; what stands together
            is shown together.
        narrow: of these, the columns shown where there is room for none.
        title: stands above.
    """

    LEAST = 8  # letters of the folded column, however narrow the terminal
    USUAL = 24  # so many before a rare column is shown

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
        """Heads of the columns that are shown in so many letters."""
        shown = set(self.heads) - {head for heads in self.rare for head in heads}
        key = len(shown)
        for heads in self.rare:
            if self._width({*shown, *heads}) <= width:
                shown |= set(heads)
        if len(shown) == key:
            shown |= set(self.narrow)
        return [head for head in self.heads if head in shown]

    def _width(self, shown: Collection[str]) -> int:
        widths = [self._longest(head) for head in shown if head != self.folded]
        widths.append(min(self._longest(self.folded), self.USUAL))
        return sum(widths) + GAP * (len(widths) - 1)

    def _longest(self, head: str) -> int:
        """Letters of the widest cell, or of the longest word of the head, which may be broken."""
        place = self.heads.index(head)
        return max(
            [line[place].cell_len for line in self.lines] + [len(word) for word in head.split()]
        )

    def _widths(self, shown: Sequence[str], width: int) -> list[int]:
        """Letters of each column; heads stand in one line where there is room for all of them."""
        whole = {head: max(len(head), self._longest(head)) for head in shown}
        room = width - GAP * (len(shown) - 1)
        if sum(whole.values()) > room:
            whole = {head: self._longest(head) for head in shown}
        others = sum(letters for head, letters in whole.items() if head != self.folded)
        whole[self.folded] = min(whole[self.folded], max(room - others, self.LEAST))
        return [whole[head] for head in shown]

    def __rich_console__(self, console: Any, options: Any) -> Any:
        from rich import box
        from rich.table import Table

        ruled = console.is_terminal
        table = Table(
            box=box.SIMPLE_HEAD if ruled else None,  # whose columns are a blank apart
            show_edge=False,
            pad_edge=False,
            padding=(0, GAP - ruled, 0, 0),
            title=_as_text(self.title) if self.title else None,
        )
        shown = self.fitting(options.max_width)
        for head, width in zip(shown, self._widths(shown, options.max_width), strict=True):
            words = head == self.folded or head in WORDY
            table.add_column(
                head, justify="left" if words else "right", overflow="fold", width=width
            )
        for line in self.lines:
            table.add_row(*(line[self.heads.index(head)] for head in shown))
        yield table


GAP = 2  # blanks between two columns
WORDY = ("group", "job", "state", "log", "why")  # columns of words stand on the left


def _as_text(cell: Any) -> Any:
    from rich.text import Text

    return cell if isinstance(cell, Text) else Text(escape.terminal(cell))


class Terminal:
    """The table at the end of a run, and what must be known to read it."""

    def __init__(self, rows: Sequence[Row], control: Row | None, notes: Sequence[str] = ()):
        self.rows, self.control, self.notes = rows, control, notes

    def __rich_console__(self, console: Any, options: Any) -> Any:
        from rich.text import Text

        theirs = any("test_accuracy" in row.published for row in self.rows)
        columns = _THEIRS if theirs else _OURS
        lines = []
        for row in self.rows:
            held = row is self.control
            colour = {"better": "green", "worse": "red"}.get(verdict(row), "")
            lines.append(
                [
                    Text(escape.terminal(row.name), style="bold" if held else ""),
                    *(cell(row) for cell in columns.values()),
                    Text("control" if held else _terse(row), style=colour),
                ]
            )
        heads = ["setting", *columns, "to control"]
        rare = _THEIRS_RARE if theirs else _OURS_RARE
        yield Columns(heads, lines, "setting", rare, narrow=["95 % interval"])
        if any(row.within_noise for row in self.rows):
            yield Text(f"{NOISE} within noise", style="dim")
        for note in [*self.notes, *_lost(self.rows)]:
            yield Text(escape.terminal(note), style="yellow")


# What fits a line of 80 beside the setting and the control; the page has the rest.
_OURS: dict[str, Callable[[Row], str]] = {
    "test acc.": lambda row: percent(row.mean("test_accuracy")),
    "95 % interval": lambda row: span(row.interval),
    "avg F1": lambda row: percent(row.mean("test_avg_f1")),
    "params": lambda row: whole(_params(row)),
    "s": lambda row: seconds(row.mean("seconds_train")),
}
_OURS_RARE = (("avg F1",), ("params",), ("s",))
_THEIRS: dict[str, Callable[[Row], str]] = {
    "published": published,
    "ours": lambda row: percent(row.mean("test_accuracy")),
    "95 % interval": lambda row: span(row.interval),
    "to published (95 %)": versus_published,
}
_THEIRS_RARE = (("published", "to published (95 %)"), ("95 % interval",))
NOISE = "≈"


def _terse(row: Row) -> str:
    if row.difference is None:
        return "–"
    return f"{NOISE} " * bool(row.within_noise) + points(row.difference.mean)


def _lost(rows: Iterable[Row]) -> list[str]:
    return [f"{row.name}: {seeds(row)} seeds" for row in rows if len(row.done) < len(row.planned)]


__all__ = ["Columns", "Terminal", "as_csv", "as_markdown", "as_tex", "shown", "trials"]
