"""Measure how fast long work goes, and decide when the next line of progress is due."""

import math
import time
from typing import NamedTuple


class Pace(NamedTuple):
    """The speed of an extraction, or of other work, so far, and the time that is left.

    Attributes:
        per_second: Mean number of frames (or files) done per second; 0 if it is unknown yet.
        bytes: Size of the features made so far, in bytes.
        seconds_left: Expected seconds until the end at this speed.
    """

    per_second: float
    bytes: int
    seconds_left: float

    def __str__(self) -> str:
        return f"{self.per_second:,.0f} frames/s, {self.bytes / 1e6:,.1f} MB of features"

    @property
    def left(self) -> str:
        """Return the time that is left, in words."""
        return f"{duration(self.seconds_left)} left"


class Stopwatch:
    """Measures the pace of work with a given number of frames or files.

    The first frames or files only start the clock. Decoders start and programs are compiled before
    them, so a speed that counted them would be far too low.
    """

    def __init__(self, total: int):
        self.total = total
        self._first: tuple[float, int] | None = None  # time, and what was done until then

    def pace(self, done: int, size_bytes: int = 0) -> Pace:
        """Return the pace since the first frames or files were done; 0 if it is unknown yet.

        Args:
            done: number of frames or files done so far.
            size_bytes: size of their features in bytes.
        """
        now = time.perf_counter()
        if done and self._first is None:
            self._first = now, done
        began, before = self._first or (now, done)
        if done == before:
            return Pace(0.0, size_bytes, 0.0)
        rate = (done - before) / max(now - began, 1e-9)
        return Pace(rate, size_bytes, max(self.total - done, 0) / rate)


class Throttle:
    """Decides when the next line of progress is due, so that a log stays short.

    Args:
        waits: Whether the first line waits, too.
    """

    SECONDS = 15.0  # between two lines

    def __init__(self, waits: bool = True):
        self._last = time.monotonic() if waits else -math.inf

    def due(self) -> bool:
        """Return whether a line is due now; if it is, the next one is due after `SECONDS`."""
        now = time.monotonic()
        if now - self._last < self.SECONDS:
            return False
        self._last = now
        return True


def duration(seconds: float) -> str:
    """Return a time in words: seconds below one and a half minutes, then minutes."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
