"""What a person sees while work goes on: live lines on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vidrec.io import escape
from vidrec.training import loop

# Without a terminal a long work still says every so often that it lives.
PLAIN_EVERY_SECONDS = 15.0


class Reporter:
    """Shows an engine's work on a console; Ctrl-C asks for a save, a second one ends at once.

    Between two clips or two epochs everything is saved: there it stops. So it does where nobody
    reads what is shown any more (`| head`).

    Attributes:
        unread: nobody reads any more.
    """

    def __init__(self, console: Console):
        self.console = console
        self.stopping = self.unread = False
        self._bar: Progress | None = None
        self._last = 0.0

    def say(self, line: str) -> None:
        """A line that stays."""
        self.close()
        self._print(line)

    def extracting(self, done: int, total: int) -> None:
        """Clips decoded and encoded so far; raises Interrupted after Ctrl-C."""
        self._advance("clips", done, total)
        if self.stopping:
            raise loop.Interrupted(
                f"stopped after {done} of {total} clips; run the same command again"
            )

    def group(self, name: str, members: Sequence[loop.TrialRun]) -> "GroupLine":
        """A line for a group of trials that starts."""
        self.close()
        return GroupLine(self, _title(name, members), members)

    def stop(self, *_: object) -> None:
        """A signal handler: what runs leaves after its clip, or saves at its epoch's end."""
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        self.say("stopping after this clip or epoch (once more to stop at once) …")

    def close(self) -> None:
        """Ends the live line, if there is one."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _print(self, line: str) -> None:
        try:
            text = escape.terminal(line)
            self.console.print(text, highlight=False, soft_wrap=True, markup=False, emoji=False)
        except BrokenPipeError:
            self.stopping = self.unread = self.console.quiet = True

    def _advance(self, what: str, done: int, total: int, note: str = "") -> None:
        if not self.console.is_terminal:
            now = time.monotonic()
            if now - self._last >= PLAIN_EVERY_SECONDS:
                self._last = now
                self._print(f"{what}: {done} of {total} {note}".rstrip())
            return
        if not self._bar:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task(escape.terminal(what), total=total, note=note)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, note=note)


class GroupLine(loop.Silent):
    """One group of trials: how many are alive, the best so far, the time left."""

    def __init__(self, screen: Reporter, title: str, members: Sequence[loop.TrialRun]):
        self.screen, self.title = screen, title
        self.epochs = max(member.config.train.epochs for member in members)
        self.trials = len(members)
        self.best: float | None = None
        self.began = time.perf_counter()

    def compiled(self, seconds: float) -> None:
        """The group's program is ready."""
        self.began = time.perf_counter()

    def epoch(self, number: int, records: Mapping[str, Mapping[str, float]]) -> None:
        """Figures of the trials that trained this epoch."""
        accuracies = [each["val/accuracy"] for each in records.values()]
        known = [each for each in [*accuracies, self.best] if each is not None]
        self.best = max(known, default=None)
        alive = sum(each["status"] == "running" for each in records.values())
        best = "" if self.best is None else f", best validation accuracy {self.best:.3f}"
        note = f"epochs, {alive} of {self.trials} trials alive{best}"
        self.screen._advance(self.title, number, self.epochs, note)
        if not alive:
            seconds = time.perf_counter() - self.began
            self.screen.say(
                f"{self.title}: {self.trials} trials, {number} epochs in {seconds:.1f} s{best}"
            )

    def should_stop(self) -> bool:
        """True after Ctrl-C or SIGTERM."""
        return self.screen.stopping


def _title(name: str, members: Sequence[loop.TrialRun]) -> str:
    """What the trials of a group share and others lack, as far as their settings tell."""
    rows = [member.about.get("overrides", {}) for member in members]
    shared = {
        key: value for key, value in rows[0].items() if all(row.get(key) == value for row in rows)
    }
    if not shared:
        return str(members[0].about.get("name", name))
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in shared.items())
