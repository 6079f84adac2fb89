"""Send runs to trackers while they train: TensorBoard, MLflow, Weights & Biases, or a user's own.

Nothing here is a setting: what is tracked, and where, does not enter a trial's id.
"""

import contextlib
import importlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vidrec.errors import UserError
from vidrec.io import files
from vidrec.sweeps.tracking import base
from vidrec.sweeps.tracking.base import Outcome, Subject, Tracker
from vidrec.sweeps.tracking.follower import Follower
from vidrec.training import devices, loop
from vidrec.training.results import METRICS, TrialRun, is_finished
from vidrec.training.step import training_id

# The modules of this package by tracker name, and the tracker class in each.
TRACKERS = {"tensorboard": "TensorBoard", "mlflow": "MLflow", "wandb": "WandB"}
# Environment variable that names a job's trackers; the files of a table do not name them.
VARIABLE = "VIDREC_TRACK"
FINISHED_SECONDS, STOPPED_SECONDS = 600.0, 10.0  # longest wait for trackers that still send


class Tracking:
    """Sends events of one run or table to trackers; without trackers it does nothing.

    Attributes:
        top: folder of the run or table.
    """

    def __init__(self, top: Path = Path(), wanted: Sequence[str | Tracker] = ()):
        self.top = top
        self._followers = [Follower(_name(each), partial(_made, each), top) for each in wanted]

    def group(
        self, members: Sequence[TrialRun], folder: Path, shown: loop.Callback
    ) -> loop.Callback:
        """Return a callback that shows a group's progress and sends its epochs to the trackers.

        Args:
            members: the group's trials.
            folder: the group's folder.
            shown: the callback that shows the group's progress.
        """
        if not self._followers:
            return shown
        return _Callback(self._followers, self._subjects(members), folder, shown)

    def finished(self, trials: Sequence[TrialRun]) -> None:
        """Send the results of a table's finished trials; a single run is sent with its report."""
        for trial in trials:
            subject = base.of_trial(trial, self.top)
            for follower in self._followers if not subject.alone and is_finished([trial]) else ():
                follower.finished(subject)

    def searched(self, trials: Sequence[TrialRun], curves: Iterable[Path]) -> None:
        """Send the results of a search's finished trials, which have no folders.

        Args:
            trials: the trials.
            curves: files in the format of metrics.jsonl, with one line for each epoch of a trial.
        """
        if not self._followers:
            return
        subjects = self._subjects(trials)
        lines: dict[str, list[Mapping[str, Any]]] = {id_: [] for id_ in subjects}
        for file in curves:
            for line in files.sound_lines(file, files.LINE_HOLDS, whole=False)[0]:
                if line.get("trial") in lines:
                    lines[line["trial"]].append(line)
        for id_, of_trial in subjects.items():
            own = sorted(lines[id_], key=lambda line: line["epoch"])
            for subject, follower in itertools.product(of_trial, self._followers):
                follower.epochs(subject, own)
                follower.finished(subject)

    def report(self, trials: Sequence[TrialRun] = ()) -> None:
        """Send a finished run, table or search, after its report is written.

        Args:
            trials: the trials of the run or table; results that were not sent before are sent too.
                The trials of a search are sent by `searched` instead.
        """
        self.finished(trials)
        for follower in self._followers:
            alone = [trial for trial in trials if trial.folder == self.top]
            for subject in [base.of_trial(trial, self.top) for trial in alone] or [
                base.of_table(self.top)
            ]:
                follower.finished(subject)

    def close(self, seconds: float) -> None:
        """Wait until everything is sent, at most `seconds` for each tracker."""
        for follower in self._followers:
            follower.close(seconds)

    def _subjects(self, members: Sequence[TrialRun]) -> dict[str, list[Subject]]:
        """Return subjects by training id, which trials share if they differ only in scoring."""
        found: dict[str, list[Subject]] = {}
        for member in members:
            subject = base.of_trial(member, self.top)
            found.setdefault(training_id(member.config), []).append(subject)
        return found


class _Callback:
    """The callback of a group that sends its epochs to trackers."""

    def __init__(
        self,
        followers: Sequence[Follower],
        subjects: Mapping[str, Sequence[Subject]],
        folder: Path,
        shown: loop.Callback,
    ):
        self._followers, self._subjects, self._shown = followers, subjects, shown
        self._metrics = folder / METRICS

    def compiled(self, seconds: float) -> None:
        """Send the epochs of an earlier process that were not sent yet; then show the group."""
        with contextlib.suppress(UserError, OSError):
            before, _ = files.sound_lines(self._metrics, files.LINE_HOLDS, whole=False)
            for id_ in self._subjects:
                self._tell(id_, [line for line in before if line.get("trial") == id_])
        self._shown.compiled(seconds)

    def epoch(self, number: int, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Send an epoch to the trackers, and show it."""
        for id_, record in records.items():
            self._tell(id_, [record])
        self._shown.epoch(number, records)

    def should_stop(self) -> bool:
        """Return whether the group's display asks to stop."""
        return self._shown.should_stop()

    def _tell(self, id_: str, lines: Sequence[Mapping[str, Any]]) -> None:
        for subject in self._subjects[id_]:
            for follower in self._followers:
                follower.epochs(subject, lines)


@contextlib.contextmanager
def following(top: Path, wanted: Sequence[str | Tracker] = ()) -> Iterator[Tracking]:
    """Send the events of a run or a table to trackers until the `with` block ends.

    Args:
        top: folder of the run or table.
        wanted: names of trackers, or objects of a user's class. If several processes train
            together, only the main process sends.
    """
    tracking = Tracking(top, wanted if devices.is_main() else ())
    seconds = STOPPED_SECONDS
    try:
        yield tracking
        seconds = FINISHED_SECONDS
    finally:
        tracking.close(seconds)


def check(wanted: Sequence[str | Tracker]) -> None:
    """Raise a UserError if a name is unknown, or if a library for a tracker is not installed."""
    for name in wanted:
        if not isinstance(name, str):
            continue
        if name not in TRACKERS:
            raise UserError(f"--track {name}: there are {', '.join(TRACKERS)}")
        _module(name).check()


def of_launcher() -> tuple[str, ...]:
    """Return the trackers that the launcher of this job asked for."""
    return tuple(filter(None, os.environ.get(VARIABLE, "").split(",")))


def environment(wanted: Sequence[str]) -> dict[str, str]:
    """Return the environment variables that tell jobs which trackers to use."""
    if not wanted:
        return {}
    where = _module("mlflow").environment() if "mlflow" in wanted else {}
    return {VARIABLE: ",".join(wanted), **where}


def _name(wanted: str | Tracker) -> str:
    return wanted if isinstance(wanted, str) else wanted.name


def _made(wanted: str | Tracker) -> Tracker:
    if not isinstance(wanted, str):
        return wanted
    return getattr(_module(wanted), TRACKERS[wanted])()


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


__all__ = ["TRACKERS", "VARIABLE", "Outcome", "Subject", "Tracker", "Tracking", "following"]
