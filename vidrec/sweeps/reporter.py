"""The base class of what shows the progress of a command."""

from collections.abc import Sequence

from vidrec.features.pace import Pace
from vidrec.training import loop
from vidrec.training.results import TrialRun


class Reporter:
    """Shows nothing; subclasses override the methods whose news they show."""

    def say(self, line: str) -> None:
        """Show a line."""

    def extracting(self, done: int, total: int) -> None:
        """Show how many clips are decoded and encoded."""

    def pace(self, pace: Pace) -> None:
        """Note how quickly frames are encoded; called before `extracting`."""

    def planned(self, groups: int) -> None:
        """Note how many groups of trials train, one after another."""

    def compiling(self, groups: int) -> None:
        """Show that groups of trials are compiled now."""

    def group(self, name: str, members: Sequence[TrialRun]) -> loop.Callback:
        """Return the callback of a group that starts."""
        return loop.Silent()
