"""List the runs, ablations and searches of a workdir, each from its own files."""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidrec.errors import UserError, raise_if_transient
from vidrec.evaluation import tasks
from vidrec.evaluation.presentation import Headline
from vidrec.io import escape, files, runs
from vidrec.io.words import listed
from vidrec.report.results import row_of_table
from vidrec.report.run import all_recordings_known, recordings_known

WRITTEN = (runs.RESULT, runs.TABLE, runs.SEARCH, runs.GROUP, "metrics.jsonl")


class Entry(NamedTuple):
    """A run, an ablation or a search.

    Attributes:
        name: its name; that of its folder if its files give none.
        dir: its folder.
        kind: run, ablation or search.
        status: done, diverged or failed; training while a process trains it; else unfinished or
            damaged. That of an ablation or a search may add numbers of trials.
        figure: name of the headline figure of its task, such as accuracy.
        value: the figure of the test clips. For an ablation it is that of the best row on
            validation, for a search that of the chosen setting. None if there is none.
        trials: number of its trials.
        finished: number of its trials that have ended.
        when: time of the last change of its files, in seconds since 1970 (Unix time).
        recordings_known: whether its clips name their recordings; None if its results do not say.
        command: the command that made it; "" if its files do not say.
    """

    name: str
    dir: Path
    kind: str
    status: str
    figure: str
    value: float | None
    trials: int
    finished: int
    when: float
    recordings_known: bool | None = None
    command: str = ""

    def plain(self) -> dict[str, Any]:
        """Return the entry for JSON; the key of its value is the name of its figure.

        The time is local time with its time zone.
        """
        when = datetime.fromtimestamp(self.when).astimezone().isoformat(timespec="seconds")
        facts = {name: value for name, value in self._asdict().items() if name != "value"}
        named = {self.figure: self.value} if self.figure else {}
        return {**facts, **named, "dir": str(self.dir.absolute()), "when": when}


def listing(workdir: Path) -> list[Entry]:
    """Return the entries of a workdir, the latest first.

    Raises:
        UserError: there is no such folder, or it may not be listed.
    """
    if not workdir.is_dir():
        raise UserError(f"there is no folder {workdir}: runs are kept in runs/, or in --workdir")
    runs.check_listed(workdir)
    found = filter(None, map(_entry, runs.folders(workdir)))
    entries = [entry._replace(command=_command(entry.dir)) for entry in found]
    return sorted(entries, key=lambda entry: (-entry.when, entry.name))


def unknown_recordings(entries: Sequence[Entry]) -> list[str]:
    """Return a note on the entries whose clips do not name their recordings."""
    unknown = [e for e in entries if e.recordings_known is False and e.value is not None]
    if not unknown:
        return []
    named = listed(dict.fromkeys(entry.name for entry in unknown))
    return [
        f"Recordings unknown ({named}): such a figure can be far too high and its interval too "
        "narrow."
    ]


def commands_of_equal_names(entries: Sequence[Entry]) -> list[str]:
    """Return a line with the command of each entry that has the same name as another."""
    names = Counter(entry.name for entry in entries)
    return [f"{e.dir.name}: {e.command}" for e in entries if names[e.name] > 1 and e.command]


def _command(folder: Path) -> str:
    for file, holds in (
        (runs.SEARCH, files.SEARCH_HOLDS),
        (runs.TABLE, files.TABLE_HOLDS),
        ("environment.json", files.ENVIRONMENT_HOLDS),
    ):
        if (folder / file).is_file():
            with contextlib.suppress(UserError):
                command = files.read_json(folder / file, holds).get("command", "")
                return command if isinstance(command, str) else escape.shell(command)
    return ""


def _entry(folder: Path) -> Entry | None:
    """Return the entry of a folder; None if it is not a run, an ablation or a search."""
    for file, read in (
        (runs.SEARCH, _search),
        (runs.TABLE, _table),
        (runs.RESULT, _run),
        (runs.GROUP, _begun),
    ):
        if not (folder / file).is_file():
            continue
        try:
            return read(folder)
        except UserError as error:
            raise_if_transient(folder / file, error)
            kind = {_search: "search", _table: "ablation"}.get(read, "run")
            return Entry(folder.name, folder, kind, "damaged", "", None, 0, 0, _when(folder))
    return None


def _run(folder: Path) -> Entry:
    result = files.read_result(folder)
    headline = _headline(folder)
    value = _figure(result, "test", headline)
    name = result.get("name") or folder.name
    return Entry(
        *(name, folder, "run", result["status"], headline.figure, value, 1, 1, _when(folder)),
        recordings_known(result),
    )


