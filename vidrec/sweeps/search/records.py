"""Keep a search's records in its folder: search.json holds all that is needed to continue."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vidrec.io import files
from vidrec.sweeps.search.halving import Standing

FILE = "search.json"
JOURNAL = "study.log"  # the same trials as an Optuna journal
RUNNING, DONE, STOPPED, DIVERGED, FAILED = STATES = (
    "running",
    "done",
    "stopped",
    "diverged",
    "failed",
)


class Rung(NamedTuple):
    """A trial's validation figures after an epoch at which trials are compared."""

    epoch: int
    accuracy: float
    loss: float


@dataclass
class Trial:
    """A trial of a search.

    Attributes:
        number: the trial's number in the search, counted from 0.
        round: the round in which the trial was proposed, counted from 0.
        params: the trial's values of the searched settings.
        id: hash of its settings and its data, as in a run, but without the test clips.
        state: running, done, stopped (at a rung), diverged or failed.
        why: the reason for the state; "" if there is none.
        epochs: the number of epochs that the trial was trained for.
        rungs: the trial's validation figures at the rungs that it reached.
        end: the trial's last validation figures; None if it was never validated.
        same_as: number of an earlier trial with the same settings, whose result is copied.
    """

    number: int
    round: int
    params: dict[str, Any]
    id: str = ""
    state: str = RUNNING
    why: str = ""
    epochs: int = 0
    rungs: list[Rung] = field(default_factory=list)
    end: Standing | None = None
    same_as: int | None = None

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> "Trial":
        """Return the trial of an entry of search.json."""
        rungs = [Rung(epoch, *_read(standing)) for epoch, *standing in entry["rungs"]]
        end = _read(entry["end"]) if entry["end"] else None
        return cls(**{**entry, "rungs": rungs, "end": end})

    def entry(self) -> dict[str, Any]:
        """Return the trial as an entry of search.json, where a non-finite figure is null."""
        rungs = [[epoch, *_written(Standing(*rest))] for epoch, *rest in self.rungs]
        end = _written(self.end) if self.end else None
        return {**asdict(self), "rungs": rungs, "end": end}


@dataclass
class Records:
    """The trials of a search so far, and the results of the chosen settings.

    Attributes:
        folder: the search's folder.
        plan: what is searched and how; it never changes.
        trials: all trials that were proposed so far.
        more: further results by name, such as the importance of each setting.
    """

    folder: Path
    plan: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def read(self) -> None:
        """Read the records that an earlier call of the same search wrote, if there are any."""
        try:
            content = files.read_json(self.folder / FILE, files.SEARCH_HOLDS)
        except files.Missing:
            return
        self.trials = [Trial.read(entry) for entry in content["found"]]
        self.more = content["more"]

    def write(self) -> None:
        """Write search.json, replacing the whole file."""
        found = [trial.entry() for trial in self.trials]
        files.write_json(self.folder / FILE, {**self.plan, "found": found, "more": self.more})

    @property
    def running(self) -> list[Trial]:
        """The trials that are not finished; all of them belong to one round."""
        return [trial for trial in self.trials if trial.state == RUNNING]

    @property
    def finished(self) -> list[Trial]:
        """The trials that are finished."""
        return [trial for trial in self.trials if trial.state != RUNNING]

    def of_round(self, number: int) -> list[Trial]:
        """Return the trials of a round, without failed ones and copies of earlier trials."""
        return [
            trial
            for trial in self.trials
            if trial.round == number and trial.same_as is None and trial.state != FAILED
        ]

    @property
    def epochs(self) -> int:
        """The total number of epochs that all trials were trained for."""
        return sum(trial.epochs for trial in self.trials if trial.same_as is None)


def _written(standing: Standing) -> list[float | None]:
    return [figure if math.isfinite(figure) else None for figure in standing]


def _read(figures: Sequence[float | None]) -> Standing:
    return Standing(*(math.nan if figure is None else figure for figure in figures))


def best(trials: Sequence[Trial]) -> Trial | None:
    """Return the best trial that was trained to its end; of equal trials, the earliest."""
    ended = [trial for trial in trials if trial.state == DONE and trial.end]
    return min(ended, key=lambda trial: trial.end.order if trial.end else (), default=None)
