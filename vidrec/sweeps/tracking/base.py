"""Define the interface of a tracker, and what is sent to it."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vidrec.config import to_dict
from vidrec.io import files, runs
from vidrec.io.runs import SEARCH
from vidrec.report.run import label_of
from vidrec.training.results import RESULT, TrialRun

TABLE = "table"  # the key of a whole table or search
BESIDE = ("trial", "epoch", "status")  # keys of a line of metrics.jsonl that are not figures
CURVES = "metrics.jsonl"


@dataclass(frozen=True)
class Subject:
    """What one run of a tracker shows: a trial, or a table or a search as a whole.

    Attributes:
        key: the trial's id, or TABLE.
        name: the name that the tracker shows.
        project: name of the run, table or search, by which the tracker groups its runs.
        top: folder of the run, table or search.
        folder: folder of the trial, which does not exist for a trial of a search; for a table or a
            search as a whole, the same as `top`.
        alone: whether the trial is a single run and does not belong to a table or a search.
        parameters: settings by their dotted names.
        facts: further information by name.
    """

    key: str
    name: str
    project: str
    top: Path
    folder: Path
    alone: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of_table(self) -> bool:
        """Return whether the subject is a table or a search as a whole."""
        return self.key == TABLE

    @property
    def of_search(self) -> bool:
        """Return whether the subject is a search, or a trial of a search."""
        return runs.is_search(self.top)


@dataclass(frozen=True)
class Outcome:
    """The results of a finished trial, table or search.

    Attributes:
        status: "done", "diverged" or "failed".
        why: the reason for the status; "" if there is none.
        figures: figures by their column names in table.csv.
        rows: the rows of table.csv, a dictionary each.
        model: folder of the trained model; None if there is none.
        files: files and folders to send, such as the report.
        mark: hash of the result, which shows whether the result has changed.
    """

    status: str
    why: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    model: Path | None = None
    files: Sequence[Path] = ()
    mark: str = ""


class Tracker(Protocol):
    """A service that shows runs. To add one, see docs/how-to/extending.md.

    All methods are called in one thread, which is not the one that trains. An exception in them is
    reported in one line and never ends a training.

    Attributes:
        name: the name of the tracker for the user.
        nests: whether the runs of a table's trials are nested below a run of the table. The run of
            the table is then opened first.
    """

    name: str
    nests: bool

    def open(self, subject: Subject, known: str, parent: str) -> str:
        """Begin a run, or continue one.

        Args:
            subject: what the run shows.
            known: the value that this method returned for the subject before; "" the first time.
            parent: the value that this method returned for the table if the tracker nests; else "".

        Returns:
            The identifier of the run in the service.
        """
        ...

    def log(self, subject: Subject, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add epochs to the curves; each line of metrics.jsonl is given once, in order."""
        ...

    def finish(self, subject: Subject, outcome: Outcome) -> None:
        """Add the results of a trial, table or search, and end its run."""
        ...

    def stop(self) -> None:
        """Close the runs that are not finished, so that another process can continue them."""
        ...


def of_trial(trial: TrialRun, top: Path) -> Subject:
    """Return the subject of a trial."""
    alone, about = trial.folder == top, trial.about
    project = str(about.get("name") or top.name)
    name = top.name if alone else f"{label_of(about) or project}, seed {trial.config.seed}"
    if "fold" in about:
        name += f", fold {about['fold']}"
    facts = {"id": trial.id, "folder": str(trial.folder.absolute()), "seed": trial.config.seed}
    if not alone:
        facts |= {"table": top.name, "row": label_of(about), "group": about.get("group", "")}
    return Subject(
        trial.id, name, project, top, trial.folder, alone, flat(to_dict(trial.config)), facts
    )


