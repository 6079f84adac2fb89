"""Show the progress of long work: a live bar on a terminal, else a plain line from time to time."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vidrec.cli.output import warn
from vidrec.evaluation import tasks
from vidrec.features.pace import Pace, Stopwatch, Throttle, duration
from vidrec.io import escape
from vidrec.io.words import counted
from vidrec.sweeps.reporter import Reporter
from vidrec.training import loop, results

FAR = 20  # a larger multiple of the patience is a limit that training is not meant to reach


class ConsoleReporter(Reporter):
    """Shows progress on a console, and asks the work to stop.

    Ctrl-C asks for a stop after the current clip or epoch, when everything is saved. A second
    Ctrl-C ends the work at once. A console that nobody reads any more (`| head`) asks for a stop,
    too.

    Attributes:
        console: Where progress is shown.
        stopping: Whether the work was asked to stop.
        unread: Whether nobody reads the console any more.
    """

    def __init__(self, console: Console):
        self.console = console
        self.stopping = self.unread = False
        self._bar: Progress | None = None
        self._throttle = Throttle(waits=False)
        self._pace: Pace | None = None
        self._planned = self._begun = 0  # groups of trials

    def say(self, line: str) -> None:
        """End the live bar, and print a line."""
        self.close()
        self._print(line)

    def extracting(self, done: int, total: int) -> None:
        """Show how many clips are decoded and encoded.

        Raises:
            Interrupted: The work was asked to stop; the clips so far are kept.
        """
        note = ""
        if self._pace:  # the bar of a terminal has a separate column for the time left
            note = f"({self._pace}{'' if self.console.is_terminal else f', {self._pace.left}'})"
        if done == total:
            self._throttle = Throttle(waits=False)  # the last line is always printed
        self.advance("clips", done, total, note)
        if self.stopping:
            raise loop.Interrupted(
                f"stopped after {done} of {total} clips; run the same command again"
            )

    def pace(self, pace: Pace) -> None:
        """Note how quickly frames are encoded, to be shown with the next clip."""
        self._pace = pace if pace.per_second else None  # unknown before the first batch

    def planned(self, groups: int) -> None:
        """Note how many groups of trials train, one after another."""
        self._planned, self._begun = groups, 0

    def compiling(self, groups: int) -> None:
        """Print that groups are compiled now; the first group trains once its program is ready."""
        self.say(f"compiling for {counted(groups, 'group')} of trials …")

    def group(self, name: str, members: Sequence[results.TrialRun]) -> "GroupProgress":
        """Return the callback that shows the training of a group of trials."""
        self.close()
        self._begun += 1
        title = _title(name, members)
        if 1 < self._planned >= self._begun:  # groups split to fit memory are more than planned
            title = f"[{self._begun} of {self._planned}] {title}"
        return GroupProgress(self, title, members)

    def stop(self, *_: object) -> None:
        """Handle a signal: ask the work to stop.

        Raises:
            KeyboardInterrupt: The work was already asked to stop.
        """
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        self.say("stopping after this clip or epoch (once more to stop at once) …")

    def advance(self, title: str, done: int, total: int, note: str = "") -> None:
        """Show progress: move the bar, or print a line if the last one was some time ago."""
        if not self.console.is_terminal:
            if self._throttle.due():
                self._print(f"{title}: {done} of {total} {note}".rstrip())
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
            self._task = self._bar.add_task(escape.terminal(title), total=total, note=note)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, note=note)

    def close(self) -> None:
        """End the live bar, if there is one."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _print(self, line: str) -> None:
        try:
            text = escape.terminal(line)
            self.console.print(text, highlight=False, soft_wrap=True, markup=False, emoji=False)
        except BrokenPipeError:
            self.stopping = self.unread = self.console.quiet = True


