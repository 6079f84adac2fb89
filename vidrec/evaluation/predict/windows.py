"""Which stretches of a clip are scored while it goes by, holding no more than one of them."""

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vidrec.config import Config
from vidrec.evaluation import decisions
from vidrec.evaluation.decisions import SeenFrames

# Of a frame: what two times may differ by that mean the same one.
NEAR = 0.25
ROUNDING = 1e-9  # seconds


class Shown(NamedTuple):
    """A window: frames `start` … `end` of the clip, and what the model sees of them."""

    start: int
    end: int
    index_L: np.ndarray  # frames of the clip
    mask_L: np.ndarray
    inputs: np.ndarray  # (L, D…)


@dataclass(frozen=True)
class Plan:
    """Windows of `span` frames every `stride`, of each of which the model sees some.

    Attributes:
        clips: windows as clip inference takes them, counted in frames, the last of which may pass
            the clip's end; else they are counted in seconds, and the last one ends with the clip.
        fps: frames a second that `span` and `stride` count, the clip's mean.
    """

    cfg: Config
    span: int
    stride: int
    clips: bool = False
    fps: float = 1.0

    def starts(self, n: int) -> list[int]:
        """First frames of the windows of a clip of n frames at an even rate."""
        if self.clips:
            return decisions.window_starts(n, self.span, self.stride).tolist()
        last = max(0, n - self.span)
        regular = list(range(0, last + 1, self.stride))
        return regular if regular[-1] == last else [*regular, last]

    def indices(self, n: int, start: int) -> SeenFrames:
        """Return the frames that the model sees of a window of a clip of n frames."""
        if self.clips:
            return decisions.frames_of_window(n, start, self.span)
        end = min(start + self.span, n)
        return self.spread(start, np.arange(start, end + 1) / self.fps)

    def spread(self, start: int, times: np.ndarray) -> SeenFrames:
        """As `indices`, of a window from frame `start` whose frames change at these seconds.

        The model sees what a clip of the training that lasted as long would have shown: the frame
        on screen in the middle of each of its frames' times.
        """
        there, seconds = len(times) - 1, times[-1] - times[0]
        length, share = self.cfg.frames.length, seconds * self.fps / self.span
        # A window that the clip's end cut off is a shorter clip, which the rule continues.
        short = self.cfg.frames.rule != "uniform" and share < 1 - NEAR / self.span
        seen = max(1, round(length * share)) if short else length
        index_L, mask_L = decisions.frames_of_clip(self.cfg, seen)
        even = np.linspace(times[0], times[-1], there + 1)
        if np.abs(times - even).max() * self.fps <= NEAR:
            return SeenFrames(start + (2 * index_L + 1) * there // (2 * seen), mask_L)
        middles = times[0] + (index_L + 0.5) * (seconds / seen) + ROUNDING
        return SeenFrames(start + np.searchsorted(times[1:-1], middles, side="right"), mask_L)


class Slider:
    """Takes a clip's inputs in order and gives its windows, each as soon as it is complete.

    Args:
        at: seconds at which a frame that was added begins; behind the last one, when that ends.
            None: the plan's rate says.
    """

    def __init__(self, plan: Plan, at: Callable[[int], float] | None = None):
        self.plan = plan
        self.total = 0
        self._at = at or (lambda frame: frame / plan.fps)
        self._held = np.zeros(0)
        self._first = 0  # of those held
        self._last = -1

    @property
    def held(self) -> int:
        """Frames in memory."""
        return len(self._held)

    def add(self, inputs_T: np.ndarray) -> Iterator[Shown]:
        """More of the clip, (t, D…)."""
        self._held = np.concatenate([self._held, inputs_T]) if self.total else inputs_T
        self.total += len(inputs_T)
        while (start := self._next()) is not None:
            end = self._after(start, self.plan.span)
            if end is None:
                break
            yield self._window(start, end)
        # No later window reaches back further than one span.
        kept = self._last_start()
        self._held, self._first = self._held[kept - self._first :], kept

    def end(self) -> Iterator[Shown]:
        """The windows that only the clip's end completes."""
        if self.plan.clips:
            for start in self.plan.starts(self.total):
                if start > self._last:
                    yield self._window(start, min(start + self.plan.span, self.total))
        elif (start := self._last_start()) > self._last:
            yield self._window(start, self.total)

    def _next(self) -> int | None:
        """Where the next window begins; None: not yet read."""
        return 0 if self._last < 0 else self._after(self._last, self.plan.stride)

    def _after(self, start: int, frames: int) -> int | None:
        """The first frame that begins as long after another as so many last; None: not yet read."""
        if self.plan.clips:
            return start + frames if start + frames <= self.total else None
        due = (frames - NEAR) / self.plan.fps
        since = self._at(start)
        if self._at(self.total) - since < due:
            return None
        begins = range(start + 1, self.total + 1)
        return start + 1 + bisect.bisect_left(begins, due, key=lambda at: self._at(at) - since)

    def _last_start(self) -> int:
        """Where the window begins that ends with the last frame so far."""
        if self.plan.clips:
            return max(self._first, self.total - self.plan.span)
        begins = range(self._first, self.total)
        until, due = self._at(self.total), (self.plan.span - NEAR) / self.plan.fps
        found = bisect.bisect_right(begins, -due, key=lambda frame: self._at(frame) - until)
        return self._first + max(found - 1, 0)

    def _window(self, start: int, end: int) -> Shown:
        self._last = start
        if self.plan.clips:
            index_L, mask_L = self.plan.indices(self.total, start)
        else:
            times = np.array([self._at(frame) for frame in range(start, end + 1)])
            index_L, mask_L = self.plan.spread(start, times)
        return Shown(start, end, index_L, mask_L, self._held[index_L - self._first])
