"""Hold the predictions for a clip and for windows along it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vidrec.evaluation import tasks
from vidrec.evaluation.task import Fitted, Task


@dataclass(frozen=True, eq=False)
class Answer:
    """A model's answer.

    Attributes:
        classes: names by class number.
        scores_K: scores by which evaluation ranks the classes.
        probabilities_K: probabilities of the classes. Where scores are sums of log-probabilities
            over frames or windows, these come from the mean instead, so that a long clip is not
            more certain than a short one merely by its length. If windows vote, these are shares
            of votes. The `loss` of a result is computed from these probabilities.
        task: the task of the answer.
        fitted: values that were fitted to validation clips, see `Task.fit`.
    """

    classes: tuple[str, ...]
    scores_K: np.ndarray
    probabilities_K: np.ndarray
    task: Task = field(default_factory=lambda: tasks.named("clip"), kw_only=True)
    fitted: Fitted = field(default_factory=dict, kw_only=True)

    @property
    def label(self) -> str:
        """Return the name of the class, or of the classes with `|` between them."""
        return self.as_dict()["class"]

    @property
    def confidence(self) -> float:
        """Return the probability of the label, as `Task.answer` defines it."""
        return self.as_dict()["confidence"]

    @property
    def topk(self) -> list[tuple[str, float]]:
        """Return the five best classes and their probabilities."""
        return [(best["class"], best["confidence"]) for best in self.as_dict()["topk"]]

    def as_dict(self) -> dict[str, Any]:
        """Return class, confidence and the best classes for JSON."""
        return self.task.answer(self.classes, self.scores_K, self.probabilities_K, self.fitted)


@dataclass(frozen=True, eq=False)
class Window(Answer):
    """The answer for a part of a clip; times are in seconds from the clip's first frame.

    Attributes:
        start: time at which the window begins.
        end: time at which the window ends.
        frames: its first frame and the frame after its last one; None if only times are known.
    """

    start: float
    end: float
    frames: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Prediction(Answer):
    """The answer for a whole clip, as evaluation gives it, and for windows along it.

    Attributes:
        path: the clip's path or name.
        windows: answers over time.
        frames: number of frames that were read.
        seconds: duration of these frames.
        notes: problems of the file, one line each.
    """

    path: str
    windows: list[Window]
    frames: int
    seconds: float
    notes: list[str] = field(default_factory=list)
