"""Cut windows from a clip while it is read: at most one window is in memory."""

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vidrec.config import Config
from vidrec.evaluation import decisions
from vidrec.evaluation.decisions import SeenFrames

# Share of a frame's duration: times that differ by no more than this mean the same frame.
NEAR = 0.25
ROUNDING = 1e-9  # seconds


class Window(NamedTuple):
    """A part of a clip and what the model sees of it.

    Attributes:
        start: first frame.
        end: the frame after its last one.
        seen: indices into the clip of the frames that the model sees.
        inputs: (L, D…) inputs of these frames.
    """

    start: int
    end: int
    seen: SeenFrames
    inputs: np.ndarray


@dataclass(frozen=True)
class WindowGrid:
    """Windows of `span` frames every `stride` frames.

    Attributes:
        cfg: the model's settings.
        span: frames of a window.
        stride: frames from one window to the next.
        in_frames: True for windows of evaluation (`eval.inference`): they are measured in frames,
            and the last one may extend past the clip's end. False for windows that are measured in
            seconds: the last one ends with the clip.
        fps: the clip's mean frame rate, which converts `span` and `stride` to seconds.
    """

    cfg: Config
    span: int
    stride: int
    in_frames: bool = False
    fps: float = 1.0

    def seen(self, start: int, times: np.ndarray) -> SeenFrames:
        """Return the frames that the model sees in a window that is measured in seconds.

        A training clip of this duration has frames at equal distances in time. For each of them,
        the result has the frame that this video shows at the middle of its time.

        Args:
            start: first frame of the window.
            times: seconds at which each of its frames begins, and at which the last one ends.
        """
        count, seconds = len(times) - 1, times[-1] - times[0]
        length, share = self.cfg.frames.length, seconds * self.fps / self.span
        # A window that the clip's end cuts off counts as a shorter clip, which the rule continues.
        short = self.cfg.frames.rule != "uniform" and share < 1 - NEAR / self.span
        slots = max(1, round(length * share)) if short else length
        index_L, mask_L = decisions.frames_of_clip(self.cfg, slots)
        even = np.linspace(times[0], times[-1], count + 1)
        if np.abs(times - even).max() * self.fps <= NEAR:
            return SeenFrames(start + (2 * index_L + 1) * count // (2 * slots), mask_L)
        middles = times[0] + (index_L + 0.5) * (seconds / slots) + ROUNDING
        return SeenFrames(start + np.searchsorted(times[1:-1], middles, side="right"), mask_L)


class Slider:
    """Takes a clip's inputs in order and yields its windows, each as soon as it is complete.

    Args:
        grid: length and distance of the windows.
        at: returns the time in seconds at which an added frame begins; after the last frame, its
            end. None: times are computed from the grid's frame rate.
    """

    def __init__(self, grid: WindowGrid, at: Callable[[int], float] | None = None):
        self.grid = grid
        self.total = 0
        self._at = at or (lambda frame: frame / grid.fps)
        self._buffer = np.zeros(0)
        self._first = 0  # frame that the buffer begins with
        self._last = -1  # start of the last window

    @property
    def buffered(self) -> int:
        """Return the number of frames in memory."""
        return len(self._buffer)

    def add(self, inputs_T: np.ndarray) -> Iterator[Window]:
        """Add inputs of more frames, (t, D…), and yield the windows that are now complete."""
        self._buffer = np.concatenate([self._buffer, inputs_T]) if self.total else inputs_T
        self.total += len(inputs_T)
        while (start := self._next()) is not None:
            end = self._after(start, self.grid.span)
            if end is None:
                break
            yield self._window(start, end)
        # No later window reaches back further than one span.
        first = self._last_start()
        self._buffer, self._first = self._buffer[first - self._first :], first

    def end(self) -> Iterator[Window]:
        """Yield the windows that only the clip's end completes."""
        if self.grid.in_frames:
            starts = decisions.window_starts(self.total, self.grid.span, self.grid.stride).tolist()
            for start in starts:
                if start > self._last:
                    yield self._window(start, min(start + self.grid.span, self.total))
        elif (start := self._last_start()) > self._last:
            yield self._window(start, self.total)

    def _next(self) -> int | None:
        """Return the first frame of the next window; None: not read yet."""
        return 0 if self._last < 0 else self._after(self._last, self.grid.stride)

    def _after(self, start: int, frames: int) -> int | None:
        """Return the frame that begins `frames` frames later than `start`; None: not read yet."""
        if self.grid.in_frames:
            return start + frames if start + frames <= self.total else None
        due = (frames - NEAR) / self.grid.fps
        since = self._at(start)
        if self._at(self.total) - since < due:
            return None
        begins = range(start + 1, self.total + 1)
        return start + 1 + bisect.bisect_left(begins, due, key=lambda at: self._at(at) - since)

    def _last_start(self) -> int:
        """Return the first frame of the window that ends with the last frame so far."""
        if self.grid.in_frames:
            return max(self._first, self.total - self.grid.span)
        begins = range(self._first, self.total)
        until, due = self._at(self.total), (self.grid.span - NEAR) / self.grid.fps
        later = bisect.bisect_right(begins, -due, key=lambda frame: self._at(frame) - until)
        return self._first + max(later - 1, 0)

    def _window(self, start: int, end: int) -> Window:
        self._last = start
        if self.grid.in_frames:
            seen = decisions.frames_of_window(self.total, start, self.grid.span)
        else:
            times = np.array([self._at(frame) for frame in range(start, end + 1)])
            seen = self.grid.seen(start, times)
        return Window(start, end, seen, self._buffer[seen.index_L - self._first])