def with_pace(lines: Iterable[dict[str, Any]], files: int) -> Iterator[dict[str, Any]]:
    """Yield the lines of predictions; for several files, report the speed on stderr.

    Args:
        lines: Lines as `predict.lines` yields them; the last line of each file has no `start`.
        files: Number of files.
    """
    done, watch, throttle = 0, Stopwatch(files), Throttle()
    if files > 1:
        warn(f"{files} files are to be classified")
    for line in lines:
        yield line
        done += "start" not in line
        pace = watch.pace(done)
        if done < files and throttle.due():
            speed = f" ({pace.per_second:.2g} files/s, {pace.left})" if pace.per_second else ""
            warn(f"files: {done} of {files}{speed}")


class GroupProgress(loop.Silent):
    """Shows the training of one group: its epochs, trials that still train, and the best so far."""

    def __init__(self, reporter: ConsoleReporter, title: str, members: Sequence[results.TrialRun]):
        self.reporter, self.title = reporter, title
        self.epochs_of = {member.id: member.config.train.epochs for member in members}
        self.epochs = max(self.epochs_of.values())
        patience = members[0].config.train.patience
        # A limit that no trial is expected to reach tells nothing about the time left.
        self._limit_counts = not patience or self.epochs <= FAR * patience
        self.ended: Counter[str] = Counter()
        self.trials = len(members)
        self.best: float | None = None
        self.headline = tasks.of(members[0].config).headline
        self.start = time.perf_counter()
        self._since: int | None = None  # epochs that were completed before

    def compiled(self, seconds: float) -> None:
        """Start the clock: the group's program is compiled."""
        self.start = time.perf_counter()

    def epoch(self, number: int, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Show an epoch, and the group's end after its last one.

        Args:
            number: The epoch, counted from 1.
            records: The figures of the trials that trained in it, by id.
        """
        figures = [record.get(f"val/{self.headline.figure}") for record in records.values()]
        known = [figure for figure in [*figures, self.best] if figure is not None]
        self.best = max(known, default=None)
        training = sum(record["status"] == "running" for record in records.values())
        self._count_ended(number, records, training)
        words = self.headline.words
        best = "" if self.best is None else f", best validation {words} {self.best:.3f}"
        ends = ", ".join(f"{count} {how}" for how, count in self.ended.items())
        note = f"epochs, {training} of {counted(self.trials, 'trial')} training"
        note += f" ({ends}){best}" if ends else best
        seconds = time.perf_counter() - self.start
        if self._since is None:
            self._since = number - 1
        plain = not self.reporter.console.is_terminal  # a terminal's bar shows the time left
        if training and plain and self._limit_counts:
            left = seconds / (number - self._since) * (self.epochs - number)
            note += f", at most {duration(left)} left"
        self.reporter.advance(self.title, number, self.epochs, note)
        if not training:
            self.reporter.say(
                f"{self.title}: {counted(self.trials, 'trial')} ({ends}), {number} epochs in "
                f"{seconds:.1f} s{best}"
            )

    def _count_ended(
        self, number: int, records: Mapping[str, Mapping[str, Any]], training: int
    ) -> None:
        """Count the trials that ended in this epoch, by how they ended."""
        for id_, record in records.items():
            if record["status"] == "diverged":
                self.ended["diverged"] += 1
            elif record["status"] != "running":
                early = number < self.epochs_of.get(id_, self.epochs)
                self.ended["stopped early" if early else "finished"] += 1
        # If a group continues from a save, some of its trials may have ended before.
        before = self.trials - training - self.ended.total()
        if before > 0:
            self.ended["ended before"] += before

    def should_stop(self) -> bool:
        """Return whether Ctrl-C or SIGTERM asked to stop."""
        return self.reporter.stopping


def _title(name: str, members: Sequence[results.TrialRun]) -> str:
    """Return the settings that all trials of a group share, or a name if they share none."""
    rows = [member.about.get("overrides", {}) for member in members]
    shared = {
        key: value for key, value in rows[0].items() if all(row.get(key) == value for row in rows)
    }
    words = [f"{key.rpartition('.')[2]} {value}" for key, value in shared.items()]
    words = words or [str(members[0].about.get("name", name))]
    folds = {member.about.get("fold") for member in members}
    if len(folds) == 1 and folds != {None}:
        words.append(f"fold {folds.pop()}")
    return ", ".join(words)
