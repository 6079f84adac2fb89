"""Trackers that remember what they are told, or fail; and a stop after some epochs."""

from collections.abc import Callable

from vidrec.sweeps.reporter import Reporter
from vidrec.training import loop


class Recorder:
    """Keeps runs as plain dictionaries; `broken` is asked before each call and may raise."""

    name = "recorder"

    def __init__(self, nests: bool = True, broken: Callable[[str], None] = lambda call: None):
        self.nests, self.broken = nests, broken
        self.runs: dict[str, dict] = {}
        self.calls: list[str] = []
        self.open_now: dict[str, str] = {}

    def _called(self, call: str) -> None:
        self.calls.append(call)
        self.broken(call)

    def open(self, subject, known, parent):
        self._called("open")
        run = known if known in self.runs else f"run {len(self.runs)}"
        self.runs.setdefault(run, {"subject": subject, "parent": parent, "lines": []})
        self.runs[run]["state"] = "open"
        self.open_now[subject.key] = run
        return run

    def log(self, subject, lines):
        self._called("log")
        self.runs[self.open_now[subject.key]]["lines"] += [dict(line) for line in lines]

    def finish(self, subject, outcome):
        self._called("finish")
        run = self.runs[self.open_now.pop(subject.key)]
        run |= {"state": "finished", "outcome": outcome}

    def stop(self):
        self._called("stop")
        for run in self.open_now.values():
            self.runs[run]["state"] = "stopped"

    def of(self, key: str) -> list[dict]:
        """The runs of a subject, in the order of their beginning."""
        return [run for run in self.runs.values() if run["subject"].key == key]


class Stopper(Reporter):
    """Asks to stop after so many epochs of a group."""

    def __init__(self, after):
        self.after = after

    def group(self, name, members):
        screen = self

        class Watch(loop.Silent):
            def epoch(self, number, records):
                screen.after -= 1

            def should_stop(self):
                return screen.after == 0

        return Watch()