def _begun(folder: Path) -> Entry:
    trials = files.read_json(folder / runs.GROUP, files.GROUP_HOLDS)["trials"]
    name = trials[0]["about"].get("name") if trials else ""
    task = tasks.of_settings(trials[0]["config"] if trials else {})
    status = "training" if runs.is_claimed(folder) else "unfinished"
    figure = task.headline.figure
    return Entry(name or folder.name, folder, "run", status, figure, None, 1, 0, _when(folder))


def _table(folder: Path) -> Entry:
    meta = files.read_json(folder / runs.TABLE, files.TABLE_HOLDS)
    places = {trial["id"]: folder / "trials" / trial["id"] for trial in meta["trials"]}
    done = {id_: place for id_, place in places.items() if (place / runs.RESULT).is_file()}
    results = {id_: files.read_result(place) for id_, place in done.items()}
    headline = _headline(next(iter(done.values()), folder))
    rows: dict[Any, list[Mapping[str, Any]]] = {}
    for trial in meta["trials"]:
        if trial["id"] in results:
            rows.setdefault(trial["row"], []).append(results[trial["id"]])
    return Entry(
        meta.get("name") or folder.name,
        folder,
        "ablation",
        _status(folder, [result["status"] for result in results.values()], len(places)),
        headline.figure,
        _of_table(folder, meta["trials"], rows, headline),
        len(places),
        len(done),
        _when(folder),
        all_recordings_known(results.values()),
    )


def _status(folder: Path, found: list[str], planned: int) -> str:
    """Return the status of a table, from the states of its finished trials."""
    bad = {word: found.count(word) for word in ("diverged", "failed") if word in found}
    words = [f"{count} {word}" for word, count in bad.items()]
    if len(found) < planned:
        groups = folder / "groups"
        trains = any(map(runs.is_claimed, runs.folders(groups)))
        state = f"{'training' if trains else 'unfinished'}, {len(found)} of {planned} trials"
        return ", ".join([state, *words])
    return ", ".join(["done", *words])


def _search(folder: Path) -> Entry:
    meta = files.read_json(folder / runs.SEARCH, files.SEARCH_HOLDS)
    chosen, trials = meta["more"].get("chosen"), meta["found"]
    finished = sum(trial["state"] != "running" for trial in trials)
    state = "training" if runs.is_claimed(folder) else "unfinished"
    status = "done" if chosen else f"{state}, {finished} trials"
    figure = tasks.of_settings(meta["config"]).headline.figure
    value = chosen["test_accuracy"] if chosen else None
    return Entry(
        *(meta["name"], folder, "search", status, figure, value),
        *(len(trials), finished, _when(folder)),
    )


def _of_table(
    folder: Path,
    trials: Sequence[dict[str, Any]],
    rows: Mapping[Any, list[Mapping[str, Any]]],
    headline: Headline,
) -> float | None:
    """Return the test figure, as the table shows it, of the row that is best on validation."""
    best = _best(rows, headline)
    if best is None:
        return None
    value = best.test
    of_best = [trial for trial in trials if trial["row"] == best.row]
    if any("fold" in trial for trial in of_best):  # over all answers, not the mean of the folds
        value = row_of_table(folder, of_best).headline
    return None if math.isnan(value) else value


class _Best(NamedTuple):
    """A row of a table, and its mean test figure."""

    row: Any
    test: float


def _best(rows: Mapping[Any, list[Mapping[str, Any]]], headline: Headline) -> _Best | None:
    """Return the row whose mean validation figure is the best; None if nothing is scored."""
    scored = []
    for row, results in rows.items():
        val, test = (
            _mean([_figure(r, part, headline) for r in results]) for part in ("val", "test")
        )
        scored.append((row, val, test))
    for place in (1, 2):  # without validation figures by test figures, as in the report
        known = [each for each in scored if not math.isnan(each[place])]
        if known:
            row, _, test = max(known, key=lambda each: each[place])
            return _Best(row, test)
    return None


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


def _figure(result: Mapping[str, Any], part: str, headline: Headline) -> float | None:
    return result["metrics"].get(part, {}).get(headline.figure)


def _headline(folder: Path) -> Headline:
    """Return the headline of the task that a trial's config.json names."""
    file = folder / "config.json"
    settings = files.read_json(file, files.CONFIG_HOLDS) if file.is_file() else {}
    return tasks.of_settings(settings).headline


def _when(folder: Path) -> float:
    return max((file.stat().st_mtime for file in _written(folder)), default=0.0)


def _written(folder: Path) -> Iterator[Path]:
    for name in WRITTEN:
        yield from (file for file in (folder / name,) if file.is_file())
        yield from folder.glob(f"trials/*/{name}")