def of_table(top: Path) -> Subject:
    """Return the subject of a table, or of a search."""
    folder: dict[str, Any] = {"folder": str(top.absolute())}
    if runs.is_search(top):
        search = files.read_json(top / SEARCH, files.SEARCH_HOLDS)
        space = {f"space.{name}": json.dumps(axis) for name, axis in search["space"].items()}
        return Subject(TABLE, top.name, search["name"], top, top, facts=folder | space)
    table = files.read_json(top / "ablation.json", files.TABLE_HOLDS)
    facts = {name: table[name] for name in ("question", "command") if table.get(name)}
    return Subject(
        TABLE,
        top.name,
        table.get("name") or top.name,
        top,
        top,
        facts=folder | facts,
    )


def outcome(subject: Subject) -> Outcome:
    """Return the results of a finished trial, table or search, read from its folder."""
    if subject.of_search:
        return _of_search(subject)
    if subject.of_table:
        return _of_table(subject)
    result = files.read_result(subject.folder)
    model = subject.folder / "model"
    return Outcome(
        result["status"],
        result.get("why") or "",
        _figures(result),
        _rows(subject.folder) if subject.alone else (),
        model if model.is_dir() else None,
        _reports(subject.folder) if subject.alone else [subject.folder / RESULT],
        _mark(subject.folder / RESULT),
    )


def _of_table(subject: Subject) -> Outcome:
    rows = _rows(subject.top)
    failed = [row for row in rows if row.get("status") != "done"]
    return Outcome(
        "done",
        f"{len(failed)} of {len(rows)} trials are not done" if failed else "",
        {"trials": len(rows)},
        rows,
        files=_reports(subject.top),
        mark=_mark(subject.top / "table.csv"),
    )


def _of_search(subject: Subject) -> Outcome:
    """Return the results of a search, or of one of its trials, from search.json.

    A trial that was stopped at a rung has the status "done", and the reason why it was stopped.
    """
    search = files.read_json(subject.top / SEARCH, files.SEARCH_HOLDS)
    if subject.of_table:
        chosen = search["more"].get("chosen", {})
        figures = {f"chosen_{name}": value for name, value in chosen.items() if is_number(value)}
        figures["trials"] = len(search["found"])
        return Outcome(
            "done", "", figures, files=_reports(subject.top), mark=_mark(subject.top / SEARCH)
        )
    trial = next(one for one in search["found"] if one["id"] == subject.key)
    state = "done" if trial["state"] == "stopped" else trial["state"]
    measured = zip((f"val_{search['figure']}", "val_loss"), trial["end"] or (), strict=False)
    figures = {name: float(value) for name, value in measured if is_number(value)}
    figures["epochs"] = trial["epochs"]
    content = json.dumps(trial, sort_keys=True).encode()
    return Outcome(state, trial["why"], figures, mark=hashlib.sha256(content).hexdigest()[:32])


def _mark(file: Path) -> str:
    return hashlib.sha256(files.read_bytes(file)).hexdigest()[:32]


def _rows(folder: Path) -> list[dict[str, Any]]:
    from vidrec import report

    return report.table(folder)[1]


def _reports(folder: Path) -> list[Path]:
    names = ("report.html", "figures", "table.csv", "summary.csv", "table.md", "table.tex")
    more = ("folds.csv", "result.json", "config.json", "ablation.json", "environment.json", SEARCH)
    return [folder / name for name in (*names, *more) if (folder / name).exists()]


def _figures(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a result, by their column names in table.csv."""
    named = {
        f"{part}_{name}": value
        for part, figures in result["metrics"].items()
        for name, value in figures.items()
    }
    named |= {f"seconds_{name}": value for name, value in result.get("seconds", {}).items()}
    named |= {name: result.get(name) for name in ("params", "epochs", "best_epoch")}
    return {name: float(value) for name, value in named.items() if is_number(value)}


def curves(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite figures of a line of metrics.jsonl, by name."""
    return {
        name: float(value)
        for name, value in line.items()
        if name not in BESIDE and is_number(value)
    }


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number and not a bool."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def flat(nested: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return the leaves of a nested dictionary by dotted name; an empty dictionary is a leaf."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        inner = isinstance(value, Mapping) and value
        found |= flat(value, f"{before}{name}.") if inner else {before + name: value}
    return found
