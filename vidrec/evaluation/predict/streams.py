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

ROUNDING = 1e-6  # seconds: times that differ by no more than this are equal
UNFINISHED = "the last window is not over; of a file, it is continued past the end"


def times_seen(end: float, rate: float, seen: int, most: int) -> int:
    """Return how often a frame is seen: once for each step whose middle comes before its end.

    Args:
        end: time in seconds at which the next frame replaces this frame.
        rate: steps a second.
        seen: number of steps before this frame.
        most: upper limit of the result, for a frame that stays on screen for hours.
    """
    times = int(np.ceil((end - ROUNDING) * rate - 0.5)) - seen
    return min(max(times, 0), most)


@dataclass
class _Window:
    """A window that has not ended yet.

    Attributes:
        carry: the recurrent carry after its frames so far.
        frames: number of its frames so far.
        said: class probabilities (K,) after these frames.
    """

    carry: Any
    frames: int = 0
    said: Any = None


class Stream:
    """Classifies a clip whose frames arrive one by one.

    >>> stream = model.stream(fps=30)
    >>> for frame in camera:
    ...     probabilities_K = stream.push(frame)

    After n frames it gives the model's answer for a clip of these n frames. If a model was
    trained on frames spread over its clips, its stream takes frames at the same average rate. So
    when the stream lasts as long as a training clip, its answer equals that of `predict`. Call
    `reset` before a new clip; otherwise all frames since the last reset count.

    Attributes:
        classes: names of the classes, in the order of the probabilities.
        fps: frames a second that are pushed.
        rate: steps a second; each step sees the frame that is on screen at the middle of the step;
            None: every frame is seen once.
        frames: number of frames pushed since the last reset.
        seen: number of steps of the recurrence since the last reset.
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
        """Discard all frames so far, and begin a new clip."""
        self._carry: Any = None
        self._said, self._scores_K = np.zeros(0), np.zeros(0)
        self.frames = self.seen = 0
        self._seen_frames: list[int] = []  # indices of the first frames seen
        self._open: list[_Window] = []
        self._last: _Window | None = None
        inference, task = self._network.cfg.eval.inference, self._network.task
        self._closed = decisions.WindowSums(len(self.classes), inference, task.log_probabilities)

    def push(self, frame: np.ndarray, end: float | None = None) -> np.ndarray:
        """Return class probabilities (K,) after one more frame.

        Args:
            frame: uint8 (H, W, 3) of any size; features (D…) if the model was trained on features.
            end: seconds from the start of the first frame to the end of this one; None: computed
                from `fps`.
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
            # Before the first step, the answer is that for this frame alone.
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
        """Take a step with the inputs that `encode` returned; return class probabilities (K,)."""
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
        """Return the scores (K,) that rank the classes after the last frame."""
        return np.asarray(self._scores_K)

    def _in_windows(self, inputs: jax.Array) -> np.ndarray:
        """Return class probabilities (K,) by the windows so far, after one more step.

        The oldest window counts even if it is unfinished, as the last window of a file does, which
        is continued past the file's end.
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
        """Return the reasons why the answer may differ from that of `predict` for this clip."""
        cfg = self._network.cfg
        if self._network.task.framewise:
            return []  # each frame has a label of its own
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
        """Return how often the model sees a frame that is shown until `end`, in seconds."""
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
