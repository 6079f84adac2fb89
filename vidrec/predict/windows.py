"""Which stretches of a clip are scored while it goes by, holding no more than one of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from vidrec import batches, evaluate, frames
from vidrec.config import Config

_indices = jax.jit(frames.indices, static_argnames=("L", "rule", "order"))
_continued = jax.jit(frames.window_indices, static_argnames="clip")


class Shown(NamedTuple):
    """A window: frames `start` … `end` of the clip, and what the model sees of them."""

    start: int
    end: int
    inputs: np.ndarray  # (L, D…)
    mask_L: np.ndarray


@dataclass(frozen=True)
class Plan:
    """Windows of `span` frames every `stride`, of each of which the model sees some.

    Attributes:
        clips: windows as clip inference takes them, the last of which may pass the clip's end;
            else the last one ends with the clip.
        rate: frames of this clip for one of a training clip in the same time. A window lasts as
            long as what a training clip showed, and its frames are picked as far apart.
    """

    cfg: Config
    span: int
    stride: int
    clips: bool = False
    rate: float = 1.0

    def starts(self, n: int) -> list[int]:
        """First frames of the windows of a clip of n frames."""
        if self.clips:
            return evaluate.windows(n, self.span, self.stride).tolist()
        last = max(0, n - self.span)
        regular = list(range(0, last + 1, self.stride))
        return regular if regular[-1] == last else [*regular, last]

    def indices(self, n: int, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames that the model sees of a window, (L,), and which of them count, (L,) bool."""
        if self.clips:
            found = np.asarray(_continued(n, start, self.span))
            return found, np.ones(len(found), bool)
        there = min(self.span, n - start)
        if self.rate == 1:
            index_L, mask_L = whole(self.cfg, there)
            return start + index_L, mask_L
        # The window as a clip of the training would show it: the frame in the middle of each of
        # its frames' times.
        full = there == self.span
        seen = self.cfg.frames.length if full else max(1, round(there / self.rate))
        index_L, mask_L = whole(self.cfg, seen)
        return start + (2 * index_L + 1) * there // (2 * seen), mask_L


def whole(cfg: Config, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a clip of n that scoring sees in one pass, (L,), and which count, (L,) bool."""
    shuffle = batches.scoring_order() if cfg.frames.order == "shuffled" else None
    found = _indices(
        n, L=cfg.frames.length, rule=cfg.frames.rule, order=cfg.frames.order, shuffle_key=shuffle
    )
    return np.asarray(found[0]), np.asarray(found[1])


class Slider:
    """Takes a clip's inputs in order and gives its windows, each as soon as it is complete."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.total = 0
        self._held = np.zeros(0)
        self._last = -1
        self._next = 0

    @property
    def held(self) -> int:
        """Frames in memory."""
        return len(self._held)

    def add(self, inputs_T: np.ndarray) -> Iterator[Shown]:
        """More of the clip, (t, D…)."""
        self._held = np.concatenate([self._held, inputs_T]) if self.total else inputs_T
        self.total += len(inputs_T)
        while self._next + self.plan.span <= self.total:
            yield self._window(self._next)
            self._next += self.plan.stride
        # No later window reaches back further than one span.
        self._held = self._held[-self.plan.span :]

    def end(self) -> Iterator[Shown]:
        """The windows that only the clip's end completes."""
        for start in self.plan.starts(self.total):
            if start > self._last:
                yield self._window(start)

    def _window(self, start: int) -> Shown:
        self._last = start
        index_L, mask_L = self.plan.indices(self.total, start)
        first = self.total - len(self._held)
        end = min(start + self.plan.span, self.total)
        return Shown(start, end, self._held[index_L - first], mask_L)
