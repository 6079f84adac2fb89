"""Compute when frames are shown, by their timestamps, and which frames a fixed rate takes."""

import math
from array import array
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av

MAX_GAP = 60.0  # seconds between two frames; timestamps further apart are taken as wrong
USUAL_RATE = 25.0  # frames a second if the file declares no rate that can be true


class Clock:
    """The times at which a clip's frames are shown, from its first frame on; filled while reading.

    Attributes:
        starts: start of each frame read so far, in seconds.
        end: end of the last frame read so far, in seconds.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Remove all times, before the clip is read again."""
        self.starts, self.end = array("d"), 0.0

    def at(self, frame: int) -> float:
        """Return the start of a frame; for an index after the last frame, its end."""
        return self.starts[frame] if frame < len(self.starts) else self.end


class Shown(NamedTuple):
    """A frame and the times in seconds at which its display starts and ends."""

    frame: Any
    start: float
    end: float


class Paced(NamedTuple):
    """A frame and how many times in a row it is taken."""

    frame: Any
    repeats: int


def rate_of(stream: Any) -> float:
    """Return the declared frames a second; `USUAL_RATE` if no declared rate can be true."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if is_rate(rate):
            return float(rate)
    return USUAL_RATE


def is_rate(rate: Fraction | None) -> bool:
    """Return True for a number of frames a second that can be true."""
    return rate is not None and 0.01 <= float(rate) <= 1000


def mean_rate(spans: list[tuple[int | None, int]], base: Fraction | None, usual: float) -> float:
    """Return frames a second by timestamps, since the declared rate is often a guess.

    Args:
        spans: timestamp and duration of each packet, in units of `base`.
        base: seconds of one unit.
        usual: frames a second to return if timestamps are missing.
    """
    known = sorted((stamp, stay) for stamp, stay in spans if stamp is not None)
    if len(known) < max(2, len(spans)) or not base:
        return usual
    clock, start = _FrameClock(1 / usual), 0.0
    for stamp, _ in known:
        start = clock.next(seconds_of(stamp, base))
    rate = len(known) / (start + clock.last(seconds_of(known[-1][1], base) or 0.0))
    return rate if abs(rate - usual) > 0.001 * usual else usual


def seconds_of(ticks: int | None, base: Fraction | None) -> float | None:
    """Convert ticks of a time base to seconds; None if either is unknown.

    For frames, `base` is that of the stream: before PyAV 19, the last frames lack their own.
    """
    if ticks is None or not base:
        return None
    return ticks * base.numerator / base.denominator


def spans(frames: Iterable[av.VideoFrame], stream: Any) -> Iterator[Shown]:
    """Yield frames with their times since the first frame; each lasts until the next begins."""
    clock, base, held, start = _FrameClock(1 / rate_of(stream)), stream.time_base, None, 0.0
    for frame in frames:
        begin = clock.next(seconds_of(frame.pts, base))
        if held is not None:
            yield Shown(held, start, begin)
        held, start = frame, begin
    if held is not None:
        yield Shown(held, start, start + clock.last(seconds_of(held.duration, base) or 0.0))


def paced(shown: Iterable[Shown], fps: float, clock: Clock) -> Iterator[Paced]:
    """Yield each frame once, or as often as a time i / fps falls into the span of the frame.

    Args:
        shown: frames in order.
        fps: frames a second; 0 takes each frame once.
        clock: stores the times of the yielded frames.
    """
    count = 0
    for frame, start, end in shown:
        if fps:
            # A clip shorter than one tick still shows a frame.
            repeats = max(_ticks(end, fps) - count, int(count == 0))
            clock.starts.extend((count + k) / fps for k in range(repeats))
            clock.end = (count + repeats) / fps
        else:
            repeats = 1
            clock.starts.append(start)
            clock.end = end
        count += repeats
        if repeats:
            yield Paced(frame, repeats)


def _ticks(seconds: float, fps: float) -> int:
    """Count how many of 0, 1/fps, 2/fps, … are before `seconds`, to within a microsecond."""
    return math.ceil(seconds * fps - 1e-6 * fps)


class _FrameClock:
    """Seconds since the first frame; a step that cannot be true is replaced by the usual step."""

    def __init__(self, usual: float):
        self.usual, self.now, self.count = usual, 0.0, 0
        self._before: float | None = None

    def next(self, stamp: float | None) -> float:
        """Return the time of the next frame in seconds; `stamp`: its own timestamp, if any."""
        before = self._before
        step = stamp - before if stamp is not None and before is not None else self.usual
        if self.count:
            self.now += step if 0 < step <= MAX_GAP else self.usual
        self._before = stamp if stamp is not None else before and before + self.usual
        self.count += 1
        return self.now

    def last(self, seconds: float) -> float:
        """Return the last frame's duration: `seconds` if that can be true, else the mean step."""
        if 0 < seconds <= MAX_GAP:
            return seconds
        return self.now / (self.count - 1) if self.count > 1 else self.usual
