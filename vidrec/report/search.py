"""Write the report of a search: all trials, the importance of settings, and the chosen one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidrec.errors import UserError
from vidrec.io import escape, files
from vidrec.io.runs import SEARCH
from vidrec.report import blocks, rendering, search_figures
from vidrec.report.blocks import Block, Definition, Definitions, Paragraph, Section
from vidrec.report.formats import DASH, decimals, percent, span
from vidrec.report.page import Drawer
from vidrec.report.run import setting_text
from vidrec.report.table_model import Badge, Cell, Table
from vidrec.report.terminal import Columns

SHOWN = 10  # trials in the printed table; the page and table.csv have all of them
STATES = ("done", "stopped", "diverged", "failed", "running")


@dataclass(frozen=True)
class Search:
    """A search, read from its folder.

    Attributes:
        folder: the folder of the search.
        meta: content of search.json.
    """

    folder: Path
    meta: dict[str, Any]

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Return all trials, in the order in which they were proposed."""
        return self.meta["found"]

    @property
    def ranked(self) -> list[dict[str, Any]]:
        """Return the trials sorted by state (`STATES`), then most epochs, then best figure."""

        def order(trial: dict[str, Any]) -> tuple:
            accuracy, loss = trial["end"] or (-1.0, None)
            loss = math.inf if loss is None else loss
            return STATES.index(trial["state"]), -trial["epochs"], -accuracy, loss

        return sorted(self.trials, key=order)

    @property
    def space(self) -> dict[str, dict[str, Any]]:
        """Return the choices or the range of values of each searched setting."""
        return self.meta["space"]

    @property
    def chosen(self) -> dict[str, Any] | None:
        """Return the chosen settings and their figures; None until they were trained again."""
        return self.meta["more"].get("chosen")

    @property
    def importance(self) -> dict[str, float]:
        """Return each setting's share of the importance, the largest first."""
        shares = self.meta["more"].get("importance", {})
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    @property
    def figure(self) -> str:
        """Return the name of the figure that the search maximises."""
        return self.meta.get("figure", "accuracy").replace("_", " ")

    @property
    def epochs(self) -> int:
        """Return the sum of all trials' epochs, without trials that repeat an earlier one."""
        return sum(trial["epochs"] for trial in self.trials if trial["same_as"] is None)

    @property
    def of_epochs(self) -> int:
        """Return the sum of epochs if every trial were trained to its last epoch."""
        usual = self.meta["config"].get("train", {}).get("epochs", 0)
        return sum(trial["params"].get("train.epochs", usual) for trial in self.trials)


def read(folder: Path) -> Search:
    """Read a search from its folder."""
    return Search(folder, files.read_json(folder / SEARCH, files.SEARCH_HOLDS))


def build(folder: Path) -> Path:
    """Write report.html, table.csv, table.md, table.tex and figures/; return the page's path."""
    from vidrec.report import table_model

    search = read(folder)
    files.write_whole(folder / "table.csv", table_model.as_csv(csv_table(search)))
    shown = trials_table(search)
    files.write_whole(folder / "table.md", table_model.as_markdown(shown))
    files.write_whole(folder / "table.tex", table_model.as_tex(shown))
    return files.write_whole(folder / "report.html", render(search, folder / "figures"))


def refuse(folder: Path) -> UserError:
    """Return the error for a command that needs a trained model but is given a search."""
    chosen = read(folder).chosen
    where = folder.parent / chosen["table"] if chosen else "not trained yet: search on"
    return UserError(f"{folder} is a search; the table of the setting that it chose is {where}")


# --- The page -------------------------------------------------------------------------------------


def render(search: Search, pictures: Path) -> str:
    """Return the page; every figure in it is also written under `pictures`."""
    draw = Drawer(pictures)
    page = blocks.Page(
        title=f"Search: {search.meta['name']}",
        question="Which of these settings is best on validation clips, and how good on test clips?",
        warnings=_warnings(search),
        answer=answer(search),
        facts=Definitions(_facts(search)),
        sections=[
            _chosen(search),
            _history(search, draw),
            _importance(search, draw),
            _parallel(search, draw),
            Section("Trials", "trials", [trials_table(search)]),
        ],
        rebuild=escape.shell(["vidrec", "report", search.folder.name]),
    )
    return rendering.render(page)


