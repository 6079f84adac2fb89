"""Classify frames one by one: the recurrent carry is kept, so each frame costs one step."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from vidrec.errors import UserError
from vidrec.evaluation import decisions
from vidrec.evaluation.predict import clips
from vidrec.evaluation.predict.clips import Resizer
from vidrec.evaluation.predict.network import Network

ROUNDING = 1e-6  # seconds: two times that lie no further apart are one
UNFINISHED = "the last window is not over; of a file, it is continued past the end"


def times_seen(end: float, rate: float, seen: int, most: int) -> int:
    """Return how often a frame is seen: once for each step whose middle comes before its end.

    Args:
        end: seconds at which the frame is followed by the next.
        rate: steps a second.
        seen: steps before this frame.
        most: a picture that stands still for hours is seen no more often.
    """
    times = int(np.ceil((end - ROUNDING) * rate - 0.5)) - seen
    return min(max(times, 0), most)


@dataclass
class _Window:
    """A window that is not over."""

    carry: Any
    frames: int = 0
    said: Any = None


class Stream:
    """A clip that is not complete yet.

    >>> stream = model.stream(fps=30)
    >>> for frame in camera:
    ...     probabilities_K = stream.push(frame)

    After n frames it gives the model's answer for a clip of these n frames. If a model was
    trained on frames spread over its clips, its stream takes frames at the same average rate. So
    when the stream lasts as long as a training clip, its answer equals that of `predict`. Call
    `reset` when something new begins; otherwise all frames so far count.

    Attributes:
        classes: their names, in the order of the probabilities.
        fps: frames a second that are pushed.
        rate: frames a second that the model sees, each the one on screen in the middle of its time;
            None: every frame.
        frames: pushed since the last reset.
        seen: steps of the recurrence since then.
    """

    def __init__(
        self,
        network: Network,
        classes: tuple[str, ...],
        fps: float = 25.0,
        rate: float | None = None,
        like: tuple[int, ...] | None = None,
    ):
        network.check_streams()
        self.classes, self.fps, self.rate, self._like = classes, fps, rate, like
        self._network = network
        self._resize = Resizer(network.cfg.encoder.size)
        self._variables, self._begin = network.variables, network.begin
        self._encode = network.encoder_of_streams()
        self._step = jax.jit(network.step, donate_argnums=1)
        self.reset()

    def reset(self) -> None:
        """Forget what went by."""
        self._carry: Any = None
        self._said, self._scores_K = np.zeros(0), np.zeros(0)
        self.frames = self.seen = 0
        self._seen_frames: list[int] = []  # of the frames seen, as far as prediction sees any
        self._open: list[_Window] = []
        self._last: _Window | None = None
        inference, task = self._network.cfg.eval.inference, self._network.task
        self._closed = decisions.WindowSums(len(self.classes), inference, task.log_probabilities)

    def push(self, frame: np.ndarray, end: float | None = None) -> np.ndarray:
        """Return class probabilities (K,) after one more frame.

        Args:
            frame: uint8 (H, W, 3) of any size; features (D…) where the model was trained on such.
            end: seconds from the first frame to when this one is followed by the next; None: as
                `fps` says.
        """
        self._check(frame)
        self.frames += 1
        due = self._due(self.frames / self.fps if end is None else end)
        room = self._network.cfg.frames.length + 1 - len(self._seen_frames)
        self._seen_frames += [self.frames - 1] * min(due, room)
        if due:
            inputs = self.encode(frame)
            for _ in range(due):
                self._said = np.asarray(self.step(inputs))
        elif not self.seen:
            # Before the first frame that counts: what the model says about this one alone.
            inputs = self.encode(frame)
            _, said_K = self._step(self._variables, self._begin(inputs), inputs)
            self._said = self._scores_K = np.asarray(said_K)
        return self._said

    def encode(self, frame: np.ndarray) -> jax.Array:
        """Return the recurrence's input for a frame, (1, D…)."""
        self._check(frame)
        if self._network.takes_features:
            return self._encode(self._variables, np.asarray(frame, np.float32)[None])
        return self._encode(self._variables, self._resize(frame)[None])

    def step(self, inputs: jax.Array) -> jax.Array | np.ndarray:
        """Take a step with what `encode` gave; return class probabilities (K,)."""
        if self._network.cfg.eval.inference != "single":
            return self._in_windows(inputs)
        if self._carry is None:
            self._carry = self._begin(inputs)
        self._carry, said_K = self._step(self._variables, self._carry, inputs)
        self.seen += 1
        self._scores_K = said_K
        return said_K

    @property
    def scores_K(self) -> np.ndarray:
        """Return what ranks the classes after the last frame: probabilities, or votes."""
        return np.asarray(self._scores_K)

    def _in_windows(self, inputs: jax.Array) -> np.ndarray:
        """Return the answer of all windows, the unfinished one included.

        So it is for files, where the last window is continued past the end.
        """
        settings, evidence = self._network.cfg.eval, self._network.task.evidence
        if self.seen % settings.stride == 0:
            self._open.append(_Window(self._begin(inputs)))
        for window in self._open:
            window.carry, window.said = self._step(self._variables, window.carry, inputs)
            window.frames += 1
        self.seen += 1
        self._last = self._open[0]
        if self._last.frames == settings.window:
            self._closed.add(evidence(self._open.pop(0).said))
            self._last = None
        decided = self._closed.decide(evidence(self._last.said) if self._last else None)
        self._scores_K = decided.scores_nK[0]
        return np.exp(decided.log_probs_nK[0])

    def unlike_prediction(self) -> list[str]:
        """Return why this answer differs from the prediction for the clip that was pushed."""
        cfg = self._network.cfg
        if self._network.task.framewise:
            return []  # a frame's label is its own
        length, rule = cfg.frames.length, cfg.frames.rule
        if cfg.eval.inference != "single":
            return [UNFINISHED] if self._last else []
        index_L, mask_L = decisions.frames_of_clip(cfg, max(1, self.frames))
        if self._seen_frames == index_L[mask_L].tolist():
            return []
        spread = {"uniform": "spread over it", "whole": "at its beginning"}
        where = spread.get(rule, "around its middle")
        return [f"a stream saw {self.seen} frames; of a file, {length} frames {where} decide"]

    def _due(self, end: float) -> int:
        """Return how often a frame that is shown until `end` is seen."""
        if self.rate is None:
            return 1
        return times_seen(end, self.rate, self.seen, self._network.cfg.frames.length)

    def _check(self, frame: np.ndarray) -> None:
        if self._network.takes_features:
            clips.check_features(np.shape(frame), self._like, "a frame")
            return
        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
            raise UserError(
                f"a frame should be uint8 (H, W, 3), RGB; got {frame.dtype}{list(frame.shape)}"
            )
