"""Send the events of training to one tracker, in a thread of its own: nothing waits for it.

`TOP/tracking/TRACKER/KEY.json` records what was sent. So a training that is continued, here or in
another job, continues the same run of the tracker, and each epoch is sent once. A finished trial is
sent from its own files, which adds what the tracker missed while it did not answer.
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
NOTE_SECONDS = 5.0  # between two notes of epochs: one that a kill took away is told twice
RETRY_SECONDS = 60.0  # how long a tracker that failed is left alone
log = logging.getLogger(__name__)


class Note(NamedTuple):
    """What was sent to a tracker about a subject.

    Attributes:
        run: the tracker's name of it; "" for none yet.
        epoch: the last one that it was told.
        mark: of the outcome that it was told; "" for none.
    """

    run: str = ""
    epoch: int = 0
    mark: str = ""


class Follower:
    """Sends the events of a run's or a table's trials to a tracker.

    Args:
        name: of the tracker.
        make: makes it; called in the thread, since even that may fail.
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

    # --- Called by what trains; none of these waits or raises ---

    def epochs(self, subject: Subject, lines: Sequence[Mapping[str, Any]]) -> None:
        """Send lines of metrics.jsonl, in order; those that were sent before are left out."""
        with self._lock:
            self._lines.setdefault(subject.key, (subject, []))[1].extend(lines)
        self._queue.put(self._tell_lines)

    def finished(self, subject: Subject) -> None:
        """Send the results in the folder of a finished trial or table."""
        self._queue.put(lambda: self._tell_outcome(subject))

    def close(self, seconds: float) -> None:
        """Wait until everything is sent, at most this long, and leave the unfinished runs."""
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
        """Do a step unless the tracker has just failed; report a failure in one line."""
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
        # An address may hold a name and a password.
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
        """Send an outcome, and before it the epochs that the tracker does not have."""
        outcome = base.outcome(subject)
        if self._note(subject.key).mark == outcome.mark and subject.key not in self._open:
            return
        with self._lock:
            _, waiting = self._lines.pop(subject.key, (subject, []))
        # A trial's own file has all epochs; one of a search has no file of its own.
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
            note = Note()  # it was finished: what trains now is trained again
        parent = self._parent() if self._tracker.nests and not _alone(subject) else ""
        run = self._tracker.open(subject, note.run, parent)
        if run != note.run:
            note = Note()
        self._notes[subject.key] = note._replace(run=run)
        self._open.add(subject.key)
        self._write_note(subject.key)

    def _parent(self) -> str:
        """Return the run of the table; of several jobs the first one begins it."""
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
    """Return the epochs of a finished trial; a table has none. None: they are in no file of it."""
    file = subject.folder / base.CURVES
    if subject.of_search and not subject.of_table:
        return None
    if subject.of_table or not file.is_file():
        return []
    return files.sound_lines(file, files.LINE_HOLDS, whole=False)[0]