def answer(search: Search) -> str:
    """Return the result in one or two sentences."""
    chosen = search.chosen
    if chosen is None:
        return "The search is not finished: the same command goes on."
    settings = ", ".join(f"{name} = {setting_text(v)}" for name, v in chosen["params"].items())
    text = (
        f"Of {len(search.trials)} trials, {settings} is the best on validation: "
        f"{percent(chosen['accuracy'])}."
    )
    if chosen["test_accuracy"] is None:
        return text
    ends = ""
    if chosen["low"] is not None and not math.isnan(chosen["low"]):
        ends = f" (95 % interval {span(chosen['low'], chosen['high'])})"
    return (
        f"{text} Trained anew with {chosen['seeds']} fresh seeds, its test accuracy is "
        f"{percent(chosen['test_accuracy'])}{ends}."
    )


def _warnings(search: Search) -> list[str]:
    lost = [trial for trial in search.trials if trial["state"] in ("failed", "diverged")]
    reasons = dict.fromkeys(f"trial {t['number']} {t['state']}: {t['why']}" for t in lost)
    return list(reasons)[:3] + [f"{len(lost)} trials have no scores"] * (len(lost) > 3)


def _facts(search: Search) -> list[Definition]:
    meta = search.meta
    rungs = ", ".join(map(str, meta["rungs"]))
    halving = (
        f"after epochs {rungs} the better 1/{meta['halving']} of a round trains on"
        if meta["rungs"]
        else "none: every trial is trained to its end"
    )
    share = f" of {search.of_epochs}" if search.of_epochs else ""
    clips = meta["clips"]
    seen = f"{clips.get('train')} training and {clips.get('val')} validation clips, no test clip"
    return [
        Definition("trials", f"{len(search.trials)}, {_states(search)}"),
        *(Definition(name, _axis_text(axis)) for name, axis in search.space.items()),
        Definition("halving", halving),
        Definition("trial-epochs", f"{search.epochs}{share}"),
        Definition("seen", seen),
        Definition("data", meta.get("data", {}).get("name", "")),
        Definition("Optuna study", "study.log, a journal file"),
        Definition("command", meta.get("command", ""), command=True),
    ]


def _states(search: Search) -> str:
    states = [trial["state"] for trial in search.trials]
    return ", ".join(f"{states.count(each)} {each}" for each in STATES if each in states)


def _axis_text(axis: dict[str, Any]) -> str:
    if "choices" in axis:
        return ", ".join(map(setting_text, axis["choices"]))
    scale = ", logarithmic" if axis["log"] else ""
    return f"{axis['low']:g} to {axis['high']:g}{scale}"


def _chosen(search: Search) -> Section:
    chosen = search.chosen
    if chosen is None:
        return Section("Chosen", "chosen", [])
    lines = [[name, setting_text(value)] for name, value in chosen["params"].items()]
    where = search.folder.parent / chosen["table"]
    there = [
        Definition("table with fresh seeds", chosen["table"]),
        Definition(
            "predict with it",
            escape.shell(["vidrec", "predict", str(where), "FILE"]),
            command=True,
        ),
    ]
    note = (
        "The validation accuracy is the best of many, so it is too high for what to expect: the "
        "test accuracy, with seeds that the search never used, is not chosen by."
    )
    parts: list[Block] = [Table(["setting", "value"], lines), Definitions(there)]
    return Section("Chosen", "chosen", [*parts, Paragraph(note, "small soft")])


def _history(search: Search, draw: Drawer) -> Section:
    if not any(trial["end"] for trial in search.trials):
        return Section("History", "history", [])
    caption = (
        f"Validation {search.figure} of each trial in the order of asking, and the best so far of "
        "those trained to their end; a cross was stopped at a rung."
    )
    figure = draw("history", caption, caption, search_figures.history, search.trials)
    return Section("History", "history", [figure])


