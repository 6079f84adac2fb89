"""When frames are shown, by their timestamps, and which ones a fixed rate takes."""

import math
from array import array
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av

MAX_GAP = 60.0  # seconds between two frames; timestamps further apart are not believed
USUAL_RATE = 25.0  # frames a second where the file says nothing that can be true


class Clock:
    """Keep when the frames of a clip are shown, in seconds from its first; filled while reading.

    Attributes:
        starts: of the frames read so far.
        end: of the last of them.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget a reading, before another one."""
        self.starts, self.end = array("d"), 0.0

    def at(self, frame: int) -> float:
        """Return when a frame begins; after the last one, when that ends."""
        return self.starts[frame] if frame < len(self.starts) else self.end


class Shown(NamedTuple):
    """A frame and the seconds between which it is on screen."""

    frame: Any
    start: float
    end: float


class Paced(NamedTuple):
    """A frame and how often it is given."""

    frame: Any
    repeats: int


def rate_of(stream: Any) -> float:
    """Return frames a second as declared; `USUAL_RATE` where nothing declared can be true."""
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
        usual: frames a second where timestamps are missing.
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
    """Return seconds by the stream's time base: before PyAV 19 the last frames lack their own."""
    if ticks is None or not base:
        return None
    return ticks * base.numerator / base.denominator


def spans(frames: Iterable[av.VideoFrame], stream: Any) -> Iterator[Shown]:
    """Yield frames with their seconds since the first: each lasts until the next begins."""
    clock, base, held, start = _FrameClock(1 / rate_of(stream)), stream.time_base, None, 0.0
    for frame in frames:
        begin = clock.next(seconds_of(frame.pts, base))
        if held is not None:
            yield Shown(held, start, begin)
        held, start = frame, begin
    if held is not None:
        yield Shown(held, start, start + clock.last(seconds_of(held.duration, base) or 0.0))


def paced(shown: Iterable[Shown], fps: float, clock: Clock) -> Iterator[Paced]:
    """Yield each frame once, or as often as i / fps falls into its time.

    Args:
        shown: frames in order.
        fps: frames a second; 0 takes each frame once.
        clock: gets the seconds of what is yielded.
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
    """Count how many of 0, 1/fps, 2/fps, … lie before `seconds`; a microsecond is rounding."""
    return math.ceil(seconds * fps - 1e-6 * fps)


class _FrameClock:
    """Seconds since the first frame; steps that cannot be true become the usual one."""

    def __init__(self, usual: float):
        self.usual, self.now, self.count = usual, 0.0, 0
        self._before: float | None = None

    def next(self, stamp: float | None) -> float:
        """Return the seconds of the next frame, whose own timestamp this is."""
        before = self._before
        step = stamp - before if stamp is not None and before is not None else self.usual
        if self.count:
            self.now += step if 0 < step <= MAX_GAP else self.usual
        self._before = stamp if stamp is not None else before and before + self.usual
        self.count += 1
        return self.now

    def last(self, seconds: float) -> float:
        """Return how long the last frame stays: as it says, else as the others do."""
        if 0 < seconds <= MAX_GAP:
            return seconds
        return self.now / (self.count - 1) if self.count > 1 else self.usual
