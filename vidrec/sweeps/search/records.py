"""Keep a search's records in its folder: search.json has all that is needed to continue."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vidrec.io import files
from vidrec.sweeps.search.halving import Standing

FILE = "search.json"
JOURNAL = "study.log"  # the same trials as Optuna reads them
RUNNING, DONE, STOPPED, DIVERGED, FAILED = STATES = (
    "running",
    "done",
    "stopped",
    "diverged",
    "failed",
)


class Rung(NamedTuple):
    """How a trial stood after an epoch at which trials were compared."""

    epoch: int
    accuracy: float
    loss: float


@dataclass
class Trial:
    """A trial of a search.

    Attributes:
        number: counted from 0.
        round: the round in which it was proposed, counted from 0.
        params: its settings, as far as they are searched.
        id: as of a run's trial, but of the clips that the search sees.
        state: running, done, stopped (at a rung), diverged or failed.
        why: it is what it is.
        epochs: the number of epochs that it was trained for.
        rungs: how it stood at those that it reached.
        end: how it stood at last; None if it was never validated.
        same_as: number of an earlier trial with the same settings, whose result it has.
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
        """Return the trial as an entry of search.json, which has null for an infinite loss."""
        rungs = [[epoch, *_written(Standing(*rest))] for epoch, *rest in self.rungs]
        end = _written(self.end) if self.end else None
        return {**asdict(self), "rungs": rungs, "end": end}


@dataclass
class Records:
    """The trials of a search so far, and what was done with the chosen one.

    Attributes:
        folder: of the search.
        plan: what is searched and how; it never changes.
        trials: all that were asked for.
        more: facts found while it ran, by name.
    """

    folder: Path
    plan: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def read(self) -> None:
        """Read what an earlier call of the same search left, if there was one."""
        try:
            content = files.read_json(self.folder / FILE, files.SEARCH_HOLDS)
        except files.Missing:
            return
        self.trials = [Trial.read(entry) for entry in content["found"]]
        self.more = content["more"]

    def write(self) -> None:
        """Write search.json, whole."""
        found = [trial.entry() for trial in self.trials]
        files.write_json(self.folder / FILE, {**self.plan, "found": found, "more": self.more})

    @property
    def running(self) -> list[Trial]:
        """The trials that are not finished, which are of one round."""
        return [trial for trial in self.trials if trial.state == RUNNING]

    @property
    def finished(self) -> list[Trial]:
        """The trials that are finished."""
        return [trial for trial in self.trials if trial.state != RUNNING]

    def of_round(self, number: int) -> list[Trial]:
        """Return the trials of a round that were trained and not copied."""
        return [
            trial
            for trial in self.trials
            if trial.round == number and trial.same_as is None and trial.state != FAILED
        ]

    @property
    def epochs(self) -> int:
        """How many epochs all trials together were trained for."""
        return sum(trial.epochs for trial in self.trials if trial.same_as is None)


def _written(standing: Standing) -> list[float | None]:
    return [figure if math.isfinite(figure) else None for figure in standing]


def _read(figures: Sequence[float | None]) -> Standing:
    return Standing(*(math.nan if figure is None else figure for figure in figures))


def best(trials: Sequence[Trial]) -> Trial | None:
    """Return the best trial of those that were trained to their end; of equals the earliest."""
    ended = [trial for trial in trials if trial.state == DONE and trial.end]
    return min(ended, key=lambda trial: trial.end.order if trial.end else (), default=None)