def _importance(search: Search, draw: Drawer) -> Section:
    shares = search.importance
    if not shares:
        return Section("Importance", "importance", [])
    at = search.meta["rungs"][:1]
    when = f"after epoch {at[0]}, which all trials reached" if at else "at the trials' ends"
    caption = (
        "Importance of each setting: how much it separates good trials from others (PED-ANOVA, by "
        f"Optuna), {when}."
    )
    alt = caption + " " + ", ".join(f"{name} {percent(share)}" for name, share in shares.items())
    figure = draw("importance", alt, caption, search_figures.importance, shares)
    return Section("Importance", "importance", [figure])


def _parallel(search: Search, draw: Drawer) -> Section:
    shown = [trial for trial in search.trials if trial["end"]]
    if not shown:
        return Section("Parallel coordinates", "parallel", [])
    caption = (
        f"A line a trial through its settings to its validation {search.figure}; the best tenth is "
        "blue, trials stopped at a rung are thin."
    )
    figure = draw("parallel", caption, caption, search_figures.parallel, shown, search.space)
    return Section("Parallel coordinates", "parallel", [figure])


# --- Tables ---------------------------------------------------------------------------------------


def trials_table(search: Search) -> Table:
    """Return the trials as a table for readers, in the order of `Search.ranked`."""
    names = [name.rpartition(".")[2] for name in search.space]
    chosen = search.chosen["number"] if search.chosen else None
    body = []
    for trial in search.ranked:
        accuracy, loss = trial["end"] or (None, None)
        badges = (Badge("chosen", "best"),) * (trial["number"] == chosen)
        values = [setting_text(trial["params"][name]) for name in search.space]
        state = trial["state"]
        if trial["same_as"] is not None:
            state += f", as trial {trial['same_as']}"
        first = Cell(trial["number"], badges=badges)
        figures_ = [percent(accuracy), decimals(loss), trial["epochs"]]
        body.append([first, *values, *figures_, Cell(state, "text")])
    heads = ["trial", *names, f"validation {search.figure}", "loss", "epochs", "state"]
    return Table(heads, body, "All trials, those that came furthest first", tall=len(body) > 24)


def csv_table(search: Search) -> Table:
    """Return the trials for table.csv, with unrounded numbers, in the order of proposal."""
    rungs = search.meta["rungs"]
    heads = [
        "number",
        "round",
        "state",
        "why",
        "epochs",
        f"val_{search.meta['figure']}",
        "val_loss",
    ]
    heads += [*search.space]
    heads += [f"rung_{epoch}" for epoch in rungs]
    body = []
    for trial in search.trials:
        at = {epoch: accuracy for epoch, accuracy, _ in trial["rungs"]}
        cells = [trial[name] for name in ("number", "round", "state", "why", "epochs")]
        cells += [*(trial["end"] or (None, None))]
        cells += [trial["params"][name] for name in search.space]
        cells += [at.get(epoch) for epoch in rungs]
        body.append(["" if cell is None else str(cell) for cell in cells])
    return Table(heads, body)


class Terminal:
    """A rich renderable of the first trials of the table and a sentence on the result."""

    def __init__(self, search: Search):
        self.search = search

    def __rich_console__(self, console: Any, options: Any) -> Any:
        from rich.text import Text

        table = trials_table(self.search)
        lines = [_plain(row) for row in table.rows[:SHOWN]]
        rare = [["loss"], ["epochs"], *([head] for head in reversed(table.columns[2:-4]))]
        yield Columns(table.columns, lines, "state", rare)
        hidden = len(table.rows) - len(lines)
        if hidden > 0:
            yield Text(f"and {hidden} more", style="dim")
        yield Text(escape.terminal(answer(self.search)), style="bold")


def _plain(row: Sequence[Any]) -> list[Any]:
    from vidrec.report.table_model import plain

    return [plain(cell) if cell is not None else DASH for cell in row]
