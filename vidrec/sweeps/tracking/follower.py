"""Send the events of training to one tracker in a separate thread, so that training never waits.

`TOP/tracking/TRACKER/KEY.json` records what was sent. When training continues, here or in another
job, the same run of the tracker thus continues, and each epoch is sent once. A finished trial is
sent from its own files. This adds the epochs that the tracker missed while it did not answer.
"""

import contextlib
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vidrec.errors import UserError
from vidrec.io import escape, files
from vidrec.io.files.atomic import first_line
from vidrec.sweeps.tracking import base
from vidrec.sweeps.tracking.base import Subject, Tracker

FOLDER = "tracking"
NOTE_HOLDS = {"run": str, "epoch": int, "mark": str}
NOTE_SECONDS = 5.0  # between two records of epochs; unrecorded ones are sent again after a kill
RETRY_SECONDS = 60.0  # nothing is sent to a tracker for this long after it failed
log = logging.getLogger(__name__)


class Note(NamedTuple):
    """What was sent to a tracker about a subject.

    Attributes:
        run: the identifier of the run in the tracker; "" if there is no run yet.
        epoch: the last epoch that was sent; 0 if none was sent.
        mark: the mark of the outcome that was sent; "" if none was sent.
    """

    run: str = ""
    epoch: int = 0
    mark: str = ""


class Follower:
    """Sends the events of a run's or a table's trials to a tracker.

    Args:
        name: the name of the tracker.
        make: creates the tracker; called in the thread, since creating the tracker may fail.
        top: folder of the run or table.
    """

    def __init__(self, name: str, make: Callable[[], Tracker], top: Path):
        self._name, self._make, self._top = name, make, top
        self._made: Tracker | None = None
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lines: dict[str, tuple[Subject, list[Mapping[str, Any]]]] = {}
        self._notes: dict[str, Note] = {}
        self._open: set[str] = set()
        self._noted: dict[str, float] = {}
        self._retry_at, self._said = 0.0, False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    # --- Called by the thread that trains; these raise nothing, and only `close` waits ---

    def epochs(self, subject: Subject, lines: Sequence[Mapping[str, Any]]) -> None:
        """Send lines of metrics.jsonl, in order; those that were sent before are left out."""
        with self._lock:
            self._lines.setdefault(subject.key, (subject, []))[1].extend(lines)
        self._queue.put(self._tell_lines)

    def finished(self, subject: Subject) -> None:
        """Send the results in the folder of a finished trial or table."""
        self._queue.put(lambda: self._tell_outcome(subject))

    def close(self, seconds: float) -> None:
        """Wait until everything is sent, at most `seconds`, and close the unfinished runs."""
        self._queue.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._warn(f"still sending after {seconds:.0f} s, and left behind")

    # --- In the thread ---

    def _work(self) -> None:
        while (step := self._queue.get()) is not None:
            self._guarded(step)
        self._guarded(self._tell_rest)
        with contextlib.suppress(Exception):
            if self._made:
                self._made.stop()

    @property
    def _tracker(self) -> Tracker:
        self._made = self._made or self._make()
        return self._made

    def _guarded(self, step: Callable[[], None]) -> None:
        """Do a step unless the tracker has failed recently; report a failure in one line."""
        if time.monotonic() < self._retry_at:
            return
        try:
            step()
        except Exception as error:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._warn(first_line(error))

    def _warn(self, why: str) -> None:
        if self._said:
            return
        self._said = True
        # A URL may contain a user name and a password.
        words = f"--track {self._name}: " + re.sub(r"//[^/@\s]+@", "//…@", why)
        log.warning(
            "%s; training goes on, and the same command adds later what is missing",
            escape.terminal(words),
        )

    def _tell_rest(self) -> None:
        self._tell_lines()
        for key in self._open:
            self._write_note(key)

    def _tell_lines(self) -> None:
        """Send all waiting lines; they keep waiting if the tracker fails."""
        for key in list(self._lines):
            with self._lock:
                subject, lines = self._lines[key]
                lines = list(lines)
            self._tell(subject, lines)
            with self._lock:
                del self._lines[key][1][: len(lines)]
                if not self._lines[key][1]:
                    del self._lines[key]

    def _tell(self, subject: Subject, lines: Sequence[Mapping[str, Any]]) -> None:
        self._opened(subject)
        note = self._note(subject.key)
        new = [line for line in lines if line["epoch"] > note.epoch]
        if not new:
            return
        self._tracker.log(subject, new)
        self._notes[subject.key] = note._replace(epoch=new[-1]["epoch"])
        if time.monotonic() - self._noted.get(subject.key, 0.0) > NOTE_SECONDS:
            self._write_note(subject.key)

    def _tell_outcome(self, subject: Subject) -> None:
        """Send the epochs that the tracker does not have yet, and then the outcome."""
        outcome = base.outcome(subject)
        if self._note(subject.key).mark == outcome.mark and subject.key not in self._open:
            return
        with self._lock:
            _, waiting = self._lines.pop(subject.key, (subject, []))
        # The file of a trial has all its epochs; a trial of a search has no file.
        own = _lines_of(subject)
        self._tell(subject, waiting if own is None else own)
        self._tracker.finish(subject, outcome)
        self._open.discard(subject.key)
        self._notes[subject.key] = self._note(subject.key)._replace(mark=outcome.mark)
        self._write_note(subject.key)

    def _opened(self, subject: Subject) -> None:
        """Begin the subject's run in the tracker, or continue it."""
        if subject.key in self._open:
            return
        note = self._note(subject.key)
        if note.mark and not subject.of_table:
            note = Note()  # the trial was finished before, and is now trained again
        parent = self._parent() if self._tracker.nests and not _alone(subject) else ""
        run = self._tracker.open(subject, note.run, parent)
        if run != note.run:
            note = Note()
        self._notes[subject.key] = note._replace(run=run)
        self._open.add(subject.key)
        self._write_note(subject.key)

    def _parent(self) -> str:
        """Return the run of the table; if several jobs train, the first one begins the run."""
        if base.TABLE not in self._open:
            with files.locked(self._folder / "lock"):
                self._notes.pop(base.TABLE, None)
                self._opened(base.of_table(self._top))
        return self._notes[base.TABLE].run

    # --- Notes ---

    @property
    def _folder(self) -> Path:
        return self._top / FOLDER / self._name

    def _note(self, key: str) -> Note:
        if key not in self._notes:
            self._notes[key] = self._read_note(key)
        return self._notes[key]

    def _read_note(self, key: str) -> Note:
        """Return what was sent before; a damaged record counts as empty."""
        with contextlib.suppress(UserError):
            content = files.read_json(self._folder / f"{key}.json", NOTE_HOLDS)
            return Note(content["run"], content["epoch"], content["mark"])
        return Note()

    def _write_note(self, key: str) -> None:
        files.write_json(self._folder / f"{key}.json", self._notes[key]._asdict())
        self._noted[key] = time.monotonic()


def _alone(subject: Subject) -> bool:
    return subject.alone or subject.of_table


def _lines_of(subject: Subject) -> Sequence[Mapping[str, Any]] | None:
    """Return the epochs of a finished trial; empty for a table, None for a trial of a search."""
    file = subject.folder / base.CURVES
    if subject.of_search and not subject.of_table:
        return None
    if subject.of_table or not file.is_file():
        return []
    return files.sound_lines(file, files.LINE_HOLDS, whole=False)[0]
