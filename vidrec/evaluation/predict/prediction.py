"""Hold what a model says of a clip and of windows along it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

TOP = 5


@dataclass(frozen=True, eq=False)
class Answer:
    """A model's answer.

    Attributes:
        classes: names by class number.
        scores_K: scores by which evaluation ranks the classes.
        probabilities_K: probabilities of the classes. Where scores are sums of log-probabilities
            over frames or windows, these come from the mean instead, so that a long clip is not
            surer than a short one only for its length. Where windows vote, these are shares of
            votes. A result's `loss` is the negative logarithm of that of the true class.
    """

    classes: tuple[str, ...]
    scores_K: np.ndarray
    probabilities_K: np.ndarray

    @property
    def label(self) -> str:
        """Return the name of the class."""
        return self.classes[int(self.scores_K.argmax())]

    @property
    def confidence(self) -> float:
        """Return the probability of that class."""
        return float(self.probabilities_K[int(self.scores_K.argmax())])

    @property
    def topk(self) -> list[tuple[str, float]]:
        """Return the five best classes and their probabilities."""
        best = np.argsort(-self.scores_K, kind="stable")[:TOP]
        return [(self.classes[k], float(self.probabilities_K[k])) for k in best]

    def as_dict(self) -> dict[str, Any]:
        """Return class, confidence and the best classes for JSON."""
        topk = [{"class": name, "confidence": share} for name, share in self.topk]
        return {"class": self.label, "confidence": self.confidence, "topk": topk}


@dataclass(frozen=True, eq=False)
class Window(Answer):
    """The answer for a stretch of a clip, in seconds from its first frame."""

    start: float
    end: float


@dataclass(frozen=True, eq=False)
class Prediction(Answer):
    """The answer for a whole clip, as evaluation gives it, and for windows along it.

    Attributes:
        path: the clip's path or name.
        windows: answers over time.
        frames: number of frames that were read.
        seconds: how long they last.
        notes: what is wrong with the file, a line each.
    """

    path: str
    windows: list[Window]
    frames: int
    seconds: float
    notes: list[str] = field(default_factory=list)
