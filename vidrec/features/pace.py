"""Measure how fast frames are encoded, for progress messages."""

import time
from typing import NamedTuple


class Pace(NamedTuple):
    """The speed of an extraction so far, and the time that is left.

    Attributes:
        frames_per_second: Mean number of frames encoded per second.
        bytes: Size of the features made so far, in bytes.
        seconds_left: Expected seconds until the end at this speed.
    """

    frames_per_second: float
    bytes: int
    seconds_left: float

    def __str__(self) -> str:
        return f"{self.frames_per_second:,.0f} frames/s, {self.bytes / 1e6:,.1f} MB of features"

    @property
    def left(self) -> str:
        """Return the time that is left, in words."""
        return f"{duration(self.seconds_left)} left"


class Stopwatch:
    """Measures the pace of an extraction with a given number of frames."""

    def __init__(self, frames: int):
        self.frames = frames
        self.began = time.perf_counter()

    def pace(self, encoded: int, size_bytes: int) -> Pace:
        """Return the pace, from the number of frames encoded and the bytes of their features."""
        seconds = max(time.perf_counter() - self.began, 1e-9)
        left = max(self.frames - encoded, 0) * seconds / encoded if encoded else 0.0
        return Pace(encoded / seconds, size_bytes, left)


def duration(seconds: float) -> str:
    """Return a time in words: seconds below one and a half minutes, then minutes."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
